"""Asking the venue again for candles that are missing: they are filled, or it is found out why they are not there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np

from trader.bucket.candles import Candles
from trader.bucket.feed import Feed
from trader.bucket.refusal import note_refusals, sift
from trader.bucket.timeframe import Timeframe
from trader.bucket.update import OnNews
from trader.bucket.write import LOCK, Source, write_buckets
from trader.clock import from_milliseconds, to_milliseconds
from trader.db import Connection, fetch_all
from trader.errors import Refused
from trader.exchange.protocol import Exchange, PublicTrade, PublicTrades

MOST_GAPS = 200
"""Gaps of one feed that one look takes on."""
MOST_CHECKS = 5
"""After so many looks that told nothing it is called an outage, and looked at ever more rarely."""

# Nobody else takes them on meanwhile, nor soon after, whatever becomes of this look. The newest first: they are traded
# on. Only what the venue was asked about before is a gap to repair: the rest is fetched in its turn.
CLAIM = """
UPDATE gap g SET next_check_at = clock_timestamp() + least(interval '1 day', interval '1 min' * 4 ^ least(g.checks, 8))
  FROM (SELECT c.gap_from FROM gap c
          JOIN bucket_feed f USING (market_id, timeframe_id)
         WHERE c.market_id = %(market)s AND c.timeframe_id = %(timeframe)s AND c.verdict IS DISTINCT FROM 'no_trades'
           AND (c.next_check_at IS NULL OR c.next_check_at <= clock_timestamp())
           AND f.enabled AND f.derived_from IS NULL AND f.covered @> tstzrange(c.gap_from, c.gap_to)
         ORDER BY c.gap_from DESC LIMIT %(most)s FOR UPDATE OF c SKIP LOCKED) d
 WHERE g.market_id = %(market)s AND g.timeframe_id = %(timeframe)s AND g.gap_from = d.gap_from
RETURNING g.gap_from, g.gap_to
"""
LEFT = """
SELECT gap_from, gap_to, checks, quiet_at <= clock_timestamp() - interval '30 s' AS quiet_before FROM gap
 WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s AND verdict IS DISTINCT FROM 'no_trades'
   AND gap_from >= %(start)s AND gap_to <= %(end)s
 ORDER BY gap_from
"""
# Not if a candle has come into it since it was looked at.
NOTE = """
UPDATE gap SET checks = checks + 1, checked_at = clock_timestamp(),
       quiet_at = CASE WHEN %(quiet)s THEN coalesce(quiet_at, clock_timestamp()) END,
       verdict = coalesce(%(verdict)s::gap_kind, verdict)
 WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s AND gap_from = %(gap_from)s AND gap_to = %(gap_to)s
