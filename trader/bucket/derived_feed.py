"""Feeds of derived candles, as a person asks for them."""

from collections.abc import Callable
from typing import NamedTuple

from trader.bucket.derive import divides
from trader.bucket.derived import derive_feed
from trader.bucket.feed import blaming, load_feed
from trader.bucket.timeframe import Timeframe
from trader.bucket.write import Counts
from trader.db import Connection, fetch_all, fetch_one
from trader.errors import InputError

# Whoever fetches a series now is not to find it derived because somebody wanted to see it at once.
ADD = """
INSERT INTO bucket_feed AS f (market_id, timeframe_id, collect_since, derived_from)
SELECT market_id, %(timeframe)s, collect_since, timeframe_id FROM bucket_feed
 WHERE market_id = %(market)s AND timeframe_id = %(smaller)s
ON CONFLICT (market_id, timeframe_id) DO UPDATE SET enabled = true, derived_from = EXCLUDED.derived_from
 WHERE NOT f.enabled OR f.derived_from IS NOT NULL
RETURNING f.market_id
"""
LEFT_OUT = """
SELECT count(DISTINCT p.start) AS periods, count(DISTINCT g.gap_from) AS gaps
  FROM gap g JOIN timeframe t ON t.id = %(timeframe)s
 CROSS JOIN LATERAL (
   SELECT start AT TIME ZONE 'UTC' AS start
     FROM generate_series(candle_start(g.gap_from, t.span) AT TIME ZONE 'UTC',
                          (g.gap_to - interval '1 ms') AT TIME ZONE 'UTC', t.span) start) p
 WHERE g.market_id = %(market)s AND g.timeframe_id = %(smaller)s AND g.verdict IS DISTINCT FROM 'no_trades'
   AND NOT EXISTS (SELECT FROM bucket b WHERE b.market_id = g.market_id AND b.timeframe_id = t.id
                      AND b.time_close = candle_time(p.start, 1, t.span))
"""
THERE = "SELECT timeframe_id FROM bucket_feed WHERE market_id = %(market)s AND timeframe_id = %(smaller)s"


async def add_derived(connection: Connection, market_id: int, timeframe: Timeframe, smaller: Timeframe) -> None:
    """Have the candles of `timeframe` made of those of `smaller`: by `derive_all`, and by the worker from then on.

    InputError if they cannot be, if there are no smaller ones, or if the feed is on and fetched from the venue.
    """
    if not divides(smaller, timeframe):
        raise InputError(f"{timeframe.name} candles are not made of whole {smaller.name} ones")
    key = {"market": market_id, "timeframe": timeframe.id, "smaller": smaller.id}
    if not await fetch_all(connection, THERE, key):
        raise InputError(f"there is no feed of {smaller.name} candles: import a file, or tallydesk feed add")
    if not await fetch_all(connection, ADD, key):
        raise InputError(f"{timeframe.name} candles are fetched from the venue: tallydesk feed pause first")


async def derive_all(
    connection: Connection,
    market_id: int,
    timeframe: Timeframe,
    smaller: Timeframe,
    progress: Callable[[int], None] = lambda done: None,
) -> Counts:
    """Derive all that is outdated, part by part; `progress` is told how many candles were looked at."""
    total = Counts()
    feed = await load_feed(connection, market_id, timeframe.id)
    async with blaming(connection, feed):
        while (counts := await derive_feed(connection, feed, smaller)) is not None:
            total += counts
            progress(total.inserted + total.changed + total.unchanged)
    return total


class LeftOut(NamedTuple):
    """Periods without a larger candle, and the gaps between smaller ones that are why."""

    periods: int
    gaps: int


async def left_out(connection: Connection, market_id: int, timeframe: Timeframe, smaller: Timeframe) -> LeftOut:
    """What was not made because nobody has confirmed that nobody traded where smaller candles are missing."""
    key = {"market": market_id, "timeframe": timeframe.id, "smaller": smaller.id}
    row = await fetch_one(connection, LEFT_OUT, key)
    return LeftOut(row.periods, row.gaps)
