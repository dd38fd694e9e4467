"""Storing the candles of files: all of them, or none."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from trader.bucket.file import Content, read_files
from trader.bucket.formats import VALUES, Stamp
from trader.bucket.gap import declare_gaps
from trader.bucket.scan import scan
from trader.bucket.timeframe import HOUR, Timeframe
from trader.bucket.write import ROWS, Counts, find_difference, write_buckets
from trader.clock import from_milliseconds, to_milliseconds
from trader.db import Connection, fetch_one
from trader.errors import InputError

# Of a feed that is off, a file says all of its time: its holes are gaps, which the repair asks the venue about. A feed
# that is on is fetched all the same: what the venue has differently wins, and is recorded.
ADD_FEED = """
INSERT INTO bucket_feed AS f (market_id, timeframe_id, enabled, status, collect_since, covered, updated_at)
VALUES (%(market)s, %(timeframe)s, false, 'full', %(first)s, tstzmultirange(tstzrange(%(first)s, %(last)s)),
        clock_timestamp())
ON CONFLICT (market_id, timeframe_id) DO UPDATE SET status = 'full', last_error = NULL, error_at = NULL,
  collect_since = least(f.collect_since, EXCLUDED.collect_since), covered = f.covered + EXCLUDED.covered,
  updated_at = clock_timestamp()
 WHERE NOT f.enabled
"""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did, or would do."""

    counts: Counts
    first_open: str
    last_close: str
    declared: int = 0
    """Gaps that were declared to be times without a trade."""
    difference: str | None = None
    """The first candle that is stored with other numbers, in words; only where nothing was written."""


async def present(connection: Connection) -> datetime:
    """What time it is for the whole desk: what closes later is no candle yet."""
    moment: datetime = (await fetch_one(connection, "SELECT clock_timestamp() AS now")).now
    return moment


async def import_file(
    connection: Connection,
    path: Path,
    market_id: int,
    timeframe: Timeframe,
    stamp: Stamp | None = None,
    progress: Progress = lambda done, total: None,
    *,
    replace: bool = False,
) -> Imported:
    """Store the candles of a file: `read_files` and `store_content` in one."""
    content = read_files([path], timeframe, stamp, now=await present(connection))
    return await store_content(connection, content, market_id, timeframe, progress, replace=replace)


async def store_content(
    connection: Connection,
    content: Content,
    market_id: int,
    timeframe: Timeframe,
    progress: Progress = lambda done, total: None,
    *,
    replace: bool = False,
    no_trades: bool = False,
) -> Imported:
    """Store candles of files: all of them or, if anything is wrong, none.

    Makes the feed's row if there is none, switched off. `progress` is told how many of how many are stored. With
    `no_trades` the gaps between the hour of the first candle and that of the last, if nobody has judged them yet, are
    declared to be times in which nobody traded. Raises InputError for a candle that is stored with other numbers,
    unless it is to `replace` it, and for one that has not closed.
    """
    candles = content.candles
    first, last = _range(content, timeframe)
    if last > await present(connection):
        raise InputError(f"{content.files[-1].where}: its last candle closes at {last:%Y-%m-%d %H:%M} UTC: not yet")
    total = Counts()
    async with connection.transaction():
        for start in range(0, len(candles), ROWS):
            part = candles[start : start + ROWS]
            if not replace and (found := await find_difference(connection, market_id, timeframe, part)):
                raise InputError(_refusal(content, found.time_close, found.stored, found.new))
            total += await write_buckets(connection, market_id, timeframe, part, "imported")
            progress(start + len(part), len(candles))
        feed = {"market": market_id, "timeframe": timeframe.id, "first": first, "last": last}
        await connection.execute(ADD_FEED, feed)
        declared = 0
        if no_trades:
            hours = {"since": _hour(first, 0), "until": _hour(last, HOUR - 1)}
            declared = await declare_gaps(connection, market_id, timeframe, "no_trades", **hours)
    return Imported(total, f"{first:%Y-%m-%d %H:%M}", f"{last:%Y-%m-%d %H:%M}", declared)


def _hour(moment: datetime, more: int) -> datetime:
    """The whole hour before a moment that is `more` milliseconds on."""
    return from_milliseconds((to_milliseconds(moment) + more) // HOUR * HOUR)


async def preview_content(
    connection: Connection,
    content: Content,
    market_id: int,
    timeframe: Timeframe,
    progress: Progress = lambda done, total: None,
) -> Imported:
    """What `store_content` would do now with `replace`; nothing is written. `difference`: why it would not without."""
    new = content.candles
    first, last = _range(content, timeframe)
    changed = unchanged = 0
    difference: str | None = None
    async for stored in scan(connection, market_id, timeframe, first, last):
        at = np.searchsorted(new.time_open, stored.time_open)
        at[at == len(new)] = 0
        both = new.time_open[at] == stored.time_open
        old, given = stored[both], new[at[both]]
        differ = np.zeros(len(old), dtype=np.bool_)
        for name in VALUES:
            differ |= getattr(old, name) != getattr(given, name)
        if difference is None and differ.any():
            index = int(np.argmax(differ))
            moment = from_milliseconds(int(timeframe.closes(given.time_open[index : index + 1])[0]))
            values = [[getattr(one, name)[index] for name in VALUES] for one in (old, given)]
            difference = _difference(content, moment, *values)
        changed += int(differ.sum())
        unchanged += int(len(old) - differ.sum())
        progress(int(at[-1]) + 1, len(new))
    progress(len(new), len(new))
    counts = Counts(len(new) - changed - unchanged, changed, unchanged)
    return Imported(counts, f"{first:%Y-%m-%d %H:%M}", f"{last:%Y-%m-%d %H:%M}", difference=difference)


def _range(content: Content, timeframe: Timeframe) -> tuple[datetime, datetime]:
    opens = content.candles.time_open
    return from_milliseconds(int(opens[0])), from_milliseconds(int(timeframe.closes(opens[-1:])[0]))


def _refusal(content: Content, moment: Any, stored: Any, new: Any) -> str:
    words = _difference(content, moment, stored, new)
    return f"{words}; nothing was imported (--replace overwrites what is stored)"


def _difference(content: Content, moment: Any, stored: Any, new: Any) -> str:
    """Which candle differs, how, and in which file."""
    where = [file.where for file in content.files if file.candles.time_open[0] < moment.timestamp() * 1000]
    old, given = (
        ", ".join(f"{name} {value:.10g}" for name, value in zip(VALUES, values, strict=True))
        for values in (stored, new)
    )
    return (
        f"{where[-1]}: the candle that closes at {moment:%Y-%m-%d %H:%M} UTC is stored with {old}, and the file has "
        f"{given}"
    )
