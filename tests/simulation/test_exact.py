"""The exact engine: what the real path makes of bars is what the array engine makes of them, to the cent."""

import asyncio
import importlib
import inspect
import os
import pkgutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import psycopg
import pytest

import strategies
from tests.plugins.postgres import with_database
from tests.unit.test_backtest_array import not_taken, refusing, some_gaps
from trader.backtest import exact
from trader.backtest.across import EVERY, Across
from trader.backtest.array import run
from trader.backtest.data import Bars, bars_of
from trader.backtest.exact import replay_in, run_exact, run_targets
from trader.backtest.exact_database import PREFIX, TEMPLATE, throw_away
from trader.backtest.exact_part import ORDERS_PER_PART, Part, cut, parts_of
from trader.backtest.exact_replay import Flow, Replay, Steps
from trader.backtest.exact_result import compare
from trader.backtest.result import AFTER_A_GAP, FROM_THE_START, UNDECIDED, Result
from trader.backtest.run import Frames
from trader.backtest.settings import UNIT, parse_settings
from trader.bucket import read_file, timeframe_named
from trader.errors import DatabaseError, InputError, Unreachable
from trader.strategy import Input, Missing, Strategy

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
SLOW = os.environ.get("TALLYDESK_SLOW") == "1"
LAST = 20_000 if SLOW else 700


def shipped() -> list[Strategy[Any]]:
    """Every strategy in the directory, with its defaults."""
    modules = [importlib.import_module(f"strategies.{one.name}") for one in pkgutil.iter_modules(strategies.__path__)]
    classes = [
        found
        for module in modules
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Strategy) and found.__module__ == module.__name__
    ]
    return [found() for found in classes if not inspect.isabstract(found)]


SHIPPED = shipped()

FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "bitfinex_BTC-USD_1h_2016_derived.csv.gz": (
        "1h",
        {"quantity_step": "0.0001", "price_tick": "0.01", "cost_min": 10, "slippage": "0.0003", "slippage_ticks": 1},
    ),
    "freqtrade_ETH-BTC_5m.csv.gz": (
        "5m",
        {"quantity_step": "0.001", "price_tick": "1e-5", "cost_min": "0.0001", "deposit": 1, "spread": "0.0005"},
    ),
    "fx_EUR-USD_1h_2017-2018.csv.gz": (
        "1h",
        {"quantity_step": "0.01", "price_tick": "1e-5", "cost_min": 1, "taker": "0.0001", "stake": 50},
    ),
}
RARELY = {"Momentum": 6, "RegimeTrend": 9, "StopTrending": 9}
"""So many times as many candles as others need, to trade as often."""
MINUTE = 60_000


def frames_of(name: str, timeframe: str, last: int = LAST) -> Frames:
    span = timeframe_named(timeframe)
    candles = read_file(SHARED / name, span)[-last:]
    index = pd.DatetimeIndex(span.closes(candles.time_open).view("datetime64[ms]"), tz="UTC", name="time_close")
    columns = ("open", "high", "low", "close", "volume")
    return Frames(pd.DataFrame({column: getattr(candles, column) for column in columns}, index=index), timeframe)


