"""The shortest fresh way between assets, against every way there is."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trader.conversion import ALWAYS, UNKNOWN_SPREAD, Pair, Price, Way, middle, on_shortest, ways

NOW = datetime(2026, 1, 1, tzinfo=UTC)
USD, BTC, ADA, ETH, DOGE = range(5)


def price(value: str, age: float = 0, spread: str = "0") -> Price:
    return Price(Decimal(value), NOW - timedelta(seconds=age), Decimal(spread))


def best(asset: int, *priced: tuple[Pair, Price]) -> Way | None:
    return ways([pair for pair, _ in priced], {pair.name: given for pair, given in priced}, USD).get(asset)


ADA_BTC, BTC_USD = Pair("a:ADA/BTC", ADA, BTC), Pair("a:BTC/USD", BTC, USD)


def test_over_a_third_asset() -> None:
    found = best(ADA, (ADA_BTC, price("0.00001", 7)), (BTC_USD, price("50000", 3)))
    assert found == Way(Decimal("0.5"), NOW - timedelta(seconds=7), Decimal(0), ("a:ADA/BTC", "a:BTC/USD"))


def test_a_market_the_other_way_round() -> None:
    found = best(ADA, (Pair("a:BTC/ADA", BTC, ADA), price("100000")), (Pair("a:USD/BTC", USD, BTC), price("0.00002")))
    assert found is not None
    assert (found.rate, found.path) == (Decimal("0.5"), ("a:BTC/ADA", "a:USD/BTC"))


def test_a_third_is_rounded_to_digits_that_a_column_holds() -> None:
    found = best(BTC, (Pair("a:USD/BTC", USD, BTC), price("3")))
    assert found is not None
    assert found.rate == Decimal("0.333333333333333333")


def test_fewer_markets_beat_fresher_and_tighter_ones() -> None:
    direct = (Pair("b:ADA/USD", ADA, USD), price("0.4", 99, "0.09"))
    found = best(ADA, (ADA_BTC, price("0.00001")), (BTC_USD, price("50000")), direct)
    assert found is not None
    assert (found.path, found.rate) == (("b:ADA/USD",), Decimal("0.4"))


def test_then_the_freshest_by_its_oldest_price_then_the_tightest_then_the_first_by_name() -> None:
    older = (Pair("a:BTC/USD", BTC, USD), price("1", 9, "0"))
    wide = (Pair("b:BTC/USD", BTC, USD), price("2", 3, "0.05"))
    tight = (Pair("c:BTC/USD", BTC, USD), price("3", 3, "0.01"))
    same = (Pair("d:BTC/USD", BTC, USD), price("4", 3, "0.01"))
    for order in permutations([older, wide, tight, same]):
        assert best(BTC, *order).path == ("c:BTC/USD",)  # type: ignore[union-attr]


def test_an_older_price_in_front_makes_the_tighter_way_behind_it_the_better_one() -> None:
    fresh_wide = (Pair("a:BTC/USD", BTC, USD), price("2", 3, "0.05"))
    old_tight = (Pair("b:BTC/USD", BTC, USD), price("1", 5, "0.01"))
    priced = (fresh_wide, old_tight, (ADA_BTC, price("1", 9)))
    assert best(BTC, *priced).path == ("a:BTC/USD",)  # type: ignore[union-attr]
    assert best(ADA, *priced).path == ("a:ADA/BTC", "b:BTC/USD")  # type: ignore[union-attr]


def test_over_two_exchanges() -> None:
    found = best(ADA, (ADA_BTC, price("0.00001")), (Pair("kraken:BTC/USD", BTC, USD), price("50000")))
    assert found is not None
    assert found.path == ("a:ADA/BTC", "kraken:BTC/USD")


def test_markets_without_a_price_lead_nowhere() -> None:
    direct = Pair("a:ADA/USD", ADA, USD)
    prices = {ADA_BTC.name: price("0.00001"), BTC_USD.name: price("50000")}
    assert ways([direct, ADA_BTC, BTC_USD], prices, USD)[ADA].path == (ADA_BTC.name, BTC_USD.name)
    assert ADA not in ways([direct, ADA_BTC, BTC_USD], {ADA_BTC.name: price("0.00001")}, USD)


def test_rings_end() -> None:
    ring = [Pair("a:ADA/BTC", ADA, BTC), Pair("a:BTC/ETH", BTC, ETH), Pair("a:ETH/ADA", ETH, ADA)]
    prices = {pair.name: price("2") for pair in ring}
    assert set(ways(ring, prices, USD)) == {USD}
    out = Pair("a:ETH/USD", ETH, USD)
    assert set(ways([*ring, out], prices | {out.name: price("1")}, USD)) == {USD, ETH, ADA, BTC}


def test_the_unit_is_worth_one_of_itself() -> None:
    assert ways([], {}, USD) == {USD: Way(Decimal(1), ALWAYS, Decimal(0), ())}


def test_which_markets_a_shortest_way_may_lead_over() -> None:
    other = Pair("b:BTC/USD", BTC, USD)
    far = [Pair("a:DOGE/ETH", DOGE, ETH), Pair("a:ETH/ADA", ETH, ADA)]
    pairs = [ADA_BTC, BTC_USD, other, *far]
    assert on_shortest(pairs, USD, [ADA]) == {"a:ADA/BTC", "a:BTC/USD", "b:BTC/USD"}
    assert on_shortest(pairs, USD, [BTC]) == {"a:BTC/USD", "b:BTC/USD"}
    assert on_shortest(far, USD, [DOGE]) == set()
    assert on_shortest(pairs, USD, [USD]) == set()


@pytest.mark.parametrize(
    ("book", "expected"),
    [
        (("99", "101", "5"), ("100", "0.02")),
        (("100", "100", None), ("100", "0")),
        (("101", "100", None), ("100.5", "0")),
        ((None, None, "7"), ("7", "1")),
        ((None, "101", "100"), None),
        (("99", None, "100"), None),
        (("50", "150", "100"), None),
        ((None, None, None), None),
    ],
)
def test_a_price_from_a_book(book: tuple[str | None, ...], expected: tuple[str, str] | None) -> None:
    found = middle(*(None if text is None else Decimal(text) for text in book))
    assert found == (None if expected is None else tuple(map(Decimal, expected)))
    assert UNKNOWN_SPREAD == 1


NODES = 6
EDGES = st.lists(
    st.tuples(
        st.integers(0, NODES - 1), st.integers(0, NODES - 1),
        st.sampled_from([None, "0.5", "2", "3"]), st.integers(0, 3), st.sampled_from(["0", "0.01", "0.02"]),
    ).filter(lambda edge: edge[0] != edge[1]),
    max_size=14,
)  # fmt: skip


def every_way(pairs: list[Pair], prices: dict[str, Price], start: int) -> list[tuple[int, timedelta, Decimal]]:
    """(markets, age of the oldest price, spread) of every way without a loop from `start` to asset 0."""
    found: list[tuple[int, timedelta, Decimal]] = []

    def walk(at: int, seen: frozenset[int], hops: int, oldest: datetime, spread: Decimal) -> None:
        if at == 0:
            found.append((hops, ALWAYS - oldest, spread))
            return
        for pair in pairs:
            if pair.name in prices and at in (pair.base, pair.quote):
                other = pair.quote if at == pair.base else pair.base
                if other not in seen:
                    given = prices[pair.name]
                    walk(other, seen | {other}, hops + 1, min(oldest, given.at), spread + given.spread)

    walk(start, frozenset({start}), 0, ALWAYS, Decimal(0))
    return found


@settings(max_examples=300, deadline=None)
@given(EDGES, st.randoms(use_true_random=False))
def test_the_way_is_the_best_of_all(edges: list, shuffled: random.Random) -> None:
    pairs = [Pair(f"m{number:02}", base, quote) for number, (base, quote, *_) in enumerate(edges)]
    prices = {
        pair.name: price(value, age, spread)
        for pair, (_, _, value, age, spread) in zip(pairs, edges, strict=True)
        if value is not None
    }
    found = ways(pairs, prices, 0)
    by_name = {pair.name: pair for pair in pairs}
    for asset in range(NODES):
        every = every_way(pairs, prices, asset)
        assert (asset in found) == bool(every)
        if asset in found:
            way = found[asset]
            assert (len(way.path), ALWAYS - way.at, way.spread) == min(every)
            assert way.rate == pytest.approx(product(asset, way.path, by_name, prices))
            assert set(way.path) <= on_shortest([by_name[name] for name in prices], 0, [asset])
    again = pairs.copy()
    shuffled.shuffle(again)
    assert ways(again, prices, 0) == found


def product(asset: int, path: tuple[str, ...], pairs: dict[str, Pair], prices: dict[str, Price]) -> Decimal:
    rate, at = Decimal(1), asset
    for name in path:
        pair = pairs[name]
        rate, at = (
            (rate * prices[name].value, pair.quote) if at == pair.base else (rate / prices[name].value, pair.base)
        )
    assert at == 0
    return rate