"""

Span = tuple[int, int]


@dataclass
class Repaired:
    """What came of a look: candles that the venue gave, candles built from its trades, gaps that were judged."""

    fetched: int = 0
    built: int = 0
    judged: int = 0
    requests: int = 0


async def repair_feed(
    connection: Connection,
    exchange: Exchange,
    feed: Feed,
    *,
    replay: bool = False,
    requests: int = 20,
    on_news: OnNews | None = None,
) -> Repaired:
    """Look once more at the gaps of a feed whose time has come, newest first, with about so many requests at most.

    What the venue gives is stored like anything else that it gives. For what it does not give, its trades are read: if
    there are none, and there were none at a look at least 30 s before, the verdict is `no_trades`; if there are some,
    and it has had a second chance to give the candle, the candle is built of them. If it does not tell (see
    `Exchange.trades`) at MOST_CHECKS looks, the verdict is `outage`. On a `replay` the first look counts: its past does
    not change any more. `connection` must not be in a transaction. Raises ExchangeError if the venue cannot be read:
    then nothing is concluded, and the gaps wait for their next turn.
    """
    return await _Repair(connection, exchange, feed, replay, requests, on_news).run()


@dataclass
class _Repair:
    connection: Connection
    exchange: Exchange
    feed: Feed
    replay: bool
    requests: int
    on_news: OnNews | None
    done: Repaired = field(default_factory=Repaired)
    read: PublicTrades | None = None
    read_from: int = 0

    def __post_init__(self) -> None:
        self.timeframe: Timeframe = self.feed.timeframe
        self.key = {"market": self.feed.market_id, "timeframe": self.timeframe.id, "most": MOST_GAPS}

    async def run(self) -> Repaired:
        rows = await fetch_all(self.connection, CLAIM, self.key)
        spans = sorted((to_milliseconds(row.gap_from), to_milliseconds(row.gap_to)) for row in rows)
        for page in _pages(spans, self.timeframe, self.exchange.candle_ways.page):
            if self.done.requests >= self.requests:
                break
            await self._candles(page)
            await self._trades((page[0][0], page[-1][1]))
        return self.done

    async def _candles(self, page: Sequence[Span]) -> None:
        """Ask for the candles of one page again and store those that were missing."""
        since = page[0][0]
        limit = min(self.exchange.candle_ways.page, _length(self.timeframe, (since, page[-1][1])))
        self.done.requests += 1
        given = await self.exchange.candles(
            self.feed.symbol, self.timeframe.name, from_milliseconds(since), max(limit, 1)
        )
        sifted = sift(given, self.timeframe, since, None)
        await note_refusals(self.connection, self.feed.market_id, self.timeframe, sifted.refusals)
        found = sifted.candles
        missing = np.zeros(len(found), dtype=bool)
        for start, end in page:
            missing |= (found.time_open >= start) & (found.time_open < end)
        self.done.fetched += await self._store(found[missing], "fetched")

    async def _store(self, candles: Candles, source: Source) -> int:
        if not len(candles):
            return 0
        async with self.connection.transaction():
            counts = await write_buckets(self.connection, self.feed.market_id, self.timeframe, candles, source)
            await self._news()
        return counts.inserted

    async def _news(self) -> None:
        if self.on_news is not None:
            await self.on_news(self.connection, self.feed)

    async def _trades(self, within: Span) -> None:
        """Find out why the candles that are left are missing."""
        times = {"start": from_milliseconds(within[0]), "end": from_milliseconds(within[1])}
        for row in await fetch_all(self.connection, LEFT, self.key | times):
            if self.done.requests >= self.requests:
                break
            try:
                trades = await self._trades_of(row.gap_from, row.gap_to)
            except Refused:
                verdict = "outage" if row.checks + 1 >= MOST_CHECKS else None
                await self._note(row, verdict, quiet=False)
                continue
            await self._judge(row, trades)

    async def _trades_of(self, start: datetime, end: datetime) -> list[PublicTrade]:
        """The trades of a window; what was read for one before often holds those of the next."""
        if self.read is None or to_milliseconds(start) < self.read_from or self.read.until < end:
            self.done.requests += 1
            self.read = await self.exchange.trades(self.feed.symbol, start, end)
            self.read_from = to_milliseconds(start)
        return [trade for trade in self.read.rows if start <= trade.traded_at < end]

    async def _judge(self, row: Any, trades: list[PublicTrade]) -> None:
        if not trades:
            sure = self.replay or row.quiet_before
            await self._note(row, "no_trades" if sure else None, quiet=True)
        elif row.checks > 0 or self.replay:
            built = from_trades(trades, self.timeframe, to_milliseconds(row.gap_from))
            self.done.built += await self._store(built, "trades")
        else:
            await self._note(row, None, quiet=False)

    async def _note(self, row: Any, verdict: str | None, *, quiet: bool) -> None:
        async with self.connection.transaction():
            await self.connection.execute(LOCK, [self.feed.market_id, self.timeframe.name])
            values = {"verdict": verdict, "quiet": quiet, "gap_from": row.gap_from, "gap_to": row.gap_to}
            noted = (await self.connection.execute(NOTE, self.key | values)).rowcount
            if verdict is not None and noted:
                self.done.judged += 1
                await self._news()


def from_trades(trades: Sequence[PublicTrade], timeframe: Timeframe, start: int) -> Candles:
    """The candles that `trades`, which must be all there were, oldest first, make. One opens at `start`."""
    times = np.array([to_milliseconds(trade.traded_at) for trade in trades], dtype=np.int64)
    if timeframe.span is None:
        opens = times.astype("datetime64[ms]").astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
    else:
        opens = start + (times - start) // timeframe.span * timeframe.span
    firsts = np.flatnonzero(np.diff(opens, prepend=opens[:1] - 1)).tolist()
    parts = [trades[a:b] for a, b in zip(firsts, [*firsts[1:], len(trades)], strict=True)]
    prices = [[trade.price for trade in part] for part in parts]
    volumes = [sum((trade.quantity for trade in part), Decimal(0)) for part in parts]
    columns = (
        [part[0] for part in prices], [max(part) for part in prices], [min(part) for part in prices],
        [part[-1] for part in prices], volumes,
    )  # fmt: skip
    return Candles(opens[firsts], *(np.array([float(value) for value in column]) for column in columns))


def _pages(spans: Sequence[Span], timeframe: Timeframe, most: int) -> list[list[Span]]:
    """Gaps that one request can ask for, oldest first in each; the newest page first."""
    pages: list[list[Span]] = []
    for span in reversed(spans):
        if pages and _length(timeframe, (span[0], pages[-1][-1][1])) <= most:
            pages[-1].insert(0, span)
        else:
            pages.append([span])
    return pages


def _length(timeframe: Timeframe, span: Span) -> int:
    """How many candles there are room for, at least."""
    return (span[1] - span[0]) // (timeframe.span or 28 * 86_400_000)
