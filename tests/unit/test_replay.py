"""Candle files, klines of every interval, and the price between candles."""

import gzip
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trader.errors import InputError
from trader.simulator.candles import HEADER, SyntheticSeries, read_candles
from trader.simulator.market_clock import MarketClock
from trader.simulator.replay import Columns, Series
from trader.simulator.timeframe import DAY, HOUR, MINUTE, TIMEFRAMES, opens

T0 = 1_451_606_400_000  # 2016-01-01, a Friday


def file_of(folder: Path, *rows: str, header: str = HEADER, name: str = "candles.csv") -> Path:
    path = folder / name
    text = "\n".join([header, *rows]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def series(minutes: list[int], prices: list[float]) -> Series:
    """Candles whose open, high, low and close are p, p+2, p-1, p+1."""
    p = np.array(prices)
    times = T0 + MINUTE * np.array(minutes, dtype=np.int64)
    return Series(Columns(times, p, p + 2, p - 1, p + 1, np.ones_like(p)), "1m", 2)


@pytest.mark.parametrize("name", ["candles.csv", "candles.csv.gz"])
def test_a_file_is_read_and_its_interval_found(tmp_path: Path, name: str) -> None:
    path = file_of(tmp_path, f"{T0},1,3,0.5,2,10", f"{T0 + 300_000},2,2,2,2,0", name=name)
    read = read_candles(path)
    assert (read.base, read.start, read.end) == ("5m", T0, T0 + 600_000)
    assert read.timeframes() == [n for n, ms in TIMEFRAMES.items() if ms >= 300_000]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1,1,1,1,1,1", "1,1,1,1,1,1"], "line 3: time_open_ms is 1; it must be later than the line before"),
        (["1,2,1,1,1,1"], "line 2: high is 1; it must be at least open and close"),
        (["1,2,3,2.5,2,1"], "line 2: low is 2.5; it must be at most open and close"),
        (["1,1,1,0,1,1"], "line 2: low is 0; it must be above zero"),
        (["1,1,nan,1,1,1"], "line 2: high is nan; it must be a finite number"),
        (["1,1,1,1,1,-1"], "line 2: volume is -1; it must be zero or more"),
        (["1,1,1,1,1,1", "2,1,x,1,1,1"], "'x'"),
        (["1,1,1,1,1"], "has 5 fields"),
        ([], "holds no candles"),
    ],
)
def test_a_malformed_file_names_line_and_field(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(InputError) as wrong:
        read_candles(file_of(tmp_path, *rows))
    assert message in str(wrong.value)


def test_a_wrong_header_or_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1: the header"):
        read_candles(file_of(tmp_path, "1,1,1,1,1,1", header="time,open"))
    with pytest.raises(InputError, match="cannot be read"):
        read_candles(tmp_path / "absent.csv")
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(b"not gzip")
    with pytest.raises(InputError, match="cannot be read"):
        read_candles(broken)


def test_klines_leave_gaps_out_and_show_the_open_candle_last() -> None:
    gapped = series([0, 1, 3], [10, 20, 30])
    rows = gapped.klines("1m", T0 + 3 * MINUTE + 20_000, None, None, 500)
    assert [row[0] for row in rows] == [T0, T0 + MINUTE, T0 + 3 * MINUTE]
    assert rows[0] == (T0, 10, 12, 9, 11, 1, T0 + MINUTE - 1)
    assert rows[2][1:5] == (30, 30, 29, 29)  # a third in: from the open down to the low
    assert rows[2][5] == pytest.approx(1 / 3)


def test_klines_within_a_span() -> None:
    ten = series(list(range(10)), [10.0] * 10)
    now = T0 + 20 * MINUTE

    def minutes(start: int | None, end: int | None, limit: int) -> list[int]:
        return [(row[0] - T0) // MINUTE for row in ten.klines("1m", now, start, end, limit)]

    assert minutes(None, None, 3) == [7, 8, 9]
    assert minutes(T0 + 2 * MINUTE, None, 3) == [2, 3, 4]
    assert minutes(T0 + 2 * MINUTE - 1, T0 + 3 * MINUTE, 500) == [2, 3]
    assert minutes(None, T0 + 3 * MINUTE, 2) == [2, 3]
    assert minutes(T0 + 30 * MINUTE, None, 3) == []
    assert ten.klines("1m", T0 - 1, None, None, 3) == []


def test_weeks_open_on_monday_and_months_on_the_first() -> None:
    moment = np.array([int(datetime(2016, 3, 17, 5, 6, tzinfo=UTC).timestamp() * 1000)], dtype=np.int64)

    def day(timeframe: str) -> str:
        return str(datetime.fromtimestamp(int(opens(moment, timeframe)[0]) / 1000, UTC).date())

    assert (day("1w"), day("1M"), day("1d")) == ("2016-03-14", "2016-03-01", "2016-03-17")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=200, unique=True).map(sorted),
    st.sampled_from(["1m", "3m", "15m", "1h", "4h", "1d", "1w", "1M"]),
    st.integers(0, 3100 * MINUTE),
)
def test_longer_candles_are_put_together_from_the_shorter_ones(minutes: list[int], frame: str, after: int) -> None:
    whole = series(minutes, [10.0 + m % 7 for m in minutes])
    now = T0 + minutes[0] * MINUTE + after
    base = whole.klines("1m", now, None, None, 10_000)
    for row in whole.klines(frame, now, None, None, 10_000):
        inside = [b for b in base if row[0] <= b[0] <= row[6]]
        assert inside
        assert row[1] == inside[0][1]
        assert row[2] == max(b[2] for b in inside)
        assert row[3] == min(b[3] for b in inside)
        assert row[4] == inside[-1][4]
        assert row[5] == pytest.approx(sum(b[5] for b in inside))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=20, unique=True).map(sorted), st.data())
