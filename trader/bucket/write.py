"""Writing candles: straight into the table, sorted, many in one statement, and never one that is there already."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncCursor
from psycopg.errors import UniqueViolation
from psycopg.pq import TransactionStatus

from trader.bucket.binary import (
    DUMPERS,
    BoolArray,
    FloatArray,
    TimestampArray,
    UuidArray,
    copy_rows,
    timestamps,
)
from trader.bucket.candles import Candles, check
from trader.bucket.timeframe import Timeframe, Times
from trader.db import Connection

Source = Literal["fetched", "imported", "derived", "trades"]

Partial = NDArray[np.bool_]

ROWS = 10_000
"""Candles in one statement."""

FEW = 200
"""So many candles are not worth a COPY of their own: a statement costs as much as a hundred rows."""

# Writers of one market and timeframe go one after the other, so that none ever meets another's half-written rows; it
# is a statement of its own because the next one must see what the last holder committed. Readers do not take it.
LOCK = "SELECT pg_advisory_xact_lock(%s::int, hashtext('bucket:' || %s))"

STORED = """
SELECT (extract(epoch FROM min(time_close)) * 1000)::int8 AS first,
       (extract(epoch FROM max(time_close)) * 1000)::int8 AS last
  FROM bucket WHERE market_id = %s AND timeframe_id = %s AND time_close BETWEEN %s::timestamptz AND %s::timestamptz
"""

# Where nothing is stored: nothing to join with.
COPY = """
COPY bucket (id, market_id, timeframe_id, time_close, open, high, low, close, volume, source, partial)
FROM STDIN (FORMAT binary)
"""

# What is there already and the same is left out by the join, which costs neither a lock nor a dead row. A file does not
# say whether a candle is partial: the same numbers leave it as it is, and derived from what it was derived from.
WRITE = """
WITH written AS (
  INSERT INTO bucket AS b (id, market_id, timeframe_id, time_close, open, high, low, close, volume, source, partial)
  SELECT n.id, %(market)s, %(timeframe)s, n.time_close, n.open, n.high, n.low, n.close, n.volume,
         %(source)s::bucket_source, n.partial
    FROM unnest(%(id)b, %(time_close)b, %(open)b, %(high)b, %(low)b, %(close)b, %(volume)b, %(partial)b)
      n (id, time_close, open, high, low, close, volume, partial)
    LEFT JOIN (SELECT time_close, open, high, low, close, volume, partial FROM bucket
                WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s
                  AND time_close BETWEEN %(first)s::timestamptz AND %(last)s::timestamptz) o
      ON o.time_close = n.time_close
   WHERE (o.open, o.high, o.low, o.close, o.volume) IS DISTINCT FROM (n.open, n.high, n.low, n.close, n.volume)
      OR (o.partial <> n.partial AND %(source)s <> 'imported')
   ORDER BY n.time_close
  ON CONFLICT (market_id, timeframe_id, time_close) DO UPDATE SET open = EXCLUDED.open, high = EXCLUDED.high,
    low = EXCLUDED.low, close = EXCLUDED.close, volume = EXCLUDED.volume, source = EXCLUDED.source,
    partial = EXCLUDED.partial
   WHERE (b.open, b.high, b.low, b.close, b.volume) IS DISTINCT FROM
     (EXCLUDED.open, EXCLUDED.high, EXCLUDED.low, EXCLUDED.close, EXCLUDED.volume)
      OR (b.partial <> EXCLUDED.partial AND %(source)s <> 'imported')
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
    partial: Partial | None = None,
) -> Counts:
    """Store closed candles of one market and timeframe, all or nothing, in the transaction of `connection` if any.

    `partial` says which are derived from a period that is not whole; None: none is. Safe with any number of writers of
    the same candles. Raises BadCandleError before anything is written.
    """
    check(candles, timeframe)
    if not len(candles):
        return Counts()
    flags = np.zeros(len(candles), dtype=bool) if partial is None else partial
    async with _transaction(connection):
        return await _Write(connection, market_id, timeframe, source).all(candles, flags)


async def find_difference(connection: Connection, market_id: int, timeframe: Timeframe, candles: Candles) -> Any:
    """The first of at most ROWS candles that is stored with other numbers (time_close, stored, new); None if none is.

    Nobody else writes candles of this market and timeframe until the transaction of `connection` ends.
    """
    await connection.execute(LOCK, [market_id, timeframe.name])
    async with _cursor(connection) as cursor:
        await cursor.execute(DIFFERENCE, _parameters(market_id, timeframe, candles))
        return await cursor.fetchone()


