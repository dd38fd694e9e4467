"""Orders that take another's place: what the database does by itself. No trader runs here."""

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.plugins.books import Books, open_session
from trader import order

CANCEL = "UPDATE orders SET cancel_requested_at = now() WHERE id = %s"
TRIGGER = "UPDATE \"order\" SET triggered_at = clock_timestamp(), reason = 'triggered at 9' WHERE id = %s"
LIMIT = {"type": "limit", "limit_price": 100}


@pytest.fixture
def desk(books: Books) -> Books:
    books.strategy(deposit=100_000)
    books.trade("buy", 5, 100)
    return books


def shown(books: Books, order: int) -> tuple[str, Any]:
    """Its status, and what is due where that is less than it asked."""
    row = books.state(order)
    return row.status, row.due_quantity


def reason(books: Books, order: int) -> str:
    return str(books.state(order).reason)


def rest(books: Books, order: int, held: Any = 200) -> int:
    """The order rests at the venue."""
    sells = books.state(order).side == "sell"
    books.submit(order, books.state(order).quantity if sells else held, "BTC" if sells else "USDT")
    books.move(order, "accepted")
    return order


def resting(books: Books, **fields: Any) -> int:
    return rest(books, books.queue(**({"quantity": 1} | LIMIT | fields)))


def replace(books: Books, order: int, **fields: Any) -> int:
    return books.queue(**({"quantity": 1, "replaces_id": order} | LIMIT | fields))


def cancel_at_venue(books: Books, order: int) -> None:
    books.move(order, "pending_cancel", "canceled")


def refused(books: Books, **fields: Any) -> str:
    row = {"strategy": "s", "side": "buy", "type": "market", "market": "sim:BTC/USDT"} | fields
    names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
    return books.refused(f"INSERT INTO orders ({names}) VALUES ({marks})", *row.values())


def test_the_cancel_comes_first_and_holds_nothing_meanwhile(desk: Books) -> None:
    old = resting(desk)
    new = replace(desk, old, limit_price=99)
    assert shown(desk, new) == ("waiting", None)
    assert desk.state(old).cancel_requested_at is not None
    assert desk.value("SELECT count(*) FROM hold WHERE order_id = %s", new) == 0
    desk.move(old, "pending_cancel")
    assert shown(desk, new) == ("waiting", None)
    desk.move(old, "canceled")
    assert shown(desk, new) == ("queued", None)
    ttl = desk.value("SELECT order_ttl FROM strategy WHERE name = 's'")
    assert abs((desk.state(new).expires_at - desk.state(new).updated_at - ttl).total_seconds()) < 1
    assert desk.value("SELECT replaces_id FROM orders WHERE id = %s", new) == old


def test_what_the_replaced_one_filled_is_taken_off(desk: Books) -> None:
    old = resting(desk)
    desk.fill(old, "0.25", 100)
    new = replace(desk, old, quantity="1.5")
    desk.fill(old, "0.5", 100)  # the fill is faster than the cancel
    cancel_at_venue(desk, old)
    assert shown(desk, new) == ("queued", Decimal("0.75"))
    assert reason(desk, new) == "0.75 of 1.5 is due: 0.75 is filled already"
    assert desk.value("SELECT due_quantity FROM orders WHERE id = %s", new) == Decimal("0.75")


def test_the_fill_that_wins_leaves_nothing(desk: Books) -> None:
    old = resting(desk)
    new = replace(desk, old)
    desk.fill(old, 1, 100)
    desk.move(old, "filled")
    assert shown(desk, new) == ("canceled", None)
    assert reason(desk, new) == "nothing is left of 1: 1 is filled already"


@pytest.mark.parametrize("waits", [True, False], ids=["waiting", "queued"])
def test_one_that_was_not_sent_is_replaced_at_once(desk: Books, waits: bool) -> None:
    old = desk.queue(quantity=1, **({"trigger_price": 90} if waits else {}))
    new = replace(desk, old)
    assert (desk.state(old).status, reason(desk, old)) == ("canceled", f"order {new} replaces it")
    assert shown(desk, new) == ("queued", None)
    steps = desk.execute("SELECT to_status::text AS s FROM order_event WHERE order_id = %s ORDER BY id", new)
    assert [row.s for row in steps] == ["waiting", "queued"]


