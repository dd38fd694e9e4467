"""Scenario 40 with real processes: candles that are missing are listed, never made up, and filled when they can be."""

import importlib.util
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.plugins.simulator import ROOT, Simulator

_SPEC = importlib.util.spec_from_file_location("_data_processes", ROOT / "tests/simulation/test_data_processes.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
Data = _MODULE.Data

MINUTE = 60_000
EAGER = '''
from pandas import Series

from trader.strategy import Strategy


class Eager(Strategy):
    """Out until the newest candle, in at it: a fresh cross at whichever candle it decides on."""
    warm_up = 60

    def signal(self, candles):
        target = Series(0.0, index=candles.index)
        target.iloc[-1] = 1.0
        return target
'''
LISTED = "SELECT kind::text FROM bucket_gap WHERE timeframe = '1m' AND missing = 3 AND found_at IS NOT NULL"
WAITS = "SELECT error LIKE 'makes no decision: 3 candles are missing from %%' FROM strategy WHERE name = 's'"
ORDERS = "SELECT count(*) FROM \"order\" WHERE type = 'market'"


@pytest.fixture
def make_world(database: str, simulator: Callable[..., Simulator], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A factory: a venue that is started with these arguments, two hours of its minutes, an eager strategy."""
    made: list[Any] = []

    def make(*arguments: str, account: tuple[str, ...] = ()) -> Any:
        (tmp_path / "eager.py").write_text(EAGER)
        data = Data(database, simulator("--balance", "USDT=1000", *arguments), tmp_path)
        made.append(data)
        data.environment["PYTHONPATH"] = f"{ROOT}:{tmp_path}"
        data.sql.execute("SET tallydesk.process = 'test'")
        data.account(*account)
        data.feed("1m", hours=2)
        _add_strategy(data)
        return data

    yield make
    for data in made:
        for process in data.processes:
            if process.alive:
                process.kill()
        data.sql.close()


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    """A venue on wall time, and what is derived from its minutes."""
    data = make_world("--market", "BTC/USDT", "--live-clock", account=("--live-clock",))
    data.sql.execute(
        """INSERT INTO bucket_feed (market_id, timeframe_id, collect_since, derived_from)
           SELECT market_id, t, collect_since, 1 FROM bucket_feed, unnest('{5,15,60}'::smallint[]) t"""
    )
    return data


def _add_strategy(data: Any) -> None:
    data.sql.execute(
        """INSERT INTO strategy (name, account_id, class, market_id, timeframe_id, params, stake, stake_unit)
           SELECT 's', 1, 'eager:Eager', market_id, 1, '{}', 50, '%%' FROM bucket_feed WHERE timeframe_id = 1""",
        [],
    )
    data.sql.execute("INSERT INTO orders (strategy, type, asset, quantity) VALUES ('s', 'deposit', 'USDT', 100)")


def hide(data: Any, *, trades: bool) -> int:
    """Three minutes of half an hour ago are gone."""
    start = (data.venue.clock()["market"] // MINUTE - 30) * MINUTE
    data.venue.hide(start, start + 3 * MINUTE, trades=trades)
    return int(start)


def run(data: Any) -> None:
    data.start("scheduler"), data.start("worker")
    data.wait_for("SELECT status = 'full' FROM bucket_feed WHERE timeframe_id = 1")


def look_again(data: Any, minutes: int = 5) -> None:
    """What nobody can wait for passes in a row."""
    data.sql.execute(
        """UPDATE gap SET next_check_at = next_check_at - %(by)s::interval, quiet_at = quiet_at - %(by)s::interval
            WHERE verdict IS NULL""",
        {"by": f"{minutes} min"},
    )


def hidden(data: Any, start: int) -> list[tuple[float, ...]]:
    rows = data.sql.execute(
        """SELECT open, high, low, close, volume FROM bucket
            WHERE timeframe_id = 1 AND time_close > %s AND time_close <= %s + interval '3 min' ORDER BY time_close""",
        [datetime.fromtimestamp(start / 1000, UTC)] * 2,
    )
    return [tuple(row) for row in rows]


def check(data: Any, start: int) -> None:
    """All there is by now, derived ones too, is what the venue has, or would have."""
    data.venue.give_back()
    data.wait_for("SELECT count(*) > 0 FROM bucket WHERE timeframe_id = 60")
    assert data.value("SELECT count(*) FROM bucket WHERE low <= 0 OR volume < 0") == 0
    assert data.value("SELECT count(*) FROM bucket WHERE timeframe_id > 1 AND source <> 'derived'") == 0
    for timeframe in ("1m", "5m", "15m", "1h"):
        data.check_candles(timeframe)
    wanted = [tuple(map(float, row[1:6])) for row in data.klines("1m", startTime=start, limit=3)]
    assert hidden(data, start) == wanted


def test_s40_hidden_minutes_are_listed_and_filled_when_they_are_given_back(world: Any) -> None:
    start = hide(world, trades=False)
    run(world)
    world.wait_for(WAITS)
    assert world.value(LISTED) == "outage"
    assert hidden(world, start) == []
    world.wait_for("SELECT max(checks) > 0 FROM gap WHERE timeframe_id = 1")
    assert world.value(ORDERS) == 0
    world.venue.give_back()
    look_again(world)
    world.wait_for("SELECT count(*) = 0 FROM gap WHERE timeframe_id = 1")
    world.wait_for("SELECT error IS NULL AND last_bucket IS NOT NULL FROM strategy WHERE name = 's'")
    assert world.value(ORDERS) == 1
    world.wait_for("SELECT count(*) = 0 FROM gap WHERE timeframe_id IN (5, 15)")
    check(world, start)
    assert world.value("SELECT count(*) FROM bucket WHERE source = 'trades'") == 0


def test_s40_minutes_without_trades_are_confirmed_and_never_invented(world: Any) -> None:
    start = hide(world, trades=True)
    run(world)
    world.wait_for(WAITS)
    world.wait_for("SELECT max(checks) > 0 FROM gap WHERE timeframe_id = 1")
    assert world.value("SELECT verdict IS NULL FROM gap WHERE timeframe_id = 1")
    assert world.value(ORDERS) == 0
    look_again(world)
    world.wait_for("SELECT verdict = 'no_trades' FROM gap WHERE timeframe_id = 1")
    assert world.value(LISTED) == "no_trades"
    assert hidden(world, start) == []
    world.wait_for("SELECT error IS NULL AND last_bucket IS NOT NULL FROM strategy WHERE name = 's'")
    assert world.value(ORDERS) == 1
    world.wait_for("SELECT count(*) > 0 FROM bucket WHERE timeframe_id = 15 AND partial")
    assert world.value("SELECT count(*) FROM bucket WHERE timeframe_id = 15 AND partial") in (1, 2)


def test_s40_minutes_that_the_venue_has_lost_are_built_from_its_trades(world: Any) -> None:
    start = hide(world, trades=False)
    run(world)
    world.wait_for("SELECT max(checks) > 0 FROM gap WHERE timeframe_id = 1")
    assert world.value(ORDERS) == 0
    look_again(world)
    world.wait_for("SELECT count(*) = 3 FROM bucket WHERE source = 'trades'")
    world.wait_for("SELECT error IS NULL AND last_bucket IS NOT NULL FROM strategy WHERE name = 's'")
    assert world.value(ORDERS) == 1
    world.wait_for("SELECT count(*) = 0 FROM gap WHERE timeframe_id IN (1, 5, 15)")
    check(world, start)


def test_a_replay_full_of_holes_is_traded(make_world: Callable[..., Any], tmp_path: Path) -> None:
    random = Random(40)
    begin = int(datetime(2024, 3, 1, tzinfo=UTC).timestamp() * 1000)
    rows = [f"{begin + i * MINUTE},100,101,99,{100 + i % 2},1" for i in range(3000) if random.random() < 0.8]
    path = tmp_path / "holes.csv"
    path.write_text("\n".join(["time_open_ms,open,high,low,close,volume", *rows, ""]))
    start = datetime.fromtimestamp(begin / 1000, UTC) + timedelta(hours=5)
    world = make_world("--market", f"BTC/USDT={path}", "--start", start.isoformat(), "--speed", "60")
    run(world)
    world.wait_for("SELECT count(*) > 10 FROM gap WHERE verdict = 'no_trades'")
    world.wait_for(ORDERS.replace("count(*)", "count(*) > 0"))
    assert world.value("SELECT count(*) FROM bucket WHERE source <> 'fetched'") == 0
