"""Markets: the rows follow what the venue lists."""

import asyncio
from decimal import Decimal

import pytest

from tests.plugins._venue import info
from trader.db import Connection, Identity, connect, fetch_all, fetch_one
from trader.errors import InputError
from trader.market import Synced, find_market, sync_markets


@pytest.fixture
async def db(database: str):
    async with await connect(database, Identity("worker", "worker-1")) as opened:
        await opened.execute("INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance'), ('kraken', 'kraken')")
        yield opened


async def test_only_what_changed_is_rewritten(db: Connection) -> None:
    assert await sync_markets(db, 1, [info(), info("ETH/USDT", price_tick=None)]) == Synced(2, 0, 0)
    before = {row.symbol: row for row in await fetch_all(db, "SELECT symbol, xmin, xmax FROM market")}
    changed = [info(), info("ETH/USDT", price_tick=Decimal("0.1"))]
    assert await sync_markets(db, 1, changed) == Synced(0, 1, 0)
    assert await sync_markets(db, 1, changed) == Synced(0, 0, 0)
    after = {row.symbol: row for row in await fetch_all(db, "SELECT symbol, xmin, xmax FROM market")}
    assert after["BTC/USDT"] == before["BTC/USDT"]
    assert after["ETH/USDT"] != before["ETH/USDT"]


async def test_a_rule_with_more_digits_than_the_column_is_no_change(db: Connection) -> None:
    odd = [info(quantity_step=Decimal("1.00000000000000000123"))]
    assert await sync_markets(db, 1, odd) == Synced(1, 0, 0)
    assert await sync_markets(db, 1, odd) == Synced(0, 0, 0)


async def test_a_rule_that_rules_nothing_is_none(db: Connection) -> None:
    rules = {
        "price_tick": "1e-30",
        "quantity_step": "0",
        "quantity_max": "1e300",
        "cost_min": "-1",
        "quantity_min": "0",
    }
    odd = [info("ODD/USDT", **{name: Decimal(value) for name, value in rules.items()}), info()]
    assert await sync_markets(db, 1, odd) == Synced(2, 0, 0)
    row = await fetch_one(db, "SELECT * FROM market WHERE symbol = 'ODD/USDT'")
    assert [getattr(row, name) for name in rules] == [None] * 5


async def test_a_market_that_vanished_is_kept_and_no_longer_active(db: Connection) -> None:
    await sync_markets(db, 1, [info(), info("ETH/USDT")])
    await sync_markets(db, 2, [info()])
    assert await sync_markets(db, 1, [info("ETH/USDT")]) == Synced(0, 0, 1)
    assert not (await find_market(db, "binance:BTC/USDT")).active
    assert (await find_market(db, "kraken:BTC/USDT")).active
    assert await sync_markets(db, 1, [info(), info("ETH/USDT")]) == Synced(0, 1, 0)
    assert (await find_market(db, "binance:BTC/USDT")).active


async def test_an_empty_answer_makes_nothing_inactive(db: Connection) -> None:
    await sync_markets(db, 1, [info()])
    with pytest.raises(InputError, match="lists none at all"):
        await sync_markets(db, 1, [])
    assert (await find_market(db, "binance:BTC/USDT")).active


async def test_two_syncs_at_once(db: Connection, database: str) -> None:
    listed = [info(f"A{i}/USDT") for i in range(200)]
    connections = [await connect(database, Identity("worker", f"worker-{i}")) for i in range(4)]
    orders = [listed, listed[::-1], listed, listed[::-1]]
    done = await asyncio.gather(*(sync_markets(c, 1, given) for c, given in zip(connections, orders, strict=True)))
    for one in connections:
        await one.close()
    assert sum(one.added for one in done) == 200
    assert sum(one.changed + one.vanished for one in done) == 0
    assert (await fetch_one(db, "SELECT count(*) AS n FROM asset")).n == 201


async def test_a_market_is_found_by_its_name(db: Connection) -> None:
    with pytest.raises(InputError, match=r"unknown market 'binance:X/Y'.*none yet \(tallydesk market sync\)"):
        await find_market(db, "binance:X/Y")
    await sync_markets(db, 1, [info(), info("ETH/USDT")])
    found = await find_market(db, "binance:ETH/USDT")
    assert (found.name, found.exchange_id) == ("binance:ETH/USDT", 1)
    with pytest.raises(InputError, match="there is binance:BTC/USDT, binance:ETH/USDT"):
        await find_market(db, "BTC/USDT")
