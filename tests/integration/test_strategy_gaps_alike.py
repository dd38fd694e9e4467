"""Gaps mean the same live and in a backtest: of the same stored candles, verdicts and inputs.

Live decides at each candle while later ones are not there yet; the backtest reads all of it in the end.
"""

from datetime import timedelta
from decimal import Decimal
from random import Random

import pytest

from tests.plugins.live import START, Live
from trader.backtest.load import load_candles
from trader.backtest.result import BUY, UNDECIDED
from trader.backtest.run import backtest
from trader.backtest.settings import Settings
from trader.strategy import load

pytestmark = pytest.mark.any_server

QUARTER = timedelta(minutes=15)
HOUR = timedelta(hours=1)
STEPS = 115
TO_FETCH = range(90, 93)
"""Quarters of an hour that are still to be fetched."""
CLASSES = '''
from trader.strategy import Input, Strategy


class Usual(Strategy):
    """In while the close is above the mean of three."""
    warm_up = 3

    def signal(self, candles):
        return (candles["close"] > candles["close"].rolling(3).mean()).astype(float)


class Strict(Usual):
    gaps = "none"


class Bold(Usual):
    gaps = "any"


class Least(Strategy):
    """Its warm-up is one candle, so that a gap comes between the candle before and the newest only."""
    warm_up = 1

    def signal(self, candles):
        return (candles["close"] > 100).astype(float)


class Beside(Usual):
    """It looks at another market, too, and does not decide across all gaps there."""
    inputs = {"eth": Input(market="binance:ETH/USDT", timeframe="1h", warm_up=2)}

    def signal(self, candles, eth):
        return super().signal(candles)


class Called(Strategy):
    """The same by on_bucket."""
    warm_up = 3

    def on_bucket(self, context):
        return float(context.close > context.window("close", 3).mean())


class CalledStrict(Called):
    gaps = "none"
'''
NAMES = ("Usual", "Strict", "Bold", "Least", "Beside", "Called", "CalledStrict")


async def put_some(live: Live, draw: Random, step: int) -> float | None:
    """The candles of a step, if there are any, and verdicts on the gaps that they end; the own close."""
    if step % 4 == 0 and draw.random() < 0.8:
        await live.put(100, first=START + step * QUARTER, market=2)
    if draw.random() < 0.1 or step in TO_FETCH:
        return None
    price = 100 * draw.uniform(0.95, 1.05)
    await live.put(price, first=START + step * QUARTER, span=QUARTER)
    verdict = draw.choice([None, "no_trades", "no_trades", "outage"])
    await live.db.execute(
        "UPDATE gap SET verdict = %s, checks = 1 WHERE checks = 0", [verdict if step not in TO_FETCH else None]
    )
    if draw.random() < 0.05:
        await live.db.execute("UPDATE bucket SET partial = true WHERE time_close = %s", [START + step * QUARTER])
    return price


@pytest.mark.parametrize("schedule", ["bucket", "hour"])
async def test_the_same_gaps_stop_the_same_decisions(live: Live, schedule: str) -> None:
    hole = [START + place * QUARTER for place in (TO_FETCH.start - 1, TO_FETCH.stop - 1)]
    await live.feed(1, 15, f"{{[2023-12-01 00:00Z,{hole[0]}),[{hole[1]},2030-01-01 00:00Z)}}")
    await live.feed(2, 60, "{[2023-12-01 00:00Z,2030-01-01 00:00Z)}")
    for name in NAMES:
        await live.add(name, timeframe=15, schedule=schedule, deposit=100_000)
    draw = Random(11)
    for step in range(STEPS):
        price = await put_some(live, draw, step)
        for name in NAMES if price is not None else ():
            await live.run(name)
            for order in await live.orders(name):
                if order.status == "queued":
                    await live.fill(order.id, "0.5", price or 0)
    settings = Settings(deposit=Decimal(100_000), stake=Decimal(50), stake_in_percent=False, fill="close")
    for name in NAMES:
        strategy = load(f"{live.module}:{name}")
        loaded = await load_candles(live.db, strategy, "binance:BTC/USDT", "15m")
        result = backtest(strategy, loaded.frames, settings, schedule)
        times = [moment.to_pydatetime() for moment in loaded.frames.candles.index]
        sides = ["buy" if side == BUY else "sell" for side in result.fills.side.tolist()]
        expected = list(zip([times[bar] for bar in result.fills.decided.tolist()], sides, strict=True))
        rows = await live.decisions(name)
        assert [(row.bucket_time, row.action) for row in rows if row.orders] == expected, name
        assert len(expected) > 5, name
        why = {row.bucket_time: row.reason for row in rows if row.action in ("passed", "waits")}
        silent = [times[one.bar] for one in result.refused if one.reason == UNDECIDED]
        for moment in silent:
            assert why[moment].startswith(("makes no decision: ", "it has ", "at its last scheduled candle")), name
        assert silent or name == "Least", name
