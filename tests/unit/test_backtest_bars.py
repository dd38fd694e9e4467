"""The engine with one call per bar: orders that wait for a price, by drawn bars; as a follower of targets, the array
engine's equal.
"""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_backtest_array import MARKETS, MINUTE, SEEDS, drawn, not_taken, some_gaps
from trader.backtest.array import run
from trader.backtest.bars import Engine, run_bars
from trader.backtest.data import Bars, bars_of
from trader.backtest.fill import Rounded
from trader.backtest.settings import parse_settings
from trader.backtest.ticket import Context
from trader.errors import InputError
from trader.strategy import SignalError

Bar = tuple[float, float, float, float]


def drawn_bars(*rows: Bar, volume: float = 1_000.0, times: list[int] | None = None) -> Bars:
    """Bars as (open, high, low, close)."""
    columns = [np.array(column, dtype=float) for column in zip(*rows, strict=True)]
    time = np.array(times or range(1, len(rows) + 1), dtype=np.int64) * MINUTE
    return bars_of("1m", time, *columns, np.full(len(rows), volume))


def trades(bars: Bars, at: dict[int, Any], **terms: Any) -> list[tuple[int, int, float, float, bool]]:
    """Bar, side, price, quantity and maker of each fill, where `at` says what to do at the close of which bar.

    1,000 quote, no fee, steps of 0.1.
    """
    usual = {"deposit": 1_000, "maker": 0, "taker": 0, "quantity_step": "0.1", "price_tick": "0.1"}

    def on_bucket(context: Context) -> None:
        if context.index in at:
            at[context.index](context)

    fills = run_bars(bars, on_bucket, parse_settings(usual | terms)).fills
    return list(zip(*(getattr(fills, n).tolist() for n in ("bar", "side", "price", "quantity", "maker")), strict=True))


FLAT: Bar = (100, 100, 100, 100)


@pytest.mark.parametrize("name", MARKETS)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, gaps=st.sampled_from([0.0, 0.1]), warm_up=st.integers(1, 9))
def test_following_targets_it_equals_the_array_engine(name: str, seed: int, gaps: float, warm_up: int) -> None:
    bars, targets = drawn(seed, 120, gaps=gaps)
    terms, wanted = parse_settings(MARKETS[name]), targets.tolist()
    across, _, _ = some_gaps(bars, seed, warm_up)
    quick = run(bars, targets, terms, warm_up, across)

    def follow(context: Context) -> float:
        return wanted[context.index]

    slow = run_bars(bars, follow, terms, warm_up, across=across, asks_silent=True)
    assert slow.equity.tolist() == quick.equity.tolist()
    assert not_taken(slow) == not_taken(quick)
    for column in ("bar", "decided", "side", "price", "quantity", "quote", "fee", "maker"):
        assert getattr(slow.fills, column).tolist() == getattr(quick.fills, column).tolist(), column


def test_a_market_order_is_filled_at_the_next_open() -> None:
    bars = drawn_bars(FLAT, (50, 60, 40, 55), (70, 80, 60, 75))
    assert trades(bars, {0: lambda c: c.buy(), 1: lambda c: c.sell()}) == [
        (1, 1, 50, 20, False),
        (2, -1, 70, 20, False),
    ]


@pytest.mark.parametrize(
    ("bar", "fill"),
    [
        ((100, 101, 95, 100), (1, 1, 95, 10.5, True)),  # touched: 1,000 / 95 = 10.52
        ((100, 101, 95.1, 100), None),
        ((94, 96, 93, 95), (1, 1, 94, 10.5, False)),  # it arrives where the market is better already: it takes that
    ],
)
def test_a_limit_buy(bar: Bar, fill: tuple[Any, ...] | None) -> None:
    assert trades(drawn_bars(FLAT, bar), {0: lambda c: c.buy(limit=95)}) == ([fill] if fill else [])


def test_a_limit_that_waited_is_filled_at_its_own_price_when_the_market_jumps_past() -> None:
    bars = drawn_bars(FLAT, FLAT, (90, 91, 89, 90))
    assert trades(bars, {0: lambda c: c.buy(limit=95)}) == [(2, 1, 95, 10.5, True)]


