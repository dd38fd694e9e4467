"""Bringing a feed up to date: the newest candles first, always; what is older beside that, oldest first.

Each answer of the venue is one transaction: its closed candles, which opening times they answer for, which candles were
refused. So a kill at any moment loses one answer, and what is covered is never asked for again.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from trader.bucket.answer import Answer, ask
from trader.bucket.coverage import (
    FIRST_DAY,
    Question,
    Span,
    closed_until,
    length,
    missing,
    moments,
    united,
)
from trader.bucket.feed import LEASE_SECONDS, Feed, Next, blaming, served
from trader.bucket.refusal import note_refusals
from trader.bucket.timeframe import DAY, MINUTE
from trader.bucket.write import Counts, write_buckets
from trader.clock import from_milliseconds, to_milliseconds
from trader.db import Connection, retrying
from trader.errors import Unknown
from trader.exchange.protocol import Exchange

IN_FLIGHT = 3
"""Answers that one feed waits for at a time while it is built."""
CATCH_UP = 20
"""Pages that a feed may be behind and still be brought up to date in order; further back, its newest page is first."""
REPLAY_PAUSE = 0.2
"""Seconds between two questions about a replay, whose clock nobody knows."""
RECHECK = MINUTE // 2
"""How long after its close a candle of five minutes or more is asked for once more: venues correct it for a moment."""
RECHECKED_FROM = 5 * MINUTE
LEAST_PAUSE = 0.1
"""Seconds."""
LISTING_PAUSE = 60.0
"""Seconds after which a venue that has no candles at all is asked again for its first."""

# Reads only the row that it writes: of two answers at once, the later one adds to what the earlier one has added.
PAGE = """
UPDATE bucket_feed f SET
       covered = f.covered + a.added, refused = refused + %(refused)s, listed_at = coalesce(%(listed)s, listed_at),
       reachable_from = greatest(reachable_from, %(reachable)s),
       lease_until = CASE WHEN leased_by = %(owner)s THEN clock_timestamp() + make_interval(secs => %(lease)s)
                          ELSE lease_until END,
       status = CASE WHEN newest IS NULL THEN 'absent'
                     WHEN %(reached)s AND f.covered + a.added @> tstzrange(%(start)s::timestamptz,
                            greatest(%(start)s::timestamptz, upper(f.covered + a.added)))
                     THEN 'full' ELSE 'building' END::feed_status,
       updated_at = clock_timestamp()
  FROM (SELECT CASE WHEN %(from)s::timestamptz IS NULL THEN '{}'::tstzmultirange
                    ELSE tstzmultirange(tstzrange(%(from)s::timestamptz, %(to)s::timestamptz)) END AS added) a
 WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s AND enabled
RETURNING enabled, status::text, listed_at, reachable_from, newest, f.covered, newest - keep AS replay_kept_from,
          set_config('synchronous_commit', 'off', true)
"""

Connections = Callable[[], AbstractAsyncContextManager[Connection]]
"""Lends a connection that is in no transaction."""
Clock = Callable[[], datetime | None]
"""The venue's clock, never ahead of it; None where only a later candle proves that one has closed."""
OnNews = Callable[[Connection, Feed], Awaitable[None]]
"""Called within the transaction that reaches the present with candles that were not there before."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What all feeds of one venue are served with."""

    exchange: Exchange
    connections: Connections
    clock: Clock
    on_news: OnNews | None = None


