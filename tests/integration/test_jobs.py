"""The queue: what is due, what waits once, what joins a transaction, what is left by the dead."""

import asyncio
from datetime import timedelta

import psycopg
import pytest
from procrastinate import App

from jobs import account, bucket, equity, maintenance, market, strategy
from jobs.app import Context, build_app, defer_in
from jobs.scheduler import ticks
from jobs.worker import job_modules
from tests.plugins._venue import START, Venue, candle, info
from trader.bucket import Feed, load_feed, update_feed
from trader.config import load
from trader.db import Connection, Identity, connect, fetch_all, fetch_one, open_pool

SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'simulator'), ('two', 1, 'simulator');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2);
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (1, 1, '2024-01-01Z'), (1, 60, '2024-01-01Z');
INSERT INTO strategy (name, account_id, class, market_id, timeframe_id)
  VALUES ('a', 1, 'm:A', 1, 1), ('b', 1, 'm:A', 1, 1), ('hours', 1, 'm:A', 1, 60);
INSERT INTO strategy (name, account_id, unit_id, market_id, timeframe_id) VALUES ('hand', 1, 2, 1, 1);
INSERT INTO strategy (name, account_id, class, market_id, timeframe_id, enabled) VALUES ('off', 1, 'm:A', 1, 1, false);
"""
IDENTITY = Identity("worker", "worker-1")


@pytest.fixture
async def db(database: str):
    async with await connect(database, IDENTITY) as opened:
        await opened.execute(SEED)
        yield opened


async def jobs_of(db: Connection, task: str | None = None) -> list:
    rows = await fetch_all(
        db, "SELECT task_name AS task, args, lock, queueing_lock, status::text FROM procrastinate_jobs ORDER BY id"
    )
    return [row for row in rows if task in (None, row.task)]


async def clear(db: Connection) -> None:
    await db.execute("DELETE FROM procrastinate_jobs")


async def test_one_job_waits_under_a_queueing_lock(db: Connection, database: str) -> None:
    connections = [await connect(database, IDENTITY) for _ in range(8)]
    done = await asyncio.gather(*(defer_in(c, "some.task", queueing_lock="x", lock="x", a=1) for c in connections))
    for one in connections:
        await one.close()
    assert sorted(done) == [False] * 7 + [True]
    (job,) = await jobs_of(db)
    assert (job.task, job.args, job.lock, job.queueing_lock, job.status) == ("some.task", {"a": 1}, "x", "x", "todo")


async def test_a_job_joins_the_transaction_and_a_taken_lock_does_not_end_it(db: Connection) -> None:
    async with db.transaction():
        await defer_in(db, "some.task", queueing_lock="x")
        raise psycopg.Rollback
    assert await jobs_of(db) == []
    await defer_in(db, "some.task", queueing_lock="x")
    async with db.transaction():
        assert not await defer_in(db, "some.task", queueing_lock="x")
        assert await defer_in(db, "some.task")
    assert len(await jobs_of(db)) == 2


async def news(connection: Connection, feed: Feed) -> None:
    await strategy.defer_runs(connection, feed.market_id, feed.timeframe.id)


async def test_strategies_are_queued_with_the_candles_that_they_decide_on(db: Connection) -> None:
    venue = Venue([candle(i) for i in range(50)], now=START + timedelta(minutes=40.5))
    feed = await load_feed(db, 1, 1)
    await update_feed(db, venue, feed, venue.now, on_news=news)
    found = await jobs_of(db)
    assert [(job.task, job.args, job.lock, job.queueing_lock) for job in found] == [
        ("strategy.run", {"strategy_id": 1}, "strategy:1", "strategy:1"),
        ("strategy.run", {"strategy_id": 2}, "strategy:2", "strategy:2"),
    ]


async def test_the_sweep_finds_whoever_has_not_decided(db: Connection) -> None:
    assert await strategy.sweep(db) == 0  # no candles yet
    await db.execute("UPDATE bucket_feed SET status = 'full', newest = '2024-01-02Z'")
    await db.execute("UPDATE strategy SET last_bucket = '2024-01-02Z' WHERE name = 'b'")
    await db.execute("UPDATE strategy SET last_bucket = '2024-01-01Z' WHERE name = 'hours'")
    assert await strategy.sweep(db) == 2
    assert [job.args["strategy_id"] for job in await jobs_of(db)] == [1, 3]
    await clear(db)
    await db.execute("UPDATE bucket_feed SET enabled = false")  # imported history: nobody trades on it
    assert await strategy.sweep(db) == 0


async def test_accounts_and_exchanges_are_queued_once_each(db: Connection) -> None:
    for _ in range(2):
        await db.execute(account.DEFER_ALL, account.ALL)
        await db.execute(market.DEFER_ALL, market.ALL)
    assert [(job.task, job.args) for job in await jobs_of(db)] == [
        ("account.balances", {"account_id": 1}),
        ("account.balances", {"account_id": 2}),
        ("market.sync", {"exchange_id": 1}),
    ]


async def fail_all(db: Connection) -> None:
    await db.execute("UPDATE procrastinate_jobs SET status = 'doing' WHERE status = 'todo'")
    await db.execute("UPDATE procrastinate_jobs SET status = 'failed' WHERE status = 'doing'")


async def test_an_account_that_just_failed_waits_a_little(db: Connection) -> None:
    await db.execute(account.DEFER_ALL, account.ALL)
    await fail_all(db)
    assert (await db.execute(account.DEFER_ALL, account.ALL)).rowcount == 0
    await db.execute("UPDATE procrastinate_events SET at = at - interval '31 s'")
    assert (await db.execute(account.DEFER_ALL, account.ALL)).rowcount == 2


async def test_a_sync_of_markets_that_failed_is_tried_again_soon(db: Connection, desk: "Desk") -> None:
    assert (await db.execute(market.DEFER_MISSING, market.ALL)).rowcount == 0
    await db.execute("INSERT INTO exchange (name, ccxt_id) VALUES ('new', 'binance')")
    assert (await db.execute(market.DEFER_MISSING, market.ALL)).rowcount == 1
    await clear(db)
    await db.execute("DELETE FROM exchange WHERE name = 'new'")
    await db.execute(market.DEFER_ALL, market.ALL)
    await fail_all(db)
    assert (await db.execute(market.DEFER_MISSING, market.ALL)).rowcount == 1
    await desk.work()
    assert await jobs_of(db) == []
    assert (await db.execute(market.DEFER_MISSING, market.ALL)).rowcount == 0


async def test_every_tick_of_the_scheduler_is_a_statement_that_works(db: Connection) -> None:
    wanted = ticks(load({"HOME": "/nowhere"}))
    for tick in wanted:
        await db.execute(tick.statement, dict(tick.parameters))
    tasks = {job.task for job in await jobs_of(db)}
    app = build_app("postgresql://", IDENTITY, job_modules())
    assert tasks <= set(app.tasks)
    assert {"equity.sample", "queue.rescue", "queue.prune", "bucket.serve"} <= tasks


async def doing(db: Connection, task: str, beat: str | None, queueing_lock: str | None = None) -> int:
    worker = None
    if beat is not None:
        statement = "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - %s::interval) RETURNING id"
        worker = (await fetch_one(db, statement, [beat])).id
    await defer_in(db, task, queueing_lock=queueing_lock, lock=queueing_lock)
    job = await fetch_one(db, "SELECT max(id) AS id FROM procrastinate_jobs")
    await db.execute("UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s WHERE id = %s", [worker, job.id])
    return int(job.id)


async def test_jobs_of_dead_workers_run_again_each_on_its_own(db: Connection) -> None:
    alive = await doing(db, "alive", "2 s")
    dead = await doing(db, "dead", "1 min")
    gone = await doing(db, "gone", None)
    replaced = await doing(db, "replaced", "1 min", "y")
    await defer_in(db, "replaced", queueing_lock="y", lock="y")
    assert await maintenance.rescue_stalled(db) == 3
    states = {row.id: row.status for row in await fetch_all(db, "SELECT id, status::text FROM procrastinate_jobs")}
    assert (states[alive], states[dead], states[gone]) == ("doing", "todo", "todo")
    assert replaced not in states
    assert [job.status for job in await jobs_of(db, "replaced")] == ["todo"]
    assert await maintenance.rescue_stalled(db) == 0


class Desk:
    """A worker in this process: an app, and the context that its jobs share, whose venue is a test's."""

    def __init__(self, app: App, context: Context, venue: Venue) -> None:
        self.app = app
        self.context = context
        self.venue = venue

    async def work(self) -> None:
        """Run every job that waits."""
        await self.app.run_worker_async(
            wait=False, delete_jobs="successful", additional_context={"context": self.context},
            install_signal_handlers=False, listen_notify=False,
        )  # fmt: skip


