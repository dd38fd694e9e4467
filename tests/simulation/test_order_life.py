"""Orders that wait for a price, time in force, orders after others and groups, with real traders and a venue."""

import contextlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.plugins.desk import Desk

MakeDesk = Callable[..., Desk]
CANCEL = "UPDATE orders SET cancel_requested_at = now() WHERE id = %s"
ENDS = ("filled", "canceled", "denied", "rejected", "expired")


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    """One strategy with 100 USDT, no trader yet, the price at 50,000."""
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    return desk


def bought(desk: Desk, quantity: str = "0.001") -> int:
    order = desk.order("s", quantity=quantity)
    assert desk.wait_for_status(order, *ENDS).status == "filled"
    return order


def looked_at(desk: Desk, order: int) -> None:
    """Wait until a trader has seen the order's price and decided from which side it comes."""
    desk.wait_for("SELECT trigger_when IS NOT NULL FROM orders WHERE id = %s", order)


def fill_at(desk: Desk, order: int, price: str) -> Any:
    """Pin the price until the order has ended: the venue gives a resting order a part at a time."""
    for _ in range(60):
        desk.venue.price(price)
        with contextlib.suppress(AssertionError):
            return desk.wait_for_status(order, *ENDS, patience=1.5)
    raise AssertionError(desk.state(order))


def events(desk: Desk, order: int) -> list[str]:
    return [
        row.s
        for row in desk.execute("SELECT to_status::text AS s FROM order_event WHERE order_id = %s ORDER BY id", order)
    ]


def sent(desk: Desk) -> list[dict[str, Any]]:
    return [entry for entry in desk.venue.log() if entry["method"] == "POST" and entry["path"] == "/api/v3/order"]


def test_a_stop_sell_waits_here_and_is_sent_once_when_the_price_falls(desk: Desk) -> None:
    desk.trader()
    bought(desk)
    stop = desk.order("s", side="sell", trigger_price="49000")
    looked_at(desk, stop)
    assert (desk.state(stop).status, desk.state(stop).trigger_when) == ("waiting", "falls")
    assert len(desk.venue.orders()) == 1
    assert desk.value("SELECT held FROM allowance WHERE asset = 'BTC'") == 0

    desk.venue.price("48990")
    order = desk.wait_for_status(stop, *ENDS)
    assert order.status == "filled"
    assert order.triggered_at is not None
    assert desk.value("SELECT reason FROM order_event WHERE order_id = %s AND to_status = 'queued'", stop) == (
        "triggered at 48990"
    )
    assert events(desk, stop)[:4] == ["waiting", "queued", "submitted", "filled"]
    assert len(desk.venue.orders()) == 2
    desk.check()


@pytest.mark.parametrize(
    ("fields", "price"),
    [
        ({"side": "buy", "quantity": "0.001", "trigger_price": "51000"}, "51000"),
        (
            {"side": "buy", "quantity": "0.001", "trigger_price": "49000", "type": "limit", "limit_price": "49100"},
            "48900",
        ),
        ({"side": "buy", "quantity": "0.001", "trigger_price": "50000"}, None),
        ({"side": "buy", "quantity": "0.001", "trigger_price": "60000", "trigger_when": "falls"}, None),
    ],
    ids=["breakout", "dip with a limit", "there already", "beyond already"],
)
def test_a_trigger_from_either_side(desk: Desk, fields: dict[str, str], price: str | None) -> None:
    desk.trader()
    order = desk.order("s", **fields)
    if price:
        looked_at(desk, order)
        desk.venue.price(price)
    assert desk.wait_for_status(order, *ENDS).status == "filled"
    desk.check()


def test_a_take_profit_that_triggers_with_a_limit_rests_until_its_price(desk: Desk) -> None:
    desk.trader()
    bought(desk)
    order = desk.order("s", side="sell", type="limit", trigger_price="55000", limit_price="56000")
    looked_at(desk, order)
    desk.venue.price("55500")
    desk.wait_for_status(order, "accepted")
    assert fill_at(desk, order, "56500").status == "filled"
    desk.check()


