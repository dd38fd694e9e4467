"""Trailing stops as rows: what may be written, who moves the trigger price and whereto, what it means for others."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast
from uuid import uuid4

import psycopg
import pytest

from tests.plugins.books import Books, open_session
from trader.db import Identity, Pool, open_pool
from trader.exchange.protocol import Exchange, Ticker
from trader.trader import Desk
from trader.trigger import FOLLOW, look_at_waiting

TRADER = Identity("trader", "test")
CANCEL = "UPDATE orders SET cancel_requested_at = now() WHERE id = %s"
MOVE = 'UPDATE "order" SET trigger_price = %s WHERE id = %s'
TABLE = """
INSERT INTO "order" (strategy_id, type, market_id, side, quantity, trail, trigger_price)
VALUES (1, 'market', 1, %s, 1, %s, %s) RETURNING id
"""
VIEW = "INSERT INTO orders (strategy, market, side, type, trail) VALUES ('s', 'sim:BTC/USDT', 'sell', 'market', %s)"


@dataclass
class Venue:
    """A venue that has a price."""

    price: str = "100"
    asked: int = 0

    async def ticker(self, symbol: str) -> Ticker:
        self.asked += 1
        return Ticker(symbol, None, None, Decimal(self.price))


@pytest.fixture
def desk(committed_books: Books) -> Books:
    committed_books.strategy(deposit=100_000)
    committed_books.trade("buy", 2, 100)
    committed_books.execute("UPDATE market SET price_tick = 0.01, quantity_step = 0.0001")
    return committed_books


@pytest.fixture
async def pool(desk: Books) -> AsyncIterator[Pool]:
    async with open_pool(desk.url, TRADER, 4) as opened:
        yield opened


class Trader:
    """The looks of a trader at what waits."""

    def __init__(self, pool: Pool) -> None:
        self.venue = Venue()
        self.desk = Desk(uuid4(), pool, {1: cast(Exchange, self.venue)})

    async def look(self, *prices: str) -> None:
        for price in prices:
            self.venue.price = price
            await look_at_waiting(self.desk, 1, cast(Exchange, self.venue))


@pytest.fixture
def trader(pool: Pool) -> Trader:
    return Trader(pool)


def stands(desk: Books, order: int) -> tuple[str, Any, str | None]:
    row = desk.state(order)
    return row.status, row.trigger_price, row.trigger_when


# What may be written


@pytest.mark.parametrize("trail", ["0.05", "0.999999999999999999", "0.000000000000000001", "0.50"])
def test_a_share_is_kept_and_shown(books: Books, trail: str) -> None:
    books.strategy()
    order = books.queue("sell", trail=trail)
    shown = books.row("SELECT status, trail, trigger_price, trigger_when, expires_at FROM orders WHERE id = %s", order)
    assert shown == ("waiting", Decimal(trail), None, None, None)


BAD = ["0", "-0.05", "1", "1.5", "NaN", "Infinity", "-Infinity", "0.0000000000000000001", "5"]


@pytest.mark.parametrize("trail", BAD)
def test_what_is_no_share_is_refused_in_the_view_and_in_the_table(books: Books, trail: str) -> None:
    books.strategy()
    words = f"trail is {trail}: it must be a share above 0 and below 1 of at most 18 decimals; 0.05 is 5 %"
    assert books.refused(VIEW, trail) == words
    assert books.refused(TABLE, "sell", trail, None) == words
    assert books.refused(TABLE, "sell", trail, None, trader=True) == words


FOLLOWS = "trail is 0.05: leave trigger_price and trigger_when empty; the one follows the price, the other the side"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"trigger_price": "90"}, FOLLOWS),
        ({"trigger_when": "falls"}, FOLLOWS),
        ({"trigger_price": "90", "trigger_when": "falls"}, FOLLOWS),
        (
            {"type": "limit", "limit_price": "90"},
            "trail is 0.05: only a market order trails; a limit order has no price that could follow",
        ),
        ({"time_in_force": "IOC"}, "time_in_force is IOC: only a limit order has one"),
        ({"after_id": 99}, "after_id is 99: there is no such order yet; it must be queued before"),
    ],
)
def test_what_does_not_go_with_a_trail(books: Books, fields: dict[str, str], words: str) -> None:
    books.strategy()
    row = {"strategy": "s", "market": "sim:BTC/USDT", "side": "sell", "type": "market", "trail": "0.05"} | fields
    marks = ", ".join(["%s"] * len(row))
    assert books.refused(f"INSERT INTO orders ({', '.join(row)}) VALUES ({marks})", *row.values()) == words


def test_a_deposit_does_not_trail(books: Books) -> None:
    books.strategy()
    deposit = "INSERT INTO orders (strategy, type, asset, quantity, trail) VALUES ('s', 'deposit', 'USDT', 5, 0.1)"
    assert books.refused(deposit) == "a deposit names an asset and a quantity, and nothing else"
    table = "INSERT INTO \"order\" (strategy_id, type, asset_id, quantity, trail) VALUES (1, 'deposit', 1, 5, 0.1)"
    assert "trail is 0.1: only a market order trails" in books.refused(table)


def test_a_process_may_say_where_it_begins_and_a_person_not(books: Books) -> None:
    books.strategy()
    [row] = books.trader(TABLE, "sell", "0.05", "95")
    assert stands(books, row.id) == ("waiting", 95, "falls")
    [row] = books.trader(TABLE, "buy", "0.05", "105")
    assert stands(books, row.id) == ("waiting", 105, "rises")
    assert books.refused(TABLE, "sell", "0.05", "95") == FOLLOWS


def test_how_long_it_may_wait_is_what_was_given(books: Books) -> None:
    books.strategy()
    given = "2030-01-01 00:00:00+00"
    assert books.state(books.queue("sell", trail="0.1")).expires_at is None
    assert str(books.state(books.queue("sell", trail="0.1", expires_at=given)).expires_at)[:10] == "2030-01-01"


# Who moves it


@pytest.mark.parametrize(("side", "on", "back"), [("sell", "95.01", "94.99"), ("buy", "94.99", "95.01")])
def test_its_trigger_price_goes_one_way_whoever_writes(books: Books, side: str, on: str, back: str) -> None:
    books.strategy()
    order = books.queue(side, trail="0.05", quantity=1)
    books.trader(MOVE, "95", order)
    only = f"order {order}: its trigger price only {'rises' if side == 'sell' else 'falls'} while it waits"
    assert books.refused(MOVE, back, order, trader=True) == only
    assert books.refused(MOVE, None, order, trader=True) == only
    assert "only a trader moves it on" in books.refused(MOVE, on, order)
    books.trader(MOVE, on, order)
    assert books.state(order).trigger_price == Decimal(on)


def test_what_was_asked_is_fixed_and_so_is_the_price_once_it_has_triggered(books: Books) -> None:
    books.strategy(deposit=1000)
    order, other = books.queue("sell", trail="0.05", quantity=1), books.queue("sell", trigger_price=90)
    for change, number in (("trail = 0.06", order), ("trail = NULL", order), ("trail = 0.05", other)):
        words = "what was asked is fixed once queued"
        assert words in books.refused(f'UPDATE "order" SET {change} WHERE id = {number}', trader=True)
        assert words in books.refused(f'UPDATE "order" SET {change} WHERE id = {number}')
    assert "what was asked is fixed" in books.refused(MOVE, "91", other, trader=True)
    books.trader("""UPDATE "order" SET trigger_price = 95, trigger_when = 'falls' WHERE id = %s""", order)
    books.trader('UPDATE "order" SET triggered_at = now() WHERE id = %s', order)
    assert books.state(order).status == "queued"
    assert "its trigger price only rises while it waits" in books.refused(MOVE, "96", order, trader=True)


def test_it_triggers_only_with_a_price_in_its_row(books: Books) -> None:
    books.strategy()
    order = books.queue("sell", trail="0.05")
    message = books.refused('UPDATE "order" SET triggered_at = now() WHERE id = %s', order, trader=True)
    assert "trigger_when_and_triggered_at_need_a_trigger_price" in message
    wrong = """UPDATE "order" SET trigger_price = 95, trigger_when = 'rises' WHERE id = %s"""
    assert "what_trails_is_met_from_its_own_side" in books.refused(wrong, order, trader=True)


@pytest.mark.parametrize(("side", "prices"), [("sell", (95, 97)), ("buy", (97, 95))])
def test_of_two_connections_the_later_cannot_bring_it_back(desk: Books, side: str, prices: tuple[int, int]) -> None:
    """Two processes saw different prices. The one with the worse price waits for the other's row, and looks again."""
    worse, better = prices
    order = desk.queue(side, quantity=1, trail="0.05")

    def follow(session: psycopg.Connection[Any], price: int) -> int:
        session.execute("SET LOCAL tallydesk.process = 'trader'")
        return session.execute(FOLLOW, {"ids": [order], "prices": [Decimal(price)]}).rowcount

    changed: list[int] = []

    def later() -> None:
        with open_session(desk.url) as session, session.transaction():
            changed.append(follow(session, worse))

    with open_session(desk.url) as first:
        with first.transaction():
            assert follow(first, better) == 1
            thread = threading.Thread(target=later)
            thread.start()
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s"
            name = desk.value("SELECT current_database()")
            while not desk.value(waiting, name):
                assert thread.is_alive()
        thread.join(30)
    assert changed == [0]
    assert desk.state(order).trigger_price == better


