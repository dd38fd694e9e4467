"""Trailing stops with real traders and a venue: up, up, down, and whoever dies on the way."""

from collections.abc import Callable
from decimal import Decimal

import pytest

from tests.plugins.desk import Desk

MakeDesk = Callable[..., Desk]
ENDS = ("filled", "canceled", "denied", "rejected", "expired")
PRICE = "GET /api/v3/ticker/24hr"
STANDS = "SELECT trigger_price = %s FROM orders WHERE id = %s"


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    """One strategy with 100 USDT, no trader yet, the price at 50,000."""
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    return desk


def bought(desk: Desk) -> int:
    order = desk.order("s", quantity="0.001")
    assert desk.wait_for_status(order, *ENDS).status == "filled"
    return order


def go(desk: Desk, order: int, price: str, stands: str) -> None:
    """Move the price, and wait until the row says so."""
    desk.venue.price(price)
    desk.wait_for(STANDS, Decimal(stands), order)


def looks(desk: Desk) -> int:
    """How often the venue was asked for a price."""
    return sum(f"{one['method']} {one['path']}" == PRICE for one in desk.venue.log())


def seen(desk: Desk, price: str) -> None:
    """Move the price, and wait until a trader has done what it does at it: it asks again after that."""
    desk.venue.price(price)
    before = looks(desk)
    desk.venue.wait_for_log(lambda _: looks(desk) >= before + 2)


def test_up_up_down_it_sells_at_the_share_below_the_highest_price(desk: Desk) -> None:
    desk.trader()
    bought(desk)
    stop = desk.order("s", side="sell", trail="0.04")
    go(desk, stop, "50000", "48000")
    go(desk, stop, "52000", "49920")
    go(desk, stop, "55000", "52800")
    seen(desk, "53000")
    assert (desk.state(stop).status, desk.state(stop).trigger_price) == ("waiting", 52_800)
    assert len(desk.venue.orders()) == 1
    desk.venue.price("52800")
    order = desk.wait_for_status(stop, *ENDS)
    assert (order.status, order.trigger_price) == ("filled", 52_800)
    assert Decimal("52700") < order.average_price <= 52_800
    reason = "SELECT reason FROM order_event WHERE order_id = %s AND to_status = 'queued'"
    assert desk.value(reason, stop) == "triggered at 52800"
    assert len(desk.venue.orders()) == 2
    desk.check()


def test_a_kill_between_peak_and_fall_forgets_no_peak_and_sends_one_order(desk: Desk) -> None:
    first = desk.trader()
    bought(desk)
    stop = desk.order("s", side="sell", trail="0.1")
    go(desk, stop, "60000", "54000")
    first.kill()
    desk.venue.price("54500")
    second = desk.trader()
    seen(desk, "54400")  # it has the old peak, else this would be far above a stop of its own
    assert (desk.state(stop).status, desk.state(stop).trigger_price) == ("waiting", 54_000)
    second.kill()
    desk.venue.price("53900")
    with desk.second_session() as other, other.transaction():
        other.execute("SELECT FROM lane FOR UPDATE")  # so that nobody can claim it yet
        third = desk.trader()
        desk.wait_for_status(stop, "queued")
        third.kill()
    desk.venue.price("70000")  # triggered is triggered
    desk.trader()
    assert desk.wait_for_status(stop, *ENDS).status == "filled"
    assert len(desk.venue.orders()) == 2
    desk.check()


def test_two_traders_and_a_venue_that_cannot_be_read_for_a_while(desk: Desk) -> None:
    desk.trader()
    desk.trader()
    bought(desk)
    stops = [desk.order("s", side="sell", quantity="0.0002", trail="0.1") for _ in range(4)]
    for stop in stops:
        go(desk, stop, "60000", "54000")
    desk.venue.fault("status", endpoint=PRICE, status=503, times=2)
    desk.venue.price("62000")
    desk.venue.wait_for_log(lambda entry: entry["fault"] == "status")
    for stop in stops:
        desk.wait_for(STANDS, 55_800, stop)
    desk.venue.price("55800")
    for stop in stops:
        assert desk.wait_for_status(stop, *ENDS).status == "filled"
    assert len(desk.venue.orders()) == 5
    desk.check()


def test_a_bracket_whose_stop_trails_begins_at_the_fill_and_takes_the_target_along(desk: Desk) -> None:
    """The entry is filled at 49,000 while a high of 50,000 was seen before: that does not count."""
    entry = desk.order("s", type="limit", quantity="0.001", limit_price="49000")
    both = {"side": "sell", "after_id": entry, "parent_id": entry}
    target = desk.order("s", type="limit", limit_price="90000", **both)
    stop = desk.order("s", trail="0.1", **both)
    desk.trader()
    desk.wait_for_status(entry, "accepted")
    desk.venue.price("48900")
    desk.wait_for("SELECT filled_quantity > 0 FROM orders WHERE id = %s", entry)
    while desk.state(entry).status != "filled":  # the venue gives a resting order a part at a time
        desk.venue.price("48900")
    desk.wait_for_status(target, "accepted")
    desk.wait_for(STANDS, Decimal("44100"), stop)
    go(desk, stop, "60000", "54000")
    desk.venue.price("53000")
    assert desk.wait_for_status(stop, *ENDS).status == "filled"
    assert desk.state(target).status == "canceled"
    desk.check()


def test_a_buy_waits_for_the_turn_after_a_fall(desk: Desk) -> None:
    desk.trader()
    order = desk.order("s", quantity="0.001", trail="0.02")
    go(desk, order, "50000", "51000")
    go(desk, order, "45000", "45900")
    desk.venue.price("45900")
    assert desk.wait_for_status(order, *ENDS).status == "filled"
    desk.check()
