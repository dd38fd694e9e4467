"""How feeds are served: what is due, who takes it, what fails, what is fair, and that the queue does not grow."""

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from procrastinate import App

from jobs import bucket
from jobs.app import Context, build_app
from tests.plugins._venue import START, Venue, candle
from trader.bucket import load_feed, update_feed
from trader.bucket.feed import blame, claim_backfill, claim_newest, release
from trader.config import load
from trader.db import Connection, Identity, connect, fetch_all, fetch_one, open_pool
from trader.errors import Retry, Unknown
from trader.exchange.protocol import CandlePage, CandleWays

SEED = """
INSERT INTO asset (code) VALUES ('USDT');
INSERT INTO asset (code) SELECT 'A' || i FROM generate_series(1, 10) i;
INSERT INTO exchange (name, ccxt_id) VALUES ('one', 'binance'), ('two', 'binance');
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'simulator'), ('other', 2, 'simulator');
INSERT INTO market (exchange_id, symbol, base_id, quote_id)
  SELECT 1, code || '/USDT', id, 1 FROM asset WHERE id BETWEEN 2 AND 6 ORDER BY id;
INSERT INTO market (exchange_id, symbol, base_id, quote_id)
  SELECT 2, code || '/USDT', id, 1 FROM asset WHERE id BETWEEN 2 AND 6 ORDER BY id;
"""
IDENTITY = Identity("worker", "worker-1")
ME, OTHER = UUID(int=1), UUID(int=2)


@pytest.fixture
async def db(database: str):
    async with await connect(database, IDENTITY) as opened:
        await opened.execute(SEED)
        yield opened


async def feed(db: Connection, market: int = 1, timeframe: int = 1, **columns: object) -> None:
    await db.execute(
        "INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (%s, %s, %s)",
        [market, timeframe, START],
    )
    for name, value in columns.items():
        await db.execute(f"UPDATE bucket_feed SET {name} = {value} WHERE (market_id, timeframe_id) = (%s, %s)",
                         [market, timeframe])  # fmt: skip


async def tick(db: Connection) -> int:
    return (await db.execute(bucket.DEFER_DUE, bucket.DUE)).rowcount


async def waiting(db: Connection) -> list:
    return await fetch_all(
        db,
        "SELECT lock, queueing_lock, args, status::text AS status, priority FROM procrastinate_jobs"
        " WHERE task_name = 'bucket.serve' ORDER BY id",
    )


async def test_one_job_for_an_exchange_at_which_something_is_due(db: Connection) -> None:
    assert await tick(db) == 0
    await feed(db, 1)
    await feed(db, 2)
    assert await tick(db) == 1
    assert await tick(db) == 0
    (job,) = await waiting(db)
    assert (job.lock, job.queueing_lock, job.args) == ("feeds:1:1", "feeds:1:1", {"exchange_id": 1, "slot": 1})
    await feed(db, 6)
    assert await tick(db) == 1
    assert [job.lock for job in await waiting(db)] == ["feeds:1:1", "feeds:2:1"]


@pytest.mark.parametrize(
    ("change", "is_due"),
    [
        ("enabled = enabled", True),
        ("enabled = false", False),
        ("due_at = now() + interval '1 s', backfill_at = NULL", False),
        ("due_at = now() + interval '1 s', backfill_at = now() + interval '1 s'", False),
        ("due_at = now() + interval '1 s', backfill_at = now() - interval '1 s'", True),
        ("lease_until = now() + interval '9 s', leased_by = gen_random_uuid()", False),
        ("lease_until = now() - interval '1 s', leased_by = gen_random_uuid()", True),
    ],
)
async def test_when_a_feed_is_due(db: Connection, change: str, is_due: bool) -> None:
    await feed(db)
    await db.execute(f"UPDATE bucket_feed SET {change}")
    assert await tick(db) == int(is_due)
    due = await claim_newest(db, 1, ME, 9) + await claim_backfill(db, 1, ME, 9)
    assert len(due) == int(is_due)


