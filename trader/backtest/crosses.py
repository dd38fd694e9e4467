"""Where targets cross 0: all that a market order needs to know of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trader.backtest.data import Bars, Floats, Indices
from trader.backtest.result import AFTER_A_GAP, FROM_THE_START, Refusal
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
    first: int
    """The first bar whose target counts."""
    stale: Indices
    """Where the target begins to be above 0 without a fresh cross: at the first bar that counts or after a gap."""


def signal_of(bars: Bars, targets: Floats, settings: Settings, warm_up: int = 1) -> Signal:
    """Where targets cross, and which crosses are fresh: the bar before must be there, and past the warm-up."""
    inside = targets > 0
    turns = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    first = 1 if inside[0] else 0
    starts, outs = turns[first::2], turns[1 - first :: 2]
    known = starts >= warm_up
    stale = np.array([warm_up - 1] if inside[warm_up - 1 : warm_up].any() else [], dtype=np.int64)
    if len(bars.breaks):
        broken = np.isin(starts, bars.breaks)
        stale = np.concatenate((stale, starts[broken & known]))
        known &= ~broken
    skip = settings.gap == "skip" and settings.fill == "next_open"
    return Signal(
        inside,
        starts[known],
        outs,
        outs[first:][known[: len(outs) - first]],
        0 if settings.fill == "close" else 1,
        frozenset(bars.breaks.tolist()) if skip else frozenset(),
        warm_up - 1,
        stale,
    )


def not_taken(signal: Signal) -> list[Refusal]:
    """Of each stretch of targets above 0 that begins without a fresh cross: where it begins, and why it is no entry."""
    return [Refusal(bar, FROM_THE_START if bar == signal.first else AFTER_A_GAP) for bar in signal.stale.tolist()]


def why_stale(before_gap: float | None) -> str | None:
    """Why a target above 0 is no entry where the one before is not known. `before_gap` is the last one that is, if any;
    None: it was above 0 already, so nothing begins here.
    """
    if before_gap is None:
        return FROM_THE_START
    return AFTER_A_GAP if before_gap <= 0 else None
