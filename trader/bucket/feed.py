"""Keeping candles up to date: one function for the newest, the oldest and everything after an interruption."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime

import psycopg

from trader.bucket.candles import Candles, closed, from_list
from trader.bucket.timeframe import Timeframe, timeframe_numbered
from trader.bucket.write import Counts, write_buckets
from trader.clock import from_milliseconds, to_milliseconds
from trader.db import Connection, fetch_all
from trader.errors import InputError
from trader.exchange.protocol import Exchange

PAGE = 1000
"""Candles in one request."""

LONGEST_ERROR = 1000

FEED = """
SELECT f.market_id, f.timeframe_id, m.exchange_id, e.name || ':' || m.symbol AS market, m.symbol, f.enabled,
       f.status::text AS status, f.collect_since, f.oldest, f.newest
  FROM bucket_feed f JOIN market m ON m.id = f.market_id JOIN exchange e ON e.id = m.exchange_id
 WHERE f.market_id = %s AND f.timeframe_id = %s
"""

# Two updates of one feed at once must not take each other's progress back.
PROGRESS = """
UPDATE bucket_feed SET status = %(status)s::feed_status, newest = greatest(newest, %(newest)s),
       oldest = least(oldest, %(oldest)s),
       covered = covered + CASE WHEN least(oldest, %(oldest)s) < greatest(newest, %(newest)s)
         THEN tstzmultirange(tstzrange(least(oldest, %(oldest)s), greatest(newest, %(newest)s))) ELSE '{}' END,
       last_error = NULL, error_at = NULL, updated_at = clock_timestamp()
 WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s AND enabled
"""

FAILED = """
UPDATE bucket_feed SET status = 'error', last_error = %(error)s, error_at = clock_timestamp(),
       updated_at = clock_timestamp()
 WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s
"""


@dataclass(frozen=True, slots=True)
class Feed:
    """A row of bucket_feed, and the names that it stands for."""

    market_id: int
    timeframe: Timeframe
    exchange_id: int
    market: str
    symbol: str
    enabled: bool
    status: str
    collect_since: datetime
    oldest: datetime | None
    newest: datetime | None


OnNews = Callable[[Connection, Feed], Awaitable[None]]
"""Called within the transaction that reaches the present with candles that were not there before."""


async def load_feed(connection: Connection, market_id: int, timeframe_id: int) -> Feed:
    """The feed as it stands. InputError if there is none."""
    rows = await fetch_all(connection, FEED, [market_id, timeframe_id])
    if not rows:
        raise InputError(f"bucket_feed: there is none for market {market_id} and timeframe {timeframe_id}")
    row = rows[0]._asdict()
    return Feed(timeframe=timeframe_numbered(row.pop("timeframe_id")), **row)


async def update_feed(
    connection: Connection,
    exchange: Exchange,
    feed: Feed,
    now: datetime | None,
    *,
    on_news: OnNews | None = None,
    pages: int = 1_000_000,
) -> Counts:
    """Bring a feed up to date, page by page, each committed with how far it came; run again, it goes on from there.

    First everything newer than what is stored, then what is older as far back as collect_since. `now` is the venue's
    clock from before this call, or None where candles are replayed: see `closed`. Stops early, without an error, when
    the feed is switched off, and after `pages` requests.

    Whatever goes wrong is written to the row and raised again: an answer that could not be read changes no candle and
    no progress. `connection` must not be in a transaction.
    """
    if not feed.enabled:
        return Counts()
    async with blaming(connection, feed):
        return await _Update(connection, exchange, feed, now, on_news, pages).run()


@contextlib.asynccontextmanager
async def blaming(connection: Connection, feed: Feed) -> AsyncIterator[None]:
    """Write whatever goes wrong in the block to the feed's row, and raise it again."""
    try:
        yield
    except Exception as error:
        text = f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
        blame = {"market": feed.market_id, "timeframe": feed.timeframe.id, "error": text}
        with contextlib.suppress(psycopg.Error):  # the error that counts is the first one
            await connection.execute(FAILED, blame)
        raise


