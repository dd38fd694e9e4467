"""Strategy runs on a real database: one decision per candle, one order at most, and nobody stops anybody else."""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

import jobs.strategy
from jobs.app import Context, build_app, defer_in
from jobs.strategy import RUN, SWEEP, defer_run, register, run, sweep
from trader.config import Settings
from trader.db import Connection, Identity, connect, fetch_all, fetch_one, open_pool

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
WORKER = Identity("worker", "worker-test")
SMA = "strategies.sma_cross:SmaCross"

SETUP = """
INSERT INTO exchange (name, ccxt_id, replay) VALUES ('binance', 'binance', true);
INSERT INTO asset (code) VALUES ('USDT'), ('BTC');
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'simulator');
INSERT INTO market (exchange_id, symbol, base_id, quote_id, price_tick, quantity_step, quantity_min, cost_min)
  VALUES (1, 'BTC/USDT', 2, 1, 0.01, 0.00001, 0.00001, 5);
"""

CLASSES = '''
import time

import pandas as pd

from trader.strategy import Strategy


class Raising(Strategy):
    warm_up = 1

    def signal(self, candles):
        return 1 / 0


class Leaving(Raising):
    def signal(self, candles):
        raise SystemExit("bye")


class Exhausted(Raising):
    def signal(self, candles):
        return next(iter([]))


class Unprintable(Raising):
    def signal(self, candles):
        raise ValueError("a\\x00b" + 5000 * "!")


class Wrong(Raising):
    def signal(self, candles):
        return pd.Series(2.0, index=candles.index)


class Follow(Raising):
    """In while the last close is above 100."""

    def signal(self, candles):
        return (candles["close"] > 100).astype(float)


class Slow(Follow):
    def signal(self, candles):
        time.sleep(0.2)
        return super().signal(candles)


class Careful(Follow):
    """Out when it may spend less than 50."""

    def adjust(self, target, context):
        assert context.performance.deposits == 100
        return target if context.allowance >= 50 else 0.0
'''


