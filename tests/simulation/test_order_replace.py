"""Orders that take another's place, and exits that go on with what is left, with real traders and a venue."""

from decimal import Decimal
from typing import Any

from tests.plugins.desk import Desk

CANCEL = "UPDATE orders SET cancel_requested_at = now() WHERE id = %s"
ENDS = ("filled", "canceled", "denied", "rejected", "expired")
HELD = "SELECT held FROM allowance WHERE asset = 'USDT'"
CANCEL_CALL = "DELETE /api/v3/order"


def limit(desk: Desk, price: str, quantity: str = "0.001", **fields: Any) -> int:
    return desk.order("s", type="limit", quantity=quantity, limit_price=price, **fields)


def resting(desk: Desk, price: str, quantity: str = "0.001", **fields: Any) -> int:
    order = limit(desk, price, quantity, **fields)
    desk.wait_for_status(order, "accepted", "partially_filled")
    return order


def test_an_order_moves_to_another_price_and_holds_its_funds_once(desk: Desk) -> None:
    desk.trader()
    old = resting(desk, "40000", "0.0015")
    new = limit(desk, "41000", "0.0015", replaces_id=old)
    assert desk.wait_for_status(new, "accepted", *ENDS).status == "accepted"
    assert desk.state(old).status == "canceled"
    assert desk.value(HELD) == Decimal("61.5")  # both would not fit into 100
    again = limit(desk, "42000", "0.0015", replaces_id=new)
    assert desk.wait_for_status(again, "accepted", *ENDS).status == "accepted"
    desk.execute(CANCEL, again)
    desk.wait_for_status(again, "canceled")
    assert desk.value(HELD) == 0
    assert len(desk.posts()) == 3
    desk.check()


def test_the_part_that_is_filled_is_not_bought_again(desk: Desk) -> None:
    desk.venue.fault("partial", fraction=0.5)
    desk.trader()
    old = limit(desk, "50100", "0.001")
    desk.wait_for_status(old, "partially_filled")
    desk.venue.price("51000")
    filled = desk.state(old).filled_quantity
    assert 0 < filled < Decimal("0.001")
    new = limit(desk, "52000", "0.001", replaces_id=old)
    order = desk.wait_for_status(new, *ENDS)
    assert (order.status, order.due_quantity) == ("filled", Decimal("0.001") - filled)
    assert order.filled_quantity + desk.state(old).filled_quantity == Decimal("0.001")
    desk.check()


def test_s14_the_fill_that_is_faster_than_the_cancel_ends_the_replacement(desk: Desk) -> None:
    desk.trader()
    old = resting(desk, "49000")
    desk.venue.fault("reject", endpoint=CANCEL_CALL, code=-2011, message="Unknown order sent.", times=1000)
    new = limit(desk, "48000", replaces_id=old)
    for _ in range(60):
        desk.venue.price("48500")
        if desk.value("SELECT status = 'filled' FROM orders WHERE id = %s", old):
            break
        desk.wait_for("SELECT updated_at < clock_timestamp() - interval '0.3 s' FROM orders WHERE id = %s", old)
    order = desk.wait_for_status(new, *ENDS)
    assert (order.status, order.reason) == ("canceled", "nothing is left of 0.001: 0.001 is filled already")
    assert desk.state(old).status == "filled"
    assert len(desk.venue.orders()) == 1
    desk.check()


def test_a_trader_that_dies_between_the_cancel_and_the_replacement(desk: Desk) -> None:
    first = desk.trader()
    old = resting(desk, "40000", "0.0015")
    desk.venue.fault("delay_answer", endpoint=CANCEL_CALL, seconds=5)
    new = limit(desk, "41000", "0.0015", replaces_id=old)
    desk.venue.wait_for_log(lambda one: one["fault"] == "delay_answer")
    assert desk.state(new).status == "waiting"
    first.kill()
    desk.trader()
    assert desk.wait_for_status(new, "accepted", *ENDS).status == "accepted"
    assert desk.state(old).status == "canceled"
    assert len(desk.posts()) == 2
    desk.check()


def test_an_order_in_doubt_is_settled_before_it_is_replaced(desk: Desk) -> None:
    """Its answer is lost and its trader dies; what it did at the venue is known before the other is sent."""
    desk.venue.fault("drop_answer")
    desk.venue.fault("lookup_error", endpoint="GET /api/v3/order", times=None)
    old = limit(desk, "40000", "0.0015")
    first = desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM look_up)")
    new = limit(desk, "41000", "0.0015", replaces_id=old)
    first.kill()
    assert desk.state(new).status == "waiting"
    desk.venue.clear_faults()
    desk.trader()
    assert desk.wait_for_status(new, "accepted", *ENDS).status == "accepted"
    assert desk.state(old).status == "canceled"
    assert len(desk.venue.orders()) == 2
    desk.check()


def test_s16_a_stop_sells_what_a_take_profit_left(desk: Desk) -> None:
    desk.venue.fault("partial", match={"side": "SELL"}, fraction=0.3)
    entry = desk.order("s", quantity="0.0018")
    both = {"side": "sell", "quantity": "0.0018", "after_id": entry, "parent_id": entry}
    profit = desk.order("s", type="limit", limit_price="49900", **both)
    stop = desk.order("s", trigger_price="45000", trigger_when="falls", **both)
    desk.trader()
    desk.wait_for_status(profit, "partially_filled")
    desk.venue.price("48000")
    filled = desk.state(profit).filled_quantity
    assert desk.state(profit).due_quantity < Decimal("0.0018")  # the fee was paid in base
    assert desk.state(stop).status == "waiting"
    assert 0 < filled < desk.state(profit).due_quantity
    desk.venue.price("44000")
    order = desk.wait_for_status(stop, *ENDS)
    assert order.status == "filled", order.reason
    assert desk.state(profit).status == "canceled"
    assert desk.value("SELECT total < 0.00001 FROM holding WHERE asset = 'BTC'")
    desk.check()


def test_s28_an_exit_of_all_that_was_bought_pays_the_fee_from_it(desk: Desk) -> None:
    entry = desk.order("s", quantity="0.0018")
    out = desk.order("s", side="sell", quantity="0.0018", after_id=entry)
    desk.trader()
    order = desk.wait_for_status(out, *ENDS)
    assert (order.status, order.filled_quantity) == ("filled", Decimal("0.00179"))
    why = desk.value("SELECT reason FROM order_event WHERE order_id = %s AND to_status = 'queued'", out)
    assert why.endswith(f"0.0017982 of 0.0018 is due: order {entry} brought 0.0017982")
    desk.check()


def test_an_order_that_rests_does_not_expire(desk: Desk) -> None:
    """`expires_at` is its age when a trader first sees it; at the venue it is good till canceled."""
    trader = desk.trader()
    soon = desk.value("SELECT clock_timestamp() + interval '3 s'")
    order = resting(desk, "49000", expires_at=soon)
    desk.wait_for("SELECT expires_at < clock_timestamp() FROM orders WHERE id = %s", order)
    trader.kill()
    desk.trader()
    new = limit(desk, "48000", replaces_id=order)
    assert desk.wait_for_status(new, "accepted", *ENDS).status == "accepted"
    assert desk.state(order).status == "canceled"
    desk.check()
