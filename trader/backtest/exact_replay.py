"""What is decided in an exact replay: by targets as a column, or bar by bar.

Nothing here touches a database: a replay gives steps, the desk does them and answers each with the ledger's money.
"""

from abc import ABC, abstractmethod
from collections import namedtuple
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trader.backtest.across import EVERY, Across
from trader.backtest.book import flows_at
from trader.backtest.crosses import undecided, why_stale
from trader.backtest.data import Bars, Floats
from trader.backtest.exact_part import Part
from trader.backtest.exact_targets import Wanted
from trader.backtest.exact_venue import minimums_of
from trader.backtest.made import Making
from trader.backtest.result import Refusal
from trader.backtest.settings import Settings
from trader.backtest.ticket import Context, OnBucket, Ticket
from trader.errors import InputError
from trader.exchange.protocol import Side
from trader.strategy import Decision, Made, Stake, Targets, as_target, decide, dump_state


@dataclass(frozen=True, slots=True)
class Flow:
    """A deposit (+) or withdrawal (-) of quote at the close of a bar."""

    bar: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Order:
    """An order that is queued at the close of a bar; the trader has its turn at the open of the next."""

    bar: int
    side: Side
    quantity: float | None = None
    """None: the trader sizes it."""
    taken_back: bool = False
    """Canceled before its turn, because no bar can fill it."""


Step = Flow | Order
Steps = Generator[Step, Any, None]
"""Each is answered by the money of the strategy after it; for an order with its status, reason and what was filled."""


class Replay(ABC):
    """One strategy over a part of the bars."""

    def __init__(self, bars: Bars, settings: Settings, part: Part) -> None:
        self.bars = bars
        self.settings = settings
        self.part = part
        self.money: Any = None
        """What is free and held, as a strategy's run reads it: only orders and flows change it, and all are here."""
        self.refused: list[Refusal] = []
        self.stake = Stake(settings.stake, settings.stake_in_percent)
        self.minimums = minimums_of(settings)
        self._broken = frozenset(bars.breaks.tolist())
        flows = [flow for flow in flows_at(bars.time, settings) if part.first <= flow[0] < part.end]
        self._waiting = flows[::-1]

    @abstractmethod
    def go(self) -> Steps:
        """Trade to the end of the part. `money` must be known."""

    def fund(self, until: int) -> Steps:
        """The deposits and withdrawals up to the close of bar `until`."""
        while self._waiting and self._waiting[-1][0] <= until:
            self.money = yield Flow(*self._waiting.pop())

    def price_of(self, bar: int) -> Decimal:
        """The close of a bar, as a strategy's run reads it."""
        return Decimal(repr(float(self.bars.close[bar])))

    def decided(self, targets: Targets) -> Decision:
        """What a strategy's run decides now."""
        return decide(targets, self.money.holding, self.money.free, 0, self.stake, self.minimums)

    def order(self, bar: int, side: Side, quantity: float | None = None) -> Steps:
        """An order at the close of a bar."""
        problem = "the bars end here" if bar + 1 >= len(self.bars) else None
        if self.settings.gap == "skip" and bar + 1 in self._broken:
            problem = "a gap follows"
        self.money = yield Order(bar, side, quantity, taken_back=problem is not None)
        if problem or not self.money.filled_quantity:
            self.refused.append(Refusal(bar, problem or self.money.reason or self.money.status))


class Targeted(Replay):
    """Targets as a column: from one bar at which something may be decided to the next."""

    def __init__(self, bars: Bars, settings: Settings, part: Part, wanted: Wanted) -> None:
        super().__init__(bars, settings, part)
        self.wanted = wanted

    def go(self) -> Steps:
        bar = self.part.first
        while True:
            bar = min(self.wanted.next(bar, self.money.holding), self.part.end)
            yield from self.fund(bar)
            if bar >= self.part.end:
                begins = self.wanted.begins
                self.refused.extend(undecided(begins[(begins >= self.part.first) & (begins < self.part.end)]))
                return
            yield from self._at(bar)
            bar += 1

    def _at(self, bar: int) -> Steps:
        targets = self.wanted.at(bar)
        decision = self.decided(targets)
        if decision.order is not None:
            yield from self.order(bar, decision.order)
            return
        reason = decision.reason if self.wanted.is_fresh(bar) else self.wanted.why_stale(bar)
        if reason and not self.minimums.sellable(self.money.holding, targets.price):
            self.refused.append(Refusal(bar, reason))  # only the money was missing, or the cross was not fresh


class Stepped(Replay):
    """A function that is called at the close of every bar, as the bars engine calls it, with the ledger's money."""

    def __init__(
        self,
        bars: Bars,
        settings: Settings,
        part: Part,
        on_bucket: OnBucket,
        warm_up: int,
        indicators: Mapping[str, Floats],
        decides: NDArray[np.bool_] | None,
        longest: int,
        across: Across = EVERY,
        *,
        asks_silent: bool = False,
    ) -> None:
        super().__init__(bars, settings, part)
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

    def go(self) -> Steps:
        row = namedtuple("Now", self.indicators)  # type: ignore[misc]  # its fields are the strategy's
        for bar in range(self.part.first, self.part.end):
            yield from self._fund_at(bar)
            if bar < self.first or not (self.decides is None or self.decides[bar]):
                continue
            if bar in self._unknown:
                self.before = None
            self._show(bar, row(*(float(column[bar]) for column in self.indicators.values())))
            if bar in self._silent:
                self.before = self.on_bucket(self.context) if self._asks_silent else None
                continue
            yield from self._at(bar)
        dump_state(self.context.state)

    def _fund_at(self, bar: int) -> Steps:
        amounts = [float(amount) for at, amount in reversed(self._waiting) if at <= bar]
        if amounts:
            before = self._equity(bar)
            yield from self.fund(bar)
            self.making.flow(before, amounts)

    def _show(self, bar: int, now: Any) -> None:
        context, bars = self.context, self.bars
        context.index, context.milliseconds, context.now = bar, int(bars.time[bar]), now
        context.open, context.high, context.low = float(bars.open[bar]), float(bars.high[bar]), float(bars.low[bar])
        context.close, context.volume = float(bars.close[bar]), float(bars.volume[bar])
        context.allowance, context.quantity = float(self.money.free), float(self.minimums.held(self.money.holding))
        cost = self.money.average_cost if context.quantity else None
        context.average_cost = None if cost is None else float(cost)
        context.orders, context.changed = [], False

    def _at(self, bar: int) -> Steps:
        """Ask what is wanted, and order it."""
        target = as_target(self.on_bucket(self.context), f"on_bucket at {self.bars.moment(bar)}")
        tickets = [ticket for ticket in self.context.orders if ticket.alive]
        self._refuse(bar, tickets)
        side: Side | None = tickets[0].side if tickets else None
        quantity = tickets[0].quantity if tickets else None
        if target is not None:
            before, last = self.before, self.last
            self.before = self.last = target
            targets = Targets(target, before, self.price_of(bar))
            decision = self.decided(targets)
            if decision.order is not None and tickets and not (target <= 0 and side == "buy"):
                raise InputError(
                    f"orders at {self.bars.moment(bar)} and a target of {target:g}, which asks for another"
                )
            if target <= 0 or decision.order is not None:  # a target of 0 or below takes orders back
                side, quantity = decision.order, None
            elif not tickets and (reason := self._not_entered(targets, last, decision.reason)):
                self.refused.append(Refusal(bar, reason))
        if side is not None:
            yield from self.order(bar, side, quantity)

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
