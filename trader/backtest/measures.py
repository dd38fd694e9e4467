"""What a run is worth: the measures of the view `performance`, by the same definitions, and those of the literature.

docs/backtests.md has every formula with its source. Shares are told in percent, as in the view. A measure that cannot
be told (no trade, no loss, a single day) is None.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trader.backtest.data import Floats, Indices
from trader.backtest.fill import taker_prices
from trader.backtest.result import BUY, Result
from trader.bucket.timeframe import DAY, Times

YEAR = 365.25 * DAY
"""A year of the calendar, in milliseconds, leap years counted."""


@dataclass(frozen=True, slots=True)
class Measures:
    """What a run made."""

    deposits: float
    withdrawals: float
    equity: float
    """Cash and holdings at the last close."""
    profit: float
    """Equity minus what was paid in, net."""
    realised: float
    """From what was sold, at average cost, after fees."""
    unrealised: float
    """What is held, at the last close, minus its cost."""
    fees: float
    """In quote, each at the price of its fill; part of realised and unrealised already."""
    return_percent: float
    """Time-weighted."""
    max_drawdown_percent: float
    trades: int
    """Sell orders that traded."""
    win_percent: float | None
    annual_return_percent: float | None
    sharpe: float | None
    sortino: float | None
    calmar: float | None
    drawdown_days: float
    """The longest time below a peak, recovered or not."""
    exposure_percent: float
    """Share of the bars at whose close something was held that can be sold."""
    turnover: float
    """What was bought and sold, in mean equities."""
    profit_factor: float | None
    expectancy: float | None
    """Quote that a sell order realised on average."""
    buy_and_hold_percent: float | None
    """What buying everything once, at the start, would have returned."""
    gaps: int
    missing_bars: int
    fills_after_gaps: int


def measure(result: Result, since: int = 0) -> Measures:
    """The measures of a run. `since` is the bar at whose close it could decide first (its warm-up minus 1): from there
    on, buying and holding is compared.
    """
    return measure_all(result.bars.time, result.equity, result.flows, [result], hold(result, since))


def measure_all(
    time: Times,
    equity: Floats,
    flows: Sequence[tuple[int, float]],
    results: Sequence[Result],
    held: float | None,
) -> Measures:
    """The measures of one or more markets with one purse; `held` is what buying and holding returned, in percent."""
    sales = [sales_of(result) for result in results]
    gains = np.concatenate([one.gains for one in sales])
    units = unit_values(equity, flows)
    ratios = ratios_of(returns_of(time, units), periods_per_year(time))
    deposits, withdrawals = (sum(max(sign * amount, 0.0) for _, amount in flows) for sign in (1, -1))
    depth, longest = drawdown(time, units)
    annual = annual_return(units, time)
    traded = sum(float(result.fills.quote.sum()) for result in results)
    wins, losses = float(gains[gains > 0].sum()), float(-gains[gains < 0].sum())
    return Measures(
        deposits=deposits,
        withdrawals=withdrawals,
        equity=float(equity[-1]),
        profit=float(equity[-1]) - deposits + withdrawals,
        realised=float(gains.sum()),
        unrealised=sum(one.unrealised for one in sales),
        fees=sum(float(result.fees.sum()) for result in results),
        return_percent=100 * (float(units[-1]) - 1),
        max_drawdown_percent=100 * depth,
        trades=len(gains),
        win_percent=100 * float((gains > 0).mean()) if len(gains) else None,
        annual_return_percent=None if annual is None else 100 * annual,
        sharpe=ratios.sharpe,
        sortino=ratios.sortino,
        calmar=annual / depth if annual is not None and depth > 0 else None,
        drawdown_days=longest / DAY,
        exposure_percent=100 * float(np.mean([held_share(result) for result in results])),
        turnover=traded / float(equity.mean()) if equity.mean() > 0 else 0.0,
        profit_factor=wins / losses if losses > 0 else None,
        expectancy=float(gains.mean()) if len(gains) else None,
        buy_and_hold_percent=held,
        gaps=sum(result.gaps for result in results),
        missing_bars=sum(result.bars.missing for result in results),
        fills_after_gaps=sum(result.after_gaps for result in results),
    )


# At average cost


@dataclass(frozen=True, slots=True)
class Sales:
    """What was sold, at average cost."""

    gains: Floats
    """What each sell order realised, after fees."""
    last: Indices
    """The bar of its last fill."""
    cost: float
    """What is still held cost, fees included."""
    unrealised: float


def sales_of(result: Result) -> Sales:
    """Go through the fills as the ledger does: a buy adds its cost, a sale takes its share of it."""
    fills, held, cost = result.fills, 0.0, 0.0
    bought, in_base = fills.side == BUY, result.settings.fee_side == "get"
    amounts = fills.quantity - np.where(bought, fills.fee, 0.0) if in_base else fills.quantity
    values = fills.quote + np.where(bought, 0.0 if in_base else fills.fee, -fills.fee)
    gained: list[float] = []
    for is_buy, amount, value in zip(bought.tolist(), amounts.tolist(), values.tolist(), strict=True):
        if is_buy:
            held, cost = held + amount, cost + value
            continue
        part = cost * (amount / held) if amount < held else cost
        gained.append(value - part)
        held, cost = held - amount, cost - part
    worth = float(result.states.holding[-1] * result.bars.close[-1]) if len(result.states.holding) else 0.0
    gains, last = _by_order(fills.order[~bought], np.array(gained), fills.bar[~bought])
    return Sales(gains, last, cost, worth - cost)


def _by_order(orders: Indices, gains: Floats, bars: Indices) -> tuple[Floats, Indices]:
    """The sum of the gains of each order's fills, and the bar of its last, in the order of the first ones."""
    found, first, place = np.unique(orders, return_index=True, return_inverse=True)
    if len(found) == len(orders):
        return gains, bars
    last = np.zeros(len(found), dtype=np.int64)
    last[place] = bars  # of several, the last one stays
    sums: Floats = np.bincount(place, gains).astype(np.float64)
    turn = np.argsort(first)
    return sums[turn], last[turn]


