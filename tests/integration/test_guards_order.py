"""The life of an order: the steps there are and no other, what is fixed, what is written down, who is told."""

import itertools

import pytest

from tests.plugins.books import Books

STATUSES = (
    *("waiting", "queued", "submitted", "accepted", "partially_filled", "pending_cancel"),
    *("filled", "canceled", "expired", "rejected", "denied", "posted"),
)
STEPS = {
    "waiting": {"queued", "denied", "canceled", "expired"},
    "queued": {"submitted", "denied", "canceled"},
    "submitted": {"accepted", "partially_filled", "filled", "canceled", "expired", "rejected", "denied"},
    "accepted": {"partially_filled", "pending_cancel", "filled", "canceled", "expired", "rejected"},
    "partially_filled": {"pending_cancel", "filled", "canceled", "expired"},
    "pending_cancel": {"accepted", "partially_filled", "filled", "canceled", "expired"},
}
WAYS = {
    "queued": (),
    "submitted": ("submitted",),
    "accepted": ("submitted", "accepted"),
    "partially_filled": ("submitted", "partially_filled"),
    "pending_cancel": ("submitted", "accepted", "pending_cancel"),
    "filled": ("submitted", "filled"),
    "canceled": ("canceled",),
    "expired": ("submitted", "expired"),
    "rejected": ("submitted", "rejected"),
    "denied": ("denied",),
}
OPEN = {"submitted", "accepted", "partially_filled", "pending_cancel"}


def order_at(books: Books, status: str) -> int:
    """An order that has come to this status by steps that exist."""
    if status == "posted":
        return books.deposit(1)
    if status == "waiting":
        return books.queue(quantity="0.001", trigger_price=1)
    order = books.queue(quantity="0.001")
    for step in WAYS[status]:
        if step == "submitted":
            books.submit(order, 50)
        else:
            books.move(order, step)
    return order


@pytest.mark.parametrize("old", STATUSES)
def test_every_pair_of_statuses(books: Books, old: str) -> None:
    books.strategy(deposit=100_000)
    for new in STATUSES:
        order = order_at(books, old)
        assert books.state(order).status == old
        claim = ", ".join(
            f"{column} = {value}"
            for column, value in {
                "hold_asset_id": 1,
                "hold_quantity": 50,
                "fence": 1,
                "submitted_at": "now()",
                "receive_deadline": "now()",
            }.items()
        )
        change = f"UPDATE \"order\" SET status = '{new}'{', ' + claim if (old, new) == ('queued', 'submitted') else ''}"
        if new in STEPS.get(old, set()) or new == old:
            books.trader(f"{change} WHERE id = {order}")
            assert books.state(order).status == new
        else:
            refusal = books.refused(f"{change} WHERE id = {order}", trader=True)
            assert refusal == f"order {order}: {old} -> {new} is not a step"


def test_the_function_says_the_same_as_the_table_here(books: Books) -> None:
    for old, new in itertools.product(STATUSES, STATUSES):
        said = books.value("SELECT order_step_exists(%s::order_status, %s::order_status)", old, new)
        assert said == (new in STEPS.get(old, set())), (old, new)


FIXED = {
    "strategy_id": "2",
    "account_id": "2",
    "type": "'limit'",
    "side": "'sell'",
    "market_id": "2",
    "asset_id": "1",
    "quantity": "9",
    "quote_quantity": "9",
    "limit_price": "9",
    "created_at": "now() - interval '1 day'",
    "expires_at": "now()",
    "bucket_time": "'2024-01-01Z'",
    "client_order_id": "gen_random_uuid()",
    "time_in_force": "'IOC'",
    "trigger_price": "9",
    "trigger_when": "'rises'",
    "trail": "0.1",
    "after_id": "1",
    "parent_id": "1",
}


