"""Reconciliation against a venue in memory: whose fills are whose, what is drift, and what proves nothing."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.plugins import _venue
from trader import migrate
from trader.account import load_accounts, read_balances
from trader.db import Connection, Identity, connect, fetch_all, fetch_one
from trader.errors import Refused, Unknown
from trader.exchange.protocol import FillReport, OrderReport
from trader.reconcile import Round, reconcile_account

SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT'), ('ETH');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'simulator');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2), (1, 'ETH/USDT', 3, 2);
INSERT INTO strategy (name, account_id, unit_id, market_id) VALUES ('hand', 1, 2, 1);
INSERT INTO orders (strategy, type, asset, quantity) VALUES ('hand', 'deposit', 'USDT', 400);
"""
NOW = timedelta(0)


@dataclass
class Venue(_venue.Venue):
    """Also trades: `traded` by symbol, `open` as it lists them."""

    traded: dict[str, list[FillReport]] = field(default_factory=dict)
    open: list[OrderReport] = field(default_factory=list)
    found: dict[str, OrderReport] = field(default_factory=dict)

    async def fills(
        self, symbol: str, *, venue_order_id: str | None = None, since: datetime | None = None
    ) -> list[FillReport]:
        self._fail("fills")
        return [
            one
            for one in self.traded.get(symbol, [])
            if venue_order_id in (None, one.venue_order_id) and (since is None or one.traded_at >= since)
        ]

    async def open_orders(self, symbol: str | None = None) -> list[OrderReport]:
        self._fail("open_orders")
        return [one for one in self.open if symbol in (None, one.symbol)]

    async def find(self, symbol: str, client_order_id: str, *, since: datetime | None = None) -> OrderReport | None:
        self._fail("find")
        return self.found.get(client_order_id)

    def _fail(self, what: str) -> None:
        if what in self.errors:
            raise self.errors[what]

    def trade(self, number: str, order: str = "x", side: str = "buy", symbol: str = "BTC/USDT", **more: Any) -> None:
        """An execution of 1 base at 10, with a fee of 0.001 base; `ago`: how long ago."""
        ago = more.get("ago", NOW)
        report = FillReport(
            number, order, side, Decimal(1), Decimal(10), Decimal("0.001"), "BTC", "taker", datetime.now(UTC) - ago
        )
        self.traded.setdefault(symbol, []).append(report)


@pytest.fixture
async def db(database: str):
    async with await connect(database, Identity("worker", "worker-1")) as opened:
        await opened.execute(SEED)
        yield opened


@pytest.fixture
async def venue(db: Connection) -> Venue:
    """A venue at which the account is open, with 500 USDT of which 400 are the strategy's."""
    made = Venue(owned={"USDT": "500"})
    assert (await read_balances(db, made, (await load_accounts(db))[0])).opened
    return made


async def run(db: Connection, venue: Any, apart: timedelta = NOW) -> Round:
    return await reconcile_account(db, venue, (await load_accounts(db))[0], apart)


async def twice(db: Connection, venue: Any) -> Round:
    await run(db, venue)
    return await run(db, venue)


async def view(db: Connection, asset: str = "USDT") -> Any:
    return await fetch_one(db, "SELECT * FROM reconciliation WHERE asset = %s", [asset])


async def incidents(db: Connection) -> list[tuple[str, str]]:
    return [(row.severity, row.kind) for row in await fetch_all(db, "SELECT * FROM incident ORDER BY id")]


async def sent(db: Connection, status: str = "accepted", number: str | None = "v1") -> int:
    """A limit order of 1 BTC at 10, sent a minute ago."""
    order = await fetch_one(
        db, """INSERT INTO "order" (strategy_id, type, side, market_id, quantity, limit_price)
               VALUES (1, 'limit', 'buy', 1, 1, 10) RETURNING id"""
    )  # fmt: skip
    await db.execute(
        """UPDATE "order" SET status = 'submitted', hold_asset_id = 2, hold_quantity = 10, fence = 1, attempt = 1,
           sent_quantity = 1, sent_price = 10, submitted_at = now(), receive_deadline = now() WHERE id = %s""",
        [order.id],
    )
    if status != "submitted":
        await db.execute(
            'UPDATE "order" SET status = %s::order_status, venue_order_id = %s WHERE id = %s',
            [status, number, order.id],
        )
    return int(order.id)


async def name_of(db: Connection, order: int) -> str:
    return str((await fetch_one(db, 'SELECT client_order_id FROM "order" WHERE id = %s', [order])).client_order_id)


