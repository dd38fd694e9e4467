"""Scenarios 11-18: fills and ends that come late, twice, in the wrong order, or against a cancel."""

import asyncio
from decimal import Decimal

import pytest

from tests.plugins.desk import Desk, Process
from trader.db import Identity, connect
from trader.exchange.protocol import FillReport, OrderReport
from trader.order import Outcome
from trader.settle import settle

CANCEL = "DELETE /api/v3/order"
STEPS = """SELECT array_agg(to_status::text ORDER BY id) FROM order_event
  WHERE order_id = %s AND from_status IS DISTINCT FROM to_status"""


def limit(desk: Desk, quantity: str = "0.001", price: str = "40000") -> int:
    return desk.order("s", type="limit", quantity=quantity, limit_price=price)


def sent_by_one_who_hangs(desk: Desk, order_fields: dict[str, str]) -> tuple[int, Process]:
    """An order whose answer waits for a trader that is paused, and whose lease has ended."""
    slow = desk.ready_trader()
    desk.venue.fault("delay_answer", seconds=1)
    order = desk.order("s", **order_fields)
    desk.sent()
    slow.pause()
    desk.end_leases()
    return order, slow


def cancel(desk: Desk, order: int) -> None:
    desk.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", order)


def test_s11_the_ack_and_the_fill_come_after_the_order_was_closed(desk: Desk) -> None:
    """late ack or fill after the order was closed -> booked, flagged as an incident.

    A venue whose look-ups lie for longer than it takes requests: the order is closed as never placed.
    """
    desk.venue.hide_orders()
    order, slow = sent_by_one_who_hangs(desk, {"quote_quantity": "60"})
    desk.execute("UPDATE account SET halted = true WHERE name = 'main'")
    desk.trader()
    assert desk.wait_for_status(order, "denied", "filled").status == "denied"
    slow.wake()

    desk.wait_for("SELECT EXISTS (SELECT FROM incident)")
    incident = desk.execute("SELECT * FROM incident WHERE kind = 'late fill'")[0]
    assert (incident.kind, incident.severity, incident.order_id) == ("late fill", "critical", order)
    assert desk.state(order).status == "denied"
    assert 59 < desk.state(order).filled_quote <= 60
    assert desk.value("SELECT free FROM allowance WHERE asset = 'USDT'") == 100 - desk.state(order).filled_quote
    desk.check()


def test_s11_the_ack_of_an_order_that_rests_comes_after_it_was_closed(desk: Desk) -> None:
    """late ack or fill after the order was closed -> booked, flagged as an incident."""
    desk.venue.hide_orders()
    order, slow = sent_by_one_who_hangs(desk, {"type": "limit", "quantity": "0.001", "limit_price": "40000"})
    desk.execute("UPDATE account SET halted = true WHERE name = 'main'")
    desk.trader()
    assert desk.wait_for_status(order, "denied", "accepted").status == "denied"
    slow.wake()

    desk.wait_for("SELECT EXISTS (SELECT FROM incident)")
    (incident,) = desk.execute("SELECT * FROM incident")
    name = str(desk.venue.orders()[0]["id"])
    assert (incident.kind, incident.severity, incident.order_id) == ("late acceptance", "critical", order)
    assert (
        incident.message == f"the venue has accepted it as {name} after it was denied; if it is open, cancel it there"
    )
    assert (desk.state(order).status, desk.state(order).venue_order_id) == ("denied", name)
    desk.check()


def test_s12_the_same_fill_by_answer_and_look_up_and_poll_and_restart(desk: Desk) -> None:
    """the same fill by stream + poll + restart -> one row. (There are no streams yet: by answer, look-up and poll.)"""
    desk.venue.fault("partial")
    first = desk.trader()
    order = limit(desk, "0.0016", "50100")  # half of it fills at once, and comes with the answer
    desk.wait_for_status(order, "partially_filled")
    booked = desk.value("SELECT count(*) FROM fill")
    again = OrderReport(desk.state(order).venue_order_id, None, "BTC/USDT", "partially_filled", None, ())
    for source in ("look-up", "poll"):  # what both would say of what the answer said already
        asyncio.run(told(desk, Outcome(order, None, "accepted", source, again, tuple(fills_of(desk, order)))))
    first.kill()
    desk.trader(), desk.trader()
    desk.venue.price("50050")
    desk.wait_for("SELECT status = 'filled' FROM \"order\" WHERE id = %s", order)
    assert desk.value("SELECT count(*) FROM fill WHERE source = 'answer'") == booked
    assert desk.value("SELECT sum(quantity) FROM fill") == Decimal("0.0016")
    desk.check()


