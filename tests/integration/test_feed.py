"""Keeping a feed up to date: what is fetched, what is stored, and what happens when something goes wrong."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from uuid import uuid4

import psycopg
import pytest

from tests.plugins._venue import START, Venue, candle
from trader.bucket import Counts, Desk, Update, load_feed, read_buckets, update_feed
from trader.bucket.feed import claim_backfill, claim_newest
from trader.bucket.update import IN_FLIGHT
from trader.db import Connection, Identity, connect, fetch_all, fetch_one
from trader.errors import InputError, Unknown
from trader.exchange.protocol import CandlePage, CandleWays

ROOT = Path(__file__).resolve().parents[2]
SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2);
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (1, 1, '2024-01-01Z');
"""
GAPS = """
SELECT market, timeframe, gap_from, gap_to, missing, kind::text AS kind FROM bucket_gap WHERE found_at IS NOT NULL
"""


@pytest.fixture
async def db(database: str):
    async with await connect(database, Identity("worker", "worker-1")) as opened:
        await opened.execute(SEED)
        yield opened


def minutes(count: float):
    return START + timedelta(minutes=count)


async def update(db: Connection, venue: Venue, **more) -> Counts:
    """As the job does it: the venue's clock is read first."""
    return await update_feed(db, venue, await load_feed(db, 1, 1), venue.now, **more)


async def row(db: Connection):
    return await fetch_one(db, "SELECT *, status::text AS state FROM bucket_feed")


async def known_gaps(db: Connection):
    """What is missing up to the newest candle: the venue's clock stands still here, the database's does not."""
    return await fetch_all(db, GAPS)


def covered(feed) -> list:
    return [(one.lower, one.upper) for one in feed.covered]


async def stored(db: Connection) -> int:
    return (await fetch_one(db, "SELECT count(*) AS rows FROM bucket")).rows


async def test_a_history_is_built_page_by_page_and_the_open_candle_waits(db: Connection) -> None:
    venue = Venue([candle(i) for i in range(5000)], now=minutes(2500.5))
    assert (await update(db, venue)).inserted == 2500
    assert venue.asked == [minutes(1501), minutes(0), minutes(1000)]  # the newest page, then from the oldest on
    feed = await row(db)
    assert (feed.state, feed.newest, covered(feed)) == ("full", minutes(2500), [(START, minutes(2500))])
    assert feed.updated_at is not None
    frame = await read_buckets(db, 1, 1)
    assert frame.index.is_monotonic_increasing
    assert len(frame) == 2500


async def test_an_update_asks_for_what_is_new_and_for_the_newest_again(db: Connection) -> None:
    venue = Venue([candle(i) for i in range(100)], now=minutes(10.5))
    await update(db, venue)
    venue.asked.clear()
    venue.now = minutes(12.5)
    assert await update(db, venue) == Counts(2, 0, 1)
    assert venue.asked == [minutes(9)]
    venue.asked.clear()
    assert await update(db, venue) == Counts(0, 0, 1)
    assert venue.asked == [minutes(11)]


async def test_a_corrected_last_candle_wins(db: Connection) -> None:
    venue = Venue([candle(i) for i in range(100)], now=minutes(10.5))
    await update(db, venue)
    venue.history[9] = candle(9, price=500)
    venue.now = minutes(11.5)
    assert await update(db, venue) == Counts(1, 1, 0)
    assert (await read_buckets(db, 1, 1))["open"].iloc[9] == candle(9, price=500).open


@pytest.mark.parametrize(("now", "count"), [(2.0, 2), (1.999, 1), (0.5, 0)])
async def test_a_candle_is_stored_when_its_end_has_come(db: Connection, now: float, count: int) -> None:
    await update(db, Venue([candle(i) for i in range(9)], now=minutes(now)))
    assert await stored(db) == count
    assert (await row(db)).state == ("full" if count else "absent")