async def state(db: Connection, order: int) -> tuple[str, Decimal]:
    row = await fetch_one(db, "SELECT status, filled_quantity FROM orders WHERE id = %s", [order])
    return row.status, row.filled_quantity


@pytest.fixture(autouse=True)
async def sound(db: Connection):
    yield
    if not db.closed:
        assert await fetch_all(db, "SELECT * FROM invariant_violation") == []


async def test_a_fill_that_nobody_booked_is_booked_and_its_order_follows(db: Connection, venue: Venue) -> None:
    order = await sent(db)
    name = await name_of(db, order)
    venue.found[name] = OrderReport("v1", name, "BTC/USDT", "filled", Decimal(1), ())
    venue.trade("t1", "v1", ago=timedelta(seconds=20))
    venue.owned = {"USDT": "490", "BTC": "0.999"}
    done = await run(db, venue)
    assert (done.booked, done.foreign, done.agrees) == (1, 0, True)
    assert await state(db, order) == ("filled", 1)
    assert [row.source for row in await fetch_all(db, "SELECT source::text FROM fill")] == ["reconciliation"]
    assert await fetch_all(db, "SELECT * FROM hold") == []
    assert await incidents(db) == [("notice", "missing fill booked")]
    again = await run(db, venue)
    assert (again.booked, again.agrees) == (0, True)


async def test_a_fresh_fill_of_an_open_order_is_left_to_the_trader(db: Connection, venue: Venue) -> None:
    order = await sent(db)
    venue.trade("t1", "v1")
    venue.owned = {"USDT": "490", "BTC": "0.999"}
    done = await twice(db, venue)
    assert (done.booked, done.waiting, done.judged) == (0, 1, None)
    assert (await view(db)).verdict == "unsettled: orders are in flight"
    assert await state(db, order) == ("accepted", 0)
    assert await incidents(db) == []


async def test_a_late_fill_of_an_order_that_is_over_is_booked_at_once(db: Connection, venue: Venue) -> None:
    order = await sent(db)
    await db.execute("UPDATE \"order\" SET status = 'canceled' WHERE id = %s", [order])
    venue.trade("t1", "v1")
    assert (await run(db, venue)).booked == 1
    assert await state(db, order) == ("canceled", 1)
    assert ("critical", "late fill") in await incidents(db)


async def test_other_peoples_fills_are_external_and_touch_no_strategy(db: Connection, venue: Venue) -> None:
    before = await fetch_all(db, "SELECT * FROM allowance")
    venue.trade("t1", "theirs")
    venue.owned = {"USDT": "490", "BTC": "0.999"}
    done = await run(db, venue)
    assert (done.booked, done.foreign, done.agrees) == (0, 1, True)
    usdt, btc = await view(db), await view(db, "BTC")
    assert (usdt.external, usdt.ledger, usdt.unallocated, usdt.verdict) == (-10, 490, 100, "agrees")
    assert (btc.external, btc.ledger) == (Decimal("0.999"), Decimal("0.999"))
    assert await fetch_all(db, "SELECT * FROM allowance") == before
    assert (await run(db, venue)).foreign == 0
    assert await incidents(db) == []


async def test_a_trade_before_the_opening_is_in_the_opening(db: Connection, venue: Venue) -> None:
    venue.trade("t1", "theirs", ago=timedelta(minutes=1))
    done = await run(db, venue)
    assert (done.foreign, done.agrees) == (0, True)


async def test_a_fill_waits_while_an_order_of_ours_has_no_number_yet(db: Connection, venue: Venue) -> None:
    order = await sent(db, "submitted")
    venue.trade("t1", "v1")
    done = await run(db, venue)
    assert (done.foreign, done.waiting, done.judged) == (0, 1, None)
    await db.execute("UPDATE \"order\" SET status = 'accepted', venue_order_id = 'v1' WHERE id = %s", [order])
    assert (await run(db, venue)).waiting == 1  # known by now, and the trader's to book
    assert await fetch_all(db, "SELECT * FROM external_fill") == []


async def test_a_fill_from_before_the_order_in_flight_does_not_wait(db: Connection, venue: Venue) -> None:
    await db.execute("UPDATE account SET opened_at = now() - interval '1 h', created_at = now() - interval '1 h'")
    await sent(db, "submitted")
    venue.trade("t1", "theirs", ago=timedelta(minutes=1))
    assert (await run(db, venue)).foreign == 1


