"""The SMA cross with its stop, live: the paths of its rules, through restarts and minutes that were missed."""

from datetime import timedelta

import pytest

from tests.plugins.live import START, Live
from tests.unit.test_stop_trending import BEFORE, HOURS, RISEN, hours, minutes

pytestmark = pytest.mark.any_server

MINUTE = timedelta(minutes=1)
CLASSES = "from strategies.sma_cross import StopTrending"
ENTRY = START + (HOURS + 1) * 60 * MINUTE


@pytest.mark.parametrize(("price", "away", "minute"), [(104.0, (), 69), (100.0, (), 52), (104.0, range(30, 68), 69)])
async def test_it_sells_where_the_stop_says(live: Live, price: float, away: range, minute: int) -> None:
    path = [*RISEN, *[price] * (minute - 49)]
    whole = hours(minutes(*BEFORE, *path))
    await live.add("StopTrending", timeframe=1, params={"fast": 2, "slow": 4})
    await live.put(*BEFORE[:-1], first=START + MINUTE, span=MINUTE)
    await live.put(*whole["close"].iloc[:HOURS], first=START + 60 * MINUTE)
    await live.feed(1, 1)
    await live.feed(1, 60)
    await live.run("StopTrending")
    for place, one in enumerate([BEFORE[-1], *path], -1):
        moment = ENTRY + (place + 1) * MINUTE
        if moment in whole.index:
            candle = whole.loc[moment]
            values = [moment, *(float(candle[name]) for name in ("open", "high", "low", "close"))]
            await live.db.execute(
                "INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)"
                " VALUES (1, 60, %s, %s, %s, %s, %s, 1, 'imported')",
                values,
            )
        await live.put(one, first=moment, span=MINUTE)
        if place in away:
            continue
        await live.run("StopTrending")
        for order in await live.orders("StopTrending"):
            if order.status == "queued":
                await live.fill(order.id, "0.5", one)
    decided = [(row.bucket_time, row.action) for row in await live.decisions("StopTrending") if row.orders]
    assert decided == [(ENTRY, "buy"), (ENTRY + (minute + 1) * MINUTE, "sell")]
    assert (await live.row("StopTrending")).error is None
    await live.sound()
