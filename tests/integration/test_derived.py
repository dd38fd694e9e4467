"""Derived candles follow what they are made of, whatever happens to that and in whatever order."""

import csv
import gzip
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from jobs import derive
from tests.plugins._venue import START
from trader.bucket import import_file, load_feed, timeframe_named, timeframe_numbered
from trader.bucket.derived import derive_feed
from trader.bucket.gap import declare_gaps
from trader.db import Connection, Identity, connect, fetch_all, fetch_one
from trader.errors import InputError

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2);
"""
FEED = "INSERT INTO bucket_feed (market_id, timeframe_id, collect_since, derived_from) VALUES (1, %s, %s, %s)"
PUT = """
INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
SELECT 1, 1, c, p, p + 2, p - 1, p + 1, p / 8, 'fetched' FROM unnest(%s::timestamptz[], %s::float8[]) r (c, p)
ON CONFLICT (market_id, timeframe_id, time_close) DO UPDATE SET open = EXCLUDED.open, high = EXCLUDED.high,
  low = EXCLUDED.low, close = EXCLUDED.close, volume = EXCLUDED.volume
"""
# From scratch, in words of its own: whole periods, and those of which all that is missing lies in a quiet gap.
TRUTH = """
WITH minute AS (
  SELECT time_close - interval '1 min' AS at, open, high, low, close, volume FROM bucket WHERE timeframe_id = 1),
period AS (
  SELECT date_trunc(%(word)s, at AT TIME ZONE 'UTC') AS start, count(*) AS there,
         (array_agg(open ORDER BY at))[1] AS open, max(high) AS high, min(low) AS low,
         (array_agg(close ORDER BY at DESC))[1] AS close, sum(volume) AS volume
    FROM minute GROUP BY 1),
sized AS (
  SELECT *, start AT TIME ZONE 'UTC' AS begin, (start + %(length)s::interval) AT TIME ZONE 'UTC' AS stop FROM period)
SELECT stop AS time_close, open, high, low, close, volume, missing > 0 AS partial FROM sized
 CROSS JOIN LATERAL (SELECT (extract(epoch FROM stop - begin) / 60)::int - there AS missing) m
 WHERE missing = (
   SELECT coalesce(sum(extract(epoch FROM least(g.gap_to, stop) - greatest(g.gap_from, begin)) / 60), 0) FROM gap g
    WHERE g.timeframe_id = 1 AND g.verdict = 'no_trades' AND g.gap_from < stop AND g.gap_to > begin)
 ORDER BY 1
