"""Every look of a strategy at a candle is explained by a row, at the moments of its schedule and no others."""

import asyncio
import os
import re
import signal
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import psycopg
import pytest

from jobs import maintenance
from jobs.app import Context, build_app, defer_in
from jobs.strategy import DUE, defer_runs, run, sweep
from jobs.strategy import order as orders
from jobs.strategy.ask import MONEY
from tests.plugins.live import START, WORKER, Live
from trader.backtest.result import BUY
from trader.backtest.run import Frames, backtest
from trader.backtest.settings import Settings
from trader.bucket import read_buckets
from trader.config import Settings as Configuration
from trader.db import connect, fetch_all, open_pool
from trader.strategy import load

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "strategies.md").read_text()
CLASSES = '''
import time

from trader.strategy import Params, Strategy


class Follow(Strategy):
    """In while the last close is above 100."""
    warm_up = 1

    def signal(self, candles):
        return (candles["close"] > 100).astype(float)


class Level(Params):
    level: float = 100


class Above(Strategy[Level]):
    warm_up = 1

    def signal(self, candles):
        return (candles["close"] > self.params.level).astype(float)


class Slow(Follow):
    warm_up = 3


class Wave(Strategy):
    """In while the close is above the mean of three; gaps do not matter to it."""
    warm_up = 3
    gaps = "any"

    def signal(self, candles):
        return (candles["close"] > candles["close"].rolling(3).mean()).astype(float)


class Raising(Follow):
    def signal(self, candles):
        raise ValueError("no idea")


class Mute(Follow):
    def signal(self, candles):
        raise ValueError


class Hanging(Follow):
    def signal(self, candles):
        print("asked", flush=True)
        time.sleep(60)
        return super().signal(candles)


'''


async def test_an_order_is_traced_to_its_decision_and_its_candle(live: Live) -> None:
    await live.add("Follow")
    await live.put(90, 110)
    await live.run("Follow")
    [order] = await live.orders("Follow")
    [made] = await live.decisions("Follow")
    assert (made.action, made.signal, made.previous, made.orders) == ("buy", 1.0, 0.0, [order.id])
    assert (made.bucket_time, made.market, made.timeframe) == (START + HOUR, "binance:BTC/USDT", "1h")
    assert made.reason == "fresh cross to 1: buy for 100"
    [origin] = await live.all("SELECT * FROM order_origin")
    assert (origin.order_id, origin.action, origin.reason) == (order.id, "buy", made.reason)
    assert (origin.close, origin.timeframe, origin.inputs_hash) == (110.0, "1h", made.inputs_hash)
    assert len(made.inputs_hash) == 32
    await live.sound()


async def test_an_order_by_hand_has_no_origin(live: Live) -> None:
    await live.add("Follow")
    await live.db.execute(
        "INSERT INTO orders (strategy, market, side, type) VALUES ('Follow', 'binance:BTC/USDT', 'buy', 'market')"
    )
    [origin] = await live.all("SELECT action, inputs_hash, close FROM order_origin")
    assert origin == (None, None, None)


@pytest.mark.parametrize(
    ("name", "closes", "action", "reason"),
    [
        ("Follow", (90, 90), "none", "target 0: nothing is held"),
        ("Follow", (110, 110), "none", "target 1 as before: waits for a fresh cross"),
        ("Follow", (110,), "none", "target 1, but the one before is unknown: waits for a fresh cross"),
        ("Slow", (90, 110), "passed", "it has 2 of the 3 candles that its warm-up needs"),
        ("Raising", (90, 110), "stopped", "ValueError: no idea"),
        ("Mute", (90, 110), "stopped", "ValueError"),
    ],
)
async def test_what_did_nothing_says_why(
    live: Live, name: str, closes: tuple[float, ...], action: str, reason: str
) -> None:
    await live.add(name)
    await live.put(*closes)
    await live.run(name)
    [made] = await live.decisions(name)
    assert (made.action, made.orders) == (action, None)
    assert made.reason.startswith(reason)
    assert (made.inputs_hash is None) == (action in ("passed", "stopped"))
    assert (await live.row(name)).last_bucket == made.bucket_time