@pytest.fixture
async def desk(db: Connection, database: str):
    async with open_pool(database, IDENTITY, 4) as pool:
        venue = Venue([candle(i) for i in range(50)], now=START + timedelta(minutes=40.5))
        context = Context(load({"HOME": "/nowhere"}), pool, connect=lambda _account, _settings: venue)
        app = build_app(database, IDENTITY, [bucket, account, market, equity, maintenance])
        async with app.open_async():
            yield Desk(app, context, venue)
        await context.close()


async def test_the_jobs_do_what_they_say(db: Connection, desk: Desk) -> None:
    desk.venue.owned = {"USDT": "1000"}
    desk.venue.infos = [info(), info("ETH/USDT")]
    await db.execute("UPDATE bucket_feed SET enabled = timeframe_id = 1")
    for statement, parameters in (
        (bucket.DEFER_DUE, bucket.DUE),
        (account.DEFER_ALL, account.ALL),
        (market.DEFER_ALL, market.ALL),
    ):
        await db.execute(statement, parameters)
    await db.execute("UPDATE strategy SET enabled = false")
    await desk.work()
    assert await jobs_of(db) == []
    assert (await fetch_one(db, "SELECT count(*) AS n FROM bucket")).n == 40
    assert (await fetch_one(db, "SELECT count(*) AS n FROM account_balance")).n == 2
    assert (await fetch_one(db, "SELECT count(*) AS n FROM market")).n == 2


