"""What is decided in an exact replay, and when the trader has its turn: by targets as a column, or bar by bar."""

from abc import ABC, abstractmethod
from collections import namedtuple
from collections.abc import Mapping
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from trader.backtest.across import EVERY, Across
from trader.backtest.book import flows_at
from trader.backtest.crosses import undecided, why_stale
from trader.backtest.data import Bars, Floats
from trader.backtest.exact_desk import ExactDesk
from trader.backtest.exact_targets import Wanted
from trader.backtest.exact_venue import minimums_of
from trader.backtest.made import Making
from trader.backtest.result import Refusal
from trader.backtest.settings import Settings
from trader.backtest.ticket import Context, OnBucket, Ticket
from trader.db import first_line
from trader.errors import DatabaseError, InputError
from trader.exchange.protocol import Side
from trader.simulator.rules import VenueError
from trader.strategy import Decision, Made, Stake, Targets, as_target, decide, dump_state


class Replay(ABC):
    """One strategy over the bars: it decides, the desk does it."""

    def __init__(self, desk: ExactDesk, bars: Bars, settings: Settings) -> None:
        self.desk = desk
        self.bars = bars
        self.settings = settings
        self.money: Any = None
        """What is free and held, as a strategy's run reads it: only orders and flows change it, and all are here."""
        self.flows: dict[int, tuple[int, float]] = {}
        """By the number of its order: the bar at whose close a deposit or withdrawal counts, and its amount."""
        self.refused: list[Refusal] = []
        self.orders = 0
        self._asks = False
        self.stake = Stake(settings.stake, settings.stake_in_percent)
        self.minimums = minimums_of(settings)
        self._broken = frozenset(bars.breaks.tolist())
        self._waiting = flows_at(bars.time, settings)[::-1]

    @abstractmethod
    async def go(self) -> None:
        """Trade to the end of the bars."""

    async def fund(self, until: int) -> None:
        """Book the deposits and withdrawals up to the close of bar `until`."""
        while self._waiting and self._waiting[-1][0] <= until:
            bar, amount = self._waiting.pop()
            try:
                self.flows[await self.desk.flow(bar, amount)] = (bar, float(amount))
            except (VenueError, psycopg.errors.CheckViolation) as error:
                why = first_line(error)
                raise InputError(f"a withdrawal of {-amount} at {self.bars.moment(bar)}: {why}") from None
            self.money = await self.desk.money()

    def decided(self, targets: Targets) -> Decision:
        """What a strategy's run decides now."""
        return decide(targets, self.money.holding, self.money.free, 0, self.stake, self.minimums)

    async def order(self, bar: int, side: Side, quantity: float | None = None) -> int | None:
        """Queue an order at the close of a bar; its number. None: it was taken back, because no bar can fill it."""
        order = await self.desk.queue(bar, side, quantity)
        self.orders += 1
        self._asks = side == "sell" or quantity is not None
        problem = "the bars end here" if bar + 1 >= len(self.bars) else None
        if self.settings.gap == "skip" and bar + 1 in self._broken:
            problem = "a gap follows"
        if problem:
            await self.desk.cancel(order)
            self.refused.append(Refusal(bar, problem))
            return None
        return order

    async def turn(self, bar: int, order: int) -> None:
        """Let the trader have its turn at the open of a bar, with the order of the bar before."""
        await self.desk.trade(self.desk.venue.open_of(bar), asks=self._asks)
        self.money = await self.desk.money(order)
        if not self.money.final:
            status = self.money.status
            raise DatabaseError(f"order {order} is {status} after its turn: a market order has an end at once")
        if not self.money.filled_quantity:
            self.refused.append(Refusal(bar - 1, self.money.reason or self.money.status))


class Targeted(Replay):
    """Targets as a column: from one bar at which something may be decided to the next."""

    def __init__(self, desk: ExactDesk, bars: Bars, settings: Settings, wanted: Wanted) -> None:
        super().__init__(desk, bars, settings)
        self.wanted = wanted

    async def go(self) -> None:
        bar, self.money = 0, await self.desk.money()
        while True:
            bar = self.wanted.next(bar, self.money.holding)
            await self.fund(bar)
            if bar >= len(self.bars):
                self.refused.extend(undecided(self.wanted.begins))
                return
            await self._at(bar)
            bar += 1

    async def _at(self, bar: int) -> None:
        targets = self.wanted.at(bar)
        decision = self.decided(targets)
        if decision.order is None:
            reason = decision.reason if self.wanted.is_fresh(bar) else self.wanted.why_stale(bar)
            if reason and not self.minimums.sellable(self.money.holding, targets.price):
                self.refused.append(Refusal(bar, reason))  # only the money was missing, or the cross was not fresh
            return
        order = await self.order(bar, decision.order)
        if order is not None:
            await self.turn(bar + 1, order)


