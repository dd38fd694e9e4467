"""Candles: the jobs that serve the feeds of an exchange. How many feeds there are makes no difference to the queue.

What is due is a column of the feed, found by an index. At each tick the scheduler queues a job or a few for each
exchange at which feeds are due; a job takes feeds by lease, serves several at a time, and ends after a slice of time.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from procrastinate import App, JobContext

from jobs.app import QUEUE, Context, context_of
from jobs.strategy import defer_runs
from trader.bucket import Desk, Feed, Update
from trader.bucket.feed import FREE_OF_THE_DEAD, asked_to_wait, blame, claim_backfill, claim_newest, release, served
from trader.db import Connection, end_if_cancelled, first_line

TASK = "bucket.serve"
SLOTS = 4
"""Jobs for one exchange at a time, at most."""
AT_ONCE = 8
"""Feeds that one job serves at a time."""
BACKFILLS = 3
"""How many of those may fetch older candles: the others are for the newest."""
SLICE_SECONDS = 3.0
"""How long a job takes on feeds, so that other exchanges and other jobs get the worker."""
TURN_PAGES = 12
"""Pages of older candles that a feed gets in its turn."""
NEWEST_PAGES = 25
"""Pages of newer candles that a feed gets in one service."""
AHEAD = 16
"""Feeds that one job claims at a time: each look costs as much as serving one."""
WRITERS = 4
"""Connections that one job takes at a time: the pool is the worker's other jobs', too."""
LOOK_SECONDS = 0.2
"""How often a job that is busy looks for feeds whose newest candles are due."""

# As many jobs as there is work for. What others serve at the moment is no work; where a job runs already, only what has
# waited for two seconds is more than it can do. Its priority is below that of jobs which wait for what it brings.
DEFER_DUE = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
SELECT %(queue)s, %(task)s::text, -1, s.lock, s.lock, jsonb_build_object('exchange_id', e.id, 'slot', s.slot), NULL
  FROM (SELECT id FROM exchange WHERE NOT offline) e
 CROSS JOIN LATERAL (
   SELECT count(*) FILTER (WHERE j.status = 'doing') AS doing, count(*) FILTER (WHERE j.status = 'todo') AS todo
     FROM procrastinate_jobs j
    WHERE j.status IN ('doing', 'todo')
      AND j.lock IN (SELECT format('feeds:%%s:%%s', e.id, g) FROM generate_series(1, %(slots)s) g)) j
 CROSS JOIN LATERAL (SELECT statement_timestamp() - CASE WHEN j.doing > 0 THEN interval '2 s' ELSE '0 s' END AS until) u
 CROSS JOIN LATERAL (
   SELECT count(*) AS feeds FROM (
     (SELECT FROM bucket_feed f WHERE f.exchange_id = e.id AND f.enabled AND f.due_at <= u.until
         AND (f.lease_until IS NULL OR f.lease_until < statement_timestamp()) ORDER BY f.due_at LIMIT %(most)s)
     UNION ALL
     (SELECT FROM bucket_feed f WHERE f.exchange_id = e.id AND f.enabled AND f.backfill_at <= u.until
         AND (f.lease_until IS NULL OR f.lease_until < statement_timestamp()) ORDER BY f.backfill_at
       LIMIT %(most)s)) d) d
 CROSS JOIN LATERAL (
   SELECT slot, format('feeds:%%s:%%s', e.id, slot) AS lock FROM generate_series(1, %(slots)s) slot
    WHERE NOT EXISTS (SELECT FROM procrastinate_jobs j WHERE j.status IN ('doing', 'todo')
                         AND j.lock = format('feeds:%%s:%%s', e.id, slot))
    ORDER BY slot LIMIT greatest(0, ceil(d.feeds::float8 / %(at_once)s) - j.todo)) s
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
"""
DUE = {"queue": QUEUE, "task": TASK, "slots": SLOTS, "at_once": AT_ONCE, "most": SLOTS * AT_ONCE}
FREE_DEAD = FREE_OF_THE_DEAD
"""The leases of dead workers end at once."""

# No feed waits for longer than one candle, or five minutes after a failure: then the clock was set back meanwhile.
WAKE = """
UPDATE bucket_feed f
   SET due_at = CASE WHEN f.due_at > now() + t.span + interval '6 min' THEN now() ELSE f.due_at END,
       backfill_at = CASE WHEN f.backfill_at > now() + interval '6 min' THEN now() ELSE f.backfill_at END,
       lease_until = least(f.lease_until, now() + interval '1 min')
  FROM timeframe t
 WHERE t.id = f.timeframe_id AND f.enabled AND f.derived_from IS NULL
   AND EXISTS (SELECT FROM market m WHERE m.id = f.market_id AND m.active)
   AND (f.due_at > now() + t.span + interval '6 min' OR f.backfill_at > now() + interval '6 min'
        OR f.lease_until > now() + interval '1 min')
"""

FORGET = "DELETE FROM procrastinate_jobs WHERE status = 'failed' AND task_name = %s AND lock = %s"

log = logging.getLogger(__name__)