async def test_the_reading_goes_on_from_where_it_was_and_waits_for_what_waits(db: Connection, venue: Venue) -> None:
    await run(db, venue)
    first = (await fetch_one(db, "SELECT read_until FROM execution_read")).read_until
    await sent(db, "submitted")
    venue.trade("t1", "v1")
    await run(db, venue)
    held = (await fetch_one(db, "SELECT read_until FROM execution_read")).read_until
    assert first < held == venue.traded["BTC/USDT"][0].traded_at


def listed(number: str, name: str | None = None, **more: Any) -> OrderReport:
    fields = {"side": "sell", "type": "limit", "quantity": Decimal(2), "limit_price": Decimal(99)} | more
    return OrderReport(number, name, "BTC/USDT", "accepted", Decimal(0), (), **fields)


async def external_orders(db: Connection) -> list[str]:
    return [row.venue_order_id for row in await fetch_all(db, "SELECT * FROM external_order ORDER BY venue_order_id")]


async def test_open_orders_of_others_are_listed_while_they_are_there(db: Connection, venue: Venue) -> None:
    ours, flying = await sent(db), await sent(db, "submitted")
    venue.open = [
        listed("v1", await name_of(db, ours)),
        listed("v2", await name_of(db, flying)),
        listed("theirs", "web_1"),
        listed("unnamed"),
    ]
    assert (await run(db, venue)).foreign_orders == 1
    assert await external_orders(db) == ["theirs"]  # one without a name may be that in flight
    row = await fetch_one(db, "SELECT * FROM external")
    assert (row.what, row.market, row.side, row.quantity, row.price) == (
        "open order", "binance:BTC/USDT", "sell", 2, 99,
    )  # fmt: skip
    venue.errors["open_orders"] = Unknown("cut off")
    assert len((await run(db, venue)).failures) == 1
    assert await external_orders(db) == ["theirs"]
    venue.errors.clear()
    venue.open = []
    await run(db, venue)
    assert await external_orders(db) == []


async def test_an_order_that_this_database_forgot_halts_the_account(db: Connection, venue: Venue) -> None:
    """As after a restore: it is queued here, and open at the venue."""
    order = await fetch_one(
        db, """INSERT INTO "order" (strategy_id, type, side, market_id, quantity, limit_price)
               VALUES (1, 'limit', 'buy', 1, 1, 10) RETURNING id"""
    )  # fmt: skip
    venue.open = [listed("v9", await name_of(db, order.id))]
    await twice(db, venue)
    assert await incidents(db) == [("critical", "order forgotten")]
    assert (await fetch_one(db, "SELECT halted FROM account")).halted
    assert await external_orders(db) == ["v9"]


async def test_a_filled_order_that_this_database_forgot_halts_the_account(db: Connection, venue: Venue) -> None:
    order = await fetch_one(
        db, """INSERT INTO "order" (strategy_id, type, side, market_id, quantity)
               VALUES (1, 'market', 'buy', 1, 1) RETURNING id"""
    )  # fmt: skip
    name = await name_of(db, order.id)
    venue.found[name] = OrderReport("v9", name, "BTC/USDT", "filled", Decimal(1), ())
    venue.trade("t0", "somebody")
    await run(db, venue)
    assert await incidents(db) == []
    venue.trade("t1", "v9")
    await run(db, venue)
    assert await incidents(db) == [("critical", "order forgotten")]


async def test_money_that_came_in_is_unallocated_and_can_be_given(db: Connection, venue: Venue) -> None:
    venue.owned["USDT"] = "600"
    first = await run(db, venue)
    assert (first.agrees, (await view(db)).verdict) == (False, "large: not confirmed yet")
    done = await run(db, venue)
    row = await view(db)
    assert (done.agrees, row.verdict, row.unallocated, row.ledger, row.suspense) == (True, "agrees", 200, 600, 0)
    assert await incidents(db) == [("notice", "venue transfer")]
    await db.execute("INSERT INTO orders (strategy, type, asset, quantity) VALUES ('hand', 'deposit', 'USDT', 200)")
    row = await view(db)
    assert (row.strategies, row.unallocated) == (600, 0)


async def test_much_money_that_came_in_halts_nothing(db: Connection, venue: Venue) -> None:
    venue.owned |= {"USDT": "5000", "ETH": "3"}
    assert (await twice(db, venue)).agrees
    assert not (await fetch_one(db, "SELECT halted FROM account")).halted
    assert (await view(db, "ETH")).unallocated == 3