async def test_a_gap_that_nobody_knows_waits_and_one_of_the_venue_is_passed(live: Live) -> None:
    await live.add("Slow")
    await live.put(90, 90)
    await live.put(110, first=START + 3 * HOUR)
    await live.run("Slow")
    [made] = await live.decisions("Slow")
    assert made.action == "waits"
    assert "nobody knows yet why" in made.reason
    assert (await live.row("Slow")).last_bucket is None
    await live.db.execute("UPDATE gap SET verdict = 'outage'")
    await live.run("Slow")
    [made] = await live.decisions("Slow")
    assert made.action == "passed"
    assert "the venue has lost them" in made.reason
    assert (await live.row("Slow")).last_bucket == START + 3 * HOUR


async def test_one_that_waits_is_written_once_and_then_decided(live: Live) -> None:
    await live.add("Follow")
    await live.put(90, 110)
    await live.run("Follow")
    [bought] = await live.orders("Follow")
    await live.put(90, first=START + 2 * HOUR)
    await live.run("Follow")
    before = await live.all("SELECT xmin::text, action::text, decided_at, reason FROM decision ORDER BY bucket_time")
    assert (before[1].action, before[1].reason) == ("waits", "1 order of it still open")
    await live.run("Follow")
    assert await live.all("SELECT xmin::text, action::text, decided_at, reason FROM decision ORDER BY 3") == before
    await live.fill(bought.id, "0.5", 110)
    await live.run("Follow")
    _, made = await live.decisions("Follow")
    assert (made.action, made.reason) == ("sell", "target 0: sell all of 0.5")
    assert made.decided_at > before[1].decided_at
    assert (await live.orders("Follow"))[1].id == made.orders[0]


async def test_an_old_candle_is_passed(live: Live) -> None:
    await live.db.execute("UPDATE exchange SET replay = false")
    await live.add("Follow")
    await live.put(90, 110)
    await live.run("Follow")
    [made] = await live.decisions("Follow")
    assert (made.action, made.reason) == ("passed", "its newest candle is old: waits for the next")


async def test_a_parameter_with_more_digits_than_a_float_has_is_no_change_of_it(live: Live) -> None:
    await live.add("Above")
    await live.db.execute("""UPDATE strategy SET params = '{"level": 100.00000000000000000001}'""")
    await live.put(90, 110)
    await live.run("Above")
    assert [row.action for row in await live.decisions("Above")] == ["buy"]


async def test_what_was_decided_is_not_decided_again_even_if_somebody_sets_it_back(live: Live) -> None:
    await live.add("Follow")
    await live.put(90, 90)
    await live.run("Follow")
    await live.db.execute("UPDATE bucket SET close = 110, high = 110 WHERE time_close = %s", [START + HOUR])
    await live.db.execute("UPDATE strategy SET last_bucket = NULL")
    assert await live.run("Follow") == "this candle was decided before"
    [made] = await live.decisions("Follow")
    assert made.action == "none"
    assert await live.orders("Follow") == []
    assert await live.run("Follow") == "no new candle"


async def test_the_same_inputs_have_the_same_hash_and_others_another(live: Live, tmp_path: Path) -> None:
    async def hashed() -> str:
        await live.db.execute("DELETE FROM decision")
        await live.db.execute("UPDATE strategy SET last_bucket = NULL")
        await live.run("Above")
        [made] = await live.decisions("Above")
        return str(made.inputs_hash)

    await live.add("Above")
    await live.put(90, 90, 90)
    seen = [await hashed()]
    assert await hashed() == seen[0]
    await live.db.execute("UPDATE strategy SET stake = 50")  # money is no part of it
    assert await hashed() == seen[0]
    await live.db.execute("""UPDATE strategy SET params = '{"level": 100.0}'""")  # its default
    assert await hashed() == seen[0]
    changes = [
        "UPDATE bucket SET volume = 2 WHERE time_close = '2024-01-01 01:00Z'",
        """UPDATE strategy SET params = '{"level": 101}'""",
        "UPDATE bucket SET low = 89 WHERE time_close = '2024-01-01 02:00Z'",
        "DELETE FROM bucket WHERE time_close = '2024-01-01 00:00Z'",
    ]
    for change in changes:
        await live.db.execute(change)
        seen.append(await hashed())
    path = tmp_path / f"{live.module}.py"
    path.write_text(path.read_text() + "\n# another version\n")
    sys.modules.pop(live.module)
    seen.append(await hashed())
    assert len(set(seen)) == len(seen)


# Schedules


async def minutes(live: Live, first: datetime, *closes: float) -> None:
    await live.put(*closes, first=first, span=timedelta(minutes=1))


