"""Walk-forward: where trainings and tests lie, that nothing of a test is seen before it, and that money goes on."""

from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from pydantic import Field

from trader.backtest.array import run
from trader.backtest.data import bars_from_frame
from trader.backtest.measures import measure
from trader.backtest.result import FROM_THE_START, Refusal
from trader.backtest.run import Frames, backtest
from trader.backtest.settings import Settings, parse_settings
from trader.backtest.trial import Task, try_set
from trader.backtest.walk_forward import (
    Fold,
    check_settings,
    check_tests,
    closed,
    cut,
    folds,
    joined,
    left_over,
    short_tests,
    with_warm_up,
)
from trader.bucket.timeframe import DAY, timeframe_named
from trader.errors import InputError
from trader.strategy import Params, Strategy

PLAIN = parse_settings({"deposit": 1000, "taker": 0, "maker": 0})


def frame(closes: Any) -> pd.DataFrame:
    closes = np.asarray(closes, dtype=np.float64)
    index = pd.date_range("2024-01-01", periods=len(closes), freq="1D", tz="UTC", name="time_close")
    opens = np.concatenate((closes[:1], closes[:-1]))
    high, low = np.maximum(opens, closes), np.minimum(opens, closes)
    return pd.DataFrame({"open": opens, "high": high, "low": low, "close": closes, "volume": 1.0}, index=index)


def walk(count: int, seed: int = 3) -> pd.DataFrame:
    return frame(100 * np.exp(np.random.default_rng(seed).normal(0, 0.02, count).cumsum()))


class NoiseParams(Params):
    seed: int = Field(0, ge=0)


class Noise(Strategy[NoiseParams]):
    """In and out by chance: each seed has learnt one past by heart. Every candle that it was shown is noted."""

    seen: ClassVar[list[pd.DatetimeIndex]] = []

    @property
    def warm_up(self) -> int:
        return 5

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        self.seen.append(pd.DatetimeIndex(candles.index))
        days = (candles.index.tz_localize(None).to_numpy().astype("datetime64[D]").astype(np.int64)) // 4
        chance = [np.random.default_rng([self.params.seed, int(day)]).random() for day in np.unique(days)]
        return pd.Series(np.array(chance)[np.unique(days, return_inverse=True)[1]] > 0.5, index=candles.index) * 1.0


