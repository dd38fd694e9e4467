"""The matching engine: money is conserved whatever is sent, and every order type does what the venue's does."""

from collections import defaultdict
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trader.simulator.book import Book, BookShape, make_book, resting_liquidity
from trader.simulator.decimals import ZERO
from trader.simulator.matching import Change, Engine, Fill, Moment, Order
from trader.simulator.rules import Rules, Ticket, VenueError, check

RULES = Rules("BTC", "USDT")
D = Decimal
BOOK = Book(
    bids=((D("99.00"), D("1")), (D("98.00"), D("2"))),
    asks=((D("101.00"), D("1")), (D("102.00"), D("2"))),
)
NOW = Moment(wall=1_000, market=500)


def engine(**balances: str) -> Engine:
    new = Engine()
    for asset, quantity in balances.items():
        new.credit("me", asset, D(quantity))
    return new


def place(
    to: Engine, side: str, kind: str, *, rules: Rules = RULES, part: Decimal | None = None, **ticket: str
) -> Change:
    numbers = {name: D(value) for name, value in ticket.items() if name in ("quantity", "quote_quantity", "price")}
    words = {name: value for name, value in ticket.items() if name not in numbers}
    words.setdefault("client_order_id", f"order-{to.next_order}")
    return to.place("me", rules, Ticket(side=side, type=kind, **words, **numbers), BOOK, NOW, part)  # type: ignore[arg-type]


def held(of: Engine, asset: str) -> tuple[Decimal, Decimal]:
    balance = of.balance("me", asset)
    return balance.free, balance.locked


def test_a_market_buy_walks_the_book_and_pays_its_fee_out_of_the_base() -> None:
    venue = engine(USDT="1000")
    change = place(venue, "BUY", "MARKET", quantity="2")
    assert [(f.id, f.price, f.quantity, f.fee, f.fee_asset) for f in change.fills] == [
        (1, D("101"), D("1"), D("0.001"), "BTC"),
        (2, D("102"), D("1"), D("0.001"), "BTC"),
    ]
    assert change.order.status == "FILLED"
    assert held(venue, "USDT") == (D("797"), ZERO)
    assert held(venue, "BTC") == (D("1.998"), ZERO)


@pytest.mark.parametrize(("quote", "taken"), [("50.49", False), ("50.50", True)])
def test_a_market_order_by_quote_buys_no_less_than_may_be_ordered(quote: str, taken: bool) -> None:
    venue = engine(USDT="1000")
    rules = replace(RULES, step=D("0.1"), min_quantity=D("0.5"))
    if taken:
        assert place(venue, "BUY", "MARKET", rules=rules, quote_quantity=quote).order.filled == D("0.5")
        return
    with pytest.raises(VenueError, match="LOT_SIZE"):
        place(venue, "BUY", "MARKET", rules=rules, quote_quantity=quote)
    assert held(venue, "USDT") == (D("1000"), ZERO)


def test_a_sell_pays_its_fee_out_of_the_quote() -> None:
    venue = engine(BTC="1")
    place(venue, "SELL", "MARKET", quantity="1")
    assert held(venue, "USDT") == (D("98.901"), ZERO)
    assert held(venue, "BTC") == (ZERO, ZERO)


def test_a_quote_amount_is_never_overspent_and_the_rest_comes_back() -> None:
    venue = engine(USDT="1000")
    change = place(venue, "BUY", "MARKET", quote_quantity="150")
    assert change.order.cost <= D("150")
    assert D("150") - change.order.cost < D("102") * RULES.step
    assert held(venue, "USDT") == (D("1000") - change.order.cost, ZERO)


def test_what_the_book_cannot_fill_of_a_market_order_expires() -> None:
    venue = engine(USDT="10000")
    change = place(venue, "BUY", "MARKET", quantity="5")
    assert (change.order.status, change.order.filled) == ("EXPIRED", D("3"))
    assert held(venue, "USDT") == (D("10000") - D("305"), ZERO)


def test_a_limit_order_fills_what_crosses_and_rests_with_the_remainder_locked() -> None:
    venue = engine(USDT="1000")
    change = place(venue, "BUY", "LIMIT", quantity="3", price="101.00")
    assert (change.order.status, change.order.filled) == ("PARTIALLY_FILLED", D("1"))
    assert held(venue, "USDT") == (D("1000") - D("303"), D("202"))


def test_a_better_price_than_the_limit_gives_the_difference_back() -> None:
    venue = engine(USDT="1000")
    place(venue, "BUY", "LIMIT", quantity="1", price="150.00")
    assert held(venue, "USDT") == (D("899"), ZERO)


@pytest.mark.parametrize(("force", "filled"), [("IOC", "1"), ("FOK", "0")])
def test_ioc_takes_what_there_is_and_fok_all_or_nothing(force: str, filled: str) -> None:
    venue = engine(USDT="1000")
    change = place(venue, "BUY", "LIMIT", quantity="3", price="101.00", time_in_force=force)
    assert (change.order.status, change.order.filled) == ("EXPIRED", D(filled))
    assert held(venue, "USDT")[1] == ZERO
    assert not venue.open