async def test_a_venue_whose_clock_was_an_hour_ahead_is_asked_for_that_hour_as_it_comes(db: Connection) -> None:
    history = [candle(i) for i in range(200)]
    await update(db, Venue(history[:40], now=minutes(100.5)))
    assert covered(await row(db)) == [(START, minutes(100))]
    venue = Venue(history)
    for now in (41.5, 60.5, 99.5, 105.5):
        venue.now = minutes(now)
        await update(db, venue)
        assert (await row(db)).newest == minutes(int(now))
    assert await stored(db) == 105
    assert await known_gaps(db) == []


async def test_a_candle_from_the_future_is_not_waited_for(db: Connection) -> None:
    await update(db, Venue([candle(i) for i in range(100)], now=minutes(100)))
    venue = Venue([candle(i) for i in range(100)], now=minutes(10.5))
    await update(db, venue)
    due = await fetch_one(db, "SELECT due_at - clock_timestamp() AS seconds FROM bucket_feed")
    assert due.seconds <= timedelta(minutes=1)


async def test_a_candle_of_the_future_hides_no_lag_and_delays_nothing(db: Connection) -> None:
    """One that a person wrote: the venue has none of it."""
    await db.execute(
        """INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
           VALUES (1, 1, date_trunc('minute', now()) + interval '9 years', 1, 1, 1, 1, 1, 'imported')"""
    )
    venue = Venue([candle(i) for i in range(10)], now=minutes(10.5))
    await update(db, venue)
    feed = await fetch_one(
        db,
        """SELECT s.lag, s.newest > now() AS ahead, f.due_at - clock_timestamp() AS wait
             FROM feeds s, bucket_feed f""",
    )
    assert feed.ahead
    assert feed.lag > timedelta(days=365)  # its own candles are of 2024
    assert feed.wait <= timedelta(seconds=30)  # the next one closes at the end of the minute
    venue = Venue([candle(i) for i in range(20)], now=minutes(20.5))
    await update(db, venue)
    assert await stored(db) == 21


async def test_a_feed_whose_newest_candle_is_deleted_is_due_at_once(db: Connection) -> None:
    await db.execute(
        """INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
           SELECT 1, 1, date_trunc('minute', now()) + years * interval '1 year', 1, 1, 1, 1, 1, 'imported'
             FROM unnest(ARRAY[-1, 9]) years"""
    )
    await db.execute("UPDATE bucket_feed SET due_at = '2035-01-01Z', status = 'full'")
    await db.execute("DELETE FROM bucket WHERE time_close < now()")  # not the newest
    assert (await row(db)).due_at.year == 2035
    await db.execute("DELETE FROM bucket")
    healed = await fetch_one(db, "SELECT newest, due_at <= clock_timestamp() AS due FROM bucket_feed")
    assert tuple(healed) == (None, True)
    await update(db, Venue([candle(i) for i in range(10)], now=minutes(10.5)))
    assert ((await row(db)).state, (await row(db)).newest) == ("full", minutes(10))


async def test_replayed_candles_wait_for_a_later_one(db: Connection) -> None:
    venue = Venue([candle(i) for i in range(2100)])
    feed = await load_feed(db, 1, 1)
    assert (await update_feed(db, venue, feed, None)).inserted == 2099
    assert (await row(db)).newest == minutes(2099)
    venue.history.append(candle(2103))  # nobody traded in between
    assert await update_feed(db, venue, await load_feed(db, 1, 1), None) == Counts(1, 0, 1)
    assert covered(await row(db)) == [(START, minutes(2103))]
    assert (await row(db)).state == "full"


async def test_a_venue_with_short_pages_and_one_without_an_open_candle(db: Connection) -> None:
    venue = Venue([candle(i) for i in range(50)], most=7, now=minutes(70))
    assert (await update(db, venue)).inserted == 50
    assert (await row(db)).state == "full"


