"""The queue's own upkeep: jobs of dead workers run again, old ones go."""

import logging

import psycopg
from procrastinate import App, JobContext

from jobs import conversion
from jobs.app import QUEUE, Job, context_of
from jobs.equity import THIN
from jobs.strategy import decision
from trader.db import Connection, fetch_all, first_line

HEARTBEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 20.0
"""A worker that has not beaten for this long is dead: its jobs are not done."""
KEEP_HOURS = 24
"""How long failed jobs are kept to be looked at."""

RESCUE = "queue.rescue"
PRUNE = "queue.prune"
FORGET_TASK = "bucket.forget"
RESCUE_JOB = Job(RESCUE, queueing_lock=RESCUE)
PRUNE_JOB = Job(PRUNE, queueing_lock=PRUNE, lock=PRUNE)

STALLED = """
SELECT j.id, j.task_name, j.queueing_lock
  FROM procrastinate_jobs j LEFT JOIN procrastinate_workers w ON w.id = j.worker_id
 WHERE j.status = 'doing'
   AND (w.id IS NULL OR w.last_heartbeat < clock_timestamp() - make_interval(secs => %(dead_after)s))
 ORDER BY j.id
"""

# Only while it still is stalled: its worker may have woken and finished it.
AGAIN = "SELECT procrastinate_retry_job_v1(%(id)s, clock_timestamp(), NULL, NULL, NULL)"
DROP = "DELETE FROM procrastinate_jobs WHERE id = %(id)s AND status = 'doing'"

# What a feed does not keep any more, as far as one statement goes. On a replay its newest candle tells the time.
_NOT_KEPT = """
  FROM bucket_feed f JOIN exchange e ON e.id = f.exchange_id
 CROSS JOIN LATERAL (SELECT CASE WHEN e.replay THEN f.newest ELSE statement_timestamp() END - f.keep AS kept_from) k
 WHERE f.keep IS NOT NULL AND f.newest IS NOT NULL
   AND (SELECT b.time_close FROM bucket b WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id
         ORDER BY b.time_close LIMIT 1) <= k.kept_from
"""
NOT_KEPT = "SELECT f.market_id, f.timeframe_id, k.kept_from" + _NOT_KEPT + " ORDER BY 1, 2"
DEFER_FORGET = (
    """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
SELECT %(queue)s, %(task)s::text, 0, %(task)s, %(task)s, '{}', NULL WHERE EXISTS (SELECT"""
    + _NOT_KEPT
    + """)
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
"""
)
FORGET_DUE = {"queue": QUEUE, "task": FORGET_TASK}
FORGET_SECONDS = 60.0
FORGET = """
DELETE FROM bucket WHERE (market_id, timeframe_id) = (%(market_id)s, %(timeframe_id)s) AND time_close IN (
  SELECT time_close FROM bucket WHERE (market_id, timeframe_id) = (%(market_id)s, %(timeframe_id)s)
     AND time_close <= %(kept_from)s ORDER BY time_close LIMIT %(most)s)
"""
FORGET_MOST = 5_000
"""Candles that one statement deletes: writers of the feed wait for it."""

log = logging.getLogger(__name__)


async def rescue(job: JobContext) -> None:
    """Queue the jobs of dead workers again; each on its own, so that one which cannot be holds no other back."""
    async with context_of(job).pool.connection() as connection:
        await rescue_stalled(connection)


async def rescue_stalled(connection: Connection, dead_after: float = DEAD_AFTER_SECONDS) -> int:
    """Queue the jobs of workers that have been silent for `dead_after` seconds again; how many there were."""
    stalled = await fetch_all(connection, STALLED, {"dead_after": dead_after})
    rescued = 0
    for row in stalled:
        try:
            await connection.execute(AGAIN, {"id": row.id})
        except psycopg.errors.UniqueViolation:
            # Another one waits under its queueing_lock and will do its work.
            await connection.execute(DROP, {"id": row.id})
        except psycopg.errors.RaiseException as error:
            log.info("job %s (%s) is not stalled any more: %s", row.id, row.task_name, first_line(error))
            continue
        rescued += 1
        log.warning("job %s (%s) was left by a dead worker: it runs again", row.id, row.task_name)
    return rescued


async def prune(job: JobContext) -> None:
    """Delete finished jobs that nobody needs any more, and old decisions; thin out equity points."""
    await job.app.job_manager.delete_old_jobs(
        KEEP_HOURS, include_failed=True, include_cancelled=True, include_aborted=True
    )
    async with context_of(job).pool.connection() as connection:
        await connection.execute(THIN)
        await connection.execute(conversion.THIN)
        await connection.execute(decision.PRUNE)


async def forget(job: JobContext) -> None:
    """Delete the candles that feeds do not keep."""
    async with context_of(job).pool.connection() as connection:
        await forget_candles(connection)


async def forget_candles(connection: Connection, most: int = FORGET_MOST) -> int:
    """Delete the candles that are older than their feed keeps them, `most` at a time; how many there were."""
    gone = 0
    for row in await fetch_all(connection, NOT_KEPT):
        parameters = row._asdict() | {"most": most}
        while deleted := (await connection.execute(FORGET, parameters)).rowcount:
            gone += deleted
    return gone


def register(app: App) -> None:
    """Add the tasks of this module."""
    app.task(name=RESCUE, pass_context=True)(rescue)
    app.task(name=PRUNE, pass_context=True)(prune)
    app.task(name=FORGET_TASK, pass_context=True)(forget)
