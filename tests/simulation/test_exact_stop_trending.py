"""Stop trending through rows, trader, simulator and ledger: on real minutes the same fills as in the backtest."""

import pytest

from bench.shipped import hours_of
from bench.trend import COIN, SHARED, read_market
from strategies.sma_cross import StopTrending
from tests.simulation.test_exact import assert_same_digits
from trader.backtest.exact import run_exact
from trader.backtest.run import Frames
from trader.backtest.settings import parse_settings

MINUTES = [
    ("bitfinex_BTC-USD_1m_2016", "2016-01-01", "2016-01-25", "0.01"),
    ("bitfinex_BTC-USD_1m_2016", "2016-06-01", "2016-06-25", "0.01"),
    ("bitfinex_LTC-USD_1m_2016", "2016-01-01", "2016-09-10", "0.0001"),
]


@pytest.mark.skipif(not SHARED.is_dir(), reason="NOT RUN: ../shared/data is not here")
@pytest.mark.parametrize(("name", "first", "last", "tick"), MINUTES)
@pytest.mark.timeout(300)
def test_the_same_fills_through_the_real_path(server: str, name: str, first: str, last: str, tick: str) -> None:
    candles = read_market(name, "1m", COIN).frame[first:last]
    frames = Frames(candles, "1m", {"trend": hours_of(candles)})
    rules = parse_settings({"quantity_step": "0.0001", "price_tick": tick, "cost_min": 10, "spread": "0.0005"})
    found = run_exact(StopTrending(), frames, rules, server=server)
    assert found.difference is None
    assert_same_digits(found.expected, found.result)
    assert len(found.result.fills) >= 10
