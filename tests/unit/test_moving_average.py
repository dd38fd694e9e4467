"""The moving average on drawn closes."""

import pytest

from strategies.moving_average import MovingAverage, MovingAverageParams
from tests.unit.test_momentum import closing
from trader.errors import InputError
from trader.strategy import evaluate, load


def targets(period: int, *closes: float) -> list[float]:
    return evaluate(MovingAverage(MovingAverageParams(period=period)), closing(*closes)).tolist()


def test_it_is_in_above_the_average() -> None:
    # average of 2   1.5  2.5  2.5  2
    assert targets(2, 1, 2, 3, 2, 2) == [0, 1, 1, 0, 0]


def test_the_newest_close_is_in_its_own_average() -> None:
    # average of 3: 11 and 10.33
    assert targets(3, 10, 12, 11, 8) == [0, 0, 0, 0]
    assert targets(3, 10, 12, 11.1, 8) == [0, 0, 1, 0]


def test_prices_that_stand_still_are_at_their_average() -> None:
    # The running sum has the rounding of all that came before.
    assert targets(3, *[0.1, 0.7, 100.3] * 20, *[0.1] * 60)[-50:] == [0] * 50


def test_before_the_average_is_there_it_is_out() -> None:
    assert targets(4, 1, 2, 3) == [0, 0, 0]
    assert targets(4, 1, 2, 3, 4) == [0, 0, 0, 1]


def test_bounds() -> None:
    assert load("strategies.moving_average:MovingAverage", {"period": 50}).warm_up == 50
    with pytest.raises(InputError, match="period is 1: a whole number, at least 2, at most 5000"):
        load("strategies.moving_average:MovingAverage", {"period": 1})
