"""The check of a strategy with a signal: it is computed again on other candles, and must say the same."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice

import numpy as np

from trader.backtest.choice import Choice
from trader.backtest.data import Floats, Indices
from trader.backtest.finding import (
    AGAIN,
    ENDED,
    ENDED_ALTERED,
    FEWER,
    WHOLE_ALTERED,
    WHOLE_ENDED,
    Finding,
    Kind,
    Report,
)
from trader.backtest.view import ALTERED, BESIDE, View
from trader.errors import TallydeskError
from trader.strategy import describe, evaluate, telling

TOLERANCE = 1e-9
"""Targets this close are equal."""
PREFIXES = 8
"""How often all candles up to a bar are computed again."""
OTHERS = 20
"""Bars at which it is looked how many candles would do."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """Candles on which the strategy must say `targets` again."""

    kind: Kind
    view: View
    targets: Floats
    index: int
    """The place of the first of `targets` in all candles,"""
    place: int
    """and in `view`."""
    told: str
    """A sentence about what it said first and second, as in trader.backtest.finding."""


class SignalCheck:
    """One check under way."""

    def __init__(self, choice: Choice) -> None:
        self.choice, self.whole = choice, choice.whole
        self.windows, self.rng = choice.windows, choice.rng
        with telling("signal", type(choice.strategy).__module__):
            self.targets = self._ask(choice.whole)
        moved = np.abs(np.diff(self.targets)) > TOLERANCE
        # Not the first value that counts: what was before it is unknown, so it is no change.
        self.changes: Indices = np.flatnonzero(moved[choice.first :]) + choice.first + 1
        self.bars = choice.bars(self.changes)
        self.acting, self.begun = choice.acting(self.changes), choice.begun()

    def run(self) -> Report:
        """The searches, in the order in which a finding of one makes the next pointless."""
        searches = (self._again, self._near_future, self._far_future, self._at_changes, self._as_begun, self._as_live)
        finding = next((found for search in searches for found in search()), None)
        live = sum(map(self.choice.sees_less, self.bars.tolist()))
        findings = () if finding is None else (self._blamed(finding),)
        tried = len(np.unique(np.concatenate((self.bars, self.acting, self.begun))))
        return Report(findings, len(self.whole), len(self.changes), tried, live)

    # What is tried

    def _again(self) -> Iterator[Finding]:
        """The same candles once more."""
        yield from self._found(_Trial("unsteady", self.whole, self.targets, 0, 0, AGAIN))

    def _near_future(self) -> Iterator[Finding]:
        """Windows that end at a bar, and that go on after it, as it was and otherwise."""
        for number, bar in enumerate(self.bars.tolist()):
            before, after = self.whole.until(bar).last(self.windows), self.whole.after(bar).first(BESIDE)
            targets = self._part(before, bar)
            if isinstance(targets, Finding):
                yield targets
                continue
            how, start = ALTERED[number % len(ALTERED)], bar + 1 - len(before)
            ended = self.choice.moment(bar)
            for view, words in (
                (before.then(after), ENDED % ended),
                (before.then(after.altered(how, self.rng)), ENDED_ALTERED % (ended, how)),
            ):
                yield from self._found(_Trial("future", view, targets, start, 0, words))

    def _far_future(self) -> Iterator[Finding]:
        """All candles up to a bar, and all with the rest altered."""
        passed = self.choice.first  # shorter ones say nothing that counts
        for cut in self.choice.cuts(self.bars, PREFIXES):
            finding = self._judge(self._prefix(cut))
            if finding is not None:
                yield self._earliest(passed, cut, finding)
            passed = cut
        cuts = self.choice.cuts(self.bars, len(ALTERED))
        for cut, how in zip(cuts, ALTERED, strict=False):  # fewer cuts where few bars are tried
            view = self.whole.until(cut - 1).then(self.whole.after(cut - 1).altered(how, self.rng))
            words = WHOLE_ALTERED % (self.choice.moment(cut - 1), how)
            yield from self._found(_Trial("future", view, self.targets[:cut], 0, 0, words))

    def _at_changes(self) -> Iterator[Finding]:
        """Exactly the warm-up, where the target changes."""
        short = (self._short(bar, self.choice.warm_ups) for bar in self.acting.tolist())
        findings = (finding for trial in short for finding in self._found(trial))
        for finding in findings:
            others = [other.index for other in islice(findings, OTHERS)]
            yield self._explained(finding, self.choice.warm_ups, others)

    def _as_begun(self) -> Iterator[Finding]:
        """Histories that begin with exactly the warm-up: where they come in or go out, all candles must be so, too."""
        turns = (turn for bar in self.begun.tolist() for turn in self._turns(bar))
        for finding, lengths in turns:
            others = [other.index for other, _ in islice(turns, OTHERS)]
            yield self._explained(finding, lengths, others)

    def _turns(self, bar: int) -> Iterator[tuple[Finding, dict[str | None, int]]]:
        """The first turn of a history that is wrong, and how many candles it had by then."""
        begin = self.whole.until(bar).last(self.choice.warm_ups)
        view = begin.then(self.whole.after(bar).first(BESIDE))
        said = self._part(view, bar)
        if isinstance(said, Finding):
            yield said, self.choice.warm_ups
            return
        said, whole = said[len(begin) - 1 :], self.targets[bar : bar + 1 + len(view) - len(begin)]
        inside = said > 0
        wrong = np.flatnonzero((inside[1:] != inside[:-1]) & (inside[1:] != (whole[1:] > 0))) + 1
        if len(wrong):
            more = int(wrong[0])
            lengths = {name: len(frame) for name, frame in view.until(len(begin) - 1 + more).frames.items()}
            words = FEWER % f"with {lengths[None]:,}, its warm-up of {self.choice.warm_ups[None]:,} and {more} more"
            trial = _Trial("warm-up", view, whole[more : more + 1], bar + more, 0, words)
            yield self._finding(trial, 0, said[more : more + 1]), lengths

    def _as_live(self) -> Iterator[Finding]:
        """What a live run sees, alone and with another past."""
        tried = [bar for bar in self.bars.tolist() if self.choice.sees_less(bar)]
        for number, bar in enumerate(tried):
            live = self.whole.until(bar).last(self.windows)
            past = self.whole.until(bar).before(live)
            second = f"with the {len(live):,} that a live run sees"
            for view, words in (
                (live, second),
                (
                    past.altered(ALTERED[number % len(ALTERED)], self.rng).then(live),
                    f"{second} and others before them",
                ),
            ):
                targets = self.targets[bar - 1 : bar + 1]
                trial = _Trial("warm-up", view, targets, bar - 1, len(view) - 2, FEWER % words)
                for finding in self._found(trial):
                    yield self._explained(finding, self.windows)

    # How it is judged

    def _ask(self, view: View) -> Floats:
        """The targets over a view, by an object of its own, so that nothing is remembered from other candles."""
        return evaluate(copy.deepcopy(self.choice.strategy), view.candles, view.inputs).to_numpy()

    def _part(self, view: View, bar: int) -> Floats | Finding:
        """As `_ask`, of a part of the candles: a finding at `bar` if the strategy stops."""
        try:
            return self._ask(view)
        except Exception as error:
            return self._stopped(bar, len(view), error)

    def _stopped(self, bar: int, length: int, error: Exception) -> Finding:
        module = type(self.choice.strategy).__module__
        said = str(error) if isinstance(error, TallydeskError) else describe(error, module)
        text = f"with {length:,} candles it stopped: {said}"
        return Finding("stopped", self._time(bar), bar, float(self.targets[bar]), None, text)

    def _time(self, bar: int) -> datetime:
        moment: datetime = self.whole.candles.index[bar].to_pydatetime()
        return moment

    def _found(self, trial: _Trial) -> Iterator[Finding]:
        """As `_judge`, to be gone over."""
        finding = self._judge(trial)
        if finding is not None:
            yield finding

    def _judge(self, trial: _Trial) -> Finding | None:
        """The first bar of a trial at which something else is said; None: there is none."""
        said = self._part(trial.view, trial.index + len(trial.targets) - 1)
        if isinstance(said, Finding):
            return said
        instead = said[trial.place : trial.place + len(trial.targets)]
        differing = np.flatnonzero(np.abs(instead - trial.targets) > TOLERANCE)
        return self._finding(trial, int(differing[0]), instead) if len(differing) else None

    def _finding(self, trial: _Trial, number: int, instead: Floats) -> Finding:
        bar, target, other = trial.index + number, float(trial.targets[number]), float(instead[number])
        text = trial.told.format(what="its target", first=f"{target:g}", second=f"{other:g}")
        if f"{target:g}" == f"{other:g}":
            text += f": a difference of {abs(target - other):g}"
        return Finding(trial.kind, self._time(bar), bar, target, other, text)

    def _prefix(self, cut: int) -> _Trial:
        view, words = self.whole.until(cut - 1), WHOLE_ENDED % self.choice.moment(cut - 1)
        return _Trial("future", view, self.targets[:cut], 0, 0, words)

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

    # Why it is so

    def _blamed(self, finding: Finding) -> Finding:
        """A finding of the future, with the input whose candles make the difference."""
        if finding.kind != "future" or not self.whole.inputs:
            return finding
        bar = finding.index
        before, after = self.whole.until(bar), self.whole.after(bar)
        said = self._part(before.then(after), bar)
        for name in self.whole.frames:
            for how in ALTERED:
                other = self._part(before.then(after.altered(how, self.rng, only=(name,))), bar)
                if isinstance(said, Finding) or isinstance(other, Finding):
                    continue
                if abs(said[bar] - other[bar]) > TOLERANCE:
                    return replace(finding, input=name)
        return finding

    def _short(self, bar: int, lengths: Mapping[str | None, int]) -> _Trial:
        """What it says at a bar with so many candles, and all of what is not named."""
        view, targets = self.whole.until(bar).last(lengths), self.targets[bar : bar + 1]
        second = "with its warm-up of " + " and ".join(
            f"{length:,}" if name is None else f"{length:,} of {name}" for name, length in lengths.items()
        )
        return _Trial("warm-up", view, targets, bar, len(view) - 1, FEWER % second)

    def _explained(self, finding: Finding, too_few: Mapping[str | None, int], others: Sequence[int] = ()) -> Finding:
        """A finding of the warm-up, with the number of candles that would do, at other bars that show it, too; if the
        future is the cause, one of it.
        """
        bar = finding.index
        future = self._judge(self._prefix(bar + 1))
        if future is not None:
            return future
        if finding.kind != "warm-up":
            return finding
        for name, length in too_few.items():
            alone = [at for at in (bar, *others) if self._judge(self._short(at, {name: length})) is not None]
            if bar in alone:
                enough = max(self._enough(at, name, length) for at in alone)
                what = f"{enough:,} candles" + (f" of {name}" if name else "")
                return replace(finding, text=f"{finding.text}; {what} would do", input=name)
        return finding

    def _enough(self, bar: int, name: str | None, too_few: int) -> int:
        """How many candles of one kind say at a bar what all say."""
        enough = len(self.whole.until(bar).frames[name])
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            agree = self._judge(self._short(bar, {name: middle})) is None
            too_few, enough = (too_few, middle) if agree else (middle, enough)
        return enough