async def test_holes_stay_holes_until_the_data_appears(db: Connection) -> None:
    venue = Venue([candle(i) for i in range(20) if not 5 <= i < 8], now=minutes(20.5))
    await update(db, venue)
    gaps = await known_gaps(db)
    assert [(gap.market, gap.timeframe, gap.gap_from, gap.gap_to, gap.missing, gap.kind) for gap in gaps] == [
        ("binance:BTC/USDT", "1m", minutes(5), minutes(8), 3, "outage")
    ]
    venue.history = [candle(i) for i in range(20)]
    await db.execute("UPDATE bucket_feed SET covered = '{}'")  # ask for everything again
    assert await update(db, venue) == Counts(3, 0, 17)
    assert await known_gaps(db) == []


async def test_an_answer_that_could_not_be_read_fails_and_nothing_is_asked_twice(db: Connection) -> None:
    venue = Venue([candle(i) for i in range(5000)], now=minutes(4000), errors={2: Unknown("the answer was cut off")})
    with pytest.raises(Unknown):
        await update(db, venue)
    feed = await row(db)
    assert (feed.state, feed.last_error, feed.failures) == ("error", "Unknown: the answer was cut off", 1)
    # Others that were under way with the one that failed are kept.
    assert covered(feed) == [(START, minutes(1000)), (minutes(2000), minutes(4000))]
    assert feed.error_at is not None
    assert await stored(db) == 3000
    venue.asked.clear()
    venue.errors.clear()
    assert (await update(db, venue)).inserted == 1000
    assert venue.asked == [minutes(3999), minutes(1000)]
    feed = await row(db)
    assert (feed.state, feed.last_error, feed.error_at, feed.failures) == ("full", None, None, 0)


async def test_a_feed_that_fails_waits_longer_each_time(db: Connection) -> None:
    pauses = []
    for _ in range(10):
        with pytest.raises(Unknown):
            await update(db, Venue(now=minutes(10), errors={0: Unknown("no")}))
        waits = await fetch_one(db, "SELECT due_at - error_at AS due, backfill_at - error_at AS older FROM bucket_feed")
        assert abs(waits.due - waits.older) < timedelta(seconds=0.1)
        pauses.append(round(waits.due.total_seconds()))
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


async def test_a_candle_that_cannot_be_is_left_out_and_noted_and_the_rest_is_kept(db: Connection) -> None:
    history = [candle(i) for i in range(10)]
    history[4] = replace(history[4], high=1.0)
    history[6] = replace(history[6], volume=-1.0)
    history.insert(8, history[7])
    venue = Venue(history, now=minutes(10.5))
    assert (await update(db, venue)).inserted == 8
    noted = await fetch_all(db, "SELECT stamp, field, reason, times FROM bucket_refusal ORDER BY stamp")
    assert [tuple(one) for one in noted] == [
        ("2024-01-01 00:04:00", "high", "1.0 is below low", 1),
        ("2024-01-01 00:06:00", "volume", "-1.0 is below zero", 1),
        ("2024-01-01 00:07:00", "time_open", "is there twice", 1),
    ]
    feed = await row(db)
    assert (feed.state, feed.refused, feed.last_error, covered(feed)) == ("full", 3, None, [(START, minutes(10))])
    gaps = {gap.gap_from: gap.kind for gap in await known_gaps(db)}
    assert gaps == {minutes(4): "outage", minutes(6): "outage"}


async def test_a_newest_candle_that_was_refused_and_is_mended_is_stored(db: Connection) -> None:
    good = candle(9)
    venue = Venue([candle(i) for i in range(9)] + [replace(good, low=-5.0)], now=minutes(10))
    assert (await update(db, venue)).inserted == 9
    assert (await row(db)).newest == minutes(9)
    venue.history[9] = good
    assert (await update(db, venue)).inserted == 1
    assert (await row(db)).newest == minutes(10)


