"""Keeping derived candles in step with what they are made of: a part of the series at a time, each in a transaction."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from psycopg import sql
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from trader.bucket.candles import Candles
from trader.bucket.coverage import Span, united
from trader.bucket.derive import Derived, Ranges, derive, first_of, off_grid, period_opens
from trader.bucket.feed import Feed
from trader.bucket.timeframe import Timeframe, Times
from trader.bucket.update import OnNews
from trader.bucket.write import LOCK, Counts, write_buckets
from trader.clock import from_milliseconds, to_milliseconds
from trader.db import Connection, fetch_all, fetch_one

MOST = 200_000
"""Smaller candles that one transaction reads at most: a long history is derived in parts, the newest first."""

_FIRST, _LAST = 0, to_milliseconds(from_milliseconds(0).replace(year=9000))

# Whoever writes a smaller candle marks this row, so what is read after it is locked is all that was marked.
FEED = """
SELECT enabled, collect_since, outdated, newest FROM bucket_feed
 WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s FOR NO KEY UPDATE
"""
BELOW = """
SELECT f.newest, f.quiet, f.covered,
       (SELECT time_close FROM bucket WHERE market_id = f.market_id AND timeframe_id = f.timeframe_id
         ORDER BY time_close LIMIT 1) AS first
  FROM bucket_feed f WHERE f.market_id = %(market)s AND f.timeframe_id = %(smaller)s AND f.newest IS NOT NULL
"""
HOLES = """
SELECT gap_from, gap_to, verdict::text FROM gap
 WHERE market_id = %(market)s AND timeframe_id = %(smaller)s AND gap_from < %(end)s AND gap_to > %(start)s
   AND gap_from >= coalesce((SELECT max(gap_from) FROM gap WHERE market_id = %(market)s
                               AND timeframe_id = %(smaller)s AND gap_from <= %(start)s), %(start)s)
 ORDER BY gap_from
"""
THERE = """
SELECT (extract(epoch FROM time_close) * 1000)::int8 AS time_close, source = 'derived' AS derived
  FROM bucket WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s
   AND time_close > %(start)s AND time_close <= %(end)s
 ORDER BY 1
"""
REMOVE = """
DELETE FROM bucket WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s AND source = 'derived'
   AND time_close = ANY(%(closes)s)
"""
# Why a derived candle is missing follows from why smaller ones are, if each of those has a reason.
JUDGE = """
UPDATE gap g SET verdict = v.verdict, checked_at = clock_timestamp()
  FROM (SELECT d.gap_from,
               CASE WHEN bool_or(s.verdict IS NULL) THEN NULL
                    WHEN bool_or(s.verdict = 'outage') THEN 'outage' ELSE 'no_trades' END::gap_kind AS verdict
          FROM (SELECT e.gap_from, e.gap_to,
                       coalesce((SELECT y.gap_from FROM gap y
                                  WHERE y.market_id = %(market)s AND y.timeframe_id = %(smaller)s
                                    AND y.gap_from <= e.gap_from
                                  ORDER BY y.gap_from DESC LIMIT 1), e.gap_from) AS lower
                  FROM gap e WHERE e.market_id = %(market)s AND e.timeframe_id = %(timeframe)s
                   AND e.gap_from < %(end)s AND e.gap_to > %(start)s OFFSET 0) d
          JOIN LATERAL (SELECT x.verdict FROM gap x
                         WHERE x.market_id = %(market)s AND x.timeframe_id = %(smaller)s
                           AND x.gap_from >= d.lower AND x.gap_from < d.gap_to AND x.gap_to > d.gap_from
                        OFFSET 0) s ON true
         GROUP BY d.gap_from) v
 WHERE g.market_id = %(market)s AND g.timeframe_id = %(timeframe)s AND g.gap_from = v.gap_from
   AND g.verdict IS DISTINCT FROM v.verdict
"""
DONE = """
UPDATE bucket_feed SET outdated = outdated - %(done)s::tstzmultirange,
       covered = covered + %(covered)s::tstzmultirange - %(unknown)s::tstzmultirange,
       status = CASE WHEN newest IS NULL THEN 'absent' WHEN %(more)s THEN 'building' ELSE 'full' END::feed_status,
       last_error = NULL, error_at = NULL, updated_at = clock_timestamp()
 WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s