async def test_equity_points_are_written_when_worth_changes(db: Connection, desk: Desk) -> None:
    async def sample() -> list[tuple[int, ...]]:
        await defer_in(db, equity.TASK, queueing_lock=equity.TASK)
        await desk.work()
        rows = await fetch_all(db, "SELECT strategy_id, equity, unit_value FROM equity_point ORDER BY strategy_id, at")
        return [(row.strategy_id, row.equity, row.unit_value) for row in rows]

    assert await sample() == []
    await db.execute("INSERT INTO orders (strategy, type, asset, quantity) VALUES ('hand', 'deposit', 'USDT', 100)")
    assert await sample() == [(4, 100, 1)]
    assert await sample() == [(4, 100, 1)]
    await db.execute("INSERT INTO orders (strategy, type, asset, quantity) VALUES ('hand', 'deposit', 'USDT', 50)")
    assert await sample() == [(4, 100, 1), (4, 150, 1)]


async def test_pruning_keeps_the_last_day(db: Connection, desk: Desk) -> None:
    for age in ("2 h", "30 h"):
        await defer_in(db, f"failed {age} ago")
        await db.execute("UPDATE procrastinate_jobs SET status = 'doing' WHERE status = 'todo'")
        await db.execute("UPDATE procrastinate_jobs SET status = 'failed' WHERE status = 'doing'")
        await db.execute(
            """UPDATE procrastinate_events SET at = now() - %s::interval
                WHERE job_id = (SELECT max(id) FROM procrastinate_jobs)""",
            [age],
        )
    await db.execute("""INSERT INTO equity_point (strategy_id, at, equity, unit_value)
        SELECT 4, date_trunc('minute', now()) - interval '2 days' + s * interval '1 s', 1, 1
          FROM generate_series(0, 119) s""")
    await defer_in(db, maintenance.PRUNE)
    await desk.work()
    assert [job.task for job in await jobs_of(db)] == ["failed 2 h ago"]
    assert (await fetch_one(db, "SELECT count(*) AS n FROM equity_point")).n == 2