async def test_a_database_that_does_not_let_us_read_fails_and_refetches_nothing(db: Connection, database: str) -> None:
    await update(db, Venue([candle(i) for i in range(10)], now=minutes(5.5)))
    await db.execute("CREATE ROLE some_worker_of_this_test" if not await _role(db) else "SELECT 1")
    await db.execute("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO some_worker_of_this_test")
    await db.execute("REVOKE SELECT ON bucket FROM some_worker_of_this_test")
    venue = Venue([candle(i) for i in range(10)], now=minutes(8.5))
    async with await connect(database, Identity("worker", "worker-2")) as other:
        await other.execute("SET ROLE some_worker_of_this_test")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table bucket"):
            await update(other, venue)
    assert venue.asked == [minutes(4)]
    feed = await row(db)
    assert (feed.state, feed.newest) == ("error", minutes(5))
    assert "permission denied" in feed.last_error
    assert await stored(db) == 5
    await db.execute("DROP OWNED BY some_worker_of_this_test")
    await db.execute("DROP ROLE some_worker_of_this_test")


async def _role(db: Connection) -> bool:
    return (
        await fetch_one(db, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'some_worker_of_this_test') AS y")
    ).y


async def test_many_small_parts_that_are_missing_share_pages(db: Connection) -> None:
    venue = Venue([candle(i) for i in range(4000)], now=minutes(3500.5))
    await update(db, venue)
    await db.execute(
        "DELETE FROM bucket WHERE extract(minute FROM time_close)::int %% 3 = 1 OR time_close > %s", [minutes(3000)]
    )
    missing = 3500 - await stored(db)
    venue.asked.clear()
    assert (await update(db, venue)).inserted == missing
    assert len(venue.asked) <= 6
    assert await stored(db) == 3500
    assert covered(await row(db)) == [(START, minutes(3500))]
    assert await known_gaps(db) == []


async def test_moving_collect_since_back_fetches_the_part_before(db: Connection) -> None:
    await db.execute("UPDATE bucket_feed SET collect_since = %s", [minutes(3000)])
    venue = Venue([candle(i) for i in range(4000)], now=minutes(3500.5))
    await update(db, venue)
    assert await stored(db) == 500
    await db.execute("UPDATE bucket_feed SET collect_since = %s", [minutes(500)])
    venue.asked.clear()
    assert (await update(db, venue)).inserted == 2500
    assert venue.asked == [minutes(3499), minutes(500), minutes(1500), minutes(2500)]
    feed = await row(db)
    assert (feed.state, covered(feed), feed.newest) == ("full", [(minutes(500), minutes(3500))], minutes(3500))
    assert await known_gaps(db) == []


async def test_moving_collect_since_forth_asks_for_nothing_and_deletes_nothing(db: Connection) -> None:
    venue = Venue([candle(i) for i in range(100)], now=minutes(50.5))
    await update(db, venue)
    await db.execute("UPDATE bucket_feed SET collect_since = %s", [minutes(40)])
    venue.asked.clear()
    await update(db, venue)
    assert venue.asked == [minutes(49)]
    assert (await row(db)).state == "full"
    assert await stored(db) == 50
    await db.execute("UPDATE bucket_feed SET collect_since = %s", [minutes(60)])  # nothing is wanted yet
    await update(db, venue)
    venue.now = minutes(62.5)
    assert (await update(db, venue)).inserted == 2
    assert covered(await row(db)) == [(START, minutes(50)), (minutes(60), minutes(62))]


async def test_a_backfill_goes_on_where_it_was_cut_off(db: Connection) -> None:
    await db.execute("UPDATE bucket_feed SET collect_since = %s", [minutes(5000)])
    venue = Venue([candle(i) for i in range(6000)], now=minutes(5010.5), most=300)
    await update(db, venue)
    await db.execute("UPDATE bucket_feed SET collect_since = %s", [START])
    venue.asked.clear()
    venue.errors = {7: Unknown("cut off")}
    with pytest.raises(Unknown):
        await update(db, venue)
    done = covered(await row(db))
    assert done[0][0] == START
    assert done[-1] == (minutes(5000), minutes(5010))
    venue.errors.clear()
    venue.asked.clear()
    await update(db, venue)
    assert all(not any(start <= asked < end for start, end in done) for asked in venue.asked[1:])
    assert await stored(db) == 5010
    assert covered(await row(db)) == [(START, minutes(5010))]