class _Update:
    """One run of `update_feed`."""

    def __init__(
        self,
        connection: Connection,
        exchange: Exchange,
        feed: Feed,
        now: datetime | None,
        on_news: OnNews | None,
        pages: int,
    ) -> None:
        self.connection = connection
        self.exchange = exchange
        self.feed = feed
        self.now = now
        self.on_news = on_news
        self.pages = pages
        self.total = Counts()
        self.key = {"market": feed.market_id, "timeframe": feed.timeframe.id}

    async def run(self) -> Counts:
        if await self._forward():
            await self._backfill()
        return self.total

    async def _ask(self, since: int, limit: int) -> Candles:
        """One page of candles that open at or after `since`, closed or not."""
        self.pages -= 1
        found = from_list(
            await self.exchange.candles(self.feed.symbol, self.feed.timeframe.name, from_milliseconds(since), limit)
        )
        return found[found.time_open >= since]

    async def _forward(self) -> bool:
        """Everything newer than what is stored; True if there is nothing more of it now.

        The newest stored candle is asked for again: venues correct it for a moment after its close.
        """
        timeframe = self.feed.timeframe
        while self.pages > 0:
            newest = self.feed.newest
            since = to_milliseconds(self.feed.collect_since)
            if newest is not None:
                since = timeframe.earlier(to_milliseconds(newest), 1)
            page = await self._ask(since, PAGE)
            done = closed(page, timeframe, self.now)
            end = from_milliseconds(int(timeframe.closes(done.time_open[-1:])[0])) if len(done) else newest
            # A page that is not full and holds an open candle reaches the present; so does one with nothing new.
            more = end != newest and (len(done) == len(page) or len(page) >= PAGE)
            if not await self._store(done, end, reached=not more):
                return False
            if not more:
                return True
        return False

    def _older_is_missing(self) -> bool:
        return self.feed.oldest is not None and self.feed.collect_since < self.feed.oldest

    def _news(self) -> bool:
        """Whether this run stored candles, or one before it may have without reaching the present."""
        return self.total.inserted > 0 or self.feed.status != "full"

    async def _store(self, page: Candles, end: datetime | None, *, reached: bool) -> bool:
        """Store a page at the newest end, with the progress that it makes, in one transaction; False: switched off."""
        status = "absent" if end is None else "full" if reached and not self._older_is_missing() else "building"
        start = self.feed.collect_since if self.feed.oldest is None and end is not None else self.feed.oldest
        async with self.connection.transaction():
            await self._write(page)
            going_on = await self._progress(status, end, start)
            if reached and going_on and self._news() and self.on_news is not None:
                await self.on_news(self.connection, self.feed)
        self.feed = replace(self.feed, newest=end, oldest=start)
        return going_on

    async def _write(self, page: Candles) -> Counts:
        counts = await write_buckets(self.connection, self.feed.market_id, self.feed.timeframe, page, "fetched")
        self.total += counts
        return counts

    async def _progress(self, status: str, newest: datetime | None, oldest: datetime | None) -> bool:
        progress = self.key | {"status": status, "newest": newest, "oldest": oldest}
        return (await self.connection.execute(PROGRESS, progress)).rowcount == 1

    async def _backfill(self) -> None:
        """What is older than the history so far, window by window, from new to old."""
        going_on = True
        while going_on and self.pages > 0 and self._older_is_missing():
            going_on = await self._window()

    async def _window(self) -> bool:
        """The PAGE candles before the history so far; if there are none, nothing is assumed about older ones."""
        feed = self.feed
        since = to_milliseconds(feed.collect_since)
        until = to_milliseconds(feed.oldest or feed.collect_since)
        start = max(since, feed.timeframe.earlier(until, PAGE))
        found = await self._between(start, until)
        if not len(found) and start > since:
            # An empty window: either a hole, or nothing is older at all, which one more question tells.
            first = await self._ask(since, PAGE)
            if not len(first) or first.time_open[0] >= until:
                start = since
        async with self.connection.transaction():
            await self._write(found)
            oldest = from_milliseconds(start)
            going_on = await self._progress("full" if start <= since else "building", feed.newest, oldest)
        self.feed = replace(feed, oldest=oldest)
        return going_on

    async def _between(self, start: int, until: int) -> Candles:
        """All candles that open in [start, until), however few the venue gives at a time."""
        found = from_list([])
        while start < until:
            page = await self._ask(start, PAGE)
            page = page[page.time_open < until]
            if not len(page):
                break
            found = found + page
            start = int(self.feed.timeframe.closes(page.time_open[-1:])[0])
        return found
