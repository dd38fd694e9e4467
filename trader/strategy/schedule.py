"""Schedules: at which candles a strategy decides. Moments are UTC, and those at which candles close."""

from datetime import datetime
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trader.bucket.timeframe import DAY, HOUR, MINUTE, timeframe_named
from trader.clock import to_milliseconds
from trader.errors import InputError

if TYPE_CHECKING:
    from pandas import DatetimeIndex

Schedule = Literal["bucket", "minute", "hour", "day"]
"""bucket: at every candle. Else only at those that close as a minute, an hour or a day (00:00 UTC) is full."""
SPANS = {"minute": MINUTE, "hour": HOUR, "day": DAY}


def parse_schedule(name: str, timeframe: str) -> Schedule:
    """The schedule of that name. InputError: there is none, or it is finer than the candles of `timeframe`."""
    if name not in get_args(Schedule):
        raise InputError(f"schedule is {name!r}: allowed are {', '.join(get_args(Schedule))}")
    schedule: Schedule = name  # type: ignore[assignment]  # it is one of them
    span = timeframe_named(timeframe).span
    if schedule != "bucket" and (span is None or span > SPANS[schedule]):
        coarse = [other for other in SPANS if span is not None and span <= SPANS[other]]
        raise InputError(
            f"schedule is {name}, but candles of {timeframe} do not close every {name}: allowed are "
            f"{', '.join(['bucket', *coarse])}"
        )
    return schedule


def is_due(schedule: Schedule, last: datetime | None, newest: datetime) -> bool:
    """Whether a scheduled moment lies in (last, newest], so that the candle that closed at `newest` is decided on.

    Several missed moments are one. Without a `last` decision only a candle that closes at such a moment is.
    """
    if schedule == "bucket":
        return last is None or last < newest
    span, until = SPANS[schedule], to_milliseconds(newest)
    since = until - 1 if last is None else to_milliseconds(last)
    return until // span > since // span


def scheduled(index: "DatetimeIndex | NDArray[np.int64]", schedule: Schedule) -> NDArray[np.bool_]:
    """Which candles are decided on, by their times of close (oldest first; an array has milliseconds).

    Where the candle that closes at a scheduled moment is missing, it is the first after it: as live after a downtime.
    """
    closes = index if isinstance(index, np.ndarray) else milliseconds(index)
    if schedule == "bucket" or len(closes) == 0:
        return np.ones(len(closes), dtype=np.bool_)
    numbers = closes // SPANS[schedule]
    first = closes[:1] % SPANS[schedule] == 0
    return np.concatenate((first, numbers[1:] > numbers[:-1]))


def milliseconds(index: "DatetimeIndex") -> NDArray[np.int64]:
    """The times of an index, in milliseconds since the Unix epoch."""
    naive = index.tz_convert("UTC").tz_localize(None) if index.tz is not None else index
    return naive.to_numpy().astype("datetime64[ms]").astype(np.int64)