@pytest.mark.parametrize(
    "change", ["collect_since = '2023-01-01Z'", "collect_since = NULL", "keep = '1 day'", "enabled = true"]
)
async def test_what_a_person_changes_is_due_at_once(db: Connection, change: str) -> None:
    await feed(db)
    await db.execute("UPDATE bucket_feed SET enabled = NOT %s", [change == "enabled = true"])
    await db.execute("UPDATE bucket_feed SET due_at = now() + interval '1 h', backfill_at = NULL, failures = 9")
    assert await tick(db) == 0
    await db.execute(f"UPDATE bucket_feed SET {change}")
    assert await tick(db) == 1
    assert (await fetch_one(db, "SELECT failures FROM bucket_feed")).failures == 0


async def test_a_change_in_the_middle_of_a_service_is_not_lost(db: Connection) -> None:
    await feed(db)
    venue = Venue([candle(i) for i in range(3000)], now=START + timedelta(minutes=2000.5))

    class Changed(Venue):
        async def candles(self, *arguments):
            await db.execute("UPDATE bucket_feed SET collect_since = %s", [START - timedelta(minutes=7)])
            return await venue.candles(*arguments)

    await update_feed(db, Changed(now=venue.now), await load_feed(db, 1, 1), venue.now)
    row = await fetch_one(
        db, "SELECT due_at <= clock_timestamp() AS due, backfill_at IS NOT NULL AS older FROM bucket_feed"
    )
    assert row.due
    assert row.older


async def test_twenty_thousand_feeds_and_a_handful_of_jobs(db: Connection) -> None:
    await db.execute("INSERT INTO asset (code) SELECT 'B' || i FROM generate_series(1, 4000) i")
    await db.execute("""INSERT INTO market (exchange_id, symbol, base_id, quote_id)
        SELECT 1, code || '/USDT', id, 1 FROM asset WHERE code LIKE 'B%'""")
    await db.execute("""INSERT INTO bucket_feed (market_id, timeframe_id, collect_since, due_at)
        SELECT m.id, t, '2024-01-01Z', now() - random() * interval '1 h'
          FROM market m, unnest('{1,5,15,60,1440}'::int[]) t WHERE symbol LIKE 'B%'""")
    await feed(db, 6)
    await db.execute("ANALYZE bucket_feed")
    for _ in range(20):
        await tick(db)
        assert len(await waiting(db)) == bucket.SLOTS + 1
    started = time.perf_counter()
    for _ in range(20):
        await tick(db)
    print(f"the tick over 20,001 feeds that are due: {(time.perf_counter() - started) / 20 * 1000:.2f} ms")
    await db.execute("UPDATE bucket_feed SET due_at = now() + interval '1 h', backfill_at = NULL WHERE exchange_id = 1")
    await db.execute("DELETE FROM procrastinate_jobs")
    await db.execute("VACUUM ANALYZE bucket_feed")
    explain = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
    plan = (await fetch_one(db, explain + bucket.DEFER_DUE, bucket.DUE))[0][0]
    buffers = plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    print(f"the tick with one feed due of 20,001: {plan['Execution Time']:.2f} ms, {buffers} buffers")
    assert "feeds_to_update" in str(plan)
    assert "feeds_to_backfill" in str(plan)
    assert buffers < 500
    assert len(await waiting(db)) == 1


async def test_more_slots_only_for_what_waits_while_others_are_at_work(db: Connection) -> None:
    for market in (1, 2, 3):
        await feed(db, market)
    await tick(db)
    await db.execute("UPDATE procrastinate_jobs SET status = 'doing'")
    assert await tick(db) == 0
    await db.execute("UPDATE bucket_feed SET due_at = now() - interval '3 s'")
    assert await tick(db) == 1
    assert [job.lock for job in await waiting(db)] == ["feeds:1:1", "feeds:1:2"]


async def test_leases_keep_servers_apart(db: Connection, database: str) -> None:
    for market in (1, 2, 3, 4, 5):
        await feed(db, market)
    async with await connect(database, IDENTITY) as other:
        mine, theirs = await asyncio.gather(claim_newest(db, 1, ME, 3), claim_newest(other, 1, OTHER, 3))
    assert sorted(one.market_id for one in mine + theirs) == [1, 2, 3, 4, 5]
    assert await claim_newest(db, 1, ME, 9) == []
    assert await claim_backfill(db, 1, OTHER, 9) == []
    await release(db, replace(mine[0], leased_by=OTHER))  # not theirs to give back
    assert await claim_newest(db, 1, OTHER, 9) == []
    await release(db, mine[0])
    assert [one.market_id for one in await claim_newest(db, 1, OTHER, 9)] == [mine[0].market_id]


