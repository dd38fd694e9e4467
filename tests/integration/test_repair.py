"""Looking again at gaps: filled, built from trades, judged, or left alone; never invented."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from jobs import gap
from jobs.app import Context
from tests.plugins._venue import START, Venue, candle
from trader.bucket import load_feed, read_buckets
from trader.bucket.repair import MOST_CHECKS, Repaired, repair_feed
from trader.config import load
from trader.db import Connection, Identity, connect, fetch_all, fetch_one, open_pool
from trader.errors import Refused, Retry, Unknown
from trader.exchange.protocol import Candle, PublicTrade, PublicTrades

SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2);
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since, status, covered)
  VALUES (1, 1, '2024-01-01Z', 'full', '{[2024-01-01Z, 2024-02-01Z)}');
"""
PUT = """
INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
VALUES (1, 1, %s, %s, %s, %s, %s, %s, 'fetched')
"""
GAPS = "SELECT gap_from, missing, kind::text, checks FROM bucket_gap WHERE found_at IS NOT NULL ORDER BY 1"


@dataclass
class Trading(Venue):
    """A venue in memory that shows everybody's trades, too: two in each candle of `traded`."""

    traded: list[Candle] = field(default_factory=list)
    refusal: Exception | None = None
    trades_asked: int = 0
    beyond: timedelta = timedelta(0)
    """How much more than it was asked for it tells."""

    async def trades(self, symbol: str, since: datetime, until: datetime) -> PublicTrades:
        self.trades_asked += 1
        if self.refusal is not None:
            raise self.refusal
        rows = []
        for one in self.traded:
            for second, price in enumerate((one.open, one.high, one.low, one.close)):
                at = one.time_open + timedelta(seconds=10 * second)
                rows.append(PublicTrade(at, Decimal(str(price)), Decimal(str(one.volume)) / 4))
        end = until + self.beyond
        return PublicTrades(tuple(row for row in rows if since <= row.traded_at < end), end)


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    async with await connect(database, Identity("worker", "worker-1")) as opened:
        await opened.execute(SEED)
        yield opened


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


async def store(db: Connection, minutes: list[int]) -> None:
    async with db.cursor() as cursor:
        rows = [candle(minute) for minute in minutes]
        await cursor.executemany(
            PUT, [(c.time_open + timedelta(minutes=1), c.open, c.high, c.low, c.close, c.volume) for c in rows]
        )


async def look(db: Connection, venue: Venue, **more: object) -> Repaired:
    return await repair_feed(db, venue, await load_feed(db, 1, 1), **more)  # type: ignore[arg-type]


async def later(db: Connection, minutes: int) -> None:
    """Time passes, as far as gaps know."""
    await db.execute(
        "UPDATE gap SET next_check_at = next_check_at - %(by)s::interval, quiet_at = quiet_at - %(by)s::interval",
        {"by": f"{minutes} min"},
    )


async def gaps(db: Connection) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await fetch_all(db, GAPS)]


async def test_what_the_venue_has_by_now_is_stored(db: Connection) -> None:
    await store(db, [minute for minute in range(100) if minute not in (5, 6, 7, 50)])
    venue = Trading([candle(i) for i in range(100)])
    assert await look(db, venue) == Repaired(fetched=4, requests=1)
    assert venue.asked == [at(5)]
    assert await gaps(db) == []
    sources = await fetch_all(db, "SELECT DISTINCT source::text FROM bucket")
    assert [row.source for row in sources] == ["fetched"]


async def test_no_trades_is_said_at_the_second_look_and_nothing_is_invented(db: Connection) -> None:
    await store(db, [minute for minute in range(100) if minute not in (5, 6, 7)])
    venue = Trading([candle(i) for i in range(100) if i not in (5, 6, 7)])
    await look(db, venue)
    assert await gaps(db) == [(at(5), 3, "outage", 1)]
    assert await look(db, venue) == Repaired(), "its time has not come"
    await later(db, 1)
    assert await look(db, venue) == Repaired(judged=1, requests=2)
    assert await gaps(db) == [(at(5), 3, "no_trades", 2)]
    await later(db, 10_000)
    assert await look(db, venue) == Repaired()
    assert len(await read_buckets(db, 1, 1)) == 97


async def test_two_looks_at_once_or_within_seconds_are_one(db: Connection) -> None:
    await store(db, [0, 2])
    venue = Trading([candle(0), candle(2)])
    for _ in range(3):
        await look(db, venue)
        await db.execute("UPDATE gap SET next_check_at = NULL")
    assert await gaps(db) == [(at(1), 1, "outage", 3)]


