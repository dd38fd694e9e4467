"""Trailing stops: the live path leaves on the same candle as the backtest, over real candles.

Live is all that a desk does, but for processes and HTTP: the strategies' job decides on each candle and writes rows, a
trader's looks at prices move and meet the trailing stops, and its claim, send and settle trade at the simulator's
venue, which stands in the candles and is moved corner by corner. The backtest is the bars engine's.

A candle goes open, low, high, close here (falling: open, high, low, close), and a trader sees all four. The backtest
does not know that order: it counts a candle's own high from the next candle on. So the two differ where a candle falls
from its own high by about the trail. Here no candle does: with half the share, some of the hours would.
"""

import sys
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from jobs.strategy import run
from tests.simulation.test_exact import SHARED, SLOW, frames_of
from trader.backtest.data import Bars, bars_from_frame
from trader.backtest.exact_desk import ExactDesk
from trader.backtest.exact_part import Part
from trader.backtest.exact_seat import Seat
from trader.backtest.result import BUY
from trader.backtest.run import Frames, backtest
from trader.backtest.settings import Settings, parse_settings
from trader.clock import to_milliseconds
from trader.db import Identity, connect, fetch_all, open_pool
from trader.strategy import load
from trader.trigger import look_at_waiting

CLASSES = '''
from trader.strategy import Params, Strategy


class Share(Params):
    trail: float = 0.05
    later: bool = False


class Follows(Strategy[Share]):
    """In when a candle rises; out by a trailing stop, given with the buy, or (later) at the first close after it."""
    warm_up = 2

    def on_bucket(self, context):
        before, close = context.window("close", 2)
        if context.orders:
            return
        if context.quantity:
            context.sell(trail=self.params.trail)
        elif close > before:
            context.buy()
            if not self.params.later:
                context.sell(trail=self.params.trail)
'''
TRADER, WORKER = Identity("trader", "live"), Identity("worker", "live")
FILLS = """
SELECT f.side::text, o.bucket_time, f.traded_at FROM fill f JOIN "order" o ON o.id = f.order_id ORDER BY f.id
"""
SET = "UPDATE strategy SET class = %s, params = %s"

Exits = list[tuple[str, int, int]]
"""Fills: side, the candle at whose close it was decided, the candle in which it was filled."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Candles of a file."""

    file: str
    timeframe: str
    first: int
    candles: int
    rules: dict[str, Any]

    def frames(self) -> Frames:
        whole = frames_of(self.file, self.timeframe, 10_000_000).candles
        length = self.candles if SLOW else FEW
        return Frames(whole.iloc[self.first : self.first + length], self.timeframe)


HOURS = Stretch(
    "bitfinex_BTC-USD_1h_2016_derived.csv.gz",
    "1h",
    1000,
    600,
    {"quantity_step": "0.0001", "price_tick": "0.01", "cost_min": 10},
)
FIVES = Stretch(
    "freqtrade_ETH-BTC_5m.csv.gz",
    "5m",
    1500,
    600,
    {"quantity_step": "0.001", "price_tick": "1e-5", "cost_min": "0.0001", "deposit": 10},
)
FEW = 250
"""So many without TALLYDESK_SLOW=1."""
LEAST = 10 if SLOW else 3
"""Fills in each."""


@pytest.mark.skipif(not SHARED.is_dir(), reason="NOT RUN: ../shared/data is not here")
@pytest.mark.parametrize(
    ("stretch", "trail", "later"),
    [
        pytest.param(HOURS, 0.02, False, id="hours, with the buy"),
        pytest.param(HOURS, 0.02, True, id="hours, while it holds"),
        pytest.param(FIVES, 0.04, False, id="five minutes, with the buy"),
    ],
)
@pytest.mark.timeout(240)
async def test_live_leaves_on_the_candle_of_the_backtest(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stretch: Stretch, trail: float, later: bool
) -> None:
    (tmp_path / "classes_of_trail.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "classes_of_trail", raising=False)
    path, params = "classes_of_trail:Follows", {"trail": trail, "later": later}
    frames, settings = stretch.frames(), parse_settings(stretch.rules)
    expected = backtested(backtest(load(path, params), frames, settings))
    bars = bars_from_frame(frames.candles, stretch.timeframe)
    async with standing(database, bars, settings) as desk:
        await desk.connection.execute(SET, [path, Jsonb(params)])
        made = await lived(desk, bars)
    assert made == expected
    assert len(made) >= LEAST
    print(f"{stretch.file}, {trail:.1%}: {len(made)} fills, each in the candle of the backtest")


def backtested(result: Any) -> Exits:
    fills = result.fills
    columns = (fills.side.tolist(), fills.decided.tolist(), fills.bar.tolist())
    return [("buy" if side == BUY else "sell", decided, bar) for side, decided, bar in zip(*columns, strict=True)]


@asynccontextmanager
async def standing(url: str, bars: Bars, settings: Settings) -> AsyncIterator[ExactDesk]:
    """A desk at a venue that stands in the bars, with money."""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await connect(url, WORKER))
        pool = await stack.enter_async_context(open_pool(url, TRADER, 4))
        desk = ExactDesk(connection, pool, bars, settings)
        await desk.open([Part(0, len(bars))])
        await desk.seats[0].flow(0, settings.deposit)
        yield desk


async def lived(desk: ExactDesk, bars: Bars) -> Exits:
    """Trade to the end of the bars; the fills."""
    seat = desk.seats[0]
    for bar in range(len(bars)):
        for moment in corners(seat, bars, bar):
            seat.venue.moment = moment
            await desk.turn([seat])  # what was decided at the close before is sent at the open
            await look_at_waiting(desk.desk, seat.account, seat.exchange)
            await desk.turn([seat])
        await seat.candle(bar)
        await run(desk.connection, seat.strategy)
    opens = [seat.venue.open_of(bar) for bar in range(len(bars))]
    closes = {int(time): bar for bar, time in enumerate(bars.time)}

    def filled_in(row: Any) -> int:
        return bisect_right(opens, to_milliseconds(row.traded_at)) - 1

    assert await desk.problems(1_000) == []
    rows = await fetch_all(desk.connection, FILLS)
    return [(row.side, closes[to_milliseconds(row.bucket_time)], filled_in(row)) for row in rows]


def corners(seat: Seat, bars: Bars, bar: int) -> list[int]:
    """The moments at which the price is at the open, the two extremes and the close."""
    opened = seat.venue.open_of(bar)
    span = int(bars.time[bar]) - opened
    return [opened, opened + span // 3, opened + 2 * span // 3, opened + span - 1]
