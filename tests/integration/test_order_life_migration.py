"""The step that brings waiting orders, back and forward again with orders in every state."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.plugins.books import SETUP, Books, open_session
from trader import migrate
from trader.errors import DatabaseError

REVISION = "0010_order_life"


def before(revision: str) -> str:
    return migrate.revisions()[migrate.revisions().index(revision) - 1]


@pytest.fixture
def books(database: str) -> Iterator[Books]:
    with psycopg.connect(database, autocommit=True) as session:
        session.execute(SETUP)
    with open_session(database) as session:
        yield Books(session, url=database)


def test_back_and_forward_with_orders(books: Books) -> None:
    books.strategy(deposit=100_000)
    filled = books.trade("buy", 1, 100)
    resting = books.queue("sell", type="limit", limit_price=120, quantity="0.5", time_in_force="IOC", parent_id=filled)
    books.submit(resting, "0.5", "BTC")
    books.move(resting, "accepted")
    waiting = books.queue("sell", trigger_price=90, parent_id=filled)
    after = books.queue("sell", after_id=waiting)
    forced = books.queue("sell", type="limit", limit_price=120, quantity="0.5", time_in_force="FOK")
    queued = books.queue()
    ledger = books.value("SELECT md5(string_agg(ledger::text, ',' ORDER BY id)) FROM ledger")

    migrate.downgrade(books.url, before(REVISION))
    books.person.execute("DISCARD ALL")
    rows = books.execute('SELECT id, status::text FROM "order" WHERE id >= %s ORDER BY id', filled)
    assert [tuple(row) for row in rows] == [
        (filled, "filled"),
        (resting, "accepted"),
        (waiting, "canceled"),
        (after, "canceled"),
        (forced, "canceled"),
        (queued, "queued"),
    ]
    steps = [
        row.s for row in books.execute("SELECT to_status::text AS s FROM order_event WHERE order_id = %s", waiting)
    ]
    assert steps == ["queued", "canceled"]
    books.check()

    migrate.upgrade(books.url)
    books.person.execute("DISCARD ALL")
    assert books.state(resting).time_in_force is None
    assert books.value("SELECT md5(string_agg(ledger::text, ',' ORDER BY id)) FROM ledger") == ledger
    assert books.state(books.queue("sell", trigger_price=90)).status == "waiting"
    books.move(resting, "canceled")
    books.check()


def test_an_order_in_flight_with_a_time_in_force_stops_the_way_back(books: Books) -> None:
    books.strategy(deposit=100_000)
    order = books.queue(type="limit", limit_price=100, quantity="0.5", time_in_force="IOC")
    books.submit(order, 50)
    with pytest.raises(DatabaseError, match=f"orders {order} are in flight with a time in force"):
        migrate.downgrade(books.url, before(REVISION))
    assert migrate.current(books.url) == migrate.head()
    books.move(order, "expired")
    migrate.downgrade(books.url, before(REVISION))
