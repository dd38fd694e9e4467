"""The check of look-ahead and warm-up: it catches wrong strategies, and passes the shipped ones on real candles."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs.strategy import EXTRA as READ_LIVE
from strategies.momentum import Momentum
from strategies.moving_average import MovingAverage
from strategies.sma_cross import SmaCross, SmaCrossParams
from strategies.support_resistance import SupportResistance
from tests.unit.test_backtest_shipped import FILES, SHARED, frame_of
from trader.backtest.check import Finding, check
from trader.errors import InputError
from trader.strategy import EXTRA, SignalError, Strategy, evaluate

CROSS = SmaCrossParams(price="close", fast=3, slow=20)


def walk(length: int = 3_000, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(rng.normal(0, 0.003, length).cumsum())
    start = np.concatenate(([100.0], close[:-1]))
    index = pd.date_range("2024-01-01", periods=length, freq="1h", tz="UTC", name="time_close")
    columns = {"open": start, "high": np.maximum(start, close), "low": np.minimum(start, close), "close": close}
    return pd.DataFrame({**columns, "volume": rng.exponential(10, length)}, index=index)


def wrong(strategy: Strategy[Any], candles: pd.DataFrame | None = None) -> Finding:
    """The one finding."""
    report = check(strategy, walk() if candles is None else candles)
    [finding] = report.findings
    assert not report.proved
    assert str(finding) in str(report)
    return finding


class Simple(Strategy):  # type: ignore[type-arg]
    """The body of the wrong ones below."""

    warm_up = 1  # type: ignore[assignment]

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        return self.inside(candles["close"]).astype("float64")

    def inside(self, close: pd.Series) -> pd.Series:
        raise NotImplementedError


# The future


class Peeking(SmaCross):
    """It knows the next close."""

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        return super().signal(candles.assign(close=candles["close"].shift(-1).ffill()))


class PeekingLater(Peeking):
    """The same, but honest for two weeks."""

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        honest = SmaCross(self.params).signal(candles)
        return honest.where(candles.index < pd.Timestamp("2024-01-15", tz="UTC"), super().signal(candles))


@pytest.mark.parametrize("strategy", [Peeking(CROSS), PeekingLater(CROSS)])
def test_one_that_peeks_one_bar_ahead_is_caught_at_the_first_bar_where_it_shows(strategy: SmaCross) -> None:
    candles = walk(20_000)
    whole = evaluate(strategy, candles)
    ends = range(CROSS.slow, len(candles))
    first = next(n - 1 for n in ends if evaluate(strategy, candles.iloc[:n]).iloc[-1] != whole.iloc[n - 1])
    finding = wrong(strategy, candles)
    assert (finding.kind, finding.index, finding.time) == ("future", first, candles.index[first])
    assert {finding.target, finding.instead} == {0.0, 1.0}
    start = f"future at {candles.index[first]:%Y-%m-%d %H:%M}: its target was {finding.target:g} while candles up to "
    assert str(finding).startswith(start)
    assert f" were there, and became {finding.instead:g} once later ones were" in str(finding)


def test_the_same_that_does_not_peek_passes() -> None:
    report = check(SmaCross(CROSS), walk())
    assert report.proved, report
    assert "nothing found" in str(report)


class Normalising(Simple):
    def inside(self, close: pd.Series) -> pd.Series:
        return (close - close.mean()) / close.std() > 0.5


class NormalisingSize(Simple):
    """Every bar has another target: all that differs is how much."""

    def inside(self, close: pd.Series) -> pd.Series:
        return close / close.max()


@pytest.mark.parametrize("strategy", [Normalising(), NormalisingSize()], ids=lambda strategy: type(strategy).__name__)
def test_one_that_normalises_over_the_whole_series_is_caught(strategy: Strategy[Any]) -> None:
    finding = wrong(strategy)
    assert finding.kind == "future"
    assert finding.index < 300
    assert finding.instead is not None
    assert abs(finding.target - finding.instead) > 1e-9


class FarSighted(Simple):
    """It knows whether the close 1,200 bars later is higher: further than a window goes with what is put beside it."""

    def inside(self, close: pd.Series) -> pd.Series:
        return close.shift(-1_200) > close


def test_one_that_sees_far_ahead_is_caught_at_its_first_bar() -> None:
    finding = wrong(FarSighted())
    first = int(evaluate(FarSighted(), walk()).to_numpy().argmax())
    assert (finding.kind, finding.index, finding.target, finding.instead) == ("future", first, 1.0, 0.0)
    assert finding.text.startswith("its target was 0 while candles up to ")
    assert finding.text.endswith(" were there, and became 1 once all were")


class FarSightedLater(Simple):
    """In as long as it knows that there will be candles, from a day on."""

    def inside(self, close: pd.Series) -> pd.Series:
        return (close.shift(-1_200) > 0) & (close.index >= pd.Timestamp("2024-05-01", tz="UTC"))


def test_prefixes_are_halved_down_to_the_first_bar() -> None:
    finding = wrong(FarSightedLater(), walk(30_000))
    assert (finding.kind, finding.time) == ("future", pd.Timestamp("2024-05-01", tz="UTC"))


class FarSightedOnce(Simple):
    """It sees far ahead at one bar only, between the prefixes that are tried."""

    def inside(self, close: pd.Series) -> pd.Series:
        return (close.shift(-1_200) > 0) & (close.index == pd.Timestamp("2024-03-01", tz="UTC"))


def test_what_looks_like_the_warm_up_is_told_from_the_future() -> None:
    candles = walk(30_000)
    finding = wrong(FarSightedOnce(), candles)
    assert (finding.kind, finding.time) == ("future", pd.Timestamp("2024-03-01", tz="UTC"))


class AfraidOfCrashes(SmaCross):
    """It knows of a fall by a third at the next bar; there is none in the candles."""

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        crash = candles["close"].shift(-1) < candles["close"] * 0.66
        return super().signal(candles).where(~crash, 0.0)


def test_what_the_candles_do_not_have_an_altered_future_has() -> None:
    finding = wrong(AfraidOfCrashes(CROSS))
    assert finding.kind == "future"
    assert "once later ones were (halved)" in finding.text


class AfraidOfFarCrashes(SmaCross):
    """The same, of a fall 1,200 bars later."""

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        crash = candles["close"].shift(-1_200) < candles["close"] * 0.6
        return super().signal(candles).where(~crash, 0.0)


def test_a_far_future_is_altered_too() -> None:
    finding = wrong(AfraidOfFarCrashes(CROSS))
    assert finding.kind == "future"
    assert finding.text.startswith("its target was 1 with all candles, and became 0 when those after 20")
    assert finding.text.endswith(" were halved")


class Remembering(SmaCross):
    """It keeps what it knew of the whole in mind, which would hide that it peeks."""

    known: pd.Series | None = None

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        if self.known is None:
            self.known = super().signal(candles.assign(close=candles["close"].shift(-1).ffill()))
        return self.known.reindex(candles.index).fillna(0.0)


def test_a_memory_hides_nothing() -> None:
    assert wrong(Remembering(CROSS)).kind == "future"


# The warm-up


class Hasty(SmaCross):
    """A slow average of 100 candles after 10."""

    warm_up = 10  # type: ignore[assignment]


class OneTooFew(SmaCross):
    @property
    def warm_up(self) -> int:
        return self.params.slow - 1


@pytest.mark.parametrize("strategy", [Hasty(), OneTooFew(), OneTooFew(CROSS)])
def test_too_short_a_warm_up_is_caught(strategy: SmaCross) -> None:
    candles = walk()
    finding = wrong(strategy, candles)
    whole = evaluate(strategy, candles)
    entries = np.flatnonzero(whole.diff() > 0)
    assert (finding.kind, finding.index) == ("warm-up", entries[entries >= strategy.warm_up][0])
    assert (finding.target, finding.instead) == (1.0, 0.0)
    assert f"with its warm-up of {strategy.warm_up}" in finding.text
    assert f"; {strategy.params.slow} candles would do" in finding.text


class SinceTheBeginning(Simple):
    def inside(self, close: pd.Series) -> pd.Series:
        return close > close.expanding().mean()


def test_one_that_depends_on_all_that_was_is_caught() -> None:
    assert wrong(SinceTheBeginning()).kind == "warm-up"


class Settling(Simple):
    """Above an exponential average. Any candle that crosses it rises, which two candles know as well as all."""

    def __init__(self, warm_up: int, *, adjust: bool = True, below: bool = False) -> None:
        super().__init__()
        self.warm_up = warm_up
        self.adjust, self.below = adjust, below

    def inside(self, close: pd.Series) -> pd.Series:
        average = close.ewm(span=200, adjust=self.adjust).mean()
        return close < average if self.below else close > average


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("adjust", [False, True])
@pytest.mark.parametrize("warm_up", [2, 20, 200])
def test_an_average_that_has_not_settled_is_caught(warm_up: int, adjust: bool, below: bool) -> None:
    candles, strategy = walk(20_000), Settling(warm_up, adjust=adjust, below=below)
    finding = wrong(strategy, candles)
    bar = finding.index
    assert (finding.kind, finding.time) == ("warm-up", candles.index[bar])
    assert finding.target == evaluate(strategy, candles.iloc[: bar + 1]).iloc[-1]
    assert finding.instead == 1 - finding.target
    text = re.search(r"with (\d+, )?its warm-up of \d+( and \d+ more)?; ([\d,]+) candles would do$", finding.text)
    assert text is not None
    few = int(text[1].strip(", ")) if text[1] else warm_up
    assert warm_up <= few <= warm_up + 64
    assert finding.instead == evaluate(strategy, candles.iloc[bar + 1 - few : bar + 1]).iloc[-1]
    assert bar < 1_000  # not one of the last that show it
    assert 100 < int(text[3].replace(",", "")) < 3_000  # not only at this bar, where few more may do by chance


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("adjust", [False, True])
def test_an_average_that_has_settled_passes(adjust: bool, below: bool) -> None:
    report = check(Settling(2_000, adjust=adjust, below=below), walk(20_000))
    assert report.proved, report
    assert report.changes > 500


def test_exactly_the_warm_up_is_tried_at_every_change() -> None:
    """And at many bars between them."""
    candles = walk(20_000)
    report = check(SmaCross(CROSS), candles)
    assert report.tried > report.changes > 1_000


class Grudging(SmaCross):
    """Out for ever if it was much dearer once; in the candles it never was."""

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        dearer = candles["close"].cummax() > candles["close"] * 1.6
        return super().signal(candles).where(~dearer, 0.0)


def test_another_past_shows_what_the_candles_do_not_have() -> None:
    finding = wrong(Grudging(CROSS))
    assert finding.kind == "warm-up"
    assert "with the 1,020 that a live run sees and others before them" in finding.text


class Carrying(Simple):
    """In from a great volume at a rising candle to one at a falling candle, however long that takes."""

    warm_up = 5  # type: ignore[assignment]

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        rising = (candles["close"] > candles["open"]).astype("float64")
        return rising.where(candles["volume"] > 1_000).ffill().fillna(0.0)


def carried(every: int) -> pd.DataFrame:
    """Candles with a great volume so often, at rising and falling ones in turn."""
    candles = walk(6_000)
    at = range(every, 6_000, every)
    candles.iloc[list(at), candles.columns.get_loc("volume")] = 5_000.0
    for number, bar in enumerate(at):
        candles.iloc[bar, candles.columns.get_loc("open")] *= 0.9 if number % 2 == 0 else 1.1
    return candles


def test_what_is_carried_must_be_in_sight_of_a_live_run() -> None:
    # A live run sees 5 + 1,000 candles.
    assert check(Carrying(), carried(900)).proved
    finding = wrong(Carrying(), carried(1_400))
    assert finding.kind == "warm-up"
    assert finding.index >= 1_400 + 1_004
    assert "with the 1,005 that a live run sees" in finding.text


class Trusting(Carrying):
    """The same, but in before it has seen either."""

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        rising = (candles["close"] > candles["open"]).astype("float64")
        return rising.where(candles["volume"] > 1_000).ffill().fillna(1.0)


def test_who_is_in_from_the_first_candle_on_makes_no_order_by_that() -> None:
    report = check(Trusting(), carried(900))
    assert report.proved, report


def test_the_window_is_that_of_a_live_run() -> None:
    assert EXTRA == READ_LIVE


# What it rests on, and bad input


def test_the_docs_show_what_it_prints() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "strategies.md").read_text()
    assert f"{wrong(Peeking(CROSS))}\n{wrong(Hasty())}\n" in page


class Tossing(Simple):
    def signal(self, candles: pd.DataFrame) -> pd.Series:
        return pd.Series(np.random.default_rng().random(len(candles)), index=candles.index)


def test_one_that_says_something_else_each_time_is_caught() -> None:
    finding = wrong(Tossing())
    assert (finding.kind, finding.index) == ("unsteady", 0)


class Fragile(SmaCross):
    def signal(self, candles: pd.DataFrame) -> pd.Series:
        if len(candles) < 500:
            raise ValueError("five hundred, please")
        return super().signal(candles)


class Unfinished(SmaCross):
    """Nothing at the newest bar, unless all is there."""

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        signal = super().signal(candles)
        return signal if len(candles) >= 500 else signal.where(candles.index < candles.index[-1])


@pytest.mark.parametrize(
    ("strategy", "text"),
    [(Fragile(CROSS), "ValueError: five hundred, please"), (Unfinished(CROSS), "is nan: from -1 to 1")],
)
def test_one_that_stops_on_a_part_is_caught(strategy: Strategy[Any], text: str) -> None:
    finding = wrong(strategy)
    assert (finding.kind, finding.instead) == ("stopped", None)
    assert text in finding.text


def test_what_it_raises_on_all_candles_is_told_with_its_line() -> None:
    with pytest.raises(SignalError, match=r"signal: ValueError: .*five hundred.* \(.*test_backtest_check\.py:\d+\)"):
        check(Fragile(CROSS), walk(499))
    with pytest.raises(SignalError, match="is nan"):
        check(Unfinished(CROSS), walk(499))


def test_too_few_candles_are_refused() -> None:
    with pytest.raises(InputError, match="20 candles are too few to check a warm-up of 20: give at least 21"):
        check(SmaCross(CROSS), walk(20))
    assert check(SmaCross(CROSS), walk(21)).bars == 21


class Idle(Simple):
    def inside(self, close: pd.Series) -> pd.Series:
        return close > 1e9


def test_what_never_changes_proves_nothing() -> None:
    report = check(Idle(), walk())
    assert (report.findings, report.changes, report.proved) == ((), 0, False)
    assert "the target never changes on these candles, so nothing is proved" in str(report)


def test_candles_that_a_live_run_sees_all_of_leave_the_past_unproved() -> None:
    report = check(SmaCross(CROSS), walk(1_019))
    assert (report.findings, report.live, report.proved) == ((), 0, False)
    assert "so the past could not be changed" in str(report)


def test_the_candles_stay_as_they_are_and_a_seed_repeats_a_report() -> None:
    class Writing(SmaCross):
        def signal(self, candles: pd.DataFrame) -> pd.Series:
            candles.loc[:, "close"] *= 2
            return super().signal(candles)

    candles = walk()
    first = check(Writing(CROSS), candles, seed=5)
    assert first.proved
    pd.testing.assert_frame_equal(candles, walk())
    assert check(Writing(CROSS), candles, seed=5) == first


@pytest.mark.skipif(not SHARED.is_dir(), reason="NOT RUN: ../shared/data is not here")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("shipped", [SmaCross, Momentum, SupportResistance, MovingAverage])
def test_every_shipped_strategy_passes_on_real_candles(name: str, shipped: type[Strategy[Any]]) -> None:
    report = check(shipped(), frame_of(name, FILES[name][0]))
    assert report.proved, report
    assert report.changes > 50
