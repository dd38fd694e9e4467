"""What an answer of a venue proves, and what is missing then."""

from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trader.bucket import timeframe_named
from trader.bucket.coverage import Question, closed_until, first_opening, length, missing, proven, united
from trader.exchange.protocol import CandleWays

MINUTE, DAY, MONTH = (timeframe_named(name) for name in ("1m", "1d", "1M"))
UNKNOWN, SKIPS = CandleWays(10), CandleWays(10, skips_holes=True)
RECENT = CandleWays(10, reach=9, skips_holes=True)
SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair))), max_size=8)


def minute(*numbers: float) -> list[int]:
    return [int(number * 60_000) for number in numbers]


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("ways", "since", "limit", "opens", "until", "span"),
    [
        (SKIPS, 0, 10, range(10), 100, (0, 10)),  # full: up to its last candle
        (SKIPS, 0, 10, range(4), 100, (0, 100)),  # not full: up to the present
        (SKIPS, 0, 10, [], 100, (0, 100)),
        (SKIPS, 0, 10, range(50, 60), 100, (0, 60)),
        (SKIPS, 95, 10, range(95, 101), 100, (95, 100)),  # the last one is open
        (SKIPS, 100, 10, [100], 100, None),
        (UNKNOWN, 0, 10, range(4), 100, (0, 4)),
        (UNKNOWN, 0, 10, [], 100, (0, 10)),
        (UNKNOWN, 95, 10, [], 100, (95, 100)),
        (UNKNOWN, 0, 10, range(5, 9), 100, (0, 9)),
        (UNKNOWN, 0, 10, range(50, 60), 100, (50, 60)),  # perhaps it does not heed what it is asked
        (UNKNOWN, 0, 3, range(4, 6), 100, (4, 6)),
        (RECENT, 0, 10, range(91, 101), 100, (91, 100)),
        (RECENT, 92, 10, range(95, 101), 100, (92, 100)),
        (RECENT, 0, 10, [], 100, (91, 100)),
        (SKIPS, None, 10, range(91, 101), 100, (91, 100)),
        (UNKNOWN, None, 10, [], 100, None),
    ],
)
def test_what_an_answer_proves(ways, since, limit, opens, until, span) -> None:
    question = Question(None if since is None else minute(since)[0], limit)
    found = proven(ways, MINUTE, question, np.array(minute(*opens), dtype=np.int64), minute(until)[0])
    assert found == (None if span is None else tuple(minute(*span)))


@given(SPANS, st.integers(0, 60), st.integers(0, 60))
def test_covered_and_missing_are_the_whole_and_do_not_overlap(spans, start, end) -> None:
    covered = united(spans)
    assert all(a[1] < b[0] for a, b in pairwise(covered))
    inside = {point for a, b in spans for point in range(a, b)}
    assert {point for a, b in covered for point in range(a, b)} == inside
    absent = [point for a, b in missing(covered, start, end) for point in range(a, b)]
    assert absent == [point for point in range(start, end) if point not in inside]


@pytest.mark.parametrize(
    ("timeframe", "now", "until"),
    [
        (MINUTE, "2024-01-01T10:05:59", "2024-01-01T10:05"),
        (MINUTE, "2024-01-01T10:05:00", "2024-01-01T10:05"),
        (DAY, "2024-01-03T12:34", "2024-01-02T13:00"),  # a venue's day may begin at any hour
        (MONTH, "2024-03-31T23:59", "2024-03-01"),
        (MONTH, "2024-03-01", "2024-03-01"),
    ],
)
def test_up_to_when_candles_have_closed(timeframe, now, until) -> None:
    assert closed_until(timeframe, ms(now)) == ms(until)


@pytest.mark.parametrize(
    ("timeframe", "moment", "opening"),
    [
        (MINUTE, "2024-01-01T10:05:01", "2024-01-01T10:06"),
        (MINUTE, "2024-01-01T10:05:00", "2024-01-01T10:05"),
        (MONTH, "2024-01-01T00:00:01", "2024-02-01"),
        (MONTH, "2024-02-01", "2024-02-01"),
    ],
)
def test_the_first_moment_at_which_a_candle_may_open(timeframe, moment, opening) -> None:
    assert first_opening(timeframe, ms(moment)) == ms(opening)


def test_how_many_candles_there_is_room_for() -> None:
    assert length(MINUTE, *minute(3, 7)) == 4
    assert length(MINUTE, *minute(3, 3.5)) == 1
    assert length(MONTH, ms("2024-01-01"), ms("2024-03-01")) >= 2
