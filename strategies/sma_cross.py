"""SMA cross: in while the fast simple moving average is above the slow one. The same with a stop: StopTrending.

Rules of `SmaCross`
- The price of a candle is one of open, high, low, close, hl2 = (high + low) / 2, hlc3 = (high + low + close) / 3 and
  ohlc4 = (open + high + low + close) / 4.
- The target is 1 where SMA(fast) > SMA(slow), else 0. An entry needs a fresh cross (the kit sees to that).
- Averages that differ by less than 1e-10 of the slow one are equal: TA-Lib carries a running sum, whose rounding would
  otherwise cross by itself while prices stand still.

Rules of `StopTrending`, which looks at every minute and takes the averages of every hour
- It buys at the first candle of its own that knows a fresh cross of the `trend` candles: SMA(fast) above SMA(slow) at
  the newest of them, and not at the one before. It sells all where SMA(fast) is above no more.
- From its entry on it has a target, at first the price of the candle that decided it. At each candle after that,
  - it sells all if of the last 10 prices 3 or more are at most 0.95 x target, or of the last 50 20 or more at most
    0.99 x target (the stop);
  - else, if of the last 10 prices 4 or more are at least 1.06 x target, the target rises by 6 %. It never falls.
- Only prices since the entry count, and after a rise only those since that.
- After a stop it waits for a fresh cross: the averages must part first and cross again. One cross is one entry.
- What is held without an entry of its own (deposited, or its state was lost) is followed as if entered at this candle.
- Candles that it did not see (a restart, an outage of ours) are gone through afterwards, one by one, up to 1,440 of
  them: the target is then what it would have been. A stop that was missed is made up for at once. An end of the trend
  that was missed, and is over, is not.
- Across a gap it goes on (`gaps` is "any"): a stop must not wait for what nobody can give. Prices that are there count.

Formulas: SMA(n) is the mean of the last n prices, as TA-Lib's SMA computes it (https://ta-lib.org/functions/sma). The
price sources are TA-Lib's MEDPRICE, TYPPRICE and AVGPRICE. The stop is our own; no function of TA-Lib has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import talib
from numpy.typing import NDArray
from pandas import DataFrame, DatetimeIndex, Series
from pydantic import model_validator

from trader.clock import from_milliseconds
from trader.strategy import GapPolicy, Input, OnBucketContext, Params, Strategy, at, param

SAME = 1e-10
"""Averages this close, as a share, are equal; so are a price and what it is compared with."""
MISSED = 1_440
"""So many candles that were not seen are made up for."""
MINUTE = 60_000
"""No candle is shorter, in milliseconds."""

Floats = NDArray[np.float64]


class SmaCrossParams(Params):
    """Periods in candles, and the price that is averaged."""

    price: Literal["open", "high", "low", "close", "ohlc4", "hl2", "hlc3"] = param("ohlc4", search=("close", "ohlc4"))
    fast: int = param(3, ge=1, le=5_000, search=(1, 20))
    slow: int = param(100, ge=2, le=5_000, search=(21, 300))

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
        return Series(above(candles, self.params).astype("float64"), index=candles.index)


def above(candles: DataFrame, params: SmaCrossParams) -> NDArray[np.bool_]:
    """Where the fast average is above the slow one; False where either is not there yet."""
    price = price_of(candles, params.price).to_numpy()
    fast, slow = talib.SMA(price, params.fast), talib.SMA(price, params.slow)
    higher: NDArray[np.bool_] = fast - slow > SAME * slow
    return higher


def price_of(candles: DataFrame, source: str) -> Series:
    """The price of each candle by one of the sources that `SmaCrossParams.price` lists."""
    start, high, low, close = (candles[name].to_numpy() for name in ("open", "high", "low", "close"))
    if source == "hl2":
        return Series(talib.MEDPRICE(high, low), index=candles.index)
    if source == "hlc3":
        return Series(talib.TYPPRICE(high, low, close), index=candles.index)
    if source == "ohlc4":
        return Series(talib.AVGPRICE(start, high, low, close), index=candles.index)
    return candles[source]


# With a stop


class StopTrendingParams(SmaCrossParams):
    """The averages over candles of `trend`; the stop by factors on its target, and by how many of how many prices."""

    trend: Literal["5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d"] = "1h"
    deep: float = param(0.95, gt=0, lt=1, search=(0.8, 0.98))
    deep_count: int = param(3, ge=1, le=MISSED, search=(1, 10))
    deep_of: int = param(10, ge=1, le=MISSED)
    shallow: float = param(0.99, gt=0, lt=1, search=(0.98, 0.999))
    shallow_count: int = param(20, ge=1, le=MISSED, search=(5, 50))
    shallow_of: int = param(50, ge=1, le=MISSED)
    rise: float = param(1.06, gt=1, le=10, search=(1.01, 1.2))
    rise_count: int = param(4, ge=1, le=MISSED, search=(1, 10))
    rise_of: int = param(10, ge=1, le=MISSED)

    @model_validator(mode="after")
    def _counts_fit(self) -> "StopTrendingParams":
        for name in ("deep", "shallow", "rise"):
            count, of = getattr(self, f"{name}_count"), getattr(self, f"{name}_of")
            if count > of:
                raise ValueError(f"{name}_count is {count} and {name}_of is {of}: so many of so few there cannot be")
        if self.deep > self.shallow:
            raise ValueError(f"deep is {self.deep:g} and shallow is {self.shallow:g}: deep must not be above shallow")
        return self

    @property
    def longest(self) -> int:
        """How many prices are looked at, at most."""
        return max(self.deep_of, self.shallow_of, self.rise_of)


@dataclass(frozen=True, slots=True)
class Followed:
    """Where a stop stands after some prices."""

    target: float
    rose_at: int | None
    """The place of the price at which the target rose last; None: it did not."""
    stopped_at: int | None
    """The place of the price at which it sells; None: it holds on."""


def follow(prices: Floats, target: float, params: StopTrendingParams, unseen: int | None = None) -> Followed:
    """Go through `prices`, those since the entry or since `target` rose last, oldest first.

    Only the last `unseen` of them are judged, all if not given: the others were before.
    """
    first, rose_at = 0, None
    for end in range(len(prices) - (len(prices) if unseen is None else unseen) + 1, len(prices) + 1):
        counted = prices[first:end]
        if _falls(counted, target, params):
            return Followed(target, rose_at, end - 1)
        if _many(counted[-params.rise_of :] >= target * params.rise * (1 - SAME), params.rise_count):
            target, first, rose_at = target * params.rise, end, end - 1
    return Followed(target, rose_at, None)


def _falls(prices: Floats, target: float, params: StopTrendingParams) -> bool:
    deep, shallow = target * params.deep * (1 + SAME), target * params.shallow * (1 + SAME)
    return _many(prices[-params.deep_of :] <= deep, params.deep_count) or _many(
        prices[-params.shallow_of :] <= shallow, params.shallow_count
    )


def _many(flags: NDArray[np.bool_], least: int) -> bool:
    return int(np.count_nonzero(flags)) >= least


class StopTrending(Strategy[StopTrendingParams]):
    """SMA cross of the hours, with a stop on the minutes that follows the price up."""

    gaps: ClassVar[GapPolicy] = "any"

    @property
    def warm_up(self) -> int:
        """What the stop looks at, and the candles that may have been missed. The averages have their own."""
        return MISSED + self.params.longest

    @property
    def inputs(self) -> Mapping[str, Input]:
        """The candles of the averages: one more than the slow one needs, so that a cross can be told."""
        return {"trend": Input(timeframe=self.params.trend, warm_up=self.params.slow + 1)}

    def indicators(self, candles: DataFrame, trend: DataFrame) -> DataFrame:
        """The price and when it was; whether the trend rises, and when it crossed, if at its newest candle."""
        rising = above(trend, self.params)
        before = np.concatenate(([False], rising[:-1]))
        crossed = np.where(rising & ~before, _milliseconds(trend), np.nan)
        columns = DataFrame({"rising": rising.astype("float64"), "crossed": crossed}, index=trend.index)
        return at(columns, DatetimeIndex(candles.index)).assign(
            price=price_of(candles, self.params.price), closed=_milliseconds(candles)
        )

    def on_bucket(self, context: OnBucketContext) -> float | None:
        """Buy at a fresh cross; sell where the trend rises no more, or where the stop says so."""
        state, crossed = context.state, context.now.crossed
        if context.now.rising != 1.0:  # NaN before the first candle of the trend
            state.clear()
            return 0.0
        if not state.get("inside") and crossed == crossed and crossed != state.get("crossed"):
            self._begin(context, crossed)
            context.buy()
            return None
        if state.get("stopped"):
            return 0.0
        if not context.quantity:
            return self._empty(context)
        if not state.get("inside"):
            self._begin(context, crossed if crossed == crossed else None)
        return self._follow(context)

    def _begin(self, context: OnBucketContext, crossed: float | None) -> None:
        """Take this candle's price as the target."""
        now = context.milliseconds
        context.state.update(inside=True, target=context.now.price, since=now, seen=now, crossed=crossed, stopped=False)

    def _empty(self, context: OnBucketContext) -> float | None:
        """Nothing is held: the buy is still on its way, or it came to nothing."""
        if context.orders:
            return None
        context.state["inside"] = False
        return 0.0

    def _follow(self, context: OnBucketContext) -> float:
        """Judge the prices that were not seen yet: 0 if the stop says so, else 1."""
        state, longest = context.state, self.params.longest
        missed = (context.milliseconds - state["seen"]) // MINUTE - 1  # at most: a minute without a trade has no candle
        width, since = longest + min(max(missed, 0), MISSED), from_milliseconds(state["since"])
        prices, closed = context.window("price", width, since), context.window("closed", width, since)
        unseen = len(closed) - int(closed.searchsorted(state["seen"], side="right"))
        followed = follow(prices, state["target"], self.params, unseen)
        state["seen"] = context.milliseconds
        if followed.rose_at is not None:
            state.update(target=followed.target, since=int(closed[followed.rose_at]))
        if followed.stopped_at is None:
            return 1.0
        state.update(inside=False, stopped=True)
        return 0.0


def _milliseconds(candles: DataFrame) -> Floats:
    """The times of close since the epoch, as floats: they are whole numbers far below 2^53."""
    naive = DatetimeIndex(candles.index).tz_convert("UTC").tz_localize(None)
    return naive.to_numpy().astype("datetime64[ms]").astype("float64")
