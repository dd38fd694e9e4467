"""The gate before every send: orders that are there together get one question and each its own answer."""

import asyncio
from typing import Any, cast
from uuid import uuid4

import psycopg

from trader.db import Identity, Pool, connect, open_pool
from trader.exchange.protocol import Exchange
from trader.gate import Gate, Ready
from trader.order import Claimed
from trader.trader import Desk, claim

SETUP = """
INSERT INTO exchange (name, ccxt_id) VALUES ('venue', 'binance');
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'simulator');
INSERT INTO asset (code) VALUES ('USDT'), ('BTC');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 2, 1);
INSERT INTO strategy (name, account_id, unit_id) SELECT 's' || g, 1, 1 FROM generate_series(1, 3) g;
INSERT INTO orders (strategy, type, asset, quantity)
SELECT 's' || g, 'deposit', 'USDT', 100 FROM generate_series(1, 3) g;
INSERT INTO orders (strategy, type, side, market, quote_quantity)
SELECT 's' || g, 'market', 'buy', 'venue:BTC/USDT', 10 FROM generate_series(1, 3) g;
"""
TRADER = Identity("trader", "test")


async def claimed(pool: Pool) -> list[Claimed]:
    batch = await claim(Desk(uuid4(), pool, {1: cast(Exchange, object())}))  # claiming asks no venue here
    return [one for lane in batch.lanes for one in lane]


async def through(pool: Pool, claims: list[Claimed]) -> list[Ready]:
    gate = Gate(pool)
    return list(await asyncio.gather(*(gate.ready(one) for one in claims)))


async def test_each_gets_its_own_answer(database: str, connection: psycopg.Connection[Any]) -> None:
    connection.execute(SETUP)
    async with open_pool(database, TRADER, 2) as pool, await connect(database, TRADER) as other:
        fresh, aged, taken = await claimed(pool)
        age = """UPDATE "order" SET submitted_at = submitted_at - interval '4 s' WHERE id = %s"""
        await other.execute(age, [aged.id])
        await other.execute("""UPDATE "order" SET fence = nextval('fence') WHERE id = %s""", [taken.id])
        answers = await through(pool, [fresh, aged, taken])
    assert answers[0] == fresh
    assert answers[2] == "fenced"
    assert isinstance(answers[1], Claimed)
    row = connection.execute('SELECT submitted_at, attempt FROM "order" WHERE id = %s', [aged.id]).fetchone()
    assert row == (answers[1].request.submitted_at, 2)
    assert answers[1].request.submitted_at > aged.request.submitted_at


async def test_a_halt_stops_all_but_says_so_to_owners_only(database: str, connection: psycopg.Connection[Any]) -> None:
    connection.execute(SETUP)
    async with open_pool(database, TRADER, 2) as pool, await connect(database, TRADER) as other:
        claims = await claimed(pool)
        await other.execute("""UPDATE "order" SET fence = nextval('fence') WHERE id = %s""", [claims[0].id])
        connection.execute("UPDATE account SET halted = true")
        assert await through(pool, claims) == ["fenced", "halted", "halted"]


async def test_the_database_s_error_reaches_everybody_who_asked(
    database: str, connection: psycopg.Connection[Any]
) -> None:
    connection.execute(SETUP)
    async with open_pool(database, TRADER, 2) as pool:
        claims = await claimed(pool)
        gate = Gate(pool)
        connection.execute('ALTER TABLE "order" RENAME COLUMN fence TO broken')
        answers = await asyncio.gather(*(gate.ready(one) for one in claims), return_exceptions=True)
        assert [type(answer) for answer in answers] == [psycopg.errors.UndefinedColumn] * 3
        connection.execute('ALTER TABLE "order" RENAME COLUMN broken TO fence')
        assert await asyncio.gather(*(gate.ready(one) for one in claims)) == claims
