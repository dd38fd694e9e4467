"""Support and resistance: in while a floor holds, out under a ceiling.

A candle is green if it closes above its open, red if below; one that closes at its open is neither. Its body reaches
from open to close. Indices count back from the newest closed candle: low is its own, close[3] that of three before.

Rules, at each candle
- A support is found where candle[3] is red, candle[2] is green and low x `tolerance` > close[3]. It is close[3]: there
  a fall ended, a rise began, and the price has come no deeper since than the tolerance allows. A new support takes the
  place of an old one.
- It is kept from the next candle on while it is unbroken: low > support and body bottom[1] > support. So the wick of
  the candle that found it may reach below it, by the tolerance, but its body may not. It is not tested at the candle
  that found it. One that broke does not come back; the next must be found.
- A resistance is the mirror: found where candle[3] is green, candle[2] is red and high < close[3] x `tolerance`, and
  kept while high < resistance and body top[1] < resistance.
- Either is forgotten `memory` candles after the one that found it, so that what is decided depends on so many candles
  and no more. Of 46,000 levels in the hours and minutes of BTC/USD in 2016 the longest lived 190.
- The close is at the resistance if there is one and close x `tolerance` >= resistance.

The target is 1 while there is a support and the close is not at a resistance, else 0. There is no -1.

The levels are the bodies' turns of classic chart reading (Robert D. Edwards and John Magee, Technical Analysis of Stock
Trends, 1948, chapter 13); the rules are our own, and no indicator of TA-Lib has them.
"""

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame, Series

from trader.strategy import Params, Strategy, param

REACH = 3
"""A level is the close of so many candles before the one that finds it."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class SupportResistanceParams(Params):
    """The tolerance as a factor on prices; the memory in candles."""

    tolerance: float = param(1.001, ge=1, le=1.1, search=(1.0, 1.02))
    memory: int = param(200, ge=1, le=5_000, search=(10, 400))


class SupportResistance(Strategy[SupportResistanceParams]):
    """In while a support is unbroken and the close is not at a resistance."""

    @property
    def warm_up(self) -> int:
        """The oldest level that counts, and the candles that found it."""
        return self.params.memory + REACH + 1

    def signal(self, candles: DataFrame) -> Series:
        """1 where there is a support and the close is not at a resistance, else 0."""
        close, resistance = candles["close"].to_numpy(), self.resistance(candles)
        at_resistance = close * self.params.tolerance >= resistance  # False where there is none
        inside = ~np.isnan(self.support(candles)) & ~at_resistance
        return Series(inside.astype("float64"), index=candles.index)

    def support(self, candles: DataFrame) -> Floats:
        """The support at the close of each candle, in price; NaN where there is none."""
        opens, lows, closes = (candles[name].to_numpy() for name in ("open", "low", "close"))
        turn = _ago(closes < opens, REACH) & _ago(closes > opens, REACH - 1)
        found = turn & (lows * self.params.tolerance > _before(closes, REACH))
        level, since = _newest(closes, found)
        broken = (lows <= level) | (_before(np.minimum(opens, closes), 1) <= level)
        return self._kept(level, since, broken & ~found)

    def resistance(self, candles: DataFrame) -> Floats:
        """The resistance at the close of each candle, in price; NaN where there is none."""
        opens, highs, closes = (candles[name].to_numpy() for name in ("open", "high", "close"))
        turn = _ago(closes > opens, REACH) & _ago(closes < opens, REACH - 1)
        found = turn & (highs < _before(closes, REACH) * self.params.tolerance)
        level, since = _newest(closes, found)
        broken = (highs >= level) | (_before(np.maximum(opens, closes), 1) >= level)
        return self._kept(level, since, broken & ~found)

    def _kept(self, level: Floats, since: NDArray[np.int64], broken: Flags) -> Floats:
        """The level where it is neither broken since it was found nor too old."""
        here = np.arange(len(level))
        last_break = np.maximum.accumulate(np.where(broken, here, -1)) if len(here) else here
        return np.where((last_break < since) & (here - since <= self.params.memory), level, np.nan)


def _newest(closes: Floats, found: Flags) -> tuple[Floats, NDArray[np.int64]]:
    """The level that was found last, and at which candle: NaN and -1 before the first."""
    here = np.arange(len(closes))
    since = np.maximum.accumulate(np.where(found, here, -1)) if len(here) else here
    return np.where(since >= 0, closes[np.maximum(since - REACH, 0)], np.nan), since


def _before(values: Floats, steps: int) -> Floats:
    """Each value so many candles later; NaN at the first ones."""
    return np.concatenate((np.full(steps, np.nan), values))[: len(values)]


def _ago(flags: Flags, steps: int) -> Flags:
    """Each flag so many candles later; False at the first ones."""
    return np.concatenate((np.zeros(steps, dtype=np.bool_), flags))[: len(flags)]
