"""The check of a strategy with on_bucket: each way to be dishonest is caught, named, and told from the others."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import talib

from tests.unit.test_backtest_check import carried, walk
from tests.unit.test_backtest_check_inputs import daily
from trader.backtest.check import Finding, check
from trader.backtest.run import Frames
from trader.errors import InputError
from trader.strategy import Input, OnBucketContext, SignalError, Strategy, at

HOURS = walk(3_000)
FRAMES = Frames(HOURS, "1h", {"day": daily(HOURS)})


class Trailing(Strategy):
    """In on a cross of averages with a stop below; a state counts the entries, and rests five candles after each."""

    warm_up = 20  # type: ignore[assignment]

    def indicators(self, candles: pd.DataFrame) -> pd.DataFrame:
        close = candles["close"]
        return pd.DataFrame({"fast": close.rolling(3).mean(), "slow": close.rolling(20).mean()})

    def on_bucket(self, context: OnBucketContext) -> float | None:
        state = context.state
        state["rest"] = max(0, state.get("rest", 0) - 1)
        if context.quantity or context.orders or state["rest"]:
            return None
        if context.now.fast > context.now.slow and context.window("close", 2)[-1] > context.open:
            context.buy()
            context.sell(stop=context.window("low", 10).min() * 0.99)
            context.sell(limit=context.close * 1.02)
            state["entries"] = state.get("entries", 0) + 1
            state["rest"] = 5
        return None


def wrong(strategy: Strategy, frames: Any = HOURS) -> Finding:
    report = check(strategy, frames)
    [finding] = report.findings
    assert not report.proved
    assert str(finding) in str(report)
    return finding


def test_an_honest_one_passes() -> None:
    report = check(Trailing(), HOURS)
    assert report.proved, report
    assert report.changes > 20


class Following(Trailing):
    """The same by targets."""

    def on_bucket(self, context: OnBucketContext) -> float | None:
        return 1.0 if context.now.fast > context.now.slow else 0.0


def test_targets_are_acts_too() -> None:
    report = check(Following(), HOURS)
    assert report.proved, report
    assert report.changes > 100


# The future


class PeekingIndicator(Following):
    def indicators(self, candles: pd.DataFrame) -> pd.DataFrame:
        return super().indicators(candles.assign(close=candles["close"].shift(-1).ffill()))


class NormalisingIndicator(Following):
    def indicators(self, candles: pd.DataFrame) -> pd.DataFrame:
        return super().indicators(candles) / candles["close"].mean()


@pytest.mark.parametrize("strategy", [PeekingIndicator(), NormalisingIndicator()], ids=lambda s: type(s).__name__)
def test_an_indicator_that_looks_ahead_is_named(strategy: Strategy) -> None:
    finding = wrong(strategy)
    assert finding.kind == "future"
    assert finding.text.startswith("fast was ")
    assert finding.index < 200


class Keeping(Following):
    """It keeps the candles, and looks up the next one."""

    closes: Any = None

    def indicators(self, candles: pd.DataFrame) -> pd.DataFrame:
        self.closes = candles["close"]
        return super().indicators(candles)

    def on_bucket(self, context: OnBucketContext) -> float | None:
        place = self.closes.index.searchsorted(context.time) + 1
        return float(self.closes.iloc[min(place, len(self.closes) - 1)] > context.close)


def test_candles_kept_in_the_object_are_found_out() -> None:
    finding = wrong(Keeping())
    assert finding.kind == "future"
    assert "target" in finding.text


class ByOpening(Strategy):
    """It takes the close of a day from when that day opened."""

    warm_up = 2  # type: ignore[assignment]
    day_warm_up = 5
    early = pd.Timedelta("1D")

    @property
    def inputs(self) -> Mapping[str, Input]:
        return {"day": Input("1d", warm_up=self.day_warm_up)}

    def indicators(self, candles: pd.DataFrame, day: pd.DataFrame) -> pd.DataFrame:
        above = day["close"] > day["close"].rolling(5).mean()
        return pd.DataFrame({"regime": at(above.set_axis(day.index - self.early), candles.index)})

    def on_bucket(self, context: OnBucketContext) -> float | None:
        return float(context.now.regime > 0)


class Patient(ByOpening):
    early = pd.Timedelta(0)


class PatientButShort(Patient):
    day_warm_up = 4


def test_inputs_of_indicators_are_checked() -> None:
    frames = Frames(HOURS, "1h", {"day": daily(HOURS)})
    assert check(Patient(), frames).proved
    finding = wrong(ByOpening(), frames)
    assert (finding.kind, finding.input) == ("future", "day")
    finding = wrong(PatientButShort(), frames)
    assert (finding.kind, finding.input) == ("warm-up", "day")
    assert "; 5 candles of day would do" in finding.text


# The warm-up


class Hasty(Following):
    warm_up = 10  # type: ignore[assignment]


def test_too_short_a_warm_up_is_caught() -> None:
    finding = wrong(Hasty())
    assert (finding.kind, finding.input) == ("warm-up", None)
    assert finding.text.startswith("its target was 1.0 with all candles and 0.0 with its warm-up of 10;")
    assert "; 20 candles would do" in finding.text


class Fading(Strategy):
    """An EMA never forgets; 20 periods make what it was started with too little to count."""

    warm_up = 200  # type: ignore[assignment]

    def indicators(self, candles: pd.DataFrame) -> pd.DataFrame:
        average = talib.EMA(candles["close"].to_numpy(), 10)
        return pd.DataFrame({"average": average}, index=candles.index)

    def on_bucket(self, context: OnBucketContext) -> float | None:
        if not context.quantity and not context.orders and context.close > context.now.average:
            context.buy(limit=context.now.average)
        elif context.close < context.now.average:
            return 0.0
        return None


class FadingTooSoon(Fading):
    warm_up = 30  # type: ignore[assignment]


def test_an_average_that_fades_passes_if_it_has_faded() -> None:
    assert check(Fading(), HOURS).proved
    finding = wrong(FadingTooSoon())
    assert finding.kind == "warm-up"
    assert "what it ordered was buy limit" in finding.text


class Settling(Strategy):
    """In above an exponential average. Any candle that crosses it rises, which two candles know as well as all."""

    warm_up = 2  # type: ignore[assignment]

    def __init__(self, warm_up: int, *, said: bool = False) -> None:
        super().__init__()
        self.warm_up = warm_up
        self.said = said

    def indicators(self, candles: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"average": candles["close"].ewm(span=100).mean()})

    def on_bucket(self, context: OnBucketContext) -> float | None:
        inside = context.close > context.now.average
        if self.said:
            return float(inside)
        if inside and not context.quantity:
            context.buy()
        elif not inside and context.quantity:
            context.sell()
        return None


@pytest.mark.parametrize("said", [False, True], ids=["orders", "targets"])
@pytest.mark.parametrize("warm_up", [2, 20])
def test_an_average_that_has_not_settled_is_caught(warm_up: int, said: bool) -> None:
    strategy = Settling(warm_up, said=said)
    finding = wrong(strategy, HOURS)
    assert finding.kind == "warm-up"
    assert finding.time == HOURS.index[finding.index]
    assert f"with its warm-up of {warm_up}; " in finding.text
    averages = [
        strategy.indicators(HOURS.iloc[first : finding.index + 1]).average.iloc[-1]
        for first in (0, finding.index + 1 - warm_up)
    ]
    close = HOURS.close.iloc[finding.index]
    assert (close > averages[0]) != (close > averages[1])


@pytest.mark.parametrize("said", [False, True], ids=["orders", "targets"])
def test_an_average_that_has_settled_passes(said: bool) -> None:
    report = check(Settling(1_000, said=said), walk(6_000))
    assert report.proved, report
    assert report.changes > 100


class Trusting(Strategy):
    """In but for the time from a great volume at a falling candle to one at a rising one, however long that takes."""

    warm_up = 5  # type: ignore[assignment]

    def indicators(self, candles: pd.DataFrame) -> pd.DataFrame:
        rising = (candles["close"] > candles["open"]).astype("float64")
        return pd.DataFrame({"rising": rising.where(candles["volume"] > 1_000).ffill()})

    def on_bucket(self, context: OnBucketContext) -> float | None:
        return 0.0 if context.now.rising == 0 else 1.0


def test_who_is_in_from_the_first_candle_on_makes_no_order_by_that() -> None:
    candles = carried(900)
    ends = candles[["open", "close"]]
    candles["high"], candles["low"] = ends.max(axis=1), ends.min(axis=1)
    report = check(Trusting(), candles)
    assert report.proved, report


# What is kept


class Remembering(Trailing):
    """It counts in itself, not in its state."""

    seen = 0

    def on_bucket(self, context: OnBucketContext) -> float | None:
        self.seen += 1
        return float(self.seen // 50 % 2)


def test_what_is_kept_in_the_object_is_caught() -> None:
    finding = wrong(Remembering())
    assert finding.kind == "unsteady"
    assert "keep all in context.state" in finding.text
    page = (Path(__file__).resolve().parents[2] / "docs" / "strategies.md").read_text()
    assert f"{finding}\n" in page


class Tossing(Trailing):
    def on_bucket(self, context: OnBucketContext) -> float | None:
        return float(np.random.default_rng().random() > 0.5)


def test_one_that_says_something_else_each_time_is_caught() -> None:
    finding = wrong(Tossing())
    assert finding.kind == "unsteady"
    assert "when the same candles were given once more" in finding.text


COUNTER = itertools.count()


class Sharing(Trailing):
    """The same, in what it leaves: the module counts."""

    def on_bucket(self, context: OnBucketContext) -> float | None:
        context.state["n"] = next(COUNTER)
        return Following.on_bucket(self, context)  # type: ignore[arg-type]


def test_a_state_that_is_another_each_time_is_caught() -> None:
    finding = wrong(Sharing())
    assert finding.kind == "unsteady"
    assert "its state was {'n': " in finding.text


class Stopping(Following):
    def indicators(self, candles: pd.DataFrame) -> pd.DataFrame:
        if len(candles) < 500:
            raise ValueError("too short for me")
        return super().indicators(candles)


def test_one_that_stops_on_a_part_is_caught() -> None:
    finding = wrong(Stopping())
    assert finding.kind == "stopped"
    assert "indicators: ValueError: too short for me" in finding.text


def test_what_it_raises_on_all_candles_is_told() -> None:
    class Broken(Following):
        def on_bucket(self, context: OnBucketContext) -> float | None:
            return context.now.nothing

    with pytest.raises(SignalError, match=r"on_bucket at .* AttributeError: .*'nothing'"):
        check(Broken(), HOURS)


def test_what_does_nothing_proves_nothing() -> None:
    class Idle(Trailing):
        def on_bucket(self, context: OnBucketContext) -> float | None:
            return None

    report = check(Idle(), HOURS)
    assert not report.proved
    assert "nothing is proved" in str(report)


def test_the_timeframe_is_told_by_the_candles_or_must_be_given() -> None:
    with pytest.raises(InputError, match=r"0 days 00:07:00 apart, which is no timeframe: give Frames"):
        check(Trailing(), HOURS.set_axis(pd.date_range("2024-01-01", periods=len(HOURS), freq="7min", tz="UTC")))
    with pytest.raises(InputError, match="20 candles are too few to check a warm-up of 20"):
        check(Trailing(), HOURS.iloc[:20])
