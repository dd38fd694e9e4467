"""Candles by COPY and by comparison: the same table, in whichever order they come, and whoever else writes."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from tests.plugins._venue import START
from trader.bucket import Candles, Counts, timeframe_named, write_buckets
from trader.bucket.write import FEW, ROWS
from trader.clock import to_milliseconds
from trader.db import Connection, Identity, connect, fetch_all, fetch_one

MINUTE = timeframe_named("1m")
SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT'), ('ETH');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2), (1, 'ETH/USDT', 3, 2);
"""
HASH = """
SELECT md5(string_agg(b::text, ',' ORDER BY time_close)) AS rows,
       (SELECT md5(string_agg((gap_from, gap_to, missing)::text, ',' ORDER BY gap_from)) FROM gap) AS gaps,
       (SELECT (newest, digest)::text FROM bucket_feed) AS feed, count(*) AS count FROM bucket b
"""
BY_HAND = """
INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
VALUES (1, 1, %s, 1, 1, 1, 1, 1, 'imported')
"""


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    async with await connect(database, Identity("worker", "worker-1")) as opened:
        await opened.execute(SEED)
        yield opened


def candles(first: int, count: int, *, hole: range = range(0)) -> Candles:
    """Made of their own place alone: two that are of the same minute are equal."""
    index = np.array([i for i in range(first, first + count) if i not in hole], dtype=np.int64)
    price = 100.0 + index % 13 + index / 7
    times = to_milliseconds(START) + 60_000 * index
    return Candles(times, price, price + 1, price - 1, price + 0.5, (index % 7) * 1.5)


async def write(db: Connection, what: Candles, **more: Any) -> Counts:
    return await write_buckets(db, 1, MINUTE, what, "fetched", **more)


async def state(db: Connection) -> tuple[Any, ...]:
    return tuple(await fetch_one(db, HASH))


async def test_order_overlap_and_repetition_make_no_difference(db: Connection, database: str) -> None:
    hole = range(7_000, 7_600)
    assert await write(db, candles(0, 25_000, hole=hole)) == Counts(inserted=24_400)
    want = await state(db)
    pages = [candles(first, 1_300, hole=hole) for first in range(0, 24_000, 1_000)] + [candles(24_000, 1_000)]

    async def fill(*orders: list[Candles]) -> list[Counts]:
        await db.execute("TRUNCATE bucket")
        connections = [await connect(database, Identity("worker", f"writer-{n}")) for n in range(len(orders))]

        async def one(connection: Connection, order: list[Candles]) -> Counts:
            async with connection:
                return sum([await write(connection, page) for page in order], Counts())

        return await asyncio.gather(*map(one, connections, orders))

    for orders in ([pages], [pages[::-1]], [pages, pages[::-1]], [pages[::2] + pages[1::2], pages]):
        counts = await fill(*orders)
        assert await state(db) == want
        assert sum(count.inserted for count in counts) == 24_400
        assert sum(count.changed for count in counts) == 0
    assert await write(db, candles(0, 25_000, hole=hole)) == Counts(unchanged=24_400)
    assert await state(db) == want
    deadlocks = await fetch_one(db, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks.deadlocks == 0


async def test_a_batch_around_what_is_stored(db: Connection) -> None:
    """Before it and after it by COPY, between by comparison."""
    await write(db, candles(2 * FEW, 50))
    await db.execute(
        "UPDATE bucket SET volume = volume + 1 WHERE time_close = %s", [START + timedelta(minutes=2 * FEW + 5)]
    )
    assert await write(db, candles(0, 5 * FEW)) == Counts(5 * FEW - 50, 1, 49)
    whole = await state(db)
    await db.execute("TRUNCATE bucket")
    await write(db, candles(0, 5 * FEW))
    assert await state(db) == whole
    await write(db, candles(5 * FEW, 3 * ROWS))
    assert (await fetch_one(db, "SELECT count(*) AS n FROM bucket")).n == 5 * FEW + 3 * ROWS


@pytest.mark.parametrize("stays", [True, False])
async def test_what_a_person_inserts_meanwhile_is_compared(db: Connection, database: str, stays: bool) -> None:
    """The person's row is there but not committed when the writer looks, so that COPY runs into it."""
    async with await connect(database, Identity("", "person")) as person:
        await person.execute("BEGIN")
        await person.execute(BY_HAND, [START + timedelta(minutes=500)])
        writer = asyncio.create_task(write(db, candles(0, 1_000)))
        await _waiting(person, db.info.backend_pid, writer)
        await person.execute("COMMIT" if stays else "ROLLBACK")
    assert await writer == (Counts(999, 1, 0) if stays else Counts(1_000, 0, 0))
    held = await state(db)
    corrections = await fetch_all(db, "SELECT old_open, new_source::text FROM bucket_correction")
    assert [tuple(row) for row in corrections] == ([(1.0, "fetched")] if stays else [])
    await db.execute("TRUNCATE bucket")
    await write(db, candles(0, 1_000))
    assert (await state(db))[1:] == held[1:]  # all but the id of the person's row


async def _waiting(db: Connection, pid: int, task: "asyncio.Task[Counts]") -> None:
    """Until that session waits for a lock."""
    async with asyncio.timeout(30):
        while True:
            assert not task.done()
            row = await fetch_one(db, "SELECT count(*) AS n FROM pg_locks WHERE pid = %s AND NOT granted", [pid])
            if row.n:
                return
            await asyncio.sleep(0.01)


async def test_partial_is_stored_and_cleared(db: Connection) -> None:
    flags = np.zeros(1_000, dtype=bool)
    flags[[3, 900]] = True
    await write_buckets(db, 1, MINUTE, candles(0, 1_000), "derived", flags)
    assert (await fetch_one(db, "SELECT count(*) AS n FROM bucket WHERE partial")).n == 2
    again = await write_buckets(db, 1, MINUTE, candles(0, 1_000), "derived", flags)
    assert again == Counts(unchanged=1_000)
    assert await write_buckets(db, 1, MINUTE, candles(0, 1_000), "derived") == Counts(0, 2, 998)
    assert await fetch_all(db, "SELECT FROM bucket WHERE partial") == []
    assert await fetch_all(db, "SELECT FROM bucket_correction") == []


@pytest.mark.parametrize("count", [100, 1_000])
async def test_a_file_with_the_same_numbers_leaves_derived_candles_as_they_are(db: Connection, count: int) -> None:
    flags = np.zeros(count, dtype=bool)
    flags[[3, count - 1]] = True
    await write_buckets(db, 1, MINUTE, candles(0, count), "derived", flags)
    assert await write_buckets(db, 1, MINUTE, candles(0, count), "imported") == Counts(unchanged=count)
    rows = await fetch_all(db, "SELECT source::text, partial, count(*) FROM bucket GROUP BY 1, 2 ORDER BY 2")
    assert [tuple(row) for row in rows] == [("derived", False, count - 2), ("derived", True, 2)]
    await db.execute("UPDATE bucket SET volume = volume + 1 WHERE partial")
    assert await write_buckets(db, 1, MINUTE, candles(0, count), "imported") == Counts(0, 2, count - 2)
    assert await fetch_all(db, "SELECT FROM bucket WHERE partial") == []