async def test_a_candle_that_never_comes_is_built_from_its_trades(db: Connection) -> None:
    await store(db, [minute for minute in range(30) if minute not in (5, 6, 7)])
    venue = Trading([candle(i) for i in range(30) if i not in (5, 6, 7)], traded=[candle(5), candle(7)])
    assert await look(db, venue) == Repaired(requests=2), "it may be late: it gets a second chance"
    await later(db, 2)
    assert await look(db, venue) == Repaired(built=2, requests=2)
    rows = await fetch_all(
        db,
        """SELECT time_close, open, high, low, close, volume FROM bucket
                              WHERE source = 'trades' ORDER BY 1""",
    )
    for row, wanted in zip(rows, (candle(5), candle(7)), strict=True):
        assert tuple(row) == (
            wanted.time_open + timedelta(minutes=1), wanted.open, wanted.high, wanted.low, wanted.close, wanted.volume,
        )  # fmt: skip
    assert [gap[:2] for gap in await gaps(db)] == [(at(6), 1)]


async def test_what_cannot_be_read_concludes_nothing(db: Connection) -> None:
    await store(db, [0, 2])
    venue = Trading([candle(0), candle(2)], refusal=Unknown("gateway"))
    with pytest.raises(Unknown):
        await look(db, venue)
    assert await gaps(db) == [(at(1), 1, "outage", 0)]
    assert (await fetch_one(db, "SELECT verdict, quiet_at FROM gap")) == (None, None)
    assert await look(db, venue) == Repaired(), "not again at once"


async def test_a_venue_that_does_not_tell_makes_an_outage_after_some_looks(db: Connection) -> None:
    await store(db, [0, 2])
    venue = Trading([candle(0), candle(2)], refusal=Refused("too old"))
    pauses = []
    for _ in range(MOST_CHECKS):
        assert (await fetch_one(db, "SELECT verdict FROM gap")).verdict is None
        await look(db, venue)
        found = await fetch_one(db, "SELECT next_check_at - clock_timestamp() AS pause FROM gap")
        pauses.append(found.pause.total_seconds())
        await later(db, 2000)
    assert (await fetch_one(db, "SELECT verdict::text FROM gap")).verdict == "outage"
    assert [round(pause / 60) for pause in pauses] == [1, 4, 16, 64, 256]
    venue.history.insert(1, candle(1))
    assert (await look(db, venue)).fetched == 1, "an outage may end"


async def test_many_gaps_cost_few_requests_and_the_newest_come_first(db: Connection) -> None:
    await store(db, [minute for minute in range(5000) if minute % 10])
    venue = Trading([candle(i) for i in range(5000) if i % 10], beyond=timedelta(hours=5))
    done = await look(db, venue, replay=True, requests=4)
    assert done.requests <= 5
    assert done.judged > 50
    row = await fetch_one(db, "SELECT min(gap_from) FILTER (WHERE verdict = 'no_trades') AS oldest FROM gap")
    assert row.oldest > at(2900)
    for _ in range(60):
        await db.execute("UPDATE gap SET next_check_at = NULL WHERE verdict IS NULL")
        if not (await look(db, venue, replay=True)).requests:
            break
    assert {gap[2] for gap in await gaps(db)} == {"no_trades"}


async def test_on_a_replay_the_first_look_counts(db: Connection) -> None:
    await store(db, [0, 2, 4])
    venue = Trading([candle(0), candle(2), candle(4)], traded=[candle(1)])
    assert await look(db, venue, replay=True) == Repaired(built=1, judged=1, requests=3)


async def test_what_was_never_asked_for_and_feeds_that_are_off_are_left_alone(db: Connection) -> None:
    await store(db, [0, 2])
    venue = Trading([candle(i) for i in range(3)])
    for change in ("covered = '{}'", "enabled = false"):
        async with db.transaction(force_rollback=True):
            await db.execute(f"UPDATE bucket_feed SET {change}")  # type: ignore[arg-type]
            assert await look(db, venue) == Repaired()
    assert venue.asked == []
    assert (await look(db, venue)).fetched == 1


async def test_whoever_waits_is_told(db: Connection) -> None:
    await store(db, [0, 2, 4])
    told: list[int] = []

    async def news(_connection: Connection, feed: object) -> None:
        told.append(1)

    venue = Trading([candle(i) for i in range(5) if i != 3])
    await look(db, venue, on_news=news)
    await later(db, 2)
    await look(db, venue, on_news=news)
    assert len(told) == 2


async def test_a_venue_that_asks_to_be_left_alone_fails_no_job(db: Connection, database: str) -> None:
    await store(db, [0, 1, 5, 6])
    await db.execute("INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'simulator')")
    venue = Trading(errors={0: Retry("not asked for a while", after=9.0), 1: Retry("it is not there")})
    async with open_pool(database, Identity("worker", "worker-1"), 2) as pool:
        context = Context(load({"HOME": "/nowhere"}), pool, connect=lambda _account, _settings: venue)
        assert await gap.repair(context, db, 1) == 0
        assert [row.checks for row in await fetch_all(db, GAPS)] == [0]
        assert (await fetch_one(db, "SELECT last_error FROM bucket_feed")).last_error is None
        await later(db, 2)
        with pytest.raises(Retry, match="it is not there"):
            await gap.repair(context, db, 1)
        await context.close()
