"""Candles that cannot be are left out one by one."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.plugins._venue import START, candle
from trader.bucket import check, timeframe_named
from trader.bucket.refusal import sift
from trader.clock import to_milliseconds
from trader.exchange.protocol import BadCandle, CandlePage

MINUTE = timeframe_named("1m")
NOW = to_milliseconds(START + timedelta(minutes=100))
GOOD = [candle(i) for i in range(6)]


def sifted(page, since=None, now=NOW):
    return sift(CandlePage(page), MINUTE, since, now)


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"high": 1.0}, "high", "1.0 is below low"),
        ({"low": 900.0, "high": 950.0}, "low", "900.0 is above open or close"),
        ({"close": 900.0}, "high", "106.0 is below open or close"),
        ({"volume": -0.5}, "volume", "-0.5 is below zero"),
        ({"volume": float("inf")}, "volume", "inf is not a finite number"),
        ({"open": float("nan")}, "open", "nan is not a finite number"),
        ({"low": 0.0}, "low", "0.0 is not above zero"),
        ({"time_open": START + timedelta(minutes=3, seconds=1)}, "time_open", "is not where a 1m candle may open"),
        ({"time_open": START + timedelta(days=9)}, "time_open", "is after the venue's clock"),
        ({"time_open": datetime(2023, 1, 1, tzinfo=UTC)}, "time_open", "comes after a later candle"),
    ],
)
def test_one_bad_candle_is_left_out_and_the_rest_is_kept(change, field, problem) -> None:
    page = [*GOOD[:3], replace(GOOD[3], **change), *GOOD[4:]]
    found = sifted(page)
    kept = [c for c in GOOD if c is not GOOD[3]]
    assert (found.refusals[0].field, found.refusals[0].problem) == (field, problem)
    assert list(found.candles.open) == [c.open for c in kept]
    assert len(found.refusals) == 1
    check(found.candles, MINUTE)


def test_a_candle_from_the_future_does_not_put_the_others_out_of_order() -> None:
    far = replace(GOOD[2], time_open=START + timedelta(days=9))
    found = sifted([*GOOD[:2], far, *GOOD[3:]])
    assert list(found.candles.open) == [c.open for i, c in enumerate(GOOD) if i != 2]


def test_of_twins_one_is_kept_and_of_two_that_differ_none() -> None:
    found = sifted([*GOOD[:3], GOOD[2], *GOOD[3:5], replace(GOOD[4], volume=7.5), GOOD[5]])
    assert list(found.candles.open) == [GOOD[i].open for i in (0, 1, 2, 3, 5)]
    assert [one.problem for one in found.refusals] == [
        "is there twice",
        "is there twice, with other numbers",
        "is there twice, with other numbers",
    ]
    check(found.candles, MINUTE)


def test_a_good_one_beside_a_bad_twin_is_kept() -> None:
    found = sifted([GOOD[0], replace(GOOD[0], high=1.0), GOOD[1]])
    assert list(found.candles.open) == [GOOD[0].open, GOOD[1].open]
    assert [one.field for one in found.refusals] == ["high"]


def test_what_opens_before_it_was_asked_for_is_no_fault() -> None:
    found = sifted(GOOD, since=to_milliseconds(GOOD[2].time_open))
    assert list(found.candles.open) == [c.open for c in GOOD[2:]]
    assert found.refusals == ()


def test_rows_that_were_none_count_as_answered() -> None:
    bad = BadCandle(START + timedelta(minutes=6), "[...]", "close", "'x' is not a number")
    lost = BadCandle(None, "['\x00', 1]", "row", "does not have six fields")
    found = sift(CandlePage(GOOD, [bad, lost]), MINUTE, None, NOW)
    assert len(found.opens) == 7
    assert [(one.stamp, one.field) for one in found.refusals] == [
        ("2024-01-01 00:06:00", "close"),
        ("['\\0', 1]", "row"),
    ]
    assert len(found.candles) == 6