@dataclass(frozen=True, slots=True)
class _Write:
    """One call of `write_buckets`, under the series' lock."""

    connection: Connection
    market_id: int
    timeframe: Timeframe
    source: Source

    async def all(self, candles: Candles, partial: Partial) -> Counts:
        """What lies before or after all that is stored in the same stretch is copied; the rest is compared with it."""
        start, end = await self._lock(candles)
        start, end = start if start > FEW else 0, end if len(candles) - end > FEW else len(candles)
        total = Counts()
        for first, last, put in ((0, start, self._copy), (start, end, self._upsert), (end, len(candles), self._copy)):
            for row in range(first, last, ROWS):
                part = slice(row, min(row + ROWS, last))
                total += await put(candles[part], partial[part])
        return total

    async def _lock(self, candles: Candles) -> tuple[int, int]:
        """Lock the series; which of the candles, from and up to, lie between some that are stored: of few, all."""
        closes = self.timeframe.closes(candles.time_open)
        key = [self.market_id, self.timeframe.id, _text(closes[0]), _text(closes[-1])]
        if len(candles) <= FEW:
            await self.connection.execute(LOCK, [self.market_id, self.timeframe.name])
            return 0, len(candles)
        async with (
            self.connection.pipeline()
        ):  # two statements in one round trip: the second sees what the first waited for
            await self.connection.execute(LOCK, [self.market_id, self.timeframe.name])
            stored = await self.connection.execute(STORED, key)
            row: Any = await stored.fetchone()
        if row.first is None:
            return len(candles), len(candles)
        return int(np.searchsorted(closes, row.first)), int(np.searchsorted(closes, row.last, side="right"))

    async def _copy(self, candles: Candles, partial: Partial) -> Counts:
        """A person needs no lock, and may have inserted one of them meanwhile: then they are compared after all."""
        closes = self.timeframe.closes(candles.time_open)
        columns = {
            "id": bucket_ids(self.market_id, self.timeframe, closes),
            "market_id": np.array(self.market_id, dtype=">i4"),
            "timeframe_id": np.array(self.timeframe.id, dtype=">i2"),
            "time_close": timestamps(closes),
            **{name: getattr(candles, name).astype(">f8") for name in _NUMBERS},
            "source": np.frombuffer(self.source.encode(), dtype=f"V{len(self.source)}"),
            "partial": partial,
        }
        try:
            async with self.connection.transaction(), self.connection.cursor() as cursor, cursor.copy(COPY) as copy:
                await copy.write(copy_rows(len(candles), columns))
        except UniqueViolation:
            return await self._upsert(candles, partial)
        return Counts(inserted=len(candles))

    async def _upsert(self, candles: Candles, partial: Partial) -> Counts:
        ids = UuidArray(bucket_ids(self.market_id, self.timeframe, self.timeframe.closes(candles.time_open)))
        parameters = _parameters(self.market_id, self.timeframe, candles)
        parameters |= {"source": self.source, "id": ids, "partial": BoolArray(partial)}
        async with _cursor(self.connection) as cursor:
            row: Any = await (await cursor.execute(WRITE, parameters)).fetchone()
        return Counts(row.inserted, row.changed, len(candles) - row.inserted - row.changed)


_NUMBERS = ("open", "high", "low", "close", "volume")


@asynccontextmanager
async def _transaction(connection: Connection) -> AsyncIterator[None]:
    """The one that the connection is in, as it is: a savepoint would be two round trips more. Else one of its own."""
    if connection.info.transaction_status == TransactionStatus.INTRANS:
        yield
        return
    async with connection.transaction():
        yield


def _cursor(connection: Connection) -> AsyncCursor[Any]:
    cursor = connection.cursor()
    for kind, dumper in DUMPERS:
        cursor.adapters.register_dumper(kind, dumper)
    return cursor


def _parameters(market_id: int, timeframe: Timeframe, candles: Candles) -> dict[str, Any]:
    closes = timeframe.closes(candles.time_open)
    parameters: dict[str, Any] = {
        "market": market_id,
        "timeframe": timeframe.id,
        "time_close": TimestampArray(timestamps(closes)),
        "first": _text(closes[0]),
        "last": _text(closes[-1]),
    }
    for name in _NUMBERS:
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
