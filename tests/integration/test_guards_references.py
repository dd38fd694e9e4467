"""References without a foreign key: nothing that a row refers to goes or changes its number, nothing unknown gets in.

The rows are written by triggers; these tests are the table owner's and a trader's ways round that. Where even the owner
must switch triggers off to break something, invariant_violation shows it.
"""

from collections.abc import Iterator

import psycopg
import pytest

from tests.plugins.books import SETUP, Books, open_session

ORPHAN = "what a row refers to is there"

# What the dropped keys refused: each statement names rows that are referred to.
MISUSE = {
    "an order goes": 'DELETE FROM "order" WHERE id = 2',
    "orders go with all that hangs on them": 'TRUNCATE "order" CASCADE',
    "another number for an order": 'UPDATE "order" SET id = DEFAULT WHERE id = 2',
    "another account for an order": 'UPDATE "order" SET account_id = 2 WHERE id = 2',
    "another asset held": 'UPDATE "order" SET hold_asset_id = 3 WHERE id = 2',
    "a fill goes": "DELETE FROM fill",
    "another number for a fill": "UPDATE fill SET id = DEFAULT",
    "a fill of another order": "UPDATE fill SET order_id = 999",
    "a ledger account goes": "DELETE FROM ledger_account WHERE kind = 'venue'",
    "another number for a ledger account": "UPDATE ledger_account SET id = DEFAULT",
    "a balance goes": "DELETE FROM balance",
    "another asset for a balance": "UPDATE balance SET asset_id = 3",
    "an asset goes": "DELETE FROM asset WHERE code = 'USDT'",
    "an asset that nobody has goes": "DELETE FROM asset WHERE code = 'DOGE'",
    "assets go with all that hangs on them": "TRUNCATE asset CASCADE",
    "another number for an asset": "UPDATE asset SET id = DEFAULT",
    "an account goes": "DELETE FROM account WHERE id = 1",
    "another number for an account": "UPDATE account SET id = DEFAULT WHERE id = 1",
    "a market goes": "DELETE FROM market WHERE id = 1",
    "another number for a market": "UPDATE market SET id = DEFAULT WHERE id = 1",
    "a strategy goes": "DELETE FROM strategy",
    "another number for a strategy": "UPDATE strategy SET id = DEFAULT",
    "a posting of nobody's": "INSERT INTO ledger (kind, from_id, to_id, asset_id, quantity, order_id)"
    " VALUES ('deposit', 998, 999, 99, 9, 999)",
    "a step of an unknown order": "INSERT INTO order_event (order_id, to_status, attempt, written_by)"
    " VALUES (999, 'filled', 1, 'me')",
    "a hold of an unknown order": "INSERT INTO hold VALUES (999, 1, 1, 1)",
    "a fill of an unknown order": "INSERT INTO fill (order_id, traded_at, quantity, price, fee, trade_id, source)"
    " VALUES (999, now(), 1, 1, 0, 'mine', 'answer')",
    "a fee in an unknown asset": "INSERT INTO fill (order_id, traded_at, quantity, price, fee, fee_asset_id, trade_id,"
    " source) VALUES (2, now(), 1, 1, 0, 99, 'mine', 'answer')",
    "an order of an unknown strategy": 'INSERT INTO "order" (strategy_id, type, side, market_id)'
    " VALUES (999, 'market', 'buy', 1)",
    "an order on an unknown market": 'INSERT INTO "order" (strategy_id, type, side, market_id)'
    " VALUES (1, 'market', 'buy', 999)",
}


@pytest.mark.parametrize("trader", [False, True], ids=["owner", "trader"])
@pytest.mark.parametrize("misuse", MISUSE.values(), ids=MISUSE.keys())
def test_what_rows_refer_to_stays(books: Books, misuse: str, trader: bool) -> None:
    books.strategy(deposit=1000)
    books.trade("buy", "0.001", 50000, fee="0.05")
    books.submit(books.queue(), 50)
    assert books.refused(misuse, trader=trader)


