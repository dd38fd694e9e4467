"""Candles that cannot be: left out of a page one by one, with the reason, so that the rest of the page is kept."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trader.bucket.candles import Candles, faults, from_list, numbers_of
from trader.bucket.timeframe import Timeframe, Times
from trader.clock import from_milliseconds, to_milliseconds
from trader.db import Connection, texts
from trader.exchange.protocol import BadCandle, CandlePage

NOTE = """
WITH noted AS (
  INSERT INTO bucket_refusal AS r (market_id, timeframe_id, stamp, field, reason)
  SELECT %(market)s, %(timeframe)s, n.stamp, n.field, n.reason
    FROM unnest(%(stamps)s::text[], %(fields)s::text[], %(reasons)s::text[]) n (stamp, field, reason)
   ORDER BY n.stamp, n.field
  ON CONFLICT (market_id, timeframe_id, stamp, field) DO UPDATE SET reason = EXCLUDED.reason, times = r.times + 1,
    last_seen = clock_timestamp()
  RETURNING (xmax = 0) AS is_new
)
SELECT count(*) FILTER (WHERE is_new) AS new FROM noted
"""


_DIFFERENT = "is there twice, with other numbers"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One candle that was left out: when it says that it opens, which field is to blame, and why."""

    stamp: str
    field: str
    problem: str


@dataclass(frozen=True, slots=True)
class Sifted:
    """What is left of a page, oldest first, and what is not; `opens` are the opening times of all of it, in order."""

    candles: Candles
    opens: Times
    refusals: tuple[Refusal, ...]


def sift(page: CandlePage, timeframe: Timeframe, since: int | None, now: int | None) -> Sifted:
    """Leave out what is no candle, and what opens before it was asked for, which is no fault.

    A candle that opens after the venue's clock `now` is refused; one that is still open is not, `closed` sees to it.
    """
    candles = from_list(page)
    reasons: dict[int, Refusal] = {}
    for field, bad, problem in faults(candles, timeframe):
        _blame(reasons, candles, field, bad, problem)
    if now is not None:
        _blame(reasons, candles, "time_open", candles.time_open > now, "is after the venue's clock")
    _blame_order(reasons, candles)
    asked = candles.time_open >= since if since is not None else np.ones(len(candles), dtype=bool)
    good = asked.copy()
    good[list(reasons)] = False
    stamps = [to_milliseconds(one.time_open) for one in page.refused if one.time_open is not None]
    times = np.concatenate([candles.time_open[asked], np.array(stamps, dtype=np.int64)])
    times = times[timeframe.aligned(times) & (times >= (since or 0)) & (times <= (now or times.max(initial=0)))]
    refusals = [_of_row(one) for one in page.refused]
    refusals += [reasons[index] for index in sorted(reasons) if asked[index]]
    return Sifted(candles[good], np.unique(times), tuple(refusals))


def _of_row(row: BadCandle) -> Refusal:
    stamp = f"{row.time_open:%Y-%m-%d %H:%M:%S}" if row.time_open is not None else row.text[:60]
    return Refusal(_storable(stamp), row.field, _storable(row.problem))


def _storable(text: str) -> str:
    """What PostgreSQL can keep of a text that somebody else wrote."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\\0")


def _blame(reasons: dict[int, Refusal], candles: Candles, field: str, bad: NDArray[np.bool_], problem: str) -> None:
    for index in np.flatnonzero(bad).tolist():
        if index not in reasons:
            value = "" if field == "time_open" else f"{float(getattr(candles, field)[index])!r} "
            stamp = f"{from_milliseconds(int(candles.time_open[index])):%Y-%m-%d %H:%M:%S}"
            reasons[index] = Refusal(stamp, field, f"{value}{problem}")


def _blame_order(reasons: dict[int, Refusal], candles: Candles) -> None:
    """Of twins one is kept, of two that differ none; whatever comes after a later one is out of order.

    Only those count that are right by themselves: a wrong one must not put the right ones in the wrong.
    """
    if not reasons and bool(np.all(np.diff(candles.time_open) > 0)):
        return
    last = -1
    firsts: dict[int, int] = {}
    for index, opened in enumerate(candles.time_open.tolist()):
        if index in reasons:
            continue
        first = firsts.setdefault(opened, index)
        if opened < last:
            _blame_one(reasons, candles, index, "comes after a later candle")
        elif first != index:
            same = np.array_equal(numbers_of(candles, first), numbers_of(candles, index))
            _blame_one(reasons, candles, index, "is there twice" if same else _DIFFERENT)
            if not same:
                _blame_one(reasons, candles, first, _DIFFERENT)
        last = max(last, opened)


def _blame_one(reasons: dict[int, Refusal], candles: Candles, index: int, problem: str) -> None:
    bad = np.zeros(len(candles), dtype=bool)
    bad[index] = True
    _blame(reasons, candles, "time_open", bad, problem)


async def note_refusals(connection: Connection, market_id: int, timeframe: Timeframe, found: Sequence[Refusal]) -> int:
    """Store why candles were left out; how many of them had not been seen before."""
    if not found:
        return 0
    once = {(one.stamp, one.field): one for one in found}.values()
    parameters = {
        "market": market_id,
        "timeframe": timeframe.id,
        "stamps": texts(one.stamp for one in once),
        "fields": texts(one.field for one in once),
        "reasons": texts(one.problem for one in once),
    }
    row = await (await connection.execute(NOTE, parameters)).fetchone()
    return int(row.new) if row is not None else 0
