"""Bars as columns: what a backtest runs over, checked once, with its gaps counted."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trader.bucket.timeframe import Timeframe, Times, timeframe_named
from trader.clock import from_milliseconds
from trader.errors import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True)
class Bars:
    """Closed candles of one market, oldest first. `time` is when each closed, in milliseconds since the epoch.

    Make them with `bars_of` or `bars_from_frame`, which check them.
    """

    timeframe: Timeframe
    time: Times
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, part: slice) -> "Bars":
        prices = (self.open[part], self.high[part], self.low[part], self.close[part])
        return Bars(self.timeframe, self.time[part], *prices, self.volume[part])

    @cached_property
    def opened(self) -> Times:
        """When each bar opened, in milliseconds."""
        return self.timeframe.opens(self.time)

    @cached_property
    def breaks(self) -> Indices:
        """Where there is a gap before a bar: its index."""
        if self.timeframe.span is not None:
            return np.flatnonzero(self.time[1:] - self.time[:-1] != self.timeframe.span) + 1
        return np.flatnonzero(self.timeframe.opens(self.time[1:]) != self.time[:-1]) + 1

    @cached_property
    def missing(self) -> int:
        """How many bars the gaps swallowed."""
        opens = self.timeframe.opens(self.time[self.breaks])
        before = self.time[self.breaks - 1]
        if self.timeframe.span is not None:
            return int(((opens - before) // self.timeframe.span).sum())
        months = [times.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64) for times in (opens, before)]
        return int((months[0] - months[1]).sum())

    def moment(self, index: int) -> str:
        """When a bar closed, for people."""
        return f"{from_milliseconds(int(self.time[index])):%Y-%m-%d %H:%M:%S}"


def bars_from_frame(frame: "DataFrame", timeframe: str) -> Bars:
    """The bars of a frame such as `read_buckets` gives: float columns, and the UTC times of close as index.

    Raises InputError: a column is missing, or a bar is none (see `bars_of`).
    """
    import pandas as pd  # slow to import

    missing = [name for name in (*PRICES, "volume") if name not in frame.columns]
    if missing:
        raise InputError(f"bars: no column {', '.join(missing)}; there is {', '.join(map(str, frame.columns))}")
    index = frame.index
    if not isinstance(index, pd.DatetimeIndex) or index.tz is None:
        raise InputError("bars: the index must be the UTC times of close")
    time = index.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    columns = (np.ascontiguousarray(frame[name].to_numpy(dtype=np.float64)) for name in (*PRICES, "volume"))
    return bars_of(timeframe, time, *columns)


def bars_of(
    timeframe: str, time: Times, opens: Floats, highs: Floats, lows: Floats, closes: Floats, volumes: Floats
) -> Bars:
    """Bars out of columns; `time` is the time of close in milliseconds.

    Raises InputError naming the first bar that is none: a time not after the one before, a price that is not above 0,
    one outside of low to high, a volume below 0, NaN.
    """
    bars = Bars(timeframe_named(timeframe), time, opens, highs, lows, closes, volumes)
    for name in (*PRICES, "volume"):
        if len(getattr(bars, name)) != len(time):
            raise InputError(f"bars: {len(getattr(bars, name))} values of {name} for {len(time)} times")
    _refuse(bars, "time", np.concatenate(([False], time[1:] <= time[:-1])), "is not after the one before")
    for name in PRICES:
        column = getattr(bars, name)
        _refuse(bars, name, ~((column > 0) & (column < np.inf)), "is no price above 0")
    for name in ("open", "close", "high"):
        _refuse(bars, name, getattr(bars, name) < lows, "is below the low")
    for name in ("open", "close"):
        _refuse(bars, name, getattr(bars, name) > highs, "is above the high")
    _refuse(bars, "volume", ~((volumes >= 0) & (volumes < np.inf)), "is no amount from 0")
    return bars


def _refuse(bars: Bars, name: str, wrong: NDArray[np.bool_], problem: str) -> None:
    if wrong.any():
        index = int(wrong.argmax())
        value = bars.moment(index) if name == "time" else getattr(bars, name)[index]
        raise InputError(f"bar {index + 1} ({bars.moment(index)}): {name} {value} {problem}")