def test_a_limit_may_have_to_be_passed() -> None:
    at = {0: lambda c: c.buy(limit=95)}
    assert trades(drawn_bars(FLAT, (100, 101, 95, 100)), at, limit_fill="through") == []
    assert len(trades(drawn_bars(FLAT, (100, 101, 94.9, 100)), at, limit_fill="through")) == 1


ENTRY = {0: lambda c: (c.buy(), c.sell(stop=90), c.sell(limit=110))}


@pytest.mark.parametrize(
    ("bar", "fill"),
    [
        ((100, 105, 90, 100), (2, -1, 90, 10, False)),  # the stop is touched
        ((85, 95, 80, 90), (2, -1, 85, 10, False)),  # a gap through the stop: the open
        ((100, 110, 95, 100), (2, -1, 110, 10, True)),  # the target
        ((120, 125, 85, 100), (2, -1, 110, 10, True)),  # the open is beyond the target, so it comes first, at its price
        ((100, 115, 85, 100), (2, -1, 90, 10, False)),  # both inside: the stop, because nobody knows
        ((100, 109, 91, 100), None),
    ],
)
def test_stop_and_target(bar: Bar, fill: tuple[Any, ...] | None) -> None:
    filled = trades(drawn_bars(FLAT, FLAT, bar, FLAT), ENTRY)
    assert filled == [(1, 1, 100, 10, False), *([fill] if fill else [])]


def test_exits_count_in_the_bar_of_an_entry_at_the_open() -> None:
    assert trades(drawn_bars(FLAT, (100, 111, 95, 100)), ENTRY)[1:] == [(1, -1, 110, 10, True)]
    assert trades(drawn_bars(FLAT, (100, 111, 89, 100)), ENTRY)[1:] == [(1, -1, 90, 10, False)]


def test_after_an_entry_inside_a_bar_its_stop_counts_and_its_target_does_not() -> None:
    at = {0: lambda c: (c.buy(limit=95), c.sell(stop=90), c.sell(limit=105))}
    bought = (1, 1, 95, 10.5, True)
    assert trades(drawn_bars(FLAT, (100, 106, 94, 100)), at) == [bought]
    assert trades(drawn_bars(FLAT, (100, 106, 89, 100)), at) == [bought, (1, -1, 90, 10.5, False)]
    assert trades(drawn_bars(FLAT, (100, 106, 94, 100), (104, 106, 99, 100)), at)[1:] == [(2, -1, 105, 10.5, True)]


def test_slippage_is_taken_from_stops_and_not_from_limits() -> None:
    terms = {"slippage": "0.01"}
    bars = drawn_bars(FLAT, FLAT, (100, 100, 89, 95), FLAT)
    assert trades(bars, ENTRY, **terms) == [(1, 1, 101, 9.9, False), (2, -1, 89.1, 9.9, False)]
    bars = drawn_bars(FLAT, FLAT, (100, 111, 95, 95), FLAT)
    assert trades(bars, ENTRY, **terms)[1] == (2, -1, 110, 9.9, True)


def test_a_stop_buy() -> None:
    at = {0: lambda c: c.buy(stop=105)}
    assert trades(drawn_bars(FLAT, (100, 106, 99, 100)), at) == [(1, 1, 105, 9.5, False)]
    assert trades(drawn_bars(FLAT, (108, 109, 107, 108)), at) == [(1, 1, 108, 9.2, False)]
    assert trades(drawn_bars(FLAT, (100, 104.9, 99, 100)), at) == []


def test_a_stop_limit_waits_at_its_limit_when_the_market_jumps_past() -> None:
    at = {0: lambda c: c.buy(), 1: lambda c: c.sell(stop=95, limit=94)}
    bought = [(1, 1, 100, 10, False)]
    assert trades(drawn_bars(FLAT, FLAT, (100, 100, 90, 92)), at) == [*bought, (2, -1, 95, 10, False)]
    assert trades(drawn_bars(FLAT, FLAT, (90, 93, 89, 92)), at) == bought
    assert trades(drawn_bars(FLAT, FLAT, (90, 94, 89, 92)), at) == [*bought, (2, -1, 94, 10, True)]
    waits = drawn_bars(FLAT, FLAT, (90, 93, 89, 92), (92, 95, 91, 92))
    assert trades(waits, at) == [*bought, (3, -1, 94, 10, True)]
    # with slippage of 2 % the stop at 95 would sell at 93.1: below its limit, so it waits, from the next bar on
    slips = trades(drawn_bars(FLAT, FLAT, (100, 100, 90, 92), (92, 95, 91, 92)), at, slippage="0.02")
    assert [one[:3] for one in slips] == [(1, 1, 102), (3, -1, 94)]


