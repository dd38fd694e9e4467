"""What is kept of a run: its fills, the closes that matter, hashes of what it was made of, and why it failed."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.unit.test_backtest_array import bars_at
from trader.backtest.array import run
from trader.backtest.data import bars_from_frame
from trader.backtest.load import Loaded, load_files
from trader.backtest.measures import measure, unit_values
from trader.backtest.origin import code_of, digest_of, version
from trader.backtest.record import (
    MEASURES,
    Run,
    began,
    compute,
    decimal,
    drawdowns,
    made_of,
    points_of,
    shortage,
    trades_of,
)
from trader.backtest.run import Frames
from trader.backtest.settings import parse_settings
from trader.backtest.thin import PARTS, month_ends, parts_of, thinned
from trader.bucket.timeframe import DAY, HOUR
from trader.errors import InputError
from trader.strategy import Strategy, load

STARTED = datetime(2024, 1, 1, tzinfo=UTC)
HEADER = "time_open_ms,open,high,low,close,volume\n"


def walk(bars: int = 5_000, *, hole: range = range(0)) -> pd.DataFrame:
    """Hourly candles of a seeded walk."""
    steps = np.random.default_rng(7).normal(0.0001, 0.01, bars)
    close = 100 * np.exp(np.cumsum(steps))
    opens = np.concatenate(([100.0], close[:-1]))
    index = pd.date_range("2023-01-01 01:00", periods=bars, freq="1h", tz="UTC", unit="ms", name="time_close")
    frame = pd.DataFrame(
        {
            "open": opens,
            "high": np.maximum(opens, close) * 1.004,
            "low": np.minimum(opens, close) * 0.996,
            "close": close,
            "volume": 5.0,
        },
        index=index,
    )
    return frame.drop(frame.index[list(hole)])


def loaded(frame: pd.DataFrame) -> Loaded:
    return Loaded(Frames(frame, "1h"), None, "a file.csv", {}, None, None)


def run_of(path: str = "strategies.sma_cross:SmaCross", frame: pd.DataFrame | None = None, **terms: object) -> Run:
    strategy, settings = load(path), parse_settings({"quantity_step": "0.0001", "price_tick": "0.01", **terms})
    over = loaded(walk() if frame is None else frame)
    started = began(strategy, over, settings, "bucket", STARTED, path=path)
    return compute(strategy, over, settings, started)[0]


# What is kept


def test_parts_are_equal_and_cover_everything() -> None:
    assert parts_of(3).tolist() == [0, 1, 2]
    starts = parts_of(1_003, 10)
    assert starts[0] == 0
    assert set(np.diff(np.append(starts, 1_003)).tolist()) == {100, 101}


def test_no_peak_and_no_trough_is_lost() -> None:
    time = np.arange(1, 50_001) * HOUR
    column = np.random.default_rng(3).normal(size=50_000).cumsum()
    kept = thinned(time, (column,), [17, 49_998])
    for place in (int(column.argmax()), int(column.argmin()), 0, 49_999, 17, 49_998):
        assert place in kept
    assert set(np.flatnonzero(month_ends(time))) <= set(kept.tolist())
    assert len(kept) <= 4 * PARTS + 2 + 70
    for part in np.array_split(np.arange(50_000), PARTS):
        there = column[np.intersect1d(part, kept)]
        assert (there.max(), there.min()) == (column[part].max(), column[part].min())


def test_a_close_at_midnight_ends_the_month_before() -> None:
    january = 31 * DAY
    assert month_ends(np.array([january - HOUR, january, january + HOUR])).tolist() == [False, True, True]


def test_fills_by_hand() -> None:
    """Fee 1 % of what is got: 1,000 buy 100 less 1; 99 at 12 are 1,188 less 11.88: 176.12 realised."""
    bars = bars_at([10, 10, 10, 12, 12], [10, 10, 11, 12, 12])
    terms = parse_settings({"deposit": 1_000, "taker": "0.01", "quantity_step": "0.001", "price_tick": "0.01"})
    bought, sold = trades_of(run(bars, np.array([0, 1.0, 0, 0, 0]), terms))
    assert (bought.side, bought.price, bought.quantity, bought.quote) == ("buy", 10, 100, 1_000)
    assert (bought.fee, bought.fee_in, bought.realised, bought.order_number) == (1, "base", None, 1)
    assert (sold.side, sold.quantity, sold.fee, sold.fee_in) == ("sell", 99, Decimal("11.88"), "quote")
    assert sold.realised == Decimal("176.12")
    assert (sold.time_close - sold.decided_at).total_seconds() == 60
    assert (bought.number, sold.number, sold.after_gap, sold.liquidity) == (1, 2, False, "taker")


def test_what_is_kept_of_a_run_is_what_it_measured() -> None:
    strategy = load("strategies.sma_cross:SmaCross")
    over = loaded(walk(hole=range(2_000, 2_100)))
    started = began(strategy, over, parse_settings({}), "bucket", STARTED, path="strategies.sma_cross:SmaCross")
    stored, result, since = compute(strategy, over, parse_settings({}), started)
    assert result is not None
    assert stored.made is not None
    assert (since, stored.warm_up, stored.engine) == (99, 100, "array")
    measured, points = measure(result, since), stored.made.points
    assert max(float(point.drawdown_percent) for point in points) == pytest.approx(measured.max_drawdown_percent)
    assert max(float(point.equity) for point in points) == pytest.approx(float(result.equity.max()))
    assert float(points[-1].unit_value) == pytest.approx(1 + measured.return_percent / 100)
    held = points[-1].held_value
    assert held is not None
    assert measured.buy_and_hold_percent is not None
    assert float(held) == pytest.approx(1 + measured.buy_and_hold_percent / 100)
    assert stored.made.held is not None
    assert stored.made.held["return_percent"] == pytest.approx(measured.buy_and_hold_percent, rel=1e-4)
    assert set(stored.made.measures) == set(MEASURES)
    assert stored.made.measures["gaps"] == 1
    (gap,) = stored.made.longest_gaps
    assert gap == {"from": "2023-03-25T08:00:00+00:00", "to": "2023-03-29T12:00:00+00:00", "missing": 100}
    realised = sum(trade.realised for trade in stored.made.trades if trade.realised is not None)
    assert float(realised) == pytest.approx(measured.realised)
    assert stored.made.confidence is not None
    low, high = stored.made.confidence["sharpe"]
    assert measured.sharpe is not None
    assert low < measured.sharpe < high


def test_the_same_run_is_the_same_but_for_its_time() -> None:
    assert run_of() == run_of()


def test_a_run_has_all_that_is_needed_to_do_it_again() -> None:
    flows = [{"at": "2023-02-01T00:00:00+02:00", "amount": "-100.5"}]
    run = run_of("strategies.moving_average:MovingAverage", walk(2_000), stake="33.3", flows=flows, volume_share="0.1")
    stored = json.loads(json.dumps(run.settings))
    again = run_of(run.path, walk(2_000), **stored)
    assert again == run
    assert load(run.path, run.params).params == load(run.path).params


def test_the_start_is_a_peak() -> None:
    assert drawdowns(np.array([0.9, 1.2, 0.6])).tolist() == pytest.approx([10, 0, 50])


def test_fifteen_digits_mean_something() -> None:
    assert decimal(0.1 + 0.2) == Decimal("0.3")
    assert decimal(1e-10) == Decimal("1E-10")


def test_one_bar_is_enough() -> None:
    bars = bars_at([10], [10])
    result = run(bars, np.array([0.0]), parse_settings({}))
    (point,) = points_of(result, unit_values(result.equity, result.flows), None)
    assert (point.equity, point.held_value, point.drawdown_percent) == (10_000, None, 0)
    assert made_of(result, 0, 0).confidence is None


# What it was made of


def test_one_other_candle_is_another_digest() -> None:
    frame, other = walk(500), walk(500)
    assert digest_of(frame) == digest_of(other)
    other.loc[other.index[77], "volume"] = 5.0000001
    assert digest_of(frame) != digest_of(other)
    assert digest_of(frame) != digest_of(frame.iloc[1:])
    assert digest_of(frame, {"daily": frame}) != digest_of(frame, {"weekly": frame})
    assert digest_of(frame.set_axis(frame.index.as_unit("us"))) == digest_of(frame)


MINE = """
import pandas as pd
from trader.strategy import Strategy

