"""Candles as columns: many at once, checked as a whole before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from trader.bucket.timeframe import Timeframe, Times
from trader.clock import from_milliseconds, to_milliseconds
from trader.errors import InputError
from trader.exchange.protocol import Candle

Column = NDArray[np.float64]
PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True, slots=True)
class Candles:
    """Candles of one market and timeframe, oldest first. `time_open` is in milliseconds since the epoch."""

    time_open: Times
    open: Column
    high: Column
    low: Column
    close: Column
    volume: Column

    def __len__(self) -> int:
        return len(self.time_open)

    def __getitem__(self, part: slice | NDArray[np.bool_]) -> "Candles":
        return Candles(*(getattr(self, name)[part] for name in ("time_open", *PRICES, "volume")))

    def __add__(self, later: "Candles") -> "Candles":
        names = ("time_open", *PRICES, "volume")
        return Candles(*(np.concatenate([getattr(self, name), getattr(later, name)]) for name in names))


class BadCandleError(InputError):
    """A candle that cannot be. `index` counts from 0; `field` is the column to blame."""

    def __init__(self, index: int, field: str, problem: str) -> None:
        super().__init__(f"candle {index + 1}: {field} {problem}")
        self.index = index
        self.field = field
        self.problem = problem


def from_list(candles: Sequence[Candle]) -> Candles:
    """Columns of what an exchange gave."""
    times = np.array([to_milliseconds(candle.time_open) for candle in candles], dtype=np.int64)
    columns = (np.array([getattr(c, name) for c in candles], dtype=np.float64) for name in (*PRICES, "volume"))
    return Candles(times, *columns)


def check(candles: Candles, timeframe: Timeframe) -> None:
    """Raise BadCandleError for the first candle that is malformed, not where one may open, or not after the last."""
    found = [
        problem
        for problem in (_bad_time(candles, timeframe), *_bad_prices(candles), _bad_order(candles))
        if problem is not None
    ]
    if found:
        raise min(found, key=lambda problem: problem.index)


def _bad_time(candles: Candles, timeframe: Timeframe) -> BadCandleError | None:
    rule = f"is not where a {timeframe.name} candle may open"
    return _first(~timeframe.aligned(candles.time_open), "time_open", candles.time_open, rule, moment=True)


def _bad_order(candles: Candles) -> BadCandleError | None:
    times = candles.time_open
    step = np.diff(times, prepend=times[:1] - 1)
    again = _first(step == 0, "time_open", times, "is there twice", moment=True)
    back = _first(step < 0, "time_open", times, "is before the candle above it", moment=True)
    return min((p for p in (again, back) if p), key=lambda problem: problem.index, default=None)


def _bad_prices(candles: Candles) -> list[BadCandleError | None]:
    problems = []
    for name in (*PRICES, "volume"):
        column = getattr(candles, name)
        problems.append(_first(~np.isfinite(column), name, column, "is not a finite number"))
        if name == "volume":
            problems.append(_first(column < 0, name, column, "is below zero"))
        else:
            problems.append(_first(column <= 0, name, column, "is not above zero"))
    lowest, highest = np.minimum(candles.open, candles.close), np.maximum(candles.open, candles.close)
    problems.append(_first(candles.high < candles.low, "high", candles.high, "is below low"))
    problems.append(_first(candles.high < highest, "high", candles.high, "is below open or close"))
    problems.append(_first(candles.low > lowest, "low", candles.low, "is above open or close"))
    return problems


def _first(
    bad: NDArray[np.bool_], field: str, values: Column | Times, problem: str, *, moment: bool = False
) -> BadCandleError | None:
    if not bad.any():
        return None
    index = int(np.argmax(bad))
    value = values[index]
    text = f"{value} ({from_milliseconds(int(value)):%Y-%m-%d %H:%M:%S} UTC)" if moment else repr(float(value))
    return BadCandleError(index, field, f"{text} {problem}")


def closed(candles: Candles, timeframe: Timeframe, venue_time: datetime | None) -> Candles:
    """Those of `candles` that are proven closed, which must be sorted.

    `venue_time` is the venue's clock from before they were asked for: a candle has closed if its end is not after
    that. None: candles are replayed on another clock, so only a later candle proves that an earlier one has closed.
    """
    if venue_time is None:
        return candles[: max(0, len(candles) - 1)]
    return candles[timeframe.closes(candles.time_open) <= to_milliseconds(venue_time)]