def test_a_trailing_stop_follows_the_highs_of_bars_before() -> None:
    at = {0: lambda c: (c.buy(), c.sell(trail=0.1))}
    rise = (110, 120, 109, 118)
    # the high of 120 sets the level to 108 for the next bar; the low of 109 in the same bar is above 99
    assert trades(drawn_bars(FLAT, FLAT, rise, (115, 115, 108.1, 110)), at) == [(1, 1, 100, 10, False)]
    assert trades(drawn_bars(FLAT, FLAT, rise, (115, 115, 108, 110)), at)[1:] == [(3, -1, 108, 10, False)]
    assert trades(drawn_bars(FLAT, FLAT, rise, (105, 115, 104, 110)), at)[1:] == [(3, -1, 105, 10, False)]
    assert trades(drawn_bars(FLAT, FLAT, (110, 200, 105, 110)), at)[1:] == []  # its own high does not count yet


def test_after_an_entry_inside_a_bar_a_trailing_stop_does_not_count_that_bars_high() -> None:
    """Bought at 95 in a bar that also saw 120, nobody knows when: 10 % below the close of 100 is 90, not 108."""
    at = {0: lambda c: (c.buy(limit=95), c.sell(trail=0.1))}
    spike = (100, 120, 95, 100)
    assert len(trades(drawn_bars(FLAT, spike, (99, 100, 90.1, 95)), at)) == 1
    assert trades(drawn_bars(FLAT, spike, (99, 100, 90, 95)), at)[1:] == [(2, -1, 90, 10.5, False)]


def test_beside_dust_a_trailing_stop_begins_at_its_entry_and_not_at_a_high_before_it() -> None:
    """A fee in base leaves 0.05 of what was bought, which nobody can sell; then a limit waits through a high of 130."""
    first = {0: lambda c: c.buy(), 1: lambda c: c.sell(), 2: lambda c: (c.buy(limit=95), c.sell(trail=0.1))}
    terms = {"taker": "0.005", "maker": "0.005", "fee_side": "get"}
    before = (FLAT, FLAT, FLAT, (120, 130, 110, 120), (100, 100, 94, 96))
    assert [one[:3] for one in trades(drawn_bars(*before, (96, 96, 87, 88)), first, **terms)] == [
        *((1, 1, 100), (2, -1, 100), (4, 1, 95)),
    ]
    sold = trades(drawn_bars(*before, (96, 96, 86.4, 88)), first, **terms)[3:]
    assert [one[:3] for one in sold] == [(5, -1, 86.4)]


@pytest.mark.parametrize("prices", [{"limit": 110}, {"stop": 105}], ids=["target", "stop"])
def test_beside_dust_an_exit_waits_for_its_entry_as_without(prices: dict[str, float]) -> None:
    """The price is where the exit would sell before the limit is filled; dust is nothing that it could sell."""
    first = {0: lambda c: c.buy(), 1: lambda c: c.sell(), 2: lambda c: (c.sell(**prices), c.buy(limit=95))}
    terms = {"taker": "0.005", "maker": "0.005", "fee_side": "get"}
    met = (111, 111, 104, 105)
    made = trades(drawn_bars(FLAT, FLAT, FLAT, met, (100, 100, 94.9, 96), met), first, **terms)
    assert [one[:2] for one in made] == [(1, 1), (2, -1), (4, 1), (4 + ("limit" in prices), -1)]


def test_a_part_that_is_sold_takes_its_share_of_the_cost() -> None:
    told: list[float | None] = []

    def on_bucket(context: Context) -> None:
        if context.index == 0:
            context.buy()
        elif context.index == 1:
            context.sell(quantity=4)
        told.append(context.average_cost)

    terms = parse_settings({"deposit": 1_000, "taker": 0, "quantity_step": "0.1", "price_tick": "0.1"})
    run_bars(drawn_bars(FLAT, FLAT, (120, 120, 120, 120), FLAT), on_bucket, terms)
    assert told == [None, 100, pytest.approx(100), pytest.approx(100)]


