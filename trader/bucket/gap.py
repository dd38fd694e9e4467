"""What is known of candles that are missing: what people declare, and what the venue says when it is asked again."""

from datetime import datetime
from typing import Literal

from trader.bucket.timeframe import HOUR, Timeframe
from trader.clock import from_milliseconds, to_milliseconds
from trader.db import Connection, fetch_one
from trader.errors import InputError

Verdict = Literal["no_trades", "outage"]

# What is missing among candles from one close to another. A larger candle that lacks smaller ones, in which nobody
# traded, hides a gap of its own.
FOUND = """
SELECT gap_from AS start, gap_to AS end, missing, verdict::text, false AS partial FROM gap
 WHERE market_id = %(market_id)s AND timeframe_id = %(timeframe_id)s AND gap_from >= %(first)s AND gap_from < %(last)s
UNION ALL
SELECT candle_time(b.time_close, -1, t.span), b.time_close, 1, 'no_trades', true FROM bucket b
  JOIN timeframe t ON t.id = b.timeframe_id
 WHERE b.market_id = %(market_id)s AND b.timeframe_id = %(timeframe_id)s AND b.time_close BETWEEN %(first)s AND %(last)s
   AND b.partial AND %(partial)s
"""
# Where what was asked for begins, and begins again after a hole in which candles are still to be fetched.
WHOLE_FROM = """
SELECT lower(r) AS moment FROM bucket_feed f, unnest(f.covered) r
 WHERE lower(r) < %(last)s AND f.market_id = %(market_id)s AND f.timeframe_id = %(timeframe_id)s
"""

ENDS = """
SELECT (SELECT candle_time(b.time_close, -1, t.span) FROM bucket b
         WHERE b.market_id = %(market)s AND b.timeframe_id = t.id ORDER BY b.time_close LIMIT 1) AS first,
       (SELECT b.time_close FROM bucket b
         WHERE b.market_id = %(market)s AND b.timeframe_id = t.id ORDER BY b.time_close DESC LIMIT 1) AS newest
  FROM timeframe t WHERE t.id = %(timeframe)s
"""
DECLARE = """
UPDATE gap SET verdict = %(verdict)s::gap_kind, checked_at = clock_timestamp()
 WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s AND verdict IS NULL
   AND gap_from >= %(since)s AND gap_to <= %(until)s
"""
# Before the first candle and after the newest there is no gap, but time that may be declared to be quiet.
DECLARE_ENDS = """
UPDATE bucket_feed SET quiet = quiet + tstzmultirange(tstzrange(%(since)s, %(first)s), tstzrange(%(newest)s, %(until)s))
 WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s
"""
OUTDATE = "SELECT bucket_outdate(%(market)s, %(timeframe)s, tstzmultirange(tstzrange(%(since)s, %(until)s)))"
LOCK = "SELECT pg_advisory_xact_lock(%(market)s::int, hashtext('bucket:' || %(name)s))"


async def declare_gaps(
    connection: Connection,
    market_id: int,
    timeframe: Timeframe,
    verdict: Verdict,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> int:
    """Say why candles are missing that nobody else can say it of, such as those of a file; how many gaps that judged.

    Of [since, until), opening times, every gap that lies in it and that nobody has judged yet. By default that is from
    the hour in which the first stored candle opens to the end of the hour in which the newest one closes. With
    `no_trades` the time before the first candle and after the newest within it counts as quiet, too, so that the first
    and the last larger candle can be derived. Raises InputError if there is no candle, or `until` is before `since`.
    """
    key = {"market": market_id, "timeframe": timeframe.id, "verdict": verdict, "name": timeframe.name}
    async with connection.transaction():
        await connection.execute(LOCK, key)
        ends = await fetch_one(connection, ENDS, key)
        if ends.newest is None:
            raise InputError(f"gaps: there are no {timeframe.name} candles of market {market_id}")
        start, end = since or _hour(ends.first, up=False), until or _hour(ends.newest, up=True)
        if end < start:
            raise InputError(f"until {end:%Y-%m-%d %H:%M} is before since {start:%Y-%m-%d %H:%M}")
        times = {"since": start, "until": end}
        judged = (await connection.execute(DECLARE, key | times)).rowcount
        if verdict == "no_trades":
            first, newest = max(ends.first, start), min(ends.newest, end)
            ends_of = {"since": min(start, first), "first": first, "newest": newest, "until": max(end, newest)}
            await connection.execute(DECLARE_ENDS, key | ends_of)
            await connection.execute(OUTDATE, key | times)
        return judged


def _hour(moment: datetime, *, up: bool) -> datetime:
    at = to_milliseconds(moment)
    return from_milliseconds(-(-at // HOUR) * HOUR if up else at // HOUR * HOUR)
