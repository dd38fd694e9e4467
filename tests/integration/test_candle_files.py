"""Files into the table and out of it, in every format."""

import gzip
import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from tests.plugins._venue import START, candle
from trader.bucket import (
    BadCandleError,
    Candles,
    Counts,
    export_file,
    holes,
    import_file,
    preview_content,
    read_file,
    read_files,
    scan,
    store_content,
    timeframe_named,
    write_buckets,
)
from trader.bucket.derived_feed import add_derived, derive_all, left_out
from trader.bucket.gap import declare_gaps
from trader.clock import to_milliseconds
from trader.db import Connection, Identity, connect, fetch_all, fetch_one
from trader.errors import InputError

pytestmark = pytest.mark.any_server

MINUTE = timeframe_named("1m")
SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2);
"""
NAMES = ("time_open", "open", "high", "low", "close", "volume")


@pytest.fixture
async def db(database: str):
    async with await connect(database, Identity("worker", "worker-1")) as opened:
        await opened.execute(SEED)
        yield opened


def series(count: int, timeframe: str = "1m", seed: int = 1, *, gaps: bool = True) -> Candles:
    """Candles of awkward floats, some of them missing."""
    random = np.random.default_rng(seed)
    length = timeframe_named(timeframe)
    start = np.array([int(START.timestamp() * 1000)])
    steps = np.arange(count) + (np.cumsum(random.integers(0, 50, count) == 0) if gaps else 0)
    if length.span is None:
        months = start.astype("datetime64[ms]").astype("datetime64[M]") + steps - 360  # none of the future
        opens = months.astype("datetime64[ms]").astype(np.int64)
    else:
        opens = start + steps * length.span
    prices = np.sort(np.exp(random.normal(-8, 6, (count, 4))), axis=1)
    return Candles(opens, prices[:, 1], prices[:, 3], prices[:, 0], prices[:, 2], np.exp(random.normal(0, 9, count)))


def same(one: Candles, other: Candles) -> None:
    for name in NAMES:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


async def stored(db: Connection, timeframe: str = "1m") -> Candles:
    parts = [part async for part in scan(db, 1, timeframe_named(timeframe))]
    return Candles(*(np.concatenate([getattr(part, name) for part in parts]) for name in NAMES))


async def test_a_scan_gives_all_in_parts_of_one_snapshot_and_a_range_by_openings(db: Connection) -> None:
    given = series(120_000)
    await write_buckets(db, 1, MINUTE, given, "imported")
    parts = [part async for part in scan(db, 1, MINUTE)]
    assert len(parts) > 2
    assert max(map(len, parts)) <= 50_000
    same(await stored(db), given)
    since, until = START + timedelta(minutes=10), START + timedelta(minutes=20)
    (some,) = [part async for part in scan(db, 1, MINUTE, since, until)]
    opens = given.time_open - int(START.timestamp() * 1000)
    same(some, given[(opens >= 600_000) & (opens < 1_200_000)])
    assert [part async for part in scan(db, 1, MINUTE, since, since)] == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.csv", "auto"), ("x.csv.gz", "auto"), ("x.csv", "freqtrade"), ("x.csv", "ccxt"), ("x.csv", "backtesting"),
        ("x.json", "auto"), ("x.json.gz", "auto"), ("x.json", "freqtrade"), ("x.feather", "auto"),
        ("x.feather", "tallydesk"), ("x.feather", "backtesting"), ("x.parquet", "auto"), ("x.parquet", "tallydesk"),
        ("x.parquet", "backtesting"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("timeframe", ["1m", "1M"])
async def test_what_is_exported_is_imported_exactly(
    db: Connection, tmp_path: Path, name: str, kind: str, timeframe: str
) -> None:
    given = series(3_000 if timeframe == "1m" else 200, timeframe)
    length = timeframe_named(timeframe)
    await write_buckets(db, 1, length, given, "imported")
    assert await export_file(db, tmp_path / name, 1, length, kind=kind) == len(given)
    same(read_file(tmp_path / name, length), given)
    same(read_file(tmp_path / name, length, kind=kind), given)
    await db.execute("DELETE FROM bucket")
    assert (await import_file(db, tmp_path / name, 1, length)).counts == Counts(inserted=len(given))
    same(await stored(db, timeframe), given)
    assert os.listdir(tmp_path) == [name]


async def test_an_export_that_fails_leaves_what_was_there(db: Connection, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("mine")
    with pytest.raises(InputError, match="there are no 1m candles to write; nothing was written"):
        await export_file(db, path, 1, MINUTE)
    await write_buckets(db, 1, MINUTE, series(10), "imported")
    with pytest.raises(ZeroDivisionError):
        await export_file(db, path, 1, MINUTE, progress=lambda done: 1 / 0)
    assert (path.read_text(), os.listdir(tmp_path)) == ("mine", ["x.csv"])
    for name, kind, said in (
        ("x.xls", "auto", "the name must end in .csv, "),
        ("x.csv", "binance", "cannot be written: it has columns that are not stored"),
        ("x.json", "tallydesk", "a .json file can be ccxt, freqtrade"),
        ("no/x.csv", "auto", "cannot be written: No such file"),
    ):
        with pytest.raises(InputError, match=said):
            await export_file(db, tmp_path / name, 1, MINUTE, kind=kind)
    assert os.listdir(tmp_path) == ["x.csv"]


async def test_an_export_of_a_range(db: Connection, tmp_path: Path) -> None:
    given = series(100, gaps=False)
    await write_buckets(db, 1, MINUTE, given, "imported")
    bounds = (START + timedelta(minutes=10), START + timedelta(minutes=20))
    assert await export_file(db, tmp_path / "x.csv", 1, MINUTE, *bounds) == 10
    same(read_file(tmp_path / "x.csv", MINUTE), given[10:20])


async def everything(db: Connection) -> list:
    tables = ("bucket", "bucket_feed")
    return [await fetch_all(db, f"SELECT xmin::text, x.* FROM {table} x ORDER BY 1, 2, 3, 4") for table in tables]


async def test_a_dry_run_says_what_an_import_would_do_and_writes_nothing(db: Connection, tmp_path: Path) -> None:
    given = series(60_000, gaps=False)
    await write_buckets(db, 1, MINUTE, given[1_000:55_000], "fetched")
    await db.execute("UPDATE bucket SET close = low WHERE time_close = '2024-01-02 00:00Z'")
    path = tmp_path / "x.csv"
    lines = [",".join(map(repr, row)) for row in zip(*(getattr(given, name).tolist() for name in NAMES), strict=True)]
    path.write_text("\n".join(lines))
    before = await everything(db)
    steps: list[tuple[int, int]] = []
    content = read_files([path], MINUTE)
    said = await preview_content(db, content, 1, MINUTE, lambda *step: steps.append(step))
    assert said.counts == Counts(inserted=6_000, changed=1, unchanged=53_999)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert (steps[-1], len(steps)) == ((60_000, 60_000), 3)
    assert said.difference is not None
    assert "x.csv: the candle that closes at 2024-01-02 00:00 UTC is stored with" in said.difference
    assert await everything(db) == before
    with pytest.raises(InputError, match=r"x.csv: the candle that closes at 2024-01-02 00:00 .*nothing was imported"):
        await store_content(db, content, 1, MINUTE)
    assert await everything(db) == before
    done = await store_content(db, content, 1, MINUTE, replace=True)
    assert done.counts == said.counts
    assert (await preview_content(db, content, 1, MINUTE)).counts == Counts(unchanged=60_000)


async def test_several_files_are_one_import_and_one_of_them_that_is_wrong_is_none(
    db: Connection, tmp_path: Path
) -> None:
    given = series(300, gaps=False)
    await write_buckets(db, 1, MINUTE, given, "imported")
    for number, (start, end) in enumerate(((200, 300), (0, 110), (100, 200))):
        bounds = [START + timedelta(minutes=at) for at in (start, end)]
        await export_file(db, tmp_path / f"{number}.csv.gz", 1, MINUTE, *bounds)
    await db.execute("DELETE FROM bucket; DELETE FROM bucket_feed")
    (tmp_path / "3.csv").write_text("time_open_ms,open,high,low,close,volume\n1704067200000,1,2,0.5,1.5,ten\n")
    with pytest.raises(InputError, match=r"3.csv, line 2: volume is 'ten'"):
        read_files([tmp_path], MINUTE)
    (tmp_path / "3.csv").unlink()
    content = read_files([tmp_path], MINUTE)
    same(content.candles, given)
    assert (await store_content(db, content, 1, MINUTE)).counts == Counts(inserted=300)
    text = gzip.decompress((tmp_path / "2.csv.gz").read_bytes()).decode()
    lines = text.splitlines()
    lines[1] = lines[1].rpartition(",")[0] + ",7.5"
    (tmp_path / "2.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(InputError, match=r"2.csv.gz: volume of the candle that opens at 2024-01-01 01:40 UTC is 7.5"):
        read_files([tmp_path], MINUTE)


async def test_a_candle_that_cannot_be_stored_undoes_the_parts_before_it(db: Connection, tmp_path: Path) -> None:
    given = series(25_000, gaps=False)
    given.high[24_999] = given.low[24_999] / 2
    content = read_files([_written(tmp_path / "x.csv", given[:24_999])], MINUTE)
    broken = type(content)(content.files, given)
    with pytest.raises(BadCandleError, match="high"):
        await store_content(db, broken, 1, MINUTE)
    row = await fetch_one(db, "SELECT (SELECT count(*) FROM bucket) + (SELECT count(*) FROM bucket_feed) AS rows")
    assert row.rows == 0


def _written(path: Path, given: Candles) -> Path:
    lines = [",".join(map(repr, row)) for row in zip(*(getattr(given, name).tolist() for name in NAMES), strict=True)]
    path.write_text("\n".join(lines))
    return path


async def test_a_file_that_another_tool_wrote_is_what_this_one_says(db: Connection, tmp_path: Path) -> None:
    import pandas as pd

    given = [candle(i) for i in range(50)]
    frame = pd.DataFrame(
        [[c.open, c.high, c.low, c.close, c.volume] for c in given],
        index=pd.DatetimeIndex([c.time_open for c in given], name="date"),
        columns=["open", "high", "low", "close", "volume"],
    )
    frame.reset_index().to_feather(tmp_path / "freqtrade.feather", compression="lz4")
    counts = (await import_file(db, tmp_path / "freqtrade.feather", 1, MINUTE)).counts
    assert counts == Counts(inserted=50)
    await export_file(db, tmp_path / "ours.feather", 1, MINUTE)
    ours = pd.read_feather(tmp_path / "ours.feather").set_index("date")
    pd.testing.assert_frame_equal(ours, frame, check_index_type=False, check_freq=False)


async def test_the_gaps_of_a_file_may_be_declared_and_those_of_others_stay(db: Connection, tmp_path: Path) -> None:
    days = series(2 * 1440, gaps=False)
    keep = np.ones(len(days), dtype=bool)
    keep[[100, 101, 102, 1440 + 30, 1440 + 59]] = False
    await write_buckets(db, 1, MINUTE, days[keep & (np.arange(len(days)) < 1440)], "imported")
    part = read_files([_written(tmp_path / "x.csv", days[keep & (np.arange(len(days)) >= 1440)])], MINUTE)
    assert (await store_content(db, part, 1, MINUTE)).declared == 0
    assert (await store_content(db, part, 1, MINUTE, no_trades=True)).declared == 2
    assert (await store_content(db, part, 1, MINUTE, no_trades=True)).declared == 0
    rows = await fetch_all(db, "SELECT missing, kind::text FROM bucket_gap ORDER BY gap_from")
    assert [tuple(row)[1] == "no_trades" for row in rows] == [False, True, True]
    hour = timeframe_named("1h")
    await add_derived(db, 1, hour, MINUTE)
    steps: list[int] = []
    assert (await derive_all(db, 1, hour, MINUTE, steps.append)).inserted == 47  # all but that of the gap unjudged
    assert steps[-1] == 47
    assert (await derive_all(db, 1, hour, MINUTE)) == Counts()
    assert await left_out(db, 1, hour, MINUTE) == (1, 1)
    rows = await fetch_all(db, "SELECT time_close FROM bucket WHERE partial ORDER BY 1")
    assert [row.time_close for row in rows] == [START + timedelta(hours=25)]
    await add_derived(db, 1, hour, MINUTE)


async def test_what_cannot_be_derived_is_said(db: Connection) -> None:
    with pytest.raises(InputError, match="5m candles are not made of whole 3m ones"):
        await add_derived(db, 1, timeframe_named("5m"), timeframe_named("3m"))
    with pytest.raises(InputError, match="there is no feed of 1m candles: import a file, or tallydesk feed add"):
        await add_derived(db, 1, timeframe_named("5m"), MINUTE)
    await db.execute(
        "INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (1, 1, now()), (1, 5, now())"
    )
    with pytest.raises(InputError, match="5m candles are fetched from the venue: tallydesk feed pause first"):
        await add_derived(db, 1, timeframe_named("5m"), MINUTE)
    await db.execute("UPDATE bucket_feed SET enabled = false WHERE timeframe_id = 5")
    await add_derived(db, 1, timeframe_named("5m"), MINUTE)
    row = await fetch_one(db, "SELECT enabled, derived_from FROM bucket_feed WHERE timeframe_id = 5")
    assert (row.enabled, row.derived_from) == (True, 1)


async def test_weekends_leave_weeks_out_until_somebody_says_that_nobody_trades_then(db: Connection) -> None:
    day, week, month = (timeframe_named(name) for name in ("1d", "1w", "1M"))
    opens = to_milliseconds(START) + np.array([i for i in range(100) if i % 7 < 5]) * (day.span or 0)  # from a Monday
    ones = np.ones(len(opens))
    await write_buckets(db, 1, day, Candles(opens, ones, ones, ones, ones, ones), "imported")
    await db.execute("SET timezone = 'America/New_York'")
    for larger, made, left in ((week, 0, 14), (month, 0, 4)):
        await add_derived(db, 1, larger, day)
        assert (await derive_all(db, 1, larger, day)).inserted == made
        assert await left_out(db, 1, larger, day) == (left, 14)
    await declare_gaps(db, 1, day, "no_trades")
    assert (await derive_all(db, 1, week, day)).inserted == 14
    assert await left_out(db, 1, week, day) == (0, 0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="NOT RUN: ../shared/data is not here")
async def test_the_gaps_of_a_year_of_minutes_are_counted_exactly(db: Connection, tmp_path: Path) -> None:
    path = SHARED / "bitfinex_BTC-USD_1m_2016.csv.gz"
    content = read_files([path], MINUTE)
    found = holes(content.candles, MINUTE)
    assert (len(found), sum(hole.missing for hole in found)) == (63_912, 233_809)
    assert max(hole.missing for hole in found) // 1440 == 60  # 61 days but for three minutes
    await store_content(db, content, 1, MINUTE)
    rows = await fetch_all(db, "SELECT gap_from, gap_to, missing FROM bucket_gap ORDER BY gap_from")
    rows = [(to_milliseconds(row.gap_from), to_milliseconds(row.gap_to), row.missing) for row in rows]
    assert rows == [(hole.start, hole.end, hole.missing) for hole in found]
    assert await export_file(db, tmp_path / "x.parquet", 1, MINUTE) == 293_230
    same(read_file(tmp_path / "x.parquet", MINUTE), content.candles)


async def test_a_candle_that_has_not_closed_is_refused_with_its_line(db: Connection, tmp_path: Path) -> None:
    row = await fetch_one(db, "SELECT date_trunc('minute', now()) AS minute, now() AS now")
    opens = [to_milliseconds(row.minute) + step * 60_000 for step in (-2, -1, 0, 60)]
    path = tmp_path / "ahead.csv"

    def write(count: int) -> None:
        lines = [f"{moment},1,2,0.5,1.5,1\n" for moment in opens[:count]]
        path.write_text("time_open_ms,open,high,low,close,volume\n" + "".join(lines))

    write(4)
    later = row.minute + timedelta(minutes=1)
    with pytest.raises(InputError) as caught:
        read_files([path], MINUTE, now=row.now)
    assert str(caught.value) == (
        f"{path}, line 4: time_open_ms {row.minute:%Y-%m-%d %H:%M} UTC is of a 1m candle that has not closed: it does "
        f"so at {later:%Y-%m-%d %H:%M} UTC, and it is {row.now:%Y-%m-%d %H:%M} UTC; leave it out"
    )
    with pytest.raises(InputError, match=r"line [45]: time_open_ms .* has not closed"):
        await import_file(db, path, 1, MINUTE)
    with pytest.raises(InputError, match=r"ahead\.csv: its last candle closes at .* UTC: not yet"):
        await store_content(db, read_files([path], MINUTE), 1, MINUTE)
    assert await fetch_all(db, "SELECT FROM bucket_feed") == []
    write(2)
    assert (await import_file(db, path, 1, MINUTE)).counts == Counts(inserted=2)