async def test_the_leases_of_the_dead_end_at_once_and_those_of_the_living_do_not(db: Connection, database: str) -> None:
    for market in (1, 2):
        await feed(db, market)
    alive, dead = uuid4(), uuid4()
    async with await connect(database, IDENTITY) as holder:
        await holder.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [str(alive)])
        await claim_newest(db, 1, alive, 1)
        await claim_newest(db, 1, dead, 1)
        assert (await db.execute(bucket.FREE_DEAD)).rowcount == 1
        assert [one.market_id for one in await claim_newest(db, 1, ME, 9)] == [2]


async def test_a_clock_that_was_set_back_holds_no_feed_up(db: Connection) -> None:
    later = "now() + interval '2 h'"
    await feed(db, 1, due_at=later, backfill_at=later, leased_by="gen_random_uuid()", lease_until=later)
    await feed(db, 2, due_at="now() + interval '6 min'", backfill_at="now() + interval '4 min'")
    await feed(db, 3, 1440, due_at="now() + interval '20 h'", backfill_at="NULL")
    await feed(db, 4, due_at=later, enabled="false")
    await feed(db, 5)
    await feed(db, 5, 5, derived_from="1")
    await feed(db, 6, due_at=later)
    await db.execute("UPDATE market SET active = false WHERE id = 6")
    assert (await db.execute(bucket.WAKE)).rowcount == 1
    row = await fetch_one(
        db,
        """SELECT greatest(due_at, backfill_at) <= now() AS due, lease_until <= now() + interval '1 min' AS free
             FROM bucket_feed WHERE market_id = 1""",
    )
    assert tuple(row) == (True, True)
    assert (await db.execute(bucket.WAKE)).rowcount == 0


async def test_a_worker_that_comes_back_late_changes_nothing_of_the_next_ones_lease(db: Connection) -> None:
    await feed(db)
    (mine,) = await claim_newest(db, 1, ME, 1)
    await db.execute("UPDATE bucket_feed SET lease_until = now() - interval '1 s'")
    (theirs,) = await claim_newest(db, 1, OTHER, 1)
    await blame(db, mine, Unknown("late"))
    await release(db, mine)
    row = await fetch_one(db, "SELECT leased_by, last_error FROM bucket_feed")
    assert (row.leased_by, row.last_error, theirs.leased_by) == (OTHER, None, OTHER)


class Clocked(Venue):
    """Takes a moment for each answer, and notes when it was asked for what."""

    def __init__(self, *arguments, seconds: float = 0.01, **more) -> None:
        super().__init__(*arguments, **more)
        self.seconds = seconds
        self.at: list[tuple[float, str, str]] = []

    async def candles(self, symbol, timeframe, since, limit):
        self.at.append((time.monotonic(), symbol, timeframe))
        await asyncio.sleep(self.seconds)
        if symbol in self.errors:
            raise self.errors[symbol]
        return await super().candles(symbol, timeframe, since, limit)


class Desk:
    """A worker in this process whose venues are a test's: `venues` by exchange."""

    def __init__(self, app: App, context: Context, venues: dict[int, Venue]) -> None:
        self.app = app
        self.context = context
        self.venues = venues

    async def work(self) -> None:
        await self.app.run_worker_async(
            wait=False, delete_jobs="successful", additional_context={"context": self.context},
            install_signal_handlers=False, listen_notify=False, shutdown_graceful_timeout=0.1,
        )  # fmt: skip


@pytest.fixture
async def desk(db: Connection, database: str):
    history = [candle(i) for i in range(40_000)]
    now = START + timedelta(minutes=39_000.5)
    venues = {
        number: Clocked(history, now=now, most=100, candle_ways=CandleWays(100, skips_holes=True)) for number in (1, 2)
    }
    async with open_pool(database, IDENTITY, 10) as pool:
        context = Context(
            load({"HOME": "/nowhere"}), pool, connect=lambda account, _settings: venues[account.exchange_id]
        )
        app = build_app(database, IDENTITY, [bucket])
        async with app.open_async():
            yield Desk(app, context, venues)
        await context.close()


