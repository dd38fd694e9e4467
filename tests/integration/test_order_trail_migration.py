"""The step that brings trailing stops, back and forward again with some that wait."""

from decimal import Decimal

import pytest

from tests.plugins.books import Books
from trader import migrate

REVISION = "0027_trail"
HASH = "SELECT md5(string_agg(ledger::text, ',' ORDER BY id)) FROM ledger"
DEFINITIONS = """
SELECT p.proname AS name, pg_get_functiondef(p.oid) AS text FROM pg_proc p
 WHERE p.proname IN ('order_update', 'order_release', 'order_stuck', 'orders_insert')
UNION ALL SELECT relname, pg_get_viewdef(oid) FROM pg_class WHERE relname IN ('orders', 'invariant_violation')
UNION ALL SELECT 'comment on ' || a.attname, col_description(a.attrelid, a.attnum)
  FROM pg_attribute a WHERE a.attrelid = 'orders'::regclass
"""


@pytest.fixture
def books(committed_books: Books) -> Books:
    committed_books.strategy(deposit=100_000)
    return committed_books


def definitions(books: Books) -> dict[str, str]:
    return {row.name: row.text for row in books.execute(DEFINITIONS)}


def back(books: Books) -> None:
    migrate.downgrade(books.url, migrate.revisions()[migrate.revisions().index(REVISION) - 1])
    for session in (books.person, books.process):
        session.execute("DISCARD ALL")


def test_back_and_forward_with_orders(books: Books) -> None:
    entry = books.trade("buy", 1, 100)
    later = books.queue("buy", trigger_price=500)
    unseen = books.queue("sell", trail="0.1", after_id=later)
    followed = books.queue("sell", trail="0.1", quantity="0.5", parent_id=entry)
    books.trader("""UPDATE "order" SET trigger_price = 95, trigger_when = 'falls' WHERE id = %s""", followed)
    triggered = books.queue("sell", trail="0.1", quantity="0.1")
    books.trader("""UPDATE "order" SET trigger_price = 95, trigger_when = 'falls' WHERE id = %s""", triggered)
    books.trader('UPDATE "order" SET triggered_at = now() WHERE id = %s', triggered)
    ledger, before = books.value(HASH), definitions(books)

    back(books)
    shown = {row.id: row for row in books.execute("SELECT id, status, reason, trigger_price FROM orders")}
    assert (shown[unseen].status, shown[unseen].reason) == ("canceled", "the older version cannot keep it")
    assert (shown[followed].status, shown[followed].trigger_price) == ("waiting", 95)  # a stop, where it stood
    assert (shown[triggered].status, shown[triggered].trigger_price) == ("queued", 95)
    books.trader('UPDATE "order" SET triggered_at = now() WHERE id = %s', followed)
    assert books.state(followed).status == "queued"
    books.check()

    migrate.upgrade(books.url)
    for session in (books.person, books.process):
        session.execute("DISCARD ALL")
    assert {name: (before[name], text) for name, text in definitions(books).items() if before[name] != text} == {}
    assert books.value(HASH) == ledger
    assert books.state(followed).trail is None
    assert books.state(books.queue("sell", trail="0.1")).trail == Decimal("0.1")


def test_the_way_back_leaves_what_was_there_before(books: Books) -> None:
    back(books)
    before = definitions(books)
    migrate.upgrade(books.url, REVISION)
    books.person.execute("DISCARD ALL")
    assert {name for name, text in definitions(books).items() if before.get(name) != text} == {
        *("order_update", "order_release", "order_stuck", "orders_insert", "orders", "invariant_violation"),
        *("comment on trail", "comment on trigger_price"),
    }
    back(books)
    assert definitions(books) == before
    migrate.upgrade(books.url)