@pytest.mark.parametrize("skips", [True, False])
async def test_before_the_first_candle_of_all(db: Connection, skips: bool) -> None:
    """A venue that is known to skip what is empty proves it with one answer; of another one that is no proof."""
    await db.execute("UPDATE bucket_feed SET collect_since = %s", [minutes(100_000)])
    history = [candle(i) for i in range(99_500, 100_100)]
    venue = Venue(history, now=minutes(100_050.5), candle_ways=CandleWays(1000, skips_holes=skips))
    await update(db, venue)
    await db.execute("UPDATE bucket_feed SET collect_since = %s", [START])
    venue.asked.clear()
    await update(db, venue)
    assert await stored(db) == 550
    assert len(venue.asked) == 2
    first = START if skips else minutes(99_500)
    assert (covered(await row(db)), (await row(db)).state) == ([(first, minutes(100_050))], "full")
    gaps = await fetch_all(
        db, "SELECT gap_from, gap_to, kind::text AS kind FROM bucket_gap WHERE gap_to < %s", [venue.now]
    )
    assert [(gap.gap_from, gap.gap_to, gap.kind) for gap in gaps] == [
        (START, minutes(99_500), "before_listing" if skips else "not_fetched")
    ]


@pytest.mark.parametrize("skips", [True, False])
async def test_from_the_listing_on(db: Connection, skips: bool) -> None:
    await db.execute("UPDATE bucket_feed SET collect_since = NULL")
    venue = Venue(
        [candle(i) for i in range(100_000, 104_000)],
        now=minutes(103_500.5),
        candle_ways=CandleWays(1000, skips_holes=skips),
    )
    await update(db, venue)
    feed = await row(db)
    assert (feed.listed_at, feed.state) == (minutes(100_000), "full")
    assert venue.asked[0] == minutes(102_501)  # the newest first, also here
    assert await stored(db) == 3500
    assert len(venue.asked) < (8 if skips else 30)
    venue.asked.clear()
    await update(db, venue)
    assert len(venue.asked) == 1


async def test_a_market_without_candles_is_absent_and_asked_for_its_first_now_and_then(db: Connection) -> None:
    await db.execute("UPDATE bucket_feed SET collect_since = NULL")
    venue = Venue([], now=minutes(10.5), candle_ways=CandleWays(1000, skips_holes=True))
    await update(db, venue)
    feed = await row(db)
    assert (feed.state, feed.listed_at) == ("absent", None)
    waits = await fetch_one(db, "SELECT due_at - updated_at AS due, backfill_at - updated_at AS older FROM bucket_feed")
    assert waits.due > timedelta(seconds=4)
    assert waits.older > timedelta(seconds=50)
    venue.history, venue.now = [candle(i) for i in range(11, 20)], minutes(15.5)
    await update(db, venue)
    assert ((await row(db)).listed_at, (await row(db)).state) == (minutes(11), "full")


class Recent(Venue):
    """Whatever it is asked for, it has the newest candles only, as Kraken does."""

    async def candles(self, symbol, timeframe, since, limit):
        page = await super().candles(symbol, timeframe, None, self.most)
        return CandlePage([one for one in page if since is None or one.time_open >= since][:limit])


