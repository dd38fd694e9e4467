"""Accounts: what their venues say we own."""

from procrastinate import App, JobContext

from jobs.app import QUEUE, context_of
from trader.account import noting_failure, read_balances

TASK = "account.balances"

# One that just failed waits for half a minute: its keys are missing, or its venue is down.
DEFER_ALL = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
SELECT %(queue)s, %(task)s::text, 0, 'balances:' || a.id, 'balances:' || a.id,
       jsonb_build_object('account_id', a.id), NULL
  FROM account a
 WHERE NOT EXISTS (SELECT FROM procrastinate_jobs j JOIN procrastinate_events v ON v.job_id = j.id
                    WHERE j.status = 'failed' AND j.task_name = %(task)s::text AND j.lock = 'balances:' || a.id
                      AND v.type = 'failed' AND v.at > clock_timestamp() - interval '30 s')
 ORDER BY a.id
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
"""
ALL = {"queue": QUEUE, "task": TASK}


async def balances(job: JobContext, account_id: int) -> None:
    """Read one account's balances. An account that cannot be read keeps its last ones, and the job fails."""
    context = context_of(job)
    async with context.pool.connection() as connection, noting_failure(connection, account_id):
        account, exchange = await context.account(connection, account_id)
        await read_balances(connection, exchange, account)


def register(app: App) -> None:
    """Add the tasks of this module."""
    app.task(name=TASK, pass_context=True)(balances)