# What a trader makes of prices


async def test_it_follows_up_stays_and_is_obeyed(desk: Books, trader: Trader) -> None:
    order = desk.queue("sell", quantity=1, trail="0.05")
    await trader.look("100")
    assert stands(desk, order) == ("waiting", 95, "falls")
    await trader.look("110", "105")
    assert stands(desk, order) == ("waiting", Decimal("104.5"), "falls")
    await trader.look("104.51")
    assert desk.state(order).status == "waiting"
    await trader.look("104.5")
    assert stands(desk, order) == ("queued", Decimal("104.5"), "falls")
    assert desk.state(order).reason == "triggered at 104.5"


async def test_a_buy_is_the_mirror_of_it(desk: Books, trader: Trader) -> None:
    order = desk.queue("buy", quantity=1, trail="0.1")
    await trader.look("100", "80", "87.99")
    assert stands(desk, order) == ("waiting", 88, "rises")
    await trader.look("88")
    assert desk.state(order).status == "queued"


async def test_a_row_is_written_only_when_the_price_goes_on_by_a_tick(desk: Books, trader: Trader) -> None:
    order = desk.queue("sell", quantity=1, trail="0.5")
    version = 'SELECT xmin::text FROM "order" WHERE id = %s'
    await trader.look("100")
    before = desk.value(version, order)
    await trader.look("100", "99", "100.01", "60")  # 50.005 is less than a tick above 50
    assert desk.value(version, order) == before
    await trader.look("100.02")
    assert desk.value(version, order) != before
    assert desk.state(order).trigger_price == Decimal("50.01")
    assert desk.value("SELECT count(*) FROM order_event WHERE order_id = %s", order) == 1