@pytest.mark.parametrize(("column", "value"), FIXED.items())
def test_what_was_asked_is_fixed_for_people_and_traders(books: Books, column: str, value: str) -> None:
    books.strategy(deposit=100)
    books.strategy("t")
    order = books.queue(quantity="0.001")
    change = f'UPDATE "order" SET {column} = {value} WHERE id = {order}'
    assert books.refused(change) == (
        f"order {order}: what was asked is fixed once queued, and only a trader moves it on; "
        f"to cancel it: UPDATE orders SET cancel_requested_at = now() WHERE id = {order}"
    )
    assert books.refused(change, trader=True) == (
        f"order {order}: what was asked is fixed once queued; "
        "cancel it (SET cancel_requested_at = now()) and queue another"
    )


@pytest.mark.parametrize("column", ["filled_quantity", "filled_quote", "realised"])
def test_what_is_filled_follows_fills(books: Books, column: str) -> None:
    books.strategy(deposit=100)
    order = order_at(books, "accepted")
    change = f'UPDATE "order" SET {column} = 1 WHERE id = {order}'
    assert books.refused(change, trader=True) == f"order {order}: what is filled follows its fills"
    assert "only a trader moves it on" in books.refused(change)


def test_a_person_moves_no_order_on(books: Books) -> None:
    books.strategy(deposit=100)
    order = books.queue()
    for change in ("status = 'denied'", "reason = 'x'", "fence = 3", "next_look_at = now()"):
        assert "only a trader moves it on" in books.refused(f'UPDATE "order" SET {change} WHERE id = {order}')


def test_the_hold_is_fixed_once_submitted_and_the_fence_only_rises(books: Books) -> None:
    books.strategy(deposit=100)
    order = books.submit(books.queue(), 50)
    books.trader('UPDATE "order" SET fence = 5')
    assert books.refused("UPDATE \"order\" SET fence = 4 WHERE type = 'market'", trader=True) == (
        f"order {order}: fence 4 is older than 5"
    )
    assert books.refused("UPDATE \"order\" SET hold_quantity = 1 WHERE type = 'market'", trader=True) == (
        f"order {order}: what it reserved is fixed once submitted"
    )
    other = books.queue()
    assert books.refused(f"UPDATE \"order\" SET status = 'submitted' WHERE id = {other}", trader=True) == (
        f"order {other}: a submitted order has a hold, a fence, submitted_at and receive_deadline"
    )


def test_an_order_that_left_submitted_is_no_longer_in_doubt(books: Books) -> None:
    books.strategy(deposit=100)
    order = books.submit(books.queue(), 50)
    books.trader('UPDATE "order" SET in_doubt_since = now(), next_look_at = now() WHERE id = %s', order)
    assert [row.id for row in books.execute("SELECT id FROM order_in_doubt")] == [order]
    books.move(order, "accepted")
    assert (books.state(order).in_doubt_since, books.state(order).next_look_at) == (None, None)
    assert books.execute("SELECT id FROM order_in_doubt") == []


CANCEL = "UPDATE orders SET cancel_requested_at = now() WHERE id = %s"


@pytest.mark.parametrize("status", ["waiting", "queued"])
def test_canceling_an_order_that_was_not_sent_ends_it_at_once(books: Books, status: str) -> None:
    books.strategy(deposit=100)
    order = order_at(books, status)
    books.execute(CANCEL, order)
    state = books.state(order)
    assert (state.status, state.reason) == ("canceled", "canceled before it was sent")


@pytest.mark.parametrize("status", sorted(OPEN))
def test_canceling_an_open_order_asks_for_it_once(books: Books, status: str) -> None:
    books.strategy(deposit=100)
    order = order_at(books, status)
    books.execute(CANCEL, order)
    asked = books.state(order)
    assert (asked.status, asked.cancel_requested_at is not None) == (status, True)
    for change in ("NULL", "clock_timestamp()"):
        refusal = books.refused(f"UPDATE orders SET cancel_requested_at = {change} WHERE id = {order}")
        assert refusal.startswith(f"order {order}: its cancel is already requested (")


@pytest.mark.parametrize("status", ["filled", "canceled", "expired", "rejected", "denied", "posted"])
def test_a_final_order_cannot_be_canceled(books: Books, status: str) -> None:
    books.strategy(deposit=100)
    order = order_at(books, status)
    if status == "canceled":  # by the trader, so without a request of ours
        assert books.state(order).cancel_requested_at is None
    assert books.refused(CANCEL, order) == f"order {order}: it is {status} and cannot be canceled any more"


