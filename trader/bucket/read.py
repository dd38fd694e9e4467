"""Reading candles into frames: PostgreSQL packs each column of many candles into a value that numpy takes as it is."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psycopg.rows import tuple_row

from trader.bucket.binary import milliseconds
from trader.bucket.timeframe import Timeframe, Times, timeframe_numbered
from trader.clock import from_milliseconds, to_milliseconds
from trader.db import Connection
from trader.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("open", "high", "low", "close", "volume")

CHUNK = 100_000
"""Candles in one row of what PostgreSQL answers: 800 kB of each column."""

# One statement, so that all of it is of one moment. Rows of a chunk are found by its stretch of time, in the index's
# order; a result of one candle a row costs PostgreSQL less and Python far more.
READ = """
SELECT p.* FROM (
    SELECT greatest(
             CASE WHEN %(last)s::bigint IS NOT NULL THEN (
               SELECT time_close FROM bucket
                WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s
                  AND time_close BETWEEN coalesce(%(since)s::timestamptz, '-infinity')
                                     AND coalesce(%(until)s::timestamptz, 'infinity')
                ORDER BY time_close DESC OFFSET %(last)s::bigint - 1 LIMIT 1) END,
             (SELECT min(time_close) FROM bucket
               WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s
                 AND time_close >= coalesce(%(since)s::timestamptz, '-infinity'))) AS first,
           (SELECT max(time_close) FROM bucket
             WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s
               AND time_close <= coalesce(%(until)s::timestamptz, 'infinity')) AS last) b
  CROSS JOIN LATERAL generate_series(b.first, b.last, make_interval(secs => %(step)s::float8)) g (start)
  CROSS JOIN LATERAL (
    SELECT string_agg(timestamptz_send(time_close), ''::bytea) AS time_close,
           string_agg(float8send(open), ''::bytea) AS open, string_agg(float8send(high), ''::bytea) AS high,
           string_agg(float8send(low), ''::bytea) AS low, string_agg(float8send(close), ''::bytea) AS close,
           string_agg(float8send(volume), ''::bytea) AS volume
      FROM (SELECT * FROM bucket
             WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s AND time_close >= g.start
               AND time_close < g.start + make_interval(secs => %(step)s::float8) AND time_close <= b.last
             ORDER BY time_close) r) p
 WHERE p.time_close IS NOT NULL
"""

_SHORTEST_MONTH = 28 * 86_400_000


@dataclass(frozen=True, slots=True)
class Columns:
    """Candles, oldest first: when they close, in milliseconds, and a row of numbers for each of COLUMNS."""

    closes: Times
    numbers: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.closes)

    def __getitem__(self, part: slice) -> "Columns":
        return Columns(self.closes[part], self.numbers[:, part])

    def frame(self) -> "pd.DataFrame":
        """A frame of float64 COLUMNS with the index `time_close` in UTC."""
        import pandas as pd  # slow to import

        index = pd.DatetimeIndex(self.closes.view("datetime64[ms]"), tz="UTC", name="time_close", copy=False)
        return pd.DataFrame(self.numbers.T, index=index, columns=list(COLUMNS), copy=False)


def joined(parts: Sequence[Columns]) -> Columns:
    """One after the other."""
    closes = np.concatenate([np.empty(0, dtype=np.int64), *(part.closes for part in parts)])
    numbers = np.empty((len(COLUMNS), len(closes)))
    start = 0
    for part in parts:
        numbers[:, start : start + len(part)] = part.numbers
        start += len(part)
    return Columns(closes, numbers)


def unpacked(row: Sequence[Any]) -> Columns:
    """What READ made of some candles."""
    closes = milliseconds(np.frombuffer(row[0], dtype=">i8"))
    return Columns(closes, np.array([np.frombuffer(values, dtype=">f8") for values in row[1:]], dtype=np.float64))


def parameters(
    market_id: int,
    timeframe: Timeframe,
    *,
    last: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    rows: int = CHUNK,
) -> dict[str, Any]:
    """Of READ. InputError for what cannot be asked."""
    if last is not None and last < 1:
        raise InputError(f"last is {last}: a number of candles above zero is needed")
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and moment.tzinfo is None:
            raise InputError(f"{name} is {moment.isoformat()}: a time zone is needed, such as UTC")
    return {
        "market": market_id,
        "timeframe": timeframe.id,
        "last": last,
        "since": None if since is None else _first_close(timeframe, since),
        "until": until,
        "step": rows * (timeframe.span or _SHORTEST_MONTH) / 1000,
    }


def _first_close(timeframe: Timeframe, since: datetime) -> datetime:
    """The earliest close of a candle that opens at or after `since`."""
    opens = to_milliseconds(since)
    if timeframe.span is None and timeframe.earlier(opens, 0) < opens:
        opens = timeframe.earlier(opens, -1)
    return from_milliseconds(timeframe.earlier(opens, -1))


async def read_buckets(
    connection: Connection,
    market_id: int,
    timeframe_id: int,
    last: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> "pd.DataFrame":
    """Candles, oldest first: a frame of float64 open, high, low, close and volume, with the index `time_close` in UTC.

    Those that open at or after `since` and close at or before `until`, and of these the newest `last`; all, if none is
    given. An empty frame: none is stored. Raises InputError for a wrong argument and psycopg.Error if they cannot be
    read.
    """
    asked = parameters(market_id, timeframe_numbered(timeframe_id), last=last, since=since, until=until)
    async with connection.cursor(binary=True, row_factory=tuple_row) as cursor:
        # Streamed: PostgreSQL packs the next chunk while this one is taken apart.
        return joined([unpacked(row) async for row in cursor.stream(READ, asked)]).frame()


async def read_bucket_chunks(
    connection: Connection,
    market_id: int,
    timeframe_id: int,
    since: datetime | None = None,
    until: datetime | None = None,
    rows: int = CHUNK,
) -> AsyncIterator["pd.DataFrame"]:
    """The same, in frames of at most `rows` candles, which need not fit into memory together.

    All are of one moment. `connection` can do nothing else until the last one was taken.
    """
    asked = parameters(market_id, timeframe_numbered(timeframe_id), since=since, until=until, rows=rows)
    async with connection.cursor(binary=True, row_factory=tuple_row) as cursor:
        async for row in cursor.stream(READ, asked):
            yield unpacked(row).frame()
