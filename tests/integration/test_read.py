"""Reading candles: the whole, parts, chunks, and the local copies, which say nothing but what PostgreSQL says."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg
import pytest

from tests.plugins._venue import START
from tests.plugins.postgres import with_database
from trader.bucket import CandleCache, Candles, read_bucket_chunks, read_buckets, timeframe_named, write_buckets
from trader.bucket import cache as cache_module
from trader.clock import to_milliseconds
from trader.config import load
from trader.db import Connection, Identity, connect
from trader.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
MINUTE = timeframe_named("1m")
SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT'), ('ETH');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2), (1, 'ETH/USDT', 3, 2);
"""
ROWS = "SELECT time_close, open, high, low, close, volume FROM bucket WHERE market_id = 1 ORDER BY time_close"


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    async with await connect(database, Identity("worker", "worker-1")) as opened:
        await opened.execute(SEED)
        yield opened


@pytest.fixture
def cache(tmp_path: Path) -> CandleCache:
    return CandleCache(tmp_path / "cache", 100_000_000)


def candles(first: int, count: int, *, hole: range = range(0), extra: float = 0.0) -> Candles:
    index = np.array([i for i in range(first, first + count) if i not in hole], dtype=np.int64)
    price = 100.0 + index % 13 + index / 7 + extra
    return Candles(to_milliseconds(START) + 60_000 * index, price, price + 1, price - 1, price + 0.5, index % 7 * 1.5)


async def write(db: Connection, what: Candles) -> None:
    await write_buckets(db, 1, MINUTE, what, "fetched")


def minutes(count: float) -> datetime:
    return START + timedelta(minutes=count)


async def plain(db: Connection) -> pd.DataFrame:
    """The same without anything of ours: tuples, one at a time."""
    rows = await (await db.execute(ROWS)).fetchall()
    index = pd.DatetimeIndex([row[0] for row in rows], name="time_close").as_unit("ms")
    values = np.array([row[1:] for row in rows], dtype=float).reshape(-1, 5)
    return pd.DataFrame(values, index=index.tz_localize("UTC") if not len(rows) else index.tz_convert("UTC"),
                        columns=["open", "high", "low", "close", "volume"])  # fmt: skip


async def test_each_part_is_that_part_of_the_whole(db: Connection, cache: CandleCache) -> None:
    await write(db, candles(0, 3_000, hole=range(700, 2_200)))
    whole = await read_buckets(db, 1, 1)
    pd.testing.assert_frame_equal(whole, await plain(db), check_exact=True)
    opens = whole.index - pd.Timedelta(minutes=1)
    for since in (None, minutes(0), minutes(99.5), minutes(700), minutes(2_500), minutes(9_000)):
        for until in (None, minutes(-5), minutes(100), minutes(699.9), minutes(2_201)):
            for last in (None, 1, 7, 10_000):
                want = whole
                want = want[opens >= since] if since else want
                want = want[want.index <= until] if until else want
                want = want.tail(last) if last else want
                for read in (read_buckets, cache.read):
                    got = await read(db, 1, 1, last, since, until)
                    pd.testing.assert_frame_equal(got, want, check_exact=True)
    assert (await read_buckets(db, 2, 1)).empty
    assert (await cache.read(db, 2, 1)).empty


async def test_chunks_are_the_whole_in_pieces(db: Connection) -> None:
    await write(db, candles(0, 3_000, hole=range(700, 2_200)))
    chunks = [chunk async for chunk in read_bucket_chunks(db, 1, 1, rows=300)]
    assert max(map(len, chunks)) <= 300
    assert min(map(len, chunks)) > 0
    pd.testing.assert_frame_equal(pd.concat(chunks), await read_buckets(db, 1, 1))
    part = [chunk async for chunk in read_bucket_chunks(db, 1, 1, since=minutes(100), until=minutes(250), rows=40)]
    pd.testing.assert_frame_equal(pd.concat(part), await read_buckets(db, 1, 1, since=minutes(100), until=minutes(250)))
    assert [chunk async for chunk in read_bucket_chunks(db, 2, 1)] == []


async def test_chunks_are_of_one_moment(db: Connection, database: str) -> None:
    await write(db, candles(0, 30_000))
    seen = 0
    async with await connect(database, Identity("worker", "worker-2")) as other:
        async for chunk in read_bucket_chunks(db, 1, 1, rows=100):
            if not seen:
                await other.execute("DELETE FROM bucket WHERE time_close > %s", [minutes(20_000)])
            seen += len(chunk)
    assert seen == 30_000