def test_volume_cuts_fills_and_what_a_stop_left_goes_at_the_next_open() -> None:
    bars = drawn_bars(FLAT, FLAT, (100, 100, 90, 91), (80, 81, 79, 80), (70, 71, 69, 70), volume=40)
    at = {0: lambda c: c.buy(), 1: lambda c: c.sell(stop=95)}
    assert trades(bars, at, volume_share="0.1") == [
        (1, 1, 100, 4, False),
        (2, -1, 95, 4, False),
    ]
    thin = drawn_bars(FLAT, FLAT, (100, 100, 90, 91), (80, 81, 79, 80), (70, 71, 69, 70), volume=40)
    thin.volume[2:] = 15
    assert trades(thin, at, volume_share="0.1")[1:] == [
        (2, -1, 95, 1.5, False),
        (3, -1, 80, 1.5, False),
    ]
    limit = {0: lambda c: c.buy(limit=95)}
    falls = drawn_bars(FLAT, (96, 97, 94, 95), (96, 97, 94, 95), (96, 97, 94, 95), volume=50)
    assert [one[3] for one in trades(falls, limit, volume_share="0.1")] == [5, 5, 0.5]


def test_a_waiting_buy_keeps_its_money() -> None:
    seen: list[float] = []

    def on_bucket(context: Context) -> None:
        if context.index == 0:
            context.buy(quantity=4, limit=95)
            context.buy(quantity=7, limit=90)  # 380 are kept: 630 do not fit into 620
        seen.append(context.allowance)
        if context.index == 2:
            context.cancel()

    bars = drawn_bars(FLAT, FLAT, FLAT, FLAT)
    terms = parse_settings({"deposit": 1_000, "taker": 0, "quantity_step": "0.1", "price_tick": "0.1"})
    result = run_bars(bars, on_bucket, terms)
    assert seen == [1_000, 620, 620, 1_000]
    assert [one.reason for one in result.refused] == ["the order cannot be paid, or is below a minimum of the market"]


def test_the_context_tells_what_is_held_and_keeps_state() -> None:
    told: list[tuple[float, float, float | None]] = []

    def on_bucket(context: Context) -> float:
        context.state["bars"] = context.state.get("bars", 0) + 1
        told.append((context.allowance, context.quantity, context.average_cost))
        return 1.0 if context.state["bars"] == 2 else 0.0

    bars = drawn_bars(FLAT, FLAT, (50, 50, 50, 50), (80, 80, 80, 80), FLAT)
    result = run_bars(bars, on_bucket, parse_settings({"deposit": 1_000, "quantity_step": "0.01"}))
    assert told[:4] == [(1_000, 0, None), (1_000, 0, None), (0, 19.98, 1_000 / 19.98), (1_596.8016, 0, None)]
    assert result.fills.bar.tolist() == [2, 3]


def test_dust_is_nothing_that_is_held() -> None:
    """The fee leaves 9.99 of 10; with steps of 0.1, 0.09 of that can never be sold: no entry may wait for it."""
    told: list[tuple[float, float | None]] = []

    def on_bucket(context: Context) -> None:
        told.append((context.quantity, context.average_cost))
        context.sell() if context.quantity else context.buy(quantity=10)

    result = run_bars(drawn_bars(*[FLAT] * 5), on_bucket, parse_settings({"deposit": 2_000, "quantity_step": "0.1"}))
    assert result.fills.side.tolist() == [1, -1, 1, -1]
    assert [quantity for quantity, _ in told] == pytest.approx([0, 9.99, 0, 10.08, 0])
    assert [cost is None for _, cost in told] == [True, False, True, False, True]
    assert result.holding[-1] == pytest.approx(0.08)


