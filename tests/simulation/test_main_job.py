"""The main job: a deposit becomes an order, the order a fill, the fill a position, to the cent, at both sides."""

from collections.abc import Callable
from decimal import Decimal

import pytest

from tests.plugins.desk import Desk

MakeDesk = Callable[..., Desk]


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    """One strategy with 100 USDT, one trader, the price at 50,000."""
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("momentum", deposit=100)
    desk.trader()
    return desk


@pytest.mark.parametrize(
    ("fields", "filled"),
    [
        ({"quantity": "0.001"}, Decimal("0.001")),
        ({"quantity": "0.0010099"}, Decimal("0.00100")),
        ({"quote_quantity": "50"}, None),
        ({}, None),
        ({"type": "limit", "quantity": "0.001", "limit_price": "51000.009"}, Decimal("0.001")),
        ({"type": "limit", "quote_quantity": "51", "limit_price": "51000"}, Decimal("0.001")),
    ],
    ids=["quantity", "quantity off the step", "quote quantity", "stake", "limit", "limit by quote quantity"],
)
def test_a_buy_of_every_kind_is_filled_and_accounted(
    desk: Desk, fields: dict[str, str], filled: Decimal | None
) -> None:
    order = desk.wait_for_status(desk.order("momentum", **fields), "filled", "denied", "rejected", "expired")

    assert order.status == "filled", order.reason
    if filled is not None:
        assert order.filled_quantity == filled
    assert order.filled_quote <= 100
    desk.check()
    fee = desk.value("SELECT sum(fee) FROM fill JOIN asset a ON a.id = fee_asset_id WHERE a.code = 'BTC'")
    assert desk.value("SELECT total FROM holding WHERE asset = 'BTC'") == order.filled_quantity - fee


def test_a_sell_gives_back_all_but_dust_and_realises_the_result(desk: Desk) -> None:
    desk.wait_for_status(desk.order("momentum", quote_quantity="80"), "filled")
    desk.venue.price("60000")
    sold = desk.wait_for_status(desk.order("momentum", side="sell"), "filled")

    assert sold.realised > 10
    performance = desk.execute("SELECT * FROM performance")[0]
    assert performance.realised == sold.realised
    assert (performance.trades, performance.win_percent) == (1, 100)
    assert 0 <= desk.value("SELECT coalesce(sum(total), 0) FROM holding WHERE asset = 'BTC'") < Decimal("0.00001")
    assert abs(performance.profit - performance.realised - performance.unrealised) < Decimal("0.000001")
    desk.check()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"quote_quantity": "101"}, "the allowance is 100 USDT, the order needs 101"),
        ({"quantity": "0.0021"}, "the allowance is 100 USDT"),
        ({"quote_quantity": "4"}, "below the minimum of 5"),
        ({"quantity": "0.00000999"}, "below one step (0.00001)"),
        ({"quantity": "0.00001"}, "below the minimum of 5"),
        ({"side": "sell"}, "nothing to sell"),
        ({"side": "sell", "quantity": "1"}, "the allowance is 0 BTC"),
        ({"quantity": "0.001", "expires_at": "2020-01-01"}, "stale: it expired at 2020-01-01 00:00:00 UTC"),
        (
            {"type": "limit", "quantity": "0.01", "limit_price": "50000"},
            "the allowance is 100 USDT, the order needs 500",
        ),
    ],
)
def test_what_cannot_be_sent_is_denied_with_the_reason(desk: Desk, fields: dict[str, str], reason: str) -> None:
    order = desk.wait_for_status(desk.order("momentum", **fields), "denied", "filled", "rejected", "accepted")

    assert order.status == "denied"
    assert reason in order.reason
    assert desk.venue.orders() == []
    assert desk.value("SELECT free FROM allowance") == 100
    desk.check()


def test_a_halted_account_sends_nothing_and_still_cancels(desk: Desk) -> None:
    resting = desk.order("momentum", type="limit", quantity="0.001", limit_price="40000")
    desk.wait_for_status(resting, "accepted")
    desk.execute("UPDATE account SET halted = true WHERE name = 'main'")

    denied = desk.wait_for_status(desk.order("momentum", quote_quantity="10"), "denied", "filled")
    desk.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", resting)
    canceled = desk.wait_for_status(resting, "canceled")

    assert denied.reason == "account main is halted"
    assert canceled.reason == "canceled as requested"
    assert desk.value("SELECT free FROM allowance") == 100
    desk.check()


def test_a_cancel_of_a_queued_order_never_reaches_the_venue(make_desk: MakeDesk) -> None:
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("momentum", deposit=100)
    order = desk.order("momentum", quote_quantity="10")
    desk.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", order)
    desk.trader()
    last = desk.order("momentum", quote_quantity="10")
    desk.wait_for_status(last, "filled")

    assert desk.state(order).status == "canceled"
    assert len(desk.venue.orders()) == 1


def test_a_resting_order_that_fills_later_is_booked(desk: Desk) -> None:
    order = desk.order("momentum", type="limit", quantity="0.002", limit_price="40000")
    desk.wait_for_status(order, "accepted")
    assert desk.value("SELECT held FROM allowance") == 80
    desk.venue.price("39000")

    assert desk.wait_for_status(order, "filled").filled_quantity == Decimal("0.002")
    assert desk.value("SELECT held FROM allowance WHERE asset = 'USDT'") == 0
    desk.check()


def test_a_refusal_by_the_venue_frees_the_funds_and_says_why(desk: Desk) -> None:
    desk.venue.fault("reject", code=-2010, message="Account has insufficient balance for requested action.")
    order = desk.wait_for_status(desk.order("momentum", quote_quantity="10"), "rejected", "filled")

    assert "insufficient balance" in order.reason
    assert desk.value("SELECT free FROM allowance") == 100
    desk.check()


def test_a_fee_in_a_third_asset_is_booked_in_that_asset(make_desk: MakeDesk) -> None:
    desk = make_desk("--balance", "USDT=1000", "--balance", "BNB=1", "--fee-asset", "BNB")
    desk.strategy("momentum", deposit=100)
    desk.trader()
    desk.wait_for_status(desk.order("momentum", quantity="0.001"), "filled")

    assert desk.value("SELECT total FROM holding WHERE asset = 'BTC'") == Decimal("0.001")
    assert desk.value("SELECT total FROM holding WHERE asset = 'BNB'") < 0
    desk.check()
