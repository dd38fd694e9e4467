"""Support and resistance on drawn candles, each rule on both sides."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from strategies.support_resistance import SupportResistance, SupportResistanceParams
from tests.unit.test_momentum import Drawn, drawn
from trader.errors import InputError
from trader.strategy import evaluate, load

RED: Drawn = (105, 106, 99, 100)
GREEN: Drawn = (100, 103, 99.5, 102)
THIRD: Drawn = (102, 104, 101, 103)
FOURTH: Drawn = (103, 105, 102, 104)
FLOOR = (RED, GREEN, THIRD, FOURTH)
"""The last one finds a support of 100."""
NONE = math.nan


def strategy(tolerance: float = 1.0, memory: int = 200) -> SupportResistance:
    return SupportResistance(SupportResistanceParams(tolerance=tolerance, memory=memory))


def supports(*candles: Drawn, tolerance: float = 1.0, memory: int = 200) -> list[float]:
    return strategy(tolerance, memory).support(drawn(*candles)).tolist()


def resistances(*candles: Drawn, tolerance: float = 1.0) -> list[float]:
    return strategy(tolerance).resistance(drawn(*candles)).tolist()


def mirrored(*candles: Drawn) -> list[Drawn]:
    """Upside down around 100."""
    return [(200 - start, 200 - low, 200 - high, 200 - close) for start, high, low, close in candles]


def same(values: list[float], wanted: list[float]) -> bool:
    return np.array_equal(values, wanted, equal_nan=True)


def test_a_support_is_the_close_of_a_red_candle_before_a_green_one() -> None:
    assert same(supports(*FLOOR), [NONE, NONE, NONE, 100])


@pytest.mark.parametrize(
    ("third", "second"),
    [((100, 106, 99, 100), GREEN), ((95, 106, 94, 100), GREEN), (RED, (102, 103, 99, 102)), (RED, (103, 104, 99, 102))],
    ids=["candle[3] stands", "candle[3] is green", "candle[2] stands", "candle[2] is red"],
)
def test_other_colours_find_none(third: Drawn, second: Drawn) -> None:
    assert same(supports(third, second, THIRD, FOURTH), [NONE] * 4)


def test_the_newest_low_must_be_above_it() -> None:
    assert same(supports(RED, GREEN, THIRD, (103, 105, 100.01, 104))[3:], [100])
    assert same(supports(RED, GREEN, THIRD, (103, 105, 100, 104))[3:], [NONE])


def test_the_newest_low_may_be_below_it_by_the_tolerance() -> None:
    # 99.1 x 1.01 = 100.09; 99 x 1.01 = 99.99
    assert same(supports(RED, GREEN, THIRD, (103, 105, 99.1, 104), tolerance=1.01)[3:], [100])
    assert same(supports(RED, GREEN, THIRD, (103, 105, 99, 104), tolerance=1.01)[3:], [NONE])


def test_the_lows_between_do_not_matter() -> None:
    assert same(supports((105, 106, 50, 100), (100, 103, 50, 102), (102, 104, 50, 103), FOURTH)[3:], [100])


def test_a_low_at_the_support_breaks_it() -> None:
    assert same(supports(*FLOOR, (104, 105, 100.01, 104))[3:], [100, 100])
    assert same(supports(*FLOOR, (104, 105, 100, 104))[3:], [100, NONE])


def test_a_body_at_the_support_breaks_it_one_candle_later() -> None:
    # The candle that finds it closes at 100.2, or at 100: its wick may be below, its body may not.
    for close, kept in ((100.2, 100), (100.0, NONE), (99.8, NONE)):
        found = supports(RED, GREEN, THIRD, (103, 105, 99.5, close), (101, 103, 100.5, 102), tolerance=1.01)
        assert same(found[3:], [100, kept]), close


def test_the_bottom_of_a_rising_body_is_its_open() -> None:
    for start, kept in ((100.2, 100), (99.8, NONE)):
        found = supports(RED, GREEN, THIRD, (start, 105, 99.5, 104), (104, 105, 103, 104), tolerance=1.01)
        assert same(found[3:], [100, kept]), start


def test_a_broken_support_does_not_come_back() -> None:
    assert same(supports(*FLOOR, (104, 105, 99, 104), *[(104.0, 105.0, 103.0, 104.0)] * 5)[4:], [NONE] * 6)


def test_a_new_support_takes_the_place_of_an_old_one() -> None:
    higher = ((106, 107, 102, 103), (103, 105, 102, 104), (104, 106, 103.5, 105), (105, 107, 104, 106))
    assert same(supports(*FLOOR, *higher)[3:], [100, 100, 100, 100, 103])


def test_a_candle_may_break_one_support_and_find_another() -> None:
    # The candle that finds 90 has a low far below 100.
    lower = ((104, 105, 101, 103), (103, 104, 101, 102), (102, 103, 101, 101.5))
    falling = ((101.5, 102, 88, 90), (90, 92, 89, 91), (91, 93, 90, 92), (92, 94, 91, 93))
    assert same(supports(*FLOOR, *lower, *falling)[6:], [100, NONE, NONE, NONE, 90])


def test_a_support_is_forgotten() -> None:
    still = [(104.0, 105.0, 103.0, 104.0)] * 5
    assert same(supports(*FLOOR, *still, memory=3)[3:], [100, 100, 100, 100, NONE, NONE])


def test_a_resistance_is_the_mirror() -> None:
    drawings = (
        FLOOR,
        (RED, GREEN, THIRD, (103, 105, 100, 104)),
        (*FLOOR, (104, 105, 100.01, 104)),
        (*FLOOR, (104, 105, 100, 104)),
        (RED, RED, THIRD, FOURTH),
    )
    for candles in drawings:
        assert same(resistances(*mirrored(*candles)), [200 - level for level in supports(*candles)]), candles


def test_the_newest_high_may_be_above_a_resistance_by_the_tolerance() -> None:
    # 100 x 1.01 = 101
    top = mirrored(RED, GREEN, THIRD)
    for high, found in ((100.99, 100), (101.0, NONE)):
        assert same(resistances(*top, (97, high, 95, 96), tolerance=1.01)[3:], [found])


def test_a_body_at_the_resistance_breaks_it_one_candle_later() -> None:
    top = mirrored(RED, GREEN, THIRD)
    for close, kept in ((99.8, 100), (100.0, NONE), (100.2, NONE)):
        found = resistances(*top, (97, 100.5, 95, close), (99, 99.5, 97, 98), tolerance=1.01)
        assert same(found[3:], [100, kept]), close


UNDER_A_CEILING: tuple[Drawn, ...] = (
    *(RED, GREEN, THIRD, (103, 106, 102, 105)),  # support 100
    *((105, 110, 104, 110), (110, 110, 106, 107), (107, 109, 105, 106), (106, 108, 104, 105)),  # resistance 110
)


def test_it_is_in_over_a_support_and_out_at_a_resistance() -> None:
    # 107.8 x 1.02 = 109.956 and 107.9 x 1.02 = 110.058
    made = strategy(1.02)
    for close, target in ((107.8, 1.0), (107.9, 0.0)):
        candles = drawn(*UNDER_A_CEILING, (105, 108, 104, close), (108, 111, 107, 110.5))
        assert made.resistance(candles)[7:9].tolist() == [110, 110]
        assert made.signal(candles).tolist() == [0, 0, 0, 1, 1, 1, 1, 1, target, 1], close  # at the end it broke


def test_a_close_that_touches_the_resistance_with_the_tolerance_is_at_it() -> None:
    # 104 x 1.0625 = 110.5, without a rest in binary either
    before = (*UNDER_A_CEILING[:4], (105, 110.5, 104, 110.5), (110, 110.4, 106, 107), *UNDER_A_CEILING[6:])
    for close, target in ((103.9, 1.0), (104.0, 0.0)):
        candles = drawn(*before, (105, 108, 103, close))
        assert strategy(1.0625).resistance(candles)[-1] == 110.5
        assert strategy(1.0625).signal(candles).iloc[-1] == target


def test_it_is_out_without_a_support() -> None:
    candles = drawn(*FLOOR, (104, 105, 101, 104), (104, 105, 100, 104), (104, 105, 103, 104))
    assert strategy().signal(candles).tolist() == [0, 0, 0, 1, 1, 0, 0]
    assert strategy().signal(drawn(*mirrored(*FLOOR))).tolist() == [0] * 4


def test_the_warm_up_sees_the_oldest_level() -> None:
    still = [(104.0, 105.0, 103.0, 104.0)] * 9
    made = strategy(memory=3)
    assert made.warm_up == 7
    assert evaluate(made, drawn(*FLOOR, *still[:3])).iloc[-1] == 1
    assert evaluate(made, drawn(*FLOOR, *still[:4])).iloc[-1] == 0


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_few_candles_have_no_level(length: int) -> None:
    assert strategy().signal(drawn(*FLOOR).iloc[:length]).tolist() == [0] * length


PATH = "strategies.support_resistance:SupportResistance"


def test_bounds() -> None:
    assert load(PATH, {"tolerance": 1.1, "memory": 1}).warm_up == 5


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"tolerance": 0.999}, "parameter tolerance is 0.999: a number, at least 1, at most 1.1"),
        ({"tolerance": 1.2}, "parameter tolerance is 1.2: a number, at least 1, at most 1.1"),
        ({"memory": 0}, "parameter memory is 0: a whole number, at least 1, at most 5000"),
        ({"memory": "long"}, "parameter memory is 'long': a whole number, at least 1, at most 5000"),
        ({"levels": 2}, 'unknown parameter "levels": there is tolerance, memory'),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        load(PATH, params)
    assert str(refused.value) == f"SupportResistance: {sentence}"


def one_by_one(candles: pd.DataFrame, tolerance: float, memory: int) -> list[float]:
    """The docstring's rules, candle by candle."""
    o, h, low, c = (candles[name].to_numpy() for name in ("open", "high", "low", "close"))
    support = resistance = NONE
    support_at = resistance_at = 0
    targets = []
    for t in range(len(candles)):
        if t and not (low[t] > support and min(o[t - 1], c[t - 1]) > support and t - support_at <= memory):
            support = NONE
        if t and not (h[t] < resistance and max(o[t - 1], c[t - 1]) < resistance and t - resistance_at <= memory):
            resistance = NONE
        if t >= 3 and c[t - 3] < o[t - 3] and c[t - 2] > o[t - 2] and low[t] * tolerance > c[t - 3]:
            support, support_at = c[t - 3], t
        if t >= 3 and c[t - 3] > o[t - 3] and c[t - 2] < o[t - 2] and h[t] < c[t - 3] * tolerance:
            resistance, resistance_at = c[t - 3], t
        targets.append(float(not math.isnan(support) and not c[t] * tolerance >= resistance))
    return targets


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("tolerance", "memory"), [(1.0, 200), (1.002, 200), (1.02, 8)])
def test_columns_say_what_the_rules_say_candle_by_candle(seed: int, tolerance: float, memory: int) -> None:
    rng = np.random.default_rng(seed)
    close = (100 + rng.normal(0, 0.5, 600).cumsum()).round(1)
    start = np.concatenate(([100.0], close[:-1]))
    top, bottom = rng.exponential(0.3, (2, 600)).round(1)
    candles = drawn(*zip(start, np.maximum(start, close) + top, np.minimum(start, close) - bottom, close, strict=True))
    wanted = one_by_one(candles, tolerance, memory)
    assert 20 < sum(wanted) < 500
    assert strategy(tolerance, memory).signal(candles).tolist() == wanted