async def test_after_an_entry_it_begins_at_the_fill_and_sees_nothing_before(desk: Books, trader: Trader) -> None:
    entry = desk.queue("buy", quantity=1, type="limit", limit_price=101)
    order = desk.queue("sell", trail="0.1", after_id=entry, parent_id=entry)
    await trader.look("200")
    assert stands(desk, order) == ("waiting", None, None)
    assert trader.venue.asked == 0
    desk.submit(entry, 101)
    desk.fill(entry, "0.5", 100)
    desk.fill(entry, "0.5", 101)
    await trader.look("200")
    assert stands(desk, order) == ("waiting", None, None)  # the entry has not ended yet
    desk.move(entry, "filled")
    await trader.look("95")
    assert stands(desk, order) == ("waiting", Decimal("90.9"), "falls")
    await trader.look("90.9")
    assert desk.state(order).status == "queued"
    desk.check()


async def test_a_fall_before_the_first_look_is_obeyed_at_it_and_in_the_row_first(desk: Books, trader: Trader) -> None:
    entry = desk.queue("buy", quantity=1)
    order = desk.queue("sell", trail="0.1", after_id=entry)
    desk.submit(entry, 101)
    desk.fill(entry, 1, 100)
    desk.move(entry, "filled")
    await trader.look("89")
    assert stands(desk, order) == ("queued", 90, "falls")


