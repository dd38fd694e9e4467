"""Scenarios 8, 12 and 13 with the venue's stream: it comes first, twice, swapped, in part or not at all.

What shows that a fact came by the stream is `fill.source`; polls and look-ups are kept from it by faults.
"""

from decimal import Decimal

import pytest

from tests.plugins.desk import Desk, Process

LOOK_UP = "GET /api/v3/order"
OPEN_ORDERS = "GET /api/v3/openOrders"
STEPS = """SELECT array_agg(to_status::text ORDER BY id) FROM order_event
  WHERE order_id = %s AND from_status IS DISTINCT FROM to_status"""
SOURCES = "SELECT array_agg(DISTINCT source::text ORDER BY source::text) FROM fill WHERE order_id = %s"
EXECUTION = {"event": "executionReport"}


@pytest.fixture
def desk(desk: Desk) -> Desk:
    desk.listen()
    return desk


def listening(desk: Desk) -> Process:
    """A trader that hears the stream."""
    trader = desk.ready_trader()
    desk.heard()
    return trader


def rest(desk: Desk, quantity: str = "0.001", price: str = "40000") -> int:
    return desk.order("s", type="limit", quantity=quantity, limit_price=price)


def lose_events(desk: Desk, fault: str = "event_drop", times: int | None = None) -> None:
    desk.venue.fault(fault, endpoint=None, times=times, match=EXECUTION)


def fail_reads(desk: Desk) -> None:
    """Neither a look-up nor a poll can be answered."""
    for endpoint in (LOOK_UP, OPEN_ORDERS):
        desk.venue.fault("status", endpoint=endpoint, times=None)


def trade(desk: Desk, price: str = "39000") -> None:
    """Let the price come to the order that was made last, until all of it is traded."""
    while desk.venue.orders()[-1]["status"] != "FILLED":
        desk.venue.price(price)


def test_s08_in_doubt_and_then_the_stream_speaks_before_the_look_up(desk: Desk) -> None:
    """in doubt, then the stream says accepted before the look-up -> no resend."""
    listening(desk)
    fail_reads(desk)
    desk.venue.fault("drop_answer")
    lose_events(desk, times=1)  # of the acceptance
    order = rest(desk)
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt WHERE reason LIKE 'the look-up failed%%')")
    assert desk.value("SELECT held FROM order_in_doubt") == 40

    trade(desk)
    desk.wait_for_status(order, "filled")
    assert desk.value(SOURCES, order) == ["stream"]
    assert desk.value("SELECT held FROM allowance WHERE asset = 'USDT'") == 0
    assert len(desk.posts()) == 1
    desk.check()


def test_s08_the_stream_speaks_before_the_answer_is_lost(desk: Desk) -> None:
    """in doubt, then the stream says accepted before the look-up -> no resend. The doubt comes too late to be one."""
    listening(desk)
    desk.venue.fault("hang", seconds=4)
    order = rest(desk)
    desk.wait_for_status(order, "accepted")
    assert desk.value("SELECT EXISTS (SELECT FROM lane WHERE owner IS NOT NULL)")  # the answer is still awaited
    desk.wait_for("SELECT NOT EXISTS (SELECT FROM lane WHERE owner IS NOT NULL)")
    state = desk.execute(
        'SELECT status::text, in_doubt_since, attempt, venue_order_id FROM "order" WHERE id = %s', order
    )
    assert [*state[0]] == ["accepted", None, 1, str(desk.venue.orders()[0]["id"])]
    assert [one for one in desk.venue.log() if one["path"] == "/api/v3/order" and one["method"] == "GET"] == []
    assert len(desk.posts()) == 1
    desk.check()


def test_s12_the_same_fill_by_stream_and_poll_and_look_up_and_restart(desk: Desk) -> None:
    """the same fill by stream + poll + restart -> one row; its source says who was first."""
    first = listening(desk)
    fail_reads(desk)
    lose_events(desk, "event_duplicate")
    order = rest(desk)
    desk.wait_for_status(order, "accepted")
    trade(desk)
    desk.wait_for_status(order, "filled")
    booked = desk.execute("SELECT * FROM fill ORDER BY id")
    assert {row.source for row in booked} == {"stream"}

    first.kill()
    desk.venue.clear_faults()
    desk.venue.price("50000")
    again = desk.trader()
    desk.heard(2)
    lost = rest(desk)
    desk.wait_for_status(lost, "accepted")
    lose_events(desk)  # what the stream does not say is of the poll
    trade(desk)
    desk.wait_for_status(lost, "filled")
    assert desk.value(SOURCES, lost) == ["poll"]
    again.kill()
    desk.trader(), desk.trader()
    desk.wait_for_status(desk.order("s", side="sell"), "filled")
    assert desk.execute("SELECT * FROM fill WHERE order_id = %s ORDER BY id", order) == booked
    desk.check()


