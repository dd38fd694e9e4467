"""Schedules: which candles are decided on."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from trader.errors import InputError
from trader.strategy import is_due, parse_schedule, scheduled


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "timeframe"),
    [("bucket", "1M"), ("minute", "1m"), ("hour", "1m"), ("hour", "1h"), ("day", "1m"), ("day", "8h"), ("day", "1d")],
)
def test_a_schedule_may_be_as_fine_as_its_candles(name: str, timeframe: str) -> None:
    assert parse_schedule(name, timeframe) == name


@pytest.mark.parametrize(
    ("name", "timeframe", "message"),
    [
        ("weekly", "1h", "schedule is 'weekly': allowed are bucket, minute, hour, day"),
        ("minute", "3m", "candles of 3m do not close every minute: allowed are bucket, hour, day$"),
        ("hour", "2h", "candles of 2h do not close every hour: allowed are bucket, day$"),
        ("day", "1w", "allowed are bucket$"),
        ("day", "1M", "allowed are bucket$"),
        ("day", "7m", "timeframe '7m'"),
    ],
)
def test_a_wrong_schedule_is_refused_with_what_is_allowed(name: str, timeframe: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_schedule(name, timeframe)


def test_days_end_at_midnight_utc() -> None:
    index = pd.date_range("2024-01-01 22:00", periods=28, freq="1h", tz="UTC")
    assert np.flatnonzero(scheduled(index, "day")).tolist() == [2, 26]
    assert scheduled(index, "bucket").all()
    assert scheduled(index, "hour").all()
    berlin = index.tz_convert("Europe/Berlin")
    assert scheduled(berlin, "day").tolist() == scheduled(index, "day").tolist()
    assert scheduled(index[:0], "day").tolist() == []


def test_a_missing_candle_leaves_its_moment_to_the_next() -> None:
    index = pd.date_range("2024-01-01 22:00", periods=6, freq="1h", tz="UTC").delete(2)
    assert scheduled(index, "day").tolist() == [False, False, True, False, False]
    assert scheduled(index[2:], "day").tolist() == [False, False, False]  # the first is at no such moment


def test_live_and_backtest_agree_on_what_is_due() -> None:
    rng = np.random.default_rng(1)
    whole = pd.date_range("2024-01-01 00:07", periods=4_000, freq="1min", tz="UTC")
    index = whole[np.sort(rng.choice(len(whole), 2_500, replace=False))]
    for name in ("bucket", "minute", "hour", "day"):
        last, due = None, []
        for close in index.to_pydatetime():
            due.append(is_due(name, last, close))  # type: ignore[arg-type]
            last = close
        assert due == scheduled(index, name).tolist()  # type: ignore[arg-type]


def test_after_a_downtime_it_is_due_once() -> None:
    assert is_due("day", moment("2024-01-01T00:00"), moment("2024-01-04T13:00"))
    assert not is_due("day", moment("2024-01-04T13:00"), moment("2024-01-04T14:00"))
    assert not is_due("day", None, moment("2024-01-04T14:00"))
    assert is_due("day", None, moment("2024-01-04T00:00"))
