"""A strategy makes no decision across a gap that it does not accept, and its row says why."""

import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from jobs.strategy import run
from trader.db import Connection, Identity, connect, fetch_all, fetch_one

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SETUP = """
INSERT INTO exchange (name, ccxt_id, replay) VALUES ('binance', 'binance', true);
INSERT INTO asset (code) VALUES ('USDT'), ('BTC');
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'simulator');
INSERT INTO market (exchange_id, symbol, base_id, quote_id, price_tick, quantity_step, quantity_min, cost_min)
  VALUES (1, 'BTC/USDT', 2, 1, 0.01, 0.00001, 0.00001, 5);
"""
CLASSES = '''
from trader.strategy import Strategy

SEEN = []


class Usual(Strategy):
    """In while the last close is above 100."""
    warm_up = 5

    def signal(self, candles):
        return (candles["close"] > 100).astype(float)

    def adjust(self, target, context):
        SEEN.append(context.gaps)
        return target


class Strict(Usual):
    gaps = "none"


class Bold(Usual):
    gaps = "any"


class Wrong(Usual):
    gaps = "some"
'''


@pytest.fixture
async def db(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connection]:
    (tmp_path / "gap_classes.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "gap_classes", raising=False)
    async with await connect(database, Identity("worker", "worker-test")) as opened:
        await opened.execute(SETUP)
        yield opened


async def add(db: Connection, name: str) -> int:
    row = await fetch_one(
        db,
        """INSERT INTO strategy (name, account_id, class, market_id, timeframe_id, params, stake, stake_unit)
           VALUES (%s, 1, %s, 1, 60, %s, 100, '%%') RETURNING id""",
        [name, f"gap_classes:{name}", Jsonb({})],
    )
    await db.execute("INSERT INTO orders (strategy, type, asset, quantity) VALUES (%s, 'deposit', 'USDT', 100)", [name])
    return int(row.id)


async def put(db: Connection, hours: dict[int, float], *, partial: bool = False) -> None:
    async with db.cursor() as cursor:
        await cursor.executemany(
            """INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source, partial)
               VALUES (1, 60, %s, %s, %s, %s, %s, 1, 'imported', %s)""",
            [(START + hour * HOUR, p, p, p, p, partial) for hour, p in hours.items()],
        )


async def judge(db: Connection, verdict: str | None) -> None:
    await db.execute("UPDATE gap SET verdict = %s", [verdict])


async def orders(db: Connection) -> list[str]:
    found = await fetch_all(
        db, "SELECT s.name FROM \"order\" o JOIN strategy s ON s.id = o.strategy_id WHERE o.type = 'market' ORDER BY 1"
    )
    return [row.name for row in found]


async def state(db: Connection, name: str) -> Any:
    return await fetch_one(db, "SELECT signal, last_bucket, error FROM strategy WHERE name = %s", [name])


HOLED = dict.fromkeys([*range(1, 20), 22, 23], 90.0) | {24: 110.0}
WHY = "makes no decision: 2 candles are missing from 2024-01-01 19:00 to 2024-01-01 21:00: "


@pytest.mark.parametrize(
    ("verdict", "why", "who"),
    [
        (None, "nobody knows yet why", ["Bold"]),
        ("outage", "the venue has lost them", ["Bold"]),
        ("no_trades", "nobody traded", ["Bold", "Usual"]),
    ],
)
async def test_who_decides_across_which_gap(db: Connection, verdict: str | None, why: str, who: list[str]) -> None:
    await put(db, HOLED)
    await judge(db, verdict)
    for name in ("Usual", "Strict", "Bold"):
        await run(db, await add(db, name))
    assert await orders(db) == who
    for name in {"Usual", "Strict", "Bold"} - set(who):
        assert (await state(db, name))[::2] == (None, WHY + why)


async def test_while_nobody_knows_why_the_candle_waits(db: Connection) -> None:
    await put(db, HOLED)
    number = await add(db, "Usual")
    await run(db, number)
    assert (await state(db, "Usual")).last_bucket is None
    await judge(db, "no_trades")
    await run(db, number)
    assert await orders(db) == ["Usual"]
    assert (await state(db, "Usual")) == (1.0, START + 24 * HOUR, None)
    (seen,) = sys.modules["gap_classes"].SEEN
    assert [(gap.start, gap.end, gap.missing, gap.verdict) for gap in seen] == [
        (START + 19 * HOUR, START + 21 * HOUR, 2, "no_trades")
    ]


async def test_an_outage_lets_the_candle_go_by_and_the_next_whole_window_counts(db: Connection) -> None:
    await put(db, HOLED)
    await judge(db, "outage")
    number = await add(db, "Usual")
    await run(db, number)
    assert (await state(db, "Usual")).last_bucket == START + 24 * HOUR
    await put(db, {25: 90.0, 26: 110.0})
    await run(db, number)
    assert await orders(db) == ["Usual"]
    assert (await state(db, "Usual")).error is None


async def test_a_gap_before_the_warm_up_is_no_matter(db: Connection) -> None:
    await put(db, {1: 90.0, 4: 90.0, 5: 90.0, 6: 90.0, 7: 90.0, 8: 110.0})
    await run(db, await add(db, "Strict"))
    assert await orders(db) == ["Strict"]


async def test_a_partial_candle_hides_a_gap(db: Connection) -> None:
    await put(db, dict.fromkeys(range(1, 8), 90.0))
    await put(db, {8: 90.0}, partial=True)
    await put(db, {9: 110.0})
    for name in ("Strict", "Usual"):
        await run(db, await add(db, name))
    assert await orders(db) == ["Usual"]
    assert "from 2024-01-01 07:00 to 2024-01-01 08:00: nobody traded" in (await state(db, "Strict")).error


async def test_a_policy_that_is_none_is_refused(db: Connection) -> None:
    await put(db, HOLED)
    await run(db, await add(db, "Wrong"))
    assert (await state(db, "Wrong")).error == "gaps is 'some': allowed are none, no_trades, any"