def test_a_trigger_survives_restarts_and_a_kill_between_trigger_and_claim(desk: Desk) -> None:
    first = desk.trader()
    bought(desk)
    stop = desk.order("s", side="sell", trigger_price="49000")
    looked_at(desk, stop)
    first.kill()
    desk.venue.price("48000")
    with desk.second_session() as other, other.transaction():
        other.execute("SELECT FROM lane FOR UPDATE")  # so that nobody can claim it yet
        second = desk.trader()
        desk.wait_for_status(stop, "queued")
        second.kill()
    assert len(desk.venue.orders()) == 1
    desk.trader()
    assert desk.wait_for_status(stop, *ENDS).status == "filled"
    assert len(desk.venue.orders()) == 2
    desk.check()


def test_a_kill_after_the_triggered_order_was_sent_sends_it_no_second_time(desk: Desk) -> None:
    desk.execute("UPDATE account SET receive_window = '1 s'")
    first = desk.trader()
    bought(desk)
    stop = desk.order("s", side="sell", trigger_price="49000")
    looked_at(desk, stop)
    desk.venue.fault("delay_answer", seconds=5)
    desk.venue.price("48000")
    desk.venue.wait_for_log(lambda entry: entry["fault"] == "delay_answer")
    first.kill()
    desk.trader()
    assert desk.wait_for_status(stop, *ENDS).status == "filled"
    assert len(desk.venue.orders()) == 2
    desk.check()


def test_two_traders_trigger_once(desk: Desk) -> None:
    desk.trader()
    desk.trader()
    bought(desk)
    stops = [desk.order("s", side="sell", quantity="0.0002", trigger_price="49000") for _ in range(4)]
    looked_at(desk, stops[-1])
    desk.venue.price("48000")
    for stop in stops:
        assert desk.wait_for_status(stop, *ENDS).status == "filled"
    assert len(desk.venue.orders()) == 5
    desk.check()


def test_a_halt_denies_what_triggers(desk: Desk) -> None:
    desk.trader()
    bought(desk)
    stop = desk.order("s", side="sell", trigger_price="49000")
    looked_at(desk, stop)
    desk.execute("UPDATE account SET halted = true WHERE name = 'main'")
    desk.venue.price("48000")
    order = desk.wait_for_status(stop, *ENDS)
    assert (order.status, order.reason) == ("denied", "account main is halted")
    assert len(desk.venue.orders()) == 1


def test_a_paused_strategys_trigger_waits(desk: Desk) -> None:
    desk.trader()
    order = desk.order("s", quantity="0.001", trigger_price="50000")
    other = desk.order("s", quantity="0.001", trigger_price="60000")
    desk.wait_for_status(order, "filled")
    desk.execute("UPDATE strategy SET enabled = false")
    desk.venue.price("61000")
    desk.strategy("t", deposit=100)
    seen = desk.order("t", quantity="0.001", trigger_price="60000", trigger_when="rises")
    desk.wait_for_status(seen, "filled")
    assert desk.state(other).status == "waiting"
    desk.execute("UPDATE strategy SET enabled = true")
    desk.venue.price("61000")
    assert desk.wait_for_status(other, *ENDS).triggered_at is not None


def test_a_waiting_order_expires_and_its_age_in_the_queue_counts_from_its_trigger(desk: Desk) -> None:
    desk.trader()
    soon = desk.value("SELECT clock_timestamp() + interval '1 s'")
    late = desk.order("s", quantity="0.001", trigger_price="40000", expires_at=soon)
    assert desk.state(late).expires_at == soon
    order = desk.wait_for_status(late, *ENDS)
    assert (order.status, order.reason) == ("expired", "it expired while it waited")
    assert desk.venue.orders() == []

    other = desk.order("s", quantity="0.001", trigger_price="50000")
    desk.wait_for_status(other, "filled")
    assert desk.value("SELECT expires_at > triggered_at FROM orders WHERE id = %s", other)


def test_a_waiting_order_is_canceled_without_the_venue(desk: Desk) -> None:
    desk.trader()
    order = desk.order("s", quantity="0.001", trigger_price="40000")
    looked_at(desk, order)
    desk.execute(CANCEL, order)
    assert (desk.state(order).status, desk.state(order).reason) == ("canceled", "canceled before it was sent")
    assert sent(desk) == []


