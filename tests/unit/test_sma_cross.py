"""SMA cross on drawn candles; the averages are worked out by hand."""

from typing import Any

import pandas as pd
import pytest

from strategies.sma_cross import SmaCross, SmaCrossParams, price_of
from trader.errors import InputError
from trader.strategy import evaluate, load


def flat(*closes: float) -> pd.DataFrame:
    """Candles that are a line each: every price source is the close."""
    index = pd.date_range("2024-01-01", periods=len(closes), freq="1h", tz="UTC", name="time_close")
    return pd.DataFrame(
        {name: list(closes) for name in ("open", "high", "low", "close", "volume")}, index=index, dtype=float
    )


def targets(candles: pd.DataFrame, fast: int, slow: int, price: str = "ohlc4") -> list[float]:
    params = SmaCrossParams.model_validate({"fast": fast, "slow": slow, "price": price})
    return evaluate(SmaCross(params), candles).tolist()


def test_it_is_in_while_the_fast_average_is_above_the_slow_one() -> None:
    # close   10  10  10  13   16   10   7    7     13
    # SMA 2       10  10  11.5 14.5 13   8.5  7     10
    # SMA 4               10.75 12.25 12.25 11.5 10 9.25
    assert targets(flat(10, 10, 10, 13, 16, 10, 7, 7, 13), 2, 4) == [0, 0, 0, 1, 1, 1, 0, 0, 1]


def test_equal_averages_are_no_cross() -> None:
    assert targets(flat(*[0.1] * 500), 3, 100) == [0] * 500
    assert targets(flat(*[70_123.45, 70_123.47] * 300), 2, 100) == [0] * 600


def test_nothing_is_said_before_the_slow_average_is_there() -> None:
    assert targets(flat(1, 2, 3), 2, 4) == [0, 0, 0]
    assert targets(flat(1, 2, 3, 4), 2, 4) == [0, 0, 0, 1]
    assert targets(flat(), 2, 4) == []


CANDLE = pd.DataFrame({"open": [4.0], "high": [9.0], "low": [3.0], "close": [6.0], "volume": [1.0]})


@pytest.mark.parametrize(
    ("source", "price"),
    [("open", 4.0), ("high", 9.0), ("low", 3.0), ("close", 6.0), ("hl2", 6.0), ("hlc3", 6.0), ("ohlc4", 5.5)],
)
def test_price_sources(source: str, price: float) -> None:
    assert price_of(CANDLE, source).tolist() == [price]


def test_the_price_source_decides() -> None:
    candles = flat(10, 10, 10, 10)
    candles.loc[candles.index[-1], "high"] = 20.0
    assert targets(candles, 1, 3, "close")[-1] == 0
    assert targets(candles, 1, 3, "high")[-1] == 1


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"fast": 0}, "parameter fast is 0: a whole number, at least 1, at most 5000"),
        ({"slow": 5001}, "parameter slow is 5001: a whole number, at least 2, at most 5000"),
        ({"fast": 2.5}, "parameter fast is 2.5: a whole number, at least 1, at most 5000"),
        ({"price": "vwap"}, "parameter price is 'vwap': one of open, high, low, close, ohlc4, hl2, hlc3"),
        ({"fast": 100}, "fast is 100 and slow is 100: fast must be smaller than slow"),
        ({"fast": 9, "slow": 5}, "fast is 9 and slow is 5: fast must be smaller than slow"),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        load("strategies.sma_cross:SmaCross", params)
    assert str(refused.value) == f"SmaCross: {sentence}"