async def test_an_hourly_one_on_minutes_decides_at_full_hours(live: Live) -> None:
    await live.add("Follow", timeframe=1, schedule="hour")
    first = START + timedelta(minutes=1)
    for i in range(180):  # in at each minute but the full hours, and the third
        await minutes(live, first + timedelta(minutes=i), 90 if i % 60 == 59 and i < 120 else 110)
        await live.run("Follow")
    made = await live.decisions("Follow")
    assert [(row.bucket_time, row.action, row.signal, row.previous) for row in made] == [
        (START + HOUR, "none", 0.0, None),  # before it there is no candle
        (START + 2 * HOUR, "none", 0.0, 0.0),
        (START + 3 * HOUR, "buy", 1.0, 0.0),
    ]


async def test_a_daily_one_on_hours_compares_with_the_day_before(live: Live) -> None:
    await live.add("Follow", schedule="day")
    await live.put(*[90] * 23, 90, first=START + HOUR)  # the last one closes at midnight
    await live.run("Follow")
    assert [row.action for row in await live.decisions("Follow")] == ["none"]
    await live.put(*[110] * 24, first=START + DAY + HOUR)
    await live.run("Follow")
    made = (await live.decisions("Follow"))[-1]
    assert (made.bucket_time, made.action, made.previous) == (START + 2 * DAY, "buy", 0.0)


async def test_downtime_over_several_moments_gives_one_decision_on_the_newest_candle(live: Live) -> None:
    await live.add("Follow", schedule="day")
    await live.put(*[90] * 24, first=START + HOUR)
    await live.run("Follow")
    # Three midnights pass; in only since the last of them, whose decision is made up for at 05:00.
    await live.put(*[90] * 71, *[110] * 6, first=START + DAY + HOUR)
    await live.run("Follow")
    for _ in range(2):
        assert await live.run("Follow") == "no new candle"
    made = await live.decisions("Follow")
    assert [(row.bucket_time, row.action) for row in made] == [
        (START + DAY, "none"),
        (START + 4 * DAY + 5 * HOUR, "buy"),
    ]
    assert len(await live.orders("Follow")) == 1
    await live.put(120, first=START + 4 * DAY + 6 * HOUR)
    assert await live.run("Follow") == "nothing is due: it decides each day"
    assert len(await live.decisions("Follow")) == 2


async def test_an_exit_that_was_missed_is_made_up_for(live: Live) -> None:
    await live.add("Follow", schedule="day")
    await live.put(*[90] * 24, *[110] * 24, first=START + HOUR)
    await live.db.execute("UPDATE strategy SET last_bucket = %s", [START + DAY])
    await live.run("Follow")
    [bought] = await live.orders("Follow")
    await live.fill(bought.id, "0.5", 110)
    await live.put(*[110] * 10, *[90] * 40, first=START + 2 * DAY + HOUR)  # out since before midnight; now it is 02:00
    await live.run("Follow")
    assert [row.action for row in await live.decisions("Follow")] == ["buy", "sell"]


async def test_a_new_one_begins_at_a_moment_of_its_schedule(live: Live) -> None:
    await live.add("Follow", schedule="day")
    await live.put(*[90] * 24, 110, first=START + HOUR)
    assert await live.run("Follow") == "nothing is due: it decides each day"
    assert await live.decisions("Follow") == []


async def test_a_day_whose_candle_is_missing_sells_but_does_not_buy(live: Live) -> None:
    await live.add("Follow", schedule="day")
    await live.put(*[90] * 24, *[110] * 23, first=START + HOUR)
    await live.put(110, first=START + 2 * DAY + HOUR)
    await live.db.execute("UPDATE strategy SET last_bucket = %s", [START + DAY])
    await live.run("Follow")
    [made] = await live.decisions("Follow")
    assert (made.action, made.signal, made.previous) == ("none", 1.0, None)


async def test_a_moment_within_the_warm_up_sells_nothing(live: Live) -> None:
    await live.add("Slow", schedule="day")
    await live.put(90, 90, 110, 110, 110, first=START + DAY - HOUR)
    await live.db.execute("UPDATE strategy SET last_bucket = %s", [START + HOUR])
    assert "less than the 3 candles that its warm-up needs" in await live.run("Slow")


