"""Regime trend on drawn candles; averages and the ADX are worked out by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import talib

from strategies.regime_trend import RegimeTrend, RegimeTrendParams
from tests.unit.test_momentum import drawn
from trader.errors import InputError
from trader.strategy import evaluate, load

PATH = "strategies.regime_trend:RegimeTrend"
SIDEWAYS = [100.0, 101.0] * 22 + [100.0]
"""45 candles, one up, one down: more than the 40 after which an ADX(2) has settled."""
RISE = [101.0, 102.0, 103.0, 104.0]


def shifted(*closes: float) -> pd.DataFrame:
    """Candles of one size that move as a whole, so that the directional movement is the step of the closes."""
    return drawn(*[(close, close + 0.5, close - 0.5, close) for close in closes])


def strategy(**params: float) -> RegimeTrend:
    return RegimeTrend(RegimeTrendParams.model_validate({"fast": 1, "slow": 3, "adx_period": 2} | params))


def targets(*closes: float, **params: float) -> list[float]:
    return evaluate(strategy(**params), shifted(*closes)).tolist()


# Wilder's smoothing by 2 halves what was and adds what is new. One up, one down, for ever: +DM comes to 4/3 after an up
# and 2/3 after a down, -DM the other way round, so DX is 100 x (2/3) / 2 = 33.3, and so is its average.
#               up 101   102    103    104    down 103   up 104
# +DM           4/3      5/3    11/6   23/12  23/24      71/48
# -DM           2/3      1/3    1/6    1/12   25/24      25/48
# DX            33.33    66.67  83.33  91.67  4.17       47.92
# ADX           33.33    50     66.67  79.17  41.67      44.79


def test_the_adx_is_that_of_the_table() -> None:
    candles = shifted(*SIDEWAYS, *RISE, 103, 104)
    adx = talib.ADX(*(candles[name].to_numpy() for name in ("high", "low", "close")), 2)
    assert adx[-6:] == pytest.approx([100 / 3, 50, 200 / 3, 79.1667, 41.6667, 44.7917], abs=1e-4)


@pytest.mark.parametrize(
    ("least", "wanted"),
    [
        (0, [1, 1, 1, 1, 0, 1]),  # SMA(1) above SMA(3) is all that is asked: not at 103, below (103 + 104 + 103) / 3
        (49, [0, 1, 1, 1, 0, 0]),
        (51, [0, 0, 1, 1, 0, 0]),
        (44, [0, 1, 1, 1, 0, 1]),
        (80, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_a_trend_is_entered_where_the_market_trends(least: float, wanted: list[float]) -> None:
    assert targets(*SIDEWAYS, *RISE, 103, 104, adx_least=least)[-6:] == wanted


def test_an_adx_at_the_least_is_enough() -> None:
    # Prices that only rise have an ADX of 100.
    assert targets(*[float(close) for close in range(100, 150)], adx_least=100) == [0] * 39 + [1] * 11


def test_sideways_there_is_no_entry() -> None:
    assert targets(*SIDEWAYS, adx_least=34) == [0] * 45


def test_a_trend_that_loses_strength_is_held_to_its_end() -> None:
    # SMA(20) stays below: the mean of 16 to 19 closes around 100.5 and a few of 103 and 104. The ADX comes down to 33.
    after = [103.0, 104.0, 103.0, 104.0, 103.0, 104.0]
    assert targets(*SIDEWAYS, *RISE, *after, slow=20, adx_least=60)[-10:] == [0, 0, 1, 1, *[1] * 6]
    assert targets(*SIDEWAYS, *RISE, *after, 90, 104, slow=20, adx_least=60)[-3:] == [1, 0, 0]


def test_a_falling_market_that_trends_is_no_entry() -> None:
    # The ADX says how strong, not whereto: it is the same table upside down.
    assert targets(*SIDEWAYS, 99, 98, 97, 96, adx_least=51)[-4:] == [0] * 4


def test_nothing_is_entered_before_the_adx_has_settled() -> None:
    made = strategy(adx_least=0)
    assert made.warm_up == 40
    rising = [float(close) for close in range(100, 150)]
    assert made.signal(shifted(*rising)).tolist() == [0] * 39 + [1] * 11
    assert strategy(slow=50).warm_up == 50


def test_standing_prices_are_no_trend() -> None:
    assert set(targets(*[0.1, 0.7, 100.3] * 20, *[0.1] * 60, adx_least=0)[-50:]) == {0.0}


@pytest.mark.parametrize("length", [0, 1, 3])
def test_few_candles_have_no_trend(length: int) -> None:
    assert strategy().signal(shifted(*RISE).iloc[:length]).tolist() == [0] * length


def one_by_one(candles: pd.DataFrame, params: RegimeTrendParams) -> list[float]:
    """The docstring's rules, candle by candle."""
    high, low, close = (candles[name].to_numpy() for name in ("high", "low", "close"))
    adx, target, found = talib.ADX(high, low, close, params.adx_period), 0.0, []
    for t in range(len(close)):
        rising = t + 1 >= params.slow and close[t + 1 - params.fast : t + 1].mean() > close[
            t + 1 - params.slow : t + 1
        ].mean() * (1 + 1e-10)
        if not rising:
            target = 0.0
        elif t + 1 >= 20 * params.adx_period and adx[t] >= params.adx_least:
            target = 1.0
        found.append(target)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_columns_say_what_the_rules_say_candle_by_candle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    closes = (100 + rng.normal(0, 0.5, 600).cumsum()).round(2)
    params = RegimeTrendParams(fast=4, slow=15, adx_period=5, adx_least=35)
    wanted = one_by_one(shifted(*closes), params)
    assert 30 < sum(wanted) < 400
    assert RegimeTrend(params).signal(shifted(*closes)).tolist() == wanted


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"fast": 0}, "parameter fast is 0: a whole number, at least 1, at most 5000"),
        ({"slow": 5001}, "parameter slow is 5001: a whole number, at least 2, at most 5000"),
        ({"adx_period": 1}, "parameter adx_period is 1: a whole number, at least 2, at most 1000"),
        ({"adx_least": 100.5}, "parameter adx_least is 100.5: a number, at least 0, at most 100"),
        ({"fast": 200}, "fast is 200 and slow is 200: fast must be smaller than slow"),
        ({"adx": 20}, 'unknown parameter "adx": there is fast, slow, adx_period, adx_least'),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        load(PATH, params)
    assert str(refused.value) == f"RegimeTrend: {sentence}"