def test_a_market_order_does_not_cross_a_gap_if_so_wanted() -> None:
    bars = drawn_bars(FLAT, FLAT, FLAT, times=[1, 4, 5])
    assert trades(bars, {0: lambda c: c.buy()}, gap="skip") == []
    assert trades(bars, {0: lambda c: c.buy()}) == [(1, 1, 100, 10, False)]


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, at=st.integers(1, 99))
def test_the_future_changes_nothing(seed: int, at: int) -> None:
    """With orders that wait, too: shuffle what comes after a bar, and what was filled up to it stands."""
    bars, targets = drawn(seed, 100, gaps=0.05)
    order = np.concatenate((np.arange(at), at + np.random.default_rng(seed).permutation(100 - at)))
    columns = [getattr(bars, column)[order] for column in ("open", "high", "low", "close", "volume")]
    other = bars_of("1m", bars.time, *columns)
    terms = parse_settings(MARKETS["thin"])

    def ways(wanted: list[float]) -> Any:
        def on_bucket(context: Context) -> None:
            if wanted[context.index] > 0 and not context.orders:
                context.buy(limit=context.close * 0.99)
                context.sell(trail=0.03)
                context.sell(limit=context.close * 1.03)

        return on_bucket

    before = run_bars(bars, ways(targets.tolist()), terms)
    after = run_bars(other, ways(targets[order].tolist()), terms)
    assert before.equity[:at].tolist() == after.equity[:at].tolist()
    assert (before.fills.bar > before.fills.decided).all()
    assert (before.cash >= 0).all()
    assert (before.holding >= 0).all()


class Anxious(Engine[int]):
    """Looks at every waiting order in every bar."""

    def _calm(self) -> tuple[float, float]:
        return math.inf, -math.inf


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, through=st.booleans())
def test_bars_that_meet_no_order_are_rightly_passed_over(seed: int, through: bool) -> None:
    bars, targets = drawn(seed, 150)
    terms = parse_settings(MARKETS["steps"] | {"limit_fill": "through" if through else "touch", "stake": 40})
    random = np.random.default_rng(seed)
    plans = random.integers(0, 6, (150, 2)).tolist()

    def on_bucket(context: Context) -> float | None:
        what, price = plans[context.index]
        near = context.close * (0.97 + price / 100)
        if what == 0:
            context.buy(limit=near)
        elif what == 1:
            context.buy(stop=near, limit=near * 1.01)
        elif what == 2:
            context.sell(trail=0.02 + price / 100)
        elif what == 3:
            context.sell(stop=near, limit=near * 0.99)
        elif price == 0:
            context.cancel()
        return targets[context.index] if context.index % 10 == 0 else None

    quick = run_bars(bars, on_bucket, terms)
    slow = Anxious(bars, terms, Rounded(terms), 1).go(on_bucket)
    assert quick.equity.tolist() == slow.equity.tolist()
    assert quick.fills.price.tolist() == slow.fills.price.tolist()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (lambda c: c.buy(limit=-1), "buy order: limit is -1: a number above 0"),
        (lambda c: c.sell(trail=1.5), "sell order: trail is 1.5: a share above 0 and below 1"),
        (lambda c: c.sell(trail=0.1, stop=5), "sell order: a trailing stop has neither limit nor stop"),
        (lambda c: c.buy(quantity=float("nan")), "buy order: quantity is nan: a number above 0"),
    ],
)
def test_orders_that_cannot_be_are_refused(order: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trades(drawn_bars(FLAT, FLAT), {0: order})


def test_no_wish_keeps_the_target_before_so_that_a_cross_after_it_is_fresh() -> None:
    said: list[float | None] = [0.0, None, None, 1.0, None, 0.0, None]
    terms = parse_settings({"quantity_step": "0.1"})
    fills = run_bars(drawn_bars(*[FLAT] * 7), lambda context: said[context.index], terms).fills
    assert list(zip(fills.bar.tolist(), fills.side.tolist(), strict=True)) == [(4, 1), (6, -1)]


def test_only_the_bars_that_are_decided_on_are_called() -> None:
    seen: list[int] = []
    decides = np.array([False, True, False, False, True, True])
    run_bars(drawn_bars(*[FLAT] * 6), lambda c: seen.append(c.index), parse_settings({}), 3, decides=decides)
    assert seen == [4, 5]


def test_a_target_that_is_none_is_refused() -> None:
    with pytest.raises(SignalError, match=r"on_bucket at 1970-01-01 00:01:00 gave nan: from -1 to 1"):
        run_bars(drawn_bars(FLAT), lambda _: float("nan"), parse_settings({}))
