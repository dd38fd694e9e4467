"""Momentum: three rules on the shapes of candles and their closes, one vote.

The wicks of a candle are what its body leaves of its range: top = high - max(open, close), bottom = min(open, close) -
low. A long bottom wick says that lower prices were refused, a long top wick that higher ones were.

Rules, each -1 (out), 0 (nothing new) or +1 (in) at a candle
- Wick cross: +1 where the EMA of bottom wicks rises above that of top wicks, -1 where it falls below. EMAs that are
  equal cross nothing; the side they were on last counts.
- RSI turn: +1 where the RSI of the closes rises through `oversold` from below, -1 where it falls through `overbought`
  from above. While no close moves there is no RSI, so nothing turns.
- Wick jump: +1 where the bottom wick exceeds its threshold, -1 where the top wick does. The threshold is `jump` times
  the EMA of that wick at the candle before. Where both exceed theirs, the one that exceeds it by more (in price)
  decides. If both do equally, the body decides: +1 for a rising candle, else -1, the careful side. So a jump is
  never 0.

One vote: the sign of the sum of the three. Where two rules disagree and the third is silent, it is 0.
One target: the last vote that is not 0, carried forward; 0 before the first. So 0 says "as before", never "get out".
A target of -1 is out on a spot market.

Differences below 1e-9 of the close are none: that is the rounding of subtracted prices.

Formulas: EMA(n) starts with the mean of the first n values and has alpha 2 / (n + 1); RSI is Wilder's; both as TA-Lib
computes them (https://ta-lib.org/functions/ema, https://ta-lib.org/functions/rsi; J. Welles Wilder, New Concepts in
Technical Trading Systems, 1978).
"""

import numpy as np
import talib
from numpy.typing import NDArray
from pandas import DataFrame, Series
from pydantic import model_validator

from trader.strategy import Params, Strategy, param

SAME = 1e-9
"""Prices this close, as a share of the close, are equal."""
SETTLED = 10
"""After so many periods what an EMA, or Wilder's average, was started with weighs less than 1/20,000."""
MEMORY = 10
"""Within so many periods there is a vote: in the hours and minutes of BTC/USD in 2016 the longest silence was 3 periods
of 40 candles, and 7 of 10."""

Floats = NDArray[np.float64]


class MomentumParams(Params):
    """Periods in candles; the RSI's bounds from 0 to 100; how many times its average a wick must be to be a jump."""

    wick_period: int = param(40, ge=2, le=1_000, search=(5, 100))
    rsi_period: int = param(14, ge=2, le=1_000, search=(5, 50))
    oversold: float = param(30.0, gt=0, lt=100, search=(10.0, 45.0))
    overbought: float = param(70.0, gt=0, lt=100, search=(55.0, 90.0))
    jump: float = param(5.0, ge=1, le=1_000, search=(2.0, 20.0), log=True)

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> "MomentumParams":
        if self.oversold >= self.overbought:
            raise ValueError(
                f"oversold is {self.oversold:g} and overbought is {self.overbought:g}: oversold must be the smaller"
            )
        return self


class Momentum(Strategy[MomentumParams]):
    """Wick cross, RSI turn and wick jump, combined into one vote that is kept until the next."""

    @property
    def warm_up(self) -> int:
        """So many candles that the averages have settled, and that a vote is in sight after that."""
        return (SETTLED + MEMORY) * self._period

    @property
    def _period(self) -> int:
        return max(self.params.wick_period, self.params.rsi_period)

    def signal(self, candles: DataFrame) -> Series:
        """The last vote that is not 0, carried forward."""
        vote = self.vote(candles)
        return vote.where(vote != 0).ffill().fillna(0.0)

    def vote(self, candles: DataFrame) -> Series:
        """-1, 0 or +1 at each candle; 0 where the averages have not settled yet."""
        rules = self.wick_cross(candles) + self.rsi_turn(candles) + self.wick_jump(candles)
        vote = Series(np.sign(rules), index=candles.index)
        vote.iloc[: SETTLED * self._period - 1] = 0.0
        return vote

    def wick_cross(self, candles: DataFrame) -> Floats:
        """-1, 0 or +1 at each candle by the averages of the wicks."""
        (top, bottom), noise = wicks(candles), _noise(candles)
        lead = _ema(bottom, self.params.wick_period) - _ema(top, self.params.wick_period)
        side = Series(np.select([lead > noise, lead < -noise], [1.0, -1.0], np.nan)).ffill().to_numpy()
        before = _shift(side)
        return np.where((side != before) & ~np.isnan(before), side, 0.0)

    def rsi_turn(self, candles: DataFrame) -> Floats:
        """-1, 0 or +1 at each candle by the RSI."""
        close = candles["close"].to_numpy()
        step = close - _shift(close)
        moved = Series(np.abs(step) > 0).rolling(self.params.rsi_period).max().to_numpy()
        rsi = np.where(moved > 0, talib.RSI(close, self.params.rsi_period), np.nan)
        before = _shift(rsi)
        up = (before <= self.params.oversold) & (rsi > self.params.oversold)
        down = (before >= self.params.overbought) & (rsi < self.params.overbought)
        return np.select([up, down], [1.0, -1.0], 0.0)

    def wick_jump(self, candles: DataFrame) -> Floats:
        """-1, 0 or +1 at each candle by its own wicks; never 0 where one exceeds its threshold."""
        (top, bottom), noise = wicks(candles), _noise(candles)
        over_top = top - self.params.jump * _shift(_ema(top, self.params.wick_period))
        over_bottom = bottom - self.params.jump * _shift(_ema(bottom, self.params.wick_period))
        up, down = over_bottom > noise, over_top > noise
        body = np.where(candles["close"].to_numpy() > candles["open"].to_numpy(), 1.0, -1.0)
        lead = over_bottom - over_top
        both = np.where(np.abs(lead) <= noise, body, np.sign(lead))
        return np.select([up & down, up, down], [both, 1.0, -1.0], 0.0)


def wicks(candles: DataFrame) -> tuple[Floats, Floats]:
    """The top and the bottom wick of each candle, in price."""
    start, close = candles["open"].to_numpy(), candles["close"].to_numpy()
    return candles["high"].to_numpy() - np.maximum(start, close), np.minimum(start, close) - candles["low"].to_numpy()


def _noise(candles: DataFrame) -> Floats:
    return SAME * candles["close"].to_numpy()


def _ema(values: Floats, period: int) -> Floats:
    average: Floats = talib.EMA(values, period)
    return average


def _shift(values: Floats) -> Floats:
    """Each value one candle later; nothing at the first."""
    return np.concatenate(([np.nan], values[:-1]))
