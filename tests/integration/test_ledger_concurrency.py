"""Two sessions at once: the second waits for the first, then sees what it did."""

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.plugins.books import Books, Session, open_session

PATIENCE = 10.0
HOLD = """UPDATE "order" SET status = 'submitted', fence = 1, submitted_at = now(), receive_deadline = now(),
            hold_asset_id = 1, hold_quantity = 60 WHERE id = %s"""
FLOW = "INSERT INTO orders (strategy, type, asset, quantity) VALUES ('s', %s, 'USDT', %s)"
FILL = """INSERT INTO fill (order_id, traded_at, quantity, price, fee, trade_id, source)
          VALUES (%s, now(), 0.001, 50000, 0, 'the same', 'poll')
          ON CONFLICT (account_id, market_id, trade_id, side) DO NOTHING"""
Work = tuple[str, tuple[Any, ...]]


def collide(books: Books, first: Work, second: Work) -> str | None:
    """Run `first` in an open transaction, `second` in another session until it waits, commit; the second's error."""
    errors: list[str] = []
    with open_session(books.url) as other:
        for session in (books.process, other):
            session.execute("SET tallydesk.process = 'trader'")
        thread = threading.Thread(target=_attempt, args=(other, second, errors))
        with books.process.transaction():
            books.process.execute(*first)
            thread.start()
            until(lambda: waits(books, other))
        thread.join(PATIENCE)
        assert not thread.is_alive()
        books.process.execute("SET tallydesk.process = ''")
    return errors[0] if errors else None


def _attempt(session: Session, work: Work, errors: list[str]) -> None:
    try:
        session.execute(*work)
    except psycopg.Error as error:
        errors.append(error.diag.message_primary or repr(error))


def waits(books: Books, session: Session) -> bool:
    return bool(books.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", session.info.backend_pid))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never waited"
        time.sleep(0.005)


def test_two_holds_on_one_allowance(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100)
    orders = [books.queue(), books.queue()]
    error = collide(books, (HOLD, (orders[0],)), (HOLD, (orders[1],)))
    assert error == "strategy s: its allowance is too small by 20 USDT"
    assert books.balance() == (100, 60)
    assert [books.state(order).status for order in orders] == ["submitted", "queued"]


def test_two_withdrawals_of_the_same_money(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100)
    error = collide(books, (FLOW, ("withdrawal", 60)), (FLOW, ("withdrawal", 60)))
    assert error == "strategy s can withdraw at most 40 USDT, not 60"
    assert books.balance() == (40, 0)


def test_a_withdrawal_of_what_is_just_being_held(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100)
    error = collide(books, (HOLD, (books.queue(),)), (FLOW, ("withdrawal", 60)))
    assert error == "strategy s can withdraw at most 40 USDT, not 60"
    assert books.balance() == (100, 60)


def test_a_hold_on_what_is_just_being_withdrawn(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100)
    error = collide(books, (FLOW, ("withdrawal", 60)), (HOLD, (books.queue(),)))
    assert error == "strategy s: its allowance is too small by 20 USDT"
    assert books.balance() == (40, 0)


def test_a_hold_on_what_is_just_being_deposited(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=10)
    assert collide(books, (FLOW, ("deposit", 90)), (HOLD, (books.queue(),))) is None
    assert books.balance() == (100, 60)


def test_two_deposits_buy_their_units_one_after_the_other(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100)
    books.trade("buy", "0.001", 50000)
    books.trade("sell", "0.001", 60000)
    assert collide(books, (FLOW, ("deposit", 110)), (FLOW, ("deposit", 110))) is None
    assert (books.balance()[0], books.performance().return_percent) == (330, 10)


def test_two_report_the_same_fill(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100)
    order = books.submit(books.queue(quantity="0.001"), 60)
    assert collide(books, (FILL, (order,)), (FILL, (order,))) is None
    assert (books.state(order).filled_quote, books.balance()) == (50, (50, 10))


def test_a_person_cancels_while_a_trader_submits(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100)
    order = books.queue()
    cancel = ("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", (order,))
    assert collide(books, (HOLD, (order,)), cancel) is None
    state = books.state(order)
    assert (state.status, state.cancel_requested_at is not None) == ("submitted", True)
    assert books.balance() == (100, 60)


def test_a_trader_submits_while_a_person_cancels(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100)
    order = books.queue()
    cancel = ("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", (order,))
    assert collide(books, cancel, (HOLD, (order,))) == f"order {order}: canceled -> submitted is not a step"
    assert books.balance() == (100, 0)


def test_money_for_two_strategies_of_an_account_at_once_does_not_deadlock(committed_books: Books) -> None:
    books = committed_books
    books.strategy("s", deposit=10)
    books.strategy("t", deposit=10)
    errors: list[str] = []
    to_t = "INSERT INTO orders (strategy, type, asset, quantity) VALUES ('t', 'deposit', 'USDT', 5)"
    with open_session(books.url) as other:
        thread = threading.Thread(target=_attempt, args=(other, (to_t, ()), errors))
        with books.process.transaction():
            books.process.execute(FLOW, ("deposit", 5))
            thread.start()
            until(lambda: waits(books, other))
            books.process.execute(to_t)
        thread.join(PATIENCE)
    assert errors == []
    assert (books.balance()[0], books.balance(strategy="t")[0]) == (15, 20)


def test_an_old_snapshot_cannot_spend_what_is_gone(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100)
    with open_session(books.url) as other:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert len(other.execute("SELECT * FROM allowance").fetchall()) == 1
        books.withdraw(90)
        with pytest.raises(psycopg.errors.SerializationFailure):
            other.execute(FLOW, ("withdrawal", 90))
        other.execute("ROLLBACK")
    assert books.balance() == (10, 0)