@pytest.mark.parametrize("moment", ["'infinity'", "'-infinity'", "now() + interval '1 h'", "now() - interval '1 h'"])
def test_a_cancel_is_asked_for_now(books: Books, moment: str) -> None:
    books.strategy(deposit=100)
    order = order_at(books, "accepted")
    refusal = books.refused(f"UPDATE orders SET cancel_requested_at = {moment} WHERE id = {order}")
    assert refusal.startswith(f"order {order}: cancel_requested_at is ")
    assert refusal.endswith(": only now() will do, a cancel cannot be planned")
    books.execute("UPDATE orders SET cancel_requested_at = clock_timestamp() WHERE id = %s", order)


def test_orders_by_name_can_only_be_canceled(books: Books) -> None:
    books.strategy(deposit=100)
    order = books.queue(quantity=1)
    how = f"to cancel it: UPDATE orders SET cancel_requested_at = now() WHERE id = {order}"
    for column, value in {"quantity": "2", "status": "'filled'", "strategy": "'t'", "reason": "'x'"}.items():
        refusal = books.refused(f"UPDATE orders SET {column} = {value} WHERE id = {order}")
        assert refusal == f"order {order}: {column} cannot be changed; {how}"
    assert books.refused(f"DELETE FROM orders WHERE id = {order}") == (
        f"orders are kept; {how.replace('to cancel it', 'to cancel one')}"
    )


def test_every_step_leaves_an_event(books: Books) -> None:
    books.strategy(deposit=100)
    order = books.submit(books.queue(quantity="0.001"), 60)
    books.trader("UPDATE \"order\" SET attempt = 2, reason = 'sent again' WHERE id = %s", order)
    books.trader('UPDATE "order" SET next_look_at = now() WHERE id = %s', order)
    books.move(order, "accepted", "pending_cancel", "canceled")
    events = books.execute("SELECT * FROM order_event WHERE order_id = %s ORDER BY id", order)
    assert [(event.from_status, event.to_status, event.attempt) for event in events] == [
        (None, "queued", 0),
        ("queued", "submitted", 1),
        ("submitted", "submitted", 2),
        ("submitted", "accepted", 2),
        ("accepted", "pending_cancel", 2),
        ("pending_cancel", "canceled", 2),
    ]
    assert events[2].reason == "sent again"
    assert {event.written_by.split()[0] for event in events} == {books.value("SELECT session_user::text")}
    assert events == sorted(events, key=lambda event: event.at)


def test_many_rows_in_one_statement_each_have_their_events(books: Books) -> None:
    books.strategy(deposit=100)
    books.execute(
        "INSERT INTO orders (strategy, type, side, market)"
        " SELECT 's', 'market', 'buy', 'sim:BTC/USDT' FROM generate_series(1, 20)"
    )
    books.execute("UPDATE orders SET cancel_requested_at = now() WHERE status = 'queued'")
    counts = books.execute("SELECT to_status, count(*) FROM order_event WHERE order_id > 1 GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in counts] == [("queued", 20), ("canceled", 20)]


def test_traders_are_told_once_for_each_transaction(committed_books: Books) -> None:
    books = committed_books
    books.process.execute("LISTEN order_queued")
    books.process.execute("LISTEN order_cancel")

    def heard() -> list[tuple[str, str]]:
        return [(note.channel, note.payload) for note in books.process.notifies(timeout=5, stop_after=1)] + [
            (note.channel, note.payload) for note in books.process.notifies(timeout=0)
        ]

    books.strategy(deposit=100)  # a deposit waits for nobody
    books.execute(
        "INSERT INTO orders (strategy, type, side, market)"
        " SELECT 's', 'market', 'buy', 'sim:BTC/USDT' FROM generate_series(1, 20)"
    )
    assert heard() == [("order_queued", "")]
    books.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = 2")  # was never sent: nobody need know
    books.submit(3, 50)
    books.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = 3")
    assert heard() == [("order_cancel", "")]
