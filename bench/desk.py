"""A desk to measure: our schema, one account with funded strategies, and our trader's code with all of its guards."""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, LiteralString
from uuid import uuid4

import psycopg

from trader.db import Identity, open_pool
from trader.exchange.protocol import Exchange
from trader.service import POOL_SIZE
from trader.trader import Desk, Trader

WRITERS = 8

REFERENCE = """
INSERT INTO asset (code) VALUES ('USDT'), ('BTC'), ('BNB');
INSERT INTO market (exchange_id, symbol, base_id, quote_id, price_tick, quantity_step, quantity_min, cost_min,
                    maker_fee, taker_fee) VALUES (1, 'BTC/USDT', 2, 1, 0.01, 0.00001, 0.00001, 5, 0.001, 0.001);
"""

EXCHANGE = "INSERT INTO exchange (name, ccxt_id, replay, options) VALUES ('binance', 'binance', true, %s)"
ACCOUNT = "INSERT INTO account (name, exchange_id, mode, credentials) VALUES ('main', 1, 'simulator', 'BENCH')"
STRATEGIES = "INSERT INTO strategy (name, account_id, unit_id) SELECT 's' || g, 1, 1 FROM generate_series(1, %s) g"
DEPOSITS = """
INSERT INTO orders (strategy, type, asset, quantity)
SELECT 's' || g, 'deposit', 'USDT', 10000000 FROM generate_series(1, %s) g
"""
QUEUE = """
INSERT INTO orders (strategy, type, side, market, quote_quantity)
SELECT %(strategy)s, 'market', 'buy', 'binance:BTC/USDT', 10 FROM generate_series(1, %(orders)s)
"""
QUEUE_IN_TABLE = """
INSERT INTO "order" (strategy_id, type, side, market_id, quote_quantity)
SELECT s.id, 'market', 'buy', 1, 10 FROM strategy s, generate_series(1, %(orders)s) WHERE s.name = %(strategy)s
"""
LEFT = """SELECT count(*) FROM "order" WHERE status IN ('queued', 'submitted')"""
FILLED = """SELECT count(*) FROM "order" WHERE status = 'filled'"""
BROKEN = "SELECT count(*) FROM invariant_violation"


def prepare(url: str, strategies: int, options: Mapping[str, Any] | None = None) -> None:
    """Fill a migrated database: market BTC/USDT, account `main`, strategies s1, s2, ... each with 10,000,000 USDT."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(EXCHANGE, [json.dumps(dict(options or {}))])
        connection.execute(ACCOUNT)
        connection.execute(REFERENCE)
        connection.execute(STRATEGIES, [strategies])
        connection.execute(DEPOSITS, [strategies])


def value(url: str, statement: LiteralString) -> int:
    """The first value of a statement, as a number."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
    assert row is not None
    return int(row[0])


async def queue(url: str, orders: int, strategies: int, statement: LiteralString = QUEUE) -> None:
    """Queue orders in one of the public ways, each strategy's in one statement, from WRITERS connections at once."""
    names = iter(range(1, strategies + 1))

    async def writer() -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            for number in names:
                share = orders // strategies + (number <= orders % strategies)
                await connection.execute(statement, {"strategy": f"s{number}", "orders": share})

    await asyncio.gather(*(writer() for _ in range(WRITERS)))


async def pipeline(
    url: str, exchange: Exchange, orders: int, strategies: int, statement: LiteralString = QUEUE
) -> tuple[float, float]:
    """Orders per second from the first INSERT to the last settled order: with queueing, and counted from its end.

    Nothing runs while the rows are queued, so the second figure is the trader's alone. What is done once in a trader's
    life is done before: one order of each strategy has gone all the way through the same connections.
    """
    async with open_pool(url, Identity("trader", "bench"), POOL_SIZE) as pool:
        desk = Desk(uuid4(), pool, {1: exchange})
        await queue(url, strategies, strategies, statement)
        await _drain(url, desk)
        before = value(url, FILLED)
        started = time.perf_counter()
        await queue(url, orders, strategies, statement)
        queued = time.perf_counter()
        ended = await _drain(url, desk)
    filled = value(url, FILLED) - before
    if filled != orders or value(url, BROKEN):
        raise AssertionError(f"{filled} of {orders} orders were filled: this run measures nothing")
    return orders / (ended - started), orders / (ended - queued)


async def _drain(url: str, desk: Desk) -> float:
    """Run a trader until nothing is queued or in flight; when that was, by the clock of `time.perf_counter`."""
    trader = Trader(desk)
    running = asyncio.create_task(trader.run())
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while not running.done():
            row = await (await connection.execute(LEFT)).fetchone()
            if row is not None and row[0] == 0:
                break
            await asyncio.sleep(0.02)
    ended = time.perf_counter()
    trader.stop.set()
    trader.wake.set()
    await running
    return ended