def test_a_maker_only_order_that_would_take_is_refused_and_changes_nothing() -> None:
    venue = engine(USDT="1000")
    with pytest.raises(VenueError, match="immediately match"):
        place(venue, "BUY", "LIMIT_MAKER", quantity="1", price="101.00")
    assert held(venue, "USDT") == (D("1000"), ZERO)


@pytest.mark.parametrize(
    ("side", "kind", "ticket"),
    [
        ("BUY", "MARKET", {"quantity": "1"}),
        ("BUY", "MARKET", {"quote_quantity": "101"}),
        ("BUY", "LIMIT", {"quantity": "10", "price": "50.00"}),
        ("SELL", "MARKET", {"quantity": "1"}),
        ("SELL", "LIMIT", {"quantity": "1", "price": "500.00"}),
    ],
)
def test_more_than_is_free_is_refused_and_changes_nothing(side: str, kind: str, ticket: dict[str, str]) -> None:
    venue = engine(USDT="100.99", BTC="0.99999")
    with pytest.raises(VenueError, match="insufficient balance"):
        place(venue, side, kind, **ticket)
    assert (held(venue, "USDT"), held(venue, "BTC")) == ((D("100.99"), ZERO), (D("0.99999"), ZERO))
    assert not venue.open


def test_a_client_id_is_unique_among_open_orders_only() -> None:
    venue = engine(USDT="1000")
    first = place(venue, "BUY", "LIMIT", quantity="1", price="50.00", client_order_id="mine")
    with pytest.raises(VenueError, match="Duplicate order sent"):
        place(venue, "BUY", "MARKET", quantity="1", client_order_id="mine")
    venue.cancel(first.order, RULES, 2_000)
    assert place(venue, "BUY", "MARKET", quantity="1", client_order_id="mine").order.status == "FILLED"
    assert place(venue, "BUY", "MARKET", quantity="1", client_order_id="mine").order.status == "FILLED"


def test_a_resting_order_fills_as_maker_at_its_own_price_when_the_market_crosses_it() -> None:
    venue = engine(USDT="1000")
    rules = replace(RULES, maker=D("0.0005"))
    order = place(venue, "BUY", "LIMIT", rules=rules, quantity="2", price="90.00").order
    assert venue.cross(rules, D("90.01"), D("110"), lambda o: o.remaining, NOW) == []
    half, rest = (venue.cross(rules, D("89"), D("95"), lambda o: D("1"), NOW)[0].fills[0] for _ in range(2))
    assert (half.price, half.maker, half.fee) == (D("90"), True, D("0.0005"))
    assert (rest.quantity, order.status, order.locked) == (D("1"), "FILLED", ZERO)
    assert held(venue, "USDT") == (D("820"), ZERO)


def test_fees_come_from_the_fee_asset_while_it_lasts_then_from_what_is_received() -> None:
    venue = Engine("BNB", D("10"))
    venue.credit("me", "USDT", D("1000"))
    venue.credit("me", "BNB", D("0.0101"))
    fills = place(venue, "BUY", "MARKET", quantity="2").fills
    assert [(f.fee, f.fee_asset) for f in fills] == [(D("0.0101"), "BNB"), (D("0.001"), "BTC")]
    assert held(venue, "BNB") == (ZERO, ZERO)
    assert held(venue, "BTC") == (D("1.999"), ZERO)


def test_a_part_fills_only_that_part_and_a_market_order_lets_the_rest_expire() -> None:
    venue = engine(USDT="1000")
    change = place(venue, "BUY", "MARKET", quantity="2", part=D("0.25"))
    assert (change.order.status, change.order.filled) == ("EXPIRED", D("0.5"))


def test_cancelling_gives_back_exactly_what_was_reserved() -> None:
    venue = engine(USDT="1000")
    order = place(venue, "BUY", "LIMIT", quantity="3", price="101.00").order
    venue.cancel(order, RULES, 2_000)
    assert (order.status, order.filled) == ("CANCELED", D("1"))
    assert held(venue, "USDT") == (D("899"), ZERO)


@pytest.mark.parametrize(
    ("ticket", "message"),
    [
        ({"quantity": "0.000001", "price": "100"}, "LOT_SIZE"),
        ({"quantity": "1.000001", "price": "100"}, "LOT_SIZE"),
        ({"quantity": "0", "price": "100"}, "Invalid quantity"),
        ({"quantity": "1", "price": "100.001"}, "PRICE_FILTER"),
        ({"quantity": "1", "price": "0"}, "Invalid price"),
        ({"quantity": "0.04999", "price": "100"}, "NOTIONAL"),
        ({"quote_quantity": "4.99"}, "NOTIONAL"),
    ],
)
def test_each_filter_refuses_by_its_name(ticket: dict[str, str], message: str) -> None:
    numbers = {name: D(value) for name, value in ticket.items()}
    with pytest.raises(VenueError, match=message) as refused:
        check(RULES, Ticket("x", "BUY", "LIMIT", **numbers), D("100"))
    assert refused.value.code == -1013