async def test_a_long_history_delays_nobody(db: Connection, desk: Desk) -> None:
    """One feed lacks 390 pages; those that fall due meanwhile are asked for within moments."""
    await feed(db, 1)
    working = asyncio.create_task(bucket.Server(desk.context, 1, ME, seconds=4.0).run())
    lags = []
    for market in (2, 3, 4, 5):
        await feed(db, market, collect_since="'2024-01-27Z'", backfill_at="NULL")
        started = time.monotonic()
        while (await fetch_one(db, "SELECT count(*) AS n FROM bucket WHERE market_id = %s", [market])).n == 0:
            assert time.monotonic() < started + 10
            await asyncio.sleep(0.01)
        lags.append(time.monotonic() - started)
        if working.done():
            working = asyncio.create_task(bucket.Server(desk.context, 1, ME, seconds=4.0).run())
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    print(f"beside a backfill of 390 pages a new feed had its newest page after {max(lags):.2f} s at most")
    assert max(lags) < 1.5
    progress = await fetch_one(db, "SELECT status::text, newest FROM bucket_feed WHERE market_id = 1")
    assert progress.newest == START + timedelta(minutes=39_000)


async def test_backfills_take_turns(db: Connection, desk: Desk) -> None:
    for market in (1, 2, 3, 4, 5):
        await feed(db, market)
    await bucket.Server(desk.context, 1, ME, seconds=2.5).run()
    counts = await fetch_all(db, "SELECT market_id, count(*) AS n FROM bucket GROUP BY 1")
    assert len(counts) == 5
    least, most = min(row.n for row in counts), max(row.n for row in counts)
    assert most <= 3 * least, counts  # turns take their time, some longer than others; without turns one has it all


async def test_a_job_ends_after_its_slice_and_frees_what_it_took(db: Connection, desk: Desk) -> None:
    await feed(db, 1)
    started = time.monotonic()
    await bucket.Server(desk.context, 1, ME, seconds=0.5).run()
    assert time.monotonic() - started < 2
    row = await fetch_one(db, "SELECT leased_by, status::text, backfill_at IS NOT NULL AS older FROM bucket_feed")
    assert (row.leased_by, row.status, row.older) == (None, "building", True)
    assert await tick(db) == 1


async def test_a_feed_that_fails_holds_no_other_up_and_the_job_says_so(db: Connection, desk: Desk) -> None:
    desk.venues[1].errors["A2/USDT"] = Unknown("garbage")
    for market in (1, 2, 3):
        await feed(db, market, collect_since="'2024-01-27Z'")
    await tick(db)
    await desk.work()
    rows = await fetch_all(db, "SELECT status::text, last_error, leased_by FROM bucket_feed ORDER BY market_id")
    assert [row.status for row in rows] == ["full", "error", "full"]
    assert rows[1].last_error == "Unknown: garbage"
    assert {row.leased_by for row in rows} == {None}
    assert [job.status for job in await waiting(db)] == ["failed"]
    paused = await fetch_one(db, "SELECT due_at - error_at AS pause FROM bucket_feed WHERE market_id = 2")
    assert paused.pause > timedelta(seconds=1.9)
    await db.execute("UPDATE bucket_feed SET due_at = now() WHERE market_id = 2")
    await tick(db)
    await desk.work()
    assert [job.status for job in await waiting(db)] == ["failed"]  # not one more for each time that it fails
    del desk.venues[1].errors["A2/USDT"]
    await db.execute("UPDATE bucket_feed SET due_at = now() WHERE market_id = 2")
    await tick(db)
    await desk.work()
    assert await waiting(db) == []  # a job that goes well takes the failed ones before it away
    row = await fetch_one(db, "SELECT status::text, last_error, failures FROM bucket_feed WHERE market_id = 2")
    assert (row.last_error, row.failures) == (None, 0)


