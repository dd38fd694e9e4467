"""The deflated Sharpe ratio: the figures of the paper that it is from, and moments reckoned by hand."""

import math

import numpy as np
import pytest

from trader.backtest.deflated import Moments, deflated_sharpe, expected_best, moments_of, variance_of

# Bailey and López de Prado 2014, "A numerical example": an annual Sharpe ratio of 2.5 over five years of 250 days, skew
# -3, kurtosis 10; the annual ratios of the trials vary by 1/2.
PAPER = Moments(1250, 2.5 / math.sqrt(250), -3.0, 10.0)
VARIANCE = 0.5 / 250


@pytest.mark.parametrize(("tries", "expected"), [(100, 0.9004), (46, 0.9505)])
def test_the_example_of_the_paper(tries: int, expected: float) -> None:
    assert deflated_sharpe(PAPER, tries, VARIANCE) == pytest.approx(expected, abs=5e-5)


def test_what_the_best_of_a_hundred_has_without_skill() -> None:
    assert expected_best(100, VARIANCE) == pytest.approx(0.1132, abs=5e-5)
    assert expected_best(1, VARIANCE) == 0.0
    best = np.random.default_rng(5).normal(0, math.sqrt(VARIANCE), (20_000, 100)).max(axis=1).mean()
    assert expected_best(100, VARIANCE) == pytest.approx(best, rel=0.015)


def test_one_try_of_normal_returns_by_hand() -> None:
    """(0.1 - 0) * sqrt(100) / sqrt(1 + (3 - 1) / 4 * 0.01) = 0.99751; the normal distribution is 0.84074 there."""
    assert deflated_sharpe(Moments(101, 0.1, 0.0, 3.0), 1, 0.0) == pytest.approx(0.84074, abs=1e-5)


def test_the_more_was_tried_the_less_it_means() -> None:
    told = [deflated_sharpe(PAPER, tries, VARIANCE) for tries in (1, 2, 10, 100, 10_000)]
    assert told == sorted(told, reverse=True)  # type: ignore[type-var]
    assert deflated_sharpe(Moments(5, None, 0.0, 3.0), 10, VARIANCE) is None


def test_moments_by_hand() -> None:
    """0, 0, 0, 4: mean 1, deviations -1, -1, -1, 3; spread sqrt(3), of the sample 2."""
    found = moments_of(np.array([0.0, 0.0, 0.0, 4.0]))
    assert found.sharpe_period == 0.5
    assert found.skew == pytest.approx((-1 - 1 - 1 + 27) / 4 / 3**1.5)
    assert found.kurtosis == pytest.approx((1 + 1 + 1 + 81) / 4 / 9)
    assert moments_of(np.array([0.1, 0.1])) == Moments(2, None, 0.0, 3.0)
    assert moments_of(np.zeros(0)) == Moments(0, None, 0.0, 3.0)


def test_the_variance_is_of_those_that_have_a_ratio() -> None:
    assert variance_of([1.0, None, 3.0]) == 2.0
    assert variance_of([1.0, None]) == 0.0
