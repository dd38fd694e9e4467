"""Regime trend: in for a rising trend, but only from a candle on at which the market trends at all.

Rules
- The trend rises where SMA(fast) of the closes > SMA(slow). Averages that differ by less than 1e-10 of the slow one are
  equal: TA-Lib carries a running sum, whose rounding is no price.
- The regime is that of a trend where ADX(`adx_period`) >= `adx_least`. With 0 every regime is.
- The target becomes 1 at the first candle of a rising trend whose regime is that of a trend, and stays so until the
  trend rises no more; then it is 0. So the regime is asked at the entry only: a trend that loses strength is not left
  before it ends. There is no -1.

The defaults were chosen by walk-forward over a stated family; docs/shipped.md has how, and what came of it afterwards.

Formulas: SMA(n) is the mean of the last n closes (https://ta-lib.org/functions/sma). ADX(n) is Wilder's average of
100 x |+DI - -DI| / (+DI + -DI), from 0 to 100, however it moves (https://ta-lib.org/functions/adx; J. Welles Wilder,
New Concepts in Technical Trading Systems, 1978). Both as TA-Lib computes them.
"""

import numpy as np
import talib
from numpy.typing import NDArray
from pandas import DataFrame, Series
from pydantic import model_validator

from trader.strategy import Params, Strategy, param

SAME = 1e-10
"""Averages this close, as a share, are equal."""
SETTLED = 20
"""After so many periods what Wilder's averages were started with weighs less than 1e-7."""

Flags = NDArray[np.bool_]


class RegimeTrendParams(Params):
    """Periods in candles; the ADX from 0 to 100 from which a market trends."""

    fast: int = param(40, ge=1, le=5_000, search=(5, 40))
    slow: int = param(200, ge=2, le=5_000, search=(50, 400))
    adx_period: int = param(14, ge=2, le=1_000)
    adx_least: float = param(30.0, ge=0, le=100, search=(0.0, 40.0))

    @model_validator(mode="after")
    def _fast_is_faster(self) -> "RegimeTrendParams":
        if self.fast >= self.slow:
            raise ValueError(f"fast is {self.fast} and slow is {self.slow}: fast must be smaller than slow")
        return self


class RegimeTrend(Strategy[RegimeTrendParams]):
    """In from a candle of a rising trend at which the market trends, until the trend rises no more."""

    @property
    def warm_up(self) -> int:
        """So many candles that the slow average is there and the ADX has settled."""
        return max(self.params.slow, self._settled)

    @property
    def _settled(self) -> int:
        return SETTLED * self.params.adx_period

    def signal(self, candles: DataFrame) -> Series:
        """1 from the first strong candle of each rising trend to its end, else 0."""
        rising, here = self.rising(candles), np.arange(len(candles))
        last_strong = _latest(np.where(self.trending(candles), here, -1))
        last_end = _latest(np.where(rising, -1, here))  # a candle that does not rise is an end, however strong
        return Series((last_strong > last_end).astype("float64"), index=candles.index)

    def rising(self, candles: DataFrame) -> Flags:
        """Whether the fast average is above the slow one; False before both are there."""
        close = candles["close"].to_numpy()
        fast, slow = talib.SMA(close, self.params.fast), talib.SMA(close, self.params.slow)
        above: Flags = fast - slow > SAME * slow
        return above

    def trending(self, candles: DataFrame) -> Flags:
        """Whether the regime is that of a trend; False before the ADX has settled."""
        high, low, close = (candles[name].to_numpy() for name in ("high", "low", "close"))
        strong: Flags = talib.ADX(high, low, close, self.params.adx_period) >= self.params.adx_least
        strong[: self._settled - 1] = False
        return strong


def _latest(places: NDArray[np.int64]) -> NDArray[np.int64]:
    latest: NDArray[np.int64] = np.maximum.accumulate(places)
    return latest
