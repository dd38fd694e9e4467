"""How long a queued row takes to reach the venue when the trader has nothing else to do."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg

from bench.desk import prepare
from bench.ground import Ground
from bench.simulated import CREDENTIALS, ROOT, simulator

QUEUE = """
INSERT INTO orders (strategy, type, side, market, quote_quantity)
VALUES ('s1', 'market', 'buy', 'binance:BTC/USDT', 10) RETURNING id
"""
STATE = """
SELECT status::text, client_order_id::text, extract(epoch FROM created_at)::float8 * 1000 FROM "order" WHERE id = %s
"""
PATIENCE = 30.0
REST = 0.03
"""Seconds between two orders: the trader is idle again by then."""


async def latencies(place: Ground, singles: int) -> tuple[list[float], list[float]]:
    """Milliseconds, ours and the floor's, measured in turn.

    Ours: from the row's created_at (taken inside its INSERT, before the commit) to the arrival in the request log of
    the simulator, a real trader process in between. The floor: a row with a bare NOTIFY on a table of its
    own, from before its INSERT to the moment when a listener that does nothing is woken.
    """
    url = place.database()
    with simulator() as venue:
        prepare(url, 1, venue.options())
        with _trader(url), psycopg.connect(url, autocommit=True) as connection:
            for _ in range(5):
                await _one_order(connection)
            mark = venue.last_request()
            async with _listener(place.database(migrated=False)) as woken:
                created: dict[str, float] = {}
                floor = []
                for _ in range(singles):
                    name, at = await _one_order(connection)
                    created[name] = at
                    floor.append(await woken())
            arrived = venue.orders_since(mark)
    return [arrived[name] - at for name, at in created.items()], floor


@contextlib.contextmanager
def _trader(url: str) -> Iterator[None]:
    environment = {**os.environ, **CREDENTIALS, "PYTHONPATH": str(ROOT), "DATABASE_URL": url}
    command = [sys.executable, "-m", "trader.cli.main", "run", "trader"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


async def _one_order(connection: "psycopg.Connection[Any]") -> tuple[str, float]:
    """Queue one order and wait until it is filled; its name, and when its row was made in milliseconds."""
    row = connection.execute(QUEUE).fetchone()
    assert row is not None
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        state = connection.execute(STATE, [row[0]]).fetchone()
        if state is not None and state[0] == "filled":
            await asyncio.sleep(REST)
            return state[1], state[2]
        await asyncio.sleep(0.01)
    raise AssertionError(f"order {row[0]} was not filled within {PATIENCE} s: {state}")


@contextlib.asynccontextmanager
async def _listener(url: str) -> AsyncIterator[Any]:
    """Give a function that inserts a row with a NOTIFY and says how many milliseconds the listener slept on."""
    async with (
        await psycopg.AsyncConnection.connect(url, autocommit=True) as writing,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as listening,
    ):
        await writing.execute(
            "CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, quantity numeric)"
        )
        await listening.execute("LISTEN bare")
        notifications = listening.notifies()

        async def woken() -> float:
            started = time.perf_counter()
            waiting = asyncio.ensure_future(anext(notifications))
            await writing.execute("WITH row AS (INSERT INTO bare (quantity) VALUES (10)) SELECT pg_notify('bare', '')")
            await waiting
            return (time.perf_counter() - started) * 1000

        try:
            yield woken
        finally:
            await notifications.aclose()  # it holds the connection
