"""The engine for what depends on the path: one call per bar, and orders that wait for a price (`bars_orders.py`)."""

from collections import namedtuple
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trader.backtest.across import EVERY, Across
from trader.backtest.bars_orders import Orders
from trader.backtest.crosses import why_stale
from trader.backtest.data import Bars, Floats
from trader.backtest.fill import Arithmetic, N, Rounded, arithmetic_of
from trader.backtest.made import Making
from trader.backtest.result import UNDECIDED, Result
from trader.backtest.settings import Settings
from trader.backtest.ticket import Context, OnBucket
from trader.errors import InputError
from trader.strategy import Made, as_target, dump_state

CHUNK = 65_536
"""Bars that are Python floats at one time: memory does not grow with the bars."""


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


class Engine(Orders[N]):
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
        self.indicators = indicators or {}
        context = Context(bars, self.indicators, longest or warm_up, self._made)
        super().__init__(bars, settings, arithmetic, context)  # type: ignore[arg-type]  # mypy loses which N it is
        self.making = Making()
        self.warm_up = warm_up
        self.at_close = settings.fill == "close"
        self.before: float | None = None
        """The target before; None: there was none yet, or one that is not decided across lies in between."""
        self.last: float | None = None
        """The target of the last decision; None: there was none yet."""

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
