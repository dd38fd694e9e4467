"""Moving average: in while the close is above its own average. As small as a strategy can be.

Rule: the target is 1 where close > SMA(`period`), else 0. A close that is above by less than 1e-10 of the average is at
it: TA-Lib carries a running sum, whose rounding is no price.

Formula: SMA(n) is the mean of the last n closes, as TA-Lib computes it (https://ta-lib.org/functions/sma).
"""

import talib
from pandas import DataFrame, Series

from trader.strategy import Params, Strategy, param

SAME = 1e-10
"""Prices this close, as a share, are equal."""


class MovingAverageParams(Params):
    """The period in candles."""

    period: int = param(20, ge=2, le=5_000, search=(5, 200))


class MovingAverage(Strategy[MovingAverageParams]):
    """In while the close is above the mean of the last `period` closes, else out."""

    @property
    def warm_up(self) -> int:
        """The average needs that many candles."""
        return self.params.period

    def signal(self, candles: DataFrame) -> Series:
        """1 where the close is above its average, else 0."""
        average = talib.SMA(candles["close"].to_numpy(), self.params.period)
        return (candles["close"] > average * (1 + SAME)).astype("float64")
