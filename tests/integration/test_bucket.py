"""Candles in the table: what is written, by many at once, and what that costs."""

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psycopg
import pytest

from tests.plugins._venue import START, candle
from trader.bucket import (
    TIMEFRAMES,
    BadCandleError,
    Counts,
    from_list,
    import_file,
    read_buckets,
    timeframe_named,
    write_buckets,
)
from trader.db import Connection, Identity, connect, fetch_all, fetch_one
from trader.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / "../shared/data"
MINUTE = timeframe_named("1m")
SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT'), ('ETH');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2), (1, 'ETH/USDT', 3, 2);
"""


@pytest.fixture
async def db(database: str):
    async with await connect(database, Identity("worker", "worker-1")) as opened:
        await opened.execute(SEED)
        yield opened


async def write(db: Connection, *indexes: int, price: float = 100.0, source: str = "fetched") -> Counts:
    return await write_buckets(db, 1, MINUTE, from_list([candle(i, price=price) for i in indexes]), source)


async def test_what_is_written_is_read_back_exactly(db: Connection) -> None:
    given = [candle(i) for i in range(20)]
    assert await write_buckets(db, 1, MINUTE, from_list(given), "fetched") == Counts(inserted=20)
    await write_buckets(db, 2, MINUTE, from_list([candle(0, price=7)]), "imported")
    frame = await read_buckets(db, 1, MINUTE.id)
    assert list(frame.columns) == ["open", "high", "low", "close", "volume"]
    assert frame.index.name == "time_close"
    assert str(frame.index.tz) == "UTC"
    assert set(map(str, frame.dtypes)) == {"float64"}
    assert frame.index[0].to_pydatetime() == START.replace(minute=1)
    assert frame["high"].tolist() == [one.high for one in given]
    newest = await read_buckets(db, 1, MINUTE.id, last=3)
    assert newest.equals(frame.tail(3))
    assert (await read_buckets(db, 1, 60)).empty
    assert (await read_buckets(db, 2, MINUTE.id)).shape == (1, 5)


async def test_any_float_survives(db: Connection) -> None:
    value = np.nextafter(0.1, 1)
    odd = candle(0)
    odd = type(odd)(odd.time_open, value, 1e308, 5e-324, value, 1 / 3)
    await write_buckets(db, 1, MINUTE, from_list([odd]), "fetched")
    row = await fetch_one(db, "SELECT * FROM bucket")
    assert (row.open, row.high, row.low, row.volume) == (value, 1e308, 5e-324, 1 / 3)


async def test_timeframes_are_those_of_the_table(db: Connection) -> None:
    rows = await fetch_all(
        db, "SELECT id, name, span = '1 month' AS is_month, extract(epoch FROM span) * 1000 AS ms FROM timeframe"
    )
    assert {row.name: (row.id, None if row.is_month else int(row.ms)) for row in rows} == {
        one.name: (one.id, one.span) for one in TIMEFRAMES.values()
    }


async def test_rewriting_what_is_there_touches_nothing(db: Connection) -> None:
    await write(db, *range(100))
    before = await fetch_all(db, "SELECT id, xmin, xmax, ctid FROM bucket ORDER BY id")
    assert await write(db, *range(100), source="imported") == Counts(unchanged=100)
    assert await fetch_all(db, "SELECT id, xmin, xmax, ctid FROM bucket ORDER BY id") == before


async def test_only_what_changed_is_rewritten(db: Connection) -> None:
    await write(db, *range(10))
    changed = [candle(i, price=200 if i == 4 else 100) for i in range(12)]
    assert await write_buckets(db, 1, MINUTE, from_list(changed), "fetched") == Counts(2, 1, 9)
    assert (await read_buckets(db, 1, MINUTE.id))["open"].tolist() == [one.open for one in changed]


async def test_a_row_written_by_hand_is_taken_over(db: Connection) -> None:
    await db.execute("""INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
        VALUES (1, 1, '2024-01-01 00:03Z', 1, 1, 1, 1, 1, 'imported')""")
    assert await write(db, *range(5)) == Counts(4, 1, 0)
    row = await fetch_one(db, "SELECT open, source::text FROM bucket WHERE time_close = '2024-01-01 00:03Z'")
    assert (row.open, row.source) == (candle(2).open, "fetched")


async def test_one_bad_candle_and_none_is_written(db: Connection) -> None:
    bad = [candle(0), candle(1), candle(1)]
    with pytest.raises(BadCandleError, match=r"candle 3: time_open .* is there twice"):
        await write_buckets(db, 1, MINUTE, from_list(bad), "fetched")
    assert (await fetch_one(db, "SELECT count(*) AS rows FROM bucket")).rows == 0


async def test_months_close_with_the_calendar(db: Connection) -> None:
    month = timeframe_named("1M")
    given = [type(candle(0))(START.replace(month=m), 1, 2, 0.5, 1.5, 3) for m in (1, 2, 3)]
    await write_buckets(db, 1, month, from_list(given), "fetched")
    rows = await fetch_all(db, "SELECT to_char(time_close, 'MM-DD') AS day FROM bucket ORDER BY 1")
    assert [row.day for row in rows] == ["02-01", "03-01", "04-01"]
    assert await fetch_all(db, "SELECT * FROM bucket_gap") == []


WRITER = """
import asyncio, json, sys
import numpy as np
from trader.bucket import Candles, timeframe_named, write_buckets
from trader.db import Identity, connect