def longer(frames: Frames, given: Input) -> pd.DataFrame:
    """Candles of an input, put together of those that are there; only whole ones."""
    span = pd.Timedelta(timeframe_named(given.timeframe or frames.timeframe).span, unit="ms")
    each = pd.Timedelta(timeframe_named(frames.timeframe).span, unit="ms")
    groups = frames.candles.groupby(frames.candles.index.ceil(span))
    columns = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    whole = groups.size() == max(span // each, 1)
    return groups.agg(columns)[whole].rename_axis("time_close")


@pytest.mark.skipif(not SHARED.is_dir(), reason="NOT RUN: ../shared/data is not here")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("strategy", SHIPPED, ids=lambda strategy: type(strategy).__name__)
@pytest.mark.timeout(900)
def test_every_shipped_strategy_gives_the_same_through_the_real_path(
    server: str, name: str, strategy: Strategy[Any]
) -> None:
    timeframe, rules = FILES[name]
    frames = frames_of(name, timeframe, LAST * RARELY.get(type(strategy).__name__, 1))
    frames = replace(frames, inputs={one: longer(frames, given) for one, given in strategy.inputs.items()})
    found = run_exact(strategy, frames, parse_settings(rules), server=server)
    assert found.difference is None
    assert_same_digits(found.expected, found.result)
    assert len(found.result.fills) >= 4
    if (view := found.exact.performance) is not None:
        assert float(view.equity) == pytest.approx(found.expected.equity[-1], abs=1e-8)
        assert float(view.fees) == pytest.approx(found.expected.fees.sum(), abs=1e-7)


def assert_same_digits(expected: Result, made: Result) -> None:
    """Not only to the cent: to the last of eight places, where a tick times a step has no more."""
    for column in ("bar", "decided", "side", "price", "quantity", "quote", "fee", "maker", "order"):
        assert getattr(made.fills, column).tolist() == getattr(expected.fills, column).tolist(), column
    assert made.cash.tolist() == expected.cash.tolist()
    assert made.holding.tolist() == expected.holding.tolist()
    assert made.flows == expected.flows
    assert [one.bar for one in made.refused] == [one.bar for one in expected.refused]


def drawn(seed: int, length: int = 400, gaps: int = 6) -> Bars:
    """Bars of a random walk, some of them missing."""
    random = np.random.default_rng(seed)
    close = np.round(50 * np.exp(np.cumsum(random.normal(0, 0.01, length))), 2)
    start = np.round(np.concatenate(([50.0], close[:-1])) * np.exp(random.normal(0, 0.002, length)), 4)
    high, low = np.maximum(start, close) * 1.001, np.minimum(start, close) * 0.999
    there = np.ones(length, dtype=np.bool_)
    there[random.integers(1, length, gaps)] = False
    columns = (start, high, low, close, random.exponential(3, length))
    times = np.arange(1, length + 1) * MINUTE + 1_500_000_000_000 // MINUTE * MINUTE
    return bars_of("1m", times[there], *(column[there] for column in columns))


def whole_of(bars: Bars) -> Part:
    return Part(0, len(bars))


TERMS: list[dict[str, Any]] = [
    {"quantity_step": "0.001", "price_tick": "0.01"},
    {"quantity_step": "0.1", "price_tick": "0.05", "cost_min": 200, "deposit": 950, "stake": 30},
    {"quantity_step": "0.01", "price_tick": "0.01", "quantity_min": "1.2", "stake": 60, "stake_in_percent": False},
    {"quantity_step": "0.01", "price_tick": "0.01", "volume_share": "0.2", "spread": "0.001", "maker": "0.0002"},
    {"quantity_step": "0.001", "price_tick": "0.01", "gap": "skip", "slippage": "0.001", "slippage_ticks": 2},
    {"quantity_step": "1", "price_tick": "0.01", "quantity_min": 3, "deposit": 200, "taker": "0.01"},
    {},
]


@pytest.mark.parametrize("place", range(len(TERMS)))
def test_gaps_minimums_dust_partial_fills_and_flows_are_the_same(server: str, place: int) -> None:
    bars = drawn(place)
    flows = [
        {"at": bars.moment(100) + "Z", "amount": "250.5"},
        {"at": bars.moment(100) + "Z", "amount": "-10"},
        {"at": bars.moment(300) + "Z", "amount": "40"},
    ]
    settings = exact.completed(parse_settings(TERMS[place] | {"flows": flows}))
    random = np.random.default_rng(100 + place)
    targets = np.repeat(random.choice([-1.0, 0.0, 0.5, 1.0], len(bars)), random.integers(1, 5, len(bars)))[: len(bars)]
    across, refused, _ = some_gaps(bars, place, 5)
    assert refused
    expected = run(bars, targets, settings, 5, across)
    found = run_targets(server, bars, targets, settings, 5, across)
    assert compare(expected, found.result) is None
    assert not_taken(expected) == not_taken(found.result)
    if settings.rounded and settings.quantity_step != exact.UNIT:
        assert_same_digits(expected, found.result)
    assert len(expected.fills) > 10
    assert float(found.performance.deposits) == pytest.approx(float(settings.deposit) + 290.5)
    assert float(found.performance.withdrawals) == 10


@pytest.mark.parametrize("amount", ["-10000.005", "-10001"])
def test_a_withdrawal_of_more_than_is_free_names_its_moment(server: str, amount: str) -> None:
    bars = drawn(1)
    settings = parse_settings({"flows": [{"at": bars.moment(50) + "Z", "amount": amount}]})
    with pytest.raises(InputError, match=f"a withdrawal of {amount[1:]} at 2017-07-14"):
        run_targets(server, bars, np.zeros(len(bars)), settings)


@pytest.mark.parametrize("place", [1, 3])
def test_bars_that_are_left_out_decide_nothing(server: str, place: int) -> None:
    bars, settings = drawn(place, 200), parse_settings(TERMS[place])
    targets = np.random.default_rng(place).choice([0.0, 1.0], len(bars))
    across, _, _ = some_gaps(bars, place, 3)
    skipping, asking = (run_targets(server, bars, targets, settings, 3, across, every=every) for every in (False, True))
    assert_same_digits(skipping.result, asking.result)
    assert skipping.orders == asking.orders > 20


@pytest.mark.parametrize("place", range(len(TERMS) - 1))
def test_parts_side_by_side_give_what_one_piece_gives(server: str, place: int) -> None:
    bars = drawn(20 + place, 1_000)
    flows = [{"at": bars.moment(at) + "Z", "amount": amount} for at, amount in ((300, "250.5"), (301, "-9"), (700, 40))]
    settings = exact.completed(parse_settings(TERMS[place] | {"flows": flows}))
    targets = np.random.default_rng(place).choice([0.0, 1.0], len(bars))
    gaps = Across(np.arange(400, 420), np.array([50, 420, 600]), np.array([400])) if place % 2 else EVERY
    expected = run(bars, targets, settings, 5, gaps)
    starts = [2, 30, 299, 300, 301, 302, 410, 600, *expected.fills.bar[20:60:10].tolist(), 700, 990]
    parts = cut(expected, sorted(set(starts)))
    whole, found = (
        run_targets(server, bars, targets, settings, 5, gaps, parts=one) for one in ([whole_of(bars)], parts)
    )
    assert (whole.parts, found.parts) == (1, len(parts))
    assert found.orders == whole.orders > 20
    assert compare(whole.result, found.result, 1e-9) is None
    assert_same_digits(whole.result, found.result)
    assert found.result.refused == whole.result.refused
    assert not_taken(found.result) == not_taken(expected)
    assert found.performance is None


def test_a_part_that_begins_with_what_is_not_there_is_found_and_all_is_replayed_in_one_piece(server: str) -> None:
    bars, settings = drawn(3), exact.completed(parse_settings(TERMS[0]))
    targets = np.random.default_rng(3).choice([0.0, 1.0], len(bars))
    expected = run(bars, targets, settings)
    right = cut(expected, [100, 200])
    assert run_targets(server, bars, targets, settings, parts=right).parts == 3
    for wrong in (replace(right[1], cash=right[1].cash + UNIT), replace(right[1], holding=right[1].holding + UNIT)):
        found = run_targets(server, bars, targets, settings, parts=[right[0], wrong, right[2]])
        assert found.parts == 1
        assert_same_digits(expected, found.result)


def test_a_withdrawal_that_only_a_wrong_part_cannot_pay_is_replayed_in_one_piece(server: str) -> None:
    bars = drawn(3)
    flows = [{"at": bars.moment(150) + "Z", "amount": "-10000"}]
    settings = exact.completed(parse_settings(TERMS[0] | {"flows": flows}))
    targets = np.zeros(len(bars))
    right = cut(run(bars, targets, settings), [100, 200])
    wrong = replace(right[1], cash=right[1].cash - UNIT)
    found = run_targets(server, bars, targets, settings, parts=[right[0], wrong, right[2]])
    assert found.parts == 1
    assert found.result.flows == ((0, 10_000.0), (150, -10_000.0))


@pytest.mark.parametrize(
    "terms",
    [
        {"quantity_step": "1e-6", "deposit": "100000000000000.5"},
        {"quantity_step": "0.01", "deposit": "999999999999999.99", "stake": "33.3"},
    ],
)
def test_money_with_more_digits_than_floats_have_is_replayed_in_one_piece(server: str, terms: dict[str, Any]) -> None:
    bars, settings = drawn(3, 1_200), exact.completed(parse_settings({"price_tick": "0.01"} | terms))
    targets = np.random.default_rng(3).choice([0.0, 1.0], len(bars))
    expected = run(bars, targets, settings)
    assert len(cut(expected, [600])) == 2
    found = run_targets(server, bars, targets, settings)
    assert found.parts == 1
    assert found.result.fills.bar.tolist() == expected.fills.bar.tolist()


def test_a_long_run_is_cut_and_a_difference_is_found_in_parts_as_well(server: str) -> None:
    bars, settings = drawn(5, 1_200), parse_settings(TERMS[0])
    targets = np.random.default_rng(5).choice([0.0, 1.0], len(bars))
    found = run_targets(server, bars, targets, settings)
    assert found.parts == len(np.unique(found.result.fills.decided)) // ORDERS_PER_PART > 10
    assert len(parts_of(run(bars, targets, exact.completed(parse_settings({}))))) == 1  # the venue cuts what they move
    dearer = run(bars, targets, exact.completed(settings.model_copy(update={"taker": Decimal("0.0011")})))
    assert str(compare(dearer, found.result)).startswith("fill 1, decided at 2017-")


def test_a_ledger_that_keeps_what_the_venue_cuts_agrees_to_the_cent(server: str) -> None:
    bars = drawn(6)
    settings = parse_settings({"quantity_step": "1e-6", "price_tick": "1e-6", "taker": "0.00075"})
    targets = np.random.default_rng(6).choice([0.0, 1.0], len(bars))
    across = refusing(bars, bars.breaks, 3, 1)
    expected = run(bars, targets, settings, 3, across)
    found = run_targets(server, bars, targets, settings, 3, across)
    assert compare(expected, found.result) is None
    cut = 1e-8 * len(expected.fills)
    assert 0 < np.abs(expected.cash - found.result.cash).max() < cut
    assert len(expected.fills) > 50


class Now(Strategy):
    """Buys at the market on what it remembers, and sells by a target."""

    @property
    def warm_up(self) -> int:
        return 3

    def on_bucket(self, context: Any) -> float | None:
        seen = context.state["seen"] = context.state.get("seen", 0) + 1
        if context.quantity < 1 and seen % 7 == 0:
            context.buy(quantity=1.5 if seen % 2 else None)
        elif seen % 11 == 0:
            return 0.0
        elif context.quantity > 1 and seen % 13 == 0:
            context.sell(quantity=1)
        return None


class Limited(Now):
    def on_bucket(self, context: Any) -> float | None:
        context.buy(limit=context.close * 0.9)
        return None


def as_frames(bars: Bars) -> Frames:
    index = pd.DatetimeIndex(bars.time.view("datetime64[ms]"), tz="UTC", name="time_close")
    columns = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")}
    return Frames(pd.DataFrame(columns, index=index), bars.timeframe.name)


def test_the_second_style_gives_the_same_with_its_state_and_market_orders(server: str) -> None:
    settings = parse_settings({"quantity_step": "0.001", "price_tick": "0.01", "cost_min": 5})
    found = run_exact(Now(), as_frames(drawn(8)), settings, server=server)
    assert found.difference is None
    assert_same_digits(found.expected, found.result)
    assert len(found.result.fills) > 40


class Rising(Strategy):
    @property
    def warm_up(self) -> int:
        return 2

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        return (candles["close"] > candles["close"].shift()).astype(float)


def test_a_schedule_decides_at_its_moments_only(server: str) -> None:
    settings = parse_settings({"quantity_step": "0.001", "price_tick": "0.01"})
    found = run_exact(Rising(), as_frames(drawn(9, 4_000, gaps=30)), settings, "hour", server=server)
    assert found.difference is None
    assert_same_digits(found.expected, found.result)
    assert len(found.result.fills) > 5
    assert set(found.result.bars.time[found.result.fills.decided] % 3_600_000 // MINUTE) <= {0, 1, 2}


class RisingNone(Rising):
    gaps = "none"


class RisingAny(Rising):
    gaps = "any"


class Followed(Strategy):
    """The same by on_bucket, with a longer warm-up."""

    @property
    def warm_up(self) -> int:
        return 4

    def on_bucket(self, context: Any) -> float:
        return float(context.close > context.window("close", 2)[0])


class FollowedNone(Followed):
    gaps = "none"


class FollowedAny(Followed):
    gaps = "any"


def without_some_hours(bars: Bars) -> Bars:
    """Without every third of those bars that close as an hour ends."""
    kept = bars.time // 3_600_000 % 3 + bars.time % 3_600_000 > 0
    columns = (column[kept] for column in (bars.open, bars.high, bars.low, bars.close, bars.volume))
    return bars_of("1m", bars.time[kept], *columns)


@pytest.mark.parametrize(
    ("kind", "taken_for"),
    [
        (Rising, "no_trades"), (Rising, "unknown"), (RisingNone, "no_trades"), (RisingAny, "unknown"),
        (Followed, "no_trades"), (Followed, "unknown"), (FollowedNone, "no_trades"), (FollowedAny, "unknown"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("schedule", ["bucket", "minute", "hour"])
def test_gaps_mean_the_same_in_every_engine(server: str, kind: type[Strategy], taken_for: str, schedule: str) -> None:
    """Array (a signal at every candle), bars (all else) and exact; which candles are not decided on is told here."""
    bars = without_some_hours(drawn(12, 400 if schedule != "hour" else 3_000, gaps=20))
    settings = parse_settings({"quantity_step": "0.001", "price_tick": "0.01", "file_gaps": taken_for})
    found = run_exact(kind(), as_frames(bars), settings, schedule, server=server)
    assert found.difference is None
    assert_same_digits(found.expected, found.result)
    assert not_taken(found.expected) == not_taken(found.result)
    refused = kind.gaps == "none" or (kind.gaps == "no_trades" and taken_for == "unknown")
    after = {gap + more for gap in bars.breaks.tolist() for more in range(kind().warm_up - 1)} if refused else set()
    decided = set(found.expected.fills.decided.tolist())
    assert len(decided) >= 4
    assert not decided & after
    silent = [bar for bar, reason in not_taken(found.expected) if reason == UNDECIDED]
    assert set(silent) <= after
    assert bool(silent) == refused
    if schedule != "hour" and not refused:
        assert decided & set(bars.breaks.tolist())  # a fresh cross right after a gap is one


@pytest.mark.parametrize("kind", [Rising, RisingNone, RisingAny, Followed])
@pytest.mark.parametrize("schedule", ["bucket", "minute"])
def test_what_is_known_of_stored_gaps_counts_alike(server: str, kind: type[Strategy], schedule: str) -> None:
    bars = drawn(13, 400, gaps=20)
    starts = bars.time[bars.breaks - 1]
    known = Missing(
        {"outage": starts[::3], "no_trades": starts[1::3], None: starts[2::3]},
        partial=bars.time[40::90],
        unseen=starts[5:6] + MINUTE,
    )
    frames = replace(as_frames(bars), missing={"": known})
    settings = parse_settings({"quantity_step": "0.001", "price_tick": "0.01"})
    found = run_exact(kind(), frames, settings, schedule, server=server)
    assert found.difference is None
    assert_same_digits(found.expected, found.result)
    assert not_taken(found.expected) == not_taken(found.result)
    warm_up, gaps = kind().warm_up, bars.breaks.tolist()
    refused = {"any": gaps[5:6], "no_trades": gaps[::3] + gaps[2::3], "none": gaps}[kind.gaps]
    silent = {gap + more for gap in refused for more in range(warm_up - 1)}
    if kind.gaps == "none":
        silent |= {bar + more for bar in range(40, len(bars), 90) for more in range(warm_up)}
    silent = {bar for bar in silent if bar >= warm_up - 1}
    told = [bar for bar, reason in not_taken(found.expected) if reason == UNDECIDED]
    assert told == [bar for bar in sorted(silent) if bar - 1 not in silent]
    assert not silent & set(found.expected.fills.decided.tolist())


class Long(Strategy):
    """In from the start on, but for the three candles before each gap, which it does not accept."""

    gaps = "none"

    @property
    def warm_up(self) -> int:
        return 2

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        near = pd.Series(candles.index, candles.index).diff().gt(pd.Timedelta("1min"))
        return 1.0 - near[::-1].rolling(3, min_periods=1).max()[::-1].shift(-1, fill_value=0.0)


@pytest.mark.parametrize("schedule", ["bucket", "minute"])
def test_entries_that_are_not_taken_are_the_same(server: str, schedule: str) -> None:
    settings = parse_settings({"quantity_step": "0.001", "price_tick": "0.01"})
    found = run_exact(Long(), as_frames(drawn(8, 200)), settings, schedule, server=server)
    assert found.difference is None
    assert not_taken(found.result) == not_taken(found.expected)
    reasons = [reason for _, reason in not_taken(found.result)]
    assert reasons == [FROM_THE_START, *[UNDECIDED, AFTER_A_GAP] * (len(reasons) // 2)]
    assert len(reasons) > 6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fill": "close"}, "fill is close: an exact backtest fills at the next open"),
        ({"fee_side": "quote"}, "fee_side is quote: the simulator takes its fee"),
    ],
)
def test_settings_that_live_trading_does_not_know_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run_exact(Rising(), as_frames(drawn(1)), parse_settings(settings), server="postgresql://nowhere.invalid/x")


def test_orders_that_wait_for_a_price_are_refused(server: str) -> None:
    with pytest.raises(
        InputError, match=r"a limit order at 2017-.*: an exact backtest knows targets and market orders"
    ):
        run_exact(Limited(), as_frames(drawn(1)), parse_settings({}), server=server)


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(Unreachable, match="PostgreSQL cannot be reached"):
        run_exact(Rising(), as_frames(drawn(1)), parse_settings({}), server="postgresql://localhost:1/none")


def left(server: str) -> list[str]:
    """Throw-away databases that are there."""
    with psycopg.connect(server) as session:
        names = [str(row[0]) for row in session.execute("SELECT datname FROM pg_database").fetchall()]
    return [name for name in names if name.startswith(PREFIX) and not name.startswith(TEMPLATE)]


class Broken(Exception):
    pass


class Ending(Replay):
    """Ends by an error."""

    def __init__(self, bars: Bars, settings: Any, part: Part, error: type[BaseException]) -> None:
        super().__init__(bars, settings, part)
        self.error = error

    def go(self) -> Steps:
        yield Flow(0, Decimal(1))
        raise self.error


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_the_database_is_dropped_whatever_happens(server: str, error: type[BaseException]) -> None:
    settings, bars = exact.completed(parse_settings({})), drawn(1)
    seen: list[str] = []

    def replay() -> None:
        with throw_away(server) as url:
            seen.extend({urlsplit(url).path[1:]} & set(left(server)))
            parts = [whole_of(bars)]
            asyncio.run(replay_in(url, bars, settings, lambda part: Ending(bars, settings, part, error), parts))

    with pytest.raises(error):
        replay()
    assert len(seen) == 1
    assert seen[0] not in left(server)


ENDLESS = """
import asyncio
import sys
from urllib.parse import urlsplit
import numpy as np
from tests.simulation.test_exact import drawn
from trader.backtest.across import EVERY, Across
from trader.backtest.array import run
from trader.backtest.exact import completed, replay_in
from trader.backtest.exact_database import throw_away
from trader.backtest.exact_part import parts_of
from trader.backtest.exact_replay import Targeted
from trader.backtest.exact_targets import Wanted
from trader.backtest.exact_venue import minimums_of
from trader.backtest.settings import parse_settings

bars = drawn(1, 200_000)
settings, targets = completed(parse_settings({"quantity_step": "0.001"})), np.arange(len(bars)) % 2 * 1.0
wanted, parts = Wanted(bars, targets, 1, minimums_of(settings)), parts_of(run(bars, targets, settings))
with throw_away(sys.argv[1]) as url:
    print(urlsplit(url).path[1:], flush=True)
    asyncio.run(replay_in(url, bars, settings, lambda part: Targeted(bars, settings, part, wanted), parts))
"""


def test_ctrl_c_drops_the_database(server: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", ENDLESS, server]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, preexec_fn=heed_ctrl_c, **pipes) as running:
        try:
            name = running.stdout.readline().decode().strip()
            assert name in left(server)
            wait_until(lambda: traded(with_database(server, name)))
            running.send_signal(signal.SIGINT)
            _, said = running.communicate(timeout=60)
        finally:
            running.kill()
    assert b"KeyboardInterrupt" in said
    assert running.returncode != 0
    assert name not in left(server)


def heed_ctrl_c() -> None:
    """A test run in the background may have been started to ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never traded"
        time.sleep(0.02)


def traded(url: str) -> bool:
    """Whether an order was filled."""
    with psycopg.connect(url) as session:
        return session.execute("SELECT EXISTS (SELECT FROM fill)").fetchone() == (True,)


def test_what_a_killed_run_left_is_dropped_by_the_next(server: str) -> None:
    old, young = f"{PREFIX}_1000_abcdef", f"{PREFIX}_9999999999_abcdef"
    with psycopg.connect(server, autocommit=True) as session:
        session.execute(f"CREATE DATABASE {old}")
        session.execute(f"CREATE DATABASE {young}")
        try:
            with throw_away(server) as url:
                assert old not in left(server)
                assert young in left(server)
                with psycopg.connect(url) as made:
                    assert made.execute('SELECT count(*) FROM "order"').fetchone() == (0,)
        finally:
            session.execute(f"DROP DATABASE {young}")


def test_a_database_named_behind_the_question_mark_is_left_alone(server: str) -> None:
    parts = urlsplit(server)
    for name in ("dbname", "%64bname"):
        query = "&".join(filter(None, (f"{name}=postgres", parts.query)))
        with throw_away(parts._replace(query=query).geturl()) as url, psycopg.connect(url) as made:
            assert made.execute("SELECT current_database() LIKE %s", [f"{PREFIX}%"]).fetchone() == (True,)


@pytest.fixture
def powerless(server: str, admin: psycopg.Connection) -> Iterator[str]:
    """The URL of a user who may not create databases."""
    admin.execute("CREATE ROLE exact_powerless LOGIN")
    try:
        yield server.replace("//tallydesk@", "//exact_powerless@")
    finally:
        admin.execute("DROP ROLE exact_powerless")


def test_who_may_not_create_databases_is_told_so(server: str, powerless: str) -> None:
    if powerless == server:
        pytest.skip("NOT RUN: this server's URL names another owner")
    with pytest.raises(DatabaseError, match=r"none may be made here .*CREATEDB"):
        run_targets(powerless, drawn(1), np.ones(len(drawn(1))), parse_settings({}))


@pytest.fixture
def another(server: str, admin: psycopg.Connection) -> Iterator[str]:
    """The URL of another user who may create databases, and no roles."""
    admin.execute("CREATE ROLE exact_another LOGIN CREATEDB")
    try:
        yield server.replace("//tallydesk@", "//exact_another@")
    finally:
        owned = "SELECT datname FROM pg_database WHERE datdba = 'exact_another'::regrole"
        for (name,) in admin.execute(owned).fetchall():
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        admin.execute("DROP ROLE exact_another")


def test_each_user_has_a_template(server: str, another: str, admin: psycopg.Connection) -> None:
    """One of another user can be neither copied nor dropped."""
    if another == server:
        pytest.skip("NOT RUN: this server's URL names another owner")

    def templates() -> set[str]:
        found = admin.execute("SELECT datname FROM pg_database").fetchall()
        return {str(name) for (name,) in found if str(name).startswith(TEMPLATE)}

    with throw_away(server):
        first = templates()
    with pytest.raises(DatabaseError, match=r"none may be made here: .* create role: .*ALTER ROLE \.\.\. CREATEROLE"):
        run_targets(another, drawn(1), np.ones(len(drawn(1))), parse_settings({}))
    assert templates() == first
    for may in ("CREATEROLE", "NOCREATEROLE"):  # made, and copied
        admin.execute(f"ALTER ROLE exact_another {may}")
        with throw_away(another) as url, psycopg.connect(url) as made:
            assert made.execute('SELECT count(*) FROM "order"').fetchone() == (0,)
    assert templates() > first
    with throw_away(server):
        assert templates() > first


def test_a_difference_is_named() -> None:
    bars, settings = drawn(2), parse_settings({"quantity_step": "0.001", "price_tick": "0.01"})
    targets = np.random.default_rng(2).choice([0.0, 1.0], len(bars))
    one = run(bars, targets, settings)
    assert compare(one, one) is None
    assert "bars against" in str(compare(one, run(bars[:100], targets[:100], settings)))
    dearer = run(bars, targets, settings.model_copy(update={"slippage_ticks": 1}))
    assert str(compare(one, dearer)).startswith("fill 1, decided at 2017-")
    assert "price" in str(compare(one, dearer))
    richer = run(bars, targets, settings.model_copy(update={"deposit": 10_001}))
    assert "quantity" in str(compare(one, richer))
    fewer = targets.copy()
    fewer[one.fills.decided[-1] :] = targets[one.fills.decided[-1] - 1]
    assert "only the first has fill" in str(compare(one, run(bars, fewer, settings)))


def test_the_example_of_the_page_runs_on_the_installation_s_own_server(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "backtests.md").read_text(encoding="utf-8")
    part = page.partition("## Exact")[2].partition("\n## ")[0]
    code = "\n".join(line[4:] for line in part.splitlines() if line.startswith("    "))
    monkeypatch.setenv("DATABASE_URL", server)
    monkeypatch.setenv("TALLYDESK_HOME", str(tmp_path))
    frame = as_frames(drawn(4)).candles
    frame.index = pd.date_range("2024-01-01", periods=len(frame), freq="1h", tz="UTC", name="time_close")
    exec(code, {"strategy": Rising(), "frame": frame})
    said = capsys.readouterr().out
    assert said.startswith("None\nRow(strategy='exact'")
