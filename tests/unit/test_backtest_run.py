"""One call for a backtest of either style: the same fills from both, by schedule, and clear words for what is wrong."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from strategies.sma_cross import SmaCross, SmaCrossParams
from trader.backtest import array
from trader.backtest.data import bars_from_frame
from trader.backtest.measures import measure
from trader.backtest.run import Frames, backtest
from trader.backtest.settings import parse_settings
from trader.errors import InputError
from trader.strategy import Input, OnBucketContext, SignalError, Strategy, at, evaluate, first_candle, scheduled

TERMS = parse_settings({"quantity_step": "0.001", "price_tick": "0.01"})
WALK = (100 * np.exp(np.random.default_rng(7).normal(0, 0.01, 2_000).cumsum())).round(2).tolist()


def frame(closes: list[float], freq: str = "1h", start: str = "2024-01-01 01:00") -> pd.DataFrame:
    index = pd.date_range(start, periods=len(closes), freq=freq, tz="UTC", name="time_close")
    close = np.array(closes, dtype=float)
    opens = np.concatenate((close[:1], close[:-1]))
    columns = {"open": opens, "high": np.maximum(opens, close) * 1.002, "low": np.minimum(opens, close) * 0.998}
    return pd.DataFrame({**columns, "close": close, "volume": 5.0}, index=index)


HOURS = Frames(frame(WALK), "1h")


class Stepwise(Strategy):
    """SMA 3/20 of the close, looked at candle by candle."""

    @property
    def warm_up(self) -> int:
        return 20

    def indicators(self, candles: pd.DataFrame) -> pd.DataFrame:
        cross = evaluate(SmaCross(SmaCrossParams(price="close", fast=3, slow=20)), candles)
        return pd.DataFrame({"above": cross}, index=candles.index)

    def on_bucket(self, context: OnBucketContext) -> float | None:
        return context.now.above


def columns_of(result: Any) -> list[list[Any]]:
    names = ("bar", "decided", "side", "price", "quantity", "quote", "fee")
    return [getattr(result.fills, name).tolist() for name in names] + [result.equity.tolist()]


@pytest.mark.parametrize("schedule", ["bucket", "hour", "day"])
def test_both_styles_trade_the_same(schedule: str) -> None:
    whole = frame(WALK)
    holes = replace(HOURS, candles=whole.drop(whole.index[[300, 301, 700, 1_103]]))
    for frames in (HOURS, holes):
        one = backtest(SmaCross(SmaCrossParams(price="close", fast=3, slow=20)), frames, TERMS, schedule)
        other = backtest(Stepwise(), frames, TERMS, schedule)
        assert len(one.fills) > 20
        assert columns_of(one) == columns_of(other)


def test_at_every_candle_a_signal_goes_through_the_array_engine() -> None:
    strategy = SmaCross(SmaCrossParams(price="close", fast=3, slow=20))
    bars, targets = bars_from_frame(HOURS.candles, "1h"), evaluate(strategy, HOURS.candles).to_numpy()
    wanted = array.run(bars, targets, TERMS, 20)
    assert columns_of(backtest(strategy, HOURS, TERMS)) == columns_of(wanted)


def test_a_day_s_schedule_decides_at_midnight_only() -> None:
    result = backtest(Stepwise(), HOURS, TERMS, "day")
    midnights = np.flatnonzero(scheduled(HOURS.candles.index, "day"))
    assert len(result.fills) > 10
    assert set(result.fills.decided.tolist()) <= set(midnights.tolist())


class Beside(Strategy):
    """In while the hour closes above the close of the day before."""

    @property
    def warm_up(self) -> int:
        return 1

    @property
    def inputs(self) -> Mapping[str, Input]:
        return {"day": Input("1d", warm_up=2)}

    def signal(self, candles: pd.DataFrame, day: pd.DataFrame) -> pd.Series:
        return (candles["close"] > at(day["close"], candles.index)).astype(float)


DAYS = frame(WALK[23::24], "1D", "2024-01-02 00:00")


def test_inputs_are_beside_the_candles_and_their_warm_up_is_waited_for() -> None:
    frames = replace(HOURS, inputs={"day": DAYS})
    result = backtest(Beside(), frames, TERMS)
    assert first_candle(Beside(), frames.candles, frames.inputs) == 47
    assert len(result.fills) > 20
    assert result.fills.decided[0] > 47


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (HOURS, 'no candles of its input "day"'),
        (
            replace(HOURS, inputs={"day": DAYS, "week": DAYS}),
            'candles of "week", which is no input of it: there is day',
        ),
        (replace(HOURS, inputs={"day": DAYS.drop(columns="low")}), 'input "day": bars: no column low'),
        (
            replace(HOURS, inputs={"day": DAYS.iloc[:1]}),
            '1 candles of its input "day" are too few: its warm-up needs 2',
        ),
        (replace(HOURS, candles=frame(WALK[:30]), inputs={"day": DAYS}), '1 candles of its input "day" are too few'),
        (replace(HOURS, timeframe="7m"), "timeframe '7m': allowed are"),
    ],
)
def test_frames_that_do_not_suit_are_named(frames: Frames, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        backtest(Beside(), frames, TERMS)


def test_too_few_candles_and_a_schedule_that_is_too_fine_are_named() -> None:
    with pytest.raises(InputError, match="19 candles are too few: its warm-up needs 20"):
        backtest(Stepwise(), replace(HOURS, candles=HOURS.candles.iloc[:19]), TERMS)
    with pytest.raises(InputError, match="candles of 1h do not close every minute: allowed are bucket, hour, day"):
        backtest(Stepwise(), HOURS, TERMS, "minute")


class Free(Strategy):
    """Does what it is told."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        self.act = act

    @property
    def warm_up(self) -> int:
        return 5

    def indicators(self, candles: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": candles["close"] * 2, "up": candles["close"] > candles["close"].shift(3)})

    def on_bucket(self, context: OnBucketContext) -> float | None:
        return self.act(context)  # type: ignore[no-any-return]


def test_the_context_is_that_of_the_kit() -> None:
    seen: list[Any] = []
    candles = HOURS.candles

    def act(context: OnBucketContext) -> float | None:
        place = 4 + len(seen)
        row = candles.iloc[place]
        assert context.time == candles.index[place].to_pydatetime()
        assert context.time.tzinfo is UTC
        assert [context.open, context.high, context.low, context.close, context.volume] == row.tolist()
        assert context.now.twice == row["close"] * 2
        assert context.now.up == float(row["close"] > candles["close"].iloc[place - 3])
        assert context.window("close", 5).tolist() == candles["close"].iloc[place - 4 : place + 1].tolist()
        assert context.window("twice", 2, candles.index[place - 1].to_pydatetime()).tolist() == [row["close"] * 2]
        assert len(context.window("high", 5, datetime(2030, 1, 1, tzinfo=UTC))) == 0
        context.state["seen"] = seen.append(context.close) or len(seen)
        return None

    backtest(Free(act), HOURS, TERMS)
    assert len(seen) == len(candles) - 4


def test_performance_is_that_of_the_measures() -> None:
    terms = parse_settings(
        {"deposit": 0, "stake": 50, "flows": [{"at": f"2024-01-{day:02}T00:30:00Z", "amount": amount}
                                 for day, amount in ((3, 700), (6, 300), (9, -250), (20, 50))]}
    )  # fmt: skip
    kept: list[Any] = []

    def act(context: OnBucketContext) -> float:
        kept.append(context.performance)
        return context.now.up

    result = backtest(Free(act), HOURS, terms)
    told = measure(result)
    for name in ("equity", "deposits", "withdrawals", "profit", "return_percent"):
        assert getattr(kept[-1], name) == pytest.approx(getattr(told, name)), name
    assert [made.equity for made in kept] == pytest.approx(result.equity[4:].tolist())
    assert abs(told.profit) > 1


def test_a_window_cannot_be_written_to() -> None:
    def act(context: OnBucketContext) -> None:
        context.window("close", 2)[0] = 1.0

    with pytest.raises(SignalError, match="read-only"):
        backtest(Free(act), HOURS, TERMS)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda c: "in", "on_bucket at 2024-01-01 05:00:00 gave 'in': a number from -1 to 1, or None"),
        (lambda c: float("nan"), "on_bucket at 2024-01-01 05:00:00 gave nan: from -1 to 1"),
        (lambda c: np.float64(2), "gave 2.0: from -1 to 1"),
        (lambda c: pd.Series([1.0]), "a number from -1 to 1, or None"),
        (lambda c: c.now.sma, r"on_bucket at 2024-01-01 05:00:00: AttributeError: .*'sma' \(.*run\.py:\d+\)"),
        (lambda c: 1 / 0, r"ZeroDivisionError: division by zero \(.*test_backtest_run\.py:\d+\)"),
        (lambda c: next(iter(())), r"StopIteration"),
        (lambda c: exit(), r"SystemExit"),
        (lambda c: c.buy(quantity=-1) and None, r"buy order: quantity is -1: .* \(.*test_backtest_run\.py:\d+\)"),
        (lambda c: c.buy(limit=float("nan")) and None, "buy order: limit is nan"),
        (lambda c: c.buy(limit="9") and None, "buy order: limit is '9'"),
        (lambda c: c.sell(trail=2) and None, "sell order: trail is 2"),
        (lambda c: c.cancel(7), r"cancel: 7 is no order; one of context\.orders is needed.* \(.*run\.py:\d+\)"),
        (lambda c: c.window("sma", 3) and None, "window: no column 'sma'; there is open, high, low, close, volume"),
        (lambda c: c.window("close", 6) and None, "window of 6 candles: a whole number from 1 to its warm-up, 5"),
        (lambda c: c.window("close", 2.0) and None, "window of 2.0 candles"),
        (lambda c: c.state.update(x=c.time), r'context.state\["x"\] is datetime: only None, numbers'),
        (lambda c: c.state.update(x=[(1, 2)]), r'context.state\["x"\]\[0\] is tuple'),
        (lambda c: c.state.update({1: 2}), r"context.state has the key 1: keys are texts"),
        (lambda c: c.state.update(x=float("nan")), r'context.state\["x"\] is nan: a finite number'),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(act: Any, message: str) -> None:
    with pytest.raises(SignalError, match=message):
        backtest(Free(act), HOURS, TERMS)


def test_what_a_signal_raises_is_told_with_its_line() -> None:
    class Broken(SmaCross):
        def signal(self, candles: pd.DataFrame) -> pd.Series:
            return candles["nothing"]

    with pytest.raises(SignalError, match=r"signal: KeyError: 'nothing' \(.*test_backtest_run\.py:\d+\)"):
        backtest(Broken(), HOURS, TERMS)