def test_s12_what_the_stream_loses_the_poll_brings(desk: Desk) -> None:
    """the same fill by stream + poll + restart -> one row. A part of the fills by each, then all of them once."""
    listening(desk)
    desk.venue.fault("event_drop", endpoint=None, times=None, match=EXECUTION, probability=0.5, seed=7)
    orders = [rest(desk, "0.0003", "40000") for _ in range(4)]
    for order in orders:
        desk.wait_for_status(order, "accepted")
    while any(one["status"] != "FILLED" for one in desk.venue.orders()):
        desk.venue.price("39000")
    for order in orders:
        assert desk.wait_for_status(order, "filled").filled_quantity == Decimal("0.0003")
    desk.check()


def test_s12_the_stream_is_cut_and_comes_back(desk: Desk) -> None:
    """the same fill by stream + poll + restart -> one row. The event that was cut off is polled, the next is heard."""
    trader = listening(desk)
    order = rest(desk)
    desk.wait_for_status(order, "accepted")
    lose_events(desk, "disconnect", times=1)
    trade(desk)
    desk.wait_for_status(order, "filled")
    desk.heard(2)
    desk.venue.price("50000")
    fail_reads(desk)
    order = rest(desk)
    desk.wait_for_status(order, "accepted")
    trade(desk)
    desk.wait_for_status(order, "filled")
    assert desk.value(SOURCES, order) == ["stream"]
    assert trader.output.count("its stream is down") == 1
    assert desk.venue.key not in trader.output
    assert desk.venue.secret not in trader.output
    assert trader.stop() == 0
    desk.check()


def test_s13_the_stream_swaps_and_repeats_events(desk: Desk) -> None:
    """fills out of order; fill before ack -> booked; status never goes backwards."""
    listening(desk)
    fail_reads(desk)
    desk.venue.fault("drop_answer")
    lose_events(desk, "event_reorder", times=1)  # the acceptance comes after the first fill
    lose_events(desk, "event_duplicate")
    order = rest(desk, "0.0016", "50100")
    state = desk.wait_for_status(order, "filled")
    assert state.filled_quantity == Decimal("0.0016")
    assert desk.value(SOURCES, order) == ["stream"]
    assert desk.value(STEPS, order) in (
        ["queued", "submitted", "filled"],
        ["queued", "submitted", "partially_filled", "filled"],
    )
    assert len(desk.posts()) == 1
    desk.check()


def test_s13_the_stream_swaps_the_fills_of_a_resting_order(desk: Desk) -> None:
    """fills out of order; fill before ack -> booked; status never goes backwards."""
    listening(desk)
    fail_reads(desk)
    order = rest(desk, "0.0016")
    desk.wait_for_status(order, "accepted")
    lose_events(desk, "event_reorder", times=1)
    desk.venue.price("39000")
    desk.venue.price("38000")
    trade(desk)
    desk.wait_for_status(order, "filled")
    assert desk.value(STEPS, order)[:3] == ["queued", "submitted", "accepted"]
    desk.check()


def test_a_stream_that_says_nothing_is_opened_anew(desk: Desk) -> None:
    """Its connection lives, its events do not come: the poll brings three facts, then the trader subscribes again."""
    trader = listening(desk)
    lose_events(desk)
    for _ in range(3):
        assert len(desk.subscriptions()) == 1
        order = rest(desk, "0.0003")
        desk.wait_for_status(order, "accepted")
        trade(desk)
        desk.wait_for_status(order, "filled")
        assert desk.value(SOURCES, order) == ["poll"]
        desk.venue.price("50000")
    desk.heard(2)
    assert "it said nothing while orders moved" in trader.output
    desk.check()


def test_the_stream_is_one_traders_and_another_takes_it_over(desk: Desk) -> None:
    """Two traders, one subscription; a killed listener is followed by the other."""
    first = listening(desk)
    desk.ready_trader()
    assert len(desk.subscriptions()) == 1
    first.kill()
    desk.heard(2)
    fail_reads(desk)
    order = rest(desk)
    desk.wait_for_status(order, "accepted")
    trade(desk)
    desk.wait_for_status(order, "filled")
    assert desk.value(SOURCES, order) == ["stream"]
    desk.check()


def test_an_account_without_its_stream_is_polled(desk: Desk) -> None:
    """stream = false, while the trader runs: it is listened to no more, and nothing else changes."""
    trader = listening(desk)
    desk.execute("UPDATE account SET stream = false")
    trader.wait_for_output("is polled only from now on")
    order = rest(desk, "0.0003")
    desk.wait_for_status(order, "accepted")
    trade(desk)
    desk.wait_for_status(order, "filled")
    assert desk.value(SOURCES, order) == ["poll"]
    desk.execute("UPDATE account SET stream = true")
    desk.heard(2)
    desk.check()
