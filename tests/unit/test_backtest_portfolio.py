"""Several markets at once: one after the other they are as if alone; with one purse, money goes round in the order of
the fills.
"""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_backtest_array import MARKETS, MINUTE, SEEDS, bars_at, drawn, some_gaps
from trader.backtest.array import run
from trader.backtest.data import bars_of
from trader.backtest.measures import measure
from trader.backtest.portfolio import Part, run_apart, run_together
from trader.backtest.settings import parse_settings
from trader.errors import InputError

FREE = {"taker": 0, "quantity_step": "0.1", "price_tick": "0.1"}


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, name=st.sampled_from(sorted(MARKETS)))
def test_a_purse_with_one_part_is_as_alone(seed: int, name: str) -> None:
    bars, targets = drawn(seed, 150, gaps=0.05)
    terms = parse_settings(MARKETS[name])
    across, _, _ = some_gaps(bars, seed, 3)
    alone = run(bars, targets, terms, 3, across)
    together = run_together([Part("one", bars, targets, terms, 3, across)], terms)
    assert together.results[0].refused == alone.refused
    assert together.equity == pytest.approx(alone.equity, rel=1e-12, abs=1e-9)
    assert together.cash.tolist() == alone.cash.tolist()
    assert together.flows == alone.flows
    assert together.results[0].fills.quantity.tolist() == alone.fills.quantity.tolist()
    whole, one = together.measures(), measure(alone, 2)
    for column in ("profit", "realised", "fees", "return_percent", "max_drawdown_percent", "buy_and_hold_percent"):
        assert getattr(whole, column) == pytest.approx(getattr(one, column), abs=1e-6), column


def test_parts_with_one_purse_by_hand() -> None:
    """A takes the half, then B half of the rest; A's sale at the open of bar 4 pays for B's second buy there."""
    terms = parse_settings(FREE | {"stake": 50})
    a = Part("A", bars_at([10] * 6, [10] * 6), np.array([0, 1.0, 1.0, 0, 0, 0]), terms)
    b = Part("B", bars_at([20] * 6, [20] * 6), np.array([0, 1.0, 0, 1.0, 1.0, 1.0]), terms)
    both = run_together([a, b], parse_settings({"deposit": 1_000}))
    first, second = (result.fills for result in both.results)
    assert first.bar.tolist() == [2, 4]
    assert first.quantity.tolist() == [50, 50]  # 500 / 10
    assert second.bar.tolist() == [2, 3, 4]
    assert second.quantity.tolist() == [12.5, 12.5, 25]  # 250 / 20; then 1,000 is there again: 500 / 20
    assert both.cash.tolist() == [1_000, 1_000, 250, 500, 500, 500]
    assert both.equity.tolist() == [1_000] * 6
    assert [result.equity[-1] for result in both.results] == [0, 0]


def test_markets_that_close_at_different_times() -> None:
    """A bar of two minutes beside bars of one: what was bought at its open counts from then on."""
    terms = parse_settings(FREE | {"stake": 100})
    ones = np.full(3, 10.0)
    slow = bars_of("5m", np.array([5, 10, 15]) * MINUTE, ones, ones, ones, ones, ones)
    quick = bars_at([1.0] * 15, [1.0] * 15)
    parts = [Part("slow", slow, np.array([0, 1.0, 1.0]), terms), Part("quick", quick, np.zeros(15), terms)]
    both = run_together(parts, parse_settings({"deposit": 100}))
    assert both.equity.tolist() == [100] * 15
    assert both.cash.tolist() == [100] * 10 + [0] * 5  # bought at 10:00, which the bars that close then do not see


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_no_money_is_made_or_lost_between_parts(seed: int) -> None:
    terms = parse_settings(MARKETS["half"] | {"flows": ()})
    parts = [Part(str(i), *drawn(seed + i, 100, gaps=0.03), terms) for i in range(4)]
    both = run_together(
        parts, parse_settings({"deposit": 500, "flows": [{"at": "1970-01-01T00:40:00Z", "amount": 250}]})
    )
    made = sum(float(result.equity[-1]) for result in both.results)
    assert both.equity[-1] == pytest.approx(750 + made, abs=1e-6)
    assert (both.cash >= 0).all()
    measures = both.measures()
    assert measures.profit == pytest.approx(measures.realised + measures.unrealised, abs=1e-6)


def test_parts_apart_are_as_alone_and_memory_stays_flat() -> None:
    terms = parse_settings({})

    def parts(number: int) -> Iterator[Part]:
        for i in range(number):
            bars, targets = drawn(i, 5_000)
            yield Part(str(i), bars, targets, terms)

    def peak(number: int) -> int:
        tracemalloc.start()
        try:
            for name, result in run_apart(parts(number)):
                assert name
                assert measure(result).gaps == 0
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(2), peak(12)
    assert many < few * 1.2
    name, result = next(run_apart(parts(1)))
    assert (name, result.equity.tobytes()) == ("0", run(*drawn(0, 5_000), terms).equity.tobytes())


def test_parts_that_do_not_fit_are_refused() -> None:
    bars, targets = drawn(1, 20)
    plain, stepped = parse_settings({}), parse_settings(FREE)
    with pytest.raises(InputError, match="there is no part"):
        run_together([], plain)
    with pytest.raises(InputError, match="part A is there twice"):
        run_together([Part("A", bars, targets, plain)] * 2, plain)
    with pytest.raises(InputError, match="part B has no quantity_step"):
        run_together([Part("A", bars, targets, stepped), Part("B", bars, targets, plain)], plain)
    closing = parse_settings({"fill": "close"})
    with pytest.raises(InputError, match="fill is next_open for some parts"):
        run_together([Part("A", bars, targets, plain), Part("B", bars, targets, closing)], plain)