def test_folds_rolling_and_anchored() -> None:
    assert folds(100, 2, train=3) == [
        Fold(range(60), range(60, 80)),
        Fold(range(20, 80), range(80, 100)),
    ]
    assert folds(100, 2, train=3, embargo=10, anchored=True) == [
        Fold(range(54), range(64, 82)),
        Fold(range(72), range(82, 100)),
    ]
    for tests, train, embargo in ((6, 3, 50), (1, 1, 0), (7, 2, 13)):
        found = folds(1003, tests, train, embargo)
        assert found[-1].test.stop == 1003
        assert found[0].train.start >= 0
        assert all(fold.train.stop + embargo == fold.test.start for fold in found)
        assert all(a.test.stop == b.test.start for a, b in pairwise(found))
        assert {len(fold.train) for fold in found} == {train * len(found[0].test)}


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"candles": 9, "tests": 2}, "9 candles are too few for 2 tests.*at least 10 are needed"),
        ({"candles": 100, "tests": 0}, "tests is 0: at least 1"),
        ({"candles": 100, "tests": 2, "embargo": -1}, "embargo is -1: at least 0"),
        ({"candles": 100, "tests": 2, "train": 0}, "train is 0: at least 1"),
    ],
)
def test_what_cannot_be_cut_is_refused(wrong: dict[str, int], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        folds(**wrong)


def test_nothing_of_a_test_or_its_embargo_is_seen_by_its_training_and_luck_does_not_last() -> None:
    """The best of 60 that only learnt by heart shines where it was chosen, and is nothing where it was not."""
    candles, task = walk(700), Task(Noise, {}, PLAIN, "sharpe")
    trained, results = [], []
    for fold in folds(700, 4, train=3, embargo=20):
        Noise.seen.clear()
        train = candles.iloc[fold.train.start : fold.train.stop]
        outcomes = [try_set(task, {"seed": seed}, lambda _, train=train: Frames(train, "1d")) for seed in range(60)]
        test_begins = candles.index[fold.test.start]
        assert max(index[-1] for index in Noise.seen) == candles.index[fold.test.start - 21] < test_begins
        best = max(range(60), key=lambda seed: outcomes[seed].value or -9)
        trained.append(outcomes[best].value)
        Noise.seen.clear()
        where = slice(fold.test.start, fold.test.stop)
        wide = with_warm_up(where, 5, PLAIN)
        result = backtest(task.made({"seed": best}), Frames(candles.iloc[wide], "1d"), PLAIN)
        assert [(index[0], index[-1]) for index in Noise.seen] == [
            (candles.index[fold.test.start - 5], candles.index[fold.test.stop - 1])
        ]
        results.append(cut(result, 5))
    assert min(trained) > 1.5  # type: ignore[type-var]
    told, moments = joined(results)
    assert told.sharpe is not None
    assert abs(told.sharpe) < 1.2
    assert moments.periods == sum(len(one.bars) for one in results)
    assert told.trades == sum(measure(one).trades for one in results) > 20


def test_the_first_candle_of_a_test_may_be_a_fresh_cross_and_no_earlier_one_trades() -> None:
    candles = frame([100, 101, 102, 103, 104, 105, 106, 107])
    targets = np.array([0.0, 0, 0, 0, 1, 1, 1, 1])
    for fill, first in (("next_open", 5), ("close", 4)):
        settings = PLAIN.model_copy(update={"fill": fill})
        wide = with_warm_up(slice(4, 8), 2, settings)
        assert wide == slice(2 + (fill == "close"), 8)
        part = candles.iloc[wide]
        result = cut(run(bars_from_frame(part, "1d"), targets[wide], settings, 2), 4 - wide.start)
        fills = [] if fill == "close" else [first - 4]
        assert result.fills.bar.tolist() == fills
        assert len(result.bars) == len(result.equity) == 4
        assert result.equity[0] == 1000.0
    late = run(bars_from_frame(candles, "1d"), targets, PLAIN)
    with pytest.raises(InputError, match="before its test began"):
        cut(late, 6)


@pytest.mark.parametrize("fill", ["next_open", "close"])
def test_an_entry_that_a_test_does_not_take_at_its_first_open_is_told(fill: str) -> None:
    """The target is above 0 before the test begins, with nothing in hand."""
    candles, targets = frame([100, 101, 102, 103, 104, 105, 106, 107]), np.array([0.0, 0, 1, 1, 1, 0, 1, 1])
    settings = PLAIN.model_copy(update={"fill": fill, "cost_min": Decimal(2000)})
    wide = with_warm_up(slice(4, 8), 2, settings)
    made = run(bars_from_frame(candles.iloc[wide], "1d"), targets[wide], settings, 2)
    result = cut(made, 4 - wide.start)
    assert [one.bar for one in result.refused] == [0, 2]
    assert result.refused[0] == Refusal(0, FROM_THE_START)
    assert len(result.refused) == len(made.refused)
    assert not len(result.fills)


def test_what_is_left_over_is_what_a_sale_would_bring_and_goes_on() -> None:
    """In at 100 with 1000, worth 1200 at the end; a sale takes 1 % and moves the price by 2 %: 1200 * 0.98 * 0.99."""
    settings = PLAIN.model_copy(update={"taker": Decimal("0.01"), "slippage": Decimal("0.02")})
    free = Settings(deposit=Decimal(1000), taker=Decimal(0), maker=Decimal(0))
    first = run(bars_from_frame(frame([100, 100, 110, 120]), "1d"), np.array([0.0, 1, 1, 1]), free)
    assert first.equity[-1] == pytest.approx(1200)
    assert left_over(first) == Decimal("1200.00000000")
    costly = type(first)(first.bars, settings, first.fills, first.states, first.flows, first.equity)
    assert left_over(costly) == Decimal("1164.24000000")
    bars = bars_from_frame(frame([100, 100, 110, 120, 120, 108]).iloc[4:], "1d")
    second = run(bars, np.array([0.0, 0.0]), free.model_copy(update={"deposit": left_over(costly)}))
    told, _ = joined([first, second])
    assert told.deposits == 1000
    assert told.equity == pytest.approx(1164.24)
    assert told.return_percent == pytest.approx(16.424)
    assert told.max_drawdown_percent == pytest.approx(100 * (1 - 1164.24 / 1200))
    assert told.buy_and_hold_percent == pytest.approx(8.0)


def test_what_is_sold_at_the_end_of_a_test_is_a_trade() -> None:
    """In at 100 with 1000: 10 less a fee of 1 % are 9.9; at 90 they are sold, 2 % below and with a fee of 1 %."""
    settings = PLAIN.model_copy(update={"taker": Decimal("0.01"), "slippage": Decimal("0.02")})
    bars = bars_from_frame(frame([100, 100, 100, 90]), "1d")
    held = run(bars, np.array([0.0, 1, 1, 1]), PLAIN.model_copy(update={"taker": Decimal("0.01")}))
    assert measure(held).trades == 0
    ended = closed(replace(held, settings=settings))
    made, brought = measure(ended), 9.9 * 90 * 0.98 * 0.99
    assert (made.trades, made.win_percent, made.unrealised) == (1, 0, 0)
    assert made.equity == pytest.approx(brought) == pytest.approx(float(ended.cash[-1]))
    assert made.realised == made.profit == pytest.approx(brought - 1000)
    assert made.return_percent == pytest.approx(100 * (brought / 1000 - 1))
    assert made.fees == pytest.approx(10 + 9.9 * 90 * 0.98 * 0.01)
    assert left_over(ended) == left_over(replace(held, settings=settings))
    assert ended.fills.bar.tolist() == [2, 3]
    assert ended.fills.order.tolist() == [0, 1]
    assert ended.fills.side.dtype == held.fills.side.dtype
    assert joined([ended, ended])[0].trades == 2


@pytest.mark.parametrize("terms", [{}, {"quantity_step": "0.001", "cost_min": 2000}, {"quantity_min": 11}])
def test_nothing_is_sold_at_the_end_where_nothing_can_be(terms: dict[str, Any]) -> None:
    bars = bars_from_frame(frame([100, 100, 100, 90]), "1d")
    targets = np.array([0.0, 1, 1, 1]) if terms else np.array([0.0, 1, 0, 0])
    result = run(bars, targets, PLAIN)
    assert len(result.fills) == (1 if terms else 2)
    bounded = replace(result, settings=PLAIN.model_copy(update=parse_settings(terms).model_dump(include=set(terms))))
    assert closed(bounded) is bounded


def test_tests_within_a_day_are_refused_and_short_ones_are_named() -> None:
    hours = np.arange(1, 24 * 10 + 1, dtype=np.int64) * DAY // 24
    check_tests(hours, folds(len(hours), 2, train=1))
    check_tests(hours, [Fold(range(20), range(20, 30))])  # six hours are on the next day
    with pytest.raises(InputError, match=r"the 24 candles of test 1 lie within one day \(UTC\).*at least 2 daily"):
        check_tests(hours, [Fold(range(24), range(24, 48))])
    with pytest.raises(InputError, match="the 10 candles of test 2 lie"):
        check_tests(hours, [Fold(range(20), range(20, 30)), Fold(range(100), range(100, 110))])
    day, week, month = (timeframe_named(name) for name in ("1d", "1w", "1M"))
    assert short_tests(8, day) == "tests of 8 days are short: a Sharpe ratio of so few days means little"
    assert short_tests(29, timeframe_named("1m")).startswith("tests of 29 days are short")
    assert short_tests(8, week) == "tests of 8 candles are short: a Sharpe ratio of so few candles means little"
    assert short_tests(8, month) == short_tests(8, week)
    assert short_tests(30, day) == short_tests(30, week) == ""


def test_later_deposits_cannot_be_cut_into_tests() -> None:
    check_settings(PLAIN)
    with pytest.raises(InputError, match="later deposits and withdrawals cannot be"):
        check_settings(parse_settings({"flows": [{"at": "2024-01-01T00:00:00Z", "amount": 5}]}))