def test_an_order_in_doubt_is_waited_for(desk: Books) -> None:
    old = desk.submit(desk.queue(quantity=1, **LIMIT), 100)
    desk.trader('UPDATE "order" SET in_doubt_since = now(), next_look_at = now() WHERE id = %s', old)
    new = replace(desk, old)
    assert shown(desk, new) == ("waiting", None)
    desk.move(old, "accepted")
    assert shown(desk, new) == ("waiting", None)
    desk.fill(old, "0.1", 100)
    cancel_at_venue(desk, old)
    assert shown(desk, new) == ("queued", Decimal("0.9"))


def test_a_chain_of_replacements_counts_every_fill_once(desk: Books) -> None:
    first = resting(desk)
    second = replace(desk, first)
    third = replace(desk, second, quantity=2)  # the second was never sent: the third waits for the first
    assert (shown(desk, second)[0], reason(desk, second)) == ("canceled", f"order {third} replaces it")
    assert shown(desk, third) == ("waiting", None)
    desk.fill(first, "0.3", 100)
    cancel_at_venue(desk, first)
    assert shown(desk, third) == ("queued", Decimal("1.7"))
    rest(desk, third)
    fourth = replace(desk, third, quantity=2)
    desk.fill(third, "0.2", 100)
    cancel_at_venue(desk, third)
    assert shown(desk, fourth) == ("queued", Decimal("1.5"))
    fifth = replace(desk, fourth, quantity="0.5")
    assert (shown(desk, fifth)[0], reason(desk, fifth)) == (
        "canceled",
        "nothing is left of 0.5: 0.5 is filled already",
    )


def test_a_canceled_replacement_leaves_the_place_to_another(desk: Books) -> None:
    old = resting(desk)
    new = replace(desk, old)
    assert refused(desk, quantity=1, replaces_id=old) == (
        f"replaces_id is {old}: order {new} replaces that already; replace order {new}"
    )
    desk.execute(CANCEL, new)
    other = replace(desk, old)
    cancel_at_venue(desk, old)
    assert (shown(desk, new)[0], shown(desk, other)) == ("canceled", ("queued", None))


def test_a_replacement_expires_while_it_waits(desk: Books) -> None:
    old = resting(desk)
    new = replace(desk, old, expires_at="2020-01-01Z")
    cancel_at_venue(desk, old)
    assert (shown(desk, new)[0], reason(desk, new)) == ("expired", "it expired while it waited")


def test_selling_all_takes_what_is_there_then(desk: Books) -> None:
    old = resting(desk, side="sell")
    new = desk.queue("sell", replaces_id=old)
    desk.fill(old, "0.4", 100)
    cancel_at_venue(desk, old)
    assert shown(desk, new) == ("queued", None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"quantity": 1, "side": "sell"}, "that order is another strategy's, or of another market or side"),
        ({"quantity": 1, "market": "sim:ETH/USDT"}, "that order is another strategy's, or of another market or side"),
        ({"quantity": 1, "strategy": "t"}, "that order is another strategy's, or of another market or side"),
        ({"quote_quantity": 50}, "give quantity, the base that is wanted in all"),
        ({}, "give quantity, the base that is wanted in all"),
        ({"quantity": 1, "parent_id": 2}, "leave parent_id empty"),
    ],
    ids=["side", "market", "strategy", "quote", "stake", "group"],
)
def test_what_cannot_replace(desk: Books, fields: dict[str, Any], words: str) -> None:
    desk.strategy("t", deposit=10)
    old = resting(desk)
    assert refused(desk, replaces_id=old, **fields).startswith(f"replaces_id is {old}: {words}")
    assert desk.state(old).cancel_requested_at is None


def test_what_cannot_be_replaced(desk: Books) -> None:
    old = resting(desk)
    cancel_at_venue(desk, old)
    refusal = refused(desk, quantity=1, replaces_id=old)
    assert refusal == f"replaces_id is {old}: that order is canceled and cannot be replaced any more"
    assert "there is no such order yet" in refused(desk, quantity=1, replaces_id=999)
    columns = "(strategy, type, asset, quantity, replaces_id)"
    refusal = desk.refused(f"INSERT INTO orders {columns} VALUES ('s', 'deposit', 'USDT', 1, {old})")
    assert refusal == "a deposit names an asset and a quantity, and nothing else"
    assert "what it replaces is fixed" in desk.refused(f'UPDATE "order" SET replaces_id = {old}', trader=True)


