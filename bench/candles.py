"""Candles: our writer and reader against COPY and a plain fetch, each pair measured in turn (A B A B) in one run.

Examples: scripts/bench candles; scripts/bench candles --candles 1000000
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from bench.desk import prepare
from bench.ground import ground, in_turn
from bench.report import compare, header
from trader.bucket import Candles, Counts, bucket_ids, read_buckets, timeframe_named, write_buckets
from trader.db import Connection, Identity, connect, fetch_one

MARKET = 1
MINUTE = timeframe_named("1m")
START = 1_600_000_020_000
EPOCH_2000 = 946_684_800_000

COPY = """
COPY {table} (id, market_id, timeframe_id, time_close, open, high, low, close, volume, source)
FROM STDIN (FORMAT binary)
"""
# The same columns, checks and indexes; only the two foreign keys are not there.
BARE = "CREATE TABLE bare_bucket (LIKE bucket INCLUDING ALL)"
FETCH = """
SELECT time_close, open, high, low, close, volume FROM bucket
 WHERE market_id = 1 AND timeframe_id = 1 ORDER BY time_close
"""
STATE = """
SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS wal,
       (SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'bucket') AS dead
"""


def made_up(number: int) -> Candles:
    """One-minute candles of a random walk, the same at every call."""
    random = np.random.default_rng(1)
    close = 30_000 * np.exp(np.cumsum(random.normal(0, 0.0005, number)))
    opened = np.concatenate(([30_000.0], close[:-1]))
    wick = 1 + np.abs(random.normal(0, 0.0003, (2, number)))
    times = START + 60_000 * np.arange(number, dtype=np.int64)
    high, low = np.maximum(opened, close) * wick[0], np.minimum(opened, close) / wick[1]
    return Candles(times, opened, high, low, close, random.gamma(2, 5, number))


def binary_rows(candles: Candles) -> bytes:
    """The rows in COPY's binary format, made by numpy at once, with the ids that our writer gives."""
    closes = MINUTE.closes(candles.time_open)
    label = np.frombuffer(b"imported", dtype="V8")
    columns: list[tuple[str, str, Any]] = [
        ("id", "V16", bucket_ids(MARKET, MINUTE, closes)),
        ("market", ">i4", MARKET),
        ("timeframe", ">i2", MINUTE.id),
        ("time", ">i8", (closes - EPOCH_2000) * 1000),
        *((name, ">f8", getattr(candles, name)) for name in ("open", "high", "low", "close", "volume")),
        ("source", "V8", label),
    ]
    layout = [("fields", ">i2")]
    for name, kind, _ in columns:
        layout += [(f"{name}_width", ">i4"), (name, kind)]
    rows = np.empty(len(candles), dtype=layout)
    rows["fields"] = len(columns)
    for name, kind, values in columns:
        rows[f"{name}_width"] = np.dtype(kind).itemsize
        rows[name] = values
    return b"PGCOPY\n\xff\r\n\x00" + bytes(8) + rows.tobytes() + b"\xff\xff"


class Bench:
    """A database, candles, and the things that can be done with them; each gives rows per second."""

    def __init__(self, connection: Connection, candles: Candles) -> None:
        self.connection = connection
        self.candles = candles
        self.rewrites: list[tuple[int, int]] = []
        """Of each rewrite: dead rows left, and bytes of WAL."""

    async def timed(self, work: Callable[[], Awaitable[object]]) -> float:
        started = time.perf_counter()
        await work()
        return len(self.candles) / (time.perf_counter() - started)

    async def empty(self) -> None:
        await self.connection.execute("TRUNCATE bucket, bare_bucket")
        await self.connection.execute("CHECKPOINT")

    async def write(self) -> float:
        await self.empty()
        return await self.timed(self._ours)

    async def _ours(self) -> Counts:
        return await write_buckets(self.connection, MARKET, MINUTE, self.candles, "imported")

    async def copy(self) -> float:
        await self.empty()
        return await self.timed(lambda: self._copy("bucket"))

    async def copy_bare(self) -> float:
        await self.empty()
        return await self.timed(lambda: self._copy("bare_bucket"))

    async def _copy(self, table: str) -> None:
        async with self.connection.cursor() as cursor, cursor.copy(COPY.format(table=table)) as copy:
            await copy.write(binary_rows(self.candles))

    async def rewrite(self) -> float:
        """Write again what is there already.

        The rows are read once before: the first reader of new rows, whoever it is, marks them as committed, and with
        checksums that is written to the WAL.
        """
        await self.connection.execute("SELECT count(*) FROM bucket WHERE volume < 0")
        before = await self._state()
        speed = await self.timed(self._rewrite)
        after = await self._state()
        self.rewrites.append((after.dead - before.dead, int(after.wal - before.wal)))
        return speed

    async def _rewrite(self) -> None:
        counts = await self._ours()
        assert counts == Counts(unchanged=len(self.candles)), counts

    async def _state(self) -> Any:
        await self.connection.execute("SELECT pg_stat_force_next_flush()")
        await self.connection.execute("SELECT pg_stat_clear_snapshot()")
        return await fetch_one(self.connection, STATE)

    async def read(self) -> float:
        return await self.timed(lambda: read_buckets(self.connection, MARKET, MINUTE.id))

    async def fetch(self) -> float:
        async def plain() -> None:
            rows = await (await self.connection.execute(FETCH)).fetchall()
            assert len(rows) == len(self.candles)

        return await self.timed(plain)


async def measure(url: str, options: argparse.Namespace) -> None:
    """Write, rewrite and read."""
    prepare(url, 1)
    async with await connect(url, Identity("worker", "bench")) as connection:
        await connection.execute(BARE)
        bench = Bench(connection, made_up(options.candles))
        await bench.write()  # the first of all pays for files that grow and for plans; it is not counted

        first, copied = await in_turn(options.rounds, bench.write, bench.copy)
        compare("first write / COPY binary, rows/s", first, copied, least=0.6)
        first, bare = await in_turn(options.rounds, bench.write, bench.copy_bare)
        compare("first write / COPY, no foreign keys", first, bare)
        anew, again = await in_turn(options.rounds, bench.write, bench.rewrite)
        compare("rewrite of unchanged rows / first write", again, anew, least=1.5)
        for dead, wal in bench.rewrites:
            print(f"  rewrite of {len(bench.candles):,} rows: {dead} dead rows, {wal:,} bytes of WAL")
        mine, plain = await in_turn(options.rounds, bench.read, bench.fetch)
        compare("read into a frame / plain fetch to tuples", mine, plain)


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(
        "bench candles", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--candles", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3, help="of ours and of the floor, in turn")
    options = parser.parse_args()
    with ground() as place:
        header(f"candles, {options.candles:,} of one market", place.name)
        asyncio.run(measure(place.database(), options))


if __name__ == "__main__":
    main()
