"""Deriving as a job: what is due, whose fault an error is, many writers at once, and the step back."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from jobs.derive import DEFER_DUE, DUE, derive
from trader import migrate
from trader.bucket import Candles, load_feed, timeframe_named, write_buckets
from trader.bucket.derive import derive as larger_of
from trader.bucket.derived import derive_feed
from trader.clock import to_milliseconds
from trader.db import Connection, Identity, connect, fetch_all, fetch_one

START = datetime(2024, 1, 1, tzinfo=UTC)
SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2);
"""
PUT = """
INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
SELECT 1, %s, c, 1, 1, 1, 1, 1, 'fetched' FROM unnest(%s::timestamptz[]) c
"""
ALIGNED = "time_close_is_where_a_candle_of_the_timeframe_closes"
FEED = "INSERT INTO bucket_feed (market_id, timeframe_id, collect_since, derived_from) VALUES (1, %s, %s, %s)"


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    async with await connect(database, Identity("worker", "worker-1")) as opened:
        await opened.execute(SEED)
        yield opened


async def queued(db: Connection) -> int:
    await db.execute(DEFER_DUE, DUE)
    return int((await fetch_one(db, "SELECT count(*) AS jobs FROM procrastinate_jobs")).jobs)


async def put(db: Connection, timeframe: int, minutes: range, step: int = 1) -> None:
    closes = [START + timedelta(minutes=minute + step) for minute in minutes]
    await db.execute(PUT, [timeframe, closes])


async def test_a_job_is_queued_when_an_hour_can_be_whole_and_only_one(db: Connection) -> None:
    await db.execute(FEED, [60, START, 1])
    assert await queued(db) == 0
    await put(db, 1, range(30))
    assert await queued(db) == 1, "nobody has looked at a new feed yet"
    assert await derive(db, 1) == 0
    await db.execute("DELETE FROM procrastinate_jobs")
    await put(db, 1, range(30, 59))
    assert await queued(db) == 0, "its end has not come"
    await put(db, 1, range(59, 61))
    assert await queued(db) == 1
    assert await queued(db) == 1
    await db.execute("DELETE FROM procrastinate_jobs")
    assert await derive(db, 1) == 1
    assert await queued(db) == 0


async def test_candles_off_the_grid_are_the_fault_of_one_feed(db: Connection) -> None:
    days = [START + timedelta(days=day, hours=16) for day in range(1, 15)]
    await db.execute(PUT, [1440, days])
    await put(db, 1, range(121))
    await db.execute(FEED, [10080, START, 1440])
    await db.execute(FEED, [60, START, 1])
    assert await derive(db, 1) == 1
    rows = await fetch_all(
        db, "SELECT status::text, last_error FROM bucket_feed WHERE derived_from > 0 ORDER BY timeframe_id"
    )
    assert rows[0] == ("full", None)
    assert rows[1].status == "error"
    assert "a 1d candle opens at 2024-01-01 16:00:00 UTC" in rows[1].last_error
    assert (await fetch_one(db, "SELECT count(*) AS found FROM bucket WHERE timeframe_id = 10080")).found == 0


async def test_one_candle_off_the_grid_costs_one_hour(db: Connection, caplog: pytest.LogCaptureFixture) -> None:
    """It is from before such were refused: psql had taken it, in the place of one that was missing."""
    await put(db, 1, range(90))
    await put(db, 1, range(91, 240))
    await db.execute(f"ALTER TABLE bucket DROP CONSTRAINT {ALIGNED}")
    await db.execute(PUT, [1, [START + timedelta(minutes=90, seconds=30)]])
    await db.execute(FEED, [60, START, 1])
    assert await derive(db, 1) == 1
    hours = await fetch_all(db, "SELECT time_close FROM bucket WHERE timeframe_id = 60 ORDER BY 1")
    assert [(row.time_close - START) / timedelta(hours=1) for row in hours] == [1, 3, 4]
    assert (await fetch_one(db, "SELECT status::text FROM bucket_feed WHERE timeframe_id = 60")).status == "full"
    assert "binance:BTC/USDT 1m: 1 candles open elsewhere" in caplog.text


