"""One strategy on one market, as an event loop sees it: at which bar it decides something next, and what."""

from bisect import bisect_left
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from trader.backtest.crosses import Signal
from trader.backtest.data import Bars, Indices
from trader.backtest.fill import Arithmetic, N
from trader.exchange.protocol import Side

CHUNK = 4096
"""Bars that a search looks at first; each further look is twice as long."""
INFINITE = float("inf")


class Leg(Generic[N]):
    """Follows `trader.strategy.decide` over all bars, without looking at the ones at which nothing can happen."""

    def __init__(self, bars: Bars, signal: Signal, arithmetic: Arithmetic[N]) -> None:
        self.bars = bars
        self.length = len(bars)
        self.signal = signal
        self.arithmetic: Arithmetic[N] = arithmetic
        self.capped = arithmetic.cap(0.0) is not None
        """Whether the volume of a bar limits what is filled."""
        self._base = bars.close if signal.lag == 0 else bars.open
        self._fresh: list[int] = signal.fresh.tolist()
        self._outs: list[int] = signal.outs.tolist()
        self._fresh_prices: dict[int, N] = self._prices("buy", signal.fresh)
        self._out_prices: dict[int, N] = self._prices("sell", signal.outs)
        self._next_fresh = self._next_out = 0
        self._awake: list[int] | None = None if signal.silent is None else np.flatnonzero(~signal.silent).tolist()
        """The bars at which is decided; None: all."""

    def _prices(self, side: Side, decided: Indices) -> dict[int, N]:
        """By the bar of the decision, for all that are usual: one by one would take longer than the rest together."""
        there = decided[decided + self.signal.lag < len(self.bars)]
        return dict(zip(there.tolist(), self.arithmetic.prices(side, self._base[there + self.signal.lag]), strict=True))

    def price(self, side: Side, decided: int) -> N:
        """What an order decided at that bar pays or gets."""
        known = (self._fresh_prices if side == "buy" else self._out_prices).get(decided)
        if known is not None:
            return known
        return self.arithmetic.price(side, float(self._base[decided + self.signal.lag]))

    def moment(self, decided: int) -> int:
        """When an order decided at that bar is filled, in milliseconds."""
        bars, bar = self.bars, decided + self.signal.lag
        return int(bars.time[bar] if not self.signal.lag else bars.timeframe.opens(bars.time[bar : bar + 1])[0])

    def next(self, at: int, holding: N) -> tuple[int, Side] | None:
        """The first bar from `at` on whose close decides on an order, and its side. `at` never goes back."""
        least = self.arithmetic.least_price(holding) if holding else INFINITE
        if least == INFINITE:
            return self._next_entry(at)
        if not least:
            out = self._next_exit(at)
            return None if out is None else (out, "sell")
        return self._search(at, least)

    def _next_entry(self, at: int) -> tuple[int, Side] | None:
        fresh, index = self._fresh, self._next_fresh
        while index < len(fresh) and fresh[index] < at:
            index += 1
        self._next_fresh = index
        return (fresh[index], "buy") if index < len(fresh) else None

    def _next_exit(self, at: int) -> int | None:
        """The first bar from `at` on at which is decided, and whose target is 0 or below."""
        if self._awake is not None:
            place = bisect_left(self._awake, at)
            at = self._awake[place] if place < len(self._awake) else self.length
        if at >= self.length:
            return None
        if not self.signal.inside[at]:
            return at
        outs, index = self._outs, self._next_out
        while index < len(outs) and outs[index] < at:
            index += 1
        self._next_out = index
        return outs[index] if index < len(outs) else None

    def _search(self, at: int, least: float) -> tuple[int, Side] | None:
        """The same where a holding can only be sold from a price on: below it, it counts as nothing."""
        out = self._next_exit(at)
        usual = out is not None and self.bars.close[out] >= least
        rises = self._awake is not None and self._rises(at + 1, out)  # within a run, where some bars are silent
        if usual and not rises and (self.bars.close[at] >= least or not self._is_fresh(at)):
            return (out, "sell") if out is not None else None
        length = CHUNK
        while at < len(self.bars):
            until = min(at + length, len(self.bars))
            inside, worth = self.signal.inside[at:until], self.bars.close[at:until] >= least
            found = (worth & ~inside) | (~worth & self._fresh_in(at, until))
            if self.signal.silent is not None:
                found &= ~self.signal.silent[at:until]
            if found.any():
                bar = at + int(found.argmax())
                return bar, "buy" if self.signal.inside[bar] else "sell"
            at, length = until, length * 2
        return None

    def _is_fresh(self, bar: int) -> bool:
        index = bisect_left(self._fresh, bar)
        return index < len(self._fresh) and self._fresh[index] == bar

    def _rises(self, start: int, end: int | None) -> bool:
        """Whether there is a fresh cross from `start` on, before `end`."""
        index = bisect_left(self._fresh, start)
        return index < len(self._fresh) and (end is None or self._fresh[index] < end)

    def _fresh_in(self, start: int, end: int) -> NDArray[np.bool_]:
        mask = np.zeros(end - start, dtype=np.bool_)
        mask[[bar - start for bar in self._fresh[bisect_left(self._fresh, start) : bisect_left(self._fresh, end)]]] = 1
        return mask
