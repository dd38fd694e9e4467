"""Timeframes: how long a candle is, and where one may open. In milliseconds and arrays, for many at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trader.errors import InputError

Times = NDArray[np.int64]
"""Milliseconds since the Unix epoch."""

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Timeframe:
    """A length of candles, under ccxt's name. `span` is in milliseconds; None for a month, which has no fixed one."""

    id: int
    name: str
    span: int | None

    def closes(self, opens: Times) -> Times:
        """When candles that open at `opens` close."""
        return opens + self.span if self.span is not None else _months(opens, 1)

    def opens(self, closes: Times) -> Times:
        """When candles that close at `closes` opened."""
        return closes - self.span if self.span is not None else _months(closes, -1)

    def aligned(self, opens: Times) -> NDArray[np.bool_]:
        """Which of `opens` are where a candle may open.

        Up to an hour that is on multiples of the span since the epoch; above, venues have days and weeks of their
        own, so any whole hour will do. Months open on the first, at midnight UTC.
        """
        if self.span is None:
            return np.asarray(opens == _months(opens, 0))
        return np.asarray(opens % min(self.span, HOUR) == 0)

    def earlier(self, moment: int, candles: int) -> int:
        """`moment` minus the length of `candles` candles."""
        if self.span is not None:
            return moment - candles * self.span
        return int(_months(np.array([moment]), -candles)[0])


def _months(times: Times, shift: int) -> Times:
    """The first of the month that each of `times` is in, `shift` months on."""
    months = times.astype("datetime64[ms]").astype("datetime64[M]") + shift
    return months.astype("datetime64[ms]").astype(np.int64)


TIMEFRAMES = {
    name: Timeframe(number, name, span)
    for number, name, span in (
        (1, "1m", MINUTE),
        (3, "3m", 3 * MINUTE),
        (5, "5m", 5 * MINUTE),
        (15, "15m", 15 * MINUTE),
        (30, "30m", 30 * MINUTE),
        (60, "1h", HOUR),
        (120, "2h", 2 * HOUR),
        (240, "4h", 4 * HOUR),
        (360, "6h", 6 * HOUR),
        (480, "8h", 8 * HOUR),
        (720, "12h", 12 * HOUR),
        (1440, "1d", DAY),
        (4320, "3d", 3 * DAY),
        (10080, "1w", 7 * DAY),
        (32767, "1M", None),
    )
}
"""The rows of the table `timeframe`, which a test keeps equal to this."""

_BY_ID = {timeframe.id: timeframe for timeframe in TIMEFRAMES.values()}


def timeframe_named(name: str) -> Timeframe:
    """The timeframe of that name. InputError if there is none."""
    try:
        return TIMEFRAMES[name]
    except KeyError:
        raise InputError(f"timeframe {name!r}: allowed are {', '.join(TIMEFRAMES)}") from None


def timeframe_numbered(number: int) -> Timeframe:
    """The timeframe of a row's timeframe_id. InputError if there is none."""
    try:
        return _BY_ID[number]
    except KeyError:
        raise InputError(f"timeframe_id {number}: allowed are {', '.join(map(str, _BY_ID))}") from None