async def test_months(db: Connection, cache: CandleCache) -> None:
    month = timeframe_named("1M")
    opens = np.array([to_milliseconds(datetime(2020 + i // 12, i % 12 + 1, 1, tzinfo=UTC)) for i in range(40)])
    price = np.arange(1.0, 41.0)
    await write_buckets(db, 1, month, Candles(opens, price, price, price, price, price), "fetched")
    await db.execute("SET TimeZone = 'America/New_York'")
    assert len(await read_buckets(db, 1, month.id)) == 40
    for since in (datetime(2020, 3, 1, tzinfo=UTC), datetime(2020, 2, 15, tzinfo=UTC)):
        for read in (read_buckets, cache.read):
            frame = await read(db, 1, month.id, None, since, datetime(2020, 6, 1, tzinfo=UTC))
            assert [str(close.date()) for close in frame.index] == ["2020-04-01", "2020-05-01", "2020-06-01"]


async def test_what_cannot_be_asked(db: Connection) -> None:
    with pytest.raises(InputError, match="last is 0: a number of candles above zero"):
        await read_buckets(db, 1, 1, last=0)
    with pytest.raises(InputError, match="since is 2024-01-01T00:00:00: a time zone is needed"):
        await read_buckets(db, 1, 1, since=datetime(2024, 1, 1))  # noqa: DTZ001
    with pytest.raises(InputError, match="timeframe_id 7"):
        await read_buckets(db, 1, 7)


# Copies


def the_file(cache: CandleCache) -> Path:
    (found,) = cache.directory.glob("*/*.candles")
    return found


async def agree(db: Connection, cache: CandleCache) -> None:
    for _ in range(2):
        pd.testing.assert_frame_equal(await cache.read(db, 1, 1), await plain(db), check_exact=True)


async def test_a_second_read_comes_from_the_file(db: Connection, cache: CandleCache) -> None:
    await write(db, candles(0, 1_000))
    await agree(db, cache)
    before = the_file(cache).stat().st_ino
    await db.execute("SELECT pg_stat_force_next_flush()")
    read = await _tuples_read(db)
    await agree(db, cache)
    assert await _tuples_read(db) - read < 2_500  # the plain reads alone, which the check does twice
    assert the_file(cache).stat().st_ino == before


async def _tuples_read(db: Connection) -> int:
    await db.execute("SELECT pg_stat_force_next_flush()")
    await db.execute("SELECT pg_stat_clear_snapshot()")
    query = "SELECT seq_tup_read + idx_tup_fetch AS n FROM pg_stat_user_tables WHERE relname = 'bucket'"
    row = await (await db.execute(query)).fetchone()
    return int(row.n)


async def test_what_is_newer_is_added(db: Connection, cache: CandleCache, monkeypatch: pytest.MonkeyPatch) -> None:
    await write(db, candles(0, 1_000))
    await agree(db, cache)
    before = the_file(cache).stat().st_ino
    await write(db, candles(1_000, 50))
    await agree(db, cache)
    assert the_file(cache).stat().st_ino == before  # a few are read each time
    monkeypatch.setattr(cache_module, "MOST_NEWER", 40)
    await agree(db, cache)
    assert the_file(cache).stat().st_ino != before
    await agree(db, cache)


INSERT = """
INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
VALUES (1, 1, '%s', 1, 1, 1, 1, 1, 'imported')
"""
OUTDATED = {
    "corrected": "UPDATE bucket SET high = high + 1 WHERE time_close = '2024-01-01 05:00Z'",
    "the newest corrected": "UPDATE bucket SET volume = 77 WHERE time_close = (SELECT max(time_close) FROM bucket)",
    "inserted before": INSERT % "2023-12-31Z",
    "inserted in a gap": INSERT % "2024-01-01 08:25Z",
    "deleted": "DELETE FROM bucket WHERE time_close = '2024-01-01 05:00Z'",
    "the newest deleted": "DELETE FROM bucket WHERE time_close > '2024-01-01 10:00Z'",
    "all deleted": "DELETE FROM bucket",
    "truncated": "TRUNCATE bucket",
    "moved": "UPDATE bucket SET time_close = time_close - interval '1 year' WHERE time_close > '2024-01-01 10:00Z'",
    "made anew": "CREATE TEMP TABLE b AS SELECT * FROM bucket; DELETE FROM bucket; DELETE FROM bucket_feed;"
    " UPDATE b SET close = close + 0.1; INSERT INTO bucket SELECT * FROM b",
}


@pytest.mark.parametrize("what", OUTDATED)
async def test_an_outdated_copy_is_not_believed(db: Connection, cache: CandleCache, what: str) -> None:
    await write(db, candles(0, 1_000, hole=range(500, 510)))
    await agree(db, cache)
    await db.execute(OUTDATED[what])
    await agree(db, cache)
    await write(db, candles(1_000, 30, extra=2.0))
    await agree(db, cache)


async def test_after_a_restore_the_lost_future_is_not_believed(db: Connection, cache: CandleCache) -> None:
    """A file system's copy brought back: the same database by every name, its revisions counted anew."""
    await write(db, candles(0, 1_000))
    tables = ("bucket", "bucket_feed", "gap")
    for table in tables:
        await db.execute(f"CREATE TABLE backup_{table} AS SELECT * FROM {table}")
    await write(db, candles(1_000, 40))
    await agree(db, cache)
    await db.execute("SET session_replication_role = replica")  # no triggers: as a restore does
    for table in tables:
        await db.execute(f"DELETE FROM {table}")
        await db.execute(f"INSERT INTO {table} SELECT * FROM backup_{table}")
    await db.execute("SET session_replication_role = origin")
    await agree(db, cache)
    await write(db, candles(1_000, 40, extra=1.0))  # another future, of the same length and the same revision
    await write(db, candles(1_040, 40))
    await agree(db, cache)


def flip(place: float) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 0x10
        path.write_bytes(data)

    return damage


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(8))


def of_another_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"candles 1", b"candles 0", 1))


def swapped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[600:608], data[608:616] = data[608:616], data[600:608]
    path.write_bytes(data)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [
    flip(0.0),
    flip(0.002),
    flip(0.3),
    flip(0.9),
    flip(1.0),
    cut,
    grown,
    of_another_version,
    swapped,
    a_directory,
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_copy_is_not_believed(
    db: Connection, cache: CandleCache, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    await write(db, candles(0, 1_000))
    await agree(db, cache)
    damage(the_file(cache))
    await agree(db, cache)
    assert "candles" in caplog.text


async def test_no_byte_of_the_head_can_lie(db: Connection, cache: CandleCache) -> None:
    await write(db, candles(0, 20))
    want = await read_buckets(db, 1, 1)
    for byte in range(512):
        await cache.read(db, 1, 1)
        data = bytearray(the_file(cache).read_bytes())
        data[byte] ^= 1
        the_file(cache).write_bytes(data)
        pd.testing.assert_frame_equal(await cache.read(db, 1, 1), want, check_exact=True)


async def test_another_databases_copy_is_not_believed(
    db: Connection, cache: CandleCache, server: str, template: str, admin: psycopg.Connection
) -> None:
    """The same market and timeframe, the same number of candles, in the file's place."""
    await write(db, candles(0, 500))
    await agree(db, cache)
    name = "test_cache_other_" + os.urandom(4).hex()
    admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        async with await connect(with_database(server, name), Identity("worker", "worker-1")) as other:
            await other.execute(SEED)
            await write(other, candles(0, 500, extra=5.0))
            first = the_file(cache)
            await agree(other, cache)
            (second,) = set(cache.directory.glob("*/*.candles")) - {first}
            first.write_bytes(second.read_bytes())
            await agree(db, cache)
            second.write_bytes(first.read_bytes())
            await agree(other, cache)
    finally:
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


KILLED = """
import asyncio, sys
from pathlib import Path
from trader.bucket import CandleCache
from trader.db import Identity, connect

async def main(url, directory):
    real = Path.replace
    def stuck(self, target):
        print("written", flush=True)
        sys.stdin.readline()
        return real(self, target)
    Path.replace = stuck
    async with await connect(url, Identity("worker", "killed")) as db:
        await CandleCache(Path(directory), 10**9).read(db, 1, 1)
asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_writer_that_is_killed_leaves_the_old_copy(db: Connection, cache: CandleCache, database: str) -> None:
    await write(db, candles(0, 1_000))
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", KILLED, database, str(cache.directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"written\n"
    process.kill()
    await process.wait()
    (half,) = cache.directory.glob("*/*.new")
    assert list(cache.directory.glob("*/*.candles")) == []
    await agree(db, cache)
    os.utime(half, (0, 0))
    the_file(cache).unlink()
    await agree(db, cache)
    assert not half.exists()


async def test_the_longest_unused_go_when_there_is_no_room(db: Connection, tmp_path: Path) -> None:
    for market in (1, 2):
        await write_buckets(db, market, MINUTE, candles(0, 1_000), "fetched")
    cache = CandleCache(tmp_path, 60_000)  # one of 48,512 bytes and no more
    await cache.read(db, 1, 1)
    assert the_file(cache).name == "1-1.candles"
    os.utime(the_file(cache), (1, 1))
    await cache.read(db, 2, 1)
    assert the_file(cache).name == "2-1.candles"
    small = CandleCache(tmp_path / "small", 1_000)
    assert len(await small.read(db, 1, 1)) == 1_000
    assert list(small.directory.glob("**/*")) == []


async def test_a_directory_that_cannot_be_written_costs_time_only(
    db: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await write(db, candles(0, 100))
    (tmp_path / "file").write_text("in the way")
    await agree(db, CandleCache(tmp_path / "file", 10**9))
    assert "cannot be" in caplog.text


def test_the_setting(tmp_path: Path) -> None:
    home = {"TALLYDESK_HOME": str(tmp_path)}
    cache = CandleCache.of(load(home | {"TALLYDESK_CACHE_MB": "7"}, tmp_path))
    assert cache is not None
    assert (cache.most_bytes, cache.directory) == (7_000_000, tmp_path / "cache" / "candles")
    assert CandleCache.of(load(home | {"TALLYDESK_CACHE_MB": "0"}, tmp_path)) is None
