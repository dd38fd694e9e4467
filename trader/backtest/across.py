"""What gaps do to the decisions of a run: at which bars none is made, and at which the target before is not known.

`trader.strategy.gap` has the rule; here it is asked at all bars at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trader.backtest.data import Bars, Indices, bars_from_frame
from trader.backtest.settings import Settings
from trader.errors import InputError
from trader.strategy import Missing, Schedule, Strategy, accepts, gap_policy, holes_of, inputs_of, needed, scheduled
from trader.strategy.gap import Holes, Verdict, nowhere
from trader.strategy.schedule import SPANS

if TYPE_CHECKING:
    from trader.backtest.run import Frames


@dataclass(frozen=True)
class Across:
    """Bars at which gaps matter, as their indices; empty where every gap is accepted."""

    silent: Indices = field(default_factory=nowhere)
    """Where a decision would be due, and none is made: a gap that is not accepted lies within a warm-up."""
    broken: Indices = field(default_factory=nowhere)
    """Where the target of the decision before is not known: candles are missing in between."""
    begins: Indices = field(default_factory=nowhere)
    """Of each stretch of silent bars the first."""

    def mask(self, length: int) -> NDArray[np.bool_] | None:
        """Which of so many bars are silent; None: none of them."""
        if not len(self.silent):
            return None
        silent = np.zeros(length, dtype=np.bool_)
        silent[self.silent] = True
        return silent


EVERY = Across()
"""All gaps are accepted."""


@dataclass(frozen=True)
class Watched:
    """A series of candles whose gaps matter: the strategy's own, or those of an input."""

    holes: Holes
    warm_up: int
    newest: Indices
    """Of each decision, the place of the newest candle that it sees."""

    @property
    def first(self) -> Indices:
        """Of each decision, the place of the first candle of its warm-up."""
        return self.newest + 1 - self.warm_up


def across_of(
    decided: Indices, own: Watched, inputs: Sequence[Watched] = (), late: NDArray[np.bool_] | None = None
) -> Across:
    """What the holes of a strategy's candles do to decisions at the bars `decided`.

    `late` marks those that make up for a scheduled moment whose candle is missing.
    """
    every = (own, *inputs)
    if not len(decided) or not any(len(one.holes) for one in every):
        return EVERY
    silent = np.zeros(len(decided), dtype=np.bool_)
    broken = np.zeros(len(decided), dtype=np.bool_)
    broken[1:] = own.holes.between(decided[:-1], decided[1:])
    for one in every:
        silent |= one.holes.within(one.first, one.newest)
        broken[1:] |= one.holes.hidden(one.first, one.newest)[:-1]  # at the one before, its warm-up was not there yet
    if late is not None:  # a live run that sees nothing from before does not know that a moment has passed
        silent |= late & np.isin(decided, own.holes.walls)
    begins = silent & ~np.concatenate(([False], silent[:-1]))
    return Across(decided[silent], decided[broken], decided[begins])


def across(
    strategy: Strategy[Any], frames: "Frames", bars: Bars, settings: Settings, when: Schedule, first: int
) -> Across:
    """What the gaps of its candles and of those of its inputs do to the decisions of a strategy.

    Where nobody has judged them, `settings.file_gaps` says what they are taken for; without it, that nobody traded.
    InputError: that is said of candles whose gaps were judged. SignalError: it has no policy that is one.
    """
    if frames.missing:
        check_stored(settings)
    policy = gap_policy(strategy)
    assumed: Verdict | None = None if settings.file_gaps == "unknown" else "no_trades"
    if not frames.missing and accepts(policy, assumed):
        return EVERY

    def holes(name: str, bars: Bars) -> Holes:
        known = frames.missing.get(name) or Missing({assumed: bars.time[bars.breaks - 1]})
        return holes_of(bars.time, known, policy)

    due = scheduled(bars.time, when)
    due[:first] = False
    decided = np.flatnonzero(due)
    closes, inputs = bars.time[decided], []
    for name, given in inputs_of(strategy).items():
        others = bars_from_frame(frames.inputs[name], given.timeframe or frames.timeframe)
        newest = np.searchsorted(others.time, closes, "right") - 1
        inputs.append(Watched(holes(name, others), given.warm_up, newest))
    late = None if when == "bucket" else closes % SPANS[when] != 0
    return across_of(decided, Watched(holes("", bars), needed(strategy), decided), inputs, late)


def check_stored(settings: Settings) -> None:
    """InputError if settings say what gaps are taken for, of candles whose gaps have verdicts."""
    if settings.file_gaps is not None:
        raise InputError(
            f"file_gaps is {settings.file_gaps}: it is for files; of stored candles the verdicts count "
            "(tallydesk bucket gaps shows them)"
        )
