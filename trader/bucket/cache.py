"""A copy of candles in local files, for who reads the same history again and again. PostgreSQL stays the truth.

What a file holds counts only if the database proves it, in the statement that reads what is newer: the XOR of the
hashes of all candles, which the triggers of `bucket` keep, must be that of the file's and of the newer ones. Whatever
else happened (a correction, a deletion, a restored backup, another database) breaks the proof, and all is read anew.
"""

import asyncio
import contextlib
import json
import logging
import os
import secrets
import time
import zlib
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from psycopg.rows import tuple_row

from trader.bucket.read import COLUMNS, READ, Columns, joined, parameters, unpacked
from trader.bucket.timeframe import Timeframe, timeframe_numbered
from trader.clock import from_milliseconds
from trader.config import Settings
from trader.db import Connection, fetch_one

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

MAGIC = b"tallydesk candles 1\n"
"""A file of another version is none."""

HEAD = 512
"""Bytes before the columns: MAGIC, then the head as JSON, then spaces."""

MOST_NEWER = 10_000
"""So many newer candles are read each time rather than written to the file, which is written as a whole."""

ABANDONED = 3600.0
"""Seconds after which a file that was never finished is removed."""

IDENTITY = """
SELECT (SELECT system_identifier::text FROM pg_control_system()) || '-' || oid::text AS text
  FROM pg_database WHERE datname = current_database()
"""

# The proof and the candles in one statement, so that both are of one moment.
PROVED = f"""
SELECT f.digest, CASE WHEN %(since)s::timestamptz IS NOT NULL THEN (
         SELECT bit_xor(candle_hash(time_close, open, high, low, close, volume)) FROM bucket
          WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s AND time_close >= %(since)s::timestamptz) END,
       c.*
  FROM bucket_feed f LEFT JOIN LATERAL ({READ}) c ON true
 WHERE f.market_id = %(market)s AND f.timeframe_id = %(timeframe)s
"""  # noqa: S608 - made of our own constants


