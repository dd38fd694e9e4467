"""The exact engine: the same bars through rows, trader, the simulator's venue and the ledger, in a throw-away database.

A backtest is only worth something if live trading does the same. Here every order is a row that the trader's own code
claims, sizes, holds, sends and settles, and fills, fees and equity are read from the ledger. docs/backtests.md says
what that proves, and what not.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg

from trader.backtest.array import check
from trader.backtest.book import flows_at
from trader.backtest.crosses import signal_of
from trader.backtest.data import Bars, Floats
from trader.backtest.exact_database import throw_away
from trader.backtest.exact_desk import ExactDesk, exact_desk
from trader.backtest.exact_result import ledger_result
from trader.backtest.exact_targets import Wanted
from trader.backtest.result import Refusal, Result
from trader.backtest.settings import UNIT, Settings
from trader.db import first_line
from trader.errors import DatabaseError, InputError
from trader.simulator.rules import VenueError
from trader.strategy import Decision, Minimums, Stake, Targets, decide


@dataclass(frozen=True)
class ExactRun:
    """What a run through the real path gave."""

    result: Result
    """Its fills, money and equity, read from the ledger."""
    performance: Any
    """The strategy's row of the view `performance`, at the last close."""
    orders: int
    """How many orders became rows."""
    seconds: float
    """From the first row to the last one read; without making and dropping the database."""


def run_targets(
    server: str, bars: Bars, targets: Floats, settings: Settings, warm_up: int = 1, *, every: bool = False
) -> ExactRun:
    """Trade `targets` as `trader.backtest.array.run` does, through the real path, in a database on `server` (a URL).

    `every`: ask at each bar what is to be done, also where that can only be nothing. Raises InputError: settings that
    live trading does not know, a target that is none, a withdrawal of more than is free. DatabaseError: no database
    can be made there, or its books are wrong in the end.
    """
    check(bars, targets)
    settings = completed(settings)
    with throw_away(server) as url:
        return asyncio.run(_run(url, bars, targets, settings, warm_up, every=every))


def completed(settings: Settings) -> Settings:
    """The settings with the steps that any venue has. InputError names what live trading cannot do."""
    if settings.fill != "next_open":
        raise InputError(f"fill is {settings.fill}: an exact backtest fills at the next open, as live trading does")
    if settings.fee_side != "get":
        raise InputError(
            f"fee_side is {settings.fee_side}: the simulator takes its fee from what a fill brings (get)"
        )
    steps = {"quantity_step": settings.quantity_step or UNIT, "price_tick": settings.price_tick or UNIT}
    return settings.model_copy(update=steps)


async def _run(
    url: str, bars: Bars, targets: Floats, settings: Settings, warm_up: int, *, every: bool
) -> ExactRun:
    async with exact_desk(url, bars, settings) as desk:
        started = time.perf_counter()
        replay = Replay(desk, bars, targets, settings, warm_up, every=every)
        await replay.go()
        result = ledger_result(
            bars, settings, await desk.fills(), await desk.posted(), replay.flows, tuple(replay.refused)
        )
        performance = await desk.performance()
        if problems := await desk.problems():
            raise DatabaseError(f"the books of the exact backtest are wrong: {'; '.join(problems)}")
        return ExactRun(result, performance, replay.orders, time.perf_counter() - started)


class Replay:
    """Goes from one bar at which something may be decided to the next, and lets the desk do it."""

    def __init__(
        self, desk: ExactDesk, bars: Bars, targets: Floats, settings: Settings, warm_up: int, *, every: bool
    ) -> None:
        self.desk = desk
        self.bars = bars
        self.settings = settings
        self.warm_up = warm_up
        self.stake = Stake(settings.stake, settings.stake_in_percent)
        rules = desk.venue.only.rules
        self.minimums = Minimums(rules.min_quantity, rules.step, settings.cost_min)
        self.wanted = Wanted(bars, targets, warm_up, self.minimums, every=every)
        self.flows: dict[int, tuple[int, float]] = {}
        """By the number of its order: the bar at whose close a deposit or withdrawal counts, and its amount."""
        self.refused: list[Refusal] = []
        self.orders = 0
        self._waiting = flows_at(bars.time, settings)[::-1]

    async def go(self) -> None:
        """To the end of the bars."""
        bar, money = 0, await self.desk.money()
        while True:
            bar = self.wanted.next(bar, money.holding)
            if self._waiting and self._waiting[-1][0] <= bar:
                await self._fund(bar)
                money = await self.desk.money()
            if bar >= len(self.bars):
                return
            money = await self._decide(bar, money)
            bar += 1

    async def _fund(self, until: int) -> None:
        while self._waiting and self._waiting[-1][0] <= until:
            bar, amount = self._waiting.pop()
            try:
                self.flows[await self.desk.flow(bar, amount)] = (bar, float(amount))
            except (VenueError, psycopg.errors.CheckViolation) as error:
                why = first_line(error)
                raise InputError(f"a withdrawal of {-amount} at {self.bars.moment(bar)}: {why}") from None

    async def _decide(self, bar: int, money: Any) -> Any:
        """What a strategy's run does at the close of a bar, and then what the trader does; what there is afterwards."""
        targets = self.wanted.at(bar)
        decision = decide(targets, money.holding, money.free, 0, self.stake, self.minimums)
        if decision.order is None:
            if self._would_enter(targets, money):
                self.refused.append(Refusal(bar, decision.reason))
            return money
        order = await self.desk.queue(bar, decision.order)
        self.orders += 1
        if problem := self._cannot_fill(bar):
            await self.desk.cancel(order)
            self.refused.append(Refusal(bar, problem))
            return money
        await self.desk.trade(self.desk.venue.open_of(bar + 1), decision.order)
        return self._noted(bar, order, await self.desk.money(order))

    def _would_enter(self, targets: Targets, money: Any) -> bool:
        """Whether it was a fresh cross, so that only the money was missing."""
        fresh = targets.now > 0 and targets.previous is not None and targets.previous <= 0
        return fresh and not self.minimums.sellable(money.holding, targets.price)

    def _cannot_fill(self, bar: int) -> str | None:
        if bar + 1 >= len(self.bars):
            return "the bars end here"
        if self.settings.gap == "skip" and self.wanted.broken(bar + 1):
            return "a gap follows"
        return None

    def _noted(self, bar: int, order: int, money: Any) -> Any:
        if not money.final:
            raise DatabaseError(f"order {order} is {money.status} after its turn: a market order has an end at once")
        if not money.filled_quantity:
            self.refused.append(Refusal(bar, money.reason or money.status))
        return money
