"""What the database does by itself with orders that wait, and with groups: no trader runs here."""

import threading
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from tests.plugins.books import Books, open_session

CANCEL = "UPDATE orders SET cancel_requested_at = now() WHERE id = %s"
TRIGGER = "UPDATE \"order\" SET triggered_at = clock_timestamp(), reason = 'triggered at 9' WHERE id = %s"


@pytest.fixture
def desk(books: Books) -> Books:
    books.strategy(deposit=100_000)
    books.trade("buy", 1, 100)
    return books


def status(books: Books, *orders: int) -> list[str]:
    return [books.state(order).status for order in orders]


def reason(books: Books, order: int) -> str:
    return str(books.state(order).reason)


def rest(books: Books, order: int, held: Any = 1) -> int:
    """The order rests at the venue."""
    books.submit(order, held, "BTC" if books.state(order).side == "sell" else "USDT")
    books.move(order, "accepted")
    return order


def end(books: Books, order: int, how: str, filled: bool) -> None:
    if how == "denied":
        return books.move(order, how)
    rest(books, order, 50)
    if filled:
        books.fill(order, "0.1", 100)
    if how == "canceled":
        books.execute(CANCEL, order)
        books.move(order, "pending_cancel")
    return books.move(order, how)


@pytest.mark.parametrize(
    ("how", "filled", "then"),
    [
        ("filled", True, "queued"),
        ("canceled", True, "queued"),
        ("expired", True, "queued"),
        ("canceled", False, "canceled"),
        ("expired", False, "canceled"),
        ("rejected", False, "canceled"),
        ("denied", False, "canceled"),
    ],
)
def test_what_the_end_of_an_order_means_for_the_one_after_it(desk: Books, how: str, filled: bool, then: str) -> None:
    first = desk.queue(quantity="0.5")
    after = desk.queue("sell", after_id=first)
    assert desk.state(after).expires_at is None
    assert status(desk, after) == ["waiting"]
    end(desk, first, how, filled)
    assert status(desk, first, after) == [how, then]
    assert reason(desk, after) == f"order {first}, for which it waited, is {how}"
    late = desk.queue("sell", after_id=first)  # comes when the first has ended already
    assert status(desk, late) == [then]
    if then == "queued":
        left = desk.value('SELECT expires_at - updated_at FROM "order" WHERE id = %s', after)
        ttl = desk.value("SELECT order_ttl FROM strategy WHERE name = 's'")
        assert abs((left - ttl).total_seconds()) < 1


def test_a_partial_fill_is_no_end(desk: Books) -> None:
    first = rest(desk, desk.queue(quantity="0.5"), 50)
    after = desk.queue("sell", after_id=first)
    desk.fill(first, "0.1", 100)
    desk.move(first, "partially_filled")
    assert status(desk, after) == ["waiting"]


def test_an_order_that_was_to_go_by_now_expires_instead(desk: Books) -> None:
    first = desk.queue(quantity="0.5")
    after = desk.queue("sell", after_id=first, expires_at="2020-01-01Z")
    end(desk, first, "filled", filled=True)
    assert (status(desk, after), reason(desk, after)) == (["expired"], "it expired while it waited")


def test_a_chain_ends_with_its_first_and_is_no_longer_than_fifty(desk: Books) -> None:
    chain = [desk.queue(quantity=1)]
    for _ in range(50):
        chain.append(desk.queue("sell", after_id=chain[-1]))
    columns = "(strategy, type, side, market, after_id)"
    values = f"('s', 'market', 'sell', 'sim:BTC/USDT', {chain[-1]})"
    assert desk.refused(f"INSERT INTO orders {columns} VALUES {values}") == (
        f"after_id is {chain[-1]}: 50 orders wait in that chain already; no more may"
    )
    desk.execute(CANCEL, chain[0])
    assert set(status(desk, *chain)) == {"canceled"}


def test_an_order_waits_only_for_those_of_its_strategy(desk: Books) -> None:
    desk.strategy("t")
    theirs = desk.queue(strategy="t")
    for field in ("after_id", "parent_id"):
        columns = f"(strategy, type, side, market, {field})"
        refusal = desk.refused(f"INSERT INTO orders {columns} VALUES ('s', 'market', 'sell', 'sim:BTC/USDT', {theirs})")
        assert refusal == f"{field} is {theirs}: that order is another strategy's; it must be one of strategy s"


