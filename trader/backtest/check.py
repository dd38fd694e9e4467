"""Proof on given candles that a strategy uses no future, and that its warm-up is enough.

Nothing is read from its code: it is computed again on other candles and must say the same. That proves something only
where it says something, so most bars that are tried are those at which its target changes (there an order is made).

**The future.** What it says where the candles end at a bar is compared with what it says where they go on: as they did,
shuffled, doubled or halved; and what it says over all candles with what it says over the first so many of them. The
candles before are the same, so any difference is the future's doing.

**The warm-up.** Some strategies carry something forward: a last vote, a level that nobody broke. No number of candles
is sure to show it, so two rules hold instead. Where a target changes, exactly `warm_up` candles must say the new one:
what makes an order must be in sight. And everywhere the candles that a live run sees, `warm_up` + EXTRA, must say at
their last two bars what all of history says, also where other candles are put before them.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trader.backtest.data import Floats, Indices
from trader.errors import InputError, TallydeskError
from trader.strategy import EXTRA, Strategy, describe, evaluate, needed

if TYPE_CHECKING:
    from pandas import DataFrame

TOLERANCE = 1e-9
"""Targets this close are equal."""
BESIDE = 64
"""How many candles of another future, or of another past, are put beside a window."""
ALTERED = ("shuffled", "doubled", "halved")
FIRST, SPREAD, ANYWHERE = 40, 100, 60
"""Bars that are tried: the first changes of the target, changes all over, and any bars."""
ROWS = 2_000_000
"""About so many candles are computed again: with a long warm-up fewer bars are tried,"""
FEWEST = 24
"""but so many at least."""
PREFIXES = 8
"""How often all candles up to a bar are computed again."""

Kind = Literal["future", "warm-up", "unsteady", "stopped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, at the earliest bar at which it was seen."""

    kind: Kind
    """future: what comes later changes it. warm-up: it needs more candles than it declares. unsteady: twice the same
    candles, two answers. stopped: it raised, or gave no signal, on a part of the candles."""
    time: datetime
    """When the bar closed, UTC."""
    index: int
    """The bar's place in the candles, from 0."""
    target: float
    """What it said first."""
    instead: float | None
    """What it said on the other candles; None: it stopped."""
    text: str
    """What was compared, and by how much it differs."""

    def __str__(self) -> str:
        return f"{self.kind} at {self.time:%Y-%m-%d %H:%M:%S}: {self.text}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found, and on how much that rests."""

    findings: tuple[Finding, ...]
    bars: int
    """Candles that were given."""
    changes: int
    """Bars at which the target changes. With none, nothing is proved."""
    tried: int
    """Bars at which it was computed again."""
    live: int
    """Of those, how many have more candles before them than a live run sees. Only there the past could be changed."""

    @property
    def proved(self) -> bool:
        """Whether nothing was found, and there was something to find it in."""
        return not self.findings and self.changes > 0 and self.live > 0

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings] or ["nothing found"]
        if any(finding.kind != "warm-up" for finding in self.findings):
            lines.append("the warm-up was not judged: mend this first")
        if not self.changes:
            lines.append("the target never changes on these candles, so nothing is proved")
        elif not self.live:
            lines.append("no bar has more candles before it than a live run sees, so the past could not be changed")
        lines.append(f"{self.tried:,} of {self.bars:,} bars tried; the target changes at {self.changes:,}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Trial:
    """Candles on which the strategy must say `targets` again."""

    kind: Kind
    frame: "DataFrame"
    targets: Floats
    index: int
    """The place of the first of `targets` in all candles,"""
    place: int
    """and in `frame`."""
    first: str
    """On which candles it said `targets`,"""
    second: str
    """and which `frame` has, in words."""


def check(strategy: Strategy[Any], candles: "DataFrame", seed: int = 0) -> Report:
    """Compute `strategy` again on parts of `candles`, and beside altered ones, and say where it differs.

    `candles` are closed ones, as `Strategy.signal` gets them. The same `seed` tries the same bars. There is one finding
    at most: the warm-up is judged only of a strategy that uses no future. Raises InputError: too few candles;
    SignalError: the strategy gives no signal on all of them. What it raises itself on all of them is passed on.
    """
    warm_up = needed(strategy)
    if len(candles) <= warm_up:
        raise InputError(
            f"{len(candles)} candles are too few to check a warm-up of {warm_up}: give at least {warm_up + 1}"
        )
    return _Check(strategy, candles, warm_up, seed).run()


class _Check:
    """One check under way."""

    def __init__(self, strategy: Strategy[Any], candles: "DataFrame", warm_up: int, seed: int) -> None:
        self.strategy, self.candles, self.warm_up = strategy, candles, warm_up
        self.window, self.rng = warm_up + EXTRA, np.random.default_rng(seed)
        self.whole = self._ask(candles)
        moved = np.abs(np.diff(self.whole)) > TOLERANCE
        # Not the first value that counts: what was before it is unknown, so it is no change.
        self.changes: Indices = np.flatnonzero(moved[warm_up - 1 :]) + warm_up
        self.bars = self._choose()

    def run(self) -> Report:
        """The searches, in the order in which a finding of one makes the next pointless."""
        searches = (self._again, self._near_future, self._far_future, self._at_changes, self._as_live)
        finding = next((found for search in searches for found in search()), None)
        live = int((self.bars >= self.window).sum())
        findings = () if finding is None else (finding,)
        return Report(findings, len(self.candles), len(self.changes), len(self.bars), live)

    def _choose(self) -> Indices:
        """The bars to try, oldest first."""
        most = min(1.0, max(FEWEST, ROWS // (6 * self.window)) / (FIRST + SPREAD + ANYWHERE))
        spread = np.linspace(0, len(self.changes) - 1, int(SPREAD * most)).round().astype(np.int64)
        chosen = self.changes[spread] if len(self.changes) else self.changes
        anywhere = self.rng.integers(self.warm_up - 1, len(self.candles), int(ANYWHERE * most))
        return np.unique(np.concatenate((self.changes[: int(FIRST * most)], chosen, anywhere)))

    # What is tried

    def _again(self) -> Iterator[Finding]:
        """The same candles once more."""
        same = "on the same candles"
        yield from self._found(_Trial("unsteady", self.candles, self.whole, 0, 0, same, f"{same} once more"))

    def _near_future(self) -> Iterator[Finding]:
        """Windows that end at a bar, and that go on after it, as it was and otherwise."""
        for number, bar in enumerate(self.bars.tolist()):
            start, end = max(0, bar + 1 - self.window), bar + 1
            before, after = self.candles.iloc[start:end], self.candles.iloc[end : end + BESIDE]
            targets = self._part(before, bar)
            if isinstance(targets, Finding):
                yield targets
                continue
            how = ALTERED[number % len(ALTERED)]
            first = f"where the candles end at {self._moment(bar)}"
            for frame, second in (
                (self.candles.iloc[start : end + BESIDE], "where they go on"),
                (_joined(before, self._altered(after, how)), f"where they go on {how}"),
            ):
                yield from self._found(_Trial("future", frame, targets, start, 0, first, second))

    def _far_future(self) -> Iterator[Finding]:
        """All candles up to a bar, and all with the rest altered."""
        passed = self.warm_up - 1  # shorter ones say nothing that counts
        for cut in self._cuts(PREFIXES):
            finding = self._judge(self._prefix(cut))
            if finding is not None:
                yield self._earliest(passed, cut, finding)
            passed = cut
        for cut, how in zip(self._cuts(len(ALTERED)), ALTERED, strict=False):  # fewer cuts where few bars are tried
            frame = _joined(self.candles.iloc[:cut], self._altered(self.candles.iloc[cut:], how))
            second = f"where those after {self._moment(cut - 1)} are {how}"
            yield from self._found(_Trial("future", frame, self.whole[:cut], 0, 0, "with all candles", second))

    def _at_changes(self) -> Iterator[Finding]:
        """Exactly the warm-up, where the target changes."""
        for bar in np.intersect1d(self.bars, self.changes).tolist():
            frame, targets = self.candles.iloc[bar + 1 - self.warm_up : bar + 1], self.whole[bar : bar + 1]
            first, second = "with all candles", f"with its warm-up of {self.warm_up:,}"
            for finding in self._found(_Trial("warm-up", frame, targets, bar, self.warm_up - 1, first, second)):
                yield self._explained(finding, self.warm_up)

    def _as_live(self) -> Iterator[Finding]:
        """What a live run sees, alone and with another past."""
        for number, bar in enumerate(self.bars[self.bars >= self.window].tolist()):
            start, how = bar + 1 - self.window, ALTERED[number % len(ALTERED)]
            live, past = self.candles.iloc[start : bar + 1], self.candles.iloc[max(0, start - BESIDE) : start]
            second = f"with the {self.window:,} that a live run sees"
            for frame, words in (
                (live, second),
                (_joined(self._altered(past, how), live), f"{second}, and others before them"),
            ):
                place, targets = len(frame) - 2, self.whole[bar - 1 : bar + 1]
                trial = _Trial("warm-up", frame, targets, bar - 1, place, "with all candles", words)
                for finding in self._found(trial):
                    yield self._explained(finding, self.window)

    # How it is judged

    def _ask(self, frame: "DataFrame") -> Floats:
        """The targets over `frame`, by an object of its own, so that nothing is remembered from other candles."""
        return evaluate(copy.deepcopy(self.strategy), frame).to_numpy()

    def _part(self, frame: "DataFrame", bar: int) -> Floats | Finding:
        """As `_ask`, of a part of the candles: a finding at `bar` if the strategy stops."""
        try:
            return self._ask(frame)
        except Exception as error:
            return self._stopped(bar, len(frame), error)

    def _stopped(self, bar: int, length: int, error: Exception) -> Finding:
        said = str(error) if isinstance(error, TallydeskError) else describe(error, type(self.strategy).__module__)
        text = f"with {length:,} candles it stopped: {said}"
        return Finding("stopped", self.candles.index[bar].to_pydatetime(), bar, float(self.whole[bar]), None, text)

    def _found(self, trial: _Trial) -> Iterator[Finding]:
        """As `_judge`, to be gone over."""
        finding = self._judge(trial)
        if finding is not None:
            yield finding

    def _judge(self, trial: _Trial) -> Finding | None:
        """The first bar of a trial at which something else is said; None: there is none."""
        said = self._part(trial.frame, trial.index + len(trial.targets) - 1)
        if isinstance(said, Finding):
            return said
        instead = said[trial.place : trial.place + len(trial.targets)]
        differing = np.flatnonzero(np.abs(instead - trial.targets) > TOLERANCE)
        return self._finding(trial, int(differing[0]), instead) if len(differing) else None

    def _finding(self, trial: _Trial, number: int, instead: Floats) -> Finding:
        bar, target, other = trial.index + number, float(trial.targets[number]), float(instead[number])
        text = f"{trial.first} it is {target:g}, {trial.second} {other:g}: a difference of {abs(target - other):g}"
        return Finding(trial.kind, self.candles.index[bar].to_pydatetime(), bar, target, other, text)

    def _prefix(self, cut: int) -> _Trial:
        second = f"where they end at {self._moment(cut - 1)}"
        return _Trial("future", self.candles.iloc[:cut], self.whole[:cut], 0, 0, "with all candles", second)

    def _earliest(self, passed: int, cut: int, finding: Finding) -> Finding:
        """Halve the way between a prefix that passed and one that did not, to come to the first bar that is wrong."""
        while cut - passed > 1:
            middle = (passed + cut) // 2
            earlier = self._judge(self._prefix(middle))
            if earlier is None:
                passed = middle
            else:
                cut, finding = middle, earlier
        return finding

    def _explained(self, finding: Finding, too_few: int) -> Finding:
        """A finding of the warm-up, with the number of candles that would do; if the future is the cause, one of it."""
        bar = finding.index
        future = self._judge(self._prefix(bar + 1))
        if future is not None:
            return future
        if finding.kind != "warm-up":
            return finding
        enough = bar + 1
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            too_few, enough = (too_few, middle) if self._agrees(bar, middle) else (middle, enough)
        return replace(finding, text=f"{finding.text}; there {enough:,} candles agree")

    def _agrees(self, bar: int, length: int) -> bool:
        """Whether the last `length` candles say at a bar what all say."""
        frame, targets = self.candles.iloc[bar + 1 - length : bar + 1], self.whole[bar : bar + 1]
        return self._judge(_Trial("warm-up", frame, targets, bar, length - 1, "", "")) is None

    # Candles

    def _cuts(self, number: int) -> list[int]:
        """Lengths of prefixes that end right after bars that are tried, spread evenly, and not with the last."""
        bars = self.bars[self.bars < len(self.candles) - 1]
        if not len(bars):
            return []
        places = np.linspace(0, len(bars) - 1, number + 2).round().astype(np.int64)[1:-1]
        return sorted({int(bar) + 1 for bar in bars[places]})

    def _altered(self, frame: "DataFrame", how: str) -> "DataFrame":
        """Other candles at the same times."""
        if how == "shuffled":
            return frame.iloc[self.rng.permutation(len(frame))].set_axis(frame.index)
        return frame * (2.0 if how == "doubled" else 0.5)

    def _moment(self, bar: int) -> str:
        return f"{self.candles.index[bar]:%Y-%m-%d %H:%M:%S}"


def _joined(before: "DataFrame", after: "DataFrame") -> "DataFrame":
    import pandas as pd  # slow to import

    return pd.concat([before, after])
