"""The floor of the backtest benchmark: one task, written once in plain numpy and once as a plain Python loop.

The task: in while SMA(10) of the close is above SMA(50), all-in long or flat, decided at the close, filled at the next
open, a fee of 0.1 % of the value in quote on both sides. An entry needs a cross that is seen: one that is in when the
averages begin waits. Only this task, nothing else: no minimum, no gap, no check.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FAST, SLOW, FEE, CASH = 10, 50, 0.001, 1_000_000.0
MINUTE = 60_000
SEED = 20_260_101


class Columns(NamedTuple):
    """Minute bars as columns; `time` is when each closed, in milliseconds."""

    time: NDArray[np.int64]
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats


def walk(length: int, seed: int = SEED) -> Columns:
    """Seeded minute bars of a random walk from 100: a normal step of 0.05 % a bar, small wicks, opens near the close
    before. numpy's PCG64, so the same numbers everywhere.
    """
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 5e-4, length)))
    start = np.concatenate(([100.0], close[:-1])) * np.exp(random.normal(0, 2e-5, length))
    top, bottom = np.exp(random.exponential(2e-4, (2, length)))
    high, low = np.maximum(start, close) * top, np.minimum(start, close) / bottom
    return Columns(np.arange(1, length + 1) * MINUTE, start, high, low, close, random.exponential(50, length))


def above(close: Floats) -> NDArray[np.bool_]:
    """Where the fast average is above the slow one; False before the slow one is there."""
    sums = np.concatenate(([0.0], np.cumsum(close)))
    slow = (sums[SLOW:] - sums[:-SLOW]) / SLOW
    fast = (sums[SLOW:] - sums[SLOW - FAST : -FAST]) / FAST
    return np.concatenate((np.zeros(SLOW - 1, dtype=np.bool_), fast > slow))


class Outcome(NamedTuple):
    bars: NDArray[np.int64]
    prices: Floats
    equity: Floats


def numpy_floor(columns: Columns) -> Outcome:
    """The task in plain numpy."""
    inside = above(columns.close)
    turns = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    turns = turns[2 if inside[SLOW - 1] else 0 :]
    bars = turns + 1
    bars = bars[: len(bars) - int(bars[-1] == len(inside))]
    prices = columns.open[bars]
    bought, sold = prices[0::2], prices[1::2]
    growth = sold / bought[: len(sold)] * (1 - FEE) / (1 + FEE)
    money = CASH * np.concatenate(([1.0], np.cumprod(growth)))
    cash, held = np.zeros(len(bars) + 1), np.zeros(len(bars) + 1)
    cash[0::2] = money[: len(cash[0::2])]
    held[1::2] = money[: len(bought)] / (bought * (1 + FEE))
    lengths = np.diff(np.concatenate(([0], bars, [len(inside)])))
    equity = np.repeat(cash, lengths) + np.repeat(held, lengths) * columns.close
    return Outcome(bars, prices, equity)


def python_loop(columns: Columns) -> Outcome:
    """The same task as anybody would write it first: one loop over the bars."""
    opens, closes = columns.open.tolist(), columns.close.tolist()
    bars: list[int] = []
    prices: list[float] = []
    equity: list[float] = []
    cash, held, fast, slow, order = CASH, 0.0, 0.0, 0.0, 0
    before: bool | None = None
    for i, price in enumerate(closes):
        if order:
            at = opens[i]
            cash, held = (0.0, cash / (at * (1 + FEE))) if order > 0 else (held * at * (1 - FEE), 0.0)
            bars.append(i)
            prices.append(at)
            order = 0
        fast += price - (closes[i - FAST] if i >= FAST else 0.0)
        slow += price - (closes[i - SLOW] if i >= SLOW else 0.0)
        if i >= SLOW - 1:
            now = fast / FAST > slow / SLOW
            if now and before is False and not held:
                order = 1
            elif not now and held:
                order = -1
            before = now
        equity.append(cash + held * price)
    return Outcome(np.array(bars), np.array(prices), np.array(equity))
