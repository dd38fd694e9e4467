"""Exchanges at which no venue is asked: how their markets are made, and that no job goes there."""

import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from jobs import bucket, conversion, gap, market
from jobs.app import Context
from tests.plugins import _nursery
from tests.plugins.simulator import ROOT
from trader import migrate
from trader.config import load
from trader.db import Connection, Identity, connect, fetch_all, fetch_one, open_pool
from trader.errors import InputError
from trader.market import add_market, find_market

pytestmark = pytest.mark.any_server

WORKER = Identity("worker", "worker-1")
CANDLES = "time_open_ms,open,high,low,close,volume\n1704067200000,1,2,0.5,1.5,10\n1704067500000,1,2,0.5,1.5,10\n"


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    async with await connect(database, WORKER) as opened:
        await add_market(opened, "bitfinex:BTC/USD")
        yield opened


async def test_a_market_is_made_with_all_that_it_needs_once(db: Connection) -> None:
    found, is_new = await add_market(db, "bitfinex:BTC/USD")
    assert (found.name, found.active, is_new) == ("bitfinex:BTC/USD", True, False)
    _, is_new = await add_market(db, "bitfinex:ETH/USD")
    assert is_new
    rows = await fetch_all(db, "SELECT name, ccxt_id, offline FROM exchange")
    assert [tuple(row) for row in rows] == [("bitfinex", "bitfinex", True)]
    assert [row.code for row in await fetch_all(db, "SELECT code FROM asset ORDER BY 1")] == ["BTC", "ETH", "USD"]


@pytest.mark.parametrize("name", ["bitfinex", "BTC/USD", "bitfinex:BTC", "a:B/B", "a:B/C:C", "a:B/C/D", "a: /C", ""])
async def test_what_is_no_name_of_a_market_is_refused(db: Connection, name: str) -> None:
    with pytest.raises(InputError, match=r"write NAME:BASE/QUOTE"):
        await add_market(db, name)
    assert (await fetch_one(db, "SELECT count(*) AS n FROM market")).n == 1


async def test_the_markets_of_a_venue_are_the_venues(db: Connection) -> None:
    await db.execute("INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance')")
    with pytest.raises(InputError, match=r"binance is not offline.*market sync --exchange binance"):
        await add_market(db, "binance:X/Y")
    assert (await fetch_one(db, "SELECT count(*) AS n FROM asset")).n == 2
    with pytest.raises(InputError, match=r"there is bitfinex:BTC/USD$"):
        await find_market(db, "binance:X/Y", from_file=True)


async def test_no_job_goes_there(db: Connection, database: str) -> None:
    """Whatever the rows say: these are as a hand could have made them before the guards were there."""
    await db.execute("UPDATE exchange SET offline = false")
    await db.execute(
        """INSERT INTO bucket_feed (market_id, timeframe_id, collect_since, covered)
           VALUES (1, 1, '2024-01-01Z', '{[2024-01-01Z, 2024-01-02Z)}')"""
    )
    await db.execute(
        """INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
           SELECT 1, 1, t::timestamptz, 1, 1, 1, 1, 1, 'imported'
             FROM unnest(ARRAY['2024-01-01 01:00Z', '2024-01-01 02:00Z']) t"""
    )

    async def deferred() -> list[str]:
        await db.execute("DELETE FROM procrastinate_jobs")
        for statement, given in (
            (market.DEFER_ALL, market.ALL), (market.DEFER_MISSING, market.ALL), (bucket.DEFER_DUE, bucket.DUE),
            (gap.DEFER_DUE, gap.DUE),
        ):  # fmt: skip
            await db.execute(statement, given)
        rows = await fetch_all(db, "SELECT DISTINCT task_name FROM procrastinate_jobs ORDER BY 1")
        return [row.task_name for row in rows]

    given = {"now": (await fetch_one(db, "SELECT now() AS now")).now}
    assert await deferred() == [bucket.TASK, gap.TASK, market.TASK]
    assert await fetch_all(db, conversion.MARKETS, given) != []
    async with db.transaction():
        await db.execute("ALTER TABLE exchange DISABLE TRIGGER offline")
        await db.execute("UPDATE exchange SET offline = true")
        await db.execute("ALTER TABLE exchange ENABLE TRIGGER offline")
    assert await deferred() == []
    assert await fetch_all(db, conversion.MARKETS, given) == []
    async with open_pool(database, WORKER, 1) as pool:
        context = Context(load({"HOME": "/nowhere"}), pool)
        with pytest.raises(InputError, match="bitfinex: it is offline"):
            await context.exchange(db, 1)
        await context.close()


