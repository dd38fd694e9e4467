"""Larger candles out of smaller ones, against a brute force that walks the calendar."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trader.bucket import TIMEFRAMES, Candles, read_file, timeframe_named
from trader.bucket.derive import NOTHING, Derived, Ranges, derive, divides
from trader.clock import from_milliseconds, to_milliseconds
from trader.errors import InputError

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
PAIRS = [(a, b) for a in TIMEFRAMES.values() for b in TIMEFRAMES.values() if divides(a, b)]


def start_of(moment: datetime, name: str) -> datetime:
    """The opening of the period of `name` that holds `moment`, by the calendar."""
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if name == "1M":
        return midnight.replace(day=1)
    if name == "1w":
        return midnight - timedelta(days=moment.weekday())
    if name == "3d":
        return midnight - timedelta(days=(midnight - datetime(1970, 1, 1, tzinfo=UTC)).days % 3)
    step = timedelta(milliseconds=timeframe_named(name).span or 0)
    return midnight + (moment - midnight) // step * step


def end_of(start: datetime, name: str) -> datetime:
    if name == "1M":
        return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return start + timedelta(milliseconds=timeframe_named(name).span or 0)


def brute(source: Candles, smaller: str, larger: str, quiet: list[tuple[int, int]]) -> list[tuple]:
    """Candle by candle, as a person would."""
    step = timedelta(milliseconds=timeframe_named(smaller).span or 0)
    rows = {from_milliseconds(int(t)): i for i, t in enumerate(source.time_open)}
    made = []
    for start in sorted({start_of(moment, larger) for moment in rows}):
        moment, inside, lacking, unknown = start, [], 0, False
        while moment < end_of(start, larger):
            at = to_milliseconds(moment)
            if moment in rows:
                inside.append(rows[moment])
            else:
                lacking += 1
                unknown |= not any(a <= at < b for a, b in quiet)
            moment += step
        if not unknown:
            volume = sum((Decimal(repr(float(source.volume[i]))) for i in inside), Decimal(0))
            made.append((
                to_milliseconds(start), float(source.open[inside[0]]), float(max(source.high[inside])),
                float(min(source.low[inside])), float(source.close[inside[-1]]), float(volume), lacking > 0,
            ))  # fmt: skip
    return made


def rows(derived: Derived) -> list[tuple]:
    c = derived.candles
    columns = (c.time_open, c.open, c.high, c.low, c.close, c.volume, derived.partial)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def series(random: Random, name: str, start: datetime, count: int, holes: float) -> tuple[Candles, Ranges, list]:
    """Candles on the grid with holes, some of which are known to be quiet."""
    span = timeframe_named(name).span or 0
    first = to_milliseconds(start_of(start, name))
    there, quiet, i = [], [], 0
    while i < count:
        if random.random() < holes:
            length = random.randint(1, 40)
            if random.random() < 0.6 and there:
                quiet.append((first + i * span, first + min(i + length, count) * span))
            i += length
        there.extend(range(i, min(i + (run := random.randint(1, 90)), count)))
        i += run
    times = first + np.array(there, dtype=np.int64) * span
    low = np.array([random.randint(1, 10**6) / 100 for _ in there])
    volume = np.array([random.randint(0, 10**9) / 10**8 for _ in there])
    candles = Candles(times, low + 1, low + 2, low, low + 0.5, volume)
    starts, ends = (np.array([pair[i] for pair in quiet], dtype=np.int64) for i in (0, 1))
    return candles, Ranges(starts, ends), quiet


@settings(max_examples=150, deadline=None)
@given(
    pair=st.sampled_from(PAIRS),
    seed=st.integers(0, 10**6),
    start=st.datetimes(datetime(1971, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    count=st.integers(0, 1500),
)
def test_it_is_what_a_walk_over_the_calendar_makes(pair: tuple, seed: int, start: datetime, count: int) -> None:
    smaller, larger = pair
    source, quiet, plain = series(Random(seed), smaller.name, start, count, holes=seed % 3 / 20)
    assert rows(derive(source, smaller, larger, quiet)) == brute(source, smaller.name, larger.name, plain)


def test_months_and_weeks_across_a_leap_day() -> None:
    day = timeframe_named("1d")
    first = to_milliseconds(datetime(2024, 1, 1, tzinfo=UTC))  # a Monday
    times = first + np.arange(91, dtype=np.int64) * (day.span or 0)
    price = np.arange(1.0, 92.0)
    source = Candles(times, price, price, price, price, np.ones(91))
    months = derive(source, day, timeframe_named("1M")).candles
    assert months.volume.tolist() == [31, 29, 31]
    assert months.open.tolist() == [1, 32, 61]
    weeks = derive(source, day, timeframe_named("1w")).candles
    assert len(weeks) == 13
    assert from_milliseconds(int(weeks.time_open[0])) == datetime(2024, 1, 1, tzinfo=UTC)


def test_which_timeframes_fit() -> None:
    names = {(a.name, b.name) for a, b in PAIRS}
    minute = {b for a, b in names if a == "1m"}
    assert minute == set(TIMEFRAMES) - {"1m"}
    assert {a for a, b in names if b == "1w"} == set(TIMEFRAMES) - {"1w", "1M", "3d"}
    assert {a for a, b in names if b == "1M"} == set(TIMEFRAMES) - {"1w", "1M", "3d"}
    assert not {("3m", "5m"), ("2h", "1h"), ("1h", "1h"), ("8h", "12h"), ("1M", "1w")} & names


def test_what_does_not_fit_is_refused() -> None:
    minute, hour, day = (timeframe_named(name) for name in ("1m", "1h", "1d"))
    nothing = Candles(*(np.empty(0, kind) for kind in (np.int64, *[np.float64] * 5)))
    with pytest.raises(InputError, match="1h cannot be derived from 1d"):
        derive(nothing, day, hour)
    assert len(derive(nothing, minute, hour).candles) == 0
    one = np.ones(1)
    elsewhere = Candles(np.array([16 * 3_600_000]), one, one, one, one, one)
    with pytest.raises(InputError, match="a 1d candle opens at 1970-01-01 16:00:00 UTC"):
        derive(elsewhere, day, timeframe_named("1w"))


@pytest.mark.skipif(not DATA.is_dir(), reason="NOT RUN: ../shared/data is not here")
def test_the_minutes_of_2016_make_the_hours_and_days_of_2016() -> None:
    minute = timeframe_named("1m")
    source = read_file(DATA / "bitfinex_BTC-USD_1m_2016.csv.gz", minute)
    step = minute.span or 0
    edges = np.append(source.time_open, to_milliseconds(datetime(2017, 1, 1, tzinfo=UTC)))
    hole = np.diff(edges) > step
    quiet = Ranges(edges[:-1][hole] + step, edges[1:][hole])
    for name, count, whole in (("1h", 7122, 352), ("1d", 299, 0)):
        larger = timeframe_named(name)
        wanted = read_file(DATA / f"bitfinex_BTC-USD_{name}_2016_derived.csv.gz", larger)
        derived = derive(source, minute, larger, quiet)
        for column in ("time_open", "open", "high", "low", "close", "volume"):
            assert getattr(derived.candles, column).tolist() == getattr(wanted, column).tolist()
        assert (len(wanted), int((~derived.partial).sum())) == (count, whole)
        assert len(derive(source, minute, larger, NOTHING).candles) == whole