class Mine(Strategy):
    @property
    def warm_up(self):
        return 2

    def signal(self, candles):
        {body}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module with a class Mine of the given body of `signal`, and gives its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def write(body: str) -> str:
        name = f"mine_{tmp_path.name.replace('-', '_')}_{len(made)}"
        made.append(name)
        (tmp_path / f"{name}.py").write_text(MINE.format(body=body))
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


def test_other_code_is_another_hash(module: Callable[[str], str]) -> None:
    one = load(f"{module('return candles.close * 0')}:Mine")
    other = load(f"{module('return candles.close * 0 + 1')}:Mine")
    assert code_of(type(one)) != code_of(type(other))
    assert code_of(type(one)) == code_of(type(one))
    assert code_of(Strategy) == code_of(object)
    assert version().startswith("0.")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return candles.close / candles.nothing", "AttributeError"),
        ("return candles.close * float('nan')", "is nan: from -1 to 1 is allowed"),
        ("return (candles.close * 0).reset_index(drop=True)", "another index than its candles"),
        ("return (candles.close * 0).iloc[1:]", "values for"),
        ("return [0] * len(candles)", "not a pandas Series"),
    ],
)
def test_a_strategy_that_fails_gives_a_run_that_says_where(module: Callable[[str], str], body: str, said: str) -> None:
    name = module(body)
    failed = run_of(f"{name}:Mine", walk(300))
    assert failed.made is None
    assert failed.error is not None
    assert said in failed.error
    assert f"{name}.py:" in failed.error
    assert failed.digest == digest_of(walk(300))


