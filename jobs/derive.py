"""Derived candles: which feeds have something to derive, and the job that does it."""

import time

from procrastinate import App, JobContext

from jobs.app import QUEUE, context_of
from jobs.strategy import defer_runs
from trader.bucket.derived import derive_feed
from trader.bucket.feed import Feed, blaming, load_feed
from trader.bucket.timeframe import timeframe_numbered
from trader.db import Connection, fetch_all, retrying
from trader.errors import InputError

TASK = "bucket.derive"
SECONDS = 20.0
"""How long one job goes on: then another takes its turn, so that a long history holds nobody up."""

# A period that is still open below is not worth a look: the mark waits until its end has come.
_DUE = """
  FROM bucket_feed d
  JOIN market m ON m.id = d.market_id
  JOIN timeframe t ON t.id = d.timeframe_id
  JOIN bucket_feed f ON f.market_id = d.market_id AND f.timeframe_id = d.derived_from
 WHERE d.derived_from IS NOT NULL AND d.enabled AND NOT isempty(d.outdated) AND f.newest IS NOT NULL
   AND coalesce(lower(d.outdated), '-infinity') < candle_start(greatest(f.newest, upper(f.quiet)), t.span)
   AND (d.status <> 'error' OR d.updated_at < clock_timestamp() - interval '15 s')
"""
_DEFER = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
SELECT %(queue)s, %(task)s::text, 0, 'derive:' || x.exchange_id, 'derive:' || x.exchange_id,
       jsonb_build_object('exchange_id', x.exchange_id), NULL
  FROM (SELECT DISTINCT m.exchange_id
"""
_ONCE = """) x
 WHERE NOT EXISTS (SELECT FROM procrastinate_jobs j WHERE j.lock = 'derive:' || x.exchange_id AND j.status = 'doing')
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
"""
DEFER_DUE = _DEFER + _DUE + _ONCE
DUE = {"queue": QUEUE, "task": TASK}

# The smallest first: larger ones may be derived from them.
LIST = "SELECT d.market_id, d.timeframe_id, d.derived_from" + _DUE + " AND m.exchange_id = %s ORDER BY 2, 1"


async def derive(connection: Connection, exchange_id: int) -> int:
    """Derive what is due at an exchange, for a while; in how many parts."""
    parts, deadline = 0, time.monotonic() + SECONDS
    for row in await fetch_all(connection, LIST, [exchange_id]):
        feed = await load_feed(connection, row.market_id, row.timeframe_id)
        try:
            async with blaming(connection, feed):
                parts += await _whole(connection, feed, row.derived_from, deadline)
        except InputError:
            continue  # its row says why, and the others are not to blame
    return parts


async def _whole(connection: Connection, feed: Feed, smaller: int, deadline: float) -> int:
    """All parts of one feed, or those that there is time for."""
    parts = 0
    while parts == 0 or time.monotonic() < deadline:
        done = await retrying(
            lambda: derive_feed(connection, feed, timeframe_numbered(smaller), on_news=_run_strategies)
        )
        if done is None:
            break
        parts += 1
    return parts


async def _run_strategies(connection: Connection, feed: Feed) -> None:
    await defer_runs(connection, feed.market_id, feed.timeframe.id)


def register(app: App) -> None:
    """Add the tasks of this module."""

    @app.task(name=TASK, pass_context=True)
    async def bucket_derive(job: JobContext, exchange_id: int) -> None:
        async with context_of(job).pool.connection() as connection:
            await derive(connection, exchange_id)
