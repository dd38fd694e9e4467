"""Markets: what exchanges trade, and under which rules."""

from procrastinate import App, JobContext

from jobs.app import QUEUE, context_of
from trader.market import sync_markets

TASK = "market.sync"

DEFER_ALL = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
SELECT %(queue)s, %(task)s, 0, 'markets:' || e.id, 'markets:' || e.id, jsonb_build_object('exchange_id', e.id), NULL
  FROM exchange e
 ORDER BY e.id
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
"""
ALL = {"queue": QUEUE, "task": TASK}


async def sync(job: JobContext, exchange_id: int) -> None:
    """Make the markets of one exchange what the venue says."""
    context = context_of(job)
    async with context.pool.connection() as connection:
        exchange = await context.exchange(connection, exchange_id)
        await sync_markets(connection, exchange_id, await exchange.markets())


def register(app: App) -> None:
    """Add the tasks of this module."""
    app.task(name=TASK, pass_context=True)(sync)
