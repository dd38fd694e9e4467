"""The deflated Sharpe ratio: how likely a Sharpe ratio is real, when it is the best of many tries.

Source: D. H. Bailey and M. López de Prado, "The Deflated Sharpe Ratio: Correcting for Selection Bias, Backtest
Overfitting, and Non-Normality", Journal of Portfolio Management 40 (5), 2014, pages 94-107. All Sharpe ratios here are
of one period (a day), not of a year.

    SR0 = sqrt(V) * ((1 - g) * Z(1 - 1 / N) + g * Z(1 - 1 / (N * e)))
    DSR = F((SR - SR0) * sqrt(T - 1) / sqrt(1 - skew * SR + (kurtosis - 1) / 4 * SR ** 2))

N is the number of tries, V the variance of their Sharpe ratios, g the Euler-Mascheroni constant, F the distribution
function of the standard normal distribution and Z its inverse, T the number of returns, kurtosis that of which a normal
distribution has 3. SR0 is what the best of N tries without any skill is expected to have. With N = 1 it is 0, and DSR
is the probabilistic Sharpe ratio against 0.

Tries on the same candles resemble each other, so N is more than as many independent ones: the result is on the careful
side.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from trader.backtest.data import Floats

EULER_MASCHERONI = 0.5772156649015329
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Moments:
    """What the returns of a run were like."""

    periods: int
    """How many returns."""
    sharpe_period: float | None
    """Mean over standard deviation of one; None: fewer than two, or they do not vary."""
    skew: float
    kurtosis: float
    """3 for a normal distribution."""


def moments_of(returns: Floats) -> Moments:
    """The moments of returns; of returns that do not vary, skew 0 and kurtosis 3."""
    if len(returns) < 2 or float(returns.std()) <= 0:
        return Moments(len(returns), None, 0.0, 3.0)
    away = (returns - returns.mean()) / returns.std()
    sharpe = float(returns.mean() / returns.std(ddof=1))
    return Moments(len(returns), sharpe, float((away**3).mean()), float((away**4).mean()))


def expected_best(tries: int, variance: float) -> float:
    """The Sharpe ratio that the best of so many tries without any skill is expected to have."""
    if tries < 2:
        return 0.0
    first, second = _NORMAL.inv_cdf(1 - 1 / tries), _NORMAL.inv_cdf(1 - 1 / (tries * math.e))
    return math.sqrt(variance) * ((1 - EULER_MASCHERONI) * first + EULER_MASCHERONI * second)


def deflated_sharpe(moments: Moments, tries: int, variance: float) -> float | None:
    """How likely the true Sharpe ratio is above `expected_best`, from 0 to 1; None: there is no Sharpe ratio."""
    sharpe = moments.sharpe_period
    if sharpe is None:
        return None
    spread = 1 - moments.skew * sharpe + (moments.kurtosis - 1) / 4 * sharpe**2
    if spread <= 0:  # no sample has such moments, except by rounding
        return None
    away = (sharpe - expected_best(tries, variance)) * math.sqrt(moments.periods - 1) / math.sqrt(spread)
    return _NORMAL.cdf(away)


def variance_of(sharpes: Iterable[float | None]) -> float:
    """The variance of the Sharpe ratios of all tries that have one; 0 for fewer than two."""
    known = np.array([sharpe for sharpe in sharpes if sharpe is not None])
    return float(known.var(ddof=1)) if len(known) > 1 else 0.0
