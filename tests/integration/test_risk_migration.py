"""The step that brings limits, back and forward again with limits and a reducing account."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.plugins.books import SETUP, Books, open_session
from trader import migrate

REVISION = "0012_risk"


@pytest.fixture
def books(database: str) -> Iterator[Books]:
    with psycopg.connect(database, autocommit=True) as session:
        session.execute(SETUP)
    with open_session(database) as session:
        yield Books(session, url=database)


def test_an_account_that_reduces_is_halted_on_the_way_back_not_set_free(books: Books) -> None:
    books.strategy(deposit=100)
    books.queue()
    books.execute("INSERT INTO limits (strategy, max_orders_per_minute) VALUES ('s', 3)")
    books.trader("INSERT INTO risk_sent (risk_limit_id, orders) SELECT id, 1 FROM risk_limit")
    books.execute("UPDATE account SET reducing = true, halt_reason = 'lunch' WHERE name = 'main'")
    ledger = books.value("SELECT md5(string_agg(ledger::text, ',' ORDER BY id)) FROM ledger")

    migrate.downgrade(books.url, migrate.revisions()[migrate.revisions().index(REVISION) - 1])
    books.person.execute("DISCARD ALL")
    rows = books.execute("SELECT name, halted, halt_reason FROM account ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("main", True, "lunch; it was reducing, which this version does not know"),
        ("elsewhere", False, None),
    ]
    books.check()

    migrate.upgrade(books.url)
    books.person.execute("DISCARD ALL")
    assert books.value("SELECT state FROM account WHERE name = 'main'") == "halted"
    assert books.value("SELECT count(*) FROM limits") == 0
    assert books.value("SELECT md5(string_agg(ledger::text, ',' ORDER BY id)) FROM ledger") == ledger
    books.check()