def test_an_order_after_itself_is_refused(desk: Books) -> None:
    refusal = desk.refused(
        'INSERT INTO "order" (id, strategy_id, type, side, market_id, after_id) OVERRIDING SYSTEM VALUE'
        " VALUES (999, 1, 'market', 'sell', 1, 999)"
    )
    assert refusal == "after_id is 999: there is no such order yet; it must be queued before"


def test_a_price_counts_only_after_the_order_before(desk: Books) -> None:
    first = desk.queue(quantity="0.5")
    after = desk.queue("sell", after_id=first, trigger_price=90)
    end(desk, first, "filled", filled=True)
    assert status(desk, after) == ["waiting"]
    desk.trader(TRIGGER, after)
    assert status(desk, after) == ["queued"]
    assert reason(desk, after) == "triggered at 9"


def test_it_triggers_once_and_a_direction_is_noted_once(desk: Books) -> None:
    order = desk.queue("sell", trigger_price=90)
    desk.trader("UPDATE \"order\" SET trigger_when = 'falls' WHERE id = %s", order)
    assert "what was asked is fixed" in desk.refused("UPDATE \"order\" SET trigger_when = 'rises'", trader=True)
    assert "only a trader moves it on" in desk.refused(TRIGGER, order)
    desk.trader(TRIGGER, order)
    assert desk.refused(TRIGGER, order, trader=True) == f"order {order}: it triggers once, while it waits"
    plain = desk.queue()
    assert "it triggers once" in desk.refused(TRIGGER, plain, trader=True)


def test_a_bracket_in_one_statement(desk: Books) -> None:
    rows = desk.execute(
        "WITH entry AS (INSERT INTO orders (strategy, market, side, type, quantity)"
        " VALUES ('s', 'sim:BTC/USDT', 'buy', 'market', 0.5) RETURNING id)"
        " INSERT INTO orders (strategy, market, side, type, limit_price, trigger_price, trigger_when, after_id,"
        " parent_id) SELECT 's', 'sim:BTC/USDT', 'sell', x.*, entry.id, entry.id"
        " FROM entry, (VALUES ('limit', 120, NULL, NULL), ('market', NULL, 90, 'falls'))"
        " x (type, limit_price, trigger_price, trigger_when) RETURNING id, after_id, status"
    )
    entry = rows[0].after_id
    profit, stop = (row.id for row in rows)
    assert status(desk, profit, stop) == ["waiting", "waiting"]
    end(desk, entry, "filled", filled=True)
    assert status(desk, profit, stop) == ["queued", "waiting"]


def pair(desk: Books) -> tuple[int, int]:
    """A resting sell, and a stop that waits, in one group."""
    entry = desk.trade("buy", "0.5", 100)
    profit = rest(desk, desk.queue("sell", type="limit", limit_price=120, quantity="0.5", parent_id=entry), "0.5")
    return profit, desk.queue("sell", trigger_price=90, parent_id=entry)


def exits(desk: Books, **stop: Any) -> tuple[int, int]:
    """A sell of 0.5 that rests, and a stop of 0.5 that waits, in one group."""
    entry = desk.trade("buy", "0.5", 100)
    profit = rest(desk, desk.queue("sell", type="limit", limit_price=120, quantity="0.5", parent_id=entry), "0.5")
    return profit, desk.queue("sell", **{"quantity": "0.5", "trigger_price": 90, "parent_id": entry} | stop)


def test_a_fill_of_a_part_leaves_the_other_waiting_and_the_whole_ends_it(desk: Books) -> None:
    profit, stop = exits(desk)
    desk.fill(profit, "0.1", 120)
    assert status(desk, stop) == ["waiting"]
    late = desk.queue("sell", quantity="0.5", trigger_price=80, parent_id=desk.state(profit).parent_id)
    assert status(desk, late) == ["waiting"]
    at_once = desk.queue("sell", quantity="0.4", parent_id=desk.state(profit).parent_id)
    assert (status(desk, at_once), reason(desk, at_once)) == (["canceled"], f"order {profit} of its group has traded")
    desk.fill(profit, "0.4", 120)
    desk.move(profit, "filled")
    assert (status(desk, stop), reason(desk, stop)) == (["canceled"], f"order {profit} of its group has traded")
    assert status(desk, late) == ["canceled"]