@pytest.mark.parametrize("ways", [CandleWays(720, reach=719, skips_holes=True), CandleWays(500)])
@pytest.mark.parametrize("since", ["2024-01-01Z", None])
async def test_a_venue_that_does_not_go_back(db: Connection, ways: CandleWays, since: str | None) -> None:
    await db.execute("UPDATE bucket_feed SET collect_since = %s", [since])
    venue = Recent([candle(i) for i in range(5000)], now=minutes(4000.5), most=720, candle_ways=ways)
    await update(db, venue)
    feed = await row(db)
    assert (feed.state, covered(feed)) == ("full", [(minutes(3281), minutes(4000))])
    assert await stored(db) == 719
    venue.asked.clear()
    venue.now = minutes(4001.5)
    await update(db, venue)
    assert len(venue.asked) == 1  # what cannot be had is not asked for again and again
    if ways.reach is None:
        return  # that a hole shorter than a page was not skipped cannot be seen: it must be known of the venue
    venue.now = minutes(4900.5)  # too late for some
    await update(db, venue)
    feed = await row(db)
    assert feed.state == "full"
    assert covered(feed) == [(minutes(3281), minutes(4001)), (minutes(4181), minutes(4900))]
    gaps = await known_gaps(db)
    assert [(gap.gap_from, gap.gap_to, gap.kind) for gap in gaps] == [(minutes(4001), minutes(4181), "not_fetched")]


async def test_one_that_is_far_behind_gets_its_newest_page_first(db: Connection) -> None:
    venue = Venue([candle(i) for i in range(40_000)], now=minutes(100.5), candle_ways=CandleWays(500))
    await update(db, venue)
    venue.asked.clear()
    venue.now = minutes(30_000.5)
    await update(db, venue)
    assert venue.asked[:2] == [minutes(29_501), minutes(100)]
    assert covered(await row(db)) == [(START, minutes(30_000))]
    assert await stored(db) == 30_000


async def test_a_hole_longer_than_a_page_does_not_end_a_backfill(db: Connection) -> None:
    await db.execute("UPDATE bucket_feed SET collect_since = %s", [minutes(5000)])
    venue = Venue([candle(i) for i in range(5100) if not 1000 <= i < 4500], now=minutes(5050.5))
    await update(db, venue)
    await db.execute("UPDATE bucket_feed SET collect_since = %s", [START])
    await update(db, venue)
    assert await stored(db) == 1000 + 550
    assert (await row(db)).state == "full"


async def test_nobody_traded_of_late(db: Connection) -> None:
    venue = Venue([candle(i) for i in range(20)], now=minutes(20.5))
    await update(db, venue)
    venue.now = minutes(26.5)
    await update(db, venue)
    feed = await row(db)
    assert (feed.state, feed.newest, covered(feed)) == ("full", minutes(20), [(START, minutes(26))])
    venue.history.append(candle(26))
    venue.now = minutes(27.5)
    assert (await update(db, venue)).inserted == 1
    assert [(gap.gap_from, gap.gap_to, gap.kind) for gap in await known_gaps(db)] == [
        (minutes(20), minutes(26), "outage")
    ]


async def test_what_is_not_kept_is_not_fetched(db: Connection) -> None:
    await db.execute("UPDATE exchange SET replay = true")
    await db.execute("UPDATE bucket_feed SET keep = '5 hours'")
    venue = Venue([candle(i) for i in range(3000)], candle_ways=CandleWays(100))
    feed = await load_feed(db, 1, 1)
    await update_feed(db, venue, feed, None, pages=1)
    await update_feed(db, venue, await load_feed(db, 1, 1), None)
    assert covered(await row(db)) == [(minutes(2699), minutes(2999))]
    assert (await row(db)).state == "full"