class Stepped(Replay):
    """A function that is called at the close of every bar, as the bars engine calls it, with the ledger's money."""

    def __init__(
        self,
        desk: ExactDesk,
        bars: Bars,
        settings: Settings,
        on_bucket: OnBucket,
        warm_up: int,
        indicators: Mapping[str, Floats],
        decides: NDArray[np.bool_] | None,
        longest: int,
        across: Across = EVERY,
        *,
        asks_silent: bool = False,
    ) -> None:
        super().__init__(desk, bars, settings)
        self._silent, self._unknown = frozenset(across.silent.tolist()), frozenset(across.broken.tolist())
        self._asks_silent = asks_silent
        """Whether it is asked where nothing is decided: for the target before, if asking does nothing else."""
        self.refused.extend(undecided(across.begins))
        self.on_bucket = on_bucket
        self.first = warm_up - 1
        self.indicators = indicators
        self.decides = decides
        self.context = Context(bars, indicators, longest, self._made)
        self.making = Making()
        self.before: float | None = None
        self.last: float | None = None
        """The target of the last decision."""

    async def go(self) -> None:
        row = namedtuple("Now", self.indicators)  # type: ignore[misc]  # its fields are the strategy's
        given: int | None = None
        self.money = await self.desk.money()
        for bar in range(len(self.bars)):
            if given is not None:
                await self.turn(bar, given)
                given = None
            await self._fund_at(bar)
            if bar < self.first or not (self.decides is None or self.decides[bar]):
                continue
            if bar in self._unknown:
                self.before = None
            self._show(bar, row(*(float(column[bar]) for column in self.indicators.values())))
            if bar in self._silent:
                self.before = self.on_bucket(self.context) if self._asks_silent else None
                continue
            given = await self._at(bar)
        dump_state(self.context.state)

    async def _fund_at(self, bar: int) -> None:
        if self._waiting and self._waiting[-1][0] <= bar:
            before, known = self._equity(bar), len(self.flows)
            await self.fund(bar)
            self.making.flow(before, [amount for _, amount in list(self.flows.values())[known:]])

    def _show(self, bar: int, now: Any) -> None:
        context, bars = self.context, self.bars
        context.index, context.milliseconds, context.now = bar, int(bars.time[bar]), now
        context.open, context.high, context.low = float(bars.open[bar]), float(bars.high[bar]), float(bars.low[bar])
        context.close, context.volume = float(bars.close[bar]), float(bars.volume[bar])
        context.allowance, context.quantity = float(self.money.free), float(self.minimums.held(self.money.holding))
        cost = self.money.average_cost if context.quantity else None
        context.average_cost = None if cost is None else float(cost)
        context.orders, context.changed = [], False

    async def _at(self, bar: int) -> int | None:
        """Ask what is wanted, and queue it; the order's number."""
        target = as_target(self.on_bucket(self.context), f"on_bucket at {self.bars.moment(bar)}")
        tickets = [ticket for ticket in self.context.orders if ticket.alive]
        self._refuse(bar, tickets)
        side: Side | None = tickets[0].side if tickets else None
        quantity = tickets[0].quantity if tickets else None
        if target is not None:
            before, last = self.before, self.last
            self.before = self.last = target
            targets = Targets(target, before, self.desk.price_of(bar))
            decision = self.decided(targets)
            if decision.order is not None and tickets and not (target <= 0 and side == "buy"):
                raise InputError(
                    f"orders at {self.bars.moment(bar)} and a target of {target:g}, which asks for another"
                )
            if target <= 0 or decision.order is not None:  # a target of 0 or below takes orders back
                side, quantity = decision.order, None
            elif not tickets and (reason := self._not_entered(targets, last, decision.reason)):
                self.refused.append(Refusal(bar, reason))
        return None if side is None else await self.order(bar, side, quantity)

    def _not_entered(self, targets: Targets, last: float | None, missing: str) -> str | None:
        """Why an entry was wanted and not taken: for a fresh cross what was `missing`; None: none was wanted."""
        if targets.now <= 0 or self.minimums.sellable(self.money.holding, targets.price):
            return None
        fresh = targets.previous is not None and targets.previous <= 0
        return missing if fresh else why_stale(last)

    def _refuse(self, bar: int, tickets: list[Ticket]) -> None:
        """InputError: what is given cannot be replayed exactly."""
        when = self.bars.moment(bar)
        for ticket in tickets:
            if ticket.kind != "market":
                raise InputError(
                    f"a {ticket.kind.replace('_', ' ')} order at {when}: an exact backtest knows targets and market "
                    "orders only, because a bar does not say when within it a price was met"
                )
        if len(tickets) > 1:
            raise InputError(f"{len(tickets)} orders at {when}: a candle has one order in an exact backtest")

    def _equity(self, bar: int) -> float:
        return float(self.money.free) + float(self.money.holding) * float(self.bars.close[bar])

    def _made(self) -> Made:
        return self.making.made(self._equity(self.context.index))
