"""Risk limits, each from both sides: allowed at the limit, denied just above it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from trader.order import Queued
from trader.risk import NO_LIMITS, Limit, Limits
from trader.sizing import Denial, Intent, Placement, Quote, Rules

D = Decimal
ONE = D(1)
STEP = D("1e-8")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
USDT, BTC, EUR = 1, 2, 3
RULES = Rules(
    "BTC/USDT", "BTC", "USDT", BTC, USDT, True, None, None, None, None, None, D(0), "get", D("0.01")
)  # fmt: skip
QUOTE = Quote(bid=D(99), ask=D(101), last=D(100))
MONEY = st.decimals("0.00000001", "1000000000", places=8)


def queued(side: Any = "buy", kind: Any = "limit", strategy: int = 1, account: int = 1) -> Queued:
    intent = Intent(kind, side, None, None, None, D(100), True, None)
    return Queued(1, strategy, account, uuid4(), "main", False, False, NOW, timedelta(seconds=5), intent, RULES)


def limit(**rules: Any) -> Limit:
    empty: dict[str, Any] = dict.fromkeys(
        ("max_order_value", "max_position", "max_open_orders", "max_orders_per_minute", "max_daily_loss"), None
    )
    fields = empty | {"price_collar": None, "rates": {USDT: D(1)}} | rules
    return Limit(id=1, account_id=1, strategy_id=1, owner="strategy s", unit="USDT", **fields)


def buys(quote_quantity: Decimal) -> Placement:
    """A market buy by quote amount."""
    return Placement(None, quote_quantity, None, USDT, quote_quantity)


def at(price: Decimal, quantity: Decimal = ONE) -> Placement:
    """A limit order."""
    return Placement(quantity, None, price, USDT, quantity * price)


def denied(limit: Limit, one: Queued, placement: Placement, quote: Quote | None = None) -> str | None:
    found = Limits([limit]).admit(one, placement, quote)
    return None if found is None else found.reason


@given(allowed=MONEY)
def test_max_order_value(allowed: Decimal) -> None:
    capped = limit(max_order_value=allowed)
    assert denied(capped, queued(), buys(allowed)) is None
    reason = denied(capped, queued(), buys(allowed + STEP)) or ""
    assert "the order is worth " in reason
    assert f" USDT: max_order_value of strategy s is {allowed.normalize():f}" in reason


@given(allowed=MONEY, quantity=st.decimals("0.00001", "1000", places=5))
def test_max_order_value_of_a_sell_by_its_limit_price(allowed: Decimal, quantity: Decimal) -> None:
    capped = limit(max_order_value=allowed * quantity)
    assert denied(capped, queued("sell"), at(allowed, quantity)) is None
    assert denied(capped, queued("sell"), at(allowed + STEP, quantity)) is not None


def test_a_market_order_is_worth_what_the_quote_says() -> None:
    by_quantity = Placement(D(2), None, None, USDT, D(204))
    assert denied(limit(max_order_value=D(202)), queued("buy", "market"), by_quantity, QUOTE) is None
    assert denied(limit(max_order_value=D("201.99")), queued("buy", "market"), by_quantity, QUOTE) is not None
    assert denied(limit(max_order_value=D(198)), queued("sell", "market"), by_quantity, QUOTE) is None
    assert denied(limit(max_order_value=D("197.99")), queued("sell", "market"), by_quantity, QUOTE) is not None


def test_values_are_told_in_the_unit_and_an_unknown_rate_passes_nothing() -> None:
    in_eur = limit(max_order_value=D(90), rates={USDT: D("0.9")})
    assert denied(in_eur, queued(), buys(D(100))) is None
    assert denied(in_eur, queued(), buys(D("100.01"))) is not None
    for unknown in ({USDT: None}, {}):
        for rule in ("max_order_value", "max_position"):
            reason = denied(limit(**{rule: D(10**9)}, rates=unknown), queued(), buys(D(1)), QUOTE) or ""
            assert f"{rule} of strategy s cannot be judged: nobody knows" in reason


@given(allowed=st.decimals("200", "1000000", places=8), held=st.decimals("0", "1", places=8))
def test_max_position_counts_what_is_held_what_open_buys_spend_and_this_order(allowed: Decimal, held: Decimal) -> None:
    left = allowed - held * D(100) - D(50)
    capped = limit(max_position=allowed, held={BTC: held}, spent={(BTC, USDT): D(50)})
    assert denied(replace(capped, spent=dict(capped.spent)), queued(), buys(left), QUOTE) is None
    reason = denied(capped, queued(), buys(left + STEP), QUOTE) or ""
    assert reason.startswith("BTC worth ")
    assert "max_position of strategy s is" in reason
    assert denied(capped, queued("sell"), at(D(100), D(1000)), QUOTE) is None  # a sell adds nothing


def test_an_open_buy_in_a_quote_that_nobody_can_price_stops_the_next() -> None:
    capped = limit(max_position=D(1000), spent={(BTC, EUR): D(5)})
    assert "cannot be judged" in (denied(capped, queued(), buys(D(1)), QUOTE) or "")
    priced = limit(max_position=D(106), spent={(BTC, EUR): D(5)}, rates={USDT: D(1), EUR: D("1.2")})
    assert denied(priced, queued(), buys(D(100)), QUOTE) is None
    assert denied(priced, queued(), buys(STEP), QUOTE) is not None  # the first one counts


@given(allowed=st.integers(1, 50), used=st.integers(0, 60))
def test_counts_include_this_order(allowed: int, used: int) -> None:
    fits = used + 1 <= allowed
    assert (denied(limit(max_open_orders=allowed, open_orders=used), queued(), buys(D(1))) is None) == fits
    assert (denied(limit(max_orders_per_minute=allowed, sent=used), queued(), buys(D(1))) is None) == fits


@given(
    allowed=st.integers(1, 8),
    asked=st.integers(1, 12),
    rule=st.sampled_from(["max_open_orders", "max_orders_per_minute"]),
)
def test_a_batch_counts_its_own_orders(rule: str, allowed: int, asked: int) -> None:
    limits = Limits([limit(**{rule: allowed})])
    answers = [limits.admit(queued(), buys(D(1)), None) for _ in range(asked)]
    assert [answer is None for answer in answers] == [number < allowed for number in range(asked)]


@given(allowed=MONEY)
def test_max_daily_loss_stops_buys_alone(allowed: Decimal) -> None:
    at_it, above = limit(max_daily_loss=allowed, loss=allowed), limit(max_daily_loss=allowed, loss=allowed + STEP)
    assert denied(at_it, queued(), buys(D(1))) is None
    assert denied(above, queued("sell"), at(D(1))) is None
    assert above.breach is None
    reason = denied(above, queued(), buys(D(1))) or ""
    assert reason.startswith("strategy s has lost ")
    assert above.breach == reason


def test_a_loss_that_nobody_can_tell_stops_buys() -> None:
    unknown = limit(max_daily_loss=D(5), unpriced=("BNB", "DOGE"))
    reason = "max_daily_loss of strategy s cannot be judged: nobody knows what BNB, DOGE is worth in USDT"
    assert denied(unknown, queued(), buys(D(1))) == reason
    assert denied(unknown, queued("sell"), at(D(1))) is None
    assert unknown.breach is None


@given(last=MONEY, collar=st.decimals("0.0001", "1", places=4))
def test_price_collar(last: Decimal, collar: Decimal) -> None:
    quote, capped = Quote(last, last, last), limit(price_collar=collar)
    high, low = last * (1 + collar), last * (1 - collar)
    assert denied(capped, queued(), at(high), quote) is None
    assert denied(capped, queued(), at(last / 1000), quote) is None  # cheap is no harm to a buyer
    assert denied(capped, queued(), at(high + D("1e-18")), quote) is not None
    assert denied(capped, queued("sell"), at(low), quote) is None
    assert denied(capped, queued("sell"), at(last * 1000), quote) is None
    reason = denied(capped, queued("sell"), at(low - D("1e-18")), quote) or ""
    assert "is below" in reason
    assert "price_collar of strategy s is" in reason


def test_a_market_order_meets_the_collar_with_the_quote_that_it_is_sized_with() -> None:
    one = Placement(D(1), None, None, USDT, D(1))
    assert denied(limit(price_collar=D("0.01")), queued("buy", "market"), one, QUOTE) is None
    assert denied(limit(price_collar=D("0.0099")), queued("buy", "market"), one, QUOTE) is not None
    assert denied(limit(price_collar=D("0.01")), queued("sell", "market"), one, QUOTE) is None
    assert denied(limit(price_collar=D("0.0099")), queued("sell", "market"), one, QUOTE) is not None
    assert denied(limit(price_collar=D("0.0099")), queued("buy", "market"), buys(D(5)), QUOTE) is not None


def test_without_a_last_price_the_collar_passes_nothing() -> None:
    for quote in (None, Quote(D(99), D(101))):
        reason = denied(limit(price_collar=D(1)), queued(), at(D(100)), quote)
        assert reason == "price_collar of strategy s cannot be judged: no last price of BTC/USDT is known"


def test_whose_limits_an_order_meets() -> None:
    strict = {"max_order_value": D(1)}
    of_account = replace(limit(**strict), strategy_id=None, owner="account main")
    limits = Limits([of_account])
    assert isinstance(limits.admit(queued(strategy=7), buys(D(2)), None), Denial)
    assert limits.admit(queued(account=2), buys(D(2)), None) is None
    assert Limits([limit(**strict)]).admit(queued(strategy=7), buys(D(2)), None) is None
    assert NO_LIMITS.admit(queued(), buys(D(2)), None) is None


def test_an_order_that_one_limit_denies_uses_up_nothing_of_another() -> None:
    counts, value = limit(max_open_orders=1), replace(limit(max_order_value=D(1)), id=2)
    limits = Limits([counts, value])
    assert limits.admit(queued(), buys(D(2)), None) is not None
    assert limits.admit(queued(), buys(D(1)), None) is None


def test_a_price_is_asked_for_only_where_a_limit_needs_one() -> None:
    assert not NO_LIMITS.need_quote(queued())
    assert not Limits([limit(max_order_value=D(1), max_open_orders=1, max_daily_loss=D(1))]).need_quote(queued())
    assert Limits([limit(price_collar=D(1))]).need_quote(queued("sell"))
    positions = Limits([limit(max_position=D(1))])
    assert positions.need_quote(queued("buy"))
    assert not positions.need_quote(queued("sell"))
