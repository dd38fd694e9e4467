"""The array engine against a slow referee that decides and sizes with the live code, and what must hold for any run."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.backtest_referee import Referee, Seen
from trader.backtest.across import Across, Watched, across_of
from trader.backtest.array import run
from trader.backtest.bars import run_bars
from trader.backtest.data import Bars, Floats, Indices, bars_of
from trader.backtest.fill import Plain, Rounded, taker_prices
from trader.backtest.result import AFTER_A_GAP, FROM_THE_START, NOT_TAKEN, UNDECIDED, Result
from trader.backtest.settings import Settings, parse_settings
from trader.errors import InputError
from trader.strategy import Missing, holes_of

MINUTE = 60_000
CENT = 0.005
SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.sampled_from(["get", "quote"])
STAKES = st.sampled_from([100, 30])


def bars_at(opens: list[float], closes: list[float], times: list[int] | None = None, volume: float = 100.0) -> Bars:
    """Bars without wicks. `times` counts the minutes at which they close."""
    o, c = np.array(opens, dtype=float), np.array(closes, dtype=float)
    time = np.array(times or range(1, len(opens) + 1), dtype=np.int64) * MINUTE
    return bars_of("1m", time, o, np.maximum(o, c), np.minimum(o, c), c, np.full(len(o), volume))


def drawn(seed: int, length: int, cents: int = 2, gaps: float = 0.0) -> tuple[Bars, Floats]:
    """Seeded bars on a grid of cents, and targets that stay for a while."""
    rng = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.02, length))), cents)
    start = np.round(np.concatenate(([100.0], close[:-1])) * np.exp(rng.normal(0, 0.002, length)), cents)
    time = np.cumsum(1 + rng.integers(1, 9, length) * (rng.random(length) < gaps)) * MINUTE
    volume = np.round(rng.exponential(3, length), 3)
    bars = bars_of("1m", time, start, np.maximum(start, close), np.minimum(start, close), close, volume)
    targets = rng.choice([-1.0, 0.0, 0.5, 1.0], length)
    return bars, np.repeat(targets, rng.integers(1, 6, length))[:length]


MARKETS: dict[str, dict[str, Any]] = {
    "steps": {"quantity_step": "0.001", "price_tick": "0.01"},
    "steps, fee in quote": {"quantity_step": "0.01", "price_tick": "0.01", "fee_side": "quote", "taker": "0.0026"},
    "half": {"quantity_step": "0.0001", "price_tick": "0.01", "stake": 50, "spread": "0.0004", "slippage": "0.0003",
             "flows": [{"at": "1970-01-01T00:20:00Z", "amount": 250}, {"at": "1970-01-01T00:50:30Z", "amount": -10}]},
    "amount": {"quantity_step": "0.001", "price_tick": "0.1", "stake": "333.33", "stake_in_percent": False,
               "fee_side": "quote"},
    "minimums": {"quantity_step": "0.001", "price_tick": "0.01", "cost_min": 10, "deposit": "10.3", "taker": "0.004"},
    "just enough": {"quantity_step": "0.001", "stake": 100, "stake_in_percent": False, "deposit": "100.2",
                    "fee_side": "quote", "taker": "0.0015"},
    "small parts": {"quantity_step": "0.001", "price_tick": "0.01", "stake": 30, "cost_min": 10, "deposit": 38},
    "least quantity": {"quantity_step": "0.1", "quantity_min": "0.4", "price_tick": "0.01", "deposit": 50},
    "ticks": {"quantity_step": "0.001", "price_tick": "0.05", "slippage_ticks": 3, "fill": "close",
              "flows": [{"at": "1970-01-01T00:30:00Z", "amount": 77}]},
    "thin": {"quantity_step": "0.001", "price_tick": "0.01", "volume_share": "0.25", "cost_min": 5, "deposit": 300},
    "no tick": {"quantity_step": "0.00001", "spread": "0.001", "gap": "skip"},
    "skip": {"quantity_step": "0.001", "price_tick": "0.01", "gap": "skip", "cost_min": 10, "deposit": 12},
}  # fmt: skip


def assert_same(result: Result, seen: Seen) -> None:
    """Fills one by one and money to the last of its eight places."""
    fills = result.fills
    assert list(zip(fills.bar.tolist(), fills.decided.tolist(), fills.side.tolist(), strict=True)) == [
        (fill.bar, fill.decided, 1 if fill.side == "buy" else -1) for fill in seen.fills
    ]
    for name in ("price", "quantity", "quote", "fee"):
        assert getattr(fills, name).tolist() == [float(getattr(fill, name)) for fill in seen.fills], name
    assert result.cash.tolist() == [float(one) for one in seen.cash]
    assert result.holding.tolist() == [float(one) for one in seen.holding]
    assert np.abs(result.equity - np.array([float(one) for one in seen.equity])).max() < 1e-6
    assert not_taken(result) == seen.not_taken


def not_taken(result: Result) -> list[tuple[int, str]]:
    """The entries that were wanted without a fresh cross, and the stretches without a decision."""
    told = NOT_TAKEN | {UNDECIDED}
    return sorted((one.bar, one.reason) for one in result.refused if one.reason in told)


def refusing(bars: Bars, refused: Indices, warm_up: int, needed: int) -> Across:
    """What a strategy makes of the gaps before the bars `refused`, if it accepts all others."""
    accepted = np.setdiff1d(bars.breaks, refused)
    missing = Missing({"outage": bars.time[refused - 1], "no_trades": bars.time[accepted - 1]})
    decided = np.arange(warm_up - 1, len(bars))
    return across_of(decided, Watched(holes_of(bars.time, missing, "no_trades"), needed, decided))


def some_gaps(bars: Bars, seed: int, warm_up: int) -> tuple[Across, list[int], int]:
    """Some of the gaps of bars refused, by chance: what that does, before which bars, and within how many."""
    rng = np.random.default_rng(seed)
    refused, needed = bars.breaks[rng.random(len(bars.breaks)) < rng.random()], int(rng.integers(1, warm_up + 1))
    return refusing(bars, refused, warm_up, needed), refused.tolist(), needed


@pytest.mark.parametrize("name", MARKETS)
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 200),
    gaps=st.sampled_from([0.0, 0.1]),
    warm_up=st.integers(1, 9),
)
def test_it_does_what_live_trading_does(name: str, seed: int, length: int, gaps: float, warm_up: int) -> None:
    bars, targets = drawn(seed, length, gaps=gaps)
    terms, (across, refused, needed) = parse_settings(MARKETS[name]), some_gaps(bars, seed, warm_up)
    seen = Referee(bars, targets.tolist(), terms, warm_up, refused, needed).run()
    assert_same(run(bars, targets, terms, warm_up, across), seen)


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    stake=st.sampled_from([100, 30]),
    side=st.sampled_from(["get", "quote"]),
    fill=st.sampled_from(["next_open", "close"]),
)
def test_without_steps_it_agrees_to_the_cent(seed: int, stake: int, side: str, fill: str) -> None:
    bars, targets = drawn(seed, 150)
    terms = parse_settings({"stake": stake, "fee_side": side, "fill": fill, "price_tick": "0.01"})
    product, seen = run(bars, targets, terms), Referee(bars, targets.tolist(), terms).run()
    assert product.fills.bar.tolist() == [one.bar for one in seen.fills]
    assert product.fills.price.tolist() == pytest.approx([float(one.price) for one in seen.fills], abs=1e-9)
    apart = np.abs(product.equity - [float(one) for one in seen.equity])
    assert (apart < CENT * np.maximum(1, product.equity / 10_000)).all()  # what a cut left behind grows with the rest
    assert np.abs(product.fills.fee - [float(one.fee) for one in seen.fills]).max(initial=0) < CENT


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    stake=st.sampled_from([100, 30]),
    side=st.sampled_from(["get", "quote"]),
    gap=st.sampled_from(["wait", "skip"]),
)
def test_the_product_and_the_loop_are_the_same(seed: int, stake: int, side: str, gap: str) -> None:
    bars, targets = drawn(seed, 150, gaps=0.02)
    terms = parse_settings({"stake": stake, "fee_side": side, "gap": gap})
    product = run(bars, targets, terms)
    looped = run(
        replace(bars, volume=np.full(150, 1e9)), targets, terms.model_copy(update={"volume_share": Decimal(1)})
    )
    assert product.fills.bar.tolist() == looped.fills.bar.tolist()
    assert not_taken(product) == not_taken(looped)
    assert product.equity == pytest.approx(looped.equity, rel=1e-12)
    assert product.cash == pytest.approx(looped.cash, rel=1e-12, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, name=st.sampled_from(sorted(MARKETS)), at=st.integers(1, 99))
def test_the_future_changes_nothing(seed: int, name: str, at: int) -> None:
    """Shuffle all that comes after a bar: what was filled up to it stands, and so does the equity."""
    bars, targets = drawn(seed, 100, gaps=0.05)
    terms = parse_settings(MARKETS[name])
    order = np.concatenate((np.arange(at), at + np.random.default_rng(seed).permutation(100 - at)))
    columns = [getattr(bars, column)[order] for column in ("open", "high", "low", "close", "volume")]
    other = bars_of("1m", bars.time, *columns)
    before, after = run(bars, targets, terms), run(other, targets[order], terms)
    past = before.fills.bar < at
    assert before.equity[:at].tolist() == after.equity[:at].tolist()
    for column in ("bar", "decided", "side", "price", "quantity", "quote", "fee"):
        same = getattr(before.fills, column)[past].tolist()
        assert same == getattr(after.fills, column)[after.fills.bar < at].tolist()
    assert run(bars[:at], targets[:at], terms).equity.tolist() == before.equity[:at].tolist()


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, name=st.sampled_from(sorted(MARKETS)))
def test_money_is_conserved(seed: int, name: str) -> None:
    """What is there is what came, plus what prices made, minus fees; and the same input gives the same output."""
    bars, targets = drawn(seed, 150)
    funded = {
        "flows": [{"at": "1970-01-01T00:40:00Z", "amount": 500}, {"at": "1970-01-01T01:00:00Z", "amount": "7.25"}]
    }
    terms = parse_settings(MARKETS[name] | funded)
    result = run(bars, targets, terms)
    held = np.concatenate(([0.0], result.holding[:-1]))
    moves = held * np.diff(bars.close, prepend=bars.close[0])
    fills = result.fills
    got = np.where(fills.side > 0, fills.quantity, -fills.quantity)
    in_base = (fills.side > 0) & (terms.fee_side == "get")
    fees = np.where(in_base, fills.fee * bars.close[fills.bar], fills.fee)
    against = got * (bars.close[fills.bar] - fills.price) - fees
    came = sum(amount for _, amount in result.flows)
    assert result.equity[-1] == pytest.approx(came + moves.sum() + against.sum(), abs=1e-5)
    assert result.flows[0] == (0, float(terms.deposit))
    assert (result.cash >= 0).all()
    assert (result.holding >= 0).all()
    again = run(bars, targets, terms)
    assert again.equity.tobytes() == result.equity.tobytes()
    assert again.fills.fee.tobytes() == fills.fee.tobytes()


@pytest.mark.parametrize("name", MARKETS)
def test_no_fill_before_the_bar_after_its_decision(name: str) -> None:
    bars, targets = drawn(5, 2_000, gaps=0.02)
    terms = parse_settings(MARKETS[name] | {"deposit": 10_000})
    fills = run(bars, targets, terms).fills
    lag = 0 if terms.fill == "close" else 1
    assert len(fills) > 100
    assert (fills.bar - fills.decided == lag).all()


# By hand


def test_a_trade_by_hand() -> None:
    """Cross at bar 1, bought at the open of 2, out at 3, sold at the open of 4; fee 0.1 % of what is got."""
    bars = bars_at([100, 100, 50, 60, 80], [100, 100, 60, 80, 80])
    terms = parse_settings({"deposit": 1_000, "quantity_step": "0.01", "price_tick": "0.01"})
    result = run(bars, np.array([0, 1.0, 1.0, 0, 0]), terms)
    fills = result.fills
    assert fills.bar.tolist() == [2, 4]
    assert fills.decided.tolist() == [1, 3]
    assert fills.price.tolist() == [50, 80]
    assert fills.quantity.tolist() == [20, 19.98]  # 1,000 / 50; 20 less 0.02 of fee
    assert fills.fee.tolist() == [0.02, 1.5984]  # base; 19.98 x 80 x 0.1 %
    assert result.cash.tolist() == [1_000, 1_000, 0, 0, 1_596.8016]
    assert result.equity.tolist() == [1_000, 1_000, 19.98 * 60, 19.98 * 80, 1_596.8016]
    assert result.fees.tolist() == [1, 1.5984]


def test_spread_and_slippage_are_against_us() -> None:
    bars = bars_at([100, 100, 100, 100], [100, 100, 100, 100])
    terms = parse_settings({"spread": "0.002", "slippage": "0.0005", "price_tick": "0.1", "slippage_ticks": 2})
    fills = run(bars, np.array([0, 1.0, 0, 0]), terms).fills
    # 100 x (1 + 0.001 + 0.0005) = 100.15, up to 100.2, and 2 ticks; 99.85, down to 99.8, and 2 ticks
    assert fills.price.tolist() == pytest.approx([100.4, 99.6], abs=1e-12)


def test_what_cannot_be_sold_counts_as_nothing_and_is_added_to() -> None:
    """Held is 1, worth 10 at the close of bar 2, but 9.9 where it would be sold: less than the 10 that trade. Bar 3 is
    fresh at 9.9, so it buys 2 more; all 3 are sold after bar 4.
    """
    bars = bars_at([10, 10, 10, 9.9, 5, 10.2], [10, 10, 10, 9.9, 10.2, 10.2])
    targets = np.array([0, 1.0, 0, 1.0, 0, 0])
    terms = parse_settings(
        {"deposit": 30, "stake": 10, "stake_in_percent": False, "taker": 0, "quantity_step": 1, "cost_min": 10}
    )
    result = run(bars, targets, terms)
    assert result.fills.quantity.tolist() == [1, 2, 3]
    assert result.fills.bar.tolist() == [2, 4, 5]
    assert_same(result, Referee(bars, targets.tolist(), terms).run())


@pytest.mark.parametrize(("deposit", "fills"), [("100.14", 0), ("100.15", 1)])
def test_a_fee_on_top_must_be_there_too(deposit: str, fills: int) -> None:
    bars, targets = bars_at([10] * 3, [10] * 3), np.array([0, 1.0, 1.0])
    rules = {"quantity_step": "0.1", "stake": 100, "stake_in_percent": False, "fee_side": "quote", "taker": "0.0015"}
    terms = parse_settings(rules | {"deposit": deposit})
    result = run(bars, targets, terms)
    assert len(result.fills) == fills
    assert_same(result, Referee(bars, targets.tolist(), terms).run())
    assert len(run(bars, targets, terms.model_copy(update={"quantity_step": None})).fills) == fills


@example(cents=3_333_334, share=3, ticks=0, side="buy")  # 3333335.0000002 ticks
@example(cents=3_333_334, share=3, ticks=0, side="sell")  # 3333332.9999998 ticks
@settings(max_examples=300, deadline=None)
@given(
    cents=st.integers(1, 10**7),
    share=st.integers(0, 4_000_000),
    ticks=st.integers(0, 3),
    side=st.sampled_from(["buy", "sell"]),
)
def test_prices_are_rounded_as_decimals_are(cents: int, share: int, ticks: int, side: Any) -> None:
    """One at a time and as columns: up to fifteen digits decide which tick it is."""
    slippage = Decimal(share) / 10**7
    terms = parse_settings({"price_tick": "0.01", "quantity_step": 1, "slippage": slippage, "slippage_ticks": ticks})
    at = cents / 100
    right = int(Referee(bars_at([at], [at]), [0.0], terms).price(side, at) * 100)
    arithmetic = Rounded(terms)
    assert arithmetic.price(side, at) == right
    assert arithmetic.prices(side, np.array([at])) == [right]
    assert Plain(terms).price(side, at) == taker_prices(terms, side, np.array([at]))[0] == right * 0.01


def test_the_noise_of_a_float_is_no_tick() -> None:
    """Files hold prices such as this one, which is 0.09946999 and not a hair more."""
    bars = bars_at([0.09946999000000001] * 4, [0.09946999000000001] * 4)
    terms = parse_settings({"price_tick": "0.00000001", "quantity_step": "0.001", "deposit": 1})
    assert run(bars, np.array([0, 1.0, 0, 0]), terms).fills.price.tolist() == [0.09946999, 0.09946999]


def test_no_fill_inside_a_gap() -> None:
    """Two minutes are missing before the third bar: the order waits for it, or is let go if so wanted."""
    bars = bars_at([10, 10, 20, 20, 30, 30], [10, 10, 20, 20, 30, 30], [1, 2, 5, 6, 7, 8])
    targets = np.array([0, 1.0, 1.0, 1.0, 0, 0])
    waits = run(bars, targets, parse_settings({}))
    assert (waits.gaps, bars.missing, waits.after_gaps) == (1, 2, 1)
    assert waits.fills.price.tolist() == [20, 30]
    skips = run(bars, targets, parse_settings({"gap": "skip"}))
    assert len(skips.fills) == 0
    assert [(one.bar, one.reason) for one in skips.refused] == [(1, "a gap follows")]
    exits = run(bars, np.array([1.0, 0, 0, 0, 0, 0]), parse_settings({"gap": "skip"}), warm_up=1)
    assert len(exits.fills) == 0  # nothing was held: the first bar is no fresh cross


def test_an_exit_that_a_gap_swallows_is_made_up_for() -> None:
    bars = bars_at([10] * 6, [10] * 6, [1, 2, 3, 5, 6, 7])
    fills = run(bars, np.array([0, 1.0, 0, 0, 0, 0]), parse_settings({"gap": "skip"})).fills
    assert fills.bar.tolist() == [2, 4]
    assert fills.decided.tolist() == [1, 3]


def test_the_bar_after_a_gap_is_a_fresh_cross_if_the_gap_is_accepted() -> None:
    bars, targets = bars_at([10] * 5, [10] * 5, [1, 2, 4, 5, 6]), np.array([0, 0, 1.0, 1.0, 0])
    result = run(bars, targets, parse_settings({}))
    assert (result.fills.decided.tolist(), result.refused) == ([2], ())
    refused = run(bars, targets, parse_settings({}), 1, refusing(bars, bars.breaks, 1, 1))
    assert len(refused.fills) == 0
    assert refused.refused == ((2, AFTER_A_GAP),)


def test_no_decision_is_made_while_a_refused_gap_lies_within_the_warm_up() -> None:
    """The gap is before bar 3, the warm-up three bars: none at bars 3 and 4, also where an exit waits."""
    bars = bars_at([10] * 8, [10] * 8, [1, 2, 3, 5, 6, 7, 8, 9])
    gap = refusing(bars, bars.breaks, 1, 3)
    held = run(bars, np.array([0, 1.0, 1.0, 0, 0, 0, 0, 0]), parse_settings({}), 1, gap)
    assert held.fills.decided.tolist() == [1, 5]
    assert held.refused == ((3, UNDECIDED),)
    lost = run(bars, np.array([0, 0, 0, 0, 1.0, 1.0, 1.0, 1.0]), parse_settings({}), 1, gap)
    assert len(lost.fills) == 0
    assert lost.refused == ((3, UNDECIDED), (5, AFTER_A_GAP))
    fresh = run(bars, np.array([0, 0, 0, 1.0, 0, 1.0, 1.0, 1.0]), parse_settings({}), 1, gap)
    assert fresh.fills.decided.tolist() == [5]  # the target of bar 4 is known, though nothing was decided there


def test_a_cross_right_after_a_stretch_without_decisions_counts_within_one_run_of_targets() -> None:
    """In at the last decision, but not bought; out and in again before the next one: that is a cross like any other."""
    bars = bars_at([10] * 8, [10] * 8, [1, 2, 3, 5, 6, 7, 8, 9])
    gap = refusing(bars, bars.breaks, 1, 3)
    result = run(bars, np.array([1.0, 1.0, 1.0, 1.0, 0, 1.0, 1.0, 0]), parse_settings({"gap": "skip"}), 1, gap)
    assert result.fills.decided.tolist() == [5]
    assert result.refused == ((0, FROM_THE_START), (3, UNDECIDED), (7, "the bars end here"))


ALWAYS, AGAIN = [1.0] * 8, [1.0, 0, 0, 1.0, 1.0, 0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("targets", "warm_up", "said"),
    [
        (ALWAYS, 1, [(0, FROM_THE_START)]),
        (ALWAYS, 3, [(2, FROM_THE_START)]),
        (ALWAYS, 4, [(3, FROM_THE_START)]),  # the bar after the gap, but nothing counts before it
        (AGAIN, 1, [(0, FROM_THE_START), (3, AFTER_A_GAP)]),
        (AGAIN, 2, [(3, AFTER_A_GAP)]),
        ([0, 1.0, 1.0, 1.0, 1.0, 0, 1.0, 1.0], 1, []),  # it is in when the gap comes
        ([1.0] * 5 + [0, 1.0, 1.0], 1, [(0, FROM_THE_START)]),  # a gap within a stretch begins no other
        (ALWAYS, 9, []),
    ],
)
@pytest.mark.parametrize("terms", [{}, {"quantity_step": "0.01", "gap": "skip"}, {"fill": "close"}])
def test_a_stretch_without_a_fresh_cross_is_told_once(
    targets: list[float], warm_up: int, said: list[tuple[int, str]], terms: dict[str, Any]
) -> None:
    bars, settings = bars_at([10] * 8, [10] * 8, [1, 2, 3, 6, 7, 8, 9, 10]), parse_settings(terms)
    across = refusing(bars, bars.breaks, warm_up, 1)
    followed = run_bars(bars, lambda context: targets[context.index], settings, warm_up, across=across)
    for result in (run(bars, np.array(targets), settings, warm_up, across), followed):
        assert not_taken(result) == said
        assert sorted(result.refused) == list(result.refused)


def test_nothing_is_missed_where_something_is_held() -> None:
    """The gap swallows the exit, so it is still in when the target rises again after it."""
    bars, targets = bars_at([10] * 6, [10] * 6, [1, 2, 3, 6, 7, 8]), [0, 1.0, 0, 1.0, 1.0, 1.0]
    settings = parse_settings({"gap": "skip"})
    followed = run_bars(bars, lambda context: targets[context.index], settings)
    for result in (run(bars, np.array(targets), settings), followed):
        assert result.refused == ((2, "a gap follows"),)
        assert result.holding[-1] > 0


def test_months_have_gaps_too() -> None:
    closes = np.array(["2024-02-01", "2024-03-01", "2024-06-01"], dtype="datetime64[ms]").astype(np.int64)
    ones = np.ones(3)
    bars = bars_of("1M", closes, ones, ones, ones, ones, ones)
    assert bars.breaks.tolist() == [2]
    assert bars.missing == 2  # those that close on the first of April and of May


def test_deposits_count_from_the_first_close_at_or_after_them() -> None:
    bars = bars_at([10] * 4, [10] * 4)
    flows = [{"at": "1970-01-01T00:03:01Z", "amount": -30}, {"at": "1970-01-01T00:02:00Z", "amount": 50}]
    result = run(bars, np.zeros(4), parse_settings({"deposit": 100, "flows": flows}))
    assert result.equity.tolist() == [100, 150, 150, 120]
    assert result.flows == ((0, 100.0), (1, 50.0), (3, -30.0))


# Bad input


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"taker": -1}, "taker is -1: a share of the amount, from 0 to below 0.5"),
        ({"maker": "much"}, "maker is 'much': a share of the amount"),
        ({"fees": 1}, 'unknown setting "fees": there is deposit, flows, stake'),
        ({"stake": 101}, "stake is 101: at most 100 percent"),
        ({"slippage_ticks": 1}, "slippage_ticks is 1: there is no price_tick"),
        ({"fill": "open"}, "fill is 'open': next_open or close"),
        ({"quantity_step": "1e-9"}, "quantity_step is 1E-9: at most eight decimals"),
        ({"volume_share": 2}, "volume_share is 2: a share of a bar's volume"),
        ({"deposit": "nan"}, "deposit is 'nan': quote that is there"),
        ({"deposit": "1e30"}, "deposit is '1e30': quote that is there from the first bar, from 0 to below 1e15"),
        ({"flows": [{"at": "2024-01-01T00:00:00", "amount": 1}]}, "flows.0: at is 2024-01-01 00:00:00: a moment with"),
        ({"flows": [{"amount": 1}]}, "flows.0.at is missing: a moment with its time zone"),
        ({"flows": [{"at": "2024-01-01T00:00:00Z", "amount": 0}]}, "flows.0: amount is 0"),
    ],
)
def test_settings_say_what_is_allowed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_settings(values)
    assert message in str(error.value)


def test_bad_targets_and_money_are_refused() -> None:
    bars = bars_at([10, 10], [10, 10])
    with pytest.raises(InputError, match="3 targets for 2 bars"):
        run(bars, np.zeros(3), Settings())
    with pytest.raises(InputError, match=r"target at 1970-01-01 00:02:00 is 2.0: from -1 to 1 is allowed"):
        run(bars, np.array([0.0, 2.0]), Settings())
    with pytest.raises(InputError, match="is nan: from -1 to 1"):
        run(bars, np.array([np.nan, 0.0]), Settings())
    with pytest.raises(InputError, match="there is no bar"):
        run(bars[:0], np.zeros(0), Settings())
    terms = parse_settings({"deposit": 10, "flows": [{"at": "1970-01-01T00:02:00Z", "amount": -11}]})
    with pytest.raises(InputError, match=r"a withdrawal of 11 at 1970-01-01 00:02:00: only 10.00000000 is free"):
        run(bars, np.zeros(2), terms)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("open", np.nan, r"bar 2 \(1970-01-01 00:02:00\): open nan is no price above 0"),
        ("low", 11.0, r"bar 2 .*: open 10.0 is below the low"),
        ("high", 9.0, r"bar 2 .*: high 9.0 is below the low"),
        ("volume", -1.0, r"bar 2 .*: volume -1.0 is no amount from 0"),
        ("time", 60_000, r"bar 2 .*: time 1970-01-01 00:01:00 is not after the one before"),
    ],
)
def test_bad_bars_are_refused(column: str, value: float, message: str) -> None:
    columns = {name: np.array([10.0, 10.0]) for name in ("open", "high", "low", "close", "volume")}
    columns["time"] = np.array([60_000, 120_000])
    columns[column][1] = value
    with pytest.raises(InputError, match=message):
        bars_of("1m", columns.pop("time"), *columns.values())