async def test_money_that_is_missing_is_taken_from_unallocated_then_suspense(db: Connection, venue: Venue) -> None:
    await db.execute("INSERT INTO orders (strategy, type, asset, quantity) VALUES ('hand', 'deposit', 'USDT', 90)")
    venue.owned["USDT"] = "485"
    assert (await twice(db, venue)).agrees
    row = await view(db)
    assert (row.unallocated, row.suspense, row.strategies, row.verdict) == (0, -5, 490, "agrees")
    assert await incidents(db) == [("notice", "venue transfer"), ("warning", "unexplained difference")]
    venue.owned["USDT"] = "492"  # it is found again, and more
    assert (await twice(db, venue)).agrees
    row = await view(db)
    assert (row.unallocated, row.suspense) == (2, 0)


async def test_a_difference_below_the_thresholds_is_shown_and_left(db: Connection, venue: Venue) -> None:
    venue.owned["USDT"] = "500.00000001"
    assert (await twice(db, venue)).agrees
    row = await view(db)
    assert (row.verdict, row.drift, row.unallocated) == ("tolerated", Decimal("0.00000001"), 100)
    assert await incidents(db) == []
    await db.execute("UPDATE account SET drift_tolerated = 0, drift_dust = 0")
    await run(db, venue)
    assert (await view(db)).unallocated == Decimal("100.00000001")


async def test_a_large_loss_halts_and_is_booked_when_a_person_accepts_it(db: Connection, venue: Venue) -> None:
    venue.owned["USDT"] = "100"
    done = await twice(db, venue)
    assert done.judged is not None
    assert done.judged.halting == ("USDT",)
    account = await fetch_one(db, "SELECT * FROM account")
    assert account.halted
    assert "the venue has 100 USDT, the books have 500" in account.halt_reason
    await run(db, venue)
    assert await incidents(db) == [("critical", "large difference")]
    assert (await view(db)).verdict.startswith("halted")
    assert await fetch_all(db, "SELECT * FROM adjustment WHERE kind <> 'opening'") == []
    await db.execute("UPDATE account SET halted = false")
    assert (await run(db, venue)).agrees
    row = await view(db)
    assert (row.unallocated, row.suspense, row.strategies) == (0, -300, 400)


async def test_a_venue_that_is_itself_again_needs_no_booking(db: Connection, venue: Venue) -> None:
    venue.owned = {}
    await twice(db, venue)
    venue.owned = {"USDT": "500"}
    assert (await run(db, venue)).agrees
    assert await fetch_all(db, "SELECT * FROM account_drift") == []
    assert await fetch_all(db, "SELECT * FROM adjustment WHERE kind <> 'opening'") == []


async def test_what_comes_while_another_asset_goes_is_no_deposit(db: Connection, venue: Venue) -> None:
    venue.owned = {"USDT": "490", "BTC": "1"}
    done = await twice(db, venue)
    assert done.judged is not None
    assert done.judged.halting == ("BTC",)
    await db.execute("UPDATE account SET halted = false")
    assert (await run(db, venue)).agrees
    assert ((await view(db)).suspense, (await view(db, "BTC")).suspense) == (-10, 1)


async def test_a_difference_must_stand_for_a_while_and_stay_the_same(db: Connection, venue: Venue) -> None:
    venue.owned["USDT"] = "510"
    for _ in range(3):
        assert not (await run(db, venue, timedelta(minutes=1))).agrees
    venue.owned["USDT"] = "511"
    assert not (await run(db, venue)).agrees  # another value begins anew
    await db.execute("UPDATE account_drift SET first_seen_at = first_seen_at - interval '61 s'")
    assert (await run(db, venue, timedelta(minutes=1))).agrees
    assert (await view(db)).unallocated == 111


async def test_a_trade_that_is_first_missed_is_no_drift(db: Connection, venue: Venue) -> None:
    venue.owned = {"USDT": "490", "BTC": "0.999"}
    assert not (await run(db, venue)).agrees
    venue.trade("t1", "theirs")
    assert (await run(db, venue)).agrees
    assert (await incidents(db), (await view(db)).suspense) == ([], 0)


async def test_a_market_is_read_once_its_assets_are_seen(db: Connection, venue: Venue) -> None:
    venue.traded["ETH/USDT"] = [
        FillReport("t1", "theirs", "buy", Decimal(1), Decimal(10), Decimal(0), None, None, datetime.now(UTC))
    ]
    venue.owned = {"USDT": "490", "ETH": "1"}
    assert (await run(db, venue)).markets == 1
    done = await run(db, venue)
    assert (done.markets, done.foreign, done.agrees) == (2, 1, True)
    assert await incidents(db) == []


