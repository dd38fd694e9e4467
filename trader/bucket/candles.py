"""Candles as columns: many at once, checked as a whole before anything is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from trader.bucket.timeframe import Timeframe, Times
from trader.clock import from_milliseconds, to_milliseconds
from trader.errors import InputError
from trader.exchange.protocol import Candle

Column = NDArray[np.float64]
PRICES = ("open", "high", "low", "close")
_NUMBERS = attrgetter(*PRICES, "volume")


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
    numbers = np.array(list(map(_NUMBERS, candles)), dtype=np.float64).reshape(-1, 5)
    return Candles(times, *np.ascontiguousarray(numbers.T))


def check(candles: Candles, timeframe: Timeframe) -> None:
    """Raise BadCandleError for the first candle that is malformed, not where one may open, or not after the last."""
    found = [_first(candles, *fault) for fault in (*faults(candles, timeframe), *_bad_order(candles))]
    errors = [error for error in found if error is not None]
    if errors:
        raise min(errors, key=lambda error: error.index)


Fault = tuple[str, NDArray[np.bool_], str]
"""A field, which candles are wrong in it, and what is wrong."""


def faults(candles: Candles, timeframe: Timeframe) -> Iterator[Fault]:
    """What a candle can be blamed for by itself, whatever comes before and after it; nothing if none can be blamed."""
    if bool(np.all(_flawless(candles, timeframe))):
        return
    yield "time_open", ~timeframe.aligned(candles.time_open), f"is not where a {timeframe.name} candle may open"
    for name in (*PRICES, "volume"):
        column = getattr(candles, name)
        yield name, ~np.isfinite(column), "is not a finite number"
        if name == "volume":
            yield name, column < 0, "is below zero"
        else:
            yield name, column <= 0, "is not above zero"
    lowest, highest = np.minimum(candles.open, candles.close), np.maximum(candles.open, candles.close)
    yield "high", candles.high < candles.low, "is below low"
    yield "high", candles.high < highest, "is below open or close"
    yield "low", candles.low > lowest, "is above open or close"


def _flawless(candles: Candles, timeframe: Timeframe) -> NDArray[np.bool_]:
    """Which candles have no fault, in a quarter of the steps that it takes to name one. NaN fails each of them."""
    low, high = candles.low, candles.high
    good = timeframe.aligned(candles.time_open) & (low > 0) & (high < np.inf)
    for price in (candles.open, candles.close):
        good &= (low <= price) & (price <= high)
    return np.asarray(good & (candles.volume >= 0) & (candles.volume < np.inf))


def _bad_order(candles: Candles) -> Iterator[Fault]:
    times = candles.time_open
    step = np.diff(times, prepend=times[:1] - 1)
    yield "time_open", step == 0, "is there twice"
    yield "time_open", step < 0, "is before the candle above it"


def _first(candles: Candles, field: str, bad: NDArray[np.bool_], problem: str) -> BadCandleError | None:
    if not bad.any():
        return None
    index = int(np.argmax(bad))
    value = getattr(candles, field)[index]
    if field == "time_open":
        text = f"{value} ({from_milliseconds(int(value)):%Y-%m-%d %H:%M:%S} UTC)"
    else:
        text = repr(float(value))
    return BadCandleError(index, field, f"{text} {problem}")


def numbers_of(candles: Candles, index: int) -> Column:
    """Prices and volume of one candle."""
    return np.array([getattr(candles, name)[index] for name in (*PRICES, "volume")])


def closed(candles: Candles, timeframe: Timeframe, venue_time: datetime | None) -> Candles:
    """Those of `candles` that are proven closed, which must be sorted.

    `venue_time` is the venue's clock from before they were asked for: a candle has closed if its end is not after
    that. None: candles are replayed on another clock, so only a later candle proves that an earlier one has closed.
    """
    if venue_time is None:
        return candles[: max(0, len(candles) - 1)]
    return candles[timeframe.closes(candles.time_open) <= to_milliseconds(venue_time)]