@pytest.fixture
async def connection(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connection]:
    """A worker's connection to a desk with a market, and a module `classes` that strategies can name."""
    (tmp_path / "classes.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "classes", raising=False)
    async with await connect(database, WORKER) as opened:
        await opened.execute(SETUP)
        yield opened


async def add(
    connection: Connection,
    class_: str | None = "classes:Follow",
    name: str = "s",
    *,
    deposit: int | None = 100,
    params: dict[str, Any] | None = None,
    **columns: Any,
) -> int:
    row = await fetch_one(
        connection,
        """INSERT INTO strategy (name, account_id, class, market_id, timeframe_id, params, stake, stake_unit)
           VALUES (%s, 1, %s, 1, 60, %s, %s, %s) RETURNING id""",
        [name, class_, Jsonb(params or {}), columns.get("stake", 100), columns.get("stake_unit", "%")],
    )
    if deposit:
        await connection.execute(
            "INSERT INTO orders (strategy, type, asset, quantity) VALUES (%s, 'deposit', 'USDT', %s)", [name, deposit]
        )
    return int(row.id)


async def candles(connection: Connection, *closes: float, first: datetime = START) -> None:
    async with connection.cursor() as cursor:
        await cursor.executemany(
            """INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
               VALUES (1, 60, %s, %s, %s, %s, %s, 1, 'imported')""",
            [(first + i * HOUR, c, c, c, c) for i, c in enumerate(closes)],
        )


async def feed(connection: Connection) -> None:
    """The candles are up to date, as far as the desk knows."""
    await connection.execute(
        """INSERT INTO bucket_feed (market_id, timeframe_id, collect_since, status, newest)
           VALUES (1, 60, %s, 'full', %s)
           ON CONFLICT (market_id, timeframe_id)
           DO UPDATE SET enabled = true, status = 'full', newest = EXCLUDED.newest""",
        [START, START + HOUR],
    )


async def orders(connection: Connection) -> list[Any]:
    return await fetch_all(
        connection,
        """SELECT id, side, type, quantity, quote_quantity, market, bucket_time, status FROM orders
            WHERE type = 'market' ORDER BY id""",
    )


async def state(connection: Connection, name: str = "s") -> Any:
    return await fetch_one(
        connection,
        "SELECT enabled, signal, last_bucket, error FROM strategy WHERE name = %s",
        [name],
    )


async def fill(connection: Connection, order_id: int, quantity: str, price: int) -> None:
    """What a trader does, in short."""
    await connection.execute(
        """UPDATE "order" SET status = 'submitted', fence = 1, submitted_at = now(), receive_deadline = now() + '5 s',
           hold_asset_id = CASE side WHEN 'buy' THEN 1 ELSE 2 END, attempt = 1,
           hold_quantity = CASE side WHEN 'buy' THEN %s::numeric * %s ELSE %s END WHERE id = %s""",
        [quantity, price, quantity, order_id],
    )
    await connection.execute(
        """INSERT INTO fill (order_id, traded_at, quantity, price, fee, trade_id, source)
           VALUES (%s, now(), %s, %s, 0, %s, 'answer')""",
        [order_id, quantity, price, f"t{order_id}"],
    )
    await connection.execute("""UPDATE "order" SET status = 'filled' WHERE id = %s""", [order_id])


async def test_a_fresh_cross_is_bought_and_its_end_is_sold(connection: Connection) -> None:
    strategy = await add(connection)
    await candles(connection, 90, 90, 110)
    assert await run(connection, strategy) == "fresh cross to 1: buy for 100"
    [bought] = await orders(connection)
    assert bought[1:] == ("buy", "market", None, None, "binance:BTC/USDT", START + 2 * HOUR, "queued")
    now = await state(connection)
    assert (now.signal, now.last_bucket, now.error) == (1.0, START + 2 * HOUR, None)

    await fill(connection, bought.id, "0.5", 110)
    await candles(connection, 120, first=START + 3 * HOUR)
    assert await run(connection, strategy) == "target 1: in already, with 0.5"
    await candles(connection, 80, first=START + 4 * HOUR)
    assert await run(connection, strategy) == "target 0: sell all of 0.5"
    _, sold = await orders(connection)
    assert sold[1:] == ("sell", "market", None, None, "binance:BTC/USDT", START + 4 * HOUR, "queued")
    assert await fetch_all(connection, "SELECT * FROM invariant_violation") == []


async def test_a_candle_is_decided_once(connection: Connection) -> None:
    strategy = await add(connection)
    await candles(connection, 90, 110)
    assert "buy" in await run(connection, strategy)
    assert await run(connection, strategy) == "no new candle"
    assert len(await orders(connection)) == 1


async def test_two_at_once_make_one_order(connection: Connection, database: str) -> None:
    strategy = await add(connection, "classes:Slow")
    await candles(connection, 90, 110)
    async with await connect(database, WORKER) as other:
        outcomes = await asyncio.gather(run(connection, strategy), run(other, strategy))
    assert sorted(outcomes) == ["decided or changed by somebody else meanwhile", "fresh cross to 1: buy for 100"]
    assert len(await orders(connection)) == 1


async def test_a_candle_that_has_its_order_gets_no_second(connection: Connection) -> None:
    strategy = await add(connection)
    await candles(connection, 90, 110)
    by_hand = await fetch_one(
        connection,
        """INSERT INTO orders (strategy, market, side, type, bucket_time)
           VALUES ('s', 'binance:BTC/USDT', 'buy', 'market', %s) RETURNING id""",
        [START + HOUR],
    )
    await connection.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", [by_hand.id])
    assert (await run(connection, strategy)).endswith("this candle has its order already")
    assert len(await orders(connection)) == 1
    assert (await state(connection)).last_bucket == START + HOUR


async def test_it_does_not_enter_because_it_is_long_already(connection: Connection) -> None:
    strategy = await add(connection)
    await candles(connection, 90, 110, 111)
    assert "waits for a fresh cross" in await run(connection, strategy)
    await candles(connection, 90, first=START + 3 * HOUR)
    await run(connection, strategy)
    await candles(connection, 110, first=START + 5 * HOUR)  # one is missing in between
    assert "the one before is unknown" in await run(connection, strategy)
    assert await orders(connection) == []


async def test_the_first_candle_after_the_warm_up_is_no_fresh_cross(connection: Connection) -> None:
    strategy = await add(connection, SMA, params={"fast": 1, "slow": 3})
    await candles(connection, 90, 90)
    assert await run(connection, strategy) == "it has 2 of the 3 candles that its warm-up needs"
    now = await state(connection)
    assert (now.signal, now.last_bucket, now.error) == (None, START + HOUR, None)
    await candles(connection, 120, first=START + 2 * HOUR)
    assert "the one before is unknown" in await run(connection, strategy)
    assert await orders(connection) == []


async def test_too_few_candles_never_sell(connection: Connection) -> None:
    strategy = await add(connection)
    await candles(connection, 90, 110)
    await run(connection, strategy)
    [bought] = await orders(connection)
    await fill(connection, bought.id, "0.5", 110)
    await connection.execute("UPDATE strategy SET class = %s WHERE id = %s", [SMA, strategy])
    await candles(connection, 111, first=START + 2 * HOUR)
    assert "3 of the 100 candles" in await run(connection, strategy)
    assert len(await orders(connection)) == 1


async def test_it_waits_for_its_open_order_and_then_decides_on_the_same_candle(connection: Connection) -> None:
    strategy = await add(connection)
    await candles(connection, 90, 110)
    await run(connection, strategy)
    [bought] = await orders(connection)
    await candles(connection, 90, first=START + 2 * HOUR)
    assert await run(connection, strategy) == "1 order of it still open"
    now = await state(connection)
    assert (now.signal, now.last_bucket) == (0.0, START + HOUR)
    await fill(connection, bought.id, "0.5", 110)
    assert await run(connection, strategy) == "target 0: sell all of 0.5"


@pytest.mark.parametrize(
    ("class_", "params", "words"),
    [
        ("classes:Raising", {}, ["ZeroDivisionError: division by zero", "classes.py:13"]),
        ("classes:Leaving", {}, ["SystemExit: bye", "classes.py:18"]),
        ("classes:Exhausted", {}, ["StopIteration", "classes.py:23"]),
        ("classes:Unprintable", {}, ["ValueError: ab!!!"]),
        ("classes:Wrong", {}, ["is 2.0: from -1 to 1 is allowed"]),
        ("classes:Gone", {}, ["Gone", "Follow"]),
        ("gone:Gone", {}, ['no module "gone"']),
        (SMA, {"fast": 9, "slow": 3}, ["fast must be smaller than slow"]),
    ],
)
async def test_a_failing_strategy_says_why_in_its_row_and_stops_nobody_else(
    connection: Connection, class_: str, params: dict[str, int], words: list[str]
) -> None:
    failing = await add(connection, class_, "failing", params=params)
    good = await add(connection)
    await candles(connection, 90, 110)
    assert (await run(connection, failing)).startswith("stopped: ")
    assert "buy" in await run(connection, good)
    row = await state(connection, "failing")
    assert all(word in row.error for word in words), row.error
    assert (row.enabled, row.signal, row.last_bucket) == (True, None, START + HOUR)
    assert await run(connection, failing) == "no new candle"


async def test_a_failing_strategy_is_tried_again_at_the_next_candle(connection: Connection) -> None:
    strategy = await add(connection, "classes:Raising")
    await candles(connection, 90)
    await run(connection, strategy)
    await connection.execute("UPDATE strategy SET class = 'classes:Follow'")
    await candles(connection, 110, first=START + HOUR)
    assert "buy" in await run(connection, strategy)
    assert (await state(connection)).error is None


@pytest.mark.parametrize(("deposit", "outcome"), [(100, "fresh cross to 1: buy for 100"), (None, "assertion")])
async def test_a_strategy_may_look_at_its_money(connection: Connection, deposit: int | None, outcome: str) -> None:
    strategy = await add(connection, "classes:Careful", deposit=deposit)
    await candles(connection, 90, 110)
    result = await run(connection, strategy)
    assert (result == outcome) if deposit else ("AssertionError" in result)


@pytest.mark.parametrize(
    ("deposit", "stake", "unit", "outcome"),
    [
        (None, 100, "%", "the allowance is used up: 0 free"),
        (4, 100, "%", "below the minimum of 5"),
        (50, 60, "USDT", "a stake of 60 exceeds the allowance of 50"),
        (50, 30, "USDT", "buy for 30"),
    ],
)
async def test_its_allowance_bounds_it(
    connection: Connection, deposit: int | None, stake: int, unit: str, outcome: str
) -> None:
    strategy = await add(connection, deposit=deposit, stake=stake, stake_unit=unit)
    await candles(connection, 90, 110)
    assert outcome in await run(connection, strategy)


async def test_an_old_candle_is_let_go_by_unless_it_is_replayed(connection: Connection) -> None:
    await connection.execute("UPDATE exchange SET replay = false")
    strategy = await add(connection)
    await candles(connection, 90, 110)
    assert "old" in await run(connection, strategy)
    present = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    await candles(connection, 90, 110, first=present - HOUR)
    assert "buy" in await run(connection, strategy)


async def test_what_is_not_to_run_does_not(connection: Connection) -> None:
    by_hand = await add(connection, None, "hand")
    switched_off = await add(connection, name="off")
    await connection.execute("UPDATE strategy SET enabled = false WHERE name = 'off'")
    await candles(connection, 90, 110)
    assert await run(connection, by_hand) == await run(connection, switched_off) == "it is not enabled, or has no class"
    assert await run(connection, 999) == "it is not enabled, or has no class"
    assert await orders(connection) == []


async def test_the_sweep_queues_whoever_has_a_candle_to_decide_on(connection: Connection) -> None:
    due = await add(connection, name="due")
    for name in ("decided", "off", "busy"):
        await add(connection, name=name)
    await candles(connection, 90, 110)
    await feed(connection)
    await connection.execute("UPDATE strategy SET enabled = false WHERE name = 'off'")
    await connection.execute("UPDATE strategy SET last_bucket = %s WHERE name = 'decided'", [START + HOUR])
    await connection.execute(
        """INSERT INTO orders (strategy, market, side, type, quantity)
           VALUES ('busy', 'binance:BTC/USDT', 'buy', 'market', 1)"""
    )
    assert await sweep(connection) == 1
    assert await sweep(connection) == 0  # it waits already
    assert not await defer_run(connection, due)
    jobs = await fetch_all(connection, "SELECT task_name, lock, queueing_lock, args FROM procrastinate_jobs")
    assert jobs == [(RUN, f"strategy:{due}", f"strategy:{due}", {"strategy_id": due})]
    await connection.execute("DELETE FROM procrastinate_jobs")
    await connection.execute("UPDATE bucket_feed SET status = 'building'")
    assert await sweep(connection) == 0


async def test_a_worker_runs_what_was_queued(connection: Connection, database: str, tmp_path: Path) -> None:
    strategy = await add(connection)
    await candles(connection, 90, 110)
    await feed(connection)
    await defer_in(connection, SWEEP)
    settings = Settings(home=tmp_path, project=tmp_path)
    async with open_pool(database, WORKER, 2) as pool, build_app(database, WORKER, [jobs.strategy]).open_async() as app:
        for _ in (SWEEP, RUN):
            await app.run_worker_async(
                wait=False, install_signal_handlers=False, additional_context={"context": Context(settings, pool)}
            )
    done = await fetch_all(connection, "SELECT task_name, status::text FROM procrastinate_jobs ORDER BY id")
    assert done == [(SWEEP, "succeeded"), (RUN, "succeeded")]
    assert [(row.side, row.bucket_time) for row in await orders(connection)] == [("buy", START + HOUR)]
    assert (await state(connection)).last_bucket == START + HOUR
    assert strategy == 1


async def test_candles_from_before_what_is_still_to_be_fetched_are_no_part_of_the_window(
    connection: Connection,
) -> None:
    strategy = await add(connection, SMA, params={"fast": 1, "slow": 3})
    await candles(connection, 90, 90, 90, 90, 90, 90, 90, 90)
    await candles(connection, 90, first=START + 100 * HOUR)
    await feed(connection)
    await connection.execute(
        "UPDATE bucket_feed SET covered = tstzmultirange(tstzrange(%s, %s), tstzrange(%s, %s))",
        [START - HOUR, START + 7 * HOUR, START + 99 * HOUR, START + 100 * HOUR],
    )
    assert "it has 1 of the 3 candles" in await run(connection, strategy)
    await connection.execute(
        "UPDATE bucket_feed SET covered = tstzmultirange(tstzrange(%s, %s))", [START - HOUR, START + 100 * HOUR]
    )
    await candles(connection, 90, first=START + 101 * HOUR)
    assert "it has" not in await run(connection, strategy)


async def test_a_lost_database_is_no_fault_of_the_strategy(connection: Connection, database: str) -> None:
    strategy = await add(connection)
    await candles(connection, 90, 110)
    lost = await connect(database, WORKER)
    await lost.close()
    with pytest.raises(psycopg.OperationalError):
        await run(lost, strategy)
    assert (await state(connection)).error is None


def test_the_tasks_have_names_of_their_own(database: str) -> None:
    app = build_app(database, WORKER)
    register(app)
    assert {RUN, SWEEP} <= app.tasks.keys()
    assert app.tasks[RUN].retry_strategy is None