def test_the_book_is_the_same_for_the_same_seed_and_both_sides_are_sorted() -> None:
    book = make_book(RULES, D("430.12"), 7, BookShape())
    assert book == make_book(RULES, D("430.12"), 7, BookShape())
    assert book != make_book(RULES, D("430.12"), 8, BookShape())
    bids, asks = [p for p, _ in book.bids], [p for p, _ in book.asks]
    assert bids == sorted(set(bids), reverse=True)
    assert asks == sorted(set(asks))
    assert bids[0] < D("430.12") < asks[0]
    assert all(price % RULES.tick == 0 and quantity % RULES.step == 0 for price, quantity in book.bids + book.asks)


quantities = st.integers(1, 400_000).map(lambda n: n * RULES.step)
prices = st.integers(9_000, 11_000).map(lambda n: n * RULES.tick)
orders = st.builds(
    Ticket,
    client_order_id=st.sampled_from(["a", "b", "c", "d", "e"]),
    side=st.sampled_from(["BUY", "SELL"]),
    type=st.sampled_from(["LIMIT", "LIMIT_MAKER"]),
    quantity=quantities,
    price=prices,
    time_in_force=st.sampled_from(["GTC", "GTC", "IOC", "FOK"]),
)
market_orders = st.builds(
    Ticket,
    client_order_id=st.sampled_from(["a", "b", "c", "d", "e"]),
    side=st.sampled_from(["BUY", "SELL"]),
    type=st.just("MARKET"),
    quantity=quantities,
)
quote_orders = st.builds(
    Ticket,
    client_order_id=st.sampled_from(["a", "b", "c", "d", "e"]),
    side=st.sampled_from(["BUY", "SELL"]),
    type=st.just("MARKET"),
    quote_quantity=st.integers(100, 50_000).map(lambda n: n * D("0.01")),
)
part = st.one_of(st.none(), st.integers(0, 100).map(lambda n: n / D(100)))
acts = st.one_of(
    st.tuples(st.sampled_from(["x", "y"]), st.one_of(orders, market_orders, quote_orders), prices, part),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("cross"), prices),
)


def prove_conserved(venue: Engine, start: dict[tuple[str, str], Decimal], fills: list[Fill]) -> None:
    """What each account has is what it had, plus what its fills moved, less their fees; locks are its open orders'."""
    expected = defaultdict(Decimal, start)
    for fill in fills:
        sign = 1 if fill.side == "BUY" else -1
        expected[fill.account, "BTC"] += sign * fill.quantity
        expected[fill.account, "USDT"] -= sign * fill.cost
        expected[fill.account, fill.fee_asset] -= fill.fee
    locked: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for order in venue.open.values():
        locked[order.account, "USDT" if order.side == "BUY" else "BTC"] += order.locked
    for account, owned in venue.balances.items():
        for asset, balance in owned.items():
            assert balance.free >= ZERO
            assert balance.locked == locked[account, asset]
            assert balance.free + balance.locked == expected[account, asset]


def prove_order(order: Order, fills: list[Fill]) -> None:
    mine = [fill for fill in fills if fill.order_id == order.id]
    assert sum((fill.quantity for fill in mine), ZERO) == order.filled <= order.quantity
    assert sum((fill.cost for fill in mine), ZERO) == order.cost
    if order.quote_quantity:
        assert order.cost <= order.quote_quantity or order.side == "SELL"
    if order.price:
        assert all((f.price <= order.price) if order.side == "BUY" else (f.price >= order.price) for f in mine)


@settings(max_examples=150, deadline=None)
@given(st.lists(acts, max_size=40), st.booleans())
def test_money_is_conserved_whatever_happens(steps: list[tuple[object, ...]], third: bool) -> None:
    venue = Engine("BNB" if third else None, D("3"))
    start = {(who, asset): D(n) for who in "xy" for asset, n in (("USDT", 500), ("BTC", 5), ("BNB", "0.05"))}
    for (who, asset), quantity in start.items():
        venue.credit(who, asset, quantity)
    every: list[Order] = []
    fills: list[Fill] = []
    for number, step in enumerate(steps):
        for change in act(venue, number, step):
            fills += change.fills
            every += [change.order] if change.cause == "NEW" else []
        prove_conserved(venue, start, fills)
    for order in every:
        prove_order(order, fills)
    assert [fill.id for fill in fills] == list(range(1, len(fills) + 1))


def act(venue: Engine, number: int, step: tuple[object, ...]) -> list[Change]:
    match step:
        case ("cancel", int(which)):
            found = list(venue.open.values())[which : which + 1]
            return [venue.cancel(order, RULES, number) for order in found]
        case ("cross", Decimal() as price):
            offered = lambda o: resting_liquidity(o.remaining, RULES, o.price, 1, f"{o.id}:{number}")  # noqa: E731
            return venue.cross(RULES, price, price, offered, Moment(number, number))
        case (str(who), Ticket() as ticket, Decimal() as price, taken):
            assert taken is None or isinstance(taken, Decimal)
            book = make_book(RULES, price, 1, BookShape(levels=6))
            try:
                return [venue.place(who, RULES, ticket, book, Moment(number, number), taken)]
            except VenueError:
                return []
    raise AssertionError(step)
