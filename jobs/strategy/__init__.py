"""Strategies as jobs: one run per strategy and new candle, at the moments of its schedule."""

from procrastinate import App, JobContext

from jobs.app import Job, context_of, defer_in
from jobs.strategy.run import run
from trader.db import Connection, fetch_all
from trader.strategy import EXTRA

__all__ = ["EXTRA", "RUN", "SWEEP", "SWEEP_JOB", "defer_run", "defer_runs", "register", "run", "sweep"]

RUN = "strategy.run"
SWEEP = "strategy.sweep"
SWEEP_JOB = Job(SWEEP, queueing_lock=SWEEP)

# The candles of a feed that is not full may be old. One whose order is open is left alone: it decides on the newest
# candle as soon as that order is done. Not so one with a state: orders that rest are its normal way.
DUE = """
SELECT s.id FROM strategy s
  JOIN bucket_feed f ON f.market_id = s.market_id AND f.timeframe_id = s.timeframe_id
 WHERE f.enabled AND f.status = 'full' AND s.enabled AND s.class IS NOT NULL
   AND decision_due(s.schedule, s.last_bucket, f.newest)
   AND (NOT EXISTS (SELECT FROM open_order o WHERE (o.strategy_id, o.account_id) = (s.id, s.account_id))
        OR EXISTS (SELECT FROM strategy_state y WHERE y.strategy_id = s.id AND y.class = s.class))
 ORDER BY s.id
"""

# Without a feed there is no newest candle at hand: then the run itself looks. And those that wait for these candles as
# an input of theirs.
DECIDING = """
SELECT s.id FROM strategy s LEFT JOIN bucket_feed f ON f.market_id = s.market_id AND f.timeframe_id = s.timeframe_id
 WHERE s.market_id = %(market)s AND s.timeframe_id = %(timeframe)s AND s.enabled AND s.class IS NOT NULL
   AND decision_due(s.schedule, s.last_bucket, f.newest) IS NOT false
UNION
SELECT s.id FROM decision d JOIN strategy s ON s.id = d.strategy_id
 WHERE d.awaited_market_id = %(market)s AND d.awaited_timeframe_id = %(timeframe)s AND s.enabled
   AND d.bucket_time > coalesce(s.last_bucket, '-infinity')
 ORDER BY id
"""


def register(app: App) -> None:
    """Add the tasks of this module."""

    # No retry: the next sweep is one, and a retried job would collide with the next one's lock.
    @app.task(name=RUN, pass_context=True)
    async def strategy_run(job: JobContext, strategy_id: int) -> None:
        async with context_of(job).pool.connection() as connection:
            await run(connection, strategy_id)

    @app.task(name=SWEEP, pass_context=True)
    async def strategy_sweep(job: JobContext) -> None:
        async with context_of(job).pool.connection() as connection:
            await sweep(connection)


async def sweep(connection: Connection) -> int:
    """Queue a run of every strategy that has a candle to decide on; how many were queued."""
    due = await fetch_all(connection, DUE)
    return sum([await defer_run(connection, row.id) for row in due])


async def defer_runs(connection: Connection, market_id: int, timeframe_id: int) -> None:
    """Queue a run of every strategy that decides on the candles of a market and timeframe, or waits for them."""
    for row in await fetch_all(connection, DECIDING, {"market": market_id, "timeframe": timeframe_id}):
        await defer_run(connection, row.id)


async def defer_run(connection: Connection, strategy_id: int) -> bool:
    """Queue a run of one strategy; False if one waits already."""
    lock = f"strategy:{strategy_id}"
    return await defer_in(connection, RUN, queueing_lock=lock, lock=lock, strategy_id=strategy_id)
