"""What has been asked for: half-open ranges of opening times in milliseconds, sorted and apart, and what adds to them.

A candle that is not there is a gap if its opening time is covered, and not fetched yet if it is not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from psycopg.types.multirange import Multirange

from trader.bucket.timeframe import HOUR, Timeframe, Times
from trader.clock import from_milliseconds, to_milliseconds
from trader.exchange.protocol import CandleWays

Span = tuple[int, int]
FIRST_DAY = 1_199_145_600_000
"""2008: no venue is older."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a venue is asked: candles that open at or after `since` (None: the newest), at most `limit`."""

    since: int | None
    limit: int


def spans_of(ranges: "Multirange[datetime] | None") -> list[Span]:
    """Ranges of moments as PostgreSQL gives them, both ends known."""
    found = []
    for one in ranges or ():
        lower, upper = one.lower, one.upper
        if upper is not None:
            found.append((FIRST_DAY if lower is None else to_milliseconds(lower), to_milliseconds(upper)))
    return found


def united(spans: Iterable[Span]) -> list[Span]:
    """The same in order, overlapping and touching ones made one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        elif start < end:
            found.append((start, end))
    return found


def missing(covered: Sequence[Span], start: int, end: int) -> list[Span]:
    """The parts of [start, end) that are not covered, oldest first."""
    found = []
    for covered_from, covered_to in covered:
        if start < min(covered_from, end):
            found.append((start, min(covered_from, end)))
        start = max(start, covered_to)
    if start < end:
        found.append((start, end))
    return found


def first_opening(timeframe: Timeframe, moment: int) -> int:
    """The first moment at or after `moment` at which a candle may open."""
    if timeframe.span is None:
        month = timeframe.earlier(moment, 0)
        return month if month == moment else timeframe.earlier(moment, -1)
    grid = min(timeframe.span, HOUR)
    return -(-moment // grid) * grid


def closed_until(timeframe: Timeframe, now: int) -> int:
    """The end of the opening times of the candles that have closed by `now`."""
    if timeframe.span is None:
        return timeframe.earlier(now, 0)
    grid = min(timeframe.span, HOUR)
    return (now - timeframe.span) // grid * grid + grid


def length(timeframe: Timeframe, start: int, end: int) -> int:
    """How many candles may open in [start, end), at least 1."""
    if timeframe.span is None:
        months = np.array([start, end]).astype("datetime64[ms]").astype("datetime64[M]").astype(int)
        return max(1, int(months[1] - months[0]) + 1)
    return max(1, -(-(end - start) // timeframe.span))


def proven(
    ways: CandleWays, timeframe: Timeframe, question: Question, opens: Times, until: int | None, *, replay: bool = False
) -> Span | None:
    """Which opening times an answer says all of; None if it proves nothing.

    `opens` are the opening times in the answer, in order; the candles that open before `until` had closed before it was
    asked for. A full answer reaches to its last candle. What one that is not full says of the time after that, an empty
    one of all, and one that begins late of the time before, depends on the venue's ways.
    """
    if until is None or (question.since is None and not len(opens)):
        return None
    start = int(opens[0]) if question.since is None else question.since
    if question.since is not None and not replay:
        start = _reached(ways, timeframe, question, opens, until)
    if len(opens) >= question.limit or (len(opens) and not ways.skips_holes):
        end = int(timeframe.closes(opens[-1:])[0])
    elif ways.skips_holes:
        end = until
    else:
        end = timeframe.earlier(start, -question.limit)
    end = min(end, until)
    return (start, end) if start < end else None


def _reached(ways: CandleWays, timeframe: Timeframe, question: Question, opens: Times, until: int) -> int:
    """How far back an answer reaches that was to begin at `question.since`."""
    since = question.since or 0
    if ways.reach is not None:
        furthest = timeframe.earlier(until, ways.reach)
        if since < furthest:
            return int(opens[0]) if len(opens) else furthest
    elif not ways.skips_holes and len(opens) and int(opens[0]) >= timeframe.earlier(since, -question.limit):
        # Nobody has tried this venue, and it may have given newer candles instead of those that were asked for.
        return int(opens[0])
    return since


def moments(span: Span | None) -> dict[str, object]:
    """A span as parameters of a statement; None: no span."""
    start, end = (None, None) if span is None else map(from_milliseconds, span)
    return {"from": start, "to": end}
