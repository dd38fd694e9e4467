"""Several markets, several strategies: each with its own money, one after the other, or all out of one purse."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Generic

import numpy as np

from trader.backtest.across import EVERY, Across
from trader.backtest.array import check, run
from trader.backtest.book import Book, flows_at
from trader.backtest.crosses import not_taken, signal_of, undecided
from trader.backtest.data import Bars, Floats
from trader.backtest.fill import Arithmetic, N, Plain, Rounded
from trader.backtest.leg import Leg
from trader.backtest.measures import Measures, hold, measure_all
from trader.backtest.result import Result
from trader.backtest.settings import Settings
from trader.backtest.walk import cannot_fill, fill
from trader.bucket.timeframe import Times
from trader.errors import InputError
from trader.exchange.protocol import Side


@dataclass(frozen=True, slots=True)
class Part:
    """One strategy on one market."""

    name: str
    bars: Bars
    targets: Floats
    settings: Settings
    """Of a part of a shared purse, `deposit` and `flows` do not count: the purse's do."""
    warm_up: int = 1
    across: Across = EVERY
    """Where a gap is none to decide across (`trader.backtest.across.across`)."""


def run_apart(parts: Iterable[Part]) -> Iterator[tuple[str, Result]]:
    """Run each part with its own money, as its result is asked for: memory holds one at a time, if the caller does."""
    for part in parts:
        yield part.name, run(part.bars, part.targets, part.settings, part.warm_up, part.across)


@dataclass(frozen=True)
class Together:
    """What parts with one purse gave."""

    names: tuple[str, ...]
    results: tuple[Result, ...]
    """Of each part. Its cash is what it took out of the purse and gave back, so its equity is what it has made."""
    since: tuple[int, ...]
    """The bar at whose close each part could decide first."""
    time: Times
    """Every moment at which a bar of any part closed."""
    cash: Floats
    equity: Floats
    flows: tuple[tuple[int, float], ...]

    def measures(self) -> Measures:
        """The measures of the whole. Buying and holding: the money in equal parts."""
        held = [hold(result, since) for result, since in zip(self.results, self.since, strict=True)]
        known = [one for one in held if one is not None]
        mean = float(np.mean(known)) if len(known) == len(held) else None
        return measure_all(self.time, self.equity, self.flows, self.results, mean)


def run_together(parts: Sequence[Part], purse: Settings) -> Together:
    """Run parts that spend from one purse, whose deposit and flows are `purse`'s.

    Orders meet the purse in the order of their fills. At one moment sales come first, then buys in the order of the
    parts. Raises InputError: no part, a name that is there twice, some parts with a quantity step and some without, or
    what `run` raises.
    """
    if not parts:
        raise InputError("there is no part to run")
    names = [part.name for part in parts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"part {', '.join(twice)} is there twice: every part needs a name of its own")
    for part in parts:
        check(part.bars, part.targets)
    settings = [part.settings.model_copy(update={"deposit": Decimal(0), "flows": ()}) for part in parts]
    if len({one.fill for one in settings}) > 1:
        raise InputError(
            "fill is next_open for some parts and close for others: it must be the same for all of a purse"
        )
    if all(one.rounded for one in settings):
        return _Shared(parts, purse, settings, [Rounded(one) for one in settings]).go()
    if any(one.rounded for one in settings):
        plain = [part.name for part in parts if not part.settings.rounded]
        raise InputError(f"part {', '.join(plain)} has no quantity_step: either all parts of a purse have one, or none")
    return _Shared(parts, purse, settings, [Plain(one) for one in settings]).go()