def test_a_stop_is_moved_and_stays_in_its_group(desk: Books) -> None:
    entry = desk.trade("buy", "0.5", 100)
    profit = resting(desk, side="sell", quantity="0.5", parent_id=entry)
    stop = desk.queue("sell", quantity="0.5", trigger_price=90, parent_id=entry)
    moved = desk.queue("sell", quantity="0.5", trigger_price=95, replaces_id=stop)
    assert (shown(desk, stop)[0], shown(desk, moved), desk.state(moved).parent_id) == (
        "canceled",
        ("waiting", None),
        entry,
    )
    desk.fill(profit, "0.1", 100)
    desk.trader(TRIGGER, moved)
    cancel_at_venue(desk, profit)
    assert shown(desk, moved) == ("queued", Decimal("0.4"))


def test_a_take_profit_is_moved_while_its_stop_stays(desk: Books) -> None:
    entry = desk.trade("buy", "0.5", 100)
    profit = resting(desk, side="sell", quantity="0.5", parent_id=entry)
    stop = desk.queue("sell", quantity="0.5", trigger_price=90, parent_id=entry)
    desk.fill(profit, "0.1", 100)
    moved = replace(desk, profit, side="sell", quantity="0.5", limit_price=130)
    assert shown(desk, moved) == ("waiting", None)
    desk.fill(profit, "0.1", 100)
    cancel_at_venue(desk, profit)
    assert (shown(desk, moved), shown(desk, stop)) == (("queued", Decimal("0.3")), ("waiting", None))
    rest(desk, moved)
    desk.fill(moved, "0.3", 130)
    desk.move(moved, "filled")
    assert (shown(desk, stop)[0], reason(desk, stop)) == ("canceled", f"order {moved} of its group has traded")


def test_a_group_does_not_end_while_a_filled_one_is_replaced_by_more(desk: Books) -> None:
    entry = desk.trade("buy", "0.5", 100)
    profit = resting(desk, side="sell", quantity="0.2", parent_id=entry)
    stop = desk.queue("sell", quantity="0.5", trigger_price=90, parent_id=entry)
    more = replace(desk, profit, side="sell", quantity="0.5")
    desk.fill(profit, "0.2", 100)
    desk.move(profit, "filled")
    assert (shown(desk, more), shown(desk, stop)) == (("queued", Decimal("0.3")), ("waiting", None))


def test_orders_after_an_entry_wait_for_what_took_its_place(desk: Books) -> None:
    entry = resting(desk)
    out = desk.queue("sell", quantity=1, after_id=entry)
    stop = desk.queue("sell", quantity=1, after_id=entry, parent_id=entry, trigger_price=90)
    again = replace(desk, entry, limit_price=101)
    desk.fill(entry, "0.4", 100, fee="0.001", fee_asset="BTC")
    cancel_at_venue(desk, entry)
    assert [shown(desk, order)[0] for order in (again, out, stop)] == ["queued", "waiting", "waiting"]
    rest(desk, again)
    desk.fill(again, "0.5", 100, fee="0.001", fee_asset="BTC")
    desk.move(again, "expired")
    assert shown(desk, out) == ("queued", Decimal("0.898"))
    assert reason(desk, out).startswith(f"order {again}, for which it waited, is expired; 0.898 of 1 is due")
    assert shown(desk, stop) == ("waiting", None)


def test_an_exit_that_waits_for_its_entry_is_moved_and_still_waits(desk: Books) -> None:
    entry = resting(desk)
    out = desk.queue("sell", quantity=1, after_id=entry, **LIMIT)
    moved = replace(desk, out, side="sell", limit_price=130)
    assert (shown(desk, out)[0], shown(desk, moved), desk.state(moved).expires_at) == (
        "canceled",
        ("waiting", None),
        None,
    )
    desk.fill(entry, 1, 100, fee="0.001", fee_asset="BTC")
    desk.move(entry, "filled")
    assert shown(desk, moved) == ("queued", Decimal("0.999"))
    last = replace(desk, rest(desk, moved), side="sell")
    desk.fill(moved, "0.1", 130)
    cancel_at_venue(desk, moved)
    assert shown(desk, last) == ("queued", Decimal("0.899"))


FILL = (
    "INSERT INTO fill (order_id, traded_at, quantity, price, fee, fee_asset_id, trade_id, source)"
    " SELECT id, now(), {1}, 100, 0, 1, 'race' || id, 'poll' FROM \"order\" WHERE id = {0};"
    " UPDATE \"order\" SET status = '{2}' WHERE id = {0}"
)