async def test_nothing_that_is_garbage_gets_in(db: Connection) -> None:
    """Whatever is put among the candles, the good ones are stored as they are, and nothing else."""
    random = Random(7)
    good = [candle(i) for i in range(400)]
    spoil = [
        lambda c: replace(c, high=c.low - 1),
        lambda c: replace(c, volume=float("nan")),
        lambda c: replace(c, close=0.0),
        lambda c: replace(c, time_open=c.time_open + timedelta(seconds=7)),
        lambda c: replace(c, open=float("inf")),
        lambda c: replace(c, low=c.low + 100),
    ]
    history, kept = [], []
    for one in good:
        if random.random() < 0.2:
            history.append(random.choice(spoil)(one))
        else:
            history.append(one)
            kept.append(one)
    venue = Venue(history, now=minutes(500), candle_ways=CandleWays(50), most=50)
    await update(db, venue)
    frame = await read_buckets(db, 1, 1)
    assert list(frame["open"]) == [one.open for one in kept]
    assert (await row(db)).refused == len(good) - len(kept)
    assert (await row(db)).state == "full"


async def test_a_feed_that_is_switched_off_stops_at_the_next_page(db: Connection, database: str) -> None:
    async with await connect(database, Identity("worker", "person")) as other:

        class SwitchedOff(Venue):
            async def candles(self, *arguments):
                if len(self.asked) == 2:
                    await other.execute("UPDATE bucket_feed SET enabled = false")
                return await super().candles(*arguments)

        venue = SwitchedOff([candle(i) for i in range(9000)], now=minutes(8000))
        await update(db, venue)
        asked = len(venue.asked)
        assert asked <= 2 + IN_FLIGHT  # those that were under way
        assert await update(db, venue) == Counts()
        assert len(venue.asked) == asked


async def test_pages_bound_what_one_run_does(db: Connection) -> None:
    venue = Venue([candle(i) for i in range(9000)], now=minutes(8000.5))
    assert (await update(db, venue, pages=3)).inserted == 3999  # one of the newest, three of the oldest
    assert (await row(db)).state == "building"
    while (await row(db)).state == "building":
        await update(db, venue, pages=3)
    assert await stored(db) == 8000


async def test_two_updates_of_one_feed_at_once_lose_nothing(db: Connection, database: str) -> None:
    venues = [Venue([candle(i) for i in range(6000)], now=minutes(n), most=500) for n in (5000.5, 4000.5, 5000.5)]
    connections = [await connect(database, Identity("worker", f"worker-{i}")) for i in range(3)]
    await asyncio.gather(*(update(c, v) for c, v in zip(connections, venues, strict=True)))
    for one in connections:
        await one.close()
    assert await stored(db) == 5000
    assert (await row(db)).newest == minutes(5000)


async def test_whoever_serves_a_feed_never_waits_for_who_serves_another(db: Connection, database: str) -> None:
    await db.execute("INSERT INTO asset (code) VALUES ('ETH')")
    await db.execute("INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'ETH/USDT', 3, 2)")
    more = "INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (2, 1, %(s)s), (1, 5, %(s)s)"
    await db.execute(more, {"s": START})
    served = []

    async def meanwhile(connection: Connection, feed) -> None:
        """Within the transaction that has written candles and progress of the first feed, and has not ended."""
        async with await connect(database, Identity("worker", "worker-2")) as other:
            await other.execute("SET lock_timeout = '1ms'")
            claimed = await claim_newest(other, 1, uuid4(), 9) + await claim_backfill(other, 1, uuid4(), 9)
            for one in claimed:
                name = one.timeframe.name
                venue = Venue([candle(i, name) for i in range(3000)], now=minutes(2500.5))
                served.append((one.market_id, name, (await update_feed(other, venue, one, venue.now)).inserted))

    venue = Venue([candle(i) for i in range(3000)], now=minutes(2500.5))
    assert (await update(db, venue, on_news=meanwhile)).inserted == 2500
    assert sorted(served) == [(1, "5m", 500), (2, "1m", 2500)]


async def test_answers_of_one_feed_take_one_connection_at_a_time(db: Connection, database: str) -> None:
    lent, most = 0, 0

    @contextlib.asynccontextmanager
    async def lend() -> AsyncIterator[Connection]:
        nonlocal lent, most
        async with await connect(database, Identity("worker", "worker-1")) as connection:
            lent, most = lent + 1, max(most, lent + 1)
            yield connection
            lent -= 1

    venue = Venue([candle(i) for i in range(8000)], now=minutes(7500.5))
    work = Update(Desk(venue, lend, lambda: venue.now), await load_feed(db, 1, 1))
    assert await work.newest()
    assert await work.older()
    assert (work.total.inserted, most) == (7500, 1)


