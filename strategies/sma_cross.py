"""SMA cross: in while the fast simple moving average is above the slow one.

Rules
- The price of a candle is one of open, high, low, close, hl2 = (high + low) / 2, hlc3 = (high + low + close) / 3 and
  ohlc4 = (open + high + low + close) / 4.
- The target is 1 where SMA(fast) > SMA(slow), else 0. An entry needs a fresh cross (the kit sees to that).
- Averages that differ by less than 1e-10 of the slow one are equal: TA-Lib carries a running sum, whose rounding would
  otherwise cross by itself while prices stand still.

Formulas: SMA(n) is the mean of the last n prices, as TA-Lib's SMA computes it (https://ta-lib.org/functions/sma). The
price sources are TA-Lib's MEDPRICE, TYPPRICE and AVGPRICE.
"""

from typing import Literal

import talib
from pandas import DataFrame, Series
from pydantic import Field, model_validator

from trader.strategy import Params, Strategy

SAME = 1e-10
"""Averages this close, as a share, are equal."""


class SmaCrossParams(Params):
    """Periods in candles, and the price that is averaged."""

    price: Literal["open", "high", "low", "close", "ohlc4", "hl2", "hlc3"] = "ohlc4"
    fast: int = Field(3, ge=1, le=5_000)
    slow: int = Field(100, ge=2, le=5_000)

    @model_validator(mode="after")
    def _fast_is_faster(self) -> "SmaCrossParams":
        if self.fast >= self.slow:
            raise ValueError(f"fast is {self.fast} and slow is {self.slow}: fast must be smaller than slow")
        return self


class SmaCross(Strategy[SmaCrossParams]):
    """In while SMA(fast) of the price is above SMA(slow), else out."""

    @property
    def warm_up(self) -> int:
        """The slow average needs that many candles."""
        return self.params.slow

    def signal(self, candles: DataFrame) -> Series:
        """1 where the fast average is above the slow one, else 0."""
        price = price_of(candles, self.params.price).to_numpy()
        fast, slow = talib.SMA(price, self.params.fast), talib.SMA(price, self.params.slow)
        above = fast - slow > SAME * slow  # False where either is not there yet
        return Series(above.astype("float64"), index=candles.index)


def price_of(candles: DataFrame, source: str) -> Series:
    """The price of each candle by one of the sources that `SmaCrossParams.price` lists."""
    if source == "hl2":
        return (candles["high"] + candles["low"]) / 2
    if source == "hlc3":
        return (candles["high"] + candles["low"] + candles["close"]) / 3
    if source == "ohlc4":
        return (candles["open"] + candles["high"] + candles["low"] + candles["close"]) / 4
    return candles[source]
