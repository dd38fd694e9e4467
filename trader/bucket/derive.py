"""Larger candles out of smaller ones, aligned in UTC: the arithmetic. `derived.py` brings the rows."""

from dataclasses import dataclass
from math import fsum

import numpy as np
from numpy.typing import NDArray

from trader.bucket.candles import Candles, Column
from trader.bucket.timeframe import DAY, Timeframe, Times
from trader.clock import from_milliseconds
from trader.errors import InputError

MONDAY = 4 * DAY
"""1970-01-05: weeks open on a Monday."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Stretches of time, half-open, sorted, that do not touch each other: milliseconds since the epoch."""

    starts: Times
    ends: Times

    def within(self, starts: Times, ends: Times) -> Times:
        """How much of these stretches lies in each of [starts, ends), in milliseconds."""
        return self._until(ends) - self._until(starts)

    def _until(self, moments: Times) -> Times:
        lengths = self.ends - self.starts
        before = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
        last = np.searchsorted(self.starts, moments, "right") - 1
        if not len(self.starts):
            return np.zeros(len(moments), np.int64)
        here = np.clip(moments - self.starts[last], 0, lengths[last])
        return np.where(last < 0, 0, before[last] + here)


NOTHING = Ranges(np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class Derived:
    """Candles of the larger timeframe, oldest first. `partial`: which of them lack smaller ones, in which nobody
    traded."""

    candles: Candles
    partial: NDArray[np.bool_]


def divides(smaller: Timeframe, larger: Timeframe) -> bool:
    """Whether candles of `larger` are made of whole candles of `smaller`, and more than one of them."""
    if smaller.span is None or smaller.id == larger.id:
        return False
    return (DAY if larger.span is None else larger.span) % smaller.span == 0


def period_opens(times: Times, timeframe: Timeframe) -> Times:
    """When the candle opens that holds each of `times`: in UTC, weeks on Monday as venues have them, months on the
    first."""
    if timeframe.span is None:
        months = times.astype("datetime64[ms]").astype("datetime64[M]")
        return months.astype("datetime64[ms]").astype(np.int64)
    shift = MONDAY if timeframe.span % (7 * DAY) == 0 else 0
    return (times - shift) // timeframe.span * timeframe.span + shift


def derive(source: Candles, smaller: Timeframe, larger: Timeframe, quiet: Ranges = NOTHING) -> Derived:
    """The candles of `larger` that `source` makes: whole ones, and those where all that is missing lies in `quiet`.

    `source` must hold all candles of the periods that it touches, sorted; `quiet` is where it is known that nobody
    traded, and holds no candle of `source`. A period without any candle makes none. The volume is the sum, exact
    before it is rounded to 15 digits, so that it is the sum of what the venue printed. A candle that opens elsewhere
    than on the grid in UTC is as good as missing. Raises InputError if the pair does not fit, or all of them are such.
    """
    if smaller.span is None or not divides(smaller, larger):
        raise InputError(f"timeframe {larger.name} cannot be derived from {smaller.name}: it does not divide it")
    wrong = off_grid(source.time_open, smaller)
    if wrong.any():
        if wrong.all():
            raise InputError(
                f"a {smaller.name} candle opens at {first_of(source.time_open, wrong)}: larger ones are made only of "
                "such that open on the grid in UTC"
            )
        source = source[~wrong]
    times = source.time_open
    opens = period_opens(times, larger)
    firsts = np.flatnonzero(np.diff(opens, prepend=opens[:1] - 1))
    found, ends = opens[firsts], larger.closes(opens[firsts])
    counts = np.diff(np.append(firsts, len(times)))
    lacking = (ends - found) - counts * smaller.span
    partial = (lacking > 0) & (quiet.within(found, ends) == lacking)
    wanted = (lacking == 0) | partial
    return Derived(_merge(source, firsts, found)[wanted], partial[wanted])


def off_grid(times: Times, timeframe: Timeframe) -> NDArray[np.bool_]:
    """Which of these opening times are not on the grid in UTC: whoever wrote such a candle was not a venue's clock."""
    return np.asarray(period_opens(times, timeframe) != times)


def first_of(times: Times, chosen: NDArray[np.bool_]) -> str:
    """The first moment that is chosen, for people."""
    return f"{from_milliseconds(int(times[np.argmax(chosen)])):%Y-%m-%d %H:%M:%S} UTC"


def _merge(source: Candles, firsts: NDArray[np.intp], opens: Times) -> Candles:
    if not len(firsts):
        return source[:0]
    lasts = np.append(firsts[1:], len(source)) - 1
    return Candles(
        opens,
        source.open[firsts],
        np.maximum.reduceat(source.high, firsts),
        np.minimum.reduceat(source.low, firsts),
        source.close[lasts],
        _sums(source.volume, firsts, lasts),
    )


def _sums(values: Column, firsts: NDArray[np.intp], lasts: NDArray[np.intp]) -> Column:
    numbers = values.tolist()
    pairs = zip(firsts.tolist(), lasts.tolist(), strict=True)
    return np.array([float(f"{fsum(numbers[first : last + 1]):.15g}") for first, last in pairs], dtype=np.float64)
