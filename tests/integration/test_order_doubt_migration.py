"""The step that brings doubt as rows and replacements, back and forward again with orders in every state."""

from collections.abc import Iterator
from decimal import Decimal

import psycopg
import pytest

from tests.plugins.books import SETUP, Books, open_session
from trader import migrate

REVISION = "0013_doubt"
LIMIT = {"type": "limit", "limit_price": 100, "quantity": 1}
HASH = "SELECT md5(string_agg(ledger::text, ',' ORDER BY id)) FROM ledger"


@pytest.fixture
def books(database: str) -> Iterator[Books]:
    with psycopg.connect(database, autocommit=True) as session:
        session.execute(SETUP)
    with open_session(database) as session:
        yield Books(session, url=database)


def resting(books: Books, side: str = "buy", **fields: object) -> int:
    order = books.queue(side, **(LIMIT | fields))
    books.submit(order, 1 if side == "sell" else 100, "BTC" if side == "sell" else "USDT")
    books.move(order, "accepted")
    return order


def test_back_and_forward_with_orders(books: Books) -> None:
    books.strategy(deposit=100_000)
    entry = books.trade("buy", 5, 100)
    replaced = resting(books)
    waiting = books.queue(replaces_id=replaced, **LIMIT)
    other = resting(books)
    due = books.queue(replaces_id=other, **LIMIT)
    books.fill(other, "0.4", 100)
    books.move(other, "canceled")
    assert books.state(due).due_quantity == Decimal("0.6")
    profit = resting(books, "sell", parent_id=entry)
    stop = books.queue("sell", quantity=1, trigger_price=90, parent_id=entry)
    books.fill(profit, "0.1", 100)
    plain = books.queue("sell", trigger_price=80)
    doubtful = books.submit(books.queue(quantity=1), 100)
    books.trader('UPDATE "order" SET next_look_at = now(), in_doubt_since = now() WHERE id = %s', doubtful)
    assert books.value("SELECT count(*) FROM attempt_in_doubt") == 1
    ledger = books.value(HASH)

    migrate.downgrade(books.url, migrate.revisions()[migrate.revisions().index(REVISION) - 1])
    books.person.execute("DISCARD ALL")
    orders = {row.id: row.status for row in books.execute("SELECT id, status FROM orders")}
    ended = [orders[order] for order in (waiting, due, stop)]
    assert ended == ["canceled", "canceled", "canceled"]
    assert [orders[order] for order in (replaced, profit, plain, doubtful)] == [
        "accepted",
        "accepted",
        "waiting",
        "submitted",
    ]
    assert books.row("SELECT * FROM order_in_doubt").id == doubtful
    books.check()

    migrate.upgrade(books.url)
    books.person.execute("DISCARD ALL")
    assert books.value(HASH) == ledger
    assert books.execute("SELECT outcome FROM order_attempt WHERE order_id = %s", doubtful)[0].outcome == "in doubt"
    assert books.state(books.queue(replaces_id=profit, **(LIMIT | {"side": "sell"}))).status == "waiting"
    books.move(profit, "canceled")
    books.check()
