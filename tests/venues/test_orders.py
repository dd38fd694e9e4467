"""The life of an order, the same at each venue: what is sent, what it becomes, and books that agree on both sides."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.venues._desk import VenueDesk

MakeDesk = Callable[..., VenueDesk]
ENDED = ("filled", "canceled", "expired", "rejected", "denied")
FEES = "SELECT DISTINCT a.code, f.side::text AS side FROM fill f JOIN asset a ON a.id = f.fee_asset_id ORDER BY 1, 2"


def test_a_market_buy_by_money(desk: VenueDesk) -> None:
    desk.start()
    order = desk.wait_for_status(desk.buy(quote_quantity="60"), *ENDED)
    assert order.status == "filled", order.reason
    assert 59 < order.filled_quote <= 60
    assert desk.held() == 0
    desk.check()


def test_a_market_buy_by_quantity(desk: VenueDesk) -> None:
    desk.start()
    order = desk.wait_for_status(desk.buy(quantity="0.001"), *ENDED)
    assert (order.status, order.filled_quantity) == ("filled", Decimal("0.001")), order.reason
    assert desk.held() == 0
    desk.check()


def test_selling_all_leaves_less_than_a_step(desk: VenueDesk) -> None:
    """What a sale can sell is what the buy brought in, less its fee where that is taken in base."""
    desk.start()
    desk.wait_for_status(desk.buy(quantity="0.0015"), "filled")
    order = desk.wait_for_status(desk.sell(), *ENDED)
    assert order.status == "filled", order.reason
    assert 0 <= desk.free("BTC") < Decimal("0.00001")
    desk.check()


def test_a_limit_buy_rests_and_is_filled(desk: VenueDesk) -> None:
    desk.start()
    order = desk.buy(type="limit", quantity="0.001", limit_price="49000")
    desk.wait_for_status(order, "accepted")
    assert desk.held() >= 49
    desk.check()
    desk.venue.price("48900")
    assert desk.wait_for_status(order, *ENDED).filled_quantity == Decimal("0.001")
    assert desk.state(order).status == "filled"
    assert desk.held() == 0
    desk.check()


def test_the_venue_knows_the_order_by_our_id(desk: VenueDesk) -> None:
    """The id on the wire is the order's UUID; which field carries it is the venue's affair."""
    desk.start()
    state = desk.wait_for_status(desk.buy(quantity="0.001"), *ENDED)
    (at_venue,) = desk.venue.orders()
    assert at_venue["client_order_id"] == str(state.client_order_id)
    (sent,) = desk.venue.creates()
    named = {"kraken": "cl_ord_id", "bybit": "orderLinkId"}.get(desk.venue.ccxt_id)
    assert (sent.fields[named] if named else sent["client_order_id"]) == str(state.client_order_id)


@pytest.mark.parametrize("venue", ["kraken", "bybit"])
def test_an_answer_of_ids_only_is_no_status(make_venue_desk: MakeDesk, venue: str) -> None:
    """Between the answer and the look the order is accepted, its funds are held; the look brings the fills."""
    desk = make_venue_desk(venue)
    desk.venue.fail(500, act=False, kind="fills", times=3)  # the look waits for this
    desk.start()
    order = desk.buy(quantity="0.001")
    desk.wait_for_status(order, "accepted")
    assert desk.state(order).venue_order_id == desk.venue.orders()[0]["order_id"]
    assert desk.held() > 50
    assert desk.wait_for_status(order, *ENDED).status == "filled"
    assert desk.value("SELECT array_agg(DISTINCT source::text) FROM fill") == ["poll"]
    desk.check()


def test_a_partial_fill_and_a_cancel(desk: VenueDesk) -> None:
    desk.venue.partial()
    desk.start()
    order = desk.buy(type="limit", quantity="0.0016", limit_price="50100")
    assert desk.wait_for_status(order, "partially_filled").filled_quantity == Decimal("0.0008")
    desk.venue.price("51000")
    desk.cancel(order)
    bought = desk.wait_for_status(order, *ENDED)
    assert (bought.status, bought.filled_quantity) == ("canceled", Decimal("0.0008"))
    assert desk.held() == 0
    desk.check()


def test_the_fill_wins_against_the_cancel(desk: VenueDesk) -> None:
    """The venue has filled it before the cancel gets there: refused there, and filled here."""
    trader = desk.start()
    order = desk.buy(type="limit", quantity="0.001", limit_price="49000")
    desk.wait_for_status(order, "accepted")
    trader.kill()
    desk.venue.price("48900")
    desk.wait_until_filled_at_venue()
    desk.cancel(order)
    desk.start()
    ended = desk.wait_for_status(order, *ENDED)
    assert (ended.status, ended.filled_quantity) == ("filled", Decimal("0.001"))
    assert ended.reason == "the fill came before the cancel"
    desk.check()


def test_what_the_venue_does_not_take_at_once(desk: VenueDesk) -> None:
    """Post-only that would trade: nothing is bought. IOC and FOK that cannot trade: over at once, nothing rests."""
    desk.start()
    limits = {"PO": "50500", "IOC": "49000", "FOK": "49000"}
    for force, limit in limits.items():
        order = desk.buy(type="limit", quantity="0.001", limit_price=limit, time_in_force=force)
        ended = desk.wait_for_status(order, *ENDED)
        assert ended.status in ("rejected", "canceled", "expired"), (force, ended.status, ended.reason)
        assert ended.filled_quantity == 0
        assert desk.held() == 0
    assert len(desk.venue.creates()) == 3
    desk.check()


def test_what_the_venue_takes(desk: VenueDesk) -> None:
    """Post-only that rests, IOC of which a part trades, FOK that trades whole."""
    desk.start()
    resting = desk.buy(type="limit", quantity="0.0002", limit_price="49000", time_in_force="PO")
    desk.wait_for_status(resting, "accepted")
    whole = desk.buy(type="limit", quantity="0.0004", limit_price="50500", time_in_force="FOK")
    assert desk.wait_for_status(whole, *ENDED).filled_quantity == Decimal("0.0004")
    desk.venue.partial()
    part = desk.wait_for_status(
        desk.buy(type="limit", quantity="0.0008", limit_price="50500", time_in_force="IOC"), *ENDED
    )
    assert (part.status, part.filled_quantity) in [("canceled", Decimal("0.0004")), ("expired", Decimal("0.0004"))]
    assert desk.state(resting).status == "accepted"
    desk.check()


@pytest.mark.parametrize(
    ("venue", "asset", "paid"),
    [
        ("binance", None, {("BTC", "buy"), ("USDT", "sell")}),
        ("kraken", None, {("USDT", "buy"), ("USDT", "sell")}),
        ("bybit", None, {("BTC", "buy"), ("USDT", "sell")}),
        ("binance", "BNB", {("BNB", "buy"), ("BNB", "sell")}),
        ("bybit", "BNB", {("BNB", "buy"), ("BNB", "sell")}),
    ],
)
def test_each_fee_is_booked_in_its_own_asset(
    make_venue_desk: MakeDesk, venue: str, asset: str | None, paid: set[Any]
) -> None:
    """In base, in quote, in a third one. What a venue names wins over what ccxt guesses."""
    desk = make_venue_desk(venue, *(["--fee-asset", "BNB"] if asset and venue == "binance" else []))
    if asset and venue == "bybit":
        desk.venue.pay_fees_in(asset)
    desk.start()
    desk.wait_for_status(desk.buy(quantity="0.001"), "filled")
    desk.wait_for_status(desk.sell(quantity="0.0005"), "filled")
    assert {(row.code, row.side) for row in desk.execute(FEES)} == paid
    desk.check()
