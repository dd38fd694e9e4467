"""Sizing: what is sent, what is held, what is denied; and that no input makes a strategy spend more than it has."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trader.sizing import Denial, Intent, Placement, Quote, Rules, floor_to, needs_quote, plain, size

D = Decimal
RULES = Rules(
    symbol="BTC/USDT",
    base="BTC",
    quote="USDT",
    base_id=2,
    quote_id=1,
    active=True,
    price_tick=D("0.01"),
    quantity_step=D("0.00001"),
    quantity_min=D("0.0001"),
    quantity_max=D("10"),
    cost_min=D("5"),
    fee=D("0.001"),
    fee_side="get",
    price_margin=D("0.01"),
)
BUY = Intent("market", "buy", None, None, None, D(100), stake_in_percent=True, expires_at=None)
SELL = replace(BUY, side="sell")
FREE_OF_COST = replace(RULES, cost_min=None)
"""A market where even the least amount may be traded."""
QUOTE = Quote(bid=D(49990), ask=D(50000))


def test_a_market_buy_by_quote_spends_it_and_holds_it() -> None:
    assert size(replace(BUY, quote_quantity=D("60.009")), RULES, D(100), None) == Placement(
        None, D("60.00"), None, 1, D(60)
    )


def test_a_market_buy_by_quantity_holds_the_price_margin_on_top() -> None:
    placed = size(replace(BUY, quantity=D("0.001")), RULES, D(100), QUOTE)
    assert placed == Placement(D("0.001"), None, None, 1, D("50.5"))


def test_the_stake_in_percent_is_a_share_of_what_is_free() -> None:
    assert size(replace(BUY, stake=D(25)), RULES, D(80), None) == Placement(None, D(20), None, 1, D(20))


def test_a_fixed_stake_that_exceeds_the_allowance_is_denied() -> None:
    decision = size(replace(BUY, stake=D(50), stake_in_percent=False), RULES, D(40), None)
    assert decision == Denial("the allowance is 40 USDT, the order needs 50")


def test_a_fee_paid_in_quote_is_held_too_and_fits_into_the_whole_allowance() -> None:
    placed = size(BUY, replace(RULES, fee_side="quote"), D(100), None)
    assert isinstance(placed, Placement)
    assert placed.quote_quantity == D("99.90")
    assert placed.hold_quantity == D("99.9999")


@pytest.mark.parametrize(("side", "asked", "sent"), [("buy", "100.019", "100.01"), ("sell", "100.011", "100.02")])
def test_a_limit_price_is_rounded_to_the_tick_never_to_our_harm(side: str, asked: str, sent: str) -> None:
    intent = replace(BUY, type="limit", side=side, quantity=D("0.5"), limit_price=D(asked))  # type: ignore[arg-type]
    placed = size(intent, RULES, D(1000), None)
    assert isinstance(placed, Placement)
    assert placed.price == D(sent)


def test_a_sell_without_quantity_sells_all_that_is_held_down_to_the_step() -> None:
    assert size(SELL, RULES, D("0.0012399"), QUOTE) == Placement(D("0.00123"), None, None, 2, D("0.00123"))


def test_a_sell_by_quote_sells_what_brings_it_at_the_bid() -> None:
    placed = size(replace(SELL, quote_quantity=D(100)), RULES, D(1), QUOTE)
    assert isinstance(placed, Placement)
    assert placed.quantity == D("0.00200")


@pytest.mark.parametrize(
    ("intent", "rules", "reason"),
    [
        (BUY, replace(RULES, active=False), "BTC/USDT is not traded now"),
        (replace(BUY, quote_quantity=D("0.009")), FREE_OF_COST, "a value of 0.009 USDT is below one step (0.01)"),
        (replace(BUY, stake=D("0.1")), FREE_OF_COST, "a value of 0.001 USDT is below one step (0.01)"),
        (replace(BUY, quantity=D("0.000009")), RULES, "quantity 0.000009 BTC is below one step (0.00001)"),
        (replace(BUY, quantity=D("0.00009")), RULES, "quantity 0.00009 BTC is below the minimum of 0.0001"),
        (replace(BUY, quantity=D("11")), RULES, "quantity 11 BTC is above the maximum of 10"),
        (
            replace(SELL, quantity=D("0.0001")),
            replace(RULES, cost_min=D(10)),
            "a value of 4.999 USDT is below the minimum of 10",
        ),
        (replace(BUY, quote_quantity=D("4.99")), RULES, "a value of 4.99 USDT is below the minimum of 5"),
        (replace(SELL, quantity=D("2")), RULES, "the allowance is 1 BTC, the order needs 2"),
    ],
)
def test_what_breaks_a_rule_is_denied_with_the_reason(intent: Intent, rules: Rules, reason: str) -> None:
    assert size(intent, rules, D(1), QUOTE) == Denial(reason)


def test_an_empty_allowance_is_named() -> None:
    assert size(BUY, RULES, D(0), None) == Denial("the allowance is used up: 0 USDT free")
    assert size(SELL, RULES, D(0), QUOTE) == Denial("nothing to sell: 0 BTC free")


def test_sizing_without_the_price_it_needs_is_a_programming_error() -> None:
    intent = replace(BUY, quantity=D("0.001"))
    assert needs_quote(intent)
    with pytest.raises(ValueError, match="price of now"):
        size(intent, RULES, D(100), None)


amounts = st.decimals("0.00000001", "100000", allow_nan=False, allow_infinity=False, places=8)


@given(
    side=st.sampled_from(["buy", "sell"]),
    type_=st.sampled_from(["market", "limit"]),
    quantity=st.none() | amounts,
    quote_quantity=st.none() | amounts,
    price=amounts,
    stake=st.decimals("0.01", "100", places=2),
    free=amounts | st.just(D(0)),
    fee_side=st.sampled_from(["get", "give", "base", "quote"]),
    cost_min=st.sampled_from([None, D(5)]),
)
def test_whatever_is_asked_a_placement_fits_the_allowance_and_the_rules(
    side: str,
    type_: str,
    quantity: D | None,
    quote_quantity: D | None,
    price: D,
    stake: D,
    free: D,
    fee_side: str,
    cost_min: D | None,
) -> None:
    if quantity is not None:
        quote_quantity = None
    limit_price = price if type_ == "limit" else None
    intent = Intent(type_, side, quantity, quote_quantity, limit_price, stake, True, None)  # type: ignore[arg-type]
    rules = replace(RULES, fee_side=fee_side, cost_min=cost_min)  # type: ignore[arg-type]
    decision = size(intent, rules, free, Quote(bid=price, ask=price))

    if isinstance(decision, Denial):
        assert decision.reason
        return
    assert 0 < decision.hold_quantity <= free
    assert decision.hold_asset_id == (1 if side == "buy" else 2)
    assert (decision.quantity is None) != (decision.quote_quantity is None)
    assert (decision.quantity or decision.quote_quantity or 0) > 0
    if decision.quantity is not None:
        assert decision.quantity % D("0.00001") == 0
        assert rules.quantity_min is not None
        assert decision.quantity >= rules.quantity_min
        assert quantity is None or decision.quantity <= quantity
    if decision.price is not None:
        assert decision.price % D("0.01") == 0


def test_floor_to_and_plain() -> None:
    assert floor_to(D("1.2399"), D("0.01")) == D("1.23")
    assert floor_to(D("1.2399"), None) == D("1.2399")
    assert [plain(D(text)) for text in ("1E+3", "0.10", "5", "1E-8")] == ["1000", "0.1", "5", "0.00000001"]
