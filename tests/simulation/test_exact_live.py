"""Live equals backtest: scheduler, worker and trader at a venue that replays a file give the orders of the backtest.

Nothing is left out: candles are fetched over HTTP, jobs store them and run the strategies, which queue orders, and a
trader sends them by way of ccxt. Only the venue's market clock is moved by the test, candle by candle, so that a busy
machine can be slow without missing one.
"""

import json
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest

from jobs.app import DEFER, defer_parameters
from jobs.strategy import SWEEP_JOB
from tests.plugins.desk import Desk
from tests.simulation.test_exact import SHARED, frames_of
from trader.backtest.data import Bars, bars_from_frame
from trader.backtest.exact import run_targets
from trader.backtest.result import BUY, SELL
from trader.backtest.settings import parse_settings
from trader.clock import from_milliseconds
from trader.strategy import evaluate, load

FILE = "bitfinex_BTC-USD_1h_2016_derived.csv.gz"
FIRST = 1042
"""The candle that is decided on first: in the next forty all four trade, and none of them is just entering there."""
CANDLES = 300 if os.environ.get("TALLYDESK_SLOW") == "1" else 40
HOUR = timedelta(hours=1)
SPAN = 3600
STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "cross": ("strategies.sma_cross:SmaCross", {"fast": 2, "slow": 8}),
    "average": ("strategies.moving_average:MovingAverage", {"period": 5}),
    "momentum": ("strategies.momentum:Momentum", {}),
    "levels": ("strategies.support_resistance:SupportResistance", {}),
}
TERMS = {"deposit": 1000, "quantity_step": "0.00001", "price_tick": "0.01", "cost_min": 5}

FEED = "INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (1, 60, %s)"
ADD = """
INSERT INTO strategy (name, account_id, class, params, market_id, timeframe_id) VALUES (%s, 1, %s, %s, 1, 60)
"""
# Every strategy has decided on the newest candle, and nothing is under way.
DONE = """
SELECT (SELECT min(last_bucket) = %s FROM strategy) AND NOT EXISTS
       (SELECT FROM "order" WHERE status IN ('queued', 'submitted', 'accepted', 'partially_filled'))
"""
ORDERS = """
SELECT o.bucket_time, o.side::text, o.status::text FROM "order" o JOIN strategy s ON s.id = o.strategy_id
 WHERE s.name = %s AND o.type = 'market' ORDER BY o.id
"""
PRICES = """
SELECT o.bucket_time, f.price FROM fill f JOIN "order" o ON o.id = f.order_id ORDER BY f.id
"""


@pytest.fixture
def desk(make_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A venue that stands right after the open of the candle after FIRST."""
    if not SHARED.is_dir():
        pytest.skip("NOT RUN: ../shared/data is not here")
    monkeypatch.setenv("TALLYDESK_TICK", "0.05")
    bars = bars_of_file()
    start = from_milliseconds(int(bars.time[FIRST])) + timedelta(seconds=1)
    venue = ("--candles", str(SHARED / FILE), "--speed", "0", "--start", start.isoformat(), "--step", "0.00001")
    desk = make_desk(*venue, "--balance", "USDT=100000", "--book-quote", "100000")
    desk.venue.price(None)
    desk.execute(FEED, from_milliseconds(int(bars.time[0])) - HOUR)
    return desk


def candles() -> pd.DataFrame:
    return frames_of(FILE, "1h", 1_000_000).candles.iloc[: FIRST + CANDLES + 1]


def bars_of_file() -> Bars:
    return bars_from_frame(candles(), "1h")


@pytest.mark.timeout(1800 if CANDLES > 40 else 240)
def test_live_through_the_simulator_gives_the_orders_of_the_backtest(desk: Desk, server: str) -> None:
    bars = bars_of_file()
    moment = from_milliseconds(int(bars.time[FIRST]))
    for kind in ("scheduler", "worker", "trader"):
        desk.process("run", kind)
    desk.wait_for("SELECT bool_and(status = 'full' AND newest = %s) FROM bucket_feed", moment)
    for name, (path, params) in STRATEGIES.items():
        desk.execute(ADD, name, path, json.dumps(params))
        desk.deposit(name, 1000)
    desk.sql.execute(DEFER, defer_parameters(SWEEP_JOB))  # else the first candle waits for the next minute
    desk.wait_for(DONE, moment)
    for _ in range(CANDLES):
        moment += HOUR
        desk.venue.clock(advance_seconds=SPAN)
        desk.wait_for(DONE, moment)

    for name, (path, params) in STRATEGIES.items():
        expected = backtested(server, path, params)
        assert len(expected) >= 3, name
        made = [tuple(row) for row in desk.execute(ORDERS, name) if row.bucket_time < moment]  # the bars end there
        assert made == expected, name
    opens = {from_milliseconds(int(at)): float(price) for at, price in zip(bars.time, bars.open[1:], strict=False)}
    for row in desk.execute(PRICES):
        if row.bucket_time in opens:  # filled at the open of the next candle: within spread and first moments
            assert float(row.price) == pytest.approx(opens[row.bucket_time], rel=2e-3)
    desk.check()


def backtested(server: str, path: str, params: dict[str, Any]) -> list[tuple[Any, str, str]]:
    """The orders of the backtest, which the exact engine gives as well: candle, side, what became of it."""
    strategy, frame, bars = load(path, params), candles(), bars_of_file()
    targets = evaluate(strategy, frame).to_numpy()
    assert not len(bars.breaks)
    assert not (targets[FIRST] > 0 >= targets[FIRST - 1]), "a fresh cross at the very first candle"
    result = run_targets(server, bars, targets, parse_settings(TERMS), FIRST + 1).result
    places = {int(order): place for place, order in enumerate(result.fills.order)}.values()
    moments = [from_milliseconds(int(at)) for at in bars.time]
    sides = {BUY: "buy", SELL: "sell"}
    return [(moments[result.fills.decided[place]], sides[int(result.fills.side[place])], "filled") for place in places]
