"""The measures, each worked out by hand, and what must hold between them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_backtest_array import MARKETS, MINUTE, SEEDS, bars_at, drawn
from trader.backtest.array import run
from trader.backtest.bars import run_bars
from trader.backtest.bootstrap import confidence
from trader.backtest.data import bars_of
from trader.backtest.measures import (
    count_returns,
    drawdown,
    measure,
    periods_per_year,
    ratios_of,
    returns_of,
    sales_of,
    unit_values,
)
from trader.backtest.record import made_of
from trader.backtest.result import Fills, Result, States
from trader.backtest.settings import parse_settings
from trader.backtest.ticket import Context
from trader.bucket.timeframe import DAY, Times

FREE = {"deposit": 1_000, "taker": 0, "quantity_step": "0.001", "price_tick": "0.01"}


def days(*closes: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(1, len(closes) + 1, dtype=np.int64) * DAY


def test_a_win_and_a_loss_by_hand() -> None:
    """1,000 buy 100 at 10, sold at 15: 1,500; buy 125 at 12, sold at 9: 1,125; nothing is held at the end."""
    bars = bars_at([10, 10, 10, 15, 12, 12, 9, 9], [10, 10, 12, 12, 12, 9, 9, 9])
    result = run(bars, np.array([0, 1.0, 0, 0, 1.0, 0, 0, 0]), parse_settings(FREE))
    assert result.equity.tolist() == [1_000, 1_000, 1_200, 1_500, 1_500, 1_125, 1_125, 1_125]
    made = measure(result)
    assert (made.deposits, made.withdrawals, made.equity, made.profit) == (1_000, 0, 1_125, 125)
    assert (made.realised, made.unrealised, made.fees) == (125, 0, 0)
    assert (made.trades, made.win_percent) == (2, 50)
    assert made.return_percent == pytest.approx(12.5)
    assert made.max_drawdown_percent == pytest.approx(25)  # from 1,500 to 1,125
    assert made.drawdown_days == pytest.approx(3 * MINUTE / DAY)  # from the close of bar 4 to the end
    assert made.exposure_percent == pytest.approx(100 * 2 / 8)
    assert made.profit_factor == pytest.approx(500 / 375)
    assert made.expectancy == pytest.approx(62.5)
    assert made.turnover == pytest.approx((1_000 + 1_500 + 1_500 + 1_125) / (9_575 / 8))
    assert made.buy_and_hold_percent == pytest.approx(-10)  # from 10 at the open of bar 1 to 9
    assert (made.sharpe, made.sortino, made.annual_return_percent, made.calmar) == (None, None, None, None)


@given(
    st.lists(st.sampled_from([1, MINUTE, DAY - 1, DAY, DAY + 1, 5 * DAY]), min_size=2, max_size=40), st.integers(0, DAY)
)
def test_each_day_with_a_bar_has_one_return(steps: list[int], first: int) -> None:
    time = first + np.cumsum(np.array(steps, dtype=np.int64))
    days = (time - 1) // DAY  # midnight belongs to the day that it ends
    last = {day: float(place + 2) for place, day in enumerate(days.tolist())}
    units = np.arange(len(time)) + 2.0
    worth = np.array([1.0, *last.values()])
    assert returns_of(time, units).tolist() == (worth[1:] / worth[:-1] - 1).tolist()
    assert count_returns(time) == len(last)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 9), st.integers(0, 2)), max_size=30))
def test_sales_are_at_average_cost_order_by_order(rows: list[tuple[bool, int, int, int]]) -> None:
    """Against the same, fill by fill: what an order realises is the sum over its fills, wherever they are."""
    sides = np.array([1 if buy else -1 for buy, *_ in rows], dtype=np.int8)
    orders = np.array([2 * order + (not buy) for buy, order, *_ in rows], dtype=np.int64)
    quantity = np.array([float(amount) for _, _, amount, _ in rows])
    fee = np.array([amount / 10 for *_, amount in rows])
    bars, none = np.arange(len(rows)), np.zeros(0)
    fills = Fills(bars, bars, sides, none, quantity, 10 * quantity + bars, fee, none.astype(bool), orders)
    drawn_bars = bars_at([10, 10], [10, 10])
    result = Result(drawn_bars, parse_settings({}), fills, States(bars[:0], none, none), (), none)
    held = cost = 0.0
    gains: dict[int, float] = {}
    last: dict[int, int] = {}
    for place, (buy, amount) in enumerate(zip(sides > 0, quantity, strict=True)):
        if buy:
            held, cost = held + amount - fee[place], cost + fills.quote[place]
            continue
        share = min(1.0, amount / held) if held > 0 else 1.0
        gains[int(orders[place])] = gains.get(int(orders[place]), 0.0) + fills.quote[place] - fee[place] - cost * share
        last[int(orders[place])] = place
        held, cost = held - amount, cost - cost * share
    made = sales_of(result)
    assert made.gains.tolist() == pytest.approx([*gains.values()])
    assert made.last.tolist() == [*last.values()]
    assert made.cost == pytest.approx(cost)


def test_fees_are_part_of_what_was_realised() -> None:
    """Fee 1 % of what is got: 1,000 buy 100 less 1; 99 at 12 are 1,188 less 11.88."""
    bars = bars_at([10, 10, 10, 12], [10, 10, 11, 12])
    terms = parse_settings(FREE | {"taker": "0.01"})
    made = measure(run(bars, np.array([0, 1.0, 0, 0]), terms))
    assert made.realised == pytest.approx(176.12)
    assert made.fees == pytest.approx(1 * 10 + 11.88)
    assert made.buy_and_hold_percent == pytest.approx(100 * (12 / 10 * 0.99 - 1))
    quote = measure(
        run(bars, np.array([0, 1.0, 1.0, 1.0]), parse_settings(FREE | {"taker": "0.01", "fee_side": "quote"}))
    )
    # 1,000 / 1.01 = 990.099: 99.009 for 990.09 and 9.9009 of fee; worth 12 each at the end
    assert quote.unrealised == pytest.approx(99.009 * 12 - 999.9909)
    assert quote.buy_and_hold_percent == pytest.approx(100 * (12 / 10 / 1.01 - 1))


def test_deposits_and_withdrawals_are_no_return() -> None:
    """100 rise by a half, 150 come, all fall to a half, 75 go: units 100, 200, 100."""
    equity = np.array([100.0, 150, 300, 150, 75, 90])
    flows = [(0, 100.0), (2, 150.0), (4, -75.0)]
    assert unit_values(equity, flows).tolist() == [1, 1.5, 1.5, 0.75, 0.75, 0.9]


def test_one_that_was_emptied_goes_on_at_what_a_unit_was_worth() -> None:
    assert unit_values(np.array([100.0, 200, 0, 0, 50, 60]), [(0, 100.0), (2, -200.0), (4, 50.0)]).tolist() == [
        1, 2, 2, 2, 2, 2.4,
    ]  # fmt: skip


def test_drawdown_by_hand() -> None:
    time = days(*range(8))
    assert drawdown(time, np.array([1, 1.2, 0.9, 1.2, 1.5, 1.4, 1.2, 1.3])) == (pytest.approx(0.25), 3 * DAY)
    assert drawdown(time, np.array([1, 1.2, 0.9, 1.1, 1.15, 1.2, 1.3, 1.3])) == (pytest.approx(0.25), 4 * DAY)
    assert drawdown(time, np.array([1.0] * 8)) == (0, 0)
    assert drawdown(time, np.array([0.9, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9])) == (pytest.approx(0.2), 7 * DAY)
    assert drawdown(time, np.array([1.0] * 7 + [0.9])) == (pytest.approx(0.1), DAY)
    assert drawdown(time, np.array([0.9] + [1.0] * 7)) == (pytest.approx(0.1), DAY)
    assert drawdown(time[:1], np.array([1.0])) == (0, 0)


def test_sharpe_and_sortino_by_hand() -> None:
    """Returns 2 %, -1 %, 3 %, 0 %: mean 1 %; deviations 1, -2, 2, -1, so 10/3 of a variance; below 0 only the 1 %."""
    ratios = ratios_of(np.array([0.02, -0.01, 0.03, 0.0]), 365)
    assert ratios.sharpe == pytest.approx(0.01 / (math.sqrt(10 / 3) / 100) * math.sqrt(365))
    assert ratios.sortino == pytest.approx(0.01 / (0.01 / 2) * math.sqrt(365))
    assert ratios_of(np.array([0.01]), 365).sharpe is None
    assert ratios_of(np.array([0.01, 0.01]), 365).sharpe is None
    assert ratios_of(np.zeros(5), 365).sharpe is None
    assert ratios_of(np.array([0.01, 0.02]), 365).sortino is None


def test_returns_are_of_days() -> None:
    """Bars of eight hours over two days; the one that closes at midnight belongs to the day before."""
    time = np.arange(1, 7, dtype=np.int64) * DAY // 3
    assert returns_of(time, np.array([1, 1.05, 1.1, 1.0, 1.2, 1.32])) == pytest.approx([0.1, 0.2])
    assert returns_of(days(1, 2, 3), np.array([1.1, 1.1, 0.55])) == pytest.approx([0.1, 0, -0.5])


def test_a_year_by_hand() -> None:
    """Doubled in 73 days is 2^(365.25 / 73) in a year; the fall on the way was a half."""
    closes = np.concatenate(([100.0, 100, 100, 50], np.full(70, 200.0)))
    bars = bars_of("1d", days(*closes), closes, closes, closes, closes, np.ones(74))
    made = measure(run(bars, np.concatenate(([0], np.ones(73))), parse_settings(FREE)))
    assert made.return_percent == pytest.approx(100)
    annual = 2 ** (365.25 / 73) - 1
    assert made.annual_return_percent == pytest.approx(100 * annual)
    assert made.calmar == pytest.approx(annual / 0.5)
    returns = np.array([0.0] * 3 + [-0.5, 3.0] + [0.0] * 69)
    assert made.sharpe == pytest.approx(returns.mean() / returns.std(ddof=1) * math.sqrt(365.25))


def closes_at(*dates: str) -> Times:
    return np.array(dates, dtype="datetime64[ms]").astype(np.int64)


def test_a_year_has_as_many_returns_as_there_were() -> None:
    """Of n returns, n - 1 ended between the days of the first and the last."""
    assert periods_per_year(days(*range(100))) == pytest.approx(365.25)
    hours = np.arange(1, 24 * 9 + 11, dtype=np.int64) * DAY // 24  # nine days and ten hours, the last a day of its own
    assert periods_per_year(hours) == pytest.approx(365.25)
    week = closes_at("2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05", "2024-01-06", "2024-01-09", "2024-01-10")
    assert periods_per_year(week) == pytest.approx(6 / 8 * 365.25)  # a weekend is between
    hole = np.concatenate((np.arange(1, 31), np.arange(121, 151))).astype(np.int64) * DAY
    assert periods_per_year(hole) == pytest.approx(59 / 149 * 365.25)  # three months are missing
    weeks = np.arange(1, 20, dtype=np.int64) * 7 * DAY
    assert periods_per_year(weeks) == pytest.approx(365.25 / 7)
    assert periods_per_year(week[:1]) == periods_per_year(week[:0]) == 365.25


def test_stocks_have_about_252_returns_a_year() -> None:
    """Ten years of weekdays without nine holidays a year."""
    every = np.arange(np.datetime64("2010-01-01"), np.datetime64("2020-01-01"))
    open_days = every[np.is_busday(every)]
    open_days = np.delete(open_days, np.arange(0, len(open_days), 29))
    time = (open_days + 1).astype("datetime64[ms]").astype(np.int64)
    assert 251 < periods_per_year(time) < 253


def test_the_sharpe_ratio_of_a_run_with_a_hole_is_that_of_its_returns() -> None:
    """Always in from the second day on; ten days, then a hole of a year, then ten more."""
    closes = np.round(100 * np.exp(np.random.default_rng(5).normal(0.001, 0.02, 20).cumsum()), 2)
    time = np.concatenate((np.arange(1, 11), np.arange(376, 386))).astype(np.int64) * DAY
    opens = np.concatenate((closes[:1], closes[:-1]))
    high, low = np.maximum(opens, closes), np.minimum(opens, closes)
    bars = bars_of("1d", time, opens, high, low, closes, np.ones(20))
    result = run(bars, np.concatenate(([0], np.ones(19))), parse_settings({"taker": 0}))
    returns = np.concatenate(([0.0], result.equity[1:] / result.equity[:-1] - 1))
    year = 19 / 384 * 365.25
    made = made_of(result, 1, seed=1)
    ratio = returns.mean() / returns.std(ddof=1)
    assert measure(result).sharpe == pytest.approx(ratio * math.sqrt(year))
    assert made.held is not None
    assert made.held["sharpe"] == pytest.approx(ratio * math.sqrt(year), rel=1e-4)
    sure = confidence(returns, year, seed=1)
    assert sure is not None
    assert made.confidence is not None
    assert made.confidence["sharpe"] == pytest.approx([sure.sharpe.low, sure.sharpe.high], rel=1e-4)


def test_fills_of_one_order_are_one_trade() -> None:
    """A target of 100 is met in two parts: one sell order, one win."""
    bars = bars_at([10, 10, 10, 10, 10], [10, 10, 12, 12, 12], volume=1_000)
    bars.volume[2:] = 60

    def on_bucket(context: Context) -> None:
        if context.index == 0:
            context.buy()
            context.sell(limit=11)

    result = run_bars(bars, on_bucket, parse_settings(FREE | {"maker": 0, "volume_share": 1}))
    assert result.fills.quantity.tolist() == [100, 60, 40]
    assert sales_of(result).gains.tolist() == pytest.approx([100])
    assert measure(result).trades == 1


def test_what_cannot_be_sold_is_no_exposure() -> None:
    """Bought for 10; worth less than the least of 10 at two of four closes."""
    bars = bars_at([10, 10, 10, 10, 10], [10, 10, 10, 9, 9])
    terms = parse_settings({"deposit": 10, "taker": 0, "quantity_step": "0.1", "cost_min": 10})
    assert measure(run(bars, np.array([0, 1.0, 1.0, 1.0, 1.0]), terms)).exposure_percent == pytest.approx(20)


def test_gaps_are_told() -> None:
    bars = bars_at([10] * 4, [10] * 4, [1, 2, 5, 6])
    made = measure(run(bars, np.array([0, 1.0, 1.0, 1.0]), parse_settings(FREE)))
    assert (made.gaps, made.missing_bars, made.fills_after_gaps) == (1, 2, 1)


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS, name=st.sampled_from(sorted(MARKETS)))
def test_profit_is_what_was_realised_and_what_is_not_yet(seed: int, name: str) -> None:
    result = run(*drawn(seed, 150, gaps=0.05), parse_settings(MARKETS[name]))
    made = measure(result)
    assert made.profit == pytest.approx(made.realised + made.unrealised, abs=1e-6)
    assert made.max_drawdown_percent >= 0
    assert made.drawdown_days * DAY <= result.bars.time[-1] - result.bars.time[0]


def test_a_run_that_did_nothing_has_measures() -> None:
    made = measure(run(bars_at([10], [10]), np.zeros(1), parse_settings({"deposit": 0})))
    assert (made.equity, made.trades, made.win_percent, made.profit_factor, made.expectancy) == (0, 0, None, None, None)
    assert (made.return_percent, made.buy_and_hold_percent, made.turnover) == (0, None, 0)
