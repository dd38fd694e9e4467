"""Gaps: which exchanges have some whose time has come, and the job that looks at them again."""

import logging

from procrastinate import App, JobContext

from jobs.app import QUEUE, Context, context_of
from jobs.strategy import defer_runs
from trader.bucket.feed import Feed, asked_to_wait, load_feed
from trader.bucket.repair import repair_feed
from trader.db import Connection, fetch_all, fetch_one, first_line
from trader.errors import Retry

TASK = "gap.repair"
REQUESTS = 20
"""Requests that one job makes at most, about: what is missing must not hold up what is new."""

_DUE = """
  FROM bucket_feed f
  JOIN market m ON m.id = f.market_id
  JOIN exchange e ON e.id = m.exchange_id AND NOT e.offline
 WHERE f.enabled AND f.derived_from IS NULL AND f.status <> 'error' AND EXISTS (
   SELECT FROM gap g
    WHERE g.market_id = f.market_id AND g.timeframe_id = f.timeframe_id AND g.verdict IS DISTINCT FROM 'no_trades'
      AND (g.next_check_at IS NULL OR g.next_check_at <= clock_timestamp())
      AND f.covered @> tstzrange(g.gap_from, g.gap_to))
"""
# At most one job for an exchange, whatever the number of its feeds and gaps; behind everything else that waits.
_DEFER = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
SELECT %(queue)s, %(task)s::text, -2, 'gaps:' || x.exchange_id, 'gaps:' || x.exchange_id,
       jsonb_build_object('exchange_id', x.exchange_id), NULL
  FROM (SELECT DISTINCT m.exchange_id
"""
_ONCE = """) x
 WHERE NOT EXISTS (SELECT FROM procrastinate_jobs j WHERE j.lock = 'gaps:' || x.exchange_id AND j.status = 'doing')
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
"""
DEFER_DUE = _DEFER + _DUE + _ONCE
DUE = {"queue": QUEUE, "task": TASK}
LIST = "SELECT f.market_id, f.timeframe_id" + _DUE + " AND m.exchange_id = %s ORDER BY f.timeframe_id, f.newest DESC"
REPLAY = "SELECT replay FROM exchange WHERE id = %s"

log = logging.getLogger(__name__)


async def repair(context: Context, connection: Connection, exchange_id: int) -> int:
    """Look at the gaps of an exchange that are due, until the requests are used up or it asks to be left alone; how
    many were made.
    """
    replay = (await fetch_one(connection, REPLAY, [exchange_id])).replay
    exchange = await context.exchange(connection, exchange_id)
    made = 0
    for row in await fetch_all(connection, LIST, [exchange_id]):
        if made >= REQUESTS:
            break
        feed = await load_feed(connection, row.market_id, row.timeframe_id)
        try:
            done = await repair_feed(
                connection, exchange, feed, replay=replay, requests=REQUESTS - made, on_news=_run_strategies
            )
        except Retry as error:
            if asked_to_wait(error) is None:
                raise
            log.info("%s %s: gaps wait: %s", feed.market, feed.timeframe.name, first_line(error))
            break
        made += done.requests
    return made


async def _run_strategies(connection: Connection, feed: Feed) -> None:
    """What a strategy waited for may be there, or known not to be."""
    await defer_runs(connection, feed.market_id, feed.timeframe.id)


def register(app: App) -> None:
    """Add the tasks of this module."""

    @app.task(name=TASK, pass_context=True)
    async def gap_repair(job: JobContext, exchange_id: int) -> None:
        context = context_of(job)
        async with context.pool.connection() as connection:
            await repair(context, connection, exchange_id)
