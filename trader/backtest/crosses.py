"""Where targets cross 0: all that a market order needs to know of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trader.backtest.data import Bars, Floats, Indices
from trader.backtest.settings import Settings


@dataclass(frozen=True)
class Signal:
    """Where targets cross 0."""

    inside: NDArray[np.bool_]
    """Whether the target of a bar is above 0."""
    fresh: Indices
    """Bars at which it has just risen above 0, from a bar right before that is known."""
    outs: Indices
    """Bars at which it has just fallen to 0 or below."""
    runs: Indices
    """The end of each fresh run, in `outs`; one that does not end has none."""
    lag: int
    """How many bars after its decision an order is filled: 1, or 0 at the close."""
    breaks: frozenset[int]
    """Bars before which no order is filled, because they come after a gap."""


def signal_of(bars: Bars, targets: Floats, settings: Settings, warm_up: int = 1) -> Signal:
    """Where targets cross, and which crosses are fresh: the bar before must be there, and past the warm-up."""
    inside = targets > 0
    turns = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    first = 1 if inside[0] else 0
    starts, outs = turns[first::2], turns[1 - first :: 2]
    known = starts >= warm_up
    if len(bars.breaks):
        known &= ~np.isin(starts, bars.breaks)
    skip = settings.gap == "skip" and settings.fill == "next_open"
    return Signal(
        inside,
        starts[known],
        outs,
        outs[first:][known[: len(outs) - first]],
        0 if settings.fill == "close" else 1,
        frozenset(bars.breaks.tolist()) if skip else frozenset(),
    )
