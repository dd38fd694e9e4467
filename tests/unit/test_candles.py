from dataclasses import replace
from datetime import timedelta
from itertools import product

import numpy as np
import pytest

from tests.plugins._venue import START, candle
from trader.bucket import BadCandleError, check, closed, from_list, timeframe_named
from trader.bucket.candles import faults
from trader.exchange.protocol import Candle

MINUTE = timeframe_named("1m")


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("high", 1.0, "high 1.0 is below low"),
        ("open", float("nan"), "open nan is not a finite number"),
        ("close", float("inf"), "close inf is not a finite number"),
        ("low", 0.0, "low 0.0 is not above zero"),
        ("open", -5.0, "open -5.0 is not above zero"),
        ("volume", -1.0, "volume -1.0 is below zero"),
        ("volume", float("nan"), "volume nan is not a finite number"),
        ("open", 500.0, "is below open or close"),
        ("close", 90.0, "is above open or close"),
        ("time_open", START + timedelta(minutes=3, seconds=1), "is not where a 1m candle may open"),
        ("time_open", START + timedelta(minutes=2), "is there twice"),
        ("time_open", START + timedelta(minutes=1), "is before the candle above it"),
    ],
)
def test_a_candle_that_cannot_be_is_named(field: str, value: object, problem: str) -> None:
    given = [candle(i) for i in range(6)]
    given[3] = replace(given[3], **{field: value})
    with pytest.raises(BadCandleError, match=r"candle 4: .*") as caught:
        check(from_list(given), MINUTE)
    assert problem in str(caught.value)
    assert caught.value.index == 3


def test_a_candle_by_itself_is_blamed_as_it_is_among_others() -> None:
    values = list(product((float("nan"), float("inf"), -1.0, 0.0, 1.0, 2.0), repeat=5))
    bad = replace(candle(0), close=-1.0)
    given = from_list([*(Candle(START, *row) for row in values), bad])
    blamed = np.any([wrong for _, wrong, _ in faults(given, MINUTE)], axis=0)
    assert blamed[-1]
    assert not blamed.all()
    alone = [any(wrong.any() for _, wrong, _ in faults(given[i : i + 1], MINUTE)) for i in range(len(given))]
    assert alone == blamed.tolist()


def test_good_candles_pass_with_holes_between() -> None:
    check(from_list([candle(i) for i in (0, 1, 5, 100)]), MINUTE)
    check(from_list([]), MINUTE)


def test_the_venue_clock_tells_what_has_closed() -> None:
    given = from_list([candle(i) for i in range(4)])
    assert len(closed(given, MINUTE, START + timedelta(minutes=3))) == 3
    assert len(closed(given, MINUTE, START + timedelta(minutes=2, seconds=59.999))) == 2
    assert len(closed(given, MINUTE, START)) == 0


def test_of_replayed_candles_only_a_later_one_proves_that_one_has_closed() -> None:
    given = from_list([candle(i) for i in range(4)])
    assert closed(given, MINUTE, None).time_open.tolist() == given.time_open[:3].tolist()
    assert len(closed(given[:1], MINUTE, None)) == 0
    assert len(closed(given[:0], MINUTE, None)) == 0


def test_candles_are_cut_and_joined_as_columns() -> None:
    given = from_list([candle(i) for i in range(4)])
    joined = given[:1] + given[1:]
    assert np.array_equal(joined.high, given.high)
    assert len(given[given.time_open > given.time_open[1]]) == 2
