"""Where targets cross 0: all that a market order needs to know of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trader.backtest.across import EVERY, Across
from trader.backtest.data import Bars, Floats, Indices
from trader.backtest.result import AFTER_A_GAP, FROM_THE_START, UNDECIDED, Refusal
from trader.backtest.settings import Settings


@dataclass(frozen=True)
class Signal:
    """Where targets cross 0."""

    inside: NDArray[np.bool_]
    """Whether the target of a bar is above 0; of one at which nothing is decided, as at the last decision."""
    fresh: Indices
    """Bars at which it has just risen above 0, from a bar right before that is known."""
    outs: Indices
    """Bars at which it has just fallen to 0 or below."""
    runs: Indices
    """The end of each fresh run, in `outs`; one that does not end has none. Empty where some bars are silent."""
    lag: int
    """How many bars after its decision an order is filled: 1, or 0 at the close."""
    breaks: frozenset[int]
    """Bars before which no order is filled, because they come after a gap."""
    first: int
    """The first bar at which is decided; the number of bars if there is none."""
    stale: Indices
    """Where the target begins to be above 0 without a fresh cross: at the first decision, or after a gap."""
    silent: NDArray[np.bool_] | None
    """At which bars nothing is decided, for a gap; None: at none."""
    undecided: Indices
    """Of each stretch of silent bars the first."""


def signal_of(bars: Bars, targets: Floats, settings: Settings, warm_up: int = 1, across: Across = EVERY) -> Signal:
    """Where targets cross, and which crosses are fresh: the target before must be known, and past the warm-up."""
    above, silent = targets > 0, across.mask(len(bars))
    first, inside = (warm_up - 1, above) if silent is None else _held(above, silent, warm_up - 1)
    turns = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    start = 1 if inside[0] else 0
    starts, outs = turns[start::2], turns[1 - start :: 2]
    if silent is None:
        known = starts >= warm_up
        if len(across.broken):
            known &= ~np.isin(starts, across.broken)
        fresh, runs = starts[known], outs[start:][known[: len(outs) - start]]
    else:
        rises = np.flatnonzero(above[1:] & ~above[:-1] & ~silent[1:]) + 1
        fresh, runs = rises[(rises >= warm_up) & ~np.isin(rises, across.broken)], outs[:0]
        outs = outs[~silent[outs]]
    stale = np.array([first] if inside[first : first + 1].any() else [], dtype=np.int64)
    if across is not EVERY:
        began = np.concatenate((stale, starts[starts > first]))
        stale = began[~np.isin(began, fresh)]
    skip = settings.gap == "skip" and settings.fill == "next_open"
    return Signal(
        inside,
        fresh,
        outs,
        runs,
        0 if settings.fill == "close" else 1,
        frozenset(bars.breaks.tolist()) if skip else frozenset(),
        first,
        stale,
        silent,
        across.begins,
    )


def _held(above: NDArray[np.bool_], silent: NDArray[np.bool_], first: int) -> tuple[int, NDArray[np.bool_]]:
    """The first bar from `first` on at which is decided, and of each bar whether the last decision was to be in."""
    awake = ~silent
    begin = first + int(awake[first:].argmax()) if awake[first:].any() else len(above)
    inside: NDArray[np.bool_] = above[np.maximum.accumulate(np.where(awake, np.arange(len(above)), 0))]
    inside[first:begin] = False
    return begin, inside


def not_taken(signal: Signal) -> list[Refusal]:
    """Of each stretch of targets above 0 that begins without a fresh cross: where it begins, and why it is no entry."""
    return [Refusal(bar, FROM_THE_START if bar == signal.first else AFTER_A_GAP) for bar in signal.stale.tolist()]


def undecided(begins: Indices) -> list[Refusal]:
    """Of each stretch of bars at which nothing is decided: where it begins, and why."""
    return [Refusal(bar, UNDECIDED) for bar in begins.tolist()]


def why_stale(last: float | None) -> str | None:
    """Why a target above 0 without a fresh cross is no entry. `last` is that of the last decision, if there was one;
    None: it was above 0 already, so nothing begins here.
    """
    if last is None:
        return FROM_THE_START
    return AFTER_A_GAP if last <= 0 else None
