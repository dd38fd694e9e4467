"""Candles: which feeds are due, and the job that brings one up to date."""

from procrastinate import App, JobContext

from jobs.app import QUEUE, context_of
from jobs.strategy import defer_runs
from trader.bucket import Feed, blaming, load_feed, update_feed
from trader.db import Connection

TASK = "bucket.update"
PAGES = 20
"""Requests that one job makes: a long history is built by many jobs, so that it holds nobody up."""
MOST_WAITING = 500
"""Jobs of this kind that may wait: a long queue is slow, and a feed that is left out is first next time."""

# A candle is asked for when it should be there, and then ever more slowly until it is; a replayed one has no hour.
# What runs or waits already is left alone. The lock is what keeps a feed's jobs one after the other.
DEFER_DUE = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
SELECT %(queue)s, %(task)s::text, 0, d.lock, d.lock,
       jsonb_build_object('market_id', d.market_id, 'timeframe_id', d.timeframe_id), NULL
  FROM (SELECT f.market_id, f.timeframe_id, f.updated_at, f.status,
               format('feed:%%s:%%s', f.market_id, f.timeframe_id) AS lock
          FROM bucket_feed f
          JOIN timeframe t ON t.id = f.timeframe_id
          JOIN market m ON m.id = f.market_id
          JOIN exchange e ON e.id = m.exchange_id
         WHERE f.enabled AND m.active AND CASE
           WHEN f.updated_at IS NULL THEN true
           WHEN f.status = 'error' THEN f.updated_at < clock_timestamp() - interval '15 s'
           WHEN f.status = 'building' OR e.replay OR f.collect_since < f.oldest THEN true
           WHEN f.newest IS NULL THEN f.updated_at < clock_timestamp() - interval '5 s'
           ELSE f.newest + t.span <= clock_timestamp()
            AND f.updated_at < clock_timestamp() - least(interval '1 min', t.span / 20) END) d
 WHERE NOT EXISTS (SELECT FROM procrastinate_jobs j WHERE j.lock = d.lock AND j.status = 'doing')
   AND NOT EXISTS (SELECT FROM procrastinate_jobs j WHERE j.queueing_lock = d.lock AND j.status = 'todo')
 ORDER BY d.status = 'building', d.updated_at NULLS FIRST
 LIMIT greatest(0, %(most)s - (SELECT count(*) FROM procrastinate_jobs
                                WHERE status = 'todo' AND task_name = %(task)s::text))
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
"""
DUE = {"queue": QUEUE, "task": TASK, "most": MOST_WAITING}


async def update(job: JobContext, market_id: int, timeframe_id: int) -> None:
    """Bring one feed up to date, or some way towards it."""
    context = context_of(job)
    async with context.pool.connection() as connection:
        feed = await load_feed(connection, market_id, timeframe_id)
        if not feed.enabled:
            return
        async with blaming(connection, feed):
            exchange = await context.exchange(connection, feed.exchange_id)
            now = await context.venue_time(connection, feed.exchange_id)
        await update_feed(connection, exchange, feed, now, on_news=_run_strategies, pages=PAGES)


async def _run_strategies(connection: Connection, feed: Feed) -> None:
    """Queue every strategy that decides on these candles, in the transaction that stores them."""
    await defer_runs(connection, feed.market_id, feed.timeframe.id)


def register(app: App) -> None:
    """Add the tasks of this module."""
    app.task(name=TASK, pass_context=True)(update)
