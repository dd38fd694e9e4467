"""Writing candles: straight into the table, sorted, many in one statement, and never one that is there already."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncCursor
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from trader.bucket.candles import Candles, check
from trader.bucket.timeframe import Timeframe, Times
from trader.db import Connection

Source = Literal["fetched", "imported", "derived", "trades"]

ROWS = 10_000
"""Candles in one statement."""

# Writers of one market and timeframe go one after the other, so that none ever meets another's half-written rows; it
# is a statement of its own because the next one must see what the last holder committed. Readers do not take it.
LOCK = "SELECT pg_advisory_xact_lock(%s::int, hashtext('bucket:' || %s))"

# What is there already and the same is left out by the join, which costs neither a lock nor a dead row.
WRITE = """
WITH written AS (
  INSERT INTO bucket AS b (id, market_id, timeframe_id, time_close, open, high, low, close, volume, source, partial)
  SELECT n.id, %(market)s, %(timeframe)s, n.time_close, n.open, n.high, n.low, n.close, n.volume,
         %(source)s::bucket_source, %(partial)s
    FROM unnest(%(id)b, %(time_close)b, %(open)b, %(high)b, %(low)b, %(close)b, %(volume)b)
      n (id, time_close, open, high, low, close, volume)
    LEFT JOIN (SELECT time_close, open, high, low, close, volume, partial FROM bucket
                WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s
                  AND time_close BETWEEN %(first)s::timestamptz AND %(last)s::timestamptz) o
      ON o.time_close = n.time_close
   WHERE (o.open, o.high, o.low, o.close, o.volume, o.partial)
     IS DISTINCT FROM (n.open, n.high, n.low, n.close, n.volume, %(partial)s)
   ORDER BY n.time_close
  ON CONFLICT (market_id, timeframe_id, time_close) DO UPDATE SET open = EXCLUDED.open, high = EXCLUDED.high,
    low = EXCLUDED.low, close = EXCLUDED.close, volume = EXCLUDED.volume, source = EXCLUDED.source,
    partial = EXCLUDED.partial
   WHERE (b.open, b.high, b.low, b.close, b.volume, b.partial)
     IS DISTINCT FROM (EXCLUDED.open, EXCLUDED.high, EXCLUDED.low, EXCLUDED.close, EXCLUDED.volume, EXCLUDED.partial)
  RETURNING (xmax = 0) AS is_new
)
SELECT count(*) FILTER (WHERE is_new) AS inserted, count(*) FILTER (WHERE NOT is_new) AS changed FROM written
"""

DIFFERENCE = """
SELECT o.time_close, ARRAY[o.open, o.high, o.low, o.close, o.volume] AS stored,
       ARRAY[n.open, n.high, n.low, n.close, n.volume] AS new
  FROM unnest(%(time_close)b, %(open)b, %(high)b, %(low)b, %(close)b, %(volume)b)
    n (time_close, open, high, low, close, volume)
  JOIN bucket o ON o.market_id = %(market)s AND o.timeframe_id = %(timeframe)s AND o.time_close = n.time_close
 WHERE o.time_close BETWEEN %(first)s::timestamptz AND %(last)s::timestamptz
   AND (o.open, o.high, o.low, o.close, o.volume) IS DISTINCT FROM (n.open, n.high, n.low, n.close, n.volume)
 ORDER BY 1 LIMIT 1
"""

_EPOCH_2000 = 946_684_800_000
"""PostgreSQL counts from 2000, in microseconds."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a write did. Candles that were there already, with the same numbers, are `unchanged`."""

    inserted: int = 0
    changed: int = 0
    unchanged: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.inserted + other.inserted, self.changed + other.changed, self.unchanged + other.unchanged)


async def write_buckets(
    connection: Connection,
    market_id: int,
    timeframe: Timeframe,
    candles: Candles,
    source: Source,
    *,
    partial: bool = False,
) -> Counts:
    """Store closed candles of one market and timeframe, all or nothing, in the transaction of `connection` if any.

    `partial`: they are made of others, some of which are missing because nobody traded. Safe with any number of writers
    of the same candles. Raises BadCandleError before anything is written.
    """
    check(candles, timeframe)
    total = Counts()
    if not len(candles):
        return total
    async with connection.transaction():
        await connection.execute(LOCK, [market_id, timeframe.name])
        for start in range(0, len(candles), ROWS):
            total += await _write(connection, market_id, timeframe, candles[start : start + ROWS], source, partial)
    return total