class _Shared(Generic[N]):
    """The loop over the orders of all parts, by the time of their fills."""

    def __init__(
        self, parts: Sequence[Part], purse: Settings, terms: Sequence[Settings], arithmetics: Sequence[Arithmetic[N]]
    ) -> None:
        self.names = tuple(part.name for part in parts)
        self.arithmetic: Arithmetic[N] = arithmetics[0]
        self.legs: list[Leg[N]] = []
        self.books: list[Book[N]] = []
        for part, settings, arithmetic in zip(parts, terms, arithmetics, strict=True):
            signal = signal_of(part.bars, part.targets, settings, part.warm_up, part.across)
            self.legs.append(Leg(part.bars, signal, arithmetic))
            self.books.append(Book(part.bars, settings, arithmetic))
        self.time = _union([part.bars.time for part in parts])
        self.waiting = flows_at(self.time, purse)[::-1]
        self.flows: list[tuple[int, float]] = []
        self.cash: N = self.books[0].cash
        self.states: list[tuple[int, N]] = []
        """The purse after each change. Twice the moment, and one more for a fill at an open: the bar that closes at the
        same moment does not know of it yet.
        """
        self.moments: list[list[int]] = [[] for _ in parts]
        """When the holding of each part changed, told in the same way."""
        self.since = tuple(part.warm_up - 1 for part in parts)
        self.due: list[tuple[int, int, int, int, Side]] = []

    def go(self) -> Together:
        """Trade to the end of all bars."""
        for number in range(len(self.legs)):
            self._look(number, 0)
        while self.due:
            at, _, number, decided, side = heapq.heappop(self.due)
            self._fund(at)
            self._trade(at, number, decided, side)
            self._look(number, decided + 1)
        self._fund(int(self.time[-1]))
        return self._together()

    def _look(self, number: int, at: int) -> None:
        """Put the next order of a part into the row."""
        leg, book = self.legs[number], self.books[number]
        found = leg.next(at, book.holding)
        while found is not None and (problem := cannot_fill(leg, found[0])):
            book.refuse(found[0], problem)
            found = leg.next(found[0] + 1, book.holding)
        if found is not None:
            decided, side = found
            heapq.heappush(self.due, (leg.moment(decided), 0 if side == "sell" else 1, number, decided, side))

    def _fund(self, until: int) -> None:
        """Book the deposits and withdrawals of the closes up to a moment."""
        while self.waiting and self.time[self.waiting[-1][0]] <= until:
            bar, amount = self.waiting.pop()
            if self.cash + self.arithmetic.amount(amount) < 0:
                free = self.arithmetic.number(self.cash)
                raise InputError(f"a withdrawal of {-amount}: only {free:.8f} is free")
            self.cash += self.arithmetic.amount(amount)
            self.flows.append((bar, float(amount)))
            self.states.append((2 * int(self.time[bar]), self.cash))

    def _trade(self, at: int, number: int, decided: int, side: Side) -> None:
        leg, book = self.legs[number], self.books[number]
        price = leg.price(side, decided)
        trade = fill(leg, side, decided, price, self.cash if side == "buy" else book.holding)
        if isinstance(trade, str):
            book.refuse(decided, trade)
            return
        bar, lag = decided + leg.signal.lag, leg.signal.lag
        if side == "buy":
            book.bought(bar, decided, price, trade)
            self.cash -= trade.spent
        else:
            book.sold(bar, decided, price, trade)
            self.cash += trade.got
        self.states.append((2 * at + lag, self.cash))
        self.moments[number].append(2 * at + lag)

    def _together(self) -> Together:
        now = 2 * self.time
        purse = np.concatenate(([0.0], self.arithmetic.numbers([cash for _, cash in self.states])))
        cash = purse[np.searchsorted(np.array([at for at, _ in self.states], dtype=np.int64), now, "right")]
        for leg, book in zip(self.legs, self.books, strict=True):
            book.not_taken(not_taken(leg.signal), undecided(leg.signal.undecided))
        results = tuple(book.result() for book in self.books)
        equity = cash.copy()
        for result, moments in zip(results, self.moments, strict=True):
            held = np.concatenate(([0.0], result.states.holding))
            close = np.concatenate(([0.0], result.bars.close))
            last = np.searchsorted(result.bars.time, self.time, "right")
            equity += held[np.searchsorted(np.array(moments, dtype=np.int64), now, "right")] * close[last]
        return Together(self.names, results, self.since, self.time, cash, equity, tuple(self.flows))


def _union(times: Sequence[Times]) -> Times:
    first = times[0]
    if all(len(one) == len(first) and bool((one == first).all()) for one in times[1:]):
        return first
    return np.unique(np.concatenate(times))
