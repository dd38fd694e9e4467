"""Reconciliation: each account's venue against our books."""

from procrastinate import App, JobContext

from jobs.app import QUEUE, context_of
from trader.reconcile import reconcile_account

TASK = "account.reconcile"
SECONDS = 60.0
"""How often each account is reconciled."""

DEFER_ALL = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
SELECT %(queue)s, %(task)s::text, 0, 'reconcile:' || a.id, 'reconcile:' || a.id,
       jsonb_build_object('account_id', a.id), NULL
  FROM account a ORDER BY a.id
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
"""
ALL = {"queue": QUEUE, "task": TASK}


async def reconcile(job: JobContext, account_id: int) -> None:
    """Run one round on one account. Fails if the venue could not be read; what was read is booked all the same."""
    context = context_of(job)
    async with context.pool.connection() as connection:
        account, exchange = await context.account(connection, account_id)
        done = await reconcile_account(connection, exchange, account)
    if done.failures:
        raise done.failures[0]


def register(app: App) -> None:
    """Add the tasks of this module."""
    app.task(name=TASK, pass_context=True)(reconcile)
