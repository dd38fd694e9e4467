"""What a venue says we own, beside what the ledger says."""

import asyncio
from decimal import Decimal

import pytest

from tests.plugins._venue import Venue
from trader.account import add_account, add_exchange, connect_account, load_accounts, noting_failure, read_balances
from trader.config import load
from trader.db import Connection, Identity, connect, fetch_all, fetch_one
from trader.errors import ConfigError, Unknown

SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT');
INSERT INTO exchange (name, ccxt_id, options) VALUES ('binance', 'binance', '{"timeout": 5000, "options": {"a": 1}}');
INSERT INTO account (name, exchange_id, mode, options) VALUES ('main', 1, 'simulator', '{"options": {"b": 2}}');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2);
INSERT INTO strategy (name, account_id, unit_id) VALUES ('hand', 1, 2);
"""


@pytest.fixture
async def db(database: str):
    async with await connect(database, Identity("trader", "trader-1")) as opened:
        await opened.execute(SEED)
        yield opened


async def read(db: Connection, venue: Venue):
    return await read_balances(db, venue, (await load_accounts(db))[0])


async def shown(db: Connection) -> dict[str, tuple[Decimal | None, ...]]:
    rows = await fetch_all(db, "SELECT * FROM reconciliation")
    return {one.asset: (one.venue, one.ledger, one.drift, one.unallocated) for one in rows}


async def openings(db: Connection) -> dict[str, Decimal]:
    rows = await fetch_all(
        db, "SELECT code, quantity FROM adjustment JOIN asset a ON a.id = asset_id WHERE kind = 'opening'"
    )
    return {one.code: one.quantity for one in rows}


async def submit(db: Connection) -> int:
    """An order of 10 USDT, as a trader has sent it."""
    order = await fetch_one(
        db, """INSERT INTO "order" (strategy_id, type, side, market_id, quote_quantity)
               VALUES (1, 'market', 'buy', 1, 10) RETURNING id"""
    )  # fmt: skip
    await db.execute(
        """UPDATE "order" SET status = 'submitted', hold_asset_id = 2, hold_quantity = 10, fence = 1, attempt = 1,
           submitted_at = now(), receive_deadline = now() WHERE id = %s""",
        [order.id],
    )
    return int(order.id)


async def fill(db: Connection, order: int) -> None:
    await db.execute(
        """INSERT INTO fill (order_id, traded_at, quantity, price, fee, trade_id, source)
           VALUES (%s, now(), 1, 10, 0, '1', 'answer')""",
        [order],
    )
    await db.execute("UPDATE \"order\" SET status = 'filled' WHERE id = %s", [order])


async def test_accounts_carry_the_options_of_both_rows(db: Connection) -> None:
    (account,) = await load_accounts(db)
    assert account.options == {"timeout": 5000, "options": {"a": 1, "b": 2}}
    assert (account.name, account.exchange_name, account.mode, account.replay) == (
        "main",
        "binance",
        "simulator",
        False,
    )
    assert account.receive_window.total_seconds() == 5


async def test_secrets_do_not_get_into_rows(db: Connection) -> None:
    with pytest.raises(ConfigError, match="a secret does not belong in the database"):
        await add_account(db, "two", 1, "simulator", options={"apiKey": "x"})
    with pytest.raises(ConfigError, match="a secret does not belong in the database"):
        await add_exchange(db, "kraken", "kraken", options={"deep": {"secret": "x"}})
    assert (await fetch_one(db, "SELECT count(*) AS n FROM account")).n == 1


async def test_an_account_whose_keys_are_missing_says_which(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOBODY_API_KEY", raising=False)
    account = await add_account(db, "two", 1, "simulator", credentials="NOBODY", options={})
    with pytest.raises(ConfigError, match="NOBODY_API_KEY is not set"):
        connect_account(account, load({"HOME": "/nowhere"}))


async def test_the_first_read_opens_the_account_once(db: Connection) -> None:
    venue = Venue(owned={"USDT": "1000.5", "BTC": "0.1", "BNB": "3", "DUST": "0"})
    first = await read(db, venue)
    assert (first.settled, first.opened, first.stored) == (True, True, 3)
    assert await shown(db) == {
        "USDT": (Decimal("1000.5"), Decimal("1000.5"), 0, Decimal("1000.5")),
        "BTC": (Decimal("0.1"), Decimal("0.1"), 0, Decimal("0.1")),
        "BNB": (3, 3, 0, 3),
    }
    assert {one.code for one in await fetch_all(db, "SELECT code FROM asset")} == {"BTC", "USDT", "BNB"}
    venue.owned["USDT"] = "1001"
    again = await read(db, venue)
    assert (again.opened, again.stored) == (False, 3)
    assert (await shown(db))["USDT"] == (1001, Decimal("1000.5"), Decimal("0.5"), Decimal("1000.5"))
    assert await openings(db) == {"USDT": Decimal("1000.5"), "BTC": Decimal("0.1"), "BNB": 3}
    assert await fetch_all(db, "SELECT * FROM invariant_violation") == []


async def test_two_workers_that_read_at_once_open_it_once(db: Connection, database: str) -> None:
    account = (await load_accounts(db))[0]
    connections = [await connect(database, Identity("worker", f"worker-{i}")) for i in range(6)]
    reads = [read_balances(one, Venue(owned={"USDT": "100", "BTC": "1", "XRP": "5"}), account) for one in connections]
    found = await asyncio.gather(*reads)
    for one in connections:
        await one.close()
    assert sorted(one.opened for one in found) == [False] * 5 + [True]
    assert await openings(db) == {"USDT": 100, "BTC": 1, "XRP": 5}
    assert (await fetch_one(db, "SELECT count(*) AS n FROM ledger")).n == 3


async def test_an_account_with_nothing_to_open_is_open_all_the_same(db: Connection) -> None:
    await db.execute("INSERT INTO orders (strategy, type, asset, quantity) VALUES ('hand', 'deposit', 'USDT', 100)")
    assert (await read(db, Venue())).opened
    assert await shown(db) == {"USDT": (0, 0, 0, -100)}
    assert not (await read(db, Venue(owned={"USDT": "7"}))).opened
    assert (await shown(db))["USDT"] == (7, 0, 7, -100)
    assert await openings(db) == {}


async def test_an_asset_that_the_venue_no_longer_lists_counts_as_none(db: Connection) -> None:
    await read(db, Venue(owned={"USDT": "100", "BTC": "1"}))
    await read(db, Venue(owned={"USDT": "100"}))
    assert (await shown(db))["BTC"] == (0, 1, -1, 1)


async def test_a_read_that_fails_changes_nothing(db: Connection) -> None:
    await read(db, Venue(owned={"USDT": "100"}))
    before = await fetch_all(db, "SELECT * FROM account_balance")
    with pytest.raises(Unknown):
        await read(db, Venue(owned={}, errors={"balances": Unknown("cut off")}))
    assert await fetch_all(db, "SELECT * FROM account_balance") == before


async def test_nothing_is_opened_while_an_order_is_in_flight(db: Connection) -> None:
    await db.execute("INSERT INTO orders (strategy, type, asset, quantity) VALUES ('hand', 'deposit', 'USDT', 100)")
    order = await submit(db)
    venue = Venue(owned={"USDT": "500"})
    early = await read(db, venue)
    assert (early.settled, early.opened, early.stored) == (False, False, 0)
    assert await fetch_all(db, "SELECT * FROM account_balance") == []
    await fill(db, order)
    venue.owned = {"USDT": "490", "BTC": "1"}
    assert (await read(db, venue)).opened
    assert await openings(db) == {"USDT": 500}  # what the fill explains is not opened again
    assert await shown(db) == {"USDT": (490, 490, 0, 400), "BTC": (1, 1, 0, 0)}
    assert await fetch_all(db, "SELECT * FROM invariant_violation") == []


async def test_a_fill_while_the_venue_is_read_is_no_drift(db: Connection, database: str) -> None:
    await read(db, Venue(owned={"USDT": "500"}))
    await db.execute("INSERT INTO orders (strategy, type, asset, quantity) VALUES ('hand', 'deposit', 'USDT', 100)")
    async with await connect(database, Identity("trader", "trader-2")) as other:

        class Busy(Venue):
            async def balances(self):
                found = await super().balances()
                await fill(other, await submit(other))  # from start to end between the two looks at the ledger
                return found

        assert not (await read(db, Busy(owned={"USDT": "500"}))).settled
    assert (await shown(db))["USDT"] == (500, 490, None, 400)
    assert (await read(db, Venue(owned={"USDT": "490", "BTC": "1"}))).settled
    assert {drift for _, _, drift, _ in (await shown(db)).values()} == {0}


async def test_a_deposit_while_the_venue_is_read_does_not_matter(db: Connection, database: str) -> None:
    async with await connect(database, Identity("", "person")) as other:

        class Busy(Venue):
            async def balances(self):
                await other.execute(
                    "INSERT INTO orders (strategy, type, asset, quantity) VALUES ('hand', 'deposit', 'USDT', 100)"
                )
                return await super().balances()

        await read(db, Venue(owned={"USDT": "500"}))
        assert (await read(db, Busy(owned={"USDT": "500"}))).settled
    assert (await shown(db))["USDT"] == (500, 500, 0, 400)


async def reading(db: Connection) -> tuple[bool, str | None]:
    row = await fetch_one(db, "SELECT * FROM account_read")
    assert (row.failed_at is None) == (row.error is None)
    return row.read_at is not None, row.error


async def test_how_the_last_reading_went_is_noted(db: Connection) -> None:
    dead = Venue(errors={"balances": Unknown("cut off")})

    async def fail() -> None:
        with pytest.raises(Unknown):
            async with noting_failure(db, 1):
                await read(db, dead)

    await fail()
    assert await reading(db) == (False, "Unknown: cut off")
    await read(db, Venue(owned={"USDT": "5"}))
    assert await reading(db) == (True, None)
    first = (await fetch_one(db, "SELECT read_at FROM account_read")).read_at
    await fail()
    assert await reading(db) == (True, "Unknown: cut off")
    row = await fetch_one(db, "SELECT value, stale, note, read_at FROM account_total WHERE account = 'main'")
    assert (row.value, row.stale, row.read_at) == (5, True, first)
    assert row.note == "main: could not be read: Unknown: cut off"


async def test_a_reading_that_opens_nothing_yet_is_neither_a_failure_nor_a_reading(db: Connection) -> None:
    await db.execute("INSERT INTO orders (strategy, type, asset, quantity) VALUES ('hand', 'deposit', 'USDT', 100)")
    await submit(db)
    async with noting_failure(db, 1):
        await read(db, Venue(owned={"USDT": "500"}))
    assert await reading(db) == (False, None)
    row = await fetch_one(db, "SELECT value, stale, note FROM account_total WHERE account = 'main'")
    assert (row.value, row.stale, row.note) == (None, True, "main: was never read")


async def test_an_account_that_owns_nothing_was_read_all_the_same(db: Connection) -> None:
    await read(db, Venue())
    row = await fetch_one(db, "SELECT value, stale FROM account_total WHERE account = 'main'")
    assert (row.value, row.stale) == (0, False)
