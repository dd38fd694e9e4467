"""The stationary bootstrap: how blocks are drawn, and what the intervals say."""

import numpy as np
import pytest

from trader.backtest.bootstrap import confidence, indices
from trader.errors import InputError


def test_blocks_go_on_around_the_end_and_have_the_mean_length_that_was_asked() -> None:
    drawn = indices(np.random.default_rng(1), 500, 400, 8)
    assert drawn.shape == (400, 500)
    assert drawn.min() == 0
    assert drawn.max() == 499
    goes_on = (np.diff(drawn, axis=1) % 500) == 1
    # a new block begins with 1/8, and by chance (1 in 500) right where the old one ended: the rest goes on
    assert goes_on.mean() == pytest.approx(7 / 8 + 1 / 8 / 500, abs=0.003)
    assert (np.diff(drawn, axis=1) == -499).any()
    counts = np.bincount(drawn.ravel(), minlength=500)
    assert counts.mean() == 400
    assert counts.std() < 4 * 20 * np.sqrt(8)  # every return is as likely as every other


def test_one_block_is_the_history_turned_round() -> None:
    drawn = indices(np.random.default_rng(1), 10, 5, 1e12)
    for row in drawn:
        assert row.tolist() == [(row[0] + i) % 10 for i in range(10)]


def test_blocks_of_one_are_independent_draws() -> None:
    drawn = indices(np.random.default_rng(1), 1_000, 50, 1)
    assert ((np.diff(drawn, axis=1) % 1_000) == 1).mean() == pytest.approx(1 / 1_000, abs=0.001)


def test_what_never_varies_is_certain() -> None:
    sure = confidence(np.full(10, 0.01), 365)
    assert sure is not None
    assert sure.return_percent.low == sure.return_percent.high == pytest.approx(100 * (1.01**10 - 1))
    assert (sure.max_drawdown_percent.low, sure.max_drawdown_percent.high, sure.loss_percent) == (0, 0, 0)


def test_a_turned_history_returns_the_same_and_falls_by_hand() -> None:
    """One block over +100 %, -50 %: both orders give 0 %; the fall is a half either way."""
    turned = confidence(np.array([1.0, -0.5]), 365, block=1e12)
    assert turned is not None
    assert (turned.return_percent.low, turned.return_percent.high) == (0, 0)
    assert (turned.max_drawdown_percent.low, turned.max_drawdown_percent.high) == (50, 50)


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    """Of 200 histories of independent returns with a known mean, about 90 % of the 90 % intervals hold it."""
    random, truth, inside = np.random.default_rng(7), 0.001, 0
    for seed in range(200):
        returns = random.normal(truth, 0.01, 120)
        found = confidence(returns, 1, level=0.9, draws=200, seed=seed)
        assert found is not None
        sharpe = truth / 0.01
        inside += found.sharpe.low <= sharpe <= found.sharpe.high
    assert 160 <= inside <= 196


def test_the_same_seed_gives_the_same_and_another_does_not() -> None:
    returns = np.random.default_rng(3).normal(0, 0.01, 300)
    assert confidence(returns, 365, seed=5) == confidence(returns, 365, seed=5)
    assert confidence(returns, 365, seed=5) != confidence(returns, 365, seed=6)


def test_too_few_returns_say_nothing() -> None:
    assert confidence(np.zeros(1), 365) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 95}, "level is 95: a share above 0 and below 1"),
        ({"draws": 0}, "draws is 0: a number from 1"),
        ({"block": 0.5}, "block is 0.5: a mean length of at least 1"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        confidence(np.zeros(5), 365, **arguments)  # type: ignore[arg-type]
