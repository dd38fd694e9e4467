"""Live equals backtest: scheduler, worker and trader at a venue that replays a file give the orders of the backtest.

Nothing is left out: candles are fetched over HTTP, jobs store them and run the strategies, which queue orders, and a
trader sends them by way of ccxt. Only the venue's market clock is moved by the test, candle by candle, so that a busy
machine can be slow without missing one. It goes to the open of each next candle, which proves that the one before has
closed, and is where the backtest fills.

Every shipped strategy is replayed on three stretches of real files, with parameters by which it trades often there. The
short form has the hours of BTC/USD; TALLYDESK_SLOW=1 runs that for longer, and the others. What is missing in them:
- hours of BTC/USD, five minutes of ETH/BTC: nothing, in what is replayed and in the warm-ups.
- hours of EUR/USD: the weekends. The venue shows no trades there, so the gaps are `no_trades`, and on a replay one look
  is enough. The classes accept such gaps, so the first hour after one may be an entry, here and there.
- minutes of BTC/USD and LTC/USD: those without a trade (some in BTC/USD, most in LTC/USD), and hours without one in
  LTC/USD. `StopTrending`, the only one that is replayed there, decides across any gap.
"""

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import pandas as pd
import pytest

from bench.shipped import hours_of
from jobs.app import DEFER, defer_parameters
from jobs.strategy import SWEEP_JOB
from tests.plugins.desk import Desk
from tests.simulation.test_exact import SHARED, SHIPPED, frames_of
from trader.backtest.data import Bars, bars_from_frame
from trader.backtest.exact import run_exact, run_targets
from trader.backtest.result import BUY, SELL, Result
from trader.backtest.run import Frames, first_decision
from trader.backtest.settings import parse_settings
from trader.bucket import timeframe_named
from trader.clock import from_milliseconds
from trader.strategy import evaluate, load, needed, style_of

SLOW = os.environ.get("TALLYDESK_SLOW") == "1"
PATIENCE = 240.0 if SLOW else 60.0
"""Seconds that one candle may take."""
HISTORY = 3_000
"""So many candles before the first one are fetched: more than a live run reads."""
LEAST = 3
"""Orders that each strategy makes in a stretch."""

HALF_SPREAD = 0.0001
"""Of the simulator's book, as a share of the price."""

Chosen = dict[str, tuple[str, dict[str, Any]]]

SIGNALS: Chosen = {
    "cross": ("strategies.sma_cross:SmaCross", {"fast": 2, "slow": 8}),
    "average": ("strategies.moving_average:MovingAverage", {"period": 5}),
    "momentum": ("strategies.momentum:Momentum", {}),
    "levels": ("strategies.support_resistance:SupportResistance", {}),
    "regime": ("strategies.regime_trend:RegimeTrend", {"fast": 2, "slow": 8, "adx_period": 5, "adx_least": 30}),
}
TIGHT = {"fast": 1, "slow": 2, "shallow": 0.998, "shallow_count": 5, "shallow_of": 20, "deep": 0.995, "rise": 1.004}
STOP: Chosen = {"stop": ("strategies.sma_cross:StopTrending", TIGHT)}


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """A part of a file that is replayed, and who trades there."""

    file: str
    market: str
    timeframe: str
    first: int
    """The candle that is decided on first: after it every strategy trades, and no signal is just entering there."""
    candles: int
    """How many come after it."""
    chosen: Chosen
    deposit: int
    """Of each strategy, in quote."""
    tick: str
    """Times the step it has at most eight places: a venue cuts what a fill is worth there, the ledger does not."""
    step: str
    cost_min: str
    input: str | None = None
    """The timeframe of the input."""

    def __str__(self) -> str:
        return f"{self.market.replace('/', '-')}-{self.timeframe}-{self.first}"

    @property
    def terms(self) -> dict[str, Any]:
        """Those of the backtest."""
        rules = {"quantity_step": self.step, "price_tick": self.tick, "cost_min": self.cost_min}
        return {"deposit": self.deposit, **rules}


HOURS, FIVES = "bitfinex_BTC-USD_1h_2016_derived.csv.gz", "freqtrade_ETH-BTC_5m.csv.gz"
EUROS, BITCOIN = "fx_EUR-USD_1h_2017-2018.csv.gz", "bitfinex_BTC-USD_1m_2016.csv.gz"
LITECOIN = "bitfinex_LTC-USD_1m_2016.csv.gz"

