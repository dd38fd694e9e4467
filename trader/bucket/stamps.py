"""The time column of a file: numbers since 1970 in whatever unit, or text, as the openings of candles."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trader.bucket.formats import Stamp, Unit
from trader.bucket.raw import Raw, first
from trader.bucket.timeframe import DAY, MINUTE, Timeframe, Times
from trader.clock import from_milliseconds

LATEST = 10_000_000_000_000
"""Milliseconds: in the year 2286."""

UNITS: dict[Unit, tuple[float, float, float]] = {
    "s": (1e8, 1e10, 1000),
    "ms": (1e11, 1e13, 1),
    "us": (1e14, 9e15, 1e-3),
}
"""What a number since 1970 is at least and at most in each unit, and how many milliseconds that is: 1973 to 2255."""

DAY_TEXT = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
ISO = DAY_TEXT + r"(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,9})?)?(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"

NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds"}


def milliseconds(raw: Raw) -> tuple[Times, str]:
    """The stamps of a file in milliseconds, and what they are there, in words. InputError naming the first bad one."""
    kind = raw.times.dtype.kind
    if kind == "M":
        return _whole_milliseconds(raw, raw.times, raw.times), "as timestamps"
    if kind in "US":
        return _from_text(raw), "as text"
    unit = raw.layout.unit or _unit(raw)
    return _from_numbers(raw, unit), f"in {NAMES[unit]}"


def _unit(raw: Raw) -> Unit:
    value = float(raw.times[0])
    for unit, (least, most, _) in UNITS.items():
        if least <= value < most:
            return unit
    raise raw.bad(
        0,
        raw.layout.time,
        f"is {_number(raw.times[0])}; it must be seconds, milliseconds or microseconds since 1970, between 1973 and "
        "2255, or text as in 2024-01-01T00:00:00Z",
    )


def _from_numbers(raw: Raw, unit: Unit) -> Times:
    times = raw.times.astype(np.float64)
    _, most, scale = UNITS[unit]
    with np.errstate(invalid="ignore"):
        bad = ~np.isfinite(times) | (times != np.floor(times)) | (np.abs(times) > 2**53) | (times < 0)
    if (index := first(bad)) is not None:
        problem = f"is {_number(raw.times[index])}; it must be a whole number of {NAMES[unit]} since 1970"
        raise raw.bad(index, raw.layout.time, problem)
    if (index := first(times >= most)) is not None:
        year = 2286 if most * scale >= LATEST else 2255
        raise raw.bad(index, raw.layout.time, f"is {_number(raw.times[index])}: that is after the year {year}")
    if raw.layout.unit is None and (index := first(times < UNITS[unit][0])) is not None:
        raise raw.bad(index, raw.layout.time, f"is {_number(raw.times[index])}; others are {NAMES[unit]} since 1970")
    whole = times.astype(np.int64)
    if unit == "us":
        if (index := first(whole % 1000 != 0)) is not None:
            raise raw.bad(index, raw.layout.time, f"is {whole[index]}; it must be a whole number of milliseconds")
        return np.asarray(whole // 1000)
    return whole * int(scale)


def _number(value: Any) -> str:
    return f"{float(value):.17g}"


def _from_text(raw: Raw) -> Times:
    import pandas as pd  # slow to import

    text = pd.Series(raw.times.astype(str)).str.strip(" \t")
    found = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
    # pandas reads 202401 as a date, too, and 00:28:0 as a time.
    index = first(found.isna().to_numpy() | ~text.str.fullmatch(ISO).to_numpy(dtype=bool))
    if index is not None:
        said = text[index][:40]
        problem = f"is {said!r}; it must be a time, as in 2024-01-01 or 2024-01-01T00:00:00Z (no zone: UTC)"
        raise raw.bad(index, raw.layout.time, problem)
    return _whole_milliseconds(raw, found.dt.tz_localize(None).to_numpy(), raw.times)


def _whole_milliseconds(raw: Raw, moments: NDArray[Any], shown: NDArray[Any]) -> Times:
    """datetime64 of any resolution as milliseconds."""
    if (index := first(np.isnat(moments))) is not None:
        raise raw.bad(index, raw.layout.time, "is missing")
    rounded = moments.astype("datetime64[ms]")
    bad = rounded.astype(moments.dtype) != moments
    if (index := first(bad)) is not None:
        raise raw.bad(index, raw.layout.time, f"is {shown[index]}; it must be a whole number of milliseconds")
    times = rounded.astype(np.int64)
    if (index := first((times < 0) | (times >= LATEST))) is not None:
        raise raw.bad(index, raw.layout.time, f"is {shown[index]}; it must be between the years 1970 and 2286")
    return np.asarray(times)


def openings(raw: Raw, stamps: Times, timeframe: Timeframe, stamp: Stamp) -> Times:
    """When the candles open.

    Stamped at the close, an end that still belongs to the candle (59 s, 59.999 s) is taken for the moment after it,
    and a month may carry its last day instead: many tools do that.
    """
    if stamp == "open":
        return stamps
    closes = stamps + np.where(stamps % MINUTE == MINUTE - 1, 1, 0)
    closes = closes + np.where(closes % MINUTE == MINUTE - 1000, 1000, 0)
    if timeframe.span is None:
        closes = np.where(timeframe.aligned(closes + DAY), closes + DAY, closes)
    opens = timeframe.opens(closes)
    if (index := first(timeframe.closes(opens) != closes)) is not None:
        moment = f"{stamps[index]} ({from_milliseconds(int(stamps[index])):%Y-%m-%d %H:%M:%S} UTC)"
        raise raw.bad(index, raw.layout.time, f"{moment} is not where a {timeframe.name} candle closes")
    return opens
