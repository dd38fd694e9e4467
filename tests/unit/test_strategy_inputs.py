"""Inputs of a strategy: what of them is seen at which candle, and what is said about those that are none."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trader.strategy import (
    EXTRA,
    Input,
    SignalError,
    Strategy,
    at,
    evaluate,
    first_candle,
    indicators_of,
    inputs_of,
    reach_of,
)


def frame(start: str, freq: str, closes: list[float], unit: str = "ms") -> pd.DataFrame:
    """Candles that close at `start` and after; all prices are the close."""
    index = pd.date_range(start, periods=len(closes), freq=freq, tz="UTC", name="time_close").as_unit(unit)
    return pd.DataFrame(dict.fromkeys(("open", "high", "low", "close", "volume"), closes), index=index, dtype="float64")


HOURS = frame("2024-01-01 22:00", "1h", [1.0, 2, 3, 4, 5, 6])
DAYS = frame("2024-01-01 00:00", "1D", [100.0, 200, 300], unit="ns")


@pytest.mark.parametrize("days", [DAYS, DAYS.set_axis(DAYS.index.as_unit("s"))])
def test_at_gives_what_had_closed_by_then(days: pd.DataFrame) -> None:
    assert at(days["close"], HOURS.index).tolist() == [100, 100, 200, 200, 200, 200]  # 00:00 itself counts
    assert at(days, HOURS.index)["close"].tolist() == [100, 100, 200, 200, 200, 200]
    assert at(days["close"], HOURS.index).index.equals(HOURS.index)


def test_at_knows_nothing_before_the_first_close() -> None:
    late = DAYS.iloc[1:]
    assert at(late["close"], HOURS.index).isna().tolist() == [True, True, False, False, False, False]
    assert at(late, HOURS.index).isna().all(axis=1).tolist() == [True, True, False, False, False, False]
    assert at(late["close"] > 0, HOURS.index).tolist()[2:] == [1, 1, 1, 1]
    assert at(DAYS["close"].iloc[:0], HOURS.index).isna().all()


def test_at_is_a_merge_asof() -> None:
    rng = np.random.default_rng(3)
    coarse = frame("2024-01-01 03:00", "7h", rng.normal(100, 9, 40).tolist())
    fine = frame("2024-01-01 00:00", "13min", rng.normal(100, 9, 1_500).tolist())
    left, right = fine["close"].rename("own").reset_index(), coarse["close"].reset_index()
    wanted = pd.merge_asof(left, right, on="time_close")["close"]
    np.testing.assert_array_equal(at(coarse["close"], fine.index).to_numpy(), wanted.to_numpy())


class Above(Strategy):
    """In while the hour is above the day's close / 50."""

    @property
    def warm_up(self) -> int:
        return 2

    @property
    def inputs(self) -> Mapping[str, Input]:
        return {"day": Input("1d", warm_up=2)}

    def signal(self, candles: pd.DataFrame, day: pd.DataFrame) -> pd.Series:
        assert len(day) == 0 or day.index[-1] <= candles.index[-1]
        return (candles["close"] > at(day["close"], candles.index) / 100).astype(float)


def test_an_input_is_cut_to_what_has_closed_and_its_warm_up_counts() -> None:
    assert first_candle(Above(), HOURS, {"day": DAYS}) == 2
    assert evaluate(Above(), HOURS, {"day": DAYS}).tolist() == [0, 0, 1, 1, 1, 1]
    assert evaluate(Above(), HOURS.iloc[:2], {"day": DAYS}).tolist() == [0, 0]
    assert first_candle(Above(), HOURS.iloc[:2], {"day": DAYS}) == 2
    assert first_candle(Above(), HOURS, {"day": DAYS.iloc[:1]}) == 6
    assert first_candle(Above(), HOURS, {"day": DAYS.iloc[-1:]}) == 6


def test_a_strategy_may_change_what_it_gets_without_changing_ours() -> None:
    class Careless(Above):
        def signal(self, candles: pd.DataFrame, day: pd.DataFrame) -> pd.Series:
            day["close"] = 0.0
            candles["close"] = 0.0
            return candles["close"]

    evaluate(Careless(), HOURS, {"day": DAYS})
    assert DAYS["close"].tolist() == [100, 200, 300]
    assert HOURS["close"].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "inputs is None: a dict of names and Input is needed"),
        ({"day": "1d"}, "input day is '1d': write Input"),
        ({"the day": Input("1d")}, "'the day' is no name"),
        ({"candles": Input("1d")}, "'candles' is no name"),
        ({"class": Input("1d")}, "'class' is no name"),
        ({"day": Input()}, "neither a timeframe nor a market"),
        ({"day": Input("7m")}, "input day: timeframe '7m': allowed are 1m, 3m"),
        ({"day": Input(market="ETH/USDT")}, "market 'ETH/USDT': write exchange:symbol"),
        ({"day": Input("1d", warm_up=0)}, "input day: warm_up is 0: a whole number from 1 to"),
        ({"day": Input("1d", warm_up=2.5)}, "input day: warm_up is 2.5"),  # type: ignore[arg-type]
    ],
)
def test_inputs_that_are_none_are_named(given: Any, message: str) -> None:
    class Wrong(Above):
        @property
        def inputs(self) -> Mapping[str, Input]:
            return given

    with pytest.raises(SignalError, match=message):
        inputs_of(Wrong())