async def test_a_scheduled_moment_is_not_spent_on_an_old_candle(live: Live) -> None:
    await live.db.execute("UPDATE exchange SET replay = false")
    await live.add("Follow", timeframe=1, schedule="hour")
    hour = (datetime.now(UTC) - timedelta(minutes=5)).replace(minute=0, second=0, microsecond=0)
    await live.db.execute("UPDATE strategy SET last_bucket = %s", [hour - timedelta(minutes=5)])
    await minutes(live, hour - HOUR, *[90] * 60, 110)
    await live.run("Follow")
    [made] = await live.decisions("Follow")
    assert (made.action, made.reason) == ("waits", "its newest candle is old: waits for the next")
    assert (await live.row("Follow")).last_bucket == hour - timedelta(minutes=5)
    # What it missed comes in, up to now: the moment is made up for, unless the next one has just passed.
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    await minutes(live, hour + timedelta(minutes=1), *[110] * int((now - hour).total_seconds() // 60))
    await live.run("Follow")
    made = (await live.decisions("Follow"))[-1]
    late = now >= hour + HOUR
    assert (made.bucket_time, made.action, made.previous) == (now, "none" if late else "buy", float(late))


@pytest.mark.parametrize(("schedule", "least"), [("bucket", 40), ("hour", 15), ("day", 3)])
async def test_the_same_candles_give_the_same_orders_as_a_backtest(live: Live, schedule: str, least: int) -> None:
    span, draw = (timedelta(hours=2), Random(7)) if schedule == "day" else (timedelta(minutes=15), Random(7))
    frame = int(span.total_seconds() // 60)
    await live.add("Wave", timeframe=frame, schedule=schedule, deposit=100_000)
    for step in range(300):
        if draw.random() < 0.03:
            continue  # nobody traded
        price = 100 * draw.uniform(0.95, 1.05)
        await live.put(price, first=START + step * span, span=span)
        await live.run("Wave")
        for order in await live.orders("Wave"):
            if order.status == "queued":
                await live.fill(order.id, "0.5", price)
    made = [(row.bucket_time, row.action) for row in await live.decisions("Wave") if row.orders]
    candles = await read_buckets(live.db, 1, frame)
    settings = Settings(deposit=Decimal(100_000), stake=Decimal(50), stake_in_percent=False, fill="close")
    name = "2h" if schedule == "day" else "15m"
    result = backtest(load(f"{live.module}:Wave"), Frames(candles, name), settings, schedule)
    sides = ["buy" if side == BUY else "sell" for side in result.fills.side.tolist()]
    times = [candles.index[index].to_pydatetime() for index in result.fills.decided]
    assert made == list(zip(times, sides, strict=True))
    assert len(made) >= least


async def test_the_statements_of_the_page_work(live: Live) -> None:
    await live.add("Follow")
    await live.db.execute("UPDATE strategy SET name = 'breakout'")
    await live.put(90, 110)
    await live.run("Follow")
    page = PAGE.partition("## When it trades")[2]
    blocks = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    shown = []
    for statement in "".join(blocks).strip().removesuffix(";").split(";\n"):
        done = await live.db.execute(statement)
        shown.append(len(await done.fetchall()) if done.description else done.rowcount)
    assert shown == [1, 1, 1]
    assert (await live.row("breakout")).enabled


async def test_only_what_is_due_is_queued(live: Live) -> None:
    number = await live.add("Follow", schedule="day")
    await live.put(*[90] * 23, first=START + HOUR)
    await live.feed()

    async def queued() -> int:
        await defer_runs(live.db, 1, 60)
        by_news = len(await live.all("SELECT FROM procrastinate_jobs"))
        await live.db.execute("DELETE FROM procrastinate_jobs")
        by_sweep = await sweep(live.db)
        await live.db.execute("DELETE FROM procrastinate_jobs")
        assert by_news == by_sweep
        return by_news

    assert await queued() == 0
    await live.put(90, first=START + DAY)
    await live.feed()
    assert await queued() == 1
    await live.run("Follow")
    assert await queued() == 0
    assert number == 1


# Once


async def test_a_worker_that_is_killed_while_it_decides_leaves_nothing_half_done(live: Live, tmp_path: Path) -> None:
    number = await live.add("Hanging")
    await live.put(90, 110)
    program = f"""
import asyncio
from jobs.strategy import run
from trader.db import Identity, connect


async def main():
    async with await connect({live.url!r}, Identity("worker", "doomed")) as db:
        await run(db, {number})


asyncio.run(main())
"""
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        env={**os.environ, "PYTHONPATH": path},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"asked\n"
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    assert await live.decisions("Hanging") == []
    assert await live.orders("Hanging") == []
    await live.db.execute("UPDATE strategy SET class = %s", [f"{live.module}:Follow"])
    await live.run("Hanging")
    assert len(await live.decisions("Hanging")) == len(await live.orders("Hanging")) == 1


async def test_one_that_dies_before_its_commit_leaves_neither_order_nor_decision(live: Live, database: str) -> None:
    await live.add("Follow")
    await live.put(90, 110)
    doomed = await connect(database, WORKER)
    # A trigger of this test kills it at its last statement: the order and the decision are written by then.
    await live.db.execute(
        """CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF current_setting('application_name') = 'worker-doomed' THEN
               PERFORM pg_terminate_backend(pg_backend_pid());
             END IF;
             RETURN NEW; END $$;
           CREATE TRIGGER z_die BEFORE UPDATE OF last_bucket ON strategy FOR EACH ROW EXECUTE FUNCTION die()"""
    )
    await doomed.execute("SET application_name = 'worker-doomed'")
    with pytest.raises(psycopg.OperationalError):
        await run(doomed, live.ids["Follow"])
    await doomed.close()
    assert await live.decisions("Follow") == []
    assert await live.orders("Follow") == []
    await live.run("Follow")
    assert [row.action for row in await live.decisions("Follow")] == ["buy"]
    assert len(await live.orders("Follow")) == 1


# What is kept


async def test_old_decisions_go_but_those_with_an_order(live: Live, tmp_path: Path) -> None:
    await live.add("Follow")
    await live.put(90)
    await live.run("Follow")
    await live.put(90, 110, first=START + HOUR)
    await live.run("Follow")
    [bought] = await live.orders("Follow")
    await live.fill(bought.id, "0.5", 110)
    await live.put(110, first=START + 3 * HOUR)
    await live.run("Follow")
    assert [row.action for row in await live.decisions("Follow")] == ["none", "buy", "none"]
    await _prune(live, tmp_path)
    assert len(await live.decisions("Follow")) == 3
    # As if the first two were made long ago: what is decided does not change, so they are written anew.
    await live.db.execute(
        """ALTER TABLE decision DISABLE TRIGGER USER;
           UPDATE decision SET decided_at = now() - interval '31 days' WHERE bucket_time < '2024-01-01 03:00Z';
           ALTER TABLE decision ENABLE TRIGGER USER"""
    )
    await _prune(live, tmp_path)
    assert [row.action for row in await live.decisions("Follow")] == ["buy", "none"]
    await live.db.execute(
        """ALTER TABLE decision DISABLE TRIGGER USER;
           UPDATE decision SET decided_at = now() - interval '59 days';
           ALTER TABLE decision ENABLE TRIGGER USER;
           UPDATE setting SET decision_keep = '60 days'"""
    )
    await _prune(live, tmp_path)
    assert len(await live.decisions("Follow")) == 2


async def _prune(live: Live, home: Path) -> None:
    """The hourly job, by a worker."""
    await defer_in(live.db, maintenance.PRUNE)
    async with (
        open_pool(live.url, WORKER, 2) as pool,
        build_app(live.url, WORKER, [maintenance]).open_async() as app,
    ):
        context = Context(Configuration(home=home, project=home), pool)
        await app.run_worker_async(wait=False, install_signal_handlers=False, additional_context={"context": context})
    [job] = await live.all("SELECT status::text FROM procrastinate_jobs ORDER BY id DESC LIMIT 1")
    assert job.status == "succeeded"


DONE = """
INSERT INTO "order" (strategy_id, account_id, market_id, type, side, status, quantity, client_order_id)
SELECT 1, 1, 1, 'market', 'buy', 'denied', 1, gen_random_uuid() FROM generate_series(1, 20000)
"""


async def test_what_is_done_is_not_read_again(live: Live) -> None:
    """A strategy that has traded for years is asked as quickly as a new one: no statement reads all of its orders."""
    number = await live.add("Follow")
    await live.db.execute("SET session_replication_role = replica")
    await live.db.execute(DONE)
    await live.db.execute("SET session_replication_role = origin")
    await live.db.execute('ANALYZE "order"')
    of_one = ((orders.OPEN, [number, 1]), (orders.LOCK, [number, 1]), (MONEY, [number]))
    for statement, parameters in (*of_one, (DUE, None)):
        lines = [row[0] for row in await fetch_all(live.db, f"EXPLAIN {statement}", parameters)]
        assert not [line for line in lines if 'Seq Scan on "order"' in line], "\n".join(lines)
        assert [line for line in lines if "using order_" in line], "\n".join(lines)
