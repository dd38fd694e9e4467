"""Risk limits in the claim: real claims over real connections, at and above each limit."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any, cast
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from trader.db import Identity, Pool, open_pool
from trader.exchange.protocol import Exchange, Ticker
from trader.gate import ready_to_send
from trader.order import Claimed
from trader.trader import Batch, Desk, claim

D = Decimal
SETUP = """
INSERT INTO exchange (name, ccxt_id) VALUES ('venue', 'binance');
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'simulator'), ('other', 1, 'simulator');
INSERT INTO asset (code) VALUES ('USDT'), ('BTC');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 2, 1);
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (1, 60, '2020-01-01Z');
"""
STRATEGY = "INSERT INTO strategy (name, account_id, unit_id) VALUES (%s, %s, 1)"
DEPOSIT = "INSERT INTO orders (strategy, type, asset, quantity) VALUES (%s, 'deposit', %s, %s)"
CANDLE = """
INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
SELECT 1, 60, coalesce(max(time_close), '2024-01-01Z') + interval '1 h', %(p)s, %(p)s, %(p)s, %(p)s, 1, 'imported'
  FROM bucket
"""
BLOCKED_TWO = """
SELECT count(*) = 2 AS yes FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
"""
Session = psycopg.Connection[Any]


class Venue:
    """A venue that knows one price."""

    def __init__(self) -> None:
        self.quote = Ticker("BTC/USDT", bid=D(99), ask=D(101), last=D(100))
        self.asked = 0

    async def ticker(self, symbol: str) -> Ticker:
        self.asked += 1
        return self.quote


class Trading:
    """A desk without a venue behind it: what a trader claims, and what becomes of it."""

    def __init__(self, pool: Pool, session: Session) -> None:
        self.pool = pool
        self.session = session
        self.venue = Venue()
        self.desk = self.another()

    def another(self) -> Desk:
        exchange = cast(Exchange, self.venue)
        return Desk(uuid4(), self.pool, {1: exchange, 2: exchange})

    def run(self, statement: str, *parameters: Any) -> list[Any]:
        cursor = self.session.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def strategy(self, name: str, account: int = 1, btc: int = 0) -> None:
        """A strategy with 1,000 USDT, and some BTC at 100."""
        self.run(STRATEGY, name, account)
        self.run(DEPOSIT, name, "USDT", 1000)
        if btc:
            self.candle("100")
            self.run(DEPOSIT, name, "BTC", btc)

    def candle(self, price: str) -> None:
        self.session.execute(CANDLE, {"p": float(price)})

    def limit(self, **fields: Any) -> None:
        columns, marks = ", ".join(fields), ", ".join(["%s"] * len(fields))
        self.run(f"INSERT INTO limits ({columns}) VALUES ({marks})", *fields.values())

    def order(self, strategy: str = "s", side: str = "buy", **fields: Any) -> int:
        row = {"strategy": strategy, "side": side, "type": "market", "market": "venue:BTC/USDT"} | fields
        marks = ", ".join(["%s"] * len(row))
        return int(
            self.run(f"INSERT INTO orders ({', '.join(row)}) VALUES ({marks}) RETURNING id", *row.values())[0].id
        )

    async def until(self, statement: str) -> None:
        """Poll until the statement says yes."""
        deadline = asyncio.get_running_loop().time() + 20
        while not self.run(statement)[0].yes:
            assert asyncio.get_running_loop().time() < deadline, statement
            await asyncio.sleep(0.01)

    def became(self, order: int) -> tuple[str, str]:
        row = self.run("SELECT status, coalesce(reason, '') AS reason FROM orders WHERE id = %s", order)[0]
        return row.status, row.reason

    async def claim(self) -> Batch:
        """One claim, as if nobody held a lane; prices that it wants are asked for, and it is tried again."""
        self.run("SET tallydesk.process = 'trader'")
        self.run("UPDATE lane SET lease_until = '-infinity'")
        self.run("SET tallydesk.process = ''")
        batch = await claim(self.desk)
        if batch.wanted:
            assert await self.desk.quotes.refresh(self.desk.exchanges, batch.wanted)
            return await self.claim()
        return batch

    async def judge(self, *args: Any, **fields: Any) -> tuple[str, str]:
        """Queue an order and claim it: its status and reason."""
        order = self.order(*args, **fields)
        await self.claim()
        return self.became(order)

    def end(self, order: int, *statuses: str) -> None:
        """What the venue made of it."""
        self.run("SET tallydesk.process = 'trader'")
        for status in statuses:
            self.run('UPDATE "order" SET status = %s WHERE id = %s', status, order)
        self.run("SET tallydesk.process = ''")


@pytest.fixture
async def trading(database: str) -> AsyncIterator[Trading]:
    with psycopg.connect(database, autocommit=True, row_factory=namedtuple_row) as session:
        session.execute(SETUP)
        async with open_pool(database, Identity("trader", "test"), 4) as pool:
            yield Trading(pool, session)
        assert session.execute("SELECT * FROM invariant_violation").fetchall() == []


async def test_without_limits_nothing_is_asked_and_nothing_denied(trading: Trading) -> None:
    trading.strategy("s")
    assert await trading.judge(quote_quantity=900) == ("submitted", "")
    assert await trading.judge(type="limit", limit_price=10**6, quantity="0.00001") == ("submitted", "")
    assert trading.venue.asked == 0


async def test_max_order_value(trading: Trading) -> None:
    trading.strategy("s")
    trading.limit(strategy="s", max_order_value=50)
    assert await trading.judge(quote_quantity=50) == ("submitted", "")
    reason = "the order is worth 50.00000001 USDT: max_order_value of strategy s is 50"
    assert await trading.judge(quote_quantity="50.00000001") == ("denied", reason)
    assert trading.venue.asked == 0
    trading.run("UPDATE limits SET max_order_value = 51")
    assert await trading.judge(quote_quantity="50.00000001") == ("submitted", "")


async def test_max_position(trading: Trading) -> None:
    trading.strategy("s", btc=1)
    trading.limit(strategy="s", max_position=200)
    assert (await trading.judge(quote_quantity=60))[0] == "submitted"
    status, reason = await trading.judge(quote_quantity="40.00000001")
    assert (status, reason) == (
        "denied",
        "BTC worth 200.00000001 USDT would be held: max_position of strategy s is 200",
    )
    assert (await trading.judge(type="limit", limit_price=80, quantity="0.5"))[0] == "submitted"
    assert (await trading.judge(quote_quantity="0.00000001"))[0] == "denied"
    assert (await trading.judge(side="sell", quantity="0.5"))[0] == "submitted"


async def test_one_batch_counts_its_own_orders(trading: Trading) -> None:
    trading.strategy("s")
    trading.limit(strategy="s", max_position=100)
    orders = [trading.order(quote_quantity=40) for _ in range(4)]
    await trading.claim()
    assert [trading.became(order)[0] for order in orders] == ["submitted", "submitted", "denied", "denied"]


async def test_max_open_orders_is_free_again_when_one_has_ended(trading: Trading) -> None:
    trading.strategy("s")
    trading.limit(strategy="s", max_open_orders=2)
    orders = [trading.order(quote_quantity=5) for _ in range(3)]
    await trading.claim()
    assert [trading.became(order)[0] for order in orders] == ["submitted", "submitted", "denied"]
    assert trading.became(orders[2])[1] == "2 orders of strategy s are in flight or open: max_open_orders is 2"
    trading.end(orders[0], "accepted")
    assert (await trading.judge(quote_quantity=5))[0] == "denied"
    trading.end(orders[0], "canceled")
    assert (await trading.judge(quote_quantity=5))[0] == "submitted"


async def test_max_orders_per_minute_counts_what_has_ended_too(trading: Trading) -> None:
    trading.strategy("s")
    trading.limit(strategy="s", max_orders_per_minute=2)
    first = trading.order(quote_quantity=5)
    await trading.claim()
    trading.end(first, "accepted", "canceled")
    assert (await trading.judge(quote_quantity=5))[0] == "submitted"
    denied = await trading.judge(quote_quantity=5)
    assert denied == ("denied", "2 orders of strategy s were sent within a minute: max_orders_per_minute is 2")
    for age, status in (("59 s", "denied"), ("2 s", "submitted"), ("3 min", "submitted")):  # 59, 61 s; all are gone
        trading.run("SET tallydesk.process = 'trader'")
        trading.run(f"UPDATE risk_sent SET at = at - interval '{age}'")
        trading.run("SET tallydesk.process = ''")
        if status == "denied":
            assert (await trading.judge(quote_quantity=5))[0] == "denied"
        else:
            assert (await trading.judge(quote_quantity=5))[0] == "submitted"
    assert trading.run("SELECT count(*) AS n FROM risk_sent")[0].n == 1


async def test_price_collar_against_the_last_price(trading: Trading) -> None:
    trading.strategy("s", btc=3)
    trading.limit(strategy="s", price_collar="0.05")
    at = {"type": "limit", "quantity": 1}
    assert (await trading.judge(limit_price=105, **at))[0] == "submitted"
    status, reason = await trading.judge(limit_price="105.01", **at)
    assert (status, reason) == (
        "denied",
        "a price of 105.01 USDT is above 105: price_collar of strategy s is 0.05, the last price 100",
    )
    assert (await trading.judge(side="sell", limit_price=95, **at))[0] == "submitted"
    assert (await trading.judge(side="sell", limit_price="94.99", **at))[0] == "denied"
    assert (await trading.judge(quote_quantity=10))[0] == "submitted"
    trading.run("UPDATE limits SET price_collar = 0.005")
    assert "a price of 101 USDT is above 100.5" in (await trading.judge(quote_quantity=10))[1]


async def test_an_order_waits_for_the_price_that_its_limit_needs(trading: Trading) -> None:
    trading.strategy("s")
    trading.limit(strategy="s", price_collar="0.05")
    order = trading.order(type="limit", limit_price=100, quantity=1)
    batch = await claim(trading.desk)
    assert batch.wanted == {(1, "BTC/USDT")}
    assert trading.became(order) == ("queued", "")
    trading.venue.quote = Ticker("BTC/USDT", bid=D(99), ask=D(101), last=None)
    await trading.claim()
    reason = "price_collar of strategy s cannot be judged: no last price of BTC/USDT is known"
    assert trading.became(order) == ("denied", reason)


async def test_the_daily_loss_stops_buys_and_is_told_once(trading: Trading) -> None:
    trading.strategy("s", btc=2)
    trading.limit(strategy="s", max_daily_loss=20)
    trading.candle("90")
    assert (await trading.judge(quote_quantity=5))[0] == "submitted"  # exactly 20 is lost
    trading.candle("89.5")
    said = "strategy s has lost 21 USDT since 00:00 UTC: max_daily_loss is 20, only sells are sent"
    assert await trading.judge(quote_quantity=5) == ("denied", said)
    assert await trading.judge(quote_quantity=5) == ("denied", said)
    assert (await trading.judge(side="sell", quantity=1))[0] == "submitted"
    incidents = "SELECT severity::text, kind, message, account_id FROM incident ORDER BY id"
    assert [tuple(row) for row in trading.run(incidents)] == [("warning", "daily loss", said, 1)]
    trading.run("UPDATE risk_limit SET loss_told_at = loss_told_at - interval '1 day'")
    await trading.judge(quote_quantity=5)
    assert len(trading.run(incidents)) == 2
    trading.run("DELETE FROM bucket; DELETE FROM bucket_feed")
    reason = "max_daily_loss of strategy s cannot be judged: nobody knows what BTC is worth in USDT"
    assert await trading.judge(quote_quantity=5) == ("denied", reason)


async def test_the_limits_of_an_account_are_for_all_its_strategies_and_no_other_s(trading: Trading) -> None:
    trading.strategy("s")
    trading.strategy("t")
    trading.strategy("u", account=2)
    trading.limit(account="main", max_open_orders=1)
    trading.limit(strategy="t", max_order_value=10)
    orders = [trading.order(name, quote_quantity=20) for name in ("t", "s", "s", "u", "u")]
    await trading.claim()
    became = [trading.became(order)[0] for order in orders]
    assert became == ["denied", "submitted", "denied", "submitted", "submitted"]
    assert "of account main" in trading.became(orders[2])[1]


async def test_two_traders_cannot_both_use_the_last_slots_of_an_account(trading: Trading) -> None:
    """More lanes than one claim takes, so that both have some; held up where both are at the limit's row."""
    for number in range(40):
        trading.strategy(f"s{number}")
        trading.order(f"s{number}", quote_quantity=5)
    trading.limit(account="main", max_open_orders=35, max_orders_per_minute=36, max_position=1000)
    quotes = trading.desk.quotes
    assert await quotes.refresh(trading.desk.exchanges, {(1, "BTC/USDT")})
    other = trading.another()
    other.quotes = quotes
    with psycopg.connect(trading.session.info.dsn) as holding:
        holding.execute("SELECT FROM risk_limit FOR UPDATE")
        both = asyncio.gather(claim(trading.desk), claim(other))
        await trading.until(BLOCKED_TWO)
        holding.rollback()
    claims = sorted(sum(map(len, batch.lanes)) for batch in await both)
    assert claims in ([3, 32], [8, 27])  # whoever came first took all that it has
    statuses = trading.run("SELECT status, count(*) AS n FROM orders WHERE type = 'market' GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in statuses] == [("denied", 5), ("submitted", 35)]


async def test_limits_that_a_person_holds_hold_up_only_those_who_meet_them(trading: Trading) -> None:
    """Somebody has changed the limits of one strategy in psql, and not committed."""
    for name in ("s", "t"):
        trading.strategy(name)
        trading.limit(strategy=name, max_open_orders=5)
    trading.strategy("u")
    orders = [trading.order(name, quote_quantity=5) for name in ("s", "t", "u")]
    with psycopg.connect(trading.session.info.dsn) as person:
        person.execute("UPDATE limits SET max_open_orders = 6 WHERE strategy = 't'")
        await trading.claim()
        assert [trading.became(order)[0] for order in orders] == ["submitted", "queued", "submitted"]
        person.commit()
    await trading.claim()
    assert trading.became(orders[1])[0] == "submitted"


async def test_a_reducing_account_sells_and_does_not_buy(trading: Trading) -> None:
    trading.strategy("s", btc=2)
    trading.strategy("u", account=2)
    trading.run("UPDATE account SET reducing = true WHERE name = 'main'")
    assert await trading.judge(quote_quantity=5) == ("denied", "account main is reducing: only sells are sent")
    assert (await trading.judge(side="sell", quantity=1))[0] == "submitted"
    assert (await trading.judge("u", quote_quantity=5))[0] == "submitted"
    trading.run("UPDATE account SET reducing = false")
    assert (await trading.judge(quote_quantity=5))[0] == "submitted"


async def test_a_buy_that_was_claimed_before_is_stopped_at_the_gate(trading: Trading) -> None:
    trading.strategy("s", btc=2)
    trading.order(quote_quantity=5)
    trading.order(side="sell", type="limit", limit_price=100, quantity=1)
    buy, sell = [one for lane in (await trading.claim()).lanes for one in lane]

    async def at_the_gate() -> list[Any]:
        async with trading.pool.connection() as connection:
            found = await ready_to_send(connection, [buy, sell])
        return ["ready" if isinstance(found[one.id], Claimed) else found[one.id] for one in (buy, sell)]

    assert await at_the_gate() == ["ready", "ready"]
    trading.run("UPDATE account SET reducing = true")
    assert await at_the_gate() == ["reducing", "ready"]
    trading.run("UPDATE account SET halted = true")
    assert await at_the_gate() == ["halted", "halted"]
