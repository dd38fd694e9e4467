"""Binance's candle intervals and where each one opens."""

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY
SHORTEST_MONTH = 28 * DAY

TIMEFRAMES = {
    "1s": SECOND,
    "1m": MINUTE,
    "3m": 3 * MINUTE,
    "5m": 5 * MINUTE,
    "15m": 15 * MINUTE,
    "30m": 30 * MINUTE,
    "1h": HOUR,
    "2h": 2 * HOUR,
    "4h": 4 * HOUR,
    "6h": 6 * HOUR,
    "8h": 8 * HOUR,
    "12h": 12 * HOUR,
    "1d": DAY,
    "3d": 3 * DAY,
    "1w": WEEK,
    "1M": SHORTEST_MONTH,
}
"""Length in milliseconds. A month has no fixed length; its entry is the shortest one."""

_FIRST_MONDAY = 4 * DAY


def opens(times: Times, timeframe: str) -> Times:
    """The opening time (ms) of the candle of `timeframe` that holds each of `times`. Weeks open on Monday."""
    if timeframe == "1M":
        months = times.astype("datetime64[ms]").astype("datetime64[M]")
        return months.astype("datetime64[ms]").astype(np.int64)
    length = TIMEFRAMES[timeframe]
    shift = _FIRST_MONDAY if timeframe == "1w" else 0
    return (times - shift) // length * length + shift


def closes(times: Times, timeframe: str) -> Times:
    """The first millisecond after each candle that opens at `times`."""
    if timeframe == "1M":
        months = times.astype("datetime64[ms]").astype("datetime64[M]") + 1
        return months.astype("datetime64[ms]").astype(np.int64)
    return times + TIMEFRAMES[timeframe]


def derivable(timeframe: str, base: str) -> bool:
    """Whether candles of `timeframe` can be put together from candles of `base`."""
    if timeframe == base:
        return True
    if base == "1M" or TIMEFRAMES[timeframe] <= TIMEFRAMES[base]:
        return False
    return DAY % TIMEFRAMES[base] == 0 if timeframe == "1M" else TIMEFRAMES[timeframe] % TIMEFRAMES[base] == 0


def base_of(times: Times) -> str:
    """The interval that a file of candles is made of: the shortest step between two (ValueError if none fits)."""
    shortest = int(np.diff(times).min()) if len(times) > 1 else MINUTE
    if shortest >= SHORTEST_MONTH:
        return "1M"
    for name, length in reversed(TIMEFRAMES.items()):
        if length <= shortest and shortest % length == 0 and name != "1M":
            return name
    raise ValueError(f"candles {shortest} ms apart fit no interval of {', '.join(TIMEFRAMES)}")
