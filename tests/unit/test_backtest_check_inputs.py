"""The check of look-ahead and warm-up where a strategy sees candles of another timeframe or market, too."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from tests.unit.test_backtest_check import walk
from trader.backtest.check import Finding, check
from trader.backtest.run import Frames
from trader.errors import InputError
from trader.strategy import Input, Strategy, at


def daily(hours: pd.DataFrame) -> pd.DataFrame:
    """The days of the hours, by the time of their close."""
    days = hours.resample("1D", closed="right", label="right")
    return days.agg({"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}).iloc[:-1]


HOURS = walk(4_000)
OTHER = walk(4_000, seed=2)
FRAMES = Frames(HOURS, "1h", {"day": daily(HOURS), "eth": OTHER})


class Regime(Strategy):
    """In while the hour is above its mean of 5, the day above its mean of 10, and ETH above its own of 7."""

    warm_up = 5  # type: ignore[assignment]
    day_warm_up = 10
    eth_warm_up = 7

    @property
    def inputs(self) -> Mapping[str, Input]:
        return {
            "day": Input("1d", warm_up=self.day_warm_up),
            "eth": Input(market="x:ETH/BTC", warm_up=self.eth_warm_up),
        }

    def signal(self, candles: pd.DataFrame, day: pd.DataFrame, eth: pd.DataFrame) -> pd.Series:
        own = candles["close"] > candles["close"].rolling(5).mean()
        regime = self.beside(day, day["close"] > day["close"].rolling(10).mean(), candles)
        other = at(eth["close"] > eth["close"].rolling(7).mean(), candles.index)
        return (own & (regime > 0) & (other > 0)).astype(float)

    def beside(self, day: pd.DataFrame, above: pd.Series, candles: pd.DataFrame) -> pd.Series:
        return at(above, candles.index)


def wrong(strategy: Strategy) -> Finding:
    report = check(strategy, FRAMES)
    [finding] = report.findings
    assert not report.proved
    assert str(finding) in str(report)
    return finding


def test_an_honest_one_passes() -> None:
    report = check(Regime(), FRAMES)
    assert report.proved, report
    assert report.changes > 100


class ByOpening(Regime):
    """It takes the close of a day from when that day opened."""

    def beside(self, day: pd.DataFrame, above: pd.Series, candles: pd.DataFrame) -> pd.Series:
        return at(above.set_axis(day.index - pd.Timedelta("1D")), candles.index)


class Backwards(Regime):
    """It takes the next close of a day."""

    def beside(self, day: pd.DataFrame, above: pd.Series, candles: pd.DataFrame) -> pd.Series:
        return above.astype(float).reindex(candles.index, method="bfill").fillna(0.0)


class NormalisingInput(Regime):
    """It compares with the mean of all days."""

    def beside(self, day: pd.DataFrame, above: pd.Series, candles: pd.DataFrame) -> pd.Series:
        return at(day["close"] > day["close"].mean(), candles.index)


@pytest.mark.parametrize("strategy", [ByOpening(), Backwards(), NormalisingInput()], ids=lambda s: type(s).__name__)
def test_an_input_that_is_seen_before_its_close_is_caught_and_named(strategy: Strategy) -> None:
    finding = wrong(strategy)
    assert (finding.kind, finding.input) == ("future", "day")
    assert str(finding).startswith(f"future at {HOURS.index[finding.index]:%Y-%m-%d %H:%M} (input day): ")


class PeekingItself(Regime):
    def signal(self, candles: pd.DataFrame, day: pd.DataFrame, eth: pd.DataFrame) -> pd.Series:
        return super().signal(candles.assign(close=candles["close"].shift(-1).ffill()), day, eth)


def test_its_own_candles_are_told_from_those_of_an_input() -> None:
    finding = wrong(PeekingItself())
    assert (finding.kind, finding.input) == ("future", None)


class ShortDay(Regime):
    day_warm_up = 3


class ShortOther(Regime):
    eth_warm_up = 6


@pytest.mark.parametrize(("strategy", "name", "enough"), [(ShortDay(), "day", 10), (ShortOther(), "eth", 7)])
def test_too_short_a_warm_up_of_an_input_is_caught_and_named(strategy: Strategy, name: str, enough: int) -> None:
    finding = wrong(strategy)
    assert (finding.kind, finding.input) == ("warm-up", name)
    assert f"; {enough} candles of {name} would do" in finding.text


class ShortOwn(Regime):
    warm_up = 4  # type: ignore[assignment]


def test_too_short_a_warm_up_of_its_own_is_still_its_own() -> None:
    finding = wrong(ShortOwn())
    assert (finding.kind, finding.input) == ("warm-up", None)
    assert "; 5 candles would do" in finding.text


class LongAgo(Regime):
    """Out if ETH was ever three times as dear; in these candles it never was."""

    def signal(self, candles: pd.DataFrame, day: pd.DataFrame, eth: pd.DataFrame) -> pd.Series:
        dearer = at(eth["close"].cummax() > 1.6 * eth["close"], candles.index)
        return super().signal(candles, day, eth).where(dearer == 0, 0.0)


def test_another_past_of_an_input_is_tried() -> None:
    finding = wrong(LongAgo())
    assert finding.kind == "warm-up"
    assert "others before them" in finding.text


def test_candles_of_an_input_must_be_there() -> None:
    with pytest.raises(InputError, match='no candles of its input "eth"'):
        check(Regime(), Frames(HOURS, "1h", {"day": FRAMES.inputs["day"]}))
    with pytest.raises(InputError, match='6 candles of its input "eth" are too few: its warm-up needs 7'):
        check(Regime(), Frames(HOURS, "1h", {"day": FRAMES.inputs["day"], "eth": OTHER.iloc[:6]}))


def test_the_frames_stay_as_they_are() -> None:
    before = {name: frame.copy() for name, frame in FRAMES.inputs.items()}
    check(Regime(), FRAMES)
    for name, frame in before.items():
        pd.testing.assert_frame_equal(FRAMES.inputs[name], frame)
    assert np.isfinite(FRAMES.inputs["day"].to_numpy()).all()