def test_an_order_takes_its_account_from_its_strategy(books: Books) -> None:
    books.strategy(deposit=1000)
    given = books.execute(
        'INSERT INTO "order" (strategy_id, account_id, type, side, market_id)'
        " VALUES (1, 999, 'market', 'buy', 1) RETURNING account_id"
    )
    assert given[0].account_id == 1


def test_a_fill_takes_side_account_and_market_from_its_order(books: Books) -> None:
    books.strategy(deposit=1000)
    order = books.submit(books.queue(), 50)
    books.trader(
        "INSERT INTO fill (order_id, traded_at, side, account_id, market_id, quantity, price, quote, fee, trade_id,"
        " source) VALUES (%s, now(), 'sell', 99, 99, 1, 10, 1, 0, 'mine', 'answer')",
        order,
    )
    (fill,) = books.execute("SELECT side::text, account_id, market_id, quote FROM fill")
    assert tuple(fill) == ("buy", 1, 1, 10)


@pytest.mark.parametrize(("asset", "words"), [("BTC", "50 BTC"), ("DOGE", "50 DOGE")])
def test_a_hold_of_what_the_strategy_never_had_is_refused(books: Books, asset: str, words: str) -> None:
    books.strategy(deposit=1000)
    order = books.queue()
    with pytest.raises(psycopg.Error, match=f"strategy s: its allowance is too small by {words}"):
        books.submit(order, 50, asset)
    assert books.state(order).status == "queued"


def test_a_hold_of_an_unknown_asset_is_refused(books: Books) -> None:
    books.strategy(deposit=1000)
    refusal = books.refused(
        "UPDATE \"order\" SET status = 'submitted', fence = 1, submitted_at = now(), receive_deadline = now(),"
        " hold_asset_id = 99, hold_quantity = 5 WHERE id = %s",
        books.queue(),
        trader=True,
    )
    assert refusal == "strategy s: its allowance is too small by 5 of an unknown asset"


@pytest.fixture
def breakable(database: str) -> Iterator[Books]:
    with open_session(database) as person:
        person.execute(SETUP)
        books = Books(person)
        books.strategy(deposit=1000)
        books.trade("buy", "0.001", 50000, fee="0.05")
        books.submit(books.queue(), 50)
        books.check()
        yield books


BREAKS = {
    "an account": ('UPDATE "order" SET account_id = 99 WHERE id = 2', "account 99"),
    "an asset held": ('UPDATE "order" SET hold_asset_id = 99 WHERE id = 3', "asset 99"),
    "an order of a fill": ("UPDATE fill SET order_id = 99", "order 99 of account 1, market 1"),
    "an account of a fill": ("UPDATE fill SET account_id = 99", "order 2 of account 99, market 1"),
    "a market of a fill": ("UPDATE fill SET market_id = 99", "order 2 of account 1, market 99"),
    "who gave": ("UPDATE ledger SET from_id = 99 WHERE id = 1", "ledger account 99"),
    "who got": ("UPDATE ledger SET to_id = 99 WHERE id = 1", "ledger account 99"),
    "what moved": ("UPDATE ledger SET asset_id = 99 WHERE id = 1", "asset 99"),
    "which order": ("UPDATE ledger SET order_id = 99 WHERE id = 1", "order 99"),
    "which fill": ("UPDATE ledger SET fill_id = 99 WHERE fill_id IS NOT NULL AND kind = 'fee'", "fill 99"),
    "whose step": ("UPDATE order_event SET order_id = 99 WHERE id = 1", "order 99"),
    "whose hold": ("UPDATE hold SET order_id = 99", "order 99"),
    "what hold": ("UPDATE hold SET asset_id = 99", "balance of ledger account"),
}


@pytest.mark.parametrize(("statement", "names"), BREAKS.values(), ids=BREAKS.keys())
def test_a_reference_that_was_broken_with_triggers_off_shows(breakable: Books, statement: str, names: str) -> None:
    with breakable.person.transaction():
        breakable.execute("SET LOCAL session_replication_role = replica")
        breakable.execute(statement)
    found = breakable.execute("SELECT kept FROM invariant_violation WHERE rule = %s", ORPHAN)
    assert any(row.kept.startswith(names) for row in found), found