@dataclass(frozen=True, slots=True)
class Head:
    """What a file says of itself."""

    database: str
    market_id: int
    timeframe_id: int
    digest: int
    rows: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Candles and the XOR of their hashes."""

    digest: int
    columns: Columns


class CandleCache:
    """Copies of candles under a directory. Any number of processes may use one directory."""

    def __init__(self, directory: Path, most_bytes: int) -> None:
        self.directory = directory
        self.most_bytes = most_bytes
        """What all files together may take; the longest unused go first."""
        self._databases: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()

    @classmethod
    def of(cls, settings: Settings) -> "CandleCache | None":
        """That of this installation; None if it is switched off."""
        if not settings.cache_mb:
            return None
        return cls(settings.home / "cache" / "candles", settings.cache_mb * 1_000_000)

    async def read(
        self,
        connection: Connection,
        market_id: int,
        timeframe_id: int,
        last: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> "pd.DataFrame":
        """The same as `read_buckets`, with its errors; a trouble with the files is logged, and costs time only."""
        timeframe = timeframe_numbered(timeframe_id)
        asked = parameters(market_id, timeframe, last=last, since=since, until=until)
        database = await self._database(connection)
        path = self.directory / database / f"{market_id}-{timeframe_id}.candles"
        wanted = (database, market_id, timeframe_id)
        kept = await asyncio.to_thread(self._load, path, wanted)
        now = None if kept is None else await _newer(connection, market_id, timeframe, kept)
        if now is None:
            now = await _whole(connection, market_id, timeframe)
            kept = None
        if kept is None or len(now.columns) - len(kept.columns) > MOST_NEWER:
            await asyncio.to_thread(self._save, path, wanted, now)
        return _part(now.columns, asked).frame()

    async def _database(self, connection: Connection) -> str:
        """Which database that is: a connection stays with the one that it was made to."""
        if (known := self._databases.get(connection)) is None:
            known = self._databases[connection] = (await fetch_one(connection, IDENTITY)).text
        return known

    def _load(self, path: Path, wanted: tuple[str, int, int]) -> Copy | None:
        """What the file holds; None if there is none, or not a whole one of this version and series."""
        try:
            with path.open("rb") as file:
                head = _head(file.read(HEAD), wanted)
                if head is None or os.fstat(file.fileno()).st_size != HEAD + 8 * head.rows * (1 + len(COLUMNS)):
                    log.warning("%s is not whole or not of this version: it is written anew", path)
                    return None
                body = np.fromfile(file, dtype="<i8")
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("the copy of candles cannot be read, all come from PostgreSQL: %s", error)
            return None
        if zlib.crc32(body.data) != head.checksum:
            log.warning("%s is damaged: it is written anew", path)
            return None
        numbers = body[head.rows :].view("<f8").reshape(len(COLUMNS), head.rows)
        return Copy(head.digest, Columns(body[: head.rows], numbers))

    def _save(self, path: Path, wanted: tuple[str, int, int], copy: Copy) -> None:
        """Under another name first: a reader finds the old file or the new one, whenever this is killed."""
        rows = len(copy.columns)
        size = HEAD + 8 * rows * (1 + len(COLUMNS))
        if not rows or size > self.most_bytes:
            return
        numbers = np.ascontiguousarray(copy.columns.numbers, dtype="<f8")
        body = (np.ascontiguousarray(copy.columns.closes, dtype="<i8").data.cast("B"), numbers.data.cast("B"))
        head = Head(*wanted, copy.digest, rows, zlib.crc32(body[1], zlib.crc32(body[0])))
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write((MAGIC + json.dumps(asdict(head)).encode()).ljust(HEAD))
                for part in body:
                    file.write(part)
            temporary.replace(path)
            self._make_room()
        except OSError as error:
            log.warning("the copy of candles cannot be written: %s", error)
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _make_room(self) -> None:
        """Remove what was never finished, then the longest unused, until the rest fits."""
        states = []
        for path in self.directory.glob("*/*.candles*"):
            with contextlib.suppress(FileNotFoundError):  # another process makes room, too
                state = path.stat()
                if path.suffix == ".new" and time.time() - state.st_mtime > ABANDONED:
                    path.unlink()
                elif path.suffix == ".candles":
                    states.append((state.st_mtime, state.st_size, path))
        states.sort()
        total = sum(size for _, size, _ in states)
        for _, size, path in states:
            if total <= self.most_bytes:
                return
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            total -= size


def _head(text: bytes, wanted: tuple[str, int, int]) -> Head | None:
    """None if it is not a head of this version and of the series that is wanted."""
    if not text.startswith(MAGIC) or len(text) != HEAD:
        return None
    try:
        head = Head(**json.loads(text[len(MAGIC) :]))
    except (ValueError, TypeError):
        return None
    numbers = (head.digest, head.rows, head.checksum)
    if (head.database, head.market_id, head.timeframe_id) != wanted or not all(isinstance(n, int) for n in numbers):
        return None
    return head if head.rows >= 0 else None


async def _newer(connection: Connection, market_id: int, timeframe: Timeframe, kept: Copy) -> Copy | None:
    """What is kept and what is newer; None if the database does not prove that this is all, and as it is."""
    if not len(kept.columns):
        return None
    asked = parameters(market_id, timeframe)
    asked["since"] = from_milliseconds(int(kept.columns.closes[-1])) + timedelta(microseconds=1)
    rows = await _rows(connection, asked)
    if not rows or kept.digest ^ (rows[0][1] or 0) != rows[0][0]:
        return None
    newer = [unpacked(row[2:]) for row in rows if row[2] is not None]
    return Copy(rows[0][0], joined([kept.columns, *newer]) if newer else kept.columns)


async def _whole(connection: Connection, market_id: int, timeframe: Timeframe) -> Copy:
    rows = await _rows(connection, parameters(market_id, timeframe))
    digest = rows[0][0] if rows else 0
    return Copy(digest, joined([unpacked(row[2:]) for row in rows if row[2] is not None]))


async def _rows(connection: Connection, asked: dict[str, Any]) -> list[Any]:
    async with connection.cursor(binary=True, row_factory=tuple_row) as cursor:
        return [row async for row in cursor.stream(PROVED, asked)]


def _part(columns: Columns, asked: dict[str, Any]) -> Columns:
    """What READ would have given of the whole."""
    moments = columns.closes.view("datetime64[ms]")
    first, end = 0, len(columns)
    if asked["since"] is not None:
        first = int(np.searchsorted(moments, _naive(asked["since"])))
    if asked["until"] is not None:
        end = int(np.searchsorted(moments, _naive(asked["until"]), side="right"))
    if asked["last"] is not None:
        first = max(first, end - asked["last"])
    return columns[first:end] if first < end else columns[:0]


def _naive(moment: datetime) -> np.datetime64:
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")