STRETCHES = [
    Stretch(HOURS, "BTC/USD", "1h", 1042, 300 if SLOW else 40, SIGNALS, 1_000, "0.01", "0.00001", "5"),
    Stretch(FIVES, "ETH/BTC", "5m", 1734, 300, SIGNALS, 10, "0.00001", "0.001", "0.0001"),
    Stretch(EUROS, "EUR/USD", "1h", 4650, 300, SIGNALS, 1_000, "0.00001", "0.01", "5"),
    Stretch(BITCOIN, "BTC/USD", "1m", 18_000, 400, STOP, 1_000, "0.01", "0.00001", "5", "1h"),
    Stretch(BITCOIN, "BTC/USD", "1m", 180_000, 400, STOP, 1_000, "0.01", "0.00001", "5", "1h"),
    Stretch(LITECOIN, "LTC/USD", "1m", 16_500, 300, STOP, 1_000, "0.0001", "0.001", "5", "1h"),
]
ONLY_SLOW = pytest.mark.skipif(not SLOW, reason="takes minutes: TALLYDESK_SLOW=1 runs it")
CASES = [pytest.param(one, id=str(one), marks=[ONLY_SLOW] if place else []) for place, one in enumerate(STRETCHES)]

ASSET = "INSERT INTO asset (code) VALUES (%s), (%s) ON CONFLICT DO NOTHING"
MARKET = """
INSERT INTO market (exchange_id, symbol, base_id, quote_id, price_tick, quantity_step, quantity_min, cost_min,
                    maker_fee, taker_fee)
SELECT 1, %s, b.id, q.id, %s::numeric, %s::numeric, %s::numeric, %s::numeric, 0.001, 0.001
  FROM asset b, asset q WHERE b.code = %s AND q.code = %s
RETURNING id
"""
FEED = """
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since)
SELECT m.id, t.id, %s FROM market m, timeframe t WHERE m.symbol = %s AND t.name = %s
"""
FETCHED = """
SELECT status = 'full' AND newest = %s FROM bucket_feed JOIN timeframe t ON t.id = timeframe_id WHERE t.name = %s
"""
ADD = """
INSERT INTO strategy (name, account_id, class, params, market_id, timeframe_id)
SELECT %s, 1, %s, %s, m.id, t.id FROM market m, timeframe t WHERE m.symbol = %s AND t.name = %s
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

Decided = list[tuple[datetime, str, str]]
"""Orders: candle, side, what became of it."""


@pytest.mark.skipif(not SHARED.is_dir(), reason="NOT RUN: ../shared/data is not here")
@pytest.mark.parametrize("stretch", CASES)
@pytest.mark.timeout(3_600 if SLOW else 240)
def test_live_through_the_simulator_gives_the_orders_of_the_backtest(
    make_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch, server: str, stretch: Stretch
) -> None:
    monkeypatch.setenv("TALLYDESK_TICK", "0.05")
    bars, desk = bars_of_file(stretch), stand(make_desk, stretch)
    moment = begin(desk, stretch, bars)
    for place in range(stretch.first + 1, len(bars)):
        desk.venue.clock(advance_seconds=(opened(stretch, place + 1) - opened(stretch, place)).total_seconds())
        moment = from_milliseconds(int(bars.time[place]))
        desk.wait_for(DONE, moment, patience=PATIENCE)

    after_gaps = {from_milliseconds(int(bars.time[place])) for place in bars.breaks}
    entries = 0
    for name, (path, params) in stretch.chosen.items():
        expected = backtested(server, stretch, path, params)
        made = [tuple(row) for row in desk.execute(ORDERS, name) if row.bucket_time < moment]  # the bars end there
        assert made == expected, name
        assert len(expected) >= LEAST, name
        sides = Counter(side for _, side, _ in made)
        entries += sum(side == "buy" and at in after_gaps for at, side, _ in made)
        print(f"{stretch} {name}: {len(made)} orders, {sides['buy']} buys and {sides['sell']} sales, the same")
    assert entries or stretch.file != EUROS, "no entry right after a weekend: nothing is shown of it"
    check_prices(desk, stretch, bars)
    desk.check()


@pytest.mark.parametrize("strategy", SHIPPED, ids=lambda strategy: type(strategy).__name__)
def test_every_shipped_strategy_is_replayed_on_three_stretches(strategy: Any) -> None:
    path = f"{type(strategy).__module__}:{type(strategy).__name__}"
    assert sum(path == other for one in STRETCHES for other, _ in one.chosen.values()) >= 3


# The file


@cache
def whole_file(file: str, timeframe: str) -> pd.DataFrame:
    return frames_of(file, timeframe, 10_000_000).candles


def candles(stretch: Stretch) -> pd.DataFrame:
    """Up to the last one that is decided on."""
    return whole_file(stretch.file, stretch.timeframe).iloc[: stretch.first + stretch.candles + 1]


def bars_of_file(stretch: Stretch) -> Bars:
    return bars_from_frame(candles(stretch), stretch.timeframe)


@cache
def opens_of(file: str, timeframe: str) -> list[int]:
    """When its candles opened, in milliseconds."""
    opens: list[int] = (
        timeframe_named(timeframe).opens(bars_from_frame(whole_file(file, timeframe), timeframe).time).tolist()
    )
    return opens


def opened(stretch: Stretch, place: int) -> datetime:
    """When a candle of the file opened."""
    return from_milliseconds(opens_of(stretch.file, stretch.timeframe)[place])


# Live


def stand(make_desk: Callable[..., Desk], stretch: Stretch) -> Desk:
    """A desk at a venue that stands right after the open of the candle after the first."""
    start = (opened(stretch, stretch.first + 1) + timedelta(seconds=1)).isoformat()
    base, quote = stretch.market.split("/")
    rules = ("--tick", stretch.tick, "--step", stretch.step, "--min-notional", stretch.cost_min)
    source = ("--market", stretch.market, "--candles", str(SHARED / stretch.file), "--speed", "0", "--start", start)
    desk = make_desk(*source, *rules, "--balance", f"{quote}=100000", "--book-quote", "100000")
    desk.venue.price(None)
    desk.execute(ASSET, base, quote)
    desk.execute(MARKET, stretch.market, stretch.tick, stretch.step, stretch.step, stretch.cost_min, base, quote)
    return desk


def begin(desk: Desk, stretch: Stretch, bars: Bars) -> datetime:
    """Start the processes, wait for the candles, add the strategies, and let them decide on the first candle."""
    moment = from_milliseconds(int(bars.time[stretch.first]))
    newest = {stretch.timeframe: moment}
    if stretch.input is not None:
        hours = bars_from_frame(hours_of(candles(stretch)), stretch.input).time
        newest[stretch.input] = from_milliseconds(int(hours[hours <= bars.time[stretch.first]][-1]))
    for timeframe in newest:
        desk.execute(FEED, opened(stretch, max(stretch.first - HISTORY, 0)), stretch.market, timeframe)
    for kind in ("scheduler", "worker", "trader"):
        desk.process("run", kind)
    for timeframe, last in newest.items():
        desk.wait_for(FETCHED, last, timeframe, patience=PATIENCE)
    for name, (path, params) in stretch.chosen.items():
        desk.execute(ADD, name, path, json.dumps(params), stretch.market, stretch.timeframe)
        desk.deposit(name, stretch.deposit, stretch.market.split("/")[1])
    desk.sql.execute(DEFER, defer_parameters(SWEEP_JOB))  # else the first candle waits for the next minute
    desk.wait_for(DONE, moment, patience=PATIENCE)
    return moment


def check_prices(desk: Desk, stretch: Stretch, bars: Bars) -> None:
    """Each fill is at the open of the next candle: half a spread off, and what the price moves in its first second."""
    next_of = {from_milliseconds(int(at)): place + 1 for place, at in enumerate(bars.time[:-1])}
    fills = [(next_of[row.bucket_time], float(row.price)) for row in desk.execute(PRICES) if row.bucket_time in next_of]
    assert len(fills) >= LEAST * len(stretch.chosen)
    second = 1_000 / (timeframe_named(stretch.timeframe).span or 0)
    for place, price in fills:
        moved = 3 * second * (bars.high[place] - bars.low[place])  # it walks from corner to corner, in three parts
        off = abs(price - bars.open[place])
        assert off <= moved + bars.open[place] * HALF_SPREAD + 2 * float(stretch.tick), (place, price)
    print(f"{stretch}: {len(fills)} fills, each at the next open")


# Backtest


def backtested(server: str, stretch: Stretch, path: str, params: dict[str, Any]) -> Decided:
    """The orders of the backtest, which the exact engine gives as well."""
    strategy = load(path, params)
    result = (followed if style_of(strategy) == "signal" else called)(server, stretch, strategy)
    places = {int(order): place for place, order in enumerate(result.fills.order)}.values()
    moments = [from_milliseconds(int(at)) for at in result.bars.time]
    sides = {BUY: "buy", SELL: "sell"}
    return [(moments[result.fills.decided[place]], sides[int(result.fills.side[place])], "filled") for place in places]


def followed(server: str, stretch: Stretch, strategy: Any) -> Result:
    """By targets: all of history is their warm-up."""
    bars, first = bars_of_file(stretch), stretch.first
    targets = evaluate(strategy, candles(stretch)).to_numpy()
    assert not (targets[first] > 0 >= targets[first - 1]), "a fresh cross at the very first candle"
    return run_targets(server, bars, targets, parse_settings(stretch.terms), first + 1).result


def called(server: str, stretch: Stretch, strategy: Any) -> Result:
    """By `on_bucket`, which remembers: its first call must be at the first candle, as live."""
    warm_up, minutes = needed(strategy), candles(stretch)
    frames = Frames(minutes.iloc[stretch.first + 1 - warm_up :], stretch.timeframe, {"trend": hours_of(minutes)})
    assert first_decision(strategy, frames) == warm_up - 1
    made = run_exact(strategy, frames, parse_settings(stretch.terms), server=server)
    assert made.difference is None
    return made.result