# Over time


def unit_values(equity: Floats, flows: Sequence[tuple[int, float]]) -> Floats:
    """Equity per unit at each close, where a deposit buys units at what one is worth: 1 at the start.

    Money that comes or goes changes the units, never their value, so what is left is what the strategy made.
    """
    values = np.ones(len(equity))
    units, value = 0.0, 1.0
    together = _by_bar(flows)
    ends = [bar for bar, _ in together[1:]] + [len(equity)]
    for (bar, amount), until in zip(together, ends, strict=False):  # without any flow, there is one end too many
        before = float(equity[bar]) - amount
        units += amount * units / before if units > 0 and before > 0 else amount / value
        if units > 0:
            values[bar:until] = equity[bar:until] / units
        else:
            values[bar:until] = value
        value = float(values[until - 1])
    return values


def _by_bar(flows: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    sums: dict[int, float] = {}
    for bar, amount in flows:
        sums[bar] = sums.get(bar, 0.0) + amount
    return sorted(sums.items())


def drawdown(time: Times, units: Floats) -> tuple[float, float]:
    """The deepest fall from a peak as a share, and the longest time below one, in milliseconds. The start is a peak."""
    peaks = np.maximum.accumulate(np.maximum(units, 1.0))
    depth = float((1 - units / peaks).max())
    highs = np.flatnonzero(units >= peaks)
    marks = np.concatenate(([0], highs, [len(units) - 1]))
    under = np.diff(marks) > 1
    under[0] |= len(highs) > 0 and highs[0] > 0
    under[-1] = len(highs) == 0 or highs[-1] < len(units) - 1
    spans = np.diff(time[marks])[under]
    return depth, float(spans.max()) if len(spans) else 0.0


def returns_of(time: Times, units: Floats) -> Floats:
    """The returns of days (of bars, where those are longer), the first one since the start."""
    if len(time) < 2:
        return np.zeros(0)
    values = np.concatenate(([1.0], units[_day_ends(time)]))
    whole = values[:-1] > 0
    return values[1:][whole] / values[:-1][whole] - 1


def count_returns(time: Times) -> int:
    """How many returns `returns_of` finds in bars that close at these moments, if money is never all lost."""
    return len(_day_ends(time)) if len(time) > 1 else 0


def periods_per_year(time: Times) -> float:
    """How many returns of `returns_of` there were in a year: between the days in which the first and the last of n end,
    n - 1 others ended. Days without a bar (weekends of stocks, holes) have none. Fewer than two: as many as days.
    """
    days = _days(time[_day_ends(time)])
    return (len(days) - 1) * YEAR / (DAY * float(days[-1] - days[0])) if len(days) > 1 else YEAR / DAY


def _days(time: Times) -> Indices:
    """The UTC days of closes, counted from 1970: a bar that closes at midnight belongs to the day before."""
    days: Indices = (time - 1) // DAY
    return days


def _day_ends(time: Times) -> Indices:
    """The last bar of each day that has one. There are far fewer days than bars, so days are looked for in the bars."""
    first, last = _days(time[[0, -1]]) if len(time) else (0, -1)
    after = np.searchsorted(time, np.arange(first + 1, last + 2) * DAY, side="right")
    ends: Indices = after[np.diff(after, prepend=0) > 0] - 1
    return ends


@dataclass(frozen=True, slots=True)
class Ratios:
    """Returns against what they varied by, for a year."""

    sharpe: float | None
    sortino: float | None


def ratios_of(returns: Floats, periods: float) -> Ratios:
    """Sharpe and Sortino ratio of the returns of `periods` periods a year; what is safe earns 0."""
    if len(returns) < 2:
        return Ratios(None, None)
    mean, spread = float(returns.mean()), float(returns.std(ddof=1))
    below = math.sqrt(float((np.minimum(returns, 0) ** 2).mean()))
    year = math.sqrt(periods)
    return Ratios(mean / spread * year if spread > 0 else None, mean / below * year if below > 0 else None)


def annual_return(units: Floats, time: Times) -> float | None:
    """What a year would return at this pace; None below a day, from which nothing can be said."""
    elapsed = float(time[-1] - time[0])
    if elapsed < DAY or units[-1] <= 0:
        return None
    power = math.log(float(units[-1])) * YEAR / elapsed
    return math.expm1(power) if power < 700 else None


def held_share(result: Result) -> float:
    """The share of the bars at whose close something was held that can be sold."""
    return float(sellable(result).mean())


def sellable(result: Result) -> NDArray[np.bool_]:
    """Of each close, whether something was held that can be sold."""
    settings, holding = result.settings, result.holding
    least = float(max(settings.quantity_step or 0, settings.quantity_min or 0))
    held: NDArray[np.bool_] = (holding > 0) & (holding >= least)
    if settings.cost_min is not None:
        held &= holding * result.bars.close >= float(settings.cost_min)
    return held


def hold(result: Result, since: int = 0) -> float | None:
    """What buying everything at the first chance would have returned until the last close, in percent: decided at the
    close of bar `since`, filled as an order is, with its fee. None: the bars end before.
    """
    bars, settings = result.bars, result.settings
    at = bars.close[since : since + 1] if settings.fill == "close" else bars.open[since + 1 : since + 2]
    if not len(at):
        return None
    price, fee = float(taker_prices(settings, "buy", at)[0]), float(settings.taker)
    kept = 1 - fee if settings.fee_side == "get" else 1 / (1 + fee)
    return 100 * (float(bars.close[-1]) / price * kept - 1)