@pytest.mark.parametrize("fill_first", [True, False])
def test_a_fill_and_a_replacement_at_the_same_time(committed_books: Books, fill_first: bool) -> None:
    """Whoever comes first, the other waits for the row and sees what it did: no quantity is bought twice."""
    books = committed_books
    books.strategy(deposit=100_000)
    old = resting(books)
    fill = FILL.format(old, "0.4", "partially_filled")
    insert = (
        "INSERT INTO orders (strategy, type, side, market, quantity, limit_price, replaces_id)"
        f" VALUES ('s', 'limit', 'buy', 'sim:BTC/USDT', 1, 99, {old})"
    )
    with open_session(books.url) as venue, open_session(books.url) as person:
        venue.execute("SET tallydesk.process = 'trader'")
        early, late = ((venue, fill), (person, insert))[:: 1 if fill_first else -1]
        with early[0].transaction():
            early[0].execute(early[1])
            thread = threading.Thread(target=late[0].execute, args=[late[1]])
            thread.start()
            thread.join(0.3)
            assert thread.is_alive()  # it waits for the other
        thread.join(10)
    new = books.value("SELECT id FROM orders WHERE replaces_id = %s", old)
    assert shown(books, new) == ("waiting", None)
    cancel_at_venue(books, old)
    assert shown(books, new) == ("queued", Decimal("0.6"))


def test_a_replacement_that_comes_after_the_end_is_refused(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100_000)
    old = resting(books)
    errors: list[str] = []

    def insert(session: psycopg.Connection[Any]) -> None:
        try:
            session.execute(
                "INSERT INTO orders (strategy, type, side, market, quantity, replaces_id)"
                f" VALUES ('s', 'market', 'buy', 'sim:BTC/USDT', 1, {old})"
            )
        except psycopg.Error as error:
            errors.append(str(error.diag.message_primary))

    with open_session(books.url) as venue, open_session(books.url) as person:
        venue.execute("SET tallydesk.process = 'trader'")
        with venue.transaction():
            venue.execute(FILL.format(old, 1, "filled"))
            thread = threading.Thread(target=insert, args=[person])
            thread.start()
            thread.join(0.3)
            assert thread.is_alive()
        thread.join(10)
    assert errors == [f"replaces_id is {old}: that order is filled and cannot be replaced any more"]


def test_two_replacements_at_the_same_time_are_one(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100_000)
    old = resting(books)
    won = race(books, lambda number: f"{number}", [insert_replacing(old), insert_replacing(old)])
    assert sorted(won) == [False, True]
    assert books.value("SELECT count(*) FROM orders WHERE replaces_id = %s", old) == 1


def insert_replacing(old: int) -> str:
    return (
        "INSERT INTO orders (strategy, type, side, market, quantity, replaces_id)"
        f" VALUES ('s', 'market', 'buy', 'sim:BTC/USDT', 1, {old})"
    )


