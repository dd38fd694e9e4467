"""Candle files: CSV, or CSV in gzip, checked as a whole before one row of it is stored."""

import csv
import gzip
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trader.bucket.candles import BadCandleError, Candles, check
from trader.bucket.timeframe import DAY, Timeframe, Times
from trader.bucket.write import ROWS, Counts, find_difference, write_buckets
from trader.clock import from_milliseconds
from trader.db import Connection
from trader.errors import InputError

FIELDS = ("time_open_ms", "open", "high", "low", "close", "volume")
HEADER = ",".join(FIELDS)
Stamp = Literal["open", "close"]
LARGEST = 2_000_000_000
"""Bytes, unpacked."""

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


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did."""

    counts: Counts
    first_open: str
    last_close: str


def read_file(path: Path, timeframe: Timeframe, stamp: Stamp = "open") -> Candles:
    """The candles in a file with the header `time_open_ms,open,high,low,close,volume`; `.gz` is unpacked.

    `stamp` says what the time column means: when a candle opens, or when it closes. Raises InputError naming the file,
    the line and the field of the first thing that is wrong; the file is good as a whole, or not at all.
    """
    lines = _lines(path)
    table = _table(path, lines)
    times = table[:, 0]
    _whole(path, times)
    opens = _opens(path, times.astype(np.int64), timeframe, stamp)
    candles = Candles(opens, *(np.ascontiguousarray(table[:, i]) for i in range(1, len(FIELDS))))
    try:
        check(candles, timeframe)
    except BadCandleError as error:
        field = "time_open_ms" if error.field == "time_open" else error.field
        raise InputError(f"{path}, line {error.index + 2}: {field} {error.problem}") from None
    _check_spacing(path, candles, timeframe)
    return candles


def _lines(path: Path) -> str:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise InputError(f"{path}: is larger than {LARGEST} bytes; split it")
        text = data.decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be unpacked: {error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text: byte {error.start} is not UTF-8") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _table(path: Path, text: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    header, _, body = text.partition("\n")
    if header.strip() != HEADER:
        raise InputError(f"{path}, line 1: the header is {header.strip()[:80]!r}; it must be {HEADER!r}")
    body = body.rstrip("\n")
    if not body.strip():
        raise InputError(f"{path}: holds no candles")
    try:
        table = np.loadtxt(io.StringIO(body), delimiter=",", dtype=np.float64, ndmin=2, comments=None)
    except ValueError:
        table = np.empty((0, 0))
    # numpy skips empty lines, and names neither line nor field: what is not right at once is read again, slowly.
    if table.shape != (body.count("\n") + 1, len(FIELDS)):
        raise InputError(_what_is_wrong(path, body))
    return table


def _what_is_wrong(path: Path, body: str) -> str:
    for number, row in enumerate(csv.reader(body.split("\n")), start=2):
        if len(row) != len(FIELDS):
            return f"{path}, line {number}: has {len(row)} fields; it must have {len(FIELDS)}: {HEADER}"
        for field, value in zip(FIELDS, row, strict=True):
            try:
                float(value)
            except ValueError:
                return f"{path}, line {number}: {field} is {value[:40]!r}; it must be a number"
    return f"{path}: cannot be read as {HEADER}"


def _whole(path: Path, times: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    bad = ~np.isfinite(times) | (times != np.floor(times)) | (np.abs(times) > 2**53) | (times < 0)
    if bad.any():
        index = int(np.argmax(bad))
        raise InputError(
            f"{path}, line {index + 2}: time_open_ms is {times[index]:.17g}; "
            "it must be a whole number of milliseconds since 1970"
        )
    if times.max() >= 1e13:
        index = int(np.argmax(times >= 1e13))
        raise InputError(f"{path}, line {index + 2}: time_open_ms is {times[index]:.17g}: that is after the year 2286")


def _opens(path: Path, stamps: Times, timeframe: Timeframe, stamp: Stamp) -> Times:
    """When the candles open. A month stamped with its end may carry its last day instead: many tools do that."""
    if stamp == "open":
        return stamps
    closes = stamps
    if timeframe.span is None:
        closes = np.where(timeframe.aligned(stamps + DAY), stamps + DAY, stamps)
    opens = timeframe.opens(closes)
    wrong = timeframe.closes(opens) != closes
    if wrong.any():
        index = int(np.argmax(wrong))
        moment = f"{stamps[index]} ({from_milliseconds(int(stamps[index])):%Y-%m-%d %H:%M:%S} UTC)"
        raise InputError(
            f"{path}, line {index + 2}: time_open_ms {moment} is not where a {timeframe.name} candle closes"
        )
    return opens


def _check_spacing(path: Path, candles: Candles, timeframe: Timeframe) -> None:
    """A file of hours given as minutes would pass as minutes with many gaps."""
    if len(candles) < 3:
        return
    closes = timeframe.closes(candles.time_open)
    if not (closes[:-1] >= candles.time_open[1:]).any():
        least = int(np.diff(candles.time_open).min()) // 60_000
        raise InputError(
            f"{path}: no two candles are {timeframe.name} apart, the closest are {least} minutes apart; "
            "is the timeframe right?"
        )


async def import_file(
    connection: Connection,
    path: Path,
    market_id: int,
    timeframe: Timeframe,
    stamp: Stamp = "open",
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    replace: bool = False,
) -> Imported:
    """Store the candles of a file: all of them or, if anything is wrong, none.

    Makes the feed's row if there is none, switched off. `progress` is told how many of how many are stored. Raises
    InputError as `read_file` does, and for a candle that is stored with other numbers, unless it is to `replace` it.
    """
    candles = read_file(path, timeframe, stamp)
    first = from_milliseconds(int(candles.time_open[0]))
    last = from_milliseconds(int(timeframe.closes(candles.time_open[-1:])[0]))
    total = Counts()
    async with connection.transaction():
        for start in range(0, len(candles), ROWS):
            part = candles[start : start + ROWS]
            if not replace and (found := await find_difference(connection, market_id, timeframe, part)):
                raise InputError(_difference(path, found))
            total += await write_buckets(connection, market_id, timeframe, part, "imported")
            progress(start + len(part), len(candles))
        feed = {"market": market_id, "timeframe": timeframe.id, "first": first, "last": last}
        await connection.execute(ADD_FEED, feed)
    return Imported(total, f"{first:%Y-%m-%d %H:%M}", f"{last:%Y-%m-%d %H:%M}")


def _difference(path: Path, found: Any) -> str:
    stored, new = (
        ", ".join(f"{name} {value:.10g}" for name, value in zip(FIELDS[1:], values, strict=True))
        for values in (found.stored, found.new)
    )
    return (
        f"{path}: the candle that closes at {found.time_close:%Y-%m-%d %H:%M} UTC is stored with {stored}, and the "
        f"file has {new}; nothing was imported (--replace overwrites what is stored)"
    )
