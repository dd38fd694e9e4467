"""The engine for what depends on the path: one call per bar, and orders that wait for a price.

What a bar does not tell is taken as it is worst for us. Within a bar: first what happens at its open, then buys, then
sales below the market (stops), then sales above it (targets). docs/backtests.md has each rule with its reason.
"""

from collections import namedtuple
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from trader.backtest.across import EVERY, Across
from trader.backtest.book import Book
from trader.backtest.crosses import why_stale
from trader.backtest.data import Bars, Floats
from trader.backtest.fill import Arithmetic, N, Rounded, Trade, arithmetic_of
from trader.backtest.made import Making
from trader.backtest.result import UNDECIDED, Result
from trader.backtest.settings import Settings
from trader.backtest.ticket import Context, OnBucket, Ticket
from trader.errors import InputError
from trader.exchange.protocol import Side
from trader.strategy import Made, as_target, dump_state

CHUNK = 65_536
"""Bars that are Python floats at one time: memory does not grow with the bars."""
INFINITE = float("inf")


def run_bars(
    bars: Bars,
    on_bucket: OnBucket,
    settings: Settings,
    warm_up: int = 1,
    indicators: Mapping[str, Floats] | None = None,
    decides: NDArray[np.bool_] | None = None,
    longest: int | None = None,
    across: Across = EVERY,
    *,
    asks_silent: bool = False,
) -> Result:
    """Call `on_bucket` at the close of every bar from the `warm_up`-th on, and trade what it says.

    `indicators` are columns beside the bars. With `decides`, it is called only at the bars so marked. A window has at
    most `longest` bars, the warm-up if not given. `across` says where a gap is none to decide across: it is not called
    there, unless it `asks_silent`, for a function that gives the target of a signal and does nothing else. Raises
    InputError: no bar, an order that is none, a withdrawal of more than is free; SignalError: a target that is none, a
    state that cannot be kept. What `on_bucket` raises is passed on.
    """
    if len(bars) == 0:
        raise InputError("there is no bar to trade on")
    arithmetic, columns, most = arithmetic_of(settings), indicators or {}, longest or warm_up
    engine: Engine[Any]
    if isinstance(arithmetic, Rounded):
        engine = Engine(bars, settings, arithmetic, warm_up, columns, most, across, asks_silent=asks_silent)
    else:
        engine = Engine(bars, settings, arithmetic, warm_up, columns, most, across, asks_silent=asks_silent)
    return engine.go(on_bucket, decides)


