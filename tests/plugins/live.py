"""Fixture `live`: strategies of a test module run on a real database, candle by candle, as a worker runs them.

The test module has its classes as text in CLASSES; they are importable as `classes_of_<test module>`. There are
binance:BTC/USDT (1) and binance:ETH/USDT (2) on a replay, so that no candle is old.
"""

import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from jobs.strategy import run
from trader.db import Connection, Identity, connect, fetch_all, fetch_one

START = datetime(2024, 1, 1, tzinfo=UTC)
WORKER = Identity("worker", "worker-test")
SETUP = """
INSERT INTO exchange (name, ccxt_id, replay) VALUES ('binance', 'binance', true);
INSERT INTO asset (code) VALUES ('USDT'), ('BTC'), ('ETH');
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'simulator');
INSERT INTO market (exchange_id, symbol, base_id, quote_id, price_tick, quantity_step, quantity_min, cost_min)
  VALUES (1, 'BTC/USDT', 2, 1, 0.01, 0.00001, 0.00001, 5), (1, 'ETH/USDT', 3, 1, 0.01, 0.0001, 0.0001, 5);
"""
CANDLE = """
INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
VALUES (%s, %s, %s, %s, %s, %s, %s, 1, 'imported')
"""
ADD = """
INSERT INTO strategy (name, account_id, class, market_id, timeframe_id, params, stake, stake_unit, schedule)
VALUES (%s, 1, %s, 1, %s, %s, %s, '%%', %s) RETURNING id
"""
FEED = """
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since, status, covered) VALUES (%s, %s, %s, 'full', %s)
ON CONFLICT (market_id, timeframe_id) DO UPDATE SET status = 'full', enabled = true, covered = EXCLUDED.covered
"""
SUBMIT = """
UPDATE "order" SET status = 'submitted', fence = 1, submitted_at = now(), receive_deadline = now() + '5 s', attempt = 1,
       hold_asset_id = CASE side WHEN 'buy' THEN 1 ELSE 2 END,
       hold_quantity = CASE side WHEN 'buy' THEN %(quantity)s::numeric * %(price)s ELSE %(quantity)s END
 WHERE id = %(id)s
"""
FILL = """
INSERT INTO fill (order_id, traded_at, quantity, price, fee, trade_id, source)
VALUES (%(id)s, now(), %(quantity)s, %(price)s, 0, 't' || %(id)s || clock_timestamp(), 'answer')
"""


class Live:
    """One desk, by names."""

    def __init__(self, url: str, db: Connection, module: str) -> None:
        self.url = url
        self.db = db
        self.module = module
        self.ids: dict[str, int] = {}

    async def add(
        self,
        name: str,
        *,
        schedule: str = "bucket",
        timeframe: int = 60,
        params: dict[str, Any] | None = None,
        deposit: int | None = 100,
        stake: int = 100,
    ) -> int:
        """A strategy of the class of that name."""
        values = [name, f"{self.module}:{name}", timeframe, Jsonb(params or {}), stake, schedule]
        self.ids[name] = int((await fetch_one(self.db, ADD, values)).id)
        if deposit is not None:
            await self.db.execute(
                "INSERT INTO orders (strategy, type, asset, quantity) VALUES (%s, 'deposit', 'USDT', %s)",
                [name, deposit],
            )
        return self.ids[name]

    async def put(
        self, *closes: float, first: datetime = START, span: timedelta = timedelta(hours=1), market: int = 1
    ) -> None:
        """Candles of one price each, the first of which closes at `first`."""
        frame = int(span.total_seconds() // 60)
        rows = [(market, frame, first + i * span, c, c, c, c) for i, c in enumerate(closes)]
        async with self.db.cursor() as cursor:
            await cursor.executemany(CANDLE, rows)

    async def feed(self, market: int = 1, timeframe: int = 60, covered: str = "{}") -> None:
        """The candles are up to date, as far as the desk knows."""
        await self.db.execute(FEED, [market, timeframe, START, covered])

    async def run(self, name: str) -> str:
        """One look at the newest candle."""
        return await run(self.db, self.ids[name])

    async def decisions(self, name: str) -> list[Any]:
        """Oldest first."""
        return await self.all("SELECT * FROM decisions WHERE strategy = %s ORDER BY bucket_time", name)

    async def orders(self, name: str) -> list[Any]:
        """Those that trade, oldest first."""
        return await self.all(
            "SELECT * FROM orders WHERE strategy = %s AND type IN ('market', 'limit') ORDER BY id", name
        )

    async def row(self, name: str) -> Any:
        """That of the strategy."""
        return await fetch_one(
            self.db, "SELECT enabled, signal, last_bucket, error FROM strategy WHERE name = %s", [name]
        )

    async def all(self, statement: Any, *values: Any) -> list[Any]:
        return await fetch_all(self.db, statement, values)

    async def submit(self, order: int, quantity: str, price: float, status: str = "accepted") -> None:
        """What a trader does to send an order."""
        values = {"id": order, "quantity": quantity, "price": price}
        await self.db.execute(SUBMIT, values)
        await self.db.execute('UPDATE "order" SET status = %s WHERE id = %s', [status, order])

    async def fill(self, order: int, quantity: str, price: float, status: str = "filled") -> None:
        """What a trader does when an order is filled."""
        if (await fetch_one(self.db, "SELECT status FROM orders WHERE id = %s", [order])).status == "queued":
            await self.submit(order, quantity, price, "submitted")
        await self.db.execute(FILL, {"id": order, "quantity": quantity, "price": price})
        await self.db.execute('UPDATE "order" SET status = %s WHERE id = %s', [status, order])

    async def sound(self) -> None:
        """The books agree with themselves."""
        broken: Sequence[Any] = await self.all("SELECT * FROM invariant_violation")
        assert broken == []


@pytest.fixture
async def live(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Live]:
    """A desk on which the classes of the test module run."""
    module = "classes_of_" + request.module.__name__.rpartition(".")[2]
    (tmp_path / f"{module}.py").write_text(request.module.CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, module, raising=False)
    async with await connect(database, WORKER) as db:
        await db.execute(SETUP)
        yield Live(database, db, module)