def test_what_inputs_raises_is_told_with_its_line() -> None:
    class Broken(Above):
        @property
        def inputs(self) -> Mapping[str, Input]:
            return {"day": Input(str(1 / 0))}

    with pytest.raises(SignalError, match=r"inputs: ZeroDivisionError: .*test_strategy_inputs\.py:\d+\)"):
        inputs_of(Broken())


def test_a_missing_frame_and_a_method_that_takes_no_input_are_named() -> None:
    class Deaf(Above):
        def signal(self, candles: pd.DataFrame) -> pd.Series:
            return candles["close"]

    with pytest.raises(SignalError, match="no candles are given for its input day"):
        evaluate(Above(), HOURS)
    with pytest.raises(SignalError, match=r"signal: .* it is def signal\(self, candles, day\)"):
        evaluate(Deaf(), HOURS, {"day": DAYS})


def test_the_reach_covers_the_scheduled_moment_before() -> None:
    class Fine(Above):
        @property
        def inputs(self) -> Mapping[str, Input]:
            return {"minute": Input("1m", warm_up=50), "day": Input("1d", warm_up=3), "eth": Input(market="x:ETH/BTC")}

    plain = reach_of(Fine(), "1h")
    assert plain.candles == 2 + EXTRA
    assert plain.inputs == {"minute": 50 + EXTRA, "day": 3 + EXTRA, "eth": 1 + EXTRA}
    assert reach_of(Fine(), "1h", "day").inputs["minute"] == 50 + 2 * 24 * 60
    assert reach_of(Fine(), "1m", "day").candles == 2 + 2 * 24 * 60
    assert reach_of(Fine(), "1d").inputs["minute"] == 50 + 2 * 24 * 60


class Sums(Strategy):
    """Indicators of its own."""

    given: Any = None

    @property
    def warm_up(self) -> int:
        return 2

    def indicators(self, candles: pd.DataFrame) -> pd.DataFrame:
        return self.given(candles) if self.given else pd.DataFrame({"sum": candles["close"].rolling(2).sum()})

    def on_bucket(self, context: Any) -> float | None:
        return None


def test_indicators_are_columns_of_floats() -> None:
    found = indicators_of(Sums(), HOURS)
    assert found["sum"].tolist()[1:] == [3, 5, 7, 9, 11]
    assert np.isnan(found["sum"].iloc[0])

    class Bare(Sums):
        indicators = Strategy.indicators

    assert indicators_of(Bare(), HOURS).shape == (6, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda c: c["close"], "indicators gave Series, not a pandas DataFrame"),
        (lambda c: c[["close"]], "a column 'close': a name such as sma is needed"),
        (lambda c: c[["close"]].set_axis(["my sma"], axis=1), "a column 'my sma'"),
        (lambda c: c[["close"]].set_axis([1], axis=1), "a column 1:"),
        (lambda c: c[["open", "close"]].set_axis(["a", "a"], axis=1), "two columns a"),
        (lambda c: pd.DataFrame({"a": c["close"].iloc[1:]}), "indicators' a has 5 values for 6 candles"),
        (lambda c: pd.DataFrame({"a": range(6)}), "indicators' a has another index than its candles"),
        (lambda c: pd.DataFrame({"a": "x"}, index=c.index), "indicators' a holds .*, not numbers"),
        (lambda c: c["nothing"], r"indicators: KeyError: 'nothing' \(.*test_strategy_inputs\.py:\d+\)"),
    ],
)
def test_indicators_that_are_none_are_named(given: Any, message: str) -> None:
    strategy = Sums()
    strategy.given = given
    with pytest.raises(SignalError, match=message):
        indicators_of(strategy, HOURS)


def test_a_signal_is_not_asked_of_one_that_has_none() -> None:
    with pytest.raises(SignalError, match="Sums has no signal: it decides in on_bucket"):
        evaluate(Sums(), HOURS)
