"""Which bars a check tries."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from trader.backtest.data import Indices
from trader.backtest.view import View
from trader.strategy import Strategy, reach_of

FIRST, SPREAD, ANYWHERE = 40, 100, 60
"""Bars that are tried: the first at which it acts, such all over, and any bars."""
ROWS = 2_000_000
"""About so many candles are computed again: with a long warm-up fewer bars are tried,"""
FEWEST = 24
"""but so many at least."""
CHANGES, BETWEEN = 1_500, 500
"""Bars at which exactly the warm-up is tried, which is little work for each: those at which it acts (all, if there are
no more), and such all over at which a history begins."""


@dataclass(frozen=True)
class Choice:
    """What is checked, on what, and how much of it one run sees."""

    strategy: Strategy[Any]
    whole: View
    timeframe: str
    first: int
    """The place of the first bar that is decided on."""
    warm_ups: dict[str | None, int]
    """Of its own candles (under no name) and of each input."""
    rng: np.random.Generator

    @property
    def windows(self) -> dict[str | None, int]:
        """How many of each a live run reads."""
        reach = reach_of(self.strategy, self.timeframe)
        windows: dict[str | None, int] = {None: reach.candles}
        return windows | dict(reach.inputs.items())

    def bars(self, changes: Indices) -> Indices:
        """The bars to try, oldest first."""
        rows = sum(self.windows.values())
        most = min(1.0, max(FEWEST, ROWS // (6 * rows)) / (FIRST + SPREAD + ANYWHERE))
        spread = _spread(0, len(changes) - 1, int(SPREAD * most))
        chosen = changes[spread] if len(changes) else changes
        anywhere = self.rng.integers(self.first, len(self.whole), int(ANYWHERE * most))
        return np.unique(np.concatenate((changes[: int(FIRST * most)], chosen, anywhere)))

    def acting(self, changes: Indices) -> Indices:
        """The bars of `changes` at which exactly the warm-up is tried, oldest first."""
        most = self._share_of_short()
        spread = _spread(0, len(changes) - 1, min(len(changes), int(CHANGES * most)))
        return np.unique(np.concatenate((changes[: int(FIRST * most)], changes[spread])))

    def begun(self) -> Indices:
        """The bars at which a history ends that has exactly the warm-up, and goes on from there."""
        return np.unique(_spread(self.first, len(self.whole) - 1, int(BETWEEN * self._share_of_short())))

    def _share_of_short(self) -> float:
        return min(1.0, max(FEWEST, ROWS // sum(self.warm_ups.values())) / (CHANGES + BETWEEN))

    def cuts(self, bars: Indices, number: int) -> list[int]:
        """Lengths of prefixes that end right after bars that are tried, spread evenly, and not with the last."""
        bars = bars[bars < len(self.whole) - 1]
        if not len(bars):
            return []
        places = np.linspace(0, len(bars) - 1, number + 2).round().astype(np.int64)[1:-1]
        return sorted({int(bar) + 1 for bar in bars[places]})

    def sees_less(self, bar: int) -> bool:
        """Whether more candles lie before a bar than a live run sees."""
        return bar >= self.windows[None]

    def moment(self, bar: int) -> str:
        """When a bar closed, for people."""
        return f"{self.whole.candles.index[bar]:%Y-%m-%d %H:%M}"


def _spread(first: int, last: int, number: int) -> Indices:
    return np.linspace(first, last, number).round().astype(np.int64)