@pytest.mark.parametrize(
    ("fields", "status", "filled"),
    [
        ({"time_in_force": "IOC", "limit_price": "51000"}, "filled", "0.001"),
        ({"time_in_force": "IOC", "limit_price": "49000"}, "expired", "0"),
        ({"time_in_force": "FOK", "limit_price": "51000"}, "filled", "0.001"),
        ({"time_in_force": "FOK", "limit_price": "49000"}, "expired", "0"),
        ({"time_in_force": "PO", "limit_price": "49000"}, "accepted", "0"),
        ({"time_in_force": "PO", "limit_price": "51000"}, "rejected", "0"),
        ({"time_in_force": "GTC", "limit_price": "49000"}, "accepted", "0"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else None,
)
def test_time_in_force(desk: Desk, fields: dict[str, str], status: str, filled: str) -> None:
    desk.trader()
    order = desk.wait_for_status(desk.order("s", type="limit", quantity="0.001", **fields), *ENDS, "accepted")
    assert (order.status, order.filled_quantity) == (status, Decimal(filled))
    if status == "rejected":
        assert "immediately match" in order.reason
    if status == "accepted":
        assert fill_at(desk, order.id, "48000").status == "filled"
    assert desk.value("SELECT held FROM allowance WHERE asset = 'USDT'") == 0
    desk.check()


def test_an_order_in_doubt_keeps_its_time_in_force_when_it_is_sent_again(desk: Desk) -> None:
    desk.execute("UPDATE account SET receive_window = '1 s'")
    desk.venue.fault("drop_request")
    order = desk.order("s", type="limit", quantity="0.001", limit_price="49000", time_in_force="IOC")
    desk.trader()
    assert desk.wait_for_status(order, *ENDS).status == "expired"
    assert desk.value('SELECT attempt FROM "order" WHERE id = %s', order) == 2
    desk.check()


def test_an_order_in_doubt_whose_cancel_is_requested_is_not_sent_again(desk: Desk) -> None:
    desk.execute("UPDATE account SET receive_window = '1 s'")
    desk.venue.fault("drop_request")
    order = desk.order("s", quantity="0.001")
    desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt)")
    desk.execute(CANCEL, order)
    state = desk.wait_for_status(order, *ENDS)
    assert (state.status, state.reason) == ("canceled", "canceled: it never reached the venue")
    assert desk.venue.orders() == []


def test_an_order_whose_cancel_is_requested_after_its_claim_is_not_sent(desk: Desk) -> None:
    desk.venue.fault("delay_answer", seconds=1)
    first, second = desk.order("s", quote_quantity="30"), desk.order("s", quote_quantity="20")
    desk.trader()
    desk.wait_for("SELECT count(*) = 2 FROM \"order\" WHERE status = 'submitted'")
    desk.execute(CANCEL, second)
    order = desk.wait_for_status(second, *ENDS)
    assert (order.status, order.reason) == ("canceled", "canceled before it was sent")
    assert desk.wait_for_status(first, *ENDS).status == "filled"
    assert len(desk.venue.orders()) == 1
    assert desk.value("SELECT held FROM allowance WHERE asset = 'USDT'") == 0


def test_an_exit_after_its_entry_sells_what_the_entry_filled(desk: Desk) -> None:
    entry = desk.order("s", type="limit", quantity="0.0012", limit_price="49000")
    out = desk.order("s", side="sell", after_id=entry)
    desk.trader()
    desk.wait_for_status(entry, "accepted")
    assert desk.state(out).status == "waiting"
    fill_at(desk, entry, "48000")
    order = desk.wait_for_status(out, *ENDS)
    assert order.status == "filled"
    fee = desk.value("SELECT sum(fee) FROM fill WHERE order_id = %s", entry)
    assert 0 <= Decimal("0.0012") - fee - order.filled_quantity < Decimal("0.00001")
    desk.check()


def test_an_exit_after_an_entry_that_was_partly_filled_and_one_that_never_was(desk: Desk) -> None:
    desk.venue.fault("partial", fraction=0.5)
    part = desk.order("s", type="limit", quantity="0.001", limit_price="51000")
    out = desk.order("s", side="sell", after_id=part)
    never = desk.order("s", quantity="9")
    orphan = desk.order("s", side="sell", after_id=never)
    desk.trader()
    desk.wait_for_status(part, "partially_filled")
    assert desk.wait_for_status(orphan, *ENDS).status == "canceled"
    assert desk.state(orphan).reason == f"order {never}, for which it waited, is denied"
    desk.execute(CANCEL, part)
    assert desk.wait_for_status(out, *ENDS).status == "filled"
    assert desk.state(part).status == "canceled"
    assert 0 < desk.state(out).filled_quantity < Decimal("0.001")
    desk.check()


def bracket(desk: Desk) -> tuple[int, int, int]:
    """As docs/orders.md shows it: a buy, and two ways out of which one cancels the other."""
    entry = desk.order("s", quantity="0.001")
    profit = desk.order("s", side="sell", type="limit", limit_price="55000", after_id=entry, parent_id=entry)
    stop = desk.order("s", side="sell", trigger_price="45000", trigger_when="falls", after_id=entry, parent_id=entry)
    return entry, profit, stop


def test_a_bracket_that_takes_its_profit(desk: Desk) -> None:
    entry, profit, stop = bracket(desk)
    desk.trader()
    desk.wait_for_status(profit, "accepted")
    assert (desk.state(entry).status, desk.state(stop).status) == ("filled", "waiting")
    assert fill_at(desk, profit, "55500").status == "filled"
    order = desk.wait_for_status(stop, *ENDS)
    assert (order.status, order.reason) == ("canceled", f"order {profit} of its group has traded")
    assert len(desk.venue.orders()) == 2
    desk.check()


def test_a_bracket_that_is_stopped_out(desk: Desk) -> None:
    _, profit, stop = bracket(desk)
    desk.trader()
    desk.wait_for_status(profit, "accepted")
    desk.venue.price("44000")
    order = desk.wait_for_status(stop, *ENDS)
    assert order.status == "filled"
    assert desk.state(profit).status == "canceled"
    assert len(desk.venue.orders()) == 3
    assert desk.value("SELECT coalesce(sum(total), 0) < 0.00001 FROM allowance WHERE asset = 'BTC'")
    desk.check()


def test_a_bracket_whose_trader_dies_while_it_changes_its_exit(desk: Desk) -> None:
    _, profit, stop = bracket(desk)
    first = desk.trader()
    desk.wait_for_status(profit, "accepted")
    desk.venue.fault("delay_answer", endpoint="DELETE /api/v3/order", seconds=3)
    desk.venue.price("44000")
    desk.wait_for("SELECT triggered_at IS NOT NULL FROM orders WHERE id = %s", stop)
    first.kill()
    desk.venue.price("46000")  # it has triggered: that the price goes back changes nothing
    desk.trader()
    assert desk.wait_for_status(stop, *ENDS).status == "filled"
    assert desk.state(profit).status == "canceled"
    desk.check()


def test_the_fill_that_comes_before_the_cancel_ends_the_stop(desk: Desk) -> None:
    _, profit, stop = bracket(desk)
    first = desk.trader()
    desk.wait_for_status(profit, "accepted")
    desk.venue.fault("reject", endpoint="DELETE /api/v3/order", code=-2011, message="Unknown order sent.", times=1000)
    desk.venue.price("44000")
    desk.wait_for("SELECT triggered_at IS NOT NULL FROM orders WHERE id = %s", stop)
    assert desk.state(stop).status == "waiting"
    assert fill_at(desk, profit, "56000").status == "filled"
    order = desk.wait_for_status(stop, *ENDS)
    assert (order.status, order.reason) == ("canceled", f"order {profit} of its group has traded")
    assert first.alive
    desk.check()


def test_two_entries_at_the_venue_of_which_one_cancels_the_other(desk: Desk) -> None:
    desk.trader()
    first = desk.order("s", type="limit", quantity="0.001", limit_price="49000")
    low = desk.order("s", type="limit", quantity="0.0005", limit_price="40000", parent_id=first)
    high = desk.order("s", type="limit", quantity="0.0005", limit_price="45000", parent_id=first)
    for order in (first, low, high):
        desk.wait_for_status(order, "accepted")
    desk.execute(CANCEL, first)
    assert fill_at(desk, high, "44000").status in ("filled", "canceled")
    assert desk.wait_for_status(low, *ENDS).status == "canceled"
    desk.check()
