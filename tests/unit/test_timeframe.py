from datetime import UTC, datetime

import numpy as np
import pytest

from trader.bucket import TIMEFRAMES, bucket_ids, timeframe_named, timeframe_numbered
from trader.clock import from_milliseconds, to_milliseconds
from trader.errors import InputError


def at(*moments: str) -> np.ndarray:
    return np.array([to_milliseconds(datetime.fromisoformat(m).replace(tzinfo=UTC)) for m in moments], dtype=np.int64)


def test_months_follow_the_calendar() -> None:
    month = timeframe_named("1M")
    opens = at("2023-12-01", "2024-01-01", "2024-02-01")
    assert (month.closes(opens) == at("2024-01-01", "2024-02-01", "2024-03-01")).all()
    assert (month.opens(month.closes(opens)) == opens).all()
    assert from_milliseconds(month.earlier(int(at("2024-03-01")[0]), 14)) == datetime(2023, 1, 1, tzinfo=UTC)
    assert month.aligned(at("2024-01-01", "2024-01-02", "2024-01-01T01:00")).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [("1m", "2024-01-01T00:01", "2024-01-01T00:00:30"), ("15m", "2024-01-01T00:45", "2024-01-01T00:50"),
     ("1h", "2024-01-01T05:00", "2024-01-01T05:30"), ("1w", "2024-01-04T00:00", "2024-01-04T00:01")],
)  # fmt: skip
def test_where_candles_may_open(name: str, good: str, bad: str) -> None:
    assert timeframe_named(name).aligned(at(good, bad)).tolist() == [True, False]


def test_unknown_ones_are_named() -> None:
    with pytest.raises(InputError, match="timeframe '7m': allowed are 1m, 3m"):
        timeframe_named("7m")
    with pytest.raises(InputError, match="timeframe_id 7: allowed are 1, 3"):
        timeframe_numbered(7)


def test_ids_are_unique_ordered_by_time_and_the_same_every_time() -> None:
    closes = at("2024-01-01") + np.arange(1000) * 60_000
    ids = {}
    for timeframe in TIMEFRAMES.values():
        for market in (1, 2, 2**31 - 1):
            ids[timeframe.name, market] = [bytes(one) for one in bucket_ids(market, timeframe, closes)]
    flat = [one for group in ids.values() for one in group]
    assert len(set(flat)) == len(flat)
    assert all(group == sorted(group) for group in ids.values())
    assert {one[6] >> 4 for one in flat} == {8}
    assert {one[8] >> 6 for one in flat} == {0b10}
    assert ids["1m", 1] == [bytes(one) for one in bucket_ids(1, timeframe_named("1m"), closes)]