class Engine(Generic[N]):
    """One strategy on one market."""

    def __init__(
        self,
        bars: Bars,
        settings: Settings,
        arithmetic: Arithmetic[N],
        warm_up: int,
        indicators: Mapping[str, Floats] | None = None,
        longest: int | None = None,
        across: Across = EVERY,
        *,
        asks_silent: bool = False,
    ) -> None:
        self.bars = bars
        self._silent_at, self._broken_at, self._begins_at = (
            frozenset(places.tolist()) for places in (across.silent, across.broken, across.begins)
        )
        self._asks_silent = asks_silent
        self.arithmetic: Arithmetic[N] = arithmetic
        self.book: Book[N] = Book(bars, settings, arithmetic)
        self.indicators = indicators or {}
        self.context = Context(bars, self.indicators, longest or warm_up, self._made)
        self.making = Making()
        self.warm_up = warm_up
        self.at_close = settings.fill == "close"
        self.through = settings.limit_fill == "through"
        self.skips = settings.gap == "skip"
        self.broken = frozenset(bars.breaks.tolist())
        self.before: float | None = None
        """The target before; None: there was none yet, or one that is not decided across lies in between."""
        self.last: float | None = None
        """The target of the last decision; None: there was none yet."""
        self.cost = 0.0
        self.entered_inside = False
        self.below, self.above = -INFINITE, INFINITE
        """A bar that stays between them meets no order."""

    def go(self, on_bucket: OnBucket, decides: NDArray[np.bool_] | None = None) -> Result:
        """Trade to the end of the bars."""
        context, book = self.context, self.book
        gapped = self._silent_at | self._broken_at
        next_flow, first = book.next_flow, self.warm_up - 1
        row = namedtuple("Now", self.indicators)  # type: ignore[misc]  # its fields are the strategy's
        for start in range(0, len(self.bars), CHUNK):
            for index, bar in enumerate(self._chunk(start, row, decides), start):
                time, opened, high, low, close, volume, now, wanted = bar
                if low <= self.below or high >= self.above:
                    self._match(index, opened, high, low, close, volume)
                if index >= next_flow:
                    next_flow = self._flow(index, close)
                context.index, context.milliseconds = index, time
                context.open, context.high, context.low, context.close, context.volume = (
                    opened,
                    high,
                    low,
                    close,
                    volume,
                )
                if index < first or not wanted:
                    continue
                if index in gapped and self._silent(index, on_bucket):
                    continue
                context.now = now
                target = on_bucket(context)
                if target is not None:
                    self._decide(target, index, close)
                if context.changed:
                    self._placed(index, close, volume)
            dump_state(context.state)
        for ticket in context.orders:
            if ticket.alive:
                book.refuse(ticket.decided, "the bars end here")
        return book.result()

    def _chunk(self, start: int, row: Any, decides: NDArray[np.bool_] | None) -> Iterable[tuple[Any, ...]]:
        """Some of the bars as Python numbers, each with its indicators and whether it is decided on."""
        part = self.bars[start : start + CHUNK]
        columns = (part.time, part.open, part.high, part.low, part.close, part.volume)
        shown = [column[start : start + CHUNK].tolist() for column in self.indicators.values()]
        nows = map(row._make, zip(*shown, strict=True)) if shown else repeat(row())
        wanted = repeat(True) if decides is None else decides[start : start + CHUNK].tolist()
        return zip(*(column.tolist() for column in columns), nows, wanted, strict=False)  # repeat has no end

    def _flow(self, index: int, close: float) -> int:
        """Book deposits and withdrawals at a close; the bar at which the next ones count."""
        before, known = self._equity(close), len(self.book.flows)
        self.book.flow(index)
        self.making.flow(before, [amount for _, amount in self.book.flows[known:]])
        self._show()
        return self.book.next_flow

    def _equity(self, close: float) -> float:
        return self.arithmetic.number(self.book.cash) + self.arithmetic.number(self.book.holding) * close

    def _made(self) -> Made:
        return self.making.made(self._equity(self.context.close))

    # What is wanted

    def _silent(self, index: int, on_bucket: OnBucket) -> bool:
        """Whether no decision is made at a bar where a gap matters; the target before is not known, or passed over."""
        if index in self._broken_at:
            self.before = None
        if index not in self._silent_at:
            return False
        if index in self._begins_at:
            self.book.refuse(index, UNDECIDED)
        self.before = on_bucket(self.context) if self._asks_silent else None
        return True

    def _decide(self, target: float, index: int, close: float) -> None:
        """Follow a target as `trader.strategy.decide` does; one of 0 or below takes all waiting orders back."""
        if target.__class__ is not float or not -1.0 <= target <= 1.0:
            target = as_target(target, f"on_bucket at {self.bars.moment(index)}") or 0.0
        context, before, last = self.context, self.before, self.last
        self.before = self.last = target
        held = bool(self.book.holding) and close >= self.arithmetic.least_price(self.book.holding)
        if target <= 0:
            if held:
                context.cancel()
                context.sell()
            elif context.orders:
                context.cancel()
        elif not held and not self._buying():
            if before is not None and before <= 0:
                context.buy()
            elif reason := why_stale(last):
                self.book.refuse(index, reason)

    def _buying(self) -> bool:
        return any(ticket.alive and ticket.side == "buy" for ticket in self.context.orders)

    def _placed(self, index: int, close: float, volume: float) -> None:
        """Take in the orders of this close: sizes and reservations of waiting buys; at the close, fills."""
        self.context.changed = False
        for ticket in self.context.orders:
            if ticket.decided != index or not ticket.alive:
                continue
            if ticket.kind == "trail" and self._holds():
                ticket.peak = close
            elif ticket.side == "buy" and ticket.limit is not None:
                self._reserve(ticket)
            elif ticket.kind == "market" and self.at_close:
                self._execute(ticket, index, self.arithmetic.price(ticket.side, close), volume, maker=False)
        self._sweep()

    def _reserve(self, ticket: Ticket) -> None:
        """Size a buy at a limit, and keep the money for it."""
        whole = self._wanted(ticket, self._limit(ticket))
        if whole is None:
            self._end(ticket, "the order cannot be paid, or is below a minimum of the market")
            return
        ticket.left, ticket.reserved = whole.quantity, whole.spent

    def _holds(self) -> bool:
        """Whether more is held than dust."""
        return self.arithmetic.least_price(self.book.holding) != INFINITE

    def _meets(self, ticket: Ticket) -> bool:
        """Whether an order looks at the market: a sale with a price waits for more than dust, as it does live."""
        if not ticket.alive or ticket.side == "buy":
            return ticket.alive
        return bool(self.book.holding) if ticket.kind == "market" else self._holds()

    def _wanted(self, ticket: Ticket, price: N) -> Trade[N] | None:
        """All of a buy at a price, its fee that of a taker; None: it cannot be paid, or is too small."""
        free = self._free()
        if ticket.quantity is None:
            spend = self.arithmetic.stake(free)
            return self.arithmetic.buy(spend, price, None, maker=False) if spend else None
        quantity = self.arithmetic.quantity(ticket.quantity)
        trade = self.arithmetic.take(quantity, price, maker=False) if quantity else None
        return trade if trade and trade.spent <= free else None

    def _free(self) -> N:
        free = self.book.cash
        for ticket in self.context.orders:
            if ticket.alive:
                free -= ticket.reserved
        return free

    # What the market does

    def _match(self, index: int, opened: float, high: float, low: float, close: float, volume: float) -> None:
        """Let a bar meet the orders that wait."""
        self.entered_inside = False
        held_before = self._holds()
        for ticket in tuple(self.context.orders):
            if self._meets(ticket):
                self._at_open(ticket, index, opened, volume)
        for ticket in sorted(self.context.orders, key=_rank):
            if self._meets(ticket):
                self._inside(ticket, index, high, low, volume)
        for ticket in self.context.orders:
            if ticket.kind == "trail" and self._holds():
                seen = high if held_before or not self.entered_inside else close
                ticket.peak = max(ticket.peak, seen)
        self._sweep()

    def _at_open(self, ticket: Ticket, index: int, opened: float, volume: float) -> None:
        """What the first price of the bar does to an order."""
        side, price = ticket.side, self.arithmetic.price(ticket.side, opened)
        if ticket.kind == "market":
            if self.skips and index in self.broken and ticket.decided == index - 1:
                self._end(ticket, "a gap follows")
            else:
                self._execute(ticket, index, price, volume, maker=False)
        elif ticket.kind == "limit":
            limit = self._limit(ticket)
            if ticket.decided == index - 1:  # it arrives now: it takes what there is, if that is good enough
                if _reaches(side, price, limit):
                    self._execute(ticket, index, price, volume, maker=False)
            elif self._touches(side, opened, limit):  # it has waited: the venue fills it at its own price
                self._execute(ticket, index, limit, volume, maker=True)
        elif _triggers(side, opened, self._trigger(ticket)):
            self._triggered(ticket, index, price, volume)

    def _inside(self, ticket: Ticket, index: int, high: float, low: float, volume: float) -> None:
        """What happens between open and close."""
        side = ticket.side
        if ticket.kind == "limit":
            limit = self._limit(ticket)
            if self._touches(side, low if side == "buy" else high, limit) and not (
                side == "sell" and self.entered_inside
            ):
                self.entered_inside |= side == "buy"
                self._execute(ticket, index, limit, volume, maker=True)
        elif ticket.kind != "market":
            trigger = self._trigger(ticket)
            if _triggers(side, high if side == "buy" else low, trigger):
                self.entered_inside |= side == "buy"
                self._triggered(ticket, index, self.arithmetic.price(side, trigger), volume)

    def _touches(self, side: Side, at: float, limit: N) -> bool:
        """Whether a price that the market had fills a waiting order: at it, or only beyond it, as settings say."""
        level = self.arithmetic.price_number(limit)
        if self.through:
            return at < level if side == "buy" else at > level
        return at <= level if side == "buy" else at >= level

    def _trigger(self, ticket: Ticket) -> float:
        if ticket.trail is not None:
            return ticket.peak * (1 - ticket.trail)
        return float(ticket.stop or 0)

    def _triggered(self, ticket: Ticket, index: int, price: N, volume: float) -> None:
        """A stop is a market order now, one with a limit a limit order: it takes what is good enough, else it waits."""
        if ticket.kind != "stop_limit":
            self._execute(ticket, index, price, volume, maker=False)
            return
        ticket.kind = "limit"
        if _reaches(ticket.side, price, self._limit(ticket)):
            self._execute(ticket, index, price, volume, maker=False)

    def _execute(self, ticket: Ticket, index: int, price: N, volume: float, *, maker: bool) -> None:
        """Fill what the volume of the bar allows, and see to the rest."""
        most = self.arithmetic.cap(volume)
        if ticket.side == "buy":
            self._buy(ticket, index, price, most, maker=maker)
        else:
            self._sell(ticket, index, price, most, maker=maker)
        self._show()

    def _buy(self, ticket: Ticket, index: int, price: N, most: N | None, *, maker: bool) -> None:
        quantity = ticket.left
        if quantity is None:
            whole = self._wanted(ticket, price)
            if whole is None:
                self._end(ticket, "the order cannot be paid, or is below a minimum of the market")
                return
            quantity = whole.quantity
        part = quantity if most is None else self.arithmetic.part(quantity, most)
        ticket.reserved = 0
        if part:
            trade = self.arithmetic.take(part, price, maker=maker)
            self.book.bought(index, ticket.decided, price, trade, maker=maker, order=ticket.number)
            self.cost += self.arithmetic.number(trade.spent)
            for other in self.context.orders:
                other.peak = other.peak or self.arithmetic.price_number(price)
        if ticket.kind == "limit" and part < quantity:
            ticket.left = quantity - part
            ticket.reserved = self.arithmetic.take(ticket.left, self._limit(ticket), maker=False).spent
        else:
            ticket.alive = False

    def _sell(self, ticket: Ticket, index: int, price: N, most: N | None, *, maker: bool) -> None:
        held = self.book.holding
        asked: N | None = ticket.left
        if asked is None and ticket.quantity is not None:
            asked = self.arithmetic.quantity(ticket.quantity)
        wanted = held if asked is None else min(asked, held)
        whole = self.arithmetic.sell(wanted, price, None, maker=maker)
        if whole is None:
            self._end(ticket, "below a minimum of the market")
            return
        part = whole.quantity if most is None else self.arithmetic.part(whole.quantity, most)
        if part:
            trade = self.arithmetic.give(part, price, maker=maker)
            self.book.sold(index, ticket.decided, price, trade, maker=maker, order=ticket.number)
            self.cost *= 1 - self.arithmetic.number(trade.spent) / self.arithmetic.number(held)
        if part < whole.quantity and ticket.kind != "market":
            ticket.left = None if asked is None else wanted - part
            if ticket.kind != "limit":
                ticket.kind = "market"  # what a stop could not sell goes at the next open
        else:
            ticket.alive = False

    def _limit(self, ticket: Ticket) -> N:
        return self.arithmetic.level(ticket.side, float(ticket.limit or 0))

    def _end(self, ticket: Ticket, reason: str) -> None:
        ticket.alive, ticket.reserved = False, 0
        self.book.refuse(ticket.decided, reason)

    def _sweep(self) -> None:
        """Drop what is done; without anything held or to be bought, sales have nothing to wait for."""
        orders = self.context.orders
        if not self._buying() and not self._holds():
            for ticket in orders:
                ticket.alive = False
        orders[:] = [ticket for ticket in orders if ticket.alive]
        self.below, self.above = self._calm()
        self._show()

    def _calm(self) -> tuple[float, float]:
        """The prices between which no waiting order is met, and no trailing stop sees a new high."""
        below, above = -INFINITE, INFINITE
        for ticket in self.context.orders:
            if ticket.kind == "market":
                return INFINITE, -INFINITE
            if ticket.side == "sell" and not self._holds():
                continue  # it waits for a buy
            if ticket.trail is not None:
                below, above = max(below, self._trigger(ticket)), min(above, ticket.peak)
            elif ticket.kind == "limit":
                level = self.arithmetic.price_number(self._limit(ticket))
                below, above = (max(below, level), above) if ticket.side == "buy" else (below, min(above, level))
            else:
                stop = float(ticket.stop or 0)
                below, above = (below, min(above, stop)) if ticket.side == "buy" else (max(below, stop), above)
        return below, above

    def _show(self) -> None:
        """Tell the strategy what it has."""
        context, number = self.context, self.arithmetic.number
        dust = self.arithmetic.least_price(self.book.holding) == INFINITE
        context.allowance, context.quantity = number(self._free()), 0.0 if dust else number(self.book.holding)
        context.average_cost = self.cost / context.quantity if context.quantity and self.cost else None


def _rank(ticket: Ticket) -> int:
    if ticket.side == "buy":
        return 0
    return 2 if ticket.kind == "limit" else 1


def _reaches(side: Side, price: float, limit: float) -> bool:
    return price <= limit if side == "buy" else price >= limit


def _triggers(side: Side, at: float, trigger: float) -> bool:
    return at >= trigger if side == "buy" else at <= trigger