def fills_of(desk: Desk, order: int) -> list[FillReport]:
    """The order's fills as they were reported."""
    rows = desk.execute(
        "SELECT f.*, a.code FROM fill f LEFT JOIN asset a ON a.id = fee_asset_id WHERE order_id = %s", order
    )
    venue_order_id = desk.state(order).venue_order_id
    return [
        FillReport(
            row.trade_id,
            venue_order_id,
            row.side,
            row.quantity,
            row.price,
            row.fee,
            row.code,
            row.liquidity,
            row.traded_at,
        )
        for row in rows
    ]


async def told(desk: Desk, *outcomes: Outcome) -> None:
    """Settle what a trader would have been told."""
    async with await connect(desk.url, Identity("trader", "a test")) as connection, connection.transaction():
        await settle(connection, outcomes)


def test_s13_the_fill_is_known_before_the_ack(desk: Desk) -> None:
    """fills out of order; fill before ack -> booked; status never goes backwards."""
    order, slow = sent_by_one_who_hangs(desk, {"type": "limit", "quantity": "0.001", "limit_price": "40000"})
    while desk.venue.orders()[-1]["status"] != "FILLED":
        desk.venue.price("39000")
    desk.trader()
    desk.wait_for_status(order, "filled")
    slow.wake()  # and is told now that the order was accepted, with nothing filled
    desk.wait_for("SELECT NOT EXISTS (SELECT FROM lane WHERE owner IS NOT NULL)")
    desk.wait_for_status(desk.order("s", quote_quantity="10"), "filled")
    assert desk.value(STEPS, order) == ["queued", "submitted", "filled"]
    desk.check()


def test_s13_the_second_fill_is_known_before_the_first(desk: Desk) -> None:
    """fills out of order; fill before ack -> booked; status never goes backwards."""
    desk.venue.fault("partial")
    trader = desk.trader()
    order = limit(desk, "0.0016", "50100")
    state = desk.wait_for_status(order, "partially_filled")
    trader.kill()
    late = FillReport(
        "900", state.venue_order_id, "buy", Decimal("0.0001"), Decimal(50000), Decimal(0), None, None, state.updated_at
    )
    early = FillReport(
        "800", state.venue_order_id, "buy", Decimal("0.0001"), Decimal(50000), Decimal(0), None, None, state.created_at
    )
    report = OrderReport(
        state.venue_order_id, None, "BTC/USDT", "accepted", state.filled_quantity + Decimal("0.0002"), ()
    )
    for fill in (late, early):
        asyncio.run(told(desk, Outcome(order, None, "accepted", "poll", report, (fill,))))
        assert desk.state(order).status == "partially_filled"
    assert desk.state(order).filled_quantity == state.filled_quantity + Decimal("0.0002")
    assert desk.value("SELECT array_agg(trade_id ORDER BY id) FROM fill WHERE trade_id IN ('800', '900')") == [
        "900",
        "800",
    ]
    assert desk.execute("SELECT * FROM invariant_violation") == []  # the venue knows nothing of these two


def test_s14_the_fill_wins_against_the_cancel(desk: Desk) -> None:
    """cancel requested, the fill wins -> filled; the cancel is recorded as refused."""
    trader = desk.trader()
    order = limit(desk)
    desk.wait_for_status(order, "accepted")
    trader.pause()
    while desk.venue.orders()[-1]["status"] != "FILLED":
        desk.venue.price("39000")
    cancel(desk, order)
    trader.wake()

    state = desk.wait_for_status(order, "filled", "canceled")
    assert (state.status, state.reason) == ("filled", "the fill came before the cancel")
    assert desk.value(STEPS, order) == ["queued", "submitted", "accepted", "pending_cancel", "filled"]
    refused = desk.venue.wait_for_log(lambda one: one["method"] == "DELETE")
    assert (refused["outcome"], refused["code"]) == ("refused", -2011)
    assert desk.value("SELECT sum(held) FROM allowance") == 0
    desk.check()


@pytest.mark.parametrize("fault", ["drop_answer", "drop_request"])
def test_s15_the_reply_to_the_cancel_is_lost(desk: Desk, fault: str) -> None:
    """cancel reply lost -> pending_cancel until proved."""
    desk.trader()
    order = limit(desk)
    desk.wait_for_status(order, "accepted")
    for endpoint in ("GET /api/v3/openOrders", "GET /api/v3/order"):
        desk.venue.fault("status", endpoint=endpoint, times=None)
    desk.venue.fault(fault, endpoint=CANCEL)
    cancel(desk, order)
    desk.venue.wait_for_log(lambda one: one["method"] == "DELETE" and one["fault"] == fault)
    reads = len(desk.venue.log())
    desk.venue.wait_for_log(lambda one: one["id"] > reads and one["path"] == "/api/v3/openOrders")
    assert desk.state(order).status == "pending_cancel"
    assert desk.value("SELECT held FROM allowance WHERE asset = 'USDT'") == 40

    desk.venue.clear_faults()
    assert desk.wait_for_status(order, "canceled", "filled").reason == "canceled as requested"
    assert desk.value("SELECT free FROM allowance") == 100
    desk.check()


