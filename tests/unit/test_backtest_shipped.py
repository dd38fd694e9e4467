"""Every shipped strategy on real candles: the array engine, the bars engine and the referee, fill by fill."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from strategies.momentum import Momentum
from strategies.moving_average import MovingAverage
from strategies.regime_trend import RegimeTrend
from strategies.sma_cross import SmaCross
from strategies.support_resistance import SupportResistance
from tests.unit.backtest_referee import Referee
from tests.unit.test_backtest_array import assert_same
from trader.backtest.array import run
from trader.backtest.bars import run_bars
from trader.backtest.check import check
from trader.backtest.data import bars_from_frame
from trader.backtest.measures import measure
from trader.backtest.settings import parse_settings
from trader.bucket import read_file, timeframe_named
from trader.strategy import Strategy, evaluate

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
LAST = 3_000

SHIPPED: list[Strategy[Any]] = [SmaCross(), Momentum(), SupportResistance(), MovingAverage(), RegimeTrend()]
FEWEST = {"RegimeTrend": 10}
"""Fills without which a comparison would say little; 50, where nothing else is said."""

FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "bitfinex_BTC-USD_1h_2016_derived.csv.gz": (
        "1h",
        {"quantity_step": "0.0001", "price_tick": "0.01", "cost_min": 10},
    ),
    "freqtrade_ETH-BTC_5m.csv.gz": (
        "5m",
        {"quantity_step": "0.001", "price_tick": "1e-8", "cost_min": "0.0001", "deposit": 1, "spread": "0.0005"},
    ),
    "freqtrade_XRP-ETH_1m.csv.gz": (
        "1m",
        {"quantity_step": 1, "price_tick": "1e-8", "cost_min": "0.01", "deposit": 10, "volume_share": "0.1"},
    ),
}


def frame_of(name: str, timeframe: str) -> pd.DataFrame:
    span = timeframe_named(timeframe)
    candles = read_file(SHARED / name, span)[-LAST:]
    index = pd.DatetimeIndex(span.closes(candles.time_open).view("datetime64[ms]"), tz="UTC", name="time_close")
    columns = ("open", "high", "low", "close", "volume")
    return pd.DataFrame({column: getattr(candles, column) for column in columns}, index=index)


@pytest.mark.skipif(not SHARED.is_dir(), reason="NOT RUN: ../shared/data is not here")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("strategy", SHIPPED, ids=lambda strategy: type(strategy).__name__)
def test_engines_and_referee_agree_on_real_candles(name: str, strategy: Strategy[Any]) -> None:
    timeframe, rules = FILES[name]
    frame, terms = frame_of(name, timeframe), parse_settings(rules)
    bars, targets = bars_from_frame(frame, timeframe), evaluate(strategy, frame).to_numpy()
    result = run(bars, targets, terms, strategy.warm_up)
    wanted = targets.tolist()
    assert len(result.fills) > FEWEST.get(type(strategy).__name__, 50)
    assert_same(result, Referee(bars, wanted, terms, strategy.warm_up).run())
    stepwise = run_bars(bars, lambda context: wanted[context.index], terms, strategy.warm_up)
    assert stepwise.equity.tolist() == result.equity.tolist()
    made = measure(result, strategy.warm_up - 1)
    assert made.profit == pytest.approx(made.realised + made.unrealised, abs=1e-6)


@pytest.mark.skipif(not SHARED.is_dir(), reason="NOT RUN: ../shared/data is not here")
@pytest.mark.parametrize("name", FILES)
def test_the_regime_trend_is_proved_on_real_candles(name: str) -> None:
    report = check(RegimeTrend(), frame_of(name, FILES[name][0]))
    assert report.proved, report
    assert report.changes >= 10