def test_a_stop_is_sent_with_what_the_other_left(desk: Books) -> None:
    profit, stop = exits(desk)
    desk.fill(profit, "0.1", 120)
    desk.move(profit, "partially_filled")
    desk.trader(TRIGGER, stop)
    assert (status(desk, stop), desk.state(profit).cancel_requested_at is not None) == (["waiting"], True)
    desk.fill(profit, "0.15", 120)  # before the cancel
    desk.move(profit, "pending_cancel", "canceled")
    assert (status(desk, stop), desk.state(stop).due_quantity) == (["queued"], Decimal("0.25"))
    assert reason(desk, stop) == "triggered at 9; 0.25 of 0.5 is due: 0.25 is filled already"


def test_a_stop_for_which_nothing_is_left_is_canceled(desk: Books) -> None:
    profit, stop = exits(desk, quantity="0.3")
    desk.fill(profit, "0.3", 120)
    desk.trader(TRIGGER, stop)
    desk.move(profit, "pending_cancel", "canceled")
    assert (status(desk, stop), reason(desk, stop)) == (
        ["canceled"],
        "nothing is left of 0.3: 0.3 is filled already",
    )


def test_a_stop_after_the_rest_was_canceled_sells_the_rest(desk: Books) -> None:
    profit, stop = exits(desk)
    desk.fill(profit, "0.2", 120)
    desk.execute(CANCEL, profit)
    desk.move(profit, "pending_cancel", "canceled")
    assert status(desk, stop) == ["waiting"]
    desk.trader(TRIGGER, stop)
    assert (status(desk, stop), desk.state(stop).due_quantity) == (["queued"], Decimal("0.3"))


@pytest.mark.parametrize(
    "stop",
    [
        {"side": "buy"},
        {"quantity": None, "quote_quantity": 10},
        {"market": "sim:ETH/USDT"},
    ],
    ids=["the other side", "by quote", "another market"],
)
def test_the_first_fill_cancels_one_that_cannot_go_on_with_what_is_left(desk: Books, stop: dict[str, Any]) -> None:
    entry = desk.trade("buy", "0.5", 100)
    profit = rest(desk, desk.queue("sell", type="limit", limit_price=120, quantity="0.5", parent_id=entry), "0.5")
    row = {"side": "sell", "quantity": "0.5", "trigger_price": 90, "parent_id": entry} | stop
    other = desk.queue(**row)
    desk.fill(profit, "0.1", 120)
    assert (status(desk, other), reason(desk, other)) == (["canceled"], f"order {profit} of its group has traded")


@pytest.mark.parametrize(
    ("fills", "fee", "asked", "due"),
    [
        ("1", "0.001", "1", "0.999"),
        ("0.3", "0.0003", "1", "0.2997"),
        ("1", "0.001", "0.5", None),
        ("1", "0", "1", None),
    ],
    ids=["base fee", "a part and base fee", "less than there is", "no base fee"],
)
def test_an_exit_asks_for_no_more_than_its_entry_brought(
    desk: Books, fills: str, fee: str, asked: str, due: str | None
) -> None:
    entry = rest(desk, desk.queue(quantity=1), 200)
    out = desk.queue("sell", quantity=asked, after_id=entry)
    desk.fill(entry, fills, 100, fee=fee, fee_asset="BTC")
    desk.move(entry, "canceled")
    state = desk.state(out)
    assert (state.status, state.due_quantity) == ("queued", due and Decimal(due))
    if due:
        expected = f"order {entry}, for which it waited, is canceled; {due} of {asked} is due: order {entry} brought"
        assert state.reason == f"{expected} {due}"


def test_several_exits_share_what_their_entry_brought(desk: Books) -> None:
    entry = rest(desk, desk.queue(quantity=1), 200)
    exits = [desk.queue("sell", quantity=asked, after_id=entry) for asked in ("0.5", "0.4", "0.2", "0.1")]
    desk.fill(entry, 1, 100, fee="0.001", fee_asset="BTC")
    desk.move(entry, "filled")
    shown = [(desk.state(out).status, desk.state(out).due_quantity) for out in exits]
    assert shown == [("queued", None), ("queued", None), ("queued", Decimal("0.099")), ("canceled", None)]
    assert reason(desk, exits[-1]) == f"nothing is left of 0.1: order {entry} brought 0"


