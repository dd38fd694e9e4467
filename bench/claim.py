"""What a claim costs, by how much is queued behind it."""

import time
from uuid import uuid4

import psycopg

from bench.desk import prepare
from bench.ground import Ground, in_turn
from bench.instant import InstantVenue
from trader import trader
from trader.db import Identity, open_pool
from trader.trader import Desk

STRATEGIES = 5

QUEUE = """
INSERT INTO "order" (strategy_id, type, side, market_id, quote_quantity)
SELECT 1 + g %% %s, 'market', 'buy', 1, 10 FROM generate_series(1, %s) g
"""


async def claim_times(place: Ground, backlog: int, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds of claims (rolled back, so that each meets the same queue) with a backlog, and with 100 rows.

    Both claim the same: the 20 oldest orders of each of 5 strategies.
    """
    async with (
        open_pool(_queued(place, backlog), Identity("trader", "bench"), 1) as many,
        open_pool(_queued(place, STRATEGIES * trader.ORDERS_PER_LANE), Identity("trader", "bench"), 1) as few,
    ):
        desks = [Desk(uuid4(), pool, {1: InstantVenue()}) for pool in (many, few)]
        for desk in desks * 5:
            await _claim(desk)
        return await in_turn(rounds, lambda: _claim(desks[0]), lambda: _claim(desks[1]))


def _queued(place: Ground, orders: int) -> str:
    url = place.database()
    prepare(url, STRATEGIES)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(QUEUE, [STRATEGIES, orders])
        connection.execute('VACUUM ANALYZE "order"')
    return url


async def _claim(desk: Desk) -> float:
    async with desk.pool.connection() as connection, connection.transaction(force_rollback=True):
        started = time.perf_counter()
        batch = await trader._claim(connection, desk)
        elapsed = time.perf_counter() - started
    claimed = sum(map(len, batch.lanes))
    assert claimed == STRATEGIES * trader.ORDERS_PER_LANE, f"{claimed} were claimed: this measures nothing"
    return elapsed * 1000
