"""Markets that their venue does not trade any more: feeds stand still and say why, and go on when it does again."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from jobs import bucket, market
from tests.plugins._venue import START, Venue, candle, info
from tests.plugins.books import Books
from trader import migrate
from trader.bucket import load_feed, update_feed
from trader.db import Connection, Identity, connect, fetch_all, fetch_one
from trader.market import Synced, sync_markets

SEED = """
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'simulator'), ('two', 1, 'simulator');
"""
FEED = """
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) SELECT 1, t, '2024-01-01Z' FROM unnest(%s::int[]) t
"""
BTC, ETH = info(status="TRADING"), info("ETH/USDT", status="TRADING")
HALTED = info(status="BREAK", active=False)
DELISTED = r"market is delisted at the venue since \d{4}-\d\d-\d\d \d\d:\d\d UTC"


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    async with await connect(database, Identity("worker", "worker-1")) as opened:
        await opened.execute(SEED)
        await sync_markets(opened, 1, [BTC, ETH])
        yield opened


async def feed(db: Connection) -> Any:
    return await fetch_one(db, "SELECT * FROM bucket_feed WHERE market_id = 1 AND timeframe_id = 1")


async def due(db: Connection) -> int:
    await db.execute("DELETE FROM procrastinate_jobs")
    return (await db.execute(bucket.DEFER_DUE, bucket.DUE)).rowcount


async def market_row(db: Connection) -> Any:
    return await fetch_one(db, "SELECT * FROM market WHERE id = 1")


async def incidents(db: Connection) -> list[Any]:
    return await fetch_all(db, "SELECT * FROM incident WHERE kind = 'market inactive' ORDER BY id")


async def test_the_venues_own_word_and_since_when(db: Connection) -> None:
    row = await market_row(db)
    assert (row.status, row.listed, row.active, row.inactive_since) == ("TRADING", True, True, None)
    assert await sync_markets(db, 1, [HALTED, ETH]) == Synced(0, 1, 0)
    halted = await market_row(db)
    assert (halted.status, halted.listed, halted.active) == ("BREAK", True, False)
    assert halted.inactive_since is not None
    assert await sync_markets(db, 1, [ETH]) == Synced(0, 0, 1)
    gone = await market_row(db)
    assert (gone.status, gone.listed, gone.active, gone.inactive_since) == (None, False, False, halted.inactive_since)
    assert await sync_markets(db, 1, [ETH]) == Synced(0, 0, 0)
    assert await sync_markets(db, 1, [BTC, ETH]) == Synced(0, 1, 0)
    back = await market_row(db)
    assert (back.status, back.listed, back.active, back.inactive_since) == ("TRADING", True, True, None)
    assert (await fetch_one(db, "SELECT synced_at FROM exchange")).synced_at is not None


async def test_a_feed_stands_still_with_its_reason_and_goes_on_by_itself(db: Connection) -> None:
    await db.execute(FEED, [[1, 60]])
    await db.execute("UPDATE bucket_feed SET enabled = false WHERE timeframe_id = 60")
    assert await due(db) == 1
    await sync_markets(db, 1, [ETH])
    stopped = await feed(db)
    assert (stopped.enabled, stopped.status) == (True, "error")
    assert stopped.error_at is not None
    assert stopped.last_error == await reason(db)
    assert re.fullmatch(DELISTED, stopped.last_error)
    assert await due(db) == 0
    other = await fetch_one(db, "SELECT * FROM bucket_feed WHERE timeframe_id = 60")
    assert (other.status, other.last_error) == ("absent", None)  # nobody wants it

    await sync_markets(db, 1, [BTC, ETH])
    going = await feed(db)
    assert (going.enabled, going.status, going.last_error, going.error_at) == (True, "absent", None, None)
    assert await due(db) == 1


async def reason(db: Connection) -> str:
    return str((await fetch_one(db, "SELECT market_trouble(1) AS text")).text)


async def test_a_feed_that_has_candles_goes_on_from_them(db: Connection) -> None:
    await db.execute(FEED, [[1]])
    venue = Venue([candle(i) for i in range(50)], now=START + timedelta(minutes=40.5))
    await update_feed(db, venue, await load_feed(db, 1, 1), venue.now)
    before = await feed(db)
    await sync_markets(db, 1, [HALTED, ETH])
    stopped = await feed(db)
    assert stopped.last_error.startswith("market is halted (BREAK) at the venue since 20")
    assert stopped.newest == before.newest
    await sync_markets(db, 1, [BTC, ETH])
    going = await feed(db)
    assert (going.status, going.newest, going.last_error) == ("building", before.newest, None)


async def test_an_update_that_ends_meanwhile_does_not_hide_the_reason(db: Connection) -> None:
    await db.execute(FEED, [[1]])
    running = await load_feed(db, 1, 1)
    venue = Venue([candle(i) for i in range(50)], now=START + timedelta(minutes=40.5))
    await sync_markets(db, 1, [ETH])
    stopped = await feed(db)
    await update_feed(db, venue, running, venue.now)
    ended = await feed(db)
    assert (ended.status, ended.last_error, ended.error_at) == ("error", stopped.last_error, stopped.error_at)
    assert ended.newest is not None


async def test_a_feed_that_is_added_or_switched_on_later_says_it_too(db: Connection) -> None:
    await sync_markets(db, 1, [ETH])
    await db.execute(FEED, [[1]])
    assert (await feed(db)).last_error == await reason(db)
    await db.execute("DELETE FROM bucket_feed")
    await db.execute("INSERT INTO bucket_feed (market_id, timeframe_id, collect_since, enabled)"
                     " VALUES (1, 1, '2024-01-01Z', false)")  # fmt: skip
    assert (await feed(db)).last_error is None
    await db.execute("UPDATE bucket_feed SET enabled = true")
    assert (await feed(db)).last_error == await reason(db)


async def test_another_failure_of_a_feed_is_left_alone_when_its_market_comes_back(db: Connection) -> None:
    await db.execute(FEED, [[1]])
    await sync_markets(db, 1, [HALTED, ETH])
    await db.execute("UPDATE bucket_feed SET enabled = false")
    await db.execute("UPDATE bucket_feed SET status = 'error', last_error = 'Refused: something else'")
    await sync_markets(db, 1, [BTC, ETH])
    assert (await feed(db)).last_error == "Refused: something else"


async def test_whoever_trades_on_it_or_holds_it_is_told_once_and_until_it_is_back(db: Connection) -> None:
    await db.execute("INSERT INTO strategy (name, account_id, class, market_id, timeframe_id)"
                     " VALUES ('a', 1, 'm:A', 1, 1), ('b', 1, 'm:A', 2, 1)")  # fmt: skip
    await sync_markets(db, 1, [HALTED, ETH])
    (told,) = await incidents(db)
    assert (told.severity, told.account_id, told.resolved_at) == ("warning", 1, None)
    assert told.message == f"binance:BTC/USDT: {await reason(db)}; strategy a trades on it"
    await sync_markets(db, 1, [ETH])
    assert len(await incidents(db)) == 1
    await sync_markets(db, 1, [BTC, ETH])
    (told,) = await incidents(db)
    assert told.resolved_at is not None


async def test_nobody_is_told_of_a_market_that_nobody_uses(db: Connection) -> None:
    await db.execute("INSERT INTO strategy (name, account_id, class, market_id, timeframe_id, enabled)"
                     " VALUES ('off', 1, 'm:A', 1, 1, false)")  # fmt: skip
    await sync_markets(db, 1, [ETH])
    assert await incidents(db) == []


def test_holdings_and_open_orders_are_named(books: Books) -> None:
    books.strategy(deposit=1000)
    books.trade("buy", "0.01", 50000)
    resting = books.queue("sell", type="limit", limit_price=60000, quantity="0.005")
    books.submit(resting, "0.005", "BTC")
    books.move(resting, "accepted")
    books.trader("UPDATE market SET active = false WHERE id = 1")
    told = books.row("SELECT message FROM incident WHERE kind = 'market inactive'").message
    assert told.endswith(f"; order {resting} is open on it, strategy s holds 0.01 of it")


async def test_a_market_that_stopped_lately_and_is_waited_for_is_looked_at_often(db: Connection) -> None:
    async def asked() -> int:
        await db.execute("DELETE FROM procrastinate_jobs")
        return (await db.execute(market.DEFER_MISSING, market.ALL)).rowcount

    await sync_markets(db, 1, [HALTED, ETH])
    await db.execute("UPDATE exchange SET synced_at = now() - interval '6 min'")
    assert await asked() == 0  # nobody waits for it
    await db.execute(FEED, [[1]])
    assert await asked() == 1
    await db.execute("UPDATE exchange SET synced_at = now() - interval '4 min'")
    assert await asked() == 0
    await db.execute("ALTER TABLE market DISABLE TRIGGER market_check")
    await db.execute("UPDATE exchange SET synced_at = now() - interval '6 min'")
    await db.execute("UPDATE market SET inactive_since = now() - interval '25 h' WHERE id = 1")
    assert await asked() == 0


def test_markets_that_anything_refers_to_are_kept(books: Books) -> None:
    books.strategy(deposit=1000)
    books.trade("buy", "0.01", 50000)
    kept = "market sim:BTC/USDT is kept: it has candles or feeds, orders and fills, positions"
    for trader in (False, True):
        assert books.refused("DELETE FROM market WHERE id = 1", trader=trader) == kept
        assert "candles, orders and fills refer to them" in books.refused("TRUNCATE market CASCADE", trader=trader)
    assert books.refused("DELETE FROM market WHERE id = 2") == "market sim:ETH/USDT is kept: it has candles or feeds"
    books.execute("UPDATE strategy SET market_id = 4")
    assert books.refused("DELETE FROM market WHERE id = 4") == "market sim:ETH/BTC is kept: it has strategies"
    books.trader("INSERT INTO ticker VALUES (5, 1, 2, 3, now())")
    books.execute("DELETE FROM market WHERE id = 5")  # the next sync brings it back


async def test_the_step_goes_back_and_forward_with_a_market_that_stopped(db: Connection, database: str) -> None:
    await db.execute(FEED, [[1, 60]])
    await db.execute("INSERT INTO account_balance VALUES (1, 1, 5, 5, 0, 5, true, now())")
    await sync_markets(db, 1, [ETH])
    revisions = migrate.revisions()
    migrate.downgrade(database, revisions[revisions.index("0019_conversion") - 1])
    await db.execute("DISCARD ALL")
    rows = await fetch_all(db, "SELECT status::text, last_error FROM bucket_feed")
    assert [tuple(row) for row in rows] == [("absent", None)] * 2
    migrate.upgrade(database)
    await db.execute("DISCARD ALL")
    row = await market_row(db)
    assert (row.active, row.listed) == (False, True)
    assert row.inactive_since == row.synced_at
    assert (await feed(db)).last_error.startswith("market is halted at the venue since 20")
    total = await fetch_one(db, "SELECT read_at IS NOT NULL AS was_read FROM account_total WHERE account = 'main'")
    assert total.was_read