def test_the_exits_of_a_bracket_share_what_its_entry_brought(desk: Books) -> None:
    entry = rest(desk, desk.queue(quantity=1), 200)
    both = {"quantity": 1, "after_id": entry, "parent_id": entry}
    profit = desk.queue("sell", type="limit", limit_price=120, **both)
    stop = desk.queue("sell", trigger_price=90, **both)
    desk.fill(entry, 1, 100, fee="0.001", fee_asset="BTC")
    desk.move(entry, "filled")
    assert (status(desk, profit), desk.state(profit).due_quantity) == (["queued"], Decimal("0.999"))
    rest(desk, profit, "0.999")
    desk.fill(profit, "0.3", 120)
    desk.trader(TRIGGER, stop)
    desk.move(profit, "canceled")
    assert (status(desk, stop), desk.state(stop).due_quantity) == (["queued"], Decimal("0.699"))


def test_nobody_says_what_is_due(desk: Books) -> None:
    order = desk.queue("sell", trigger_price=90, quantity="0.5")
    update = 'UPDATE "order" SET due_quantity = 0.1 WHERE id = %s'
    for trader in (True, False):
        assert "what is due follows from other orders" in desk.refused(update, order, trader=trader)
    columns = "(strategy_id, type, side, market_id, due_quantity)"
    refusal = desk.refused(f"INSERT INTO \"order\" {columns} VALUES (1, 'market', 'sell', 1, 1)")
    assert "they cannot be given" in refusal


def test_the_first_fill_of_one_asks_for_the_cancel_of_the_other_at_the_venue(desk: Books) -> None:
    profit, stop = pair(desk)
    parent = desk.state(stop).parent_id
    other = desk.queue("sell", type="limit", limit_price=130, quantity="0.1", parent_id=parent)
    rest(desk, other, "0.1")
    queued = desk.queue("sell", quantity="0.1", parent_id=parent)
    desk.fill(other, "0.05", 130)
    assert status(desk, profit, stop, queued, other) == ["accepted", "waiting", "canceled", "accepted"]
    assert desk.state(profit).cancel_requested_at is not None
    assert desk.state(other).cancel_requested_at is None
    desk.fill(profit, "0.1", 120)  # the cancel came too late: both have traded, nothing is refused
    assert desk.state(other).cancel_requested_at is not None


def test_a_stop_that_triggers_waits_until_the_other_is_closed(desk: Books) -> None:
    profit, stop = pair(desk)
    desk.trader(TRIGGER, stop)
    assert status(desk, stop) == ["waiting"]
    assert desk.state(profit).cancel_requested_at is not None
    desk.move(profit, "pending_cancel")
    assert status(desk, stop) == ["waiting"]
    desk.move(profit, "canceled")
    assert (status(desk, stop), reason(desk, stop)) == (["queued"], "triggered at 9")


def test_a_stop_that_triggers_ends_if_the_other_was_filled_meanwhile(desk: Books) -> None:
    profit, stop = pair(desk)
    desk.trader(TRIGGER, stop)
    desk.fill(profit, "0.5", 120)
    assert status(desk, stop) == ["waiting"]
    desk.move(profit, "filled")
    assert (status(desk, stop), reason(desk, stop)) == (["canceled"], f"order {profit} of its group has traded")


def test_a_stop_that_triggers_sells_the_rest_if_the_other_was_filled_in_part(desk: Books) -> None:
    profit, stop = pair(desk)
    desk.trader(TRIGGER, stop)
    desk.fill(profit, "0.1", 120)
    desk.move(profit, "canceled")
    assert status(desk, stop) == ["queued"]


def test_a_stop_that_triggers_takes_the_place_of_one_that_was_not_sent(desk: Books) -> None:
    entry = desk.trade("buy", "0.5", 100)
    queued = desk.queue("sell", parent_id=entry)
    stop = desk.queue("sell", trigger_price=90, parent_id=entry)
    other = desk.queue("sell", trigger_price=130, parent_id=entry)
    desk.trader(TRIGGER, stop)
    assert status(desk, queued, stop, other) == ["canceled", "queued", "waiting"]
    assert reason(desk, queued) == f"order {stop} of its group has triggered"