async def test_what_a_feed_does_not_keep_goes_in_small_parts_and_is_not_fetched_again(db: Connection) -> None:
    await db.execute("UPDATE exchange SET replay = true")
    venue = Venue([candle(i) for i in range(1000)])
    await update_feed(db, venue, await load_feed(db, 1, 1), None)
    assert await maintenance.forget_candles(db) == 0
    (tick,) = [one for one in ticks(load({"HOME": "/nowhere"})) if one.name == "candles not kept"]
    assert tick.seconds == 60
    assert (await db.execute(tick.statement, dict(tick.parameters))).rowcount == 0
    await db.execute("UPDATE bucket_feed SET keep = '2 hours' WHERE timeframe_id = 1")
    assert (await db.execute(tick.statement, dict(tick.parameters))).rowcount == 1
    assert (await db.execute(tick.statement, dict(tick.parameters))).rowcount == 0, "it waits already"
    await db.execute("DELETE FROM procrastinate_jobs")
    assert await maintenance.forget_candles(db, most=100) == 999 - 120
    row = await fetch_one(db, "SELECT count(*) AS n, min(time_close) AS first FROM bucket")
    assert (row.n, row.first) == (120, START + timedelta(minutes=880))
    venue.asked.clear()
    feed = await load_feed(db, 1, 1)
    assert feed.start == feed.covered[0][0]
    await update_feed(db, venue, feed, None)
    assert len(venue.asked) == 1
    assert (await fetch_one(db, "SELECT status::text FROM bucket_feed WHERE timeframe_id = 1")).status == "full"
    assert await fetch_all(db, "SELECT * FROM gap") == []
    assert await maintenance.forget_candles(db) == 0
    assert (await db.execute(tick.statement, dict(tick.parameters))).rowcount == 0


async def test_the_venue_clock_is_carried_on_and_none_for_a_replay(db: Connection, desk: Desk) -> None:
    first = await desk.context.venue_time(db, 1)
    desk.venue.now += timedelta(hours=5)  # not asked again for a minute
    second = await desk.context.venue_time(db, 1)
    assert first is not None
    assert second is not None
    assert timedelta(0) <= second - first < timedelta(seconds=5)
    assert first >= START + timedelta(minutes=40.5)
    await db.execute("UPDATE exchange SET replay = true")
    assert await desk.context.venue_time(db, 1) is None


async def test_jobs_of_one_lock_never_run_at_the_same_time(db: Connection, database: str) -> None:
    running, most, done = 0, 0, asyncio.Event()

    async def task(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await db.execute("SELECT pg_sleep(0.05)")
        running -= 1
        if number == 3:
            done.set()

    app = build_app(database, IDENTITY)
    app.task(name="t")(task)
    for number in range(4):
        await defer_in(db, "t", lock="one", queueing_lock=f"one:{number}", number=number)
    async with app.open_async():
        working = asyncio.create_task(
            app.run_worker_async(concurrency=4, install_signal_handlers=False, fetch_job_polling_interval=0.05)
        )
        async with asyncio.timeout(20):
            await done.wait()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    assert most == 1
    assert {job.status for job in await jobs_of(db)} == {"succeeded"}