FETCHED = "INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (1, 1, '2024-01-01Z')"


async def test_nothing_is_fetched_there_and_what_is_derived_may_be(db: Connection) -> None:
    with pytest.raises(psycopg.errors.RestrictViolation, match="feed of bitfinex:BTC/USD: its exchange is offline"):
        await db.execute(FETCHED)
    await db.execute(FETCHED.replace("collect_since)", "collect_since, enabled)").replace("Z')", "Z', false)"))
    with pytest.raises(psycopg.errors.RestrictViolation, match="its exchange is offline"):
        await db.execute("UPDATE bucket_feed SET enabled = true")
    await db.execute(
        "INSERT INTO bucket_feed (market_id, timeframe_id, collect_since, derived_from) VALUES (1, 5, '2024-01-01Z', 1)"
    )
    with pytest.raises(psycopg.errors.RestrictViolation, match="its exchange is offline"):
        await db.execute("UPDATE bucket_feed SET derived_from = NULL WHERE timeframe_id = 5")


async def test_it_has_no_accounts(db: Connection) -> None:
    with pytest.raises(psycopg.errors.RestrictViolation, match="account main: exchange bitfinex is offline"):
        await db.execute("INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'paper')")


async def test_an_exchange_in_use_does_not_go_offline(db: Connection) -> None:
    await db.execute("UPDATE exchange SET offline = false")
    await db.execute(FETCHED)
    with pytest.raises(psycopg.errors.RestrictViolation, match="bitfinex cannot be offline: feeds of it are on"):
        await db.execute("UPDATE exchange SET offline = true")
    await db.execute("UPDATE bucket_feed SET enabled = false")
    await db.execute("UPDATE exchange SET offline = true")
    await db.execute("UPDATE exchange SET offline = false")
    await db.execute("INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'paper')")
    with pytest.raises(psycopg.errors.RestrictViolation, match="bitfinex cannot be offline: it has accounts"):
        await db.execute("UPDATE exchange SET offline = true")


def test_a_newcomer_with_a_file_only(database: str, connection: psycopg.Connection, tmp_path: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "DATABASE_URL": database, "TALLYDESK_HOME": str(tmp_path), "COLUMNS": "200",
    }  # fmt: skip
    cli = partial(_nursery.run, "trader.cli.main", environment=environment)
    file = tmp_path / "candles.csv"
    file.write_text(CANDLES)
    wanted = ("bucket", "import", str(file), "--market", "bitfinex:BTC/USD", "--timeframe", "5m")
    done = cli(*wanted)
    assert done.stderr.endswith("to make it for candles of files: tallydesk market add bitfinex:BTC/USD\n")
    done = cli("market", "add", "bitfinex:BTC/USD")
    assert done.stdout == "bitfinex:BTC/USD: added; bitfinex is offline, its candles come from files\n"
    assert "was there already" in cli("market", "add", "bitfinex:BTC/USD").stdout
    assert "2 candles added" in cli(*wanted).stdout
    assert "made of 5m" in cli("bucket", "derive", "bitfinex:BTC/USD", "15m", "--from", "5m").stdout
    done = cli("market", "sync", "--exchange", "bitfinex")
    assert done.stderr.startswith("tallydesk: --exchange is 'bitfinex': it is offline, no venue is asked")
    for line in ("feed add bitfinex BTC/USD 1m --since listing", "feed resume bitfinex BTC/USD"):
        assert "bitfinex: it is offline, no venue is asked" in cli(*line.split()).stderr
    assert connection.execute("SELECT count(*) FROM bucket_feed WHERE enabled AND derived_from IS NULL").fetchone() == (
        0,
    )
    done = cli("account", "add", "main", "--exchange", "bitfinex", "--mode", "paper")
    assert "account main: exchange bitfinex is offline" in done.stderr.replace("account main: account", "account")


def test_the_step_goes_back(database: str, connection: psycopg.Connection) -> None:
    revisions = migrate.revisions()
    before = revisions[revisions.index("0021_offline") - 1]
    migrate.downgrade(database, before)
    assert connection.execute("SELECT to_regprocedure('offline_is_not_fetched()')").fetchone() == (None,)
    migrate.upgrade(database)
    assert connection.execute("SELECT count(*) FROM exchange WHERE offline").fetchone() == (0,)
