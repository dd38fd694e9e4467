"""At which bars something can be decided at all."""

from decimal import Decimal

import numpy as np

from trader.backtest.across import EVERY, Across
from trader.backtest.data import Bars, Floats
from trader.backtest.result import AFTER_A_GAP, FROM_THE_START
from trader.sizing import floor_to
from trader.strategy import Minimums, Targets

CHUNK = 4096
NEARLY = 1 - 1e-12
"""A float comparison that leaves nothing out: the decision itself is made in Decimal."""


class Wanted:
    """The targets, and which bars need not be looked at.

    `trader.strategy.decide` is a function of the targets of a bar and the one before, its close, and what is held and
    free. What is held and free only changes by fills, deposits and withdrawals, which are all here. So between two of
    them a bar can only lead to an order if its target is 0 or below and what is held can be sold at its close, or if it
    begins to be above 0, as a fresh cross or as one that is told as not taken; the others are left out. A test asks at
    every bar all the same and gets the same. Where a gap lies that is not decided across, no bar is looked at.
    """

    def __init__(
        self,
        bars: Bars,
        targets: Floats,
        warm_up: int,
        minimums: Minimums,
        across: Across = EVERY,
        *,
        every: bool = False,
    ) -> None:
        self._bars = bars
        self._first = warm_up - 1
        self._targets = np.array(targets, dtype=np.float64)
        self._targets[: self._first] = 0.0
        self._minimums = minimums
        self._every = every
        self._broken = np.zeros(len(bars), dtype=np.bool_)
        self._broken[across.broken] = True
        self._awake = np.ones(len(bars), dtype=np.bool_)
        self._awake[across.silent] = False
        self._awake[: self._first] = False
        self.begins = across.begins
        """Of each stretch of bars that are not decided on, the first."""
        self._inside = self._targets > 0
        self._fresh = self._inside & self._awake & ~self._broken
        self._fresh[1:] &= ~self._inside[:-1]
        self._fresh[: self._first + 1] = False
        decided = np.flatnonzero(self._awake)
        was_out = np.concatenate(([True], ~self._inside[decided[:-1]]))[: len(decided)]
        self._stale = np.zeros(len(bars), dtype=np.bool_)
        self._stale[decided] = self._inside[decided] & was_out & ~self._fresh[decided]
        self._start = int(decided[0]) if len(decided) else len(bars)
        self._begins = self._fresh | self._stale
        self._crosses = np.flatnonzero(self._begins)

    def is_fresh(self, bar: int) -> bool:
        """Whether the target rises above 0 there, from a bar right before that is known."""
        return bool(self._fresh[bar])

    def why_stale(self, bar: int) -> str | None:
        """Why a target that begins to be above 0 there is no entry; None: it does not, or it is a fresh cross."""
        if not self._stale[bar]:
            return None
        return FROM_THE_START if bar == self._start else AFTER_A_GAP

    def at(self, bar: int) -> Targets:
        """The targets of a bar, as a strategy's run has them: the one before only if no gap lies in between."""
        known = bar > self._first and not self._broken[bar]
        previous = float(self._targets[bar - 1]) if known else None
        return Targets(float(self._targets[bar]), previous, Decimal(repr(float(self._bars.close[bar]))))

    def next(self, bar: int, holding: Decimal) -> int:
        """The first bar from `bar` on at which an order may be decided; the number of bars if there is none."""
        bar = max(bar, self._first)
        if self._every:
            rest = self._awake[bar:]
            return bar + int(rest.argmax()) if rest.any() else len(self._bars)
        least = self._least_price(holding)
        if least is None:
            place = int(np.searchsorted(self._crosses, bar))
            return int(self._crosses[place]) if place < len(self._crosses) else len(self._bars)
        length = CHUNK
        while bar < len(self._bars):
            part = slice(bar, bar + length)
            found = self._begins[part] | (self._awake[part] & ~self._inside[part] & (self._bars.close[part] >= least))
            if found.any():
                return bar + int(found.argmax())
            bar, length = bar + length, 2 * length
        return len(self._bars)

    def _least_price(self, holding: Decimal) -> float | None:
        """From which close on what is held can be sold; None: at none."""
        quantity = floor_to(holding, self._minimums.quantity_step)
        if quantity <= 0 or quantity < (self._minimums.quantity_min or 0):
            return None
        return float((self._minimums.cost_min or 0) / quantity) * NEARLY