async def main(url, number):
    total, tf = [0, 0, 0], timeframe_named("1m")
    random = np.random.default_rng(number)
    async with await connect(url, Identity("worker", f"worker-{number}")) as db:
        print("ready", flush=True); sys.stdin.readline()
        for _ in range(30):
            first = int(random.integers(0, 4000))
            index = np.arange(first, first + 1000, dtype=np.int64)
            price = 100.0 + index % 13
            page = Candles(index * 60_000, price, price + 1, price - 1, price, index % 7 + 0.0)
            got = await write_buckets(db, 1, tf, page, "fetched")
            total = [a + b for a, b in zip(total, (got.inserted, got.changed, got.unchanged))]
    print(json.dumps(total))
asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def _writer(database: str, number: int) -> subprocess.Popen[str]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER, database, str(number)]
    return subprocess.Popen(command, **pipes, text=True, cwd=ROOT, env=environment)


async def test_eight_processes_write_overlapping_candles_while_others_read(db: Connection, database: str) -> None:
    writers = [_writer(database, number) for number in range(8)]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "ready\n", writer.stderr.read()
        for writer in writers:
            writer.stdin.write("\n")
            writer.stdin.flush()
        slowest = await _read_until(db, lambda: all(writer.poll() is not None for writer in writers))
        results = [writer.communicate(timeout=60) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
    assert [error for _, error in results] == [""] * 8
    counts = np.array([json.loads(out.splitlines()[-1]) for out, _ in results])
    rows = await fetch_one(db, "SELECT count(*) AS r, count(DISTINCT time_close) AS k FROM bucket")
    assert rows.r == rows.k == counts[:, 0].sum()
    assert counts[:, 1].sum() == 0
    assert counts.sum() == 8 * 30 * 1000
    assert slowest < 2.0
    deadlocks = await fetch_one(db, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks.deadlocks == 0


async def _read_until(db: Connection, ended) -> float:
    """Read all the time; how long the slowest read took, in seconds."""
    slowest = 0.0
    while not ended():
        began = time.monotonic()
        await db.execute("SELECT count(*), max(close) FROM bucket WHERE market_id = 1")
        slowest = max(slowest, time.monotonic() - began)
        await asyncio.sleep(0.01)
    return slowest


async def test_a_reader_is_not_blocked_by_an_open_write(db: Connection, database: str) -> None:
    async with await connect(database, Identity("worker", "worker-2")) as other, other.transaction():
        await write(other, *range(10))
        async with asyncio.timeout(2):
            assert (await read_buckets(db, 1, MINUTE.id)).empty
    assert len(await read_buckets(db, 1, MINUTE.id)) == 10


def csv(tmp_path: Path, candles: list, bad: str = "") -> Path:
    lines = ["time_open_ms,open,high,low,close,volume"]
    lines += [f"{int(c.time_open.timestamp() * 1000)},{c.open},{c.high},{c.low},{c.close},{c.volume}" for c in candles]
    path = tmp_path / "candles.csv"
    path.write_text("\n".join([*lines, bad] if bad else lines))
    return path


async def test_a_file_makes_its_feed_and_a_second_import_changes_nothing(db: Connection, tmp_path: Path) -> None:
    path = csv(tmp_path, [candle(i) for i in range(50)])
    steps = []
    done = await import_file(db, path, 1, MINUTE, progress=lambda *step: steps.append(step))
    assert done.counts == Counts(inserted=50)
    assert steps == [(50, 50)]
    feed = await fetch_one(db, "SELECT enabled, status::text, collect_since, covered, newest FROM bucket_feed")
    assert (feed.enabled, feed.status, feed.collect_since) == (False, "full", START)
    assert [(one.lower, one.upper) for one in feed.covered] == [(START, START.replace(minute=50))]
    assert feed.newest == START.replace(minute=50)
    assert (await import_file(db, path, 1, MINUTE)).counts == Counts(unchanged=50)
    await import_file(db, csv(tmp_path, [candle(i) for i in range(50, 60)]), 1, MINUTE)
    assert (await fetch_one(db, "SELECT newest FROM bucket_feed")).newest == START.replace(hour=1, minute=0)
    await import_file(db, csv(tmp_path, [candle(i) for i in range(90, 95)]), 1, MINUTE)  # a hole between
    assert (await fetch_one(db, "SELECT newest FROM bucket_feed")).newest == START.replace(hour=1, minute=35)


async def test_an_import_leaves_a_feed_that_is_on_alone(db: Connection, tmp_path: Path) -> None:
    await db.execute("INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (1, 1, '2024-01-01Z')")
    what_people_say = "SELECT enabled, status, collect_since, covered, updated_at FROM bucket_feed"
    before = await fetch_all(db, what_people_say)
    await import_file(db, csv(tmp_path, [candle(i) for i in range(5)]), 1, MINUTE)
    assert await fetch_all(db, what_people_say) == before


async def test_of_a_malformed_file_nothing_is_stored(db: Connection, tmp_path: Path) -> None:
    path = csv(tmp_path, [candle(i) for i in range(25_000)], bad="1704067200000,1,2,x,1.5,10")
    with pytest.raises(InputError, match="line 25002: low is 'x'"):
        await import_file(db, path, 1, MINUTE)
    row = await fetch_one(
        db, "SELECT (SELECT count(*) FROM bucket) AS buckets, (SELECT count(*) FROM bucket_feed) AS feeds"
    )
    assert (row.buckets, row.feeds) == (0, 0)


@pytest.mark.any_server
@pytest.mark.skipif(not SHARED.is_dir(), reason="NOT RUN: ../shared/data is not here")
async def test_a_year_of_minutes_is_imported_in_seconds(db: Connection) -> None:
    path = SHARED / "bitfinex_BTC-USD_1m_2016.csv.gz"
    began = time.monotonic()
    assert (await import_file(db, path, 1, MINUTE)).counts == Counts(inserted=293_230)
    first = time.monotonic() - began
    began = time.monotonic()
    assert (await import_file(db, path, 1, MINUTE)).counts == Counts(unchanged=293_230)
    assert first < 30
    assert time.monotonic() - began < 15
    assert (await fetch_one(db, "SELECT count(DISTINCT time_close) AS keys FROM bucket")).keys == 293_230


async def test_the_table_refuses_what_cannot_be(db: Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="low_is_the_lowest"):
        await db.execute("""INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume,
            source) VALUES (1, 1, now(), 1, 1, 2, 1, 1, 'fetched')""")
