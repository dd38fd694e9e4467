"""No shipped strategy looks ahead: what it says of a candle does not change with the candles that follow."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.momentum import Momentum, MomentumParams
from strategies.moving_average import MovingAverage, MovingAverageParams
from strategies.regime_trend import RegimeTrend, RegimeTrendParams
from strategies.sma_cross import SmaCross, SmaCrossParams
from strategies.support_resistance import SupportResistance, SupportResistanceParams
from trader.strategy import Strategy, evaluate

SHIPPED: list[Strategy[Any]] = [
    *(SmaCross(SmaCrossParams(price=price, fast=2, slow=7)) for price in ("ohlc4", "hl2", "close")),  # type: ignore[arg-type]
    Momentum(MomentumParams(wick_period=3, rsi_period=4, jump=1.5)),
    SupportResistance(SupportResistanceParams(tolerance=1.002, memory=30)),
    MovingAverage(MovingAverageParams(period=5)),
    RegimeTrend(RegimeTrendParams(fast=2, slow=7, adx_period=3, adx_least=30)),
]


class Peeking(SmaCross):
    """A wrong one, to show that the proof can fail."""

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        return super().signal(candles.assign(close=candles["close"].shift(-1).ffill()))


class Normalising(SmaCross):
    """Another: it compares with the mean of all that there is."""

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        return (candles["close"] > candles["close"].mean()).astype("float64")


@st.composite
def walks(draw: st.DrawFn) -> pd.DataFrame:
    """Candles of a random walk: some with long wicks, some that stand still."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    length = draw(st.integers(110, 150))
    moving = rng.random(length) < draw(st.sampled_from([0.3, 0.9, 1.0]))
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, length) * moving))
    start = np.concatenate(([100.0], close[:-1]))
    top, bottom = rng.exponential(0.5, (2, length)) * moving * rng.choice([1, 8], (2, length), p=[0.9, 0.1])
    index = pd.date_range("2024-01-01", periods=length, freq="1h", tz="UTC", name="time_close")
    high, low = np.maximum(start, close) + top, np.minimum(start, close) * np.exp(-bottom / 100)
    return pd.DataFrame({"open": start, "high": high, "low": low, "close": close, "volume": 1.0}, index=index)


def differing(strategy: Strategy[Any], candles: pd.DataFrame) -> list[int]:
    """The lengths of prefixes whose last value is not what the whole says there."""
    whole = evaluate(strategy, candles)
    return [n for n in range(1, len(candles) + 1) if evaluate(strategy, candles.iloc[:n]).iloc[-1] != whole.iloc[n - 1]]


@pytest.mark.parametrize("strategy", SHIPPED, ids=lambda strategy: f"{type(strategy).__name__}-{strategy.params}")
@settings(max_examples=15, deadline=None)
@given(candles=walks())
def test_every_prefix_says_the_same(strategy: Strategy[Any], candles: pd.DataFrame) -> None:
    assert differing(strategy, candles) == []


@pytest.mark.parametrize("strategy", SHIPPED, ids=lambda strategy: f"{type(strategy).__name__}-{strategy.params}")
@settings(max_examples=15, deadline=None)
@given(candles=walks(), other=walks(), cut=st.integers(85, 105))
def test_another_future_changes_nothing(
    strategy: Strategy[Any], candles: pd.DataFrame, other: pd.DataFrame, cut: int
) -> None:
    length = min(len(candles), len(other))
    mixed = pd.concat([candles.iloc[:cut], other.iloc[cut:length].set_axis(candles.index[cut:length])])
    assert evaluate(strategy, mixed).iloc[:cut].tolist() == evaluate(strategy, candles).iloc[:cut].tolist()


@pytest.mark.parametrize("wrong", [Peeking, Normalising])
def test_the_proof_finds_one_that_looks_ahead(wrong: type[SmaCross]) -> None:
    rng = np.random.default_rng(7)
    close = 100 + rng.normal(0, 1, 80).cumsum()
    index = pd.date_range("2024-01-01", periods=80, freq="1h", tz="UTC")
    candles = pd.DataFrame(dict.fromkeys(("open", "high", "low", "close", "volume"), close), index=index)
    assert differing(wrong(SmaCrossParams(price="close", fast=2, slow=7)), candles)


def test_the_walks_make_every_strategy_change_its_mind() -> None:
    """Else the proofs above would prove nothing."""
    rng = np.random.default_rng(3)
    close = 100 + rng.normal(0, 1, 300).cumsum()
    start = np.concatenate(([100.0], close[:-1]))
    top, bottom = rng.exponential(0.5, (2, 300))
    high, low = np.maximum(start, close) + top, np.minimum(start, close) - bottom
    index = pd.date_range("2024-01-01", periods=300, freq="1h", tz="UTC")
    candles = pd.DataFrame({"open": start, "high": high, "low": low, "close": close, "volume": 1.0}, index=index)
    for strategy in SHIPPED:
        assert (evaluate(strategy, candles).diff().abs() > 0).sum() > 5