@pytest.mark.parametrize(("after", "waits"), [(7.5, 7.5), (0.0, 1.0), (86_400.0, 300.0), (float("inf"), 300.0)])
async def test_a_venue_that_asks_to_be_left_alone_is_no_failure(
    db: Connection, desk: Desk, after: float, waits: float
) -> None:
    for market in (1, 2, 3):
        await feed(db, market, collect_since="'2024-01-27Z'")
    await bucket.Server(desk.context, 1, ME).run()
    before = await fetch_all(db, "SELECT market_id, status, last_error, failures FROM bucket_feed ORDER BY 1")
    desk.venues[1].errors |= {f"A{n}/USDT": Retry("not asked for a while", after=after) for n in (1, 2, 3)}
    await db.execute("UPDATE bucket_feed SET due_at = now(), backfill_at = CASE market_id WHEN 3 THEN now() END")
    await tick(db)
    await desk.work()
    assert await waiting(db) == []  # the job did not fail
    rows = await fetch_all(db, "SELECT market_id, status, last_error, failures FROM bucket_feed ORDER BY 1")
    assert rows == before
    rows = await fetch_all(
        db,
        """SELECT due_at - clock_timestamp() AS due, date_trunc('seconds', backfill_at - due_at) AS older, leased_by
             FROM bucket_feed ORDER BY market_id""",
    )
    assert [row for row in rows if not waits - 5 < row.due.total_seconds() <= waits] == []
    assert [row.older for row in rows] == [None, None, timedelta(0)]
    assert {row.leased_by for row in rows} == {None}


async def test_a_venue_that_asks_to_be_left_alone_before_the_first_question(db: Connection, desk: Desk) -> None:
    class Shut(Clocked):
        async def time(self):
            raise Retry("not asked for 9 s more", after=9.0)

    desk.venues[2] = Shut()
    await feed(db, 6)
    assert await bucket.Server(desk.context, 2, ME).run() is None
    row = await fetch_one(
        db, "SELECT status::text, last_error, failures, due_at > clock_timestamp() AS waits FROM bucket_feed"
    )
    assert tuple(row) == ("absent", None, 0, True)
    assert await tick(db) == 0


async def test_a_venue_that_is_not_there_is_told_to_each_feed(db: Connection, desk: Desk) -> None:
    class Dead(Clocked):
        async def time(self):
            raise Unknown("no answer")

    desk.venues[2] = Dead()
    for market in (6, 7):
        await feed(db, market)
    await tick(db)
    await desk.work()
    rows = await fetch_all(db, "SELECT status::text, last_error FROM bucket_feed")
    assert [tuple(row) for row in rows] == [("error", "Unknown: no answer")] * 2


async def test_other_exchanges_go_on(db: Connection, desk: Desk) -> None:
    class Hung(Clocked):
        async def candles(self, *arguments):
            await asyncio.Event().wait()
            return CandlePage()

    desk.venues[2] = Hung(now=desk.venues[1].now)
    await feed(db, 1, collect_since="'2024-01-27Z'")
    await feed(db, 6)
    await tick(db)
    working = asyncio.create_task(desk.work())
    started = time.monotonic()
    while (await fetch_one(db, "SELECT status = 'full' AS y FROM bucket_feed WHERE market_id = 1")).y is not True:
        assert time.monotonic() < started + 20
        await asyncio.sleep(0.02)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    row = await fetch_one(db, "SELECT leased_by, status::text FROM bucket_feed WHERE market_id = 6")
    assert (row.leased_by, row.status) == (None, "absent")


async def test_the_view_feeds(db: Connection, desk: Desk) -> None:
    await feed(db, 1, collect_since="NULL", keep="'1000 days'")
    await feed(db, 2, collect_since="'2024-01-27Z'")
    await tick(db)
    await desk.work()
    await db.execute("SET ROLE tallydesk_reader")
    building, full = await fetch_all(db, "SELECT * FROM feeds ORDER BY market")
    assert (building.market, building.timeframe, building.collect_since) == ("one:A1/USDT", "1m", "listing")
    assert (full.status, full.progress, full.collect_since, full.gaps, full.refused) == (
        "full",
        100,
        "2024-01-27 00:00",
        0,
        0,
    )
    assert full.oldest == START.replace(day=27)
    assert full.newest == START + timedelta(minutes=39_000)
    assert full.lag > timedelta(days=1)  # by the clock of today
    assert building.status in ("building", "full")