def race(books: Books, name: Callable[[int], str], statements: list[str]) -> list[bool]:
    """Run statements at once, each in a session of its own, again while it is a deadlock's victim; which succeeded."""
    start = threading.Barrier(len(statements))
    won = [False] * len(statements)

    def work(number: int) -> None:
        with open_session(books.url) as session:
            session.execute("SET tallydesk.process = 'trader'; SET deadlock_timeout = '50 ms'")
            start.wait(30)
            for _ in range(10):
                try:
                    session.execute(statements[number])
                except psycopg.errors.DeadlockDetected:
                    continue
                except psycopg.errors.CheckViolation:
                    return
                won[number] = True
                return

    threads = [threading.Thread(target=work, args=[number], name=name(number)) for number in range(len(statements))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return won


def test_two_siblings_that_fill_at_once_leave_the_rest_to_the_stop(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100_000)
    for _ in range(5):
        entry = books.trade("buy", 1, 100)
        first = resting(books, side="sell", quantity="0.5", parent_id=entry)
        second = resting(books, side="sell", quantity="0.5", parent_id=entry)
        stop = books.queue("sell", quantity=1, trigger_price=90, parent_id=entry)
        fills = [FILL.format(order, "0.1", "partially_filled") for order in (first, second)]
        assert race(books, str, fills) == [True, True]
        assert all(books.state(order).cancel_requested_at for order in (first, second))
        books.trader(TRIGGER, stop)
        cancel_at_venue(books, first)
        cancel_at_venue(books, second)
        assert shown(books, stop) == ("queued", Decimal("0.8"))
        books.execute(CANCEL, stop)


def test_an_order_that_waits_for_nothing_any_more_shows(desk: Books) -> None:
    """What cannot happen while triggers run: those that wait are forgotten."""
    old = resting(desk)
    new = replace(desk, old)
    after = desk.queue("sell", after_id=old)
    stop = desk.queue("sell", trigger_price=90, replaces_id=resting(desk, side="sell"))
    desk.trader(TRIGGER, stop)
    assert desk.execute("SELECT * FROM invariant_violation") == []
    with desk.person.transaction(force_rollback=True):
        desk.person.execute("SET LOCAL session_replication_role = replica")
        desk.person.execute("UPDATE \"order\" SET status = 'canceled' WHERE status = 'accepted'")
        shown = desk.execute(
            "SELECT what, rule FROM invariant_violation WHERE rule LIKE '%% order waits %%' ORDER BY 1"
        )
        assert [row.what for row in shown] == [f"order {number}" for number in (new, stop)]
        desk.person.execute("UPDATE \"order\" SET status = 'canceled' WHERE id = %s", [new])
        shown = desk.execute(
            "SELECT what, rule FROM invariant_violation WHERE rule LIKE '%% order waits %%' ORDER BY 1"
        )
        assert [row.what for row in shown] == [f"order {number}" for number in (after, stop)]


def bracket(desk: Books) -> tuple[int, int, int]:
    """An entry that is filled, a take profit that rests, a stop that waits."""
    entry = desk.queue(quantity=1)
    profit = desk.queue("sell", quantity=1, type="limit", limit_price=120, after_id=entry, parent_id=entry)
    stop = desk.queue("sell", quantity=1, trigger_price=90, after_id=entry, parent_id=entry)
    desk.submit(entry, 200)
    desk.fill(entry, 1, 100)
    desk.move(entry, "filled")
    return entry, rest(desk, profit), stop


@pytest.mark.parametrize("first", ["trigger", "replacement"])
def test_a_stop_that_has_triggered_goes_before_what_replaces_its_take_profit(desk: Books, first: str) -> None:
    """Else the new take profit would rest, and the stop wait for its end while the price falls."""
    _, profit, stop = bracket(desk)
    if first == "trigger":
        desk.trader(TRIGGER, stop)
    again = desk.queue("sell", quantity=1, type="limit", limit_price=110, replaces_id=profit)
    if first == "replacement":
        desk.trader(TRIGGER, stop)
    cancel_at_venue(desk, profit)
    assert shown(desk, stop)[0] == "queued"
    assert shown(desk, again)[0] == "canceled"
    assert reason(desk, again) == f"order {stop} of its group has triggered"


def test_nothing_joins_a_group_ahead_of_its_stop_that_has_triggered(desk: Books) -> None:
    entry, profit, stop = bracket(desk)
    desk.trader(TRIGGER, stop)
    late = desk.queue("sell", quantity=1, type="limit", limit_price=130, parent_id=entry)
    cancel_at_venue(desk, profit)
    assert [desk.state(order).status for order in (late, stop)] == ["canceled", "queued"]


def test_what_takes_the_place_of_a_stop_that_has_triggered_is_sent(desk: Books) -> None:
    _, profit, stop = bracket(desk)
    desk.trader(TRIGGER, stop)
    at_once = desk.queue("sell", quantity=1, replaces_id=stop)
    assert desk.state(stop).status == "canceled"
    cancel_at_venue(desk, profit)
    assert desk.state(at_once).status == "queued"


def test_no_order_waits_for_its_own_line(desk: Books) -> None:
    old = resting(desk)
    after = desk.queue("sell", quantity=1, after_id=old)
    for waits_for in (old, after):
        words = refused(desk, quantity=1, replaces_id=old, after_id=waits_for, **LIMIT)
        assert words.startswith(f"after_id is {waits_for}: that waits for order {old}, whose place this one takes")
    assert desk.state(old).cancel_requested_at is None


def test_a_late_fill_of_one_that_was_replaced_is_taken_off_all_that_follow(desk: Books) -> None:
    old = resting(desk)
    new = replace(desk, old)
    cancel_at_venue(desk, old)
    desk.fill(old, "0.6", 100)  # it was queued by then
    assert shown(desk, new) == ("queued", None)
    heads = {
        row.id: row.quantity
        for row in desk.trader(order.TAKE_HEADS.replace("%(strategies)s", "ARRAY[1]").replace("%(per_lane)s", "9"))
    }
    assert heads[new] == Decimal("0.4")
    newest = replace(desk, new)
    assert shown(desk, newest) == ("queued", Decimal("0.4"))