def test_nobody_fills_an_order_that_waits(desk: Books) -> None:
    order = desk.queue("sell", trigger_price=90)
    with pytest.raises(Exception, match="it was never sent, so it has no fills"):
        desk.fill(order, 1, 90)


def test_traders_are_told_when_a_waiting_order_is_queued(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100)
    first = books.queue()
    after = books.queue(after_id=first)
    end(books, first, "filled", filled=True)
    books.process.execute("LISTEN order_queued")
    order = books.queue(trigger_price=9)  # nobody need know of it yet
    books.trader(TRIGGER, order)
    assert [note.channel for note in books.process.notifies(timeout=5, stop_after=1)] == ["order_queued"]
    assert status(books, after) == ["queued"]


def test_an_end_and_an_order_after_it_at_the_same_time_do_not_miss_each_other(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100)
    for person_first in (True, False):
        first = books.queue()
        columns = "(strategy, type, side, market, after_id)"
        insert = f"INSERT INTO orders {columns} VALUES ('s', 'market', 'sell', 'sim:BTC/USDT', {first})"
        cancel = f"UPDATE orders SET cancel_requested_at = now() WHERE id = {first}"
        early, late = (insert, cancel) if person_first else (cancel, insert)
        with open_session(books.url) as one, open_session(books.url) as two:
            with one.transaction():
                one.execute(early)
                thread = threading.Thread(target=two.execute, args=[late])
                thread.start()
                thread.join(0.3)
                assert thread.is_alive()  # it waits for the other
            thread.join(10)
        assert books.value("SELECT status FROM orders WHERE after_id = %s", first) == "canceled"


def test_a_trigger_and_the_end_of_the_other_at_the_same_time_do_not_miss_each_other(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=100_000)
    for trigger_first in (True, False):
        profit, stop = pair(books)
        books.execute(CANCEL, profit)  # so that the trigger has nothing to write into its row
        move = f"UPDATE \"order\" SET status = 'canceled' WHERE id = {profit}"
        early, late = (TRIGGER % stop, move) if trigger_first else (move, TRIGGER % stop)
        with open_session(books.url) as one, open_session(books.url) as two:
            for session in (one, two):
                session.execute("SET tallydesk.process = 'trader'")
            with one.transaction():
                one.execute(early)
                thread = threading.Thread(target=two.execute, args=[late])
                thread.start()
                thread.join(0.3)
            thread.join(10)
        assert status(books, profit, stop) == ["canceled", "queued"]
        books.execute(CANCEL, stop)


def test_fills_and_triggers_that_race_for_a_group_leave_no_order_behind(committed_books: Books) -> None:
    """Each holds its own row and wants the other's: PostgreSQL may choose a loser, who runs again as traders do."""
    books = committed_books
    books.strategy(deposit=100_000)
    pairs = [pair(books) for _ in range(15)]
    fill = (
        "INSERT INTO fill (order_id, traded_at, quantity, price, fee, fee_asset_id, trade_id, source)"
        " SELECT id, now(), 0.5, 120, 0, 1, 'race' || id, 'poll' FROM \"order\" WHERE id = {0};"
        " UPDATE \"order\" SET status = 'filled' WHERE id = {0}"
    )
    start = threading.Barrier(2)

    def work(statements: list[str]) -> None:
        with open_session(books.url) as session:
            session.execute("SET tallydesk.process = 'trader'; SET deadlock_timeout = '50 ms'")
            for statement in statements:
                start.wait(30)
                until_it_wins(session, statement)

    trigger = TRIGGER.replace("%s", "{0} AND status = 'waiting'")
    threads = [
        threading.Thread(target=work, args=[[fill.format(profit) for profit, _ in pairs]]),
        threading.Thread(target=work, args=[[trigger.format(stop) for _, stop in pairs]]),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {tuple(status(books, *both)) for both in pairs} == {("filled", "canceled")}


def until_it_wins(session: Any, statement: str) -> None:
    for last in (False,) * 9 + (True,):
        try:
            session.execute(statement)
            break
        except psycopg.errors.DeadlockDetected:
            assert not last