def test_s15_the_cancel_of_an_order_in_doubt_that_never_arrived(desk: Desk) -> None:
    """cancel reply lost -> pending_cancel until proved. The same for an order in doubt: proved absent, it is canceled
    and not sent again."""
    desk.venue.fault("drop_request")
    desk.venue.fault("lookup_error", endpoint="GET /api/v3/order", times=None)
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt)")
    cancel(desk, order)
    assert desk.state(order).status == "submitted"
    desk.venue.clear_faults()
    state = desk.wait_for_status(order, "canceled", "filled", "denied")
    assert (state.status, state.reason) == ("canceled", "canceled: it never reached the venue")
    assert len(desk.posts()) == 1
    assert desk.value("SELECT free FROM allowance") == 100
    desk.check()


def test_s15_the_cancel_of_an_order_that_waits_for_its_send(desk: Desk) -> None:
    """cancel reply lost -> pending_cancel until proved. What is claimed and was not sent yet is not sent any more."""
    desk.ready_trader()
    desk.venue.fault("delay_answer", seconds=1)
    with desk.sql.transaction():  # both into one claim
        first, second = desk.order("s", quote_quantity="30"), desk.order("s", quote_quantity="20")
    desk.wait_for("SELECT count(*) = 2 FROM \"order\" WHERE status = 'submitted'")
    cancel(desk, second)
    state = desk.wait_for_status(second, "canceled", "filled", "denied")
    assert (state.status, state.reason) == ("canceled", "canceled before it was sent")
    desk.wait_for_status(first, "filled")
    assert len(desk.posts()) == 1
    desk.check()


def test_s16_canceled_after_a_partial_fill(desk: Desk) -> None:
    """partial fill then cancel -> the exact remainder released; the exit uses the filled quantity."""
    desk.venue.fault("partial")
    desk.trader()
    order = limit(desk, "0.0016", "50100")
    desk.wait_for_status(order, "partially_filled")
    desk.venue.price("51000")
    cancel(desk, order)
    bought = desk.wait_for_status(order, "canceled")
    assert bought.filled_quantity == Decimal("0.0008")
    usdt = desk.execute("SELECT free, held FROM allowance WHERE asset = 'USDT'")[0]
    assert (usdt.free, usdt.held) == (100 - bought.filled_quote, 0)

    sold = desk.wait_for_status(desk.order("s", side="sell"), "filled", "denied")
    assert sold.filled_quantity == Decimal("0.00079")  # what was filled, less the fee of 0.1 %, in whole steps
    desk.check()


def test_s17_a_partial_fill_below_the_minimum_is_dust_that_is_seen(desk: Desk) -> None:
    """partial below min notional -> not turned into unsellable dust silently; dust is visible."""
    desk.venue.fault("partial", fraction="0.05")
    desk.trader()
    order = limit(desk, "0.0016", "50100")
    desk.wait_for_status(order, "partially_filled")
    desk.venue.price("51000")
    cancel(desk, order)
    assert desk.wait_for_status(order, "canceled").filled_quantity == Decimal("0.00008")

    sold = desk.wait_for_status(desk.order("s", side="sell"), "denied", "filled", "rejected")
    assert sold.status == "denied"
    assert "is below the minimum of 5" in sold.reason
    assert desk.value("SELECT total FROM holding WHERE asset = 'BTC'") == Decimal("0.00007992")
    assert desk.value("SELECT quantity FROM position") == Decimal("0.00007992")
    desk.check()


def test_s18_the_venue_cancels_it(desk: Desk) -> None:
    """venue cancels or expires it -> status with reason; reservation released once."""
    desk.trader()
    order = limit(desk)
    desk.venue.cancel_by_itself(desk.wait_for_status(order, "accepted").venue_order_id)
    assert desk.wait_for_status(order, "canceled").reason == "canceled at the venue"
    assert desk.value("SELECT free FROM allowance") == 100
    desk.check()


def test_s18_the_venue_expires_the_rest(desk: Desk) -> None:
    """venue cancels or expires it -> status with reason; reservation released once."""
    desk.venue.fault("partial")
    desk.trader()
    order = desk.wait_for_status(desk.order("s", quote_quantity="60"), "expired", "filled")
    assert (order.status, order.reason) == ("expired", "expired at the venue")
    assert 0 < order.filled_quote < 31
    usdt = desk.execute("SELECT free, held FROM allowance WHERE asset = 'USDT'")[0]
    assert (usdt.free, usdt.held) == (100 - order.filled_quote, 0)
    desk.check()
