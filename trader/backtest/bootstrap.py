"""How sure a result is: the stationary bootstrap of Politis and Romano over the returns of a run.

Returns that follow one another hang together, so whole blocks of them are drawn: each begins anywhere, goes on around
the end, and has a length that is geometric with the given mean (Politis, Romano: The Stationary Bootstrap, Journal of
the American Statistical Association 89 (1994), 1303-1313). The same seed gives the same result everywhere.
"""

import math
from dataclasses import dataclass

import numpy as np

from trader.backtest.data import Floats, Indices
from trader.errors import InputError

BATCH = 1_000_000
"""How many returns are drawn at one time, so that memory does not grow with the draws."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a measure lies with the given confidence."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Confidence:
    """Intervals of what the returns of a run say, at one confidence."""

    level: float
    draws: int
    block: float
    """Mean length of a block, in returns."""
    return_percent: Interval
    sharpe: Interval
    max_drawdown_percent: Interval
    loss_percent: float
    """In how many of a hundred draws money was lost."""


def confidence(
    returns: Floats,
    periods: float,
    *,
    level: float = 0.95,
    draws: int = 1_000,
    block: float | None = None,
    seed: int = 0,
) -> Confidence | None:
    """Draw `draws` histories out of `returns` (`periods` of them are a year) and tell between which values the middle
    `level` of them lies. `block` defaults to the cube root of the number of returns. None: fewer than two returns.

    Raises InputError: a level, a number of draws or a block that cannot be.
    """
    length = len(returns)
    mean_block = block if block is not None else max(1.0, length ** (1 / 3))
    _check(level, draws, mean_block)
    if length < 2:
        return None
    random = np.random.default_rng(seed)
    at_once = max(1, BATCH // length)
    parts = [
        _statistics(returns[indices(random, length, min(at_once, draws - done), mean_block)], periods)
        for done in range(0, draws, at_once)
    ]
    totals, sharpes, depths = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Confidence(
        level,
        draws,
        mean_block,
        _interval(100 * totals, level),
        _interval(sharpes, level),
        _interval(100 * depths, level),
        100 * float((totals < 0).mean()),
    )


def indices(random: np.random.Generator, length: int, draws: int, block: float) -> Indices:
    """Which returns each draw takes, in order: one row a draw. A step goes on to the next return, or anywhere anew
    with a probability of 1 / `block`.
    """
    anew = random.random((draws, length)) < 1 / block
    starts = random.integers(0, length, (draws, length))
    at = np.broadcast_to(np.arange(length), (draws, length))
    begun = np.maximum.accumulate(np.where(anew, at, 0), axis=1)
    return (np.take_along_axis(starts, begun, axis=1) + at - begun) % length


def _statistics(drawn: Floats, periods: float) -> tuple[Floats, Floats, Floats]:
    """Of each row: the whole return, the Sharpe ratio (0 where nothing varies), and the deepest fall from a peak."""
    worth = np.cumprod(1 + drawn, axis=1)
    spread = drawn.std(axis=1, ddof=1)
    sharpe: Floats = np.divide(drawn.mean(axis=1), spread, out=np.zeros(len(drawn)), where=spread > 0) * math.sqrt(
        periods
    )
    peaks = np.maximum(np.maximum.accumulate(worth, axis=1), 1.0)
    return np.asarray(worth[:, -1] - 1), sharpe, np.asarray((1 - worth / peaks).max(axis=1))


def _interval(values: Floats, level: float) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _check(level: float, draws: int, block: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level is {level}: a share above 0 and below 1 is needed, such as 0.95")
    if not 1 <= draws <= 1_000_000:
        raise InputError(f"draws is {draws}: a number from 1 to 1000000 is needed")
    if not 1 <= block < math.inf:
        raise InputError(f"block is {block}: a mean length of at least 1 is needed")