RETURNING newest
"""
SOURCE = """
COPY (SELECT (extract(epoch FROM time_close) * 1000)::int8, open, high, low, close, volume FROM bucket
       WHERE market_id = {} AND timeframe_id = {} AND time_close > {} AND time_close <= {} ORDER BY time_close)
TO STDOUT (FORMAT BINARY)
"""
_COLUMNS = ("time", "open", "high", "low", "close", "volume")
_ROW = np.dtype([("fields", ">i2")] + [
    pair for name in _COLUMNS for pair in ((f"{name} width", ">i4"), (name, ">i8" if name == "time" else ">f8"))
])  # fmt: skip
_HEADER, _TRAILER = 19, 2

log = logging.getLogger(__name__)


async def derive_feed(
    connection: Connection, feed: Feed, smaller: Timeframe, *, on_news: OnNews | None = None, most: int = MOST
) -> Counts | None:
    """Derive what is outdated of a feed from the candles of `smaller`, the newest part of at most `most` of them.

    None: nothing was left to do. A candle that was not derived is never overwritten; one that was is removed when a
    part of what it was made of is missing now, and stays when all of that is gone. `connection` must not be in a
    transaction. Raises InputError if the smaller candles do not fit.
    """
    async with connection.transaction():
        return await _Derivation(connection, feed, smaller, most).run(on_news)


class _Derivation:
    """One transaction of `derive_feed`."""

    def __init__(self, connection: Connection, feed: Feed, smaller: Timeframe, most: int) -> None:
        self.connection = connection
        self.feed = feed
        self.larger = feed.timeframe
        self.smaller = smaller
        self.most = most
        self.key: dict[str, Any] = {"market": feed.market_id, "timeframe": self.larger.id, "smaller": smaller.id}

    async def run(self, on_news: OnNews | None) -> Counts | None:
        await self.connection.execute(LOCK, [self.feed.market_id, self.larger.name])
        state = await fetch_one(self.connection, FEED, self.key)
        below = await (await self.connection.execute(BELOW, self.key)).fetchone()
        if not state.enabled or below is None:
            return None
        known = self._known(below)
        horizon = self._start(max(to_milliseconds(below.newest), known[1]))
        todo = _cut(_spans(state.outdated), (self._start(known[0]), horizon))
        if not todo:
            await self._done([(_FIRST, horizon)], [], [], more=False)
            return None
        part = self._part(todo[-1])
        since = _FIRST if state.collect_since is None else to_milliseconds(state.collect_since)
        counts, unknown = await self._derive(part, known, since, below)
        more = len(todo) > 1 or part[0] > todo[0][0]
        newest = await self._done([part if more else (_FIRST, horizon)], [part], unknown, more=more)
        if on_news is not None and newest is not None and newest != state.newest:
            await on_news(self.connection, self.feed)
        return counts

    def _start(self, moment: int) -> int:
        return int(period_opens(np.array([moment]), self.larger)[0])

    def _end(self, moment: int) -> int:
        """The end of the period that ends at `moment`, or holds it."""
        start = np.array([self._start(moment - 1)])
        return int(self.larger.closes(start)[0])

    def _part(self, span: Span) -> Span:
        """The newest of `span`, in whole periods, that is not too much at a time."""
        end = self._end(span[1])
        length = self.most * (self.smaller.span or 0)
        start = max(span[0], min(end - length, self._start(end - 1)))
        return self._start(start), end

    def _known(self, below: Any) -> Span:
        """From where to where the smaller candles are all there is, or known to be quiet."""
        first = to_milliseconds(below.first) - (self.smaller.span or 0)
        inside = (first, to_milliseconds(below.newest))
        stretches = united([*_spans(below.quiet), inside])
        return next(span for span in stretches if span[0] <= first < span[1])

    async def _derive(self, part: Span, known: Span, since: int, below: Any) -> tuple[Counts, list[Span]]:
        """Bring the rows of a part up to date. Also: which periods of it the venue was not asked about."""
        times = {"start": from_milliseconds(part[0]), "end": from_milliseconds(part[1])}
        source = await self._source(part)
        holes = await fetch_all(self.connection, HOLES, self.key | times)
        spans = [(to_milliseconds(hole.gap_from), to_milliseconds(hole.gap_to)) for hole in holes]
        quiet = [span for span, hole in zip(spans, holes, strict=True) if hole.verdict == "no_trades"]
        self._say_what_is_off(source.time_open)
        derived = derive(source, self.smaller, self.larger, _ranges(united([*quiet, *_spans(below.quiet)])))
        counts = await self._write(derived, part, (max(known[0], since), known[1]), times)
        await self.connection.execute(JUDGE, self.key | times)
        unjudged = [span for span, hole in zip(spans, holes, strict=True) if hole.verdict is None]
        outside = [(part[0], min(known[0], part[1])), (max(known[1], part[0]), part[1])]
        unknown = _minus(_cut([*unjudged, *outside], part), _spans(below.covered))
        return counts, united((self._start(start), self._end(end)) for start, end in unknown)

    def _say_what_is_off(self, opens: Times) -> None:
        wrong = off_grid(opens, self.smaller)
        if wrong.any():
            log.warning(
                "%s %s: %d candles open elsewhere than on the grid in UTC, the first at %s: %s candles are not made of "
                "them", self.feed.market, self.smaller.name, wrong.sum(), first_of(opens, wrong), self.larger.name
            )  # fmt: skip

    async def _source(self, part: Span) -> Candles:
        statement = sql.SQL(SOURCE).format(
            self.feed.market_id, self.smaller.id, *(sql.Literal(from_milliseconds(moment)) for moment in part)
        )
        blocks: list[bytes] = []
        async with self.connection.cursor().copy(statement) as copy:
            async for block in copy:
                blocks.append(bytes(block))
        data = b"".join(blocks)
        rows = np.frombuffer(data, _ROW, count=(len(data) - _HEADER - _TRAILER) // _ROW.itemsize, offset=_HEADER)
        closes = rows["time"].astype(np.int64)
        values = (rows[name].astype(np.float64) for name in _COLUMNS[1:])
        return Candles(self.smaller.opens(closes), *values)

    async def _write(self, derived: Derived, part: Span, known: Span, times: dict[str, Any]) -> Counts:
        there = await fetch_all(self.connection, THERE, self.key | times)
        fetched = np.array([row.time_close for row in there if not row.derived], dtype=np.int64)
        before = np.array([row.time_close for row in there if row.derived], dtype=np.int64)
        opens = derived.candles.time_open
        mine = (opens >= known[0]) & ~np.isin(self.larger.closes(opens), fetched)
        await self._remove(np.setdiff1d(before, self.larger.closes(opens)), known)
        return await write_buckets(
            self.connection, self.feed.market_id, self.larger, derived.candles[mine], "derived", derived.partial[mine]
        )

    async def _remove(self, closes: Times, known: Span) -> None:
        """Take back what is not true any more, where the smaller candles are still there to tell."""
        gone = closes[(self.larger.opens(closes) >= known[0]) & (closes <= known[1])]
        if len(gone):
            moments = [from_milliseconds(int(close)) for close in gone]
            await self.connection.execute(REMOVE, self.key | {"closes": moments})

    async def _done(self, done: list[Span], covered: list[Span], unknown: list[Span], *, more: bool) -> Any:
        parameters = {"done": _multirange(done), "covered": _multirange(covered), "unknown": _multirange(unknown)}
        return (await fetch_one(self.connection, DONE, self.key | parameters | {"more": more})).newest


def _spans(ranges: "Multirange[Any]") -> list[Span]:
    return [
        (_FIRST if one.lower is None else to_milliseconds(one.lower),
         _LAST if one.upper is None else to_milliseconds(one.upper))
        for one in ranges
    ]  # fmt: skip


def _multirange(spans: Iterable[Span]) -> "Multirange[Any]":
    return Multirange(
        Range(None if start == _FIRST else from_milliseconds(start), from_milliseconds(end))
        for start, end in spans
        if start < end
    )


def _ranges(spans: list[Span]) -> Ranges:
    return Ranges(*(np.array([span[i] for span in spans], dtype=np.int64) for i in (0, 1)))


def _cut(spans: Iterable[Span], within: Span) -> list[Span]:
    cut = [(max(start, within[0]), min(end, within[1])) for start, end in spans]
    return [span for span in cut if span[0] < span[1]]


def _minus(spans: Iterable[Span], others: list[Span]) -> list[Span]:
    found = []
    for span in spans:
        start = span[0]
        for other in _cut(others, span):
            found.append((start, other[0]))
            start = other[1]
        found.append((start, span[1]))
    return [span for span in found if span[0] < span[1]]