"""
HAVE = """
SELECT time_close, open, high, low, close, volume, partial FROM bucket WHERE timeframe_id = %s ORDER BY 1
"""
WORDS = {60: ("hour", "1 hour"), 1440: ("day", "1 day"), 10080: ("week", "7 days"), 32767: ("month", "1 month")}


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    async with await connect(database, Identity("worker", "worker-1")) as opened:
        await opened.execute(SEED)
        yield opened


async def put(db: Connection, minutes: list[int], price: float = 100.0) -> None:
    """Minutes after START, each with numbers of its own."""
    closes = [START + timedelta(minutes=minute + 1) for minute in minutes]
    await db.execute(PUT, [closes, [price + minute % 50 for minute in minutes]])


async def take(db: Connection, minutes: list[int]) -> None:
    closes = [START + timedelta(minutes=minute + 1) for minute in minutes]
    await db.execute("DELETE FROM bucket WHERE timeframe_id = 1 AND time_close = ANY(%s)", [closes])


async def follow(db: Connection, *, most: int = 200_000) -> int:
    """Derive until nothing is outdated, smaller ones first; in how many parts."""
    parts = 0
    for row in await fetch_all(
        db, "SELECT timeframe_id, derived_from FROM bucket_feed WHERE derived_from IS NOT NULL ORDER BY 1"
    ):
        feed = await load_feed(db, 1, row.timeframe_id)
        while await derive_feed(db, feed, timeframe_numbered(row.derived_from), most=most) is not None:
            parts += 1
    return parts


async def verify(db: Connection, *timeframes: int) -> None:
    for timeframe in timeframes:
        word, length = WORDS[timeframe]
        assert await fetch_all(db, HAVE, [timeframe]) == await fetch_all(db, TRUTH, {"word": word, "length": length})


async def candles(db: Connection, timeframe: int = 60) -> list[Any]:
    return await fetch_all(db, HAVE, [timeframe])


async def test_hours_come_when_they_are_whole(db: Connection) -> None:
    await db.execute(FEED, [60, START, 1])
    await put(db, list(range(59)))
    assert await follow(db) == 0
    assert await candles(db) == []
    await put(db, [59, 60])
    assert await follow(db) == 1
    (hour,) = await candles(db)
    assert (hour.time_close, hour.open, hour.high, hour.low, hour.close) == (
        START + timedelta(hours=1),
        100,
        151,
        99,
        110,
    )
    assert hour.partial is False
    feed = await fetch_one(db, "SELECT status::text, newest, derived_from FROM bucket_feed WHERE timeframe_id = 60")
    assert feed == ("full", START + timedelta(hours=1), 1)
    source = await fetch_one(db, "SELECT DISTINCT source::text AS source FROM bucket WHERE timeframe_id = 60")
    assert source.source == "derived"


async def test_one_new_minute_costs_one_hour_and_an_open_hour_nothing(db: Connection) -> None:
    await db.execute(FEED, [60, START, 1])
    await put(db, list(range(6000)))
    await follow(db)
    await put(db, list(range(6000, 6030)))
    due = "SELECT outdated FROM bucket_feed WHERE timeframe_id = 60"
    assert len((await fetch_one(db, due)).outdated) == 1
    assert await follow(db) == 0
    await put(db, list(range(6030, 6061)))
    before = await fetch_one(db, "SELECT revision FROM bucket_feed WHERE timeframe_id = 60")
    assert await follow(db) == 1
    after = await fetch_one(db, "SELECT revision FROM bucket_feed WHERE timeframe_id = 60")
    assert after.revision == before.revision + 1
    await verify(db, 60)


async def test_an_old_minute_that_is_corrected_corrects_its_hour_day_and_month(db: Connection) -> None:
    for timeframe, source in ((60, 1), (1440, 60), (32767, 1440)):
        await db.execute(FEED, [timeframe, START, source])
    await put(db, list(range(32 * 1440)))
    await follow(db)
    assert [len(await candles(db, timeframe)) for timeframe in (60, 1440, 32767)] == [768, 32, 1]
    await put(db, [1445], price=9000)
    await follow(db)
    for timeframe in (60, 1440, 32767):
        changed = [candle for candle in await candles(db, timeframe) if candle.high > 9000]
        assert len(changed) == 1
    corrections = "SELECT timeframe_id, new_source::text FROM bucket_correction WHERE timeframe_id > 1 ORDER BY 1"
    assert await fetch_all(db, corrections) == [(60, "derived"), (1440, "derived"), (32767, "derived")]


async def test_a_hole_holds_its_hour_up_until_it_is_filled_or_quiet(db: Connection) -> None:
    await db.execute(FEED, [60, START, 1])
    await put(db, [minute for minute in range(240) if minute not in (70, 71, 130)])
    await follow(db)
    hour = timedelta(hours=1)
    assert [candle.time_close - START for candle in await candles(db)] == [hour, 4 * hour]
    await put(db, [130])
    await follow(db)
    assert [candle.time_close - START for candle in await candles(db)] == [hour, 3 * hour, 4 * hour]
    await db.execute("UPDATE gap SET verdict = 'no_trades' WHERE timeframe_id = 1")
    await follow(db)
    assert [candle.partial for candle in await candles(db)] == [False, True, False, False]
    await put(db, [70, 71])
    await follow(db)
    assert [candle.partial for candle in await candles(db)] == [False] * 4
    await take(db, [80])
    await follow(db)
    assert [candle.time_close - START for candle in await candles(db)] == [hour, 3 * hour, 4 * hour]
    await verify(db, 60)


async def test_what_the_venue_gave_is_not_overwritten(db: Connection) -> None:
    await db.execute(FEED, [60, START, 1])
    await db.execute(
        """INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
           VALUES (1, 60, %s, 7, 7, 7, 7, 7, 'fetched')""",
        [START + timedelta(hours=1)],
    )
    await put(db, list(range(181)))
    await follow(db)
    rows = await fetch_all(db, "SELECT open, source::text FROM bucket WHERE timeframe_id = 60 ORDER BY time_close")
    assert [tuple(row) for row in rows] == [(7, "fetched"), (110, "derived"), (120, "derived")]
    await take(db, [5, 65])
    await follow(db)
    rows = await fetch_all(db, "SELECT open, source::text FROM bucket WHERE timeframe_id = 60 ORDER BY time_close")
    assert [tuple(row) for row in rows] == [(7, "fetched"), (120, "derived")]


async def test_hours_stay_when_their_minutes_are_kept_no_longer(db: Connection) -> None:
    await db.execute(FEED, [60, START, 1])
    await put(db, list(range(301)))
    await follow(db)
    await take(db, list(range(150)))
    await follow(db)
    assert len(await candles(db)) == 5
    await put(db, [290], price=9000)
    await follow(db)
    assert [candle.high > 9000 for candle in await candles(db)] == [False] * 4 + [True]


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_below_it_is_what_a_derivation_from_scratch_makes(db: Connection, seed: int) -> None:
    random = Random(seed)
    await db.execute("SET timezone = 'Pacific/Apia'")
    for timeframe in (60, 1440, 10080, 32767):
        await db.execute(FEED, [timeframe, START, random.choice([1, 60]) if timeframe == 1440 else 1])
    # A month at one candle in some hundred minutes would take long: days are dense, the rest is quiet.
    horizon = 40 * 1440
    for _ in range(12):
        start = random.randrange(horizon)
        minutes = list(range(start, min(start + random.choice([1, 10, 600, 9000]), horizon)))
        act = random.choice(["put", "put", "put", "change", "take", "judge", "judge", "unjudge"])
        if act in ("put", "change"):
            await put(db, minutes, price=100.0 if act == "put" else random.randrange(1000, 2000))
        elif act == "take":
            await take(db, [minute for minute in minutes if random.random() < 0.1])
        else:
            verdict = "no_trades" if act == "judge" else None
            await db.execute(
                "UPDATE gap SET verdict = %s WHERE timeframe_id = 1 AND hashint8(missing + %s) %% 2 = 0",
                [verdict, seed],
            )
        if random.random() < 0.7:
            await follow(db, most=random.choice([100, 5000, 200_000]))
            first = await fetch_one(db, "SELECT min(time_close) AS at FROM bucket WHERE timeframe_id = 1")
            if first.at is not None and act != "take":
                await verify(db, 60, 10080, 32767)
    await put(db, list(range(horizon)))
    await follow(db)
    await verify(db, *WORDS)


@pytest.mark.any_server
@pytest.mark.skipif(not DATA.is_dir(), reason="NOT RUN: ../shared/data is not here")
async def test_the_minutes_of_2016_make_its_hours_and_days(db: Connection) -> None:
    minute = timeframe_named("1m")
    await import_file(db, DATA / "bitfinex_BTC-USD_1m_2016.csv.gz", 1, minute)
    for timeframe in (60, 1440):
        await db.execute(FEED, [timeframe, datetime(2016, 1, 1, tzinfo=UTC), 1])
    await follow(db)
    assert [len(await candles(db, timeframe)) for timeframe in (60, 1440)] == [352, 0]
    gaps = "SELECT count(*) AS gaps, sum(missing) AS missing, max(gap_to - gap_from) AS longest FROM bucket_gap"
    gaps += " WHERE timeframe = '1m'"
    found = await fetch_one(db, gaps)
    assert (found.gaps, found.longest > timedelta(days=60)) == (63_912, True)
    assert await declare_gaps(db, 1, minute, "no_trades") == 63_912
    await follow(db)
    for timeframe, name, whole in ((60, "1h", 352), (1440, "1d", 0)):
        with gzip.open(DATA / f"bitfinex_BTC-USD_{name}_2016_derived.csv.gz", "rt") as file:
            wanted = [[float(field) for field in row] for row in list(csv.reader(file))[1:]]
        have = await candles(db, timeframe)
        span = timedelta(minutes=timeframe)
        assert [[(c.time_close - span).timestamp() * 1000, *c[1:6]] for c in have] == wanted
        assert sum(not candle.partial for candle in have) == whole
    kinds = await fetch_all(db, "SELECT timeframe, kind::text, count(*) FROM bucket_gap GROUP BY 1, 2 ORDER BY 1, 2")
    assert {row.kind for row in kinds if row.timeframe == "1m"} == {"no_trades"}


async def test_what_does_not_fit_is_refused(db: Connection) -> None:
    for timeframe, source in ((60, 60), (60, 1440), (32767, 10080), (5, 3)):
        with pytest.raises(psycopg.errors.CheckViolation, match="derived_from_divides_the_timeframe"):
            await db.execute(FEED, [timeframe, START, source])
    with pytest.raises(InputError, match="there are no 1m candles"):
        await declare_gaps(db, 1, timeframe_named("1m"), "no_trades")


async def test_nothing_is_due_of_what_has_no_smaller_candles_any_more(db: Connection) -> None:
    await put(db, list(range(60)))
    await db.execute(FEED, [60, START, 1])
    await declare_gaps(db, 1, timeframe_named("1m"), "no_trades", until=START + timedelta(hours=5))
    await follow(db)
    await take(db, list(range(60)))
    assert (await db.execute(derive.DEFER_DUE, derive.DUE)).rowcount == 0
    await put(db, [299])
    assert (await db.execute(derive.DEFER_DUE, derive.DUE)).rowcount == 1


async def test_a_derived_series_ends_where_its_source_does(db: Connection) -> None:
    """The source is old and off: nothing newer can come, and nothing is missing that it could have made."""
    await db.execute(FEED, [60, START, 1])
    await db.execute(FEED, [1440, None, 1])
    await put(db, list(range(30, 300)))
    await follow(db)
    assert await fetch_all(db, "SELECT * FROM bucket_gap") == []
    feeds = "SELECT status, lag, progress FROM feeds WHERE timeframe = %s"
    assert tuple(await fetch_one(db, feeds, ["1h"])) == ("full", timedelta(0), 100)
    assert (await fetch_one(db, feeds, ["1d"])).lag == timedelta(0)
    await put(db, list(range(300, 362)))
    assert (await fetch_one(db, feeds, ["1h"])).lag == timedelta(hours=1), "it is behind its source"
    (gap,) = await fetch_all(db, "SELECT gap_from, missing, kind::text FROM bucket_gap")
    assert gap == (START + timedelta(hours=5), 1, "not_fetched")


async def test_an_empty_derived_series_lacks_what_its_source_lacks(db: Connection) -> None:
    await put(db, [minute for minute in range(3000) if minute % 60 != 30])
    await db.execute(FEED, [1440, START, 1])
    await follow(db)
    gaps = "SELECT gap_from, missing, kind::text FROM bucket_gap WHERE timeframe = '1d'"
    assert await fetch_all(db, gaps) == [(START, 2, "not_fetched")]
    await db.execute(
        "UPDATE bucket_feed SET covered = tstzmultirange(tstzrange(%s, newest)) WHERE timeframe_id = 1", [START]
    )
    assert await fetch_all(db, gaps) == [(START, 2, "outage")]
    await declare_gaps(db, 1, timeframe_named("1m"), "no_trades")
    await follow(db)
    assert await fetch_all(db, gaps) == []


async def test_a_feed_that_begins_in_the_future_says_so(db: Connection) -> None:
    ask = "SELECT last_error FROM feeds WHERE timeframe = '1m'"
    await db.execute("INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (1, 1, '2999-01-01Z')")
    assert "collect_since is in the future" in (await fetch_one(db, ask)).last_error
    await db.execute("UPDATE bucket_feed SET last_error = 'the venue is down'")
    assert (await fetch_one(db, ask)).last_error == "the venue is down"
    await db.execute("UPDATE bucket_feed SET last_error = NULL, collect_since = '2024-01-01Z'")
    assert (await fetch_one(db, ask)).last_error is None