async def test_the_news_is_told_in_the_transaction_that_stores_it(db: Connection) -> None:
    told = []

    async def note(connection: Connection, feed) -> None:
        told.append((await fetch_one(connection, "SELECT max(time_close) AS newest FROM bucket")).newest)
        # A crash may lose it as a whole: it is not worth waiting for the disk.
        assert (await fetch_one(connection, "SHOW synchronous_commit")).synchronous_commit == "off"

    venue = Venue([candle(i) for i in range(5000)], now=minutes(2500.5))
    await update(db, venue, on_news=note)
    assert told == [minutes(2500)]  # not once for each page of history: nobody should act on what is long past
    await update(db, venue, on_news=note)
    assert len(told) == 1
    venue.now = minutes(2501.5)

    async def fail(connection: Connection, feed) -> None:
        raise InputError("this one cannot")

    with pytest.raises(InputError):
        await update(db, venue, on_news=fail)
    assert await stored(db) == 2500
    await update(db, venue, on_news=note)
    assert told == [minutes(2500), minutes(2501)]


async def test_a_month_feed(db: Connection) -> None:
    await db.execute("UPDATE bucket_feed SET timeframe_id = 32767, collect_since = '2023-01-01Z'")
    months = [START.replace(year=2023, month=m) for m in range(1, 13)] + [START, START.replace(month=2)]
    venue = Venue([replace(candle(i), time_open=at) for i, at in enumerate(months)], now=START.replace(month=2, day=9))
    assert (await update_feed(db, venue, await load_feed(db, 1, 32767), venue.now)).inserted == 13
    venue.asked.clear()
    venue.now = START.replace(month=3, day=1)
    assert (await update_feed(db, venue, await load_feed(db, 1, 32767), venue.now)).inserted == 1
    assert venue.asked[0] == START.replace(month=1)


UPDATER = """
import asyncio, sys
from tests.plugins._venue import Venue, candle, START
from trader.bucket import load_feed, update_feed
from trader.db import Identity, connect
from datetime import timedelta

class Slow(Venue):
    async def candles(self, *arguments):
        await asyncio.sleep(0.05)
        return await super().candles(*arguments)

async def main():
    venue = Slow([candle(i) for i in range(20000)], now=START + timedelta(minutes=19000.5), most=200)
    async with await connect(sys.argv[1], Identity("worker", "worker-9")) as db:
        await update_feed(db, venue, await load_feed(db, 1, 1), venue.now)
asyncio.run(main())
"""


def _kill_when(started: subprocess.Popen[bytes], database: str, rows: int) -> None:
    with psycopg.connect(database, autocommit=True) as reader:
        deadline = time.monotonic() + 30
        while reader.execute("SELECT count(*) FROM bucket").fetchone()[0] < rows:
            assert time.monotonic() < deadline
            assert started.poll() is None
            time.sleep(0.02)
    started.kill()
    started.wait()


async def test_killed_half_way_it_goes_on_where_it_was(db: Connection, database: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", UPDATER, database], cwd=ROOT, env=environment
    )
    await asyncio.to_thread(_kill_when, started, database, 1000)
    feed = await row(db)
    count = await stored(db)
    assert feed.state == "building"
    assert count == sum((end - start) // timedelta(minutes=1) for start, end in covered(feed))
    venue = Venue([candle(i) for i in range(20000)], now=minutes(19000.5))
    await update(db, venue)
    assert venue.asked[0] == minutes(18999)
    assert all(not any(start <= asked < end for start, end in covered(feed)) for asked in venue.asked[1:])
    assert await stored(db) == 19000
