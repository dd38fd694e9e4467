"""The poll against orders in the database: one that cannot be settled keeps no other from its turn."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast
from uuid import uuid4

import psycopg
import pytest

from tests.plugins.books import Books
from trader.db import Identity, Pool, connect, open_pool
from trader.exchange.protocol import Exchange, FillReport, OrderReport, Ticker
from trader.recovery import Recovery
from trader.stream import Streams, settle_reports
from trader.trader import Desk
from trader.watch import Watch

TRADER = Identity("trader", "test")
INCIDENTS = "SELECT order_id, severity::text, kind FROM incident ORDER BY id"
REPLACEMENT = """
INSERT INTO orders (strategy, market, side, type, quantity, limit_price, replaces_id)
VALUES ('s', 'sim:BTC/USDT', 'buy', 'limit', 1, 99, %s)
"""
TAKEN = """UPDATE "order" SET in_doubt_since = now(), next_look_at = now() WHERE id = %s"""


@dataclass
class Venue:
    """A venue whose orders are filled, and what it was asked to cancel. By our names for them."""

    reports: dict[str, OrderReport] = field(default_factory=dict)
    executions: dict[str, list[FillReport]] = field(default_factory=dict)
    canceled: list[str] = field(default_factory=list)

    async def open_orders(self, symbol: str) -> list[OrderReport]:
        return []

    async def find(self, symbol: str, name: str, since: datetime | None = None) -> OrderReport | None:
        return self.reports.get(name)

    async def fills(self, symbol: str, venue_order_id: str) -> list[FillReport]:
        return self.executions[venue_order_id]

    async def ticker(self, symbol: str) -> Ticker:
        return Ticker(symbol, Decimal(80), Decimal(80), Decimal(80))

    async def cancel(self, symbol: str, venue_order_id: str) -> None:
        self.canceled.append(venue_order_id)

    async def time(self) -> datetime:
        return datetime.now(UTC)

    def fill(self, name: str, number: str, quantity: str = "1") -> None:
        """The order is filled there; in one execution of `quantity`."""
        self.reports[name] = OrderReport(number, name, "BTC/USDT", "filled", Decimal(1), ())
        at = datetime.now(UTC)
        one = FillReport(f"t-{number}", number, "buy", Decimal(quantity), Decimal(100), Decimal(0), None, "maker", at)
        self.executions[number] = [one]


@pytest.fixture
def books(committed_books: Books) -> Books:
    committed_books.strategy(deposit=1000)
    return committed_books


@pytest.fixture
async def pool(books: Books) -> AsyncIterator[Pool]:
    async with open_pool(books.url, TRADER, 4) as opened:
        yield opened


def resting(books: Books, number: str) -> int:
    order = books.submit(books.queue(type="limit", quantity=1, limit_price=100), 100)
    books.trader("""UPDATE "order" SET status = 'accepted', venue_order_id = %s WHERE id = %s""", number, order)
    return order


def name_of(books: Books, order: int) -> str:
    return str(books.state(order).client_order_id)


def desk_of(pool: Pool, venue: Venue) -> Desk:
    return Desk(uuid4(), pool, {1: cast(Exchange, venue)})


async def look(books: Books, desk: Desk, times: int = 1) -> None:
    async with await connect(books.url, TRADER) as connection:
        watch = Watch(desk, connection, cast(Streams, Deaf()))
        for _ in range(times):
            await watch.look()


class Deaf:
    """There is no stream."""

    async def tend(self, connection: Any, accounts: Any) -> None: ...

    def missed(self, account_id: int) -> None: ...


HOLD = """SELECT FROM "order" WHERE id = %s FOR UPDATE"""
CANCEL = "UPDATE orders SET cancel_requested_at = now() WHERE id = %s"


async def test_an_order_that_somebody_holds_keeps_no_other_from_its_turn(books: Books, pool: Pool) -> None:
    """A transaction that was left open in psql, on one order: its cancel and its fill wait, all others have theirs."""
    to_cancel, to_fill, cancels, fills = (resting(books, number) for number in ("c1", "f1", "c2", "f2"))
    held_stop, stop = (books.queue(trigger_price=90, trigger_when="falls") for _ in range(2))
    for order in (to_cancel, cancels):
        books.execute(CANCEL, order)
    venue = Venue()
    for order, number in ((to_fill, "f1"), (fills, "f2")):
        venue.fill(name_of(books, order), number)
    desk = desk_of(pool, venue)
    held = (to_cancel, to_fill, held_stop)
    with psycopg.connect(books.url) as person:
        for order in held:
            person.execute(HOLD, [order])
        async with asyncio.timeout(60):
            await look(books, desk)
            await settle_reports(desk, 1, [venue.reports[name_of(books, to_fill)]])
        assert [books.state(order).status for order in held] == ["accepted", "accepted", "waiting"]
        assert [books.state(order).status for order in (cancels, fills, stop)] == ["pending_cancel", "filled", "queued"]
        assert venue.canceled == ["c2"]
        person.rollback()
    await look(books, desk)
    assert [books.state(order).status for order in held] == ["pending_cancel", "filled", "queued"]
    assert venue.canceled == ["c2", "c1", "c2"]


async def test_another_order_in_its_place_that_is_not_committed_yet_holds_it(books: Books, pool: Pool) -> None:
    held, other = resting(books, "v1"), resting(books, "v2")
    venue = Venue()
    venue.fill(name_of(books, held), "v1")
    venue.fill(name_of(books, other), "v2")
    desk = desk_of(pool, venue)
    with psycopg.connect(books.url) as person:
        person.execute(REPLACEMENT, [held])
        async with asyncio.timeout(60):
            await look(books, desk)
        assert (books.state(held).status, books.state(other).status) == ("accepted", "filled")
        person.rollback()
    await look(books, desk)
    assert books.state(held).status == "filled"


@pytest.mark.parametrize("number", ["v1", "v\0", "v\udcff"], ids=["no quantity", "NUL", "half a character"])
async def test_an_execution_that_no_row_can_hold_is_told_once_and_the_others_go_on(
    books: Books, pool: Pool, number: str
) -> None:
    bad, good = resting(books, "v1"), resting(books, "v2")
    venue = Venue()
    venue.fill(name_of(books, bad), number, "0" if number == "v1" else "1")
    venue.fill(name_of(books, good), "v2")
    await look(books, desk_of(pool, venue), 3)
    assert (books.state(bad).status, books.state(good).status) == ("accepted", "filled")
    told = [(bad, "critical", "unreadable execution")]
    assert [tuple(row) for row in books.execute(INCIDENTS)] == told
    books.execute("UPDATE incident SET resolved_at = now()")
    await look(books, desk_of(pool, venue))
    assert [tuple(row) for row in books.execute(INCIDENTS)] == told * 2


@pytest.mark.parametrize("number", ["v1", "v\0", "v\udcff"], ids=["no quantity", "NUL", "half a character"])
async def test_a_look_up_that_no_row_can_hold_leaves_the_order_in_doubt(books: Books, pool: Pool, number: str) -> None:
    bad, good = (books.submit(books.queue(type="limit", quantity=1, limit_price=100), 100) for _ in range(2))
    for order in (bad, good):
        books.trader(TAKEN, order)
    venue = Venue()
    venue.fill(name_of(books, bad), number, "0" if number == "v1" else "1")
    venue.fill(name_of(books, good), "v2")
    async with asyncio.TaskGroup() as group:
        assert await Recovery(desk_of(pool, venue), group, lambda: None).look() == 2
    assert (books.state(bad).status, books.state(good).status) == ("submitted", "filled")
    assert books.state(bad).in_doubt_since is not None
    assert [tuple(row) for row in books.execute(INCIDENTS)] == [(bad, "critical", "unreadable execution")]
    assert books.value("SELECT count(*) FROM look_up WHERE order_id = %s AND answer = 'found'", bad) == 1


@dataclass
class Slow(Venue):
    """A venue that answers no look-up of one order until it is told to."""

    name: str = ""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def find(self, symbol: str, name: str, since: datetime | None = None) -> OrderReport | None:
        if name == self.name:
            self.asked.set()
            await self.answer.wait()
        return await super().find(symbol, name, since)


async def test_a_look_that_takes_long_holds_up_no_other(books: Books, pool: Pool) -> None:
    """What another trader leaves behind meanwhile is taken and settled; the slow look is made once."""
    slow, later = (books.queue(type="limit", quantity=1, limit_price=100) for _ in range(2))
    venue = Slow(name=name_of(books, books.submit(slow, 100)))
    venue.fill(venue.name, "v1")
    resolved = asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        recovery = Recovery(desk_of(pool, venue), group, resolved.set)
        assert await recovery.look() == 1
        await venue.asked.wait()
        venue.fill(name_of(books, books.submit(later, 100)), "v2")
        assert await recovery.look() == 1
        await resolved.wait()
        assert (books.state(slow).status, books.state(later).status) == ("submitted", "filled")
        venue.answer.set()
    assert books.state(slow).status == "filled"
    assert books.value("SELECT count(*) FROM look_up WHERE order_id = %s", slow) == 1


async def test_looks_that_are_stopped_are_left_to_whoever_starts_next(books: Books, pool: Pool) -> None:
    order = books.submit(books.queue(type="limit", quantity=1, limit_price=100), 100)
    venue = Slow(name=name_of(books, order))
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        recovery = Recovery(desk_of(pool, venue), group, lambda: None)
        await recovery.look()
        await venue.asked.wait()
        recovery.stop()
    assert books.state(order).status == "submitted"
