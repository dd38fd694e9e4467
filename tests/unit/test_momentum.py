"""Momentum on drawn candles; the numbers are worked out by hand beside each test."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from strategies.momentum import Momentum, MomentumParams, wicks
from trader.errors import InputError
from trader.strategy import evaluate, load

Drawn = tuple[float, float, float, float]
"""Open, high, low, close."""


def drawn(*candles: Drawn) -> pd.DataFrame:
    index = pd.date_range("2024-01-01", periods=len(candles), freq="1h", tz="UTC", name="time_close")
    frame = pd.DataFrame(list(candles), columns=["open", "high", "low", "close"], index=index, dtype=float)
    return frame.assign(volume=1.0)


def wicked(*pairs: tuple[float, float], body: float = 0.0) -> pd.DataFrame:
    """Candles around 100 with these top and bottom wicks, and a body of so much."""
    return drawn(
        *[(100.0, 100 + max(body, 0) + top, 100 + min(body, 0) - bottom, 100.0 + body) for top, bottom in pairs]
    )


def closing(*closes: float) -> pd.DataFrame:
    """Candles without wicks."""
    opens = [closes[0], *closes[:-1]]
    return drawn(*[(o, max(o, c), min(o, c), c) for o, c in zip(opens, closes, strict=True)])


def strategy(**params: float) -> Momentum:
    return Momentum(MomentumParams.model_validate({"wick_period": 2, "rsi_period": 2} | params))


def test_wicks_are_what_the_body_leaves_of_the_range() -> None:
    top, bottom = wicks(drawn((4, 9, 1, 6), (6, 9, 1, 4), (5, 5, 5, 5)))
    assert top.tolist() == [3, 3, 0]
    assert bottom.tolist() == [3, 3, 0]


def test_wick_averages_cross() -> None:
    # EMA(2): starts with the mean of the first two, then 2/3 of the new one.
    # top     4 2 | 3    0 -> 1     0 -> 1/3      6 -> 4.11
    # bottom  1 1 | 1    1 -> 1     2 -> 1.67     0 -> 0.56
    # lead           -2          0           +1.33        -3.56
    candles = wicked((4, 1), (2, 1), (0, 1), (0, 2), (6, 0))
    assert strategy().wick_cross(candles).tolist() == [0, 0, 0, 1, -1]


def test_averages_that_only_touch_do_not_cross() -> None:
    # bottom above, equal, above again
    assert strategy().wick_cross(wicked((0, 3), (0, 3), (3, 1.5), (0, 3))).tolist() == [0, 0, 0, 0]


def test_rsi_turns() -> None:
    # RSI(2), Wilder: the mean of the first two gains and losses, then half of the new one and half of the old.
    # close  10  8   6     9     12     15     14     9
    # gain       0   0|0   1.5   2.25   2.625  1.31   0.66
    # loss       2   2|2   1     0.5    0.25   0.625  2.81
    # RSI            0     60    81.8   91.3   67.7   18.9
    candles = closing(10, 8, 6, 9, 12, 15, 14, 9)
    assert strategy().rsi_turn(candles).tolist() == [0, 0, 0, 1, 0, 0, -1, 0]


def test_the_rsi_turns_at_its_bounds_exactly() -> None:
    # close  10  8   6     9 -> 60: through 60 only if it ends above
    candles = closing(10, 8, 6, 9)
    assert strategy(oversold=59.9).rsi_turn(candles).tolist()[-1] == 1
    assert strategy(oversold=60.1).rsi_turn(candles).tolist()[-1] == 0


def test_prices_that_stand_still_turn_nothing() -> None:
    assert strategy().rsi_turn(closing(*[10] * 9, 11, 12)).tolist() == [0] * 11
    assert strategy().rsi_turn(closing(10, 12, 14, *[14] * 200)).tolist() == [0] * 203


def test_a_jump_is_a_wick_of_many_times_its_average() -> None:
    # The averages are 1 before; the thresholds 5.
    before = [(1.0, 1.0)] * 3
    assert strategy().wick_jump(wicked(*before, (1, 5))).tolist() == [0, 0, 0, 0]
    assert strategy().wick_jump(wicked(*before, (1, 5.1))).tolist() == [0, 0, 0, 1]
    assert strategy().wick_jump(wicked(*before, (5.1, 1))).tolist() == [0, 0, 0, -1]
    assert strategy(jump=6).wick_jump(wicked(*before, (5.1, 1))).tolist() == [0, 0, 0, 0]


def test_a_jump_on_both_sides_is_decided_by_the_greater_excess() -> None:
    before = [(1.0, 1.0)] * 3
    assert strategy().wick_jump(wicked(*before, (6, 7)))[-1] == 1
    assert strategy().wick_jump(wicked(*before, (7, 6)))[-1] == -1


def test_the_thresholds_are_each_sides_own() -> None:
    # top threshold 5 x 1, bottom threshold 5 x 2: 8 exceeds its own by 3, 11 by 1
    assert strategy().wick_jump(wicked(*[(1.0, 2.0)] * 3, (8, 11)))[-1] == -1


def test_an_equal_jump_on_both_sides_is_decided_by_the_body() -> None:
    before = [(1.0, 1.0)] * 3
    for body, vote in ((1.0, 1), (-1.0, -1), (0.0, -1)):
        candles = pd.concat([wicked(*before), wicked((7.3, 7.3), body=body)])
        assert strategy().wick_jump(candles)[-1] == vote, body


def test_the_vote_is_the_sign_of_the_sum() -> None:
    # After 20 quiet candles (ten times the period) the averages have settled.
    # Then a bottom wick jumps, and with it the averages cross.
    quiet = [(1.0, 0.9)] * 20
    candles = wicked(*quiet, (1, 9), (1, 0.9))
    votes = strategy()
    assert votes.wick_jump(candles)[-2:].tolist() == [1, 0]
    assert votes.wick_cross(candles)[-2:].tolist() == [1, 0]
    assert votes.vote(candles).tolist() == [0.0] * 20 + [1, 0]


def test_a_jump_on_both_sides_moves_the_target() -> None:
    # The averages are 0.9 and 1, the thresholds 4.5 and 5. 7 and 9 exceed theirs by 2.5 and 4: +1. 9 and 7, by 4.5 and
    # 2: -1, and there the averages cross, too (2/3 x 9 + 1/3 x 0.9 = 6.3 above 2/3 x 7 + 1/3 x 1 = 5).
    quiet, made = [(0.9, 1.0)] * 20, strategy()
    up, down = [*quiet, (7, 9)], [*quiet, (9, 7)]
    assert made.vote(wicked(*up)).iloc[-1] == 1
    assert made.vote(wicked(*down)).iloc[-1] == -1
    assert made.signal(wicked(*up)).tolist() == [0.0] * 20 + [1]
    assert made.signal(wicked(*up, *quiet, (9, 7))).tolist() == [0.0] * 20 + [1] * 21 + [-1]


def test_a_jump_on_both_sides_alone_is_the_vote() -> None:
    # Bottom wicks lead by 1 and go on leading (EMA of 2 x 3 and 14 against 1 and 11.5), and no close moves: only the
    # jump speaks. Thresholds 5 and 10, both exceeded: by 6.5 and 4 it says -1, by 6.5 and 7 +1.
    quiet, made = [(1.0, 2.0)] * 20, strategy()
    for bottom, vote in ((14, -1), (17, 1)):
        candles = wicked(*quiet, (11.5, bottom))
        assert made.wick_cross(candles)[-1] == made.rsi_turn(candles)[-1] == 0
        assert made.vote(candles).iloc[-1] == made.signal(candles).iloc[-1] == vote


def test_two_rules_that_disagree_say_nothing_new() -> None:
    # The top wick jumps to 12 (over its threshold by 7) and the bottom one to 9.9 (by 5.4): the jump says -1. The
    # closes have risen from an RSI of 0 at the same candle: +1. The averages were apart already: 0.
    falling = [(100 - i, 101 - i, 98 - i, 99 - i) for i in range(21)]
    candles = drawn(*falling, (79, 95, 69, 83))
    votes = strategy()
    assert (votes.wick_cross(candles)[-1], votes.rsi_turn(candles)[-1], votes.wick_jump(candles)[-1]) == (0, 1, -1)
    assert votes.vote(candles).iloc[-1] == 0


def test_no_vote_counts_before_the_averages_have_settled() -> None:
    candles = wicked(*[(1.0, 0.9)] * 10, (1, 9), *[(1.0, 0.9)] * 30)
    assert strategy().wick_jump(candles)[10] == 1
    assert set(strategy().vote(candles).iloc[:19]) == {0.0}


def test_the_target_is_the_last_vote_that_was_one() -> None:
    quiet = [(1.0, 0.9)] * 20
    candles = wicked(*quiet, (1, 9), *[(1.0, 0.9)] * 5, (9, 1), (1, 0.9))
    made = strategy()
    vote, target = made.vote(candles), made.signal(candles)
    assert vote.iloc[20] == 1
    assert vote.iloc[26] == -1
    expected, last = [], 0.0
    for value in vote:
        last = value or last
        expected.append(last)
    assert target.tolist() == expected
    assert target.iloc[:20].tolist() == [0] * 20


def test_the_warm_up_is_enough() -> None:
    """With no more candles than that it says what it says with all of them."""
    rng = np.random.default_rng(5)
    close = 100 + rng.normal(0, 1, 900).cumsum().clip(-90)
    start = np.concatenate(([100.0], close[:-1]))
    top, bottom = rng.exponential(0.5, (2, 900))
    frame = drawn(*zip(start, np.maximum(start, close) + top, np.minimum(start, close) - bottom, close, strict=True))
    made = strategy(wick_period=10, rsi_period=7)
    whole = evaluate(made, frame)
    assert made.warm_up == 200
    for end in range(made.warm_up, len(frame) + 1, 10):
        assert evaluate(made, frame.iloc[end - made.warm_up : end]).iloc[-1] == whole.iloc[end - 1], end


def test_the_defaults_are_forty_candles_of_wicks() -> None:
    assert Momentum().params == MomentumParams(wick_period=40, rsi_period=14, oversold=30, overbought=70, jump=5)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"wick_period": 1}, "parameter wick_period is 1: a whole number, at least 2, at most 1000"),
        ({"rsi_period": 1001}, "parameter rsi_period is 1001: a whole number, at least 2, at most 1000"),
        ({"oversold": 0}, "parameter oversold is 0: a number, above 0, below 100"),
        ({"overbought": 100.0}, "parameter overbought is 100.0: a number, above 0, below 100"),
        ({"jump": 0.9}, "parameter jump is 0.9: a number, at least 1, at most 1000"),
        ({"oversold": 70}, "oversold is 70 and overbought is 70: oversold must be the smaller"),
        ({"wicks": 3}, 'unknown parameter "wicks": there is wick_period, rsi_period, oversold, overbought, jump'),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        load("strategies.momentum:Momentum", params)
    assert str(refused.value) == f"Momentum: {sentence}"
