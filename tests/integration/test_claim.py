"""A claim of orders of which one cannot be placed: it is denied, and stops nobody else."""

from typing import Any, cast
from uuid import uuid4

import psycopg

from tests.integration.test_gate import SETUP, TRADER
from trader.db import open_pool
from trader.exchange.protocol import Exchange
from trader.trader import Batch, Desk, claim

ORDERS = "SELECT strategy, status, reason FROM orders WHERE type = 'market' ORDER BY id"
HELD = "SELECT sum(held) FROM balance"
REBATE = "-0." + 40 * "9"


async def claimed(database: str) -> Batch:
    async with open_pool(database, TRADER, 2) as pool:
        return await claim(Desk(uuid4(), pool, {1: cast(Exchange, object())}))  # claiming asks no venue


async def test_an_order_below_one_step_is_denied(database: str, connection: psycopg.Connection[Any]) -> None:
    """It was sized to nothing, which no row can hold: every claim failed, and with it every order of everybody."""
    connection.execute(SETUP)
    connection.execute("UPDATE market SET price_tick = 0.01")
    connection.execute(
        "INSERT INTO orders (strategy, type, side, market, quote_quantity) "
        "VALUES ('s1', 'market', 'buy', 'venue:BTC/USDT', 0.009)"
    )
    batch = await claimed(database)
    assert [len(lane) for lane in batch.lanes] == [1, 1, 1]
    told = connection.execute(ORDERS).fetchall()
    assert [row[1] for row in told] == ["submitted", "submitted", "submitted", "denied"]
    assert told[3][2] == "a value of 0.009 USDT is below one step (0.01)"


async def test_what_the_database_refuses_is_denied_and_the_others_go_on(
    database: str, connection: psycopg.Connection[Any]
) -> None:
    connection.execute(SETUP)
    connection.execute(
        'ALTER TABLE "order" ADD CONSTRAINT refused_by_a_test CHECK (strategy_id <> 2 OR sent_quote_quantity IS NULL)'
    )
    batch = await claimed(database)
    assert [[one.strategy_id for one in lane] for lane in batch.lanes] == [[1], [3]]
    told = connection.execute(ORDERS).fetchall()
    assert [row[1] for row in told] == ["submitted", "denied", "submitted"]
    assert told[1][2].startswith("it cannot be placed: new row for relation")
    assert "refused_by_a_test" in told[1][2]
    assert connection.execute(HELD).fetchone() == (20,)
    assert connection.execute("SELECT count(*) FROM lane WHERE lease_until > clock_timestamp()").fetchone() == (2,)


async def test_what_cannot_be_sized_is_denied_and_the_others_go_on(
    database: str, connection: psycopg.Connection[Any]
) -> None:
    """Somebody wrote a rebate of nearly everything: a stake of 100 would be spent 1e40 times."""
    connection.execute(SETUP)
    connection.execute(
        "UPDATE market SET maker_fee = %(fee)s, taker_fee = %(fee)s, fee_side = 'quote'", {"fee": REBATE}
    )
    connection.execute(
        "INSERT INTO orders (strategy, type, side, market, limit_price) "
        "VALUES ('s1', 'limit', 'buy', 'venue:BTC/USDT', 1e-10)"
    )
    batch = await claimed(database)
    assert [len(lane) for lane in batch.lanes] == [1, 1, 1]
    told = connection.execute("SELECT status, reason FROM orders WHERE type = 'limit'").fetchone()
    assert told == ("denied", "it cannot be sized: the rules of BTC/USDT give it too many digits")