class Update:
    """One service to one feed. Errors are raised; whoever serves writes them to the feed."""

    def __init__(self, desk: Desk, feed: Feed) -> None:
        self.desk = desk
        self.feed = feed
        self.ways = desk.exchange.candle_ways
        self.total = Counts()
        self._newest: Answer | None = None
        self._reached = False
        self._beyond = False
        self._storing = asyncio.Lock()

    async def newest(self, pages: int = 1_000_000) -> bool:
        """Everything newer than what is covered; True if there is nothing more of it now. Stops when switched off.

        A feed that has nothing, or is far behind, gets its newest page. The last candle that is covered is asked for
        again: venues correct it for a moment after its close.
        """
        question = self._newest_question()
        while pages > 0:
            pages -= 1
            before = self.feed.end
            answer = self._newest = await self._ask(question)
            stuck = answer.span is None or (before is not None and answer.span[1] <= before)
            # Of a venue whose answers prove little, what comes after its last candle must be asked for by itself.
            probe = stuck and not answer.is_present and before is not None and question.since != before
            self._reached = answer.is_present or (stuck and not probe)
            if not await self._store(answer, reached=self._reached, newest=True):
                return False
            if self._reached:
                return True
            question = Question(before if probe else self._again(), self.ways.page)
        return False

    def _newest_question(self) -> Question:
        now, page, timeframe = self.desk.clock(), self.ways.page, self.feed.timeframe
        until = None if now is None else closed_until(timeframe, to_milliseconds(now))
        if self.feed.end is not None:
            since = self._again()
            if until is not None and self.feed.end > until:
                # Its clock was ahead: what it answered for then had not come to be.
                since = min(since, max(self._last_stored(until), timeframe.earlier(until, page - 1)))
            if until is None or length(timeframe, since, until) <= CATCH_UP * page:
                return Question(since, page)
        if until is None:
            return Question(None, page)
        since = timeframe.earlier(until, page - 1)
        return Question(max(since, self.feed.start or since), page)

    def _again(self) -> int:
        """From where to go on at the newest end: the last candle that was there, unless it is not wanted any more."""
        last = self.feed.timeframe.earlier(self.feed.end or 0, 1)
        return max(last, self.feed.start or last)

    def _last_stored(self, until: int) -> int:
        """When the newest candle there is opens, or would if it closed at `until`."""
        newest = until if self.feed.newest is None else min(until, to_milliseconds(self.feed.newest))
        return max(self.feed.timeframe.earlier(newest, 1), self.feed.start or 0)

    async def older(self, pages: int = 1_000_000, deadline: float = float("inf")) -> bool:
        """What is missing since collect_since, oldest first, several pages at a time; True if nothing is.

        Stops after `pages` questions, at `deadline` (of time.monotonic()), and when the feed is switched off.
        """
        if self.feed.start is None:
            await self._find_listing()
        width = 1
        while pages > 0 and self.feed.enabled and time.monotonic() < deadline:
            questions = self._plan(min(width, pages))
            if not questions:
                break
            pages -= len(questions)
            before, self._beyond = self._missing(), False
            await all_of([self._fetch(question) for question in questions])
            if self.feed.enabled and self._missing() == before:
                since = from_milliseconds(before[0][0])
                raise Unknown(
                    f"nothing that the venue answers says whether it has candles from {since:%Y-%m-%d %H:%M} on"
                )
            width = 1 if self._beyond else IN_FLIGHT
        return self.is_complete

    @property
    def is_complete(self) -> bool:
        """Whether no candle older than the newest is missing."""
        return self.feed.start is not None and not self._missing()

    def _missing(self) -> list[Span]:
        start, end, now = self.feed.start, self.feed.end, self.desk.clock()
        if start is None or end is None:
            return []
        if now is not None:  # somebody whose clock is ahead of ours may have been further
            end = min(end, closed_until(self.feed.timeframe, to_milliseconds(now)))
        return missing(self.feed.covered, start, end)

    def _plan(self, most: int) -> list[Question]:
        """The next pages: the oldest parts that are missing, cut into pages; small ones that lie close share a page."""
        timeframe, page = self.feed.timeframe, self.ways.page
        planned: list[Span] = []
        stop = 0
        for first, end in self._missing():
            start = max(first, stop)
            if planned and first < stop:
                planned[-1] = (planned[-1][0], max(planned[-1][1], min(end, stop)))
            while start < end and len(planned) < most:
                stop = timeframe.earlier(start, -page)
                planned.append((start, min(end, stop)))
                start = stop
            if start < end:
                break
        return [Question(start, min(page, length(timeframe, start, end))) for start, end in planned]

    async def _fetch(self, question: Question) -> None:
        answer = await self._ask(question)
        # Where an answer begins beyond its own place, those to the next places would be the same.
        end = self.feed.timeframe.earlier(question.since or 0, -question.limit)
        self._beyond |= answer.first is None or answer.first >= end
        await self._store(answer)

    async def _ask(self, question: Question) -> Answer:
        return await ask(self.desk.exchange, self.feed, question, self.desk.clock())

    async def _store(self, answer: Answer, *, reached: bool = True, newest: bool = False) -> bool:
        """Store an answer with the progress that it makes, in one transaction; False: the feed is switched off."""

        async def work() -> tuple[Counts, Feed]:
            # One answer at a time: in the database they would wait for each other, each with a connection in its hands.
            async with self._storing, self.desk.connections() as connection, connection.transaction():
                return await self._write(connection, answer, reached=reached, newest=newest)

        counts, feed = await retrying(work)
        self.total += counts
        self.feed = replace(feed, covered=tuple(united([*self.feed.covered, *feed.covered])))
        return self.feed.enabled

    async def _write(
        self, connection: Connection, answer: Answer, *, reached: bool, newest: bool
    ) -> tuple[Counts, Feed]:
        old, start, span = self.feed, self.feed.start, answer.span
        candles = answer.candles
        if start is not None:
            candles = candles[candles.time_open >= start]
            span = None if span is None or span[1] <= start else (max(span[0], start), span[1])
        counts = await write_buckets(connection, old.market_id, old.timeframe, candles, "fetched")
        refused = await note_refusals(connection, old.market_id, old.timeframe, answer.refusals)
        feed = await self._progress(connection, span, refused=refused, reachable=answer.reachable, reached=reached)
        # Candles of a run before this one that did not get as far as the present are news, too.
        news = newest and reached and ((self.total + counts).inserted > 0 or old.status != "full")
        if news and feed.enabled and feed.newest is not None and self.desk.on_news is not None:
            await self.desk.on_news(connection, feed)
        return counts, feed

    async def _progress(
        self,
        connection: Connection,
        span: Span | None,
        *,
        refused: int = 0,
        listed: int | None = None,
        reachable: int | None = None,
        reached: bool = False,
    ) -> Feed:
        start = self.feed.start if reachable is None else max(self.feed.start or 0, reachable)
        values = {
            "refused": refused,
            "lease": LEASE_SECONDS,
            "listed": _moment(listed),
            "reachable": _moment(reachable),
            "start": _moment(start),
            "reached": reached and start is not None,
        }
        row = await (await connection.execute(PAGE, self.feed.key | moments(span) | values)).fetchone()
        return replace(self.feed, enabled=False) if row is None else self.feed.after(row)

    async def _find_listing(self) -> None:
        """Find the first candle that the venue has: at once where it skips what is empty, else by halving.

        Halving takes a part without candles that is longer than a page for one before the listing, if it meets it.
        """
        if not self.feed.covered:
            return
        low, high = FIRST_DAY, self.feed.covered[0][0]
        first, is_sure = await self._first_since(low)
        if first is None and self.ways.skips_holes:
            return
        found = high if first is None else first
        while not is_sure and low < high:
            middle = (low + high) // 2
            here, known = await self._first_since(middle)
            found = min(found, here or found)
            if here is None or not known:
                low = self.feed.timeframe.earlier(middle, -self.ways.page)
            else:
                high = middle
        async with self.desk.connections() as connection:
            self.feed = await self._progress(connection, None, listed=found)

    async def _first_since(self, since: int) -> tuple[int | None, bool]:
        """The first candle in the venue's answer, and whether it is the first since `since` for certain."""
        answer = await self._ask(Question(since, 1 if self.ways.skips_holes else self.ways.page))
        return answer.first, answer.first is not None and (answer.reachable is None or self.ways.reach is not None)

    def after(self, *, turn: bool) -> Next:
        """What is to come. `turn`: this service fetched older candles."""
        complete = self.is_complete
        status = "absent" if self.feed.newest is None else "full" if complete else "building"
        pause = LISTING_PAUSE if self.feed.start is None or not self.feed.covered else 0.0
        if self._newest is None:
            return Next(status, not complete, turn, older_pause=pause)
        if not self._reached:
            return Next("building", not complete, turn, pause=0.0, older_pause=pause)
        return Next(status, not complete, turn, self._seconds_to_next(), pause)

    def _seconds_to_next(self) -> float:
        """In how many seconds the newest candles are to be asked for again, by the venue's clock."""
        timeframe, newest, now = self.feed.timeframe, self.feed.newest, self.desk.clock()
        if now is None:
            return REPLAY_PAUSE
        span = timeframe.span or 30 * DAY
        late = min(60.0, span / 20_000)
        if newest is None:
            return max(5.0, late)
        moment = to_milliseconds(now)
        # One of the future, which somebody wrote, says nothing of when the next one closes.
        close = min(to_milliseconds(newest), closed_until(timeframe, moment))
        following = timeframe.earlier(close, -1)
        if following <= moment:
            return max(1.0, late)
        recheck = close + RECHECK
        asked = self._newest.now if self._newest is not None else None
        if span >= RECHECKED_FROM and asked is not None and to_milliseconds(asked) < recheck < following:
            following = recheck
        return max(LEAST_PAUSE, min(span, following - moment) / 1000)  # no longer, should its clock have been ahead


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else from_milliseconds(milliseconds)


async def all_of(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at once, to the end; then raise the first error, if there was one."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


async def update_feed(
    connection: Connection,
    exchange: Exchange,
    feed: Feed,
    now: datetime | None,
    *,
    on_news: OnNews | None = None,
    pages: int = 1_000_000,
) -> Counts:
    """Bring one feed up to date on one connection, which must not be in a transaction: the newest candles, then all
    that is older, at most `pages` questions each. `now` is the venue's clock, or None on a replay: see `Clock`.

    Whatever goes wrong is written to the row and raised again: an answer that could not be read changes no candle and
    no progress.
    """
    if not feed.enabled:
        return Counts()
    turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def lend() -> AsyncIterator[Connection]:
        async with turn:
            yield connection

    update = Update(Desk(exchange, lend, lambda: now, on_news), feed)
    async with blaming(connection, feed):
        await update.newest(pages)
        if update.feed.enabled:
            await update.older(pages)
            await served(connection, feed, update.after(turn=True))
    return update.total