@pytest.mark.parametrize("what", ["fills", "open_orders", "balances"])
async def test_what_cannot_be_read_is_never_empty(db: Connection, venue: Venue, what: str) -> None:
    venue.owned["USDT"] = "600"
    await run(db, venue)
    venue.errors[what] = Unknown("cut off")
    done = await run(db, venue)
    assert (len(done.failures), done.agrees, done.judged) == (1, False, None)
    assert (await view(db)).unallocated == 100
    venue.errors.clear()
    assert (await run(db, venue)).agrees
    assert (await view(db)).unallocated == 200


async def test_a_market_that_is_gone_is_no_failure(db: Connection, venue: Venue) -> None:
    venue.errors["fills"] = Refused("no such market")
    assert len((await run(db, venue)).failures) == 1
    await db.execute("UPDATE market SET active = false")
    assert (await run(db, venue)).agrees


async def test_nothing_is_judged_while_an_order_is_in_flight(db: Connection, venue: Venue) -> None:
    await sent(db, "submitted")
    venue.owned["USDT"] = "600"
    done = await twice(db, venue)
    assert done.read is not None
    assert (done.read.settled, done.judged) == (False, None)
    assert await fetch_all(db, "SELECT * FROM account_drift") == []


async def test_an_order_that_rests_does_not_hide_a_difference(db: Connection, venue: Venue) -> None:
    await sent(db)
    venue.owned["USDT"] = "600"
    assert (await twice(db, venue)).agrees
    assert (await view(db)).unallocated == 200


async def test_a_resting_order_that_trades_while_the_venue_is_read_makes_the_reading_unsettled(
    db: Connection, venue: Venue
) -> None:
    await sent(db)

    class Busy(Venue):
        async def balances(self) -> Any:
            self.trade("t1", "v1")
            self.owned = {"USDT": "490", "BTC": "0.999"}
            return await super().balances()

    done = await run(db, Busy(owned={"USDT": "500"}))
    assert done.read is not None
    assert not done.read.settled


async def test_a_resting_order_whose_executions_cannot_be_read_proves_nothing(db: Connection, venue: Venue) -> None:
    await sent(db)
    venue.errors["fills"] = Unknown("cut off")
    read = await read_balances(db, venue, (await load_accounts(db))[0])
    assert not read.settled


async def test_two_workers_at_once_book_once(db: Connection, database: str, venue: Venue) -> None:
    venue.trade("t1", "theirs")
    venue.owned = {"USDT": "590", "BTC": "0.999"}
    await run(db, venue)
    others = [await connect(database, Identity("worker", f"worker-{i}")) for i in range(4)]
    done = await asyncio.gather(*(run(one, venue) for one in others))
    for one in others:
        await one.close()
    assert all(one.agrees for one in done)
    assert (await fetch_one(db, "SELECT count(*) AS n FROM external_fill")).n == 1
    kinds = await fetch_all(db, "SELECT kind::text, quantity FROM adjustment WHERE kind <> 'opening'")
    assert [(row.kind, row.quantity) for row in kinds] == [("transfer", 100)]


async def test_down_and_up_again_with_all_of_it_in_the_books(db: Connection, database: str, venue: Venue) -> None:
    """Going down forgets other people's fills, postings and all; going up, they are read again."""
    order = await sent(db)
    name = await name_of(db, order)
    venue.found[name] = OrderReport("v1", name, "BTC/USDT", "filled", Decimal(1), ())
    venue.trade("t1", "v1", ago=timedelta(seconds=20))
    venue.trade("t2", "theirs")
    venue.owned = {"USDT": "485", "BTC": "1.998"}
    await db.execute("UPDATE account SET drift_halts = 1")
    assert (await twice(db, venue)).agrees
    books = "SELECT id, kind, from_id, to_id, asset_id, quantity FROM ledger WHERE external_fill_id IS NULL ORDER BY id"
    before = await fetch_all(db, books)
    await db.close()
    await asyncio.to_thread(migrate.downgrade, database, "0008_access")
    async with await connect(database, Identity("worker", "worker-2")) as old:
        assert await fetch_all(old, "SELECT * FROM invariant_violation") == []
        kinds = await fetch_all(old, "SELECT kind::text FROM adjustment ORDER BY id")
        assert [row.kind for row in kinds] == ["opening", "opening"]
        assert [row.source for row in await fetch_all(old, "SELECT source::text FROM fill")] == ["poll"]
    await asyncio.to_thread(migrate.upgrade, database)
    async with await connect(database, Identity("worker", "worker-3")) as new:
        assert await fetch_all(new, books) == before
        done = await run(new, venue)
        assert (done.foreign, done.agrees) == (1, True)
        assert await fetch_all(new, "SELECT * FROM invariant_violation") == []