async def test_an_entry_that_brought_nothing_ends_it(desk: Books) -> None:
    entry = desk.queue("buy", quantity=1)
    order = desk.queue("sell", trail="0.1", after_id=entry)
    desk.execute(CANCEL, entry)
    assert desk.state(order).status == "canceled"
    desk.check()


async def test_a_paused_strategys_stop_neither_follows_nor_sells(desk: Books, trader: Trader) -> None:
    order = desk.queue("sell", trail="0.1")
    await trader.look("100")
    desk.execute("UPDATE strategy SET enabled = false")
    await trader.look("200", "50")
    assert stands(desk, order) == ("waiting", 90, "falls")
    desk.execute("UPDATE strategy SET enabled = true")
    await trader.look("100")
    assert stands(desk, order) == ("waiting", 90, "falls")


async def test_one_of_a_group_and_in_anothers_place(desk: Books, trader: Trader) -> None:
    """A take profit that rests, a trailing stop beside it, and another trailing stop in the place of that."""
    entry = desk.trade("buy", 1, 100)
    profit = desk.queue("sell", type="limit", limit_price=150, quantity=1, parent_id=entry)
    desk.submit(profit, 1, "BTC")
    desk.move(profit, "accepted")
    stop = desk.queue("sell", quantity=1, trail="0.1", parent_id=entry)
    assert desk.state(stop).status == "waiting"
    await trader.look("100")
    wider = desk.queue("sell", quantity=1, trail="0.2", replaces_id=stop)
    assert (desk.state(stop).status, desk.state(wider).status) == ("canceled", "waiting")
    desk.check()  # the one that it replaces has ended, and it waits for its price
    desk.fill(profit, "0.25", 150)
    await trader.look("110")
    assert stands(desk, wider) == ("waiting", 88, "falls")
    await trader.look("88")
    assert (desk.state(wider).status, desk.state(wider).triggered_at is not None) == ("waiting", True)
    assert desk.state(profit).cancel_requested_at is not None
    await trader.look("300")  # triggered is triggered
    assert stands(desk, wider) == ("waiting", 88, "falls")
    desk.move(profit, "pending_cancel", "canceled")
    assert (desk.state(wider).status, desk.state(wider).due_quantity) == ("queued", Decimal("0.75"))
    desk.check()


async def test_a_row_that_somebody_holds_is_not_obeyed_and_keeps_no_other_from_its_turn(
    desk: Books, trader: Trader
) -> None:
    held, other = (desk.queue("sell", quantity=1, trail="0.1") for _ in range(2))
    await trader.look("100")
    with psycopg.connect(desk.url) as person:
        person.execute('SELECT FROM "order" WHERE id = %s FOR UPDATE', [held])
        async with asyncio.timeout(60):
            await trader.look("110")
        assert stands(desk, held) == ("waiting", 90, "falls")
        assert stands(desk, other) == ("waiting", 99, "falls")
        person.rollback()
    await trader.look("95")
    assert [desk.state(order).status for order in (held, other)] == ["waiting", "queued"]