async def serve(job: JobContext, exchange_id: int, slot: int) -> None:
    """Serve feeds of one exchange for a slice of time. Fails with the first error of a feed, after all the others."""
    context = context_of(job)
    failure = await Server(context, exchange_id).run()
    async with context.pool.connection() as connection:  # of those that failed, the last one is enough to look at
        await connection.execute(FORGET, [TASK, f"feeds:{exchange_id}:{slot}"])
    if failure is not None:
        raise failure


@dataclass
class Server:
    """One job: takes feeds, serves them, gives them back."""

    context: Context
    exchange_id: int
    owner: UUID = field(default_factory=uuid4)
    seconds: float = SLICE_SECONDS
    failure: Exception | None = None
    _writing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WRITERS))
    _next: deque[Feed] = field(default_factory=deque)
    _desk: Desk | None = None
    _look_at: float = 0.0
    _newest: set[asyncio.Task[None]] = field(default_factory=set)
    _older: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.owner = self.context.instance or self.owner
        self._end = time.monotonic() + self.seconds

    async def run(self) -> Exception | None:
        """Serve until nothing is due or the slice is over; the first error there was."""
        try:
            while await self._take() or self._running:
                end_if_cancelled()
                await asyncio.wait(self._running, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                self._newest = {task for task in self._newest if not task.done()}
                self._older = {task for task in self._older if not task.done()}
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            async with self.context.pool.connection() as connection:
                for feed in self._next:
                    await release(connection, feed)
        return self.failure

    @property
    def _running(self) -> set[asyncio.Task[None]]:
        return self._newest | self._older

    async def _take(self) -> bool:
        """Take on what is due, the newest candles first, as far as there is room and time."""
        if time.monotonic() >= self._end:
            return False
        older = await self._claim()
        if not self._next and not older:
            return False
        try:
            desk = self._desk = self._desk or await self._connect()
        except Exception as error:
            for feed in (*self._next, *older):
                await self._blame(feed, error)
            self._next.clear()
            return False
        while self._next and len(self._running) < AT_ONCE:
            feed = self._next.popleft()
            self._newest.add(asyncio.create_task(self._guarded(feed, self._update(feed, desk))))
        for feed in older:
            self._older.add(asyncio.create_task(self._guarded(feed, self._backfill(feed, desk))))
        return True

    async def _claim(self) -> list[Feed]:
        """Claim ahead feeds whose newest candles are due, several at a time; where none is, some that lack older ones,
        which are returned. Looking costs more than serving a feed that is up to date, so it is not done for each."""
        if self._next or (self._running and time.monotonic() < self._look_at):
            return []
        async with self.context.pool.connection() as connection:
            self._next.extend(await claim_newest(connection, self.exchange_id, self.owner, AHEAD))
            if len(self._next) == AHEAD:
                return []
            self._look_at = time.monotonic() + LOOK_SECONDS
            most = min(BACKFILLS - len(self._older), AT_ONCE - len(self._running))
            return await claim_backfill(connection, self.exchange_id, self.owner, most)

    async def _guarded(self, feed: Feed, work: Coroutine[Any, Any, None]) -> None:
        """Serve one feed. Its errors are written to its row and hold no other feed up."""
        try:
            await work
        except asyncio.CancelledError:
            async with self._connection() as connection:
                await release(connection, feed)
            raise
        except Exception as error:
            await self._blame(feed, error)

    async def _blame(self, feed: Feed, error: Exception) -> None:
        waits = asked_to_wait(error)
        log.log(
            logging.INFO if waits is not None else logging.WARNING,
            "%s %s: %s: %s", feed.market, feed.timeframe.name, type(error).__name__, first_line(error),
        )  # fmt: skip
        if waits is None:
            self.failure = self.failure or error
        async with self._connection() as connection:
            await blame(connection, feed, error)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        async with self._writing, self.context.pool.connection() as connection:
            yield connection

    async def _connect(self) -> Desk:
        async with self._connection() as connection:
            exchange = await self.context.exchange(connection, self.exchange_id)
            now = await self.context.venue_time(connection, self.exchange_id)
        return Desk(exchange, self._connection, _going_on(now), _run_strategies)

    async def _update(self, feed: Feed, desk: Desk) -> None:
        update = Update(desk, feed)
        await update.newest(NEWEST_PAGES)
        await self._done(update, turn=False)

    async def _backfill(self, feed: Feed, desk: Desk) -> None:
        update = Update(desk, feed)
        if not feed.covered:
            await update.newest(NEWEST_PAGES)
        await update.older(TURN_PAGES, self._end)
        await self._done(update, turn=True)

    async def _done(self, update: Update, *, turn: bool) -> None:
        async with self._connection() as connection:
            if update.feed.enabled:
                await served(connection, update.feed, update.after(turn=turn))
            else:
                await release(connection, update.feed)


def _going_on(now: datetime | None) -> Callable[[], datetime | None]:
    """A clock that was read once and is carried on by our own."""
    read = time.monotonic()
    return lambda: None if now is None else now + timedelta(seconds=time.monotonic() - read)


async def _run_strategies(connection: Connection, feed: Feed) -> None:
    """Queue every strategy that decides on these candles, in the transaction that stores them."""
    await defer_runs(connection, feed.market_id, feed.timeframe.id)


def register(app: App) -> None:
    """Add the tasks of this module."""
    app.task(name=TASK, pass_context=True)(serve)