# Where candles come from


def write(path: Path, hours: range, *, price: float = 10) -> Path:
    path.write_text(HEADER + "".join(f"{h * HOUR},{price},{price + 1},{price - 1},{price},1\n" for h in hours))
    return path


def test_candles_of_a_file_are_cut_to_what_was_asked(tmp_path: Path) -> None:
    file = write(tmp_path / "hours.csv", range(2_000))
    strategy = load("strategies.moving_average:MovingAverage")
    since, until = datetime(1970, 1, 3, tzinfo=UTC), datetime(1970, 1, 10, tzinfo=UTC)
    found = load_files([file], strategy, "1h", since, until)
    assert (found.used_from, found.used_to, len(found.frames.candles)) == (since, until, 7 * 24)
    assert found.source == "hours.csv"
    assert bars_from_frame(found.frames.candles, "1h").breaks.tolist() == []


def test_what_was_asked_for_and_is_not_there_is_said() -> None:
    run = run_of(frame=walk(300))
    day = timedelta(days=1)
    assert shortage(run) == shortage(replace(run, asked_from=run.used_from, asked_to=run.used_to)) == ""
    assert shortage(replace(run, asked_from=run.used_from - day / 48, asked_to=run.used_to + day / 48)) == ""
    assert shortage(replace(run, asked_from=run.used_from - day, asked_to=run.used_to + day / 24)) == (
        "Not all that was asked for is there: the candles begin only at 2023-01-01 00:00, not at 2022-12-31 00:00, and "
        "end at 2023-01-13 12:00 already, not at 2023-01-13 13:00."
    )


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [
        (
            "2024-01-01",
            None,
            "hours.csv has no 1h candles from 2024-01-01 00:00: it has those from 1970-01-01 00:00 to",
        ),
        (
            "1970-01-03",
            "1970-01-03T20:00",
            "has 20 candles from 1970-01-03 00:00 to 1970-01-03 20:00: MovingAverage needs",
        ),
        ("1970-01-03", "1970-01-02", "--from is 1970-01-03 00:00 and --to 1970-01-02 00:00: from must be before to"),
    ],
)
def test_what_cannot_be_had_is_said_with_what_there_is(
    tmp_path: Path, since: str, until: str | None, said: str
) -> None:
    file = write(tmp_path / "hours.csv", range(2_000))
    moments = [None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (since, until)]
    with pytest.raises(InputError, match=re.escape(said)):
        load_files([file], load("strategies.moving_average:MovingAverage"), "1h", *moments)
