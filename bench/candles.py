"""Candles: our writer and reader against the strongest and the usual ways, each pair in turn (A B A B) in one run.

Examples: scripts/bench candles; scripts/bench candles --candles 1000000
          scripts/bench candles read     # or one part: write, read

adbc-driver-postgresql is no dependency of Tallydesk: without it, that comparison is not run.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from bench.candles_read import read
from bench.desk import prepare
from bench.ground import ground, in_turn
from bench.report import compare, header
from trader.bucket import Candles, Counts, bucket_ids, timeframe_named, write_buckets
from trader.bucket.binary import copy_rows, timestamps
from trader.db import Connection, Identity, connect, fetch_one

MARKET = 1
MINUTE = timeframe_named("1m")
START = 1_600_000_020_000

COPY = """
COPY {table} (id, market_id, timeframe_id, time_close, open, high, low, close, volume, source)
FROM STDIN (FORMAT binary)
"""
# The same columns, checks and indexes, without triggers; and with the two foreign keys that bucket once had.
BARE = """
CREATE TABLE bare_bucket (LIKE bucket INCLUDING ALL);
CREATE TABLE keyed_bucket (LIKE bucket INCLUDING ALL);
ALTER TABLE keyed_bucket
  ADD FOREIGN KEY (market_id) REFERENCES market, ADD FOREIGN KEY (timeframe_id) REFERENCES timeframe
"""
# As jesse's ORM writes: some rows in one statement, as text, what is there already left alone.
ROWS_OF_TEXT = """
INSERT INTO {table} (market_id, timeframe_id, time_close, open, high, low, close, volume, source) VALUES {rows}
ON CONFLICT DO NOTHING
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
    columns: dict[str, Any] = {
        "id": bucket_ids(MARKET, MINUTE, closes),
        "market": np.array(MARKET, dtype=">i4"),
        "timeframe": np.array(MINUTE.id, dtype=">i2"),
        "time": timestamps(closes),
        **{name: getattr(candles, name).astype(">f8") for name in ("open", "high", "low", "close", "volume")},
        "source": np.frombuffer(b"imported", dtype="V8"),
    }
    return copy_rows(len(candles), columns)


class Bench:
    """A database, candles, and the things that can be done with them; each gives rows per second."""

    def __init__(self, connection: Connection, candles: Candles) -> None:
        self.connection = connection
        self.candles = candles
        self.wal: list[int] = []
        """Of each first write: bytes of WAL."""
        self.rewrites: list[tuple[int, int]] = []
        """Of each rewrite: dead rows left, and bytes of WAL."""

    async def timed(self, work: Callable[[], Awaitable[object]]) -> float:
        started = time.perf_counter()
        await work()
        return len(self.candles) / (time.perf_counter() - started)

    async def empty(self) -> None:
        await self.connection.execute("TRUNCATE bucket, bare_bucket, keyed_bucket")
        await self.connection.execute("CHECKPOINT")

    async def write(self) -> float:
        await self.empty()
        before = await self._state()
        speed = await self.timed(self._ours)
        self.wal.append(int((await self._state()).wal - before.wal))
        return speed

    async def _ours(self) -> Counts:
        return await write_buckets(self.connection, MARKET, MINUTE, self.candles, "imported")

    async def copy(self) -> float:
        await self.empty()
        return await self.timed(lambda: self._copy("bucket"))

    async def copy_bare(self) -> float:
        await self.empty()
        return await self.timed(lambda: self._copy("bare_bucket"))

    async def copy_keyed(self) -> float:
        await self.empty()
        return await self.timed(lambda: self._copy("keyed_bucket"))

    async def rows_of_text(self) -> float:
        await self.empty()
        return await self.timed(self._rows_of_text)

    async def _rows_of_text(self) -> None:
        candles = self.candles
        columns = zip(candles.time_open // 1000 + 60, candles.open, candles.high, candles.low, candles.close,
                      candles.volume, strict=True)  # fmt: skip
        rows = [f"(1,1,to_timestamp({t}),{o!r},{h!r},{lo!r},{c!r},{v!r},'imported')" for t, o, h, lo, c, v in
                ((int(t), *map(float, rest)) for t, *rest in columns)]  # fmt: skip
        for start in range(0, len(rows), 1000):
            part = ",".join(rows[start : start + 1000])
            await self.connection.execute(ROWS_OF_TEXT.format(table="bare_bucket", rows=part))

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


async def measure(url: str, options: argparse.Namespace) -> None:
    """Write, rewrite and read."""
    prepare(url, 1)
    async with await connect(url, Identity("worker", "bench")) as connection:
        candles = made_up(options.candles)
        if options.part in {"all", "write"}:
            await write(connection, candles, options.rounds)
        if options.part in {"all", "read"}:
            await read(connection, url, candles, options.rounds)


async def write(connection: Connection, candles: Candles, rounds: int) -> None:
    """First writes and rewrites."""
    await connection.execute(BARE)
    bench = Bench(connection, candles)
    await bench.write()  # the first of all pays for files that grow and for plans; it is not counted
    first, copied = await in_turn(rounds, bench.write, bench.copy)
    compare("first write / COPY binary, rows/s", first, copied, least=0.6)
    first, bare = await in_turn(rounds, bench.write, bench.copy_bare)
    compare("first write / COPY, no triggers", first, bare)
    first, keyed = await in_turn(rounds, bench.write, bench.copy_keyed)
    compare("first write / COPY, two foreign keys, no triggers", first, keyed)
    first, text = await in_turn(1, bench.write, bench.rows_of_text)
    compare("first write / INSERTs of 1,000 rows, no triggers", first, text)
    bench.wal.clear()
    anew, again = await in_turn(rounds, bench.write, bench.rewrite)
    compare("rewrite of unchanged rows / first write", again, anew, least=1.5)
    for first_wal, (dead, wal) in zip(bench.wal, bench.rewrites, strict=True):
        print(f"  rewrite: {dead} dead rows, {wal:,} bytes of WAL; first write {first_wal:,}: {wal / first_wal:.4%}")


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(
        "bench candles", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("part", nargs="?", default="all", choices=("all", "write", "read"))
    parser.add_argument("--candles", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3, help="of ours and of the floor, in turn")
    options = parser.parse_args()
    with ground() as place:
        header(f"candles, {options.candles:,} of one market", place.name)
        asyncio.run(measure(place.database(), options))


if __name__ == "__main__":
    main()