async def find_difference(connection: Connection, market_id: int, timeframe: Timeframe, candles: Candles) -> Any:
    """The first of at most ROWS candles that is stored with other numbers (time_close, stored, new); None if none is.

    Nobody else writes candles of this market and timeframe until the transaction of `connection` ends.
    """
    await connection.execute(LOCK, [market_id, timeframe.name])
    async with _cursor(connection) as cursor:
        await cursor.execute(DIFFERENCE, _parameters(market_id, timeframe, candles))
        return await cursor.fetchone()


async def _write(
    connection: Connection, market_id: int, timeframe: Timeframe, candles: Candles, source: Source, partial: bool
) -> Counts:
    ids = UuidArray(bucket_ids(market_id, timeframe, timeframe.closes(candles.time_open)))
    async with _cursor(connection) as cursor:
        parameters = _parameters(market_id, timeframe, candles) | {"source": source, "partial": partial, "id": ids}
        row: Any = await (await cursor.execute(WRITE, parameters)).fetchone()
    return Counts(row.inserted, row.changed, len(candles) - row.inserted - row.changed)


def _cursor(connection: Connection) -> AsyncCursor[Any]:
    cursor = connection.cursor()
    for kind, dumper in _DUMPERS:
        cursor.adapters.register_dumper(kind, dumper)
    return cursor


def _parameters(market_id: int, timeframe: Timeframe, candles: Candles) -> dict[str, Any]:
    closes = timeframe.closes(candles.time_open)
    parameters: dict[str, Any] = {
        "market": market_id,
        "timeframe": timeframe.id,
        "time_close": TimestampArray(((closes - _EPOCH_2000) * 1000).astype(">i8")),
        "first": _text(closes[0]),
        "last": _text(closes[-1]),
    }
    for name in ("open", "high", "low", "close", "volume"):
        parameters[name] = FloatArray(getattr(candles, name).astype(">f8"))
    return parameters


def _text(milliseconds: Any) -> str:
    return f"{np.datetime64(int(milliseconds), 'ms')}Z"


def bucket_ids(market_id: int, timeframe: Timeframe, closes: Times) -> NDArray[np.void]:
    """The id of each candle, as 16 bytes: the same candle always has the same one, and later ones are larger.

    A version 8 UUID: 48 bits milliseconds of time_close, version, 12 bits timeframe_id >> 3, variant, 3 bits
    timeframe_id & 7, 27 zero bits, 32 bits market_id. Time first, so that writing many touches few index pages.
    """
    high = (closes.astype(np.uint64) << np.uint64(16)) | np.uint64(0x8000 | timeframe.id >> 3)
    low = (0b10 << 62) | ((timeframe.id & 7) << 59) | market_id
    pairs = np.empty((len(closes), 2), dtype=">u8")
    pairs[:, 0] = high
    pairs[:, 1] = np.uint64(low)
    return pairs.view("V16").reshape(-1)


@dataclass(frozen=True, slots=True)
class BinaryArray:
    """A column of fixed-width values in PostgreSQL's byte order, sent as an array as it is."""

    values: NDArray[Any]


class FloatArray(BinaryArray):
    """float8[]"""


class TimestampArray(BinaryArray):
    """timestamptz[]: microseconds since 2000."""


class UuidArray(BinaryArray):
    """uuid[]"""


class _ArrayDumper(Dumper):
    """PostgreSQL's binary form of an array with one dimension and no NULL: a header, then length and value of each."""

    format = Format.BINARY
    element: ClassVar[int]

    def dump(self, obj: BinaryArray) -> Buffer:
        values = obj.values
        width = values.dtype.itemsize
        body = np.empty(len(values), dtype=[("width", ">i4"), ("value", values.dtype)])
        body["width"] = width
        body["value"] = values
        return np.array([1, 0, self.element, len(values), 1], dtype=">i4").tobytes() + body.tobytes()


class _FloatArrayDumper(_ArrayDumper):
    oid, element = 1022, 701


class _TimestampArrayDumper(_ArrayDumper):
    oid, element = 1185, 1184


class _UuidArrayDumper(_ArrayDumper):
    oid, element = 2951, 2950


_DUMPERS: tuple[tuple[type[BinaryArray], type[_ArrayDumper]], ...] = (
    (FloatArray, _FloatArrayDumper),
    (TimestampArray, _TimestampArrayDumper),
    (UuidArray, _UuidArrayDumper),
)
