"""The check of a strategy with on_bucket: its indicators are computed again, and single calls are made again."""

import copy
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from trader.backtest.across import Across
from trader.backtest.bars import run_bars
from trader.backtest.choice import Choice
from trader.backtest.data import Bars, Indices
from trader.backtest.finding import AGAIN, ENDED, ENDED_ALTERED, FEWER, WHOLE_ENDED, Finding, Kind, Report
from trader.backtest.replay import Action, Moment, difference, record, replay
from trader.backtest.run import told
from trader.backtest.settings import Settings
from trader.backtest.ticket import Context
from trader.backtest.view import ALTERED, BESIDE, View
from trader.strategy import SignalError, Strategy, as_target, indicators_of

if TYPE_CHECKING:
    from pandas import DataFrame

EXACT = 1e-9
"""Numbers of the same candles are equal if they differ by a smaller share than this,"""
CLOSE = 1e-6
"""those of more and of fewer candles by a smaller share than this: an average that goes on for ever fades, no more."""
PREFIXES = 8
"""How often the indicators of all candles up to a bar are computed again."""


class BucketsCheck:
    """One check under way."""

    def __init__(self, choice: Choice, bars: Bars, settings: Settings, across: Across) -> None:
        self.choice, self.whole = choice, choice.whole
        self.windows, self.rng = choice.windows, choice.rng
        self.all_bars, self.settings, self.across = bars, settings, across
        self.table = indicators_of(self._fresh(), self.whole.candles, self.whole.inputs)
        self.has_indicators = type(choice.strategy).indicators is not Strategy.indicators
        self.targets = np.full(len(bars), np.nan)
        """NaN: no target."""
        self.changes = self._first_run()
        self.bars = choice.bars(self.changes)
        self.short = np.union1d(choice.acting(self.changes), choice.begun())
        self.moments: dict[int, Moment] = {}

    def run(self) -> Report:
        """The searches, in the order in which a finding of one makes the next pointless."""
        searches = (self._near_future, self._far_future, self._second_run, self._as_live, self._at_short)
        finding = next((found for search in searches for found in search()), None)
        live = sum(map(self.choice.sees_less, self.bars.tolist()))
        findings = () if finding is None else (finding,)
        tried = len(np.union1d(self.bars, self.short))
        return Report(findings, len(self.whole), len(self.changes), tried, live)

    def _fresh(self) -> Strategy[Any]:
        return copy.deepcopy(self.choice.strategy)

    # All bars

    def _first_run(self) -> Indices:
        """Let it trade; the bars at which it acts: its target rises above 0 or falls back, or it gives orders."""
        acted = np.zeros(len(self.all_bars), dtype=np.bool_)

        def watched(on_bucket: Any, context: Context) -> float | None:
            given, waiting = context.given, context.orders.copy()
            target = as_target(on_bucket(context))
            acted[context.index] = context.given > given or not all(ticket.alive for ticket in waiting)
            if target is not None:
                self.targets[context.index] = target
            return target

        self._trade(watched)
        said = np.flatnonzero(~np.isnan(self.targets))
        inside = self.targets[said] > 0
        acted[said[1:][inside[1:] != inside[:-1]]] = True
        return np.flatnonzero(acted)

    def _second_run(self) -> Iterator[Finding]:
        """Let another object trade the same; it writes down the calls that are tried."""
        tried = set(np.concatenate((self.bars, self.short, self.short - 1)).tolist())
        differing: list[tuple[int, float | None, float | None]] = []

        def recorded(on_bucket: Any, context: Context) -> float | None:
            bar = context.index
            if bar in tried:
                self.moments[bar] = record(on_bucket, context)
                target = self.moments[bar].action.target
            else:
                target = on_bucket(context)
            first = None if np.isnan(self.targets[bar]) else float(self.targets[bar])
            if target != first and not differing:
                differing.append((bar, first, target))
            return target

        self._trade(recorded)
        for bar, first, target in differing:
            text = AGAIN.format(what="its target", first=_said(first), second=_said(target))
            yield Finding("unsteady", self._time(bar), bar, first, target, text)

    def _trade(self, around: Any) -> None:
        """One run over all bars; what the strategy raises becomes a SignalError."""
        fresh = self._fresh()
        table = indicators_of(fresh, self.whole.candles, self.whole.inputs)
        columns = {str(name): table[name].to_numpy() for name in table.columns}
        watched = told(lambda context: around(fresh.on_bucket, context), type(fresh).__module__)
        run_bars(
            self.all_bars,
            watched,
            self.settings,
            self.choice.first + 1,
            columns,
            longest=self.choice.warm_ups[None],
            across=self.across,
        )

    # Indicators

    def _near_future(self) -> Iterator[Finding]:
        """Windows that end at a bar, and that go on after it, as it was and otherwise."""
        for number, bar in enumerate(self.bars.tolist() if self.has_indicators else []):
            before, after = self.whole.until(bar).last(self.windows), self.whole.after(bar).first(BESIDE)
            how, ended = ALTERED[number % len(ALTERED)], self.choice.moment(bar)
            try:
                table = self._indicators(before)
                for view, words in (
                    (before.then(after), ENDED % ended),
                    (before.then(after.altered(how, self.rng)), ENDED_ALTERED % (ended, how)),
                ):
                    yield from self._compared(table, self._indicators(view), bar + 1 - len(before), words)
            except SignalError as error:
                yield self._stopped(bar, len(before), error)

    def _far_future(self) -> Iterator[Finding]:
        """All candles up to a bar."""
        cuts = self.choice.cuts(self.bars, PREFIXES) if self.has_indicators else []
        passed = self.choice.first
        for cut in cuts:
            finding = self._prefix(cut)
            if finding is not None:
                yield self._earliest(passed, cut, finding)
            passed = cut

    def _earliest(self, passed: int, cut: int, finding: Finding) -> Finding:
        while cut - passed > 1:
            middle = (passed + cut) // 2
            earlier = self._prefix(middle)
            if earlier is None:
                passed = middle
            else:
                cut, finding = middle, earlier
        return finding

    def _prefix(self, cut: int) -> Finding | None:
        """The first indicator that differs where the candles end after so many."""
        try:
            table = self._indicators(self.whole.until(cut - 1))
        except SignalError as error:
            return self._stopped(cut - 1, cut, error)
        words = WHOLE_ENDED % self.choice.moment(cut - 1)
        return next(self._compared(self.table.iloc[:cut], table, 0, words), None)

    def _indicators(self, view: View) -> "DataFrame":
        return indicators_of(self._fresh(), view.candles, view.inputs)

    def _compared(self, one: "DataFrame", other: "DataFrame", start: int, words: str) -> Iterator[Finding]:
        """The first row of `one` in which `other` has something else; `start` is where they begin."""
        if list(one.columns) != list(other.columns):
            names = (", ".join(table.columns) or "none" for table in (one, other))
            text = words.format(what="the list of its indicators", **dict(zip(("first", "second"), names, strict=True)))
            yield Finding("future", self._time(start + len(one) - 1), start + len(one) - 1, None, None, text)
            return
        same = np.isclose(other.to_numpy()[: len(one)], one.to_numpy(), rtol=EXACT, atol=1e-12, equal_nan=True)
        rows = np.flatnonzero(~same.all(axis=1))
        # What is said before the warm-up counts nowhere.
        rows = rows[rows + start >= self.choice.first]
        if len(rows):
            row, column = int(rows[0]), int((~same[rows[0]]).argmax())
            values = (one.to_numpy()[row, column], other.to_numpy()[row, column])
            text = words.format(what=one.columns[column], first=f"{values[0]:g}", second=f"{values[1]:g}")
            bar = start + row
            found = Finding("future", self._time(bar), bar, None, None, text, self._blamed(bar, column))
            yield found

    def _blamed(self, bar: int, column: int) -> str | None:
        """The input whose later candles change an indicator; None: it has none, or its own candles do."""
        if not self.whole.inputs:
            return None
        before, after = self.whole.until(bar), self.whole.after(bar)
        said = self._value(before.then(after), bar, column)
        for name in self.whole.frames:
            for how in ALTERED:
                other = self._value(before.then(after.altered(how, self.rng, only=(name,))), bar, column)
                if not np.isclose(said, other, rtol=EXACT, atol=1e-12, equal_nan=True):
                    return name
        return None

    def _value(self, view: View, bar: int, column: int) -> float:
        try:
            return float(self._indicators(view).to_numpy()[bar, column])
        except SignalError:
            return float("nan")

    # Single calls

    def _as_live(self) -> Iterator[Finding]:
        """What a live run sees, alone and with another past."""
        for number, bar in enumerate(self.bars.tolist()):
            live = self.whole.until(bar).last(self.windows)
            second = f"with the {len(live):,} that a live run sees"
            views = [(live, second)]
            if self.choice.sees_less(bar):
                past = self.whole.until(bar).before(live).altered(ALTERED[number % len(ALTERED)], self.rng)
                views.append((past.then(live), f"{second} and others before them"))
            for view, words in views:
                yield from self._again(bar, view, words, self.windows)

    def _at_short(self) -> Iterator[Finding]:
        """Exactly the warm-up: where it acts it must do the same, elsewhere it may do less, and nothing more."""
        changed = set(self.changes.tolist())
        for bar in self.short.tolist():
            view = self.whole.until(bar).last(self.choice.warm_ups)
            words = f"with its warm-up of {len(view):,}"
            yield from self._again(bar, view, words, self.choice.warm_ups, acts=bar in changed)

    def _again(
        self, bar: int, view: View, words: str, lengths: Mapping[str | None, int], *, acts: bool = True
    ) -> Iterator[Finding]:
        """Make a call again; if it does something else, find out why. One that does not act may do less, not more."""
        moment = self.moments.get(bar)
        if moment is None:
            return  # the second run went another way: that is a finding already
        try:
            said = self._replay(view, moment)
        except SignalError as error:
            yield self._unlike(bar, moment, lengths, f"{words} it stopped: {error}", None)
            return
        apart = difference(moment.action, said, CLOSE)
        if apart is not None and (acts or self._dares(bar, view, said)):
            yield self._unlike(bar, moment, lengths, (FEWER % words).format(**apart), said.target)

    def _dares(self, bar: int, view: View, said: Action) -> bool:
        """Whether a call does what was not done: it gives or takes back orders, or its target rises above 0. One that
        was above 0 from the first candle on makes no order.
        """
        done = self.moments[bar].action
        if said.orders or said.taken_back:
            return True
        if not (said.target or 0) > 0 >= (done.target or 0) or bar - 1 not in self.moments:
            return False
        before = self.whole.until(bar - 1).last({name: len(frame) for name, frame in view.frames.items()})
        try:
            return (self._replay(before, self.moments[bar - 1]).target or 0) <= 0
        except SignalError:
            return True

    def _replay(self, view: View, moment: Moment, place: int = -1) -> Action:
        return replay(self.choice.strategy, view, self.choice.timeframe, moment, place)

    def _unlike(
        self, bar: int, moment: Moment, lengths: Mapping[str | None, int], text: str, instead: float | None
    ) -> Finding:
        """A call that was otherwise, with its cause: something remembered, the future, or candles that were too few."""
        kind: Kind = "warm-up"
        name: str | None = None
        if not self._agrees(self.whole, moment, bar):
            kind = "unsteady"
            text = f"a new object with the same state does something else: {text}; keep all in context.state"
        elif not self._agrees(self.whole.until(bar), moment):
            kind = "future"
        else:
            for name, length in lengths.items():
                if not self._agrees(self.whole.until(bar).last({name: length}), moment):
                    enough = self._enough(bar, moment, name, length)
                    text += f"; {enough:,} candles" + (f" of {name}" if name else "") + " would do here"
                    break
            else:
                name = None
        return Finding(kind, self._time(bar), bar, moment.action.target, instead, text, name)

    def _agrees(self, view: View, moment: Moment, place: int = -1) -> bool:
        try:
            return difference(moment.action, self._replay(view, moment, place), CLOSE) is None
        except SignalError:
            return False

    def _enough(self, bar: int, moment: Moment, name: str | None, too_few: int) -> int:
        """How many candles of one kind do what all do."""
        view = self.whole.until(bar)
        enough = len(view.frames[name])
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            agree = self._agrees(view.last({name: middle}), moment)
            too_few, enough = (too_few, middle) if agree else (middle, enough)
        return enough

    def _stopped(self, bar: int, length: int, error: SignalError) -> Finding:
        text = f"with {length:,} candles it stopped: {error}"
        return Finding("stopped", self._time(bar), bar, None, None, text)

    def _time(self, bar: int) -> datetime:
        moment: datetime = self.whole.candles.index[bar].to_pydatetime()
        return moment


def _said(target: float | None) -> str:
    return "none" if target is None else f"{target:g}"
