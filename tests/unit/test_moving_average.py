"""The moving average on drawn closes."""

from typing import Any

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


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"period": 1}, "parameter period is 1: a whole number, at least 2, at most 5000"),
        ({"period": 5001}, "parameter period is 5001: a whole number, at least 2, at most 5000"),
        ({"fast": 3}, 'unknown parameter "fast": there is period'),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        load("strategies.moving_average:MovingAverage", params)
    assert str(refused.value) == f"MovingAverage: {sentence}"