async def test_a_derived_feed_is_never_due_at_the_venue(db: Connection) -> None:
    await db.execute(FEED, [60, START, 1])
    due = "SELECT due_at > now() + interval '100 years' AS never, backfill_at FROM bucket_feed WHERE timeframe_id = 60"
    assert await fetch_one(db, due) == (True, None)
    await db.execute("UPDATE bucket_feed SET collect_since = collect_since - interval '1 day' WHERE timeframe_id = 60")
    assert await fetch_one(db, due) == (True, None)
    await db.execute("UPDATE bucket_feed SET derived_from = NULL WHERE timeframe_id = 60")
    found = await fetch_one(db, due)
    assert found.never is False
    assert found.backfill_at is not None


async def test_writers_and_derivations_at_once(database: str, db: Connection) -> None:
    minute, quarter, hour = (timeframe_named(name) for name in ("1m", "15m", "1h"))
    await db.execute(FEED, [15, START, 1])
    await db.execute(FEED, [60, START, 15])
    first, count = to_milliseconds(START), 6000
    stop = asyncio.Event()

    def part(random: Random) -> Candles:
        import numpy as np

        start = random.randrange(count)
        numbers = np.arange(start, min(start + random.choice([1, 7, 300]), count), dtype=np.int64)
        price = random.uniform(1, 2) + numbers % 5
        return Candles(first + numbers * 60_000, price, price + 1, price - 0.5, price, price * 0 + random.randrange(9))

    async def write(seed: int) -> None:
        random = Random(seed)
        async with await connect(database, Identity("worker", f"writer-{seed}")) as mine:
            for _ in range(60):
                await write_buckets(mine, 1, minute, part(random), "fetched")

    async def follow(number: int) -> None:
        async with await connect(database, Identity("worker", f"deriver-{number}")) as mine:
            last = False
            while not last:
                last = stop.is_set()
                for larger, smaller in ((quarter, minute), (hour, quarter)):
                    feed = await load_feed(mine, 1, larger.id)
                    while await derive_feed(mine, feed, smaller, most=1000) is not None:
                        pass
                await asyncio.sleep(0)

    async def writers() -> None:
        await asyncio.gather(*(write(seed) for seed in range(3)))
        stop.set()

    await asyncio.wait_for(asyncio.gather(writers(), follow(1), follow(2)), 90)
    assert await columns(db, 15) == made(larger_of(await source(db, 1), minute, quarter))
    assert await columns(db, 60) == made(larger_of(await source(db, 15), quarter, hour))
    row = await fetch_one(db, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert row.deadlocks == 0


async def source(db: Connection, timeframe: int) -> Candles:
    import numpy as np

    rows = await columns(db, timeframe)
    table = np.array(rows).reshape(-1, 6)
    return Candles(table[:, 0].astype(np.int64), *(np.ascontiguousarray(table[:, i]) for i in range(1, 6)))


async def columns(db: Connection, timeframe: int) -> list[tuple[Any, ...]]:
    rows = await fetch_all(
        db,
        """SELECT (extract(epoch FROM time_close - span) * 1000)::float8 AS at, open, high, low, close, volume
             FROM bucket JOIN timeframe t ON t.id = timeframe_id WHERE timeframe_id = %s ORDER BY 1""",
        [timeframe],
    )
    return [tuple(row) for row in rows]


def made(derived: Any) -> list[tuple[Any, ...]]:
    c = derived.candles
    numbers = (c.time_open, c.open, c.high, c.low, c.close, c.volume)
    return list(zip(*(column.tolist() for column in numbers), strict=True))


async def test_the_step_back_switches_derived_feeds_off_and_keeps_their_candles(database: str, db: Connection) -> None:
    await db.execute(FEED, [60, START, 1])
    await put(db, 1, range(121))
    await derive(db, 1)
    await asyncio.to_thread(migrate.downgrade, database, "0016_update")
    row = await fetch_one(db, "SELECT enabled, newest FROM bucket_feed WHERE timeframe_id = 60")
    assert row == (False, START + timedelta(hours=2))
    await asyncio.to_thread(migrate.upgrade, database)
    await db.execute("UPDATE bucket_feed SET enabled = true, derived_from = 1 WHERE timeframe_id = 60")
    await put(db, 1, range(121, 181))
    assert await derive(db, 1) == 1
    found = await fetch_one(db, "SELECT count(*) AS hours FROM bucket WHERE timeframe_id = 60")
    assert found.hours == 3