def test_extremes_hold_every_price_in_between(minutes: list[int], data: st.DataObject) -> None:
    whole = series(minutes, [10.0 + 3 * (m % 5) for m in minutes])
    after = data.draw(st.integers(T0, T0 + 32 * MINUTE))
    until = data.draw(st.integers(after, T0 + 33 * MINUTE))
    low, high = whole.extremes(after, until)
    seen = [whole.price(moment) for moment in range(after, until + 1, 500)]
    assert low <= min(seen)
    assert max(seen) <= high
    assert high <= float(whole.columns.high.max())
    assert low >= float(whole.columns.low.min())


def test_a_finished_candle_is_exactly_the_one_in_the_file() -> None:
    one = series([0], [10.0])
    assert one.klines("1m", T0 + MINUTE, None, None, 1)[0][1:6] == (10, 12, 9, 11, 1)


def test_a_synthetic_market_goes_on_for_ever_the_same_for_the_same_seed() -> None:
    first = SyntheticSeries("BTC/USDT", 7, T0, Decimal(100), 2)
    second = SyntheticSeries("BTC/USDT", 7, T0, Decimal(100), 2)
    for now in range(T0 + HOUR, T0 + 5 * DAY, 7 * HOUR):
        first.ensure(now)
    now = T0 + 5 * DAY
    assert first.klines("1h", now, None, None, 500) == second.klines("1h", now, None, None, 500)
    assert SyntheticSeries("BTC/USDT", 8, T0, Decimal(100), 2).price(now) != first.price(now)
    rows = first.klines("1m", now, None, None, 1000)
    assert all(low <= min(o, c) and high >= max(o, c) and low > 0 for _, o, high, low, c, _, _ in rows)


def test_the_market_clock_runs_at_its_speed_and_stops_at_the_end() -> None:
    clock = MarketClock(wall=1_000, market=T0, speed=60, end=T0 + HOUR)
    assert clock.now(2_000) == T0 + MINUTE
    clock.set_speed(2_000, 1)
    assert clock.now(3_000) == T0 + MINUTE + 1_000
    clock.advance(3_000, 2 * HOUR)
    assert clock.now(3_000) == T0 + HOUR
    assert MarketClock(**clock.state()).now(9_000) == clock.now(9_000)  # type: ignore[arg-type]


def test_a_year_of_minutes_is_read_and_served_quickly(tmp_path: Path) -> None:
    count = 290_000
    columns = [T0 + MINUTE * np.arange(count), *(np.full(count, 430.12),) * 4, np.full(count, 1.5)]
    path = tmp_path / "year.csv"
    np.savetxt(path, np.column_stack(columns), "%d,%.2f,%.2f,%.2f,%.2f,%.5f", header=HEADER, comments="")
    began = time.perf_counter()
    whole = read_candles(path)
    assert time.perf_counter() - began < 5  # about 0.4 s on an idle machine
    whole.klines("5m", T0 + 200 * DAY, None, None, 1000)
    began = time.perf_counter()
    assert len(whole.klines("5m", T0 + 200 * DAY, None, None, 1000)) == 1000
    assert time.perf_counter() - began < 0.1  # about 2 ms on an idle machine
