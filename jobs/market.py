"""Markets: what exchanges trade, and under which rules."""

from procrastinate import App, JobContext

from jobs.app import QUEUE, context_of
from trader.market import sync_markets

TASK = "market.sync"

_DEFER = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
SELECT %(queue)s, %(task)s::text, 0, 'markets:' || e.id, 'markets:' || e.id, jsonb_build_object('exchange_id', e.id),
       NULL
  FROM (SELECT * FROM exchange WHERE NOT offline) e
"""
_ONCE = """
 ORDER BY e.id
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
"""

DEFER_ALL = _DEFER + _ONCE
# A sync that works deletes what is left of those that failed before it. A market that stopped within the last day, and
# that a feed or a strategy waits for, is looked at more often: it may be back in minutes.
_MISSING = """
 WHERE NOT EXISTS (SELECT FROM market m WHERE m.exchange_id = e.id)
    OR (e.synced_at < clock_timestamp() - interval '5 min' AND EXISTS (
         SELECT FROM market m WHERE m.exchange_id = e.id AND NOT m.active
            AND m.inactive_since > clock_timestamp() - interval '1 day'
            AND (EXISTS (SELECT FROM bucket_feed f WHERE f.market_id = m.id AND f.enabled)
                 OR EXISTS (SELECT FROM strategy s WHERE s.market_id = m.id AND s.enabled))))
    OR EXISTS (SELECT FROM procrastinate_jobs j WHERE j.status = 'failed' AND j.task_name = %(task)s::text
                  AND j.lock = 'markets:' || e.id)
"""
DEFER_MISSING = _DEFER + _MISSING + _ONCE
ALL = {"queue": QUEUE, "task": TASK}

FORGET = "DELETE FROM procrastinate_jobs WHERE status = 'failed' AND task_name = %s AND lock = %s"


async def sync(job: JobContext, exchange_id: int) -> None:
    """Make the markets of one exchange what the venue says."""
    context = context_of(job)
    async with context.pool.connection() as connection:
        exchange = await context.exchange(connection, exchange_id)
        await sync_markets(connection, exchange_id, await exchange.markets())
        await connection.execute(FORGET, [TASK, f"markets:{exchange_id}"])


def register(app: App) -> None:
    """Add the tasks of this module."""
    app.task(name=TASK, pass_context=True)(sync)
