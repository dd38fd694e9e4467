"""Sweeps as jobs: the same rows whoever does them, what goes wrong, and what is stopped and goes on."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from jobs import sweep as sweep_jobs
from jobs.app import Context, build_app
from jobs.maintenance import rescue_stalled
from jobs.sweep import DEFER_DUE, DUE
from tests.plugins import _nursery
from tests.plugins.simulator import ROOT
from trader import migrate
from trader.backtest.load import load_candles
from trader.backtest.measures import measure
from trader.backtest.run import backtest, first_decision
from trader.backtest.settings import parse_settings
from trader.backtest.sweep import Made, Plan, make_sweep
from trader.backtest.trial import measure_names
from trader.bucket import Candles, timeframe_named, write_buckets
from trader.clock import from_milliseconds
from trader.config import load
from trader.db import Connection, Identity, connect, fetch_all, fetch_one, open_pool
from trader.errors import InputError
from trader.strategy import load as load_strategy

pytestmark = pytest.mark.any_server

SMA = "strategies.sma_cross:SmaCross"
START = 1_704_067_200_000
HOUR = 3_600_000
SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2);
"""
TOLD = """
SELECT id, state, folds, trials, done, failed, skipped, best, deflated_sharpe, test_sharpe, error
  FROM sweeps WHERE id = %s
"""
ODD = '''
"""Says 1 in every n-th stretch; what it does at 13 depends on the environment."""
import os, time
from pathlib import Path
from pandas import Series
from pydantic import Field
from trader.strategy import Params, Strategy

class OddParams(Params):
    n: int = Field(2, ge=1, le=1000)
    m: int = Field(1, ge=1, le=1000)

class Odd(Strategy[OddParams]):
    def __init__(self, params=None):
        super().__init__(params)
        if self.params.n == 23:
            raise SystemExit(7)

    @property
    def warm_up(self):
        return 2

    def signal(self, candles):
        held = os.environ.get("HELD")
        if held and self.params.n == 13 and not Path(held, "go").exists():
            Path(held, f"held.{os.getpid()}").touch()
            while not Path(held, "go").exists():
                time.sleep(0.02)
        if self.params.n == 17:
            raise ValueError("seventeen is too much\\0")
        if self.params.n == 29:
            raise KeyboardInterrupt
        if self.params.n == 19:
            return Series(2.0, index=candles.index)
        place = (candles.index.asi8 // 10**9 // 3600) if candles.index.unit == "ns" else candles.index.asi8 // 3600000
        return Series((place // self.params.n + place // self.params.m) % 2 * 1.0, index=candles.index)
'''


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    async with await connect(database, Identity("worker", "worker-1")) as opened:
        await opened.execute(SEED)
        await write(opened, 0, 600)
        yield opened


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A strategy in a module of its own, which processes that are told of `tmp_path` find, too."""
    name = f"odd_{os.getpid()}_{time.monotonic_ns()}"
    (tmp_path / f"{name}.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path)
    yield f"{name}:Odd"
    sys.modules.pop(name, None)


async def write(db: Connection, first: int, count: int) -> None:
    random = np.random.default_rng(11)
    close = 100 * np.exp(random.normal(0, 0.01, first + count).cumsum())
    opens = np.concatenate(([100.0], close[:-1]))
    high, low = np.maximum(opens, close) * 1.001, np.minimum(opens, close) * 0.999
    times = START + HOUR * np.arange(first + count, dtype=np.int64)
    candles = Candles(times, opens, high, low, close, np.ones(first + count))[first:]
    await write_buckets(db, 1, timeframe_named("1h"), candles, "imported")


def plan(path: str = SMA, **more: Any) -> Plan:
    return Plan(path, "binance:BTC/USDT", "1h", **more)


async def make(db: Connection, asked: Plan) -> Made:
    return await make_sweep(db, load({"HOME": "/nowhere", "TALLYDESK_CACHE_MB": "0"}), asked)


@asynccontextmanager
async def worker(database: str) -> AsyncIterator[Any]:
    """A worker in this process: works until nothing is left."""
    async with open_pool(database, Identity("worker", "worker-1"), 4) as pool:
        context = Context(load({"HOME": "/nowhere", "TALLYDESK_CACHE_MB": "0"}), pool)
        app = build_app(database, Identity("worker", "worker-1"), [sweep_jobs])
        async with app.open_async():

            async def work() -> None:
                await app.run_worker_async(
                    wait=False, delete_jobs="successful", additional_context={"context": context}, listen_notify=False,
                    install_signal_handlers=False, queues=["sweep"], shutdown_graceful_timeout=0.1,
                )  # fmt: skip

            yield work


async def run(database: str, db: Connection, asked: Plan) -> Any:
    """Make a sweep and do it; its row."""
    made = await make(db, asked)
    await db.execute(DEFER_DUE, DUE)
    async with worker(database) as work:
        await work()
    return await fetch_one(db, TOLD, [made.id])


async def results(db: Connection, number: int) -> list[Any]:
    """All that a sweep found, without its number."""
    trials = await fetch_all(
        db,
        "SELECT fold, number, generation, chunk, params, state::text, value, in_sample, out_of_sample, error"
        " FROM sweep_trial WHERE sweep_id = %s ORDER BY fold, number",
        [number],
    )
    folds = await fetch_all(
        db, "SELECT fold, train_first, test_last, best, deflated_sharpe FROM sweep_fold WHERE sweep_id = %s", [number]
    )
    whole = await fetch_all(
        db, "SELECT state::text, skipped, generation, out_of_sample, error FROM sweep WHERE id = %s", [number]
    )
    return [*map(tuple, trials), *sorted(map(tuple, folds)), *map(tuple, whole)]


async def test_a_grid_is_run_whole_and_the_best_is_chosen(database: str, db: Connection) -> None:
    done = await run(database, db, plan(space={"fast": "2..6:2", "slow": "4..40:6"}, chunk_size=4))
    assert (done.state, done.trials, done.done, done.failed, done.skipped) == ("done", 19, 19, 0, 2)
    rows = await fetch_all(db, "SELECT number, chunk, params, value, in_sample FROM sweep_trial ORDER BY number")
    assert [row.chunk for row in rows] == [1 + place // 4 for place in range(19)]
    assert set(measure_names()) < set(rows[0].in_sample)
    best = max(rows, key=lambda row: (row.value, -row.number))
    fold = await fetch_one(db, "SELECT * FROM sweep_fold")
    assert (fold.fold, fold.best, fold.test_first) == (0, best.number, None)
    assert done.best == best.value == best.in_sample["sharpe"]
    assert 0 <= done.deflated_sharpe < 0.9  # a walk without any drift
    assert fold.train_first == from_milliseconds(START + HOUR)
    assert fold.train_last == from_milliseconds(START + 600 * HOUR)
    assert (await fetch_all(db, "SELECT FROM procrastinate_jobs")) == []


async def test_a_trial_that_raises_is_a_row_with_its_error(database: str, db: Connection, odd: str) -> None:
    done = await run(database, db, plan(odd, space={"n": "16..20"}))
    assert (done.state, done.done, done.failed) == ("done", 5, 2)
    rows = await fetch_all(db, "SELECT params, state::text, value, error FROM sweep_trial ORDER BY number")
    assert [row.state for row in rows] == ["done", "failed", "done", "failed", "done"]
    assert "ValueError: seventeen is too much\\0" in rows[1].error
    assert f"{odd.partition(':')[0]}.py:" in rows[1].error
    assert "2.0: from -1 to 1 is allowed" in rows[3].error
    assert all("SignalError" not in error and "trader/" not in error for error in (rows[1].error, rows[3].error))
    done = await run(database, db, plan(odd, space={"n": "17,19"}))
    assert done.state == "failed"
    assert "all 2 trials failed, the first one: " in done.error


async def test_walk_forward_by_a_sampler_in_two_processes_one_killed_is_as_by_one(
    database: str, db: Connection, odd: str, tmp_path: Path
) -> None:
    """A killed worker loses its chunk, which is done again; every row is as if one worker had done it all."""
    asked = plan(
        odd, space={"n": "10..14", "m": "1..9:2"}, sampler="tpe", trials=12, generation_size=6, chunk_size=2, seed=4,
        folds=2, train=2, embargo=5, objective="return_percent",
    )  # fmt: skip
    alone = await run(database, db, asked)
    assert (alone.state, alone.done, alone.folds) == ("done", 24, 2)
    assert (await fetch_one(db, "SELECT count(*) AS many FROM sweep_trial WHERE params->>'n' = '13'")).many > 0
    made = await make(db, asked)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "TALLYDESK_STRATEGIES": str(tmp_path), "DATABASE_URL": database,
        "TALLYDESK_HOME": str(tmp_path), "TALLYDESK_CACHE_MB": "0", "HELD": str(tmp_path),
    }  # fmt: skip
    log = (tmp_path / "workers.log").open("wb")
    processes: list[tuple[Any, set[int]]] = []
    try:
        for command in (["run", "worker"], ["sweep", "worker"], ["sweep", "worker", "--name", "another"]):
            process = _nursery.start("trader.cli.main", command, environment, log, log)
            processes += [(process, await newest_worker(db, processes))]
        await db.execute(DEFER_DUE, DUE)
        await until(db, lambda: [*tmp_path.glob("held.*")], tmp_path)
        (desk, _), *sweepers = processes
        [(victim, its), *_] = [one for one in sweepers if (tmp_path / f"held.{one[0].pid}").exists()]
        victim.kill()
        victim.wait(20)
        (tmp_path / "go").touch()
        # What happens after twenty seconds in which it did not beat.
        await db.execute("DELETE FROM procrastinate_workers WHERE id = ANY(%s)", [list(its)])
        assert await rescue_stalled(db) >= 1
        await until(db, lambda: False, tmp_path, made.id)
    finally:
        for process, _ in processes:
            process.kill()
            process.wait(20)
        log.close()
    assert await results(db, made.id) == await results(db, alone.id)
    assert not (tmp_path / f"held.{desk.pid}").exists()  # what trades takes no set


async def newest_worker(db: Connection, known: list[tuple[Any, set[int]]]) -> set[int]:
    """The number under which the queue knows a worker that was just started."""
    end, before = time.monotonic() + 60, set[int]().union(*(its for _, its in known))
    while True:
        found = {row.id for row in await fetch_all(db, "SELECT id FROM procrastinate_workers")} - before
        if found:
            return found
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def until(db: Connection, ready: Any, place: Path, number: int | None = None) -> None:
    """Wait for a condition, or for the end of a sweep; ticks go on meanwhile."""
    end = time.monotonic() + 60
    while not ready():
        await db.execute(DEFER_DUE, DUE)
        rows = await fetch_all(db, "SELECT state::text, error FROM sweep WHERE id = %s", [number])
        if rows and rows[0].state != "running":
            assert rows[0].error is None
            return
        assert time.monotonic() < end, (place / "workers.log").read_text()
        await asyncio.sleep(0.05)


async def test_a_walk_forward_tests_what_it_chose_and_joins_the_tests(database: str, db: Connection) -> None:
    asked = plan(space={"fast": "2..8:2", "slow": "10..40:10"}, folds=3, train=2, embargo=10, settings={"stake": 50})
    done = await run(database, db, asked)
    assert (done.state, done.trials, done.done, done.best) == ("done", 48, 48, None)
    folds = await fetch_all(db, "SELECT * FROM sweep_fold ORDER BY fold")
    tested = await fetch_all(
        db, "SELECT fold, number, out_of_sample FROM sweep_trial WHERE out_of_sample IS NOT NULL ORDER BY fold"
    )
    assert [(fold.fold, fold.best) for fold in folds] == [(row.fold, row.number) for row in tested]
    assert [(fold.test_first - fold.train_last).total_seconds() / 3600 for fold in folds] == [11.0] * 3
    joined = (await fetch_one(db, "SELECT out_of_sample FROM sweep")).out_of_sample
    assert joined["trades"] == sum(row.out_of_sample["trades"] for row in tested) > 5
    growth = np.prod([1 + row.out_of_sample["return_percent"] / 100 for row in tested])
    assert joined["return_percent"] == pytest.approx(100 * (growth - 1), abs=0.3)  # less the fees of what is sold
    assert tested[1].out_of_sample["deposits"] != 10_000
    assert done.test_sharpe == joined["sharpe"]
    assert 0 < joined["sharpe_probability"] < 1


async def test_what_is_stopped_rests_and_goes_on_where_it_was(database: str, db: Connection) -> None:
    made = await make(db, plan(space={"fast": "2..9", "slow": "10..40:10"}, chunk_size=8))
    await db.execute(DEFER_DUE, DUE)
    jobs = "SELECT lock FROM procrastinate_jobs ORDER BY lock"
    assert [row.lock for row in await fetch_all(db, jobs)] == [f"sweep:{made.id}:{chunk}" for chunk in (1, 2, 3, 4)]
    await db.execute(DEFER_DUE, DUE)
    assert len(await fetch_all(db, jobs)) == 4
    await db.execute("DELETE FROM procrastinate_jobs WHERE lock <> %s", [f"sweep:{made.id}:2"])
    await db.execute("UPDATE sweep SET state = 'stopped'")
    async with worker(database) as work:
        await work()
        assert (await fetch_one(db, "SELECT done FROM sweeps")).done == 0
        await db.execute(DEFER_DUE, DUE)
        assert await fetch_all(db, jobs) == []
        await db.execute("UPDATE sweep SET state = 'running'")
        await db.execute(DEFER_DUE, DUE)
        await work()
    done = await fetch_one(db, TOLD, [made.id])
    assert (done.state, done.done) == ("done", 32)


async def test_other_candles_or_another_file_end_a_sweep(
    database: str, db: Connection, odd: str, tmp_path: Path
) -> None:
    first, second = await make(db, plan(odd, space={"n": "2..5"})), await make(db, plan(odd, space={"n": "2..5"}))
    await db.execute("UPDATE sweep SET code_digest = 'another' WHERE id = %s", [second.id])
    await db.execute("UPDATE bucket SET close = close * 1.0001 WHERE time_close = '2024-01-05Z'")
    await db.execute(DEFER_DUE, DUE)
    async with worker(database) as work:
        await work()
    rows = await fetch_all(db, "SELECT state::text, error, finished_at FROM sweep ORDER BY id")
    assert [row.state for row in rows] == ["failed", "failed"]
    assert "from 2024-01-01 00:00 to 2024-01-26 00:00 are not what they were when the sweep began" in rows[0].error
    assert "is not the file that it was when the sweep began" in rows[1].error
    assert (await fetch_one(db, "SELECT sum(done)::int AS done FROM sweeps")).done == 0
    await db.execute(DEFER_DUE, DUE)
    assert (await fetch_one(db, "SELECT count(*) AS todo FROM procrastinate_jobs WHERE status = 'todo'")).todo == 0
    assert first.id != second.id


async def test_a_worker_that_has_the_candles_sees_that_they_were_changed(
    database: str, db: Connection, odd: str
) -> None:
    made = await make(db, plan(odd, space={"n": "2..9"}, chunk_size=2))
    changes = {
        1: "",
        2: "",
        3: """INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
              SELECT market_id, timeframe_id, time_close + interval '1 hour', open, high, low, close, volume, source
                FROM bucket ORDER BY time_close DESC LIMIT 1""",
        4: "UPDATE bucket SET close = close * 1.0001 WHERE time_close = '2024-01-05Z'",
    }
    states = []
    async with worker(database) as work:
        for chunk, change in changes.items():
            if change:
                await db.execute(change)
            await db.execute(DEFER_DUE, DUE)
            await db.execute("DELETE FROM procrastinate_jobs WHERE lock <> %s", [f"sweep:{made.id}:{chunk}"])
            await work()
            row = await fetch_one(db, TOLD, [made.id])
            states.append((row.state, row.done))
    assert states == [("running", 2), ("running", 4), ("running", 6), ("failed", 6)]
    told = await fetch_one(db, "SELECT error FROM sweep WHERE id = %s", [made.id])
    assert "are not what they were when the sweep began" in told.error


async def test_the_verdicts_of_gaps_count_and_must_stay_what_they_were(database: str, db: Connection) -> None:
    await db.execute("DELETE FROM bucket WHERE time_close BETWEEN '2024-01-08Z' AND '2024-01-08 05:00Z'")
    asked = plan(space={"fast": "3..4", "slow": "10..40:10"})
    made = {verdict: (await judged(database, db, verdict, asked)) for verdict in (None, "no_trades")}
    assert made[None] != made["no_trades"]
    await make(db, asked)
    await db.execute("UPDATE gap SET verdict = 'outage'")
    await db.execute(DEFER_DUE, DUE)
    async with worker(database) as work:
        await work()
    last = await fetch_one(db, "SELECT state::text, error FROM sweep ORDER BY id DESC LIMIT 1")
    assert last.state == "failed"
    assert "are not what they were when the sweep began" in last.error


async def judged(database: str, db: Connection, verdict: str | None, asked: Plan) -> list[Any]:
    """What each trial of a sweep made where that is said of the gaps; as much as a backtest of stored candles."""
    await db.execute("UPDATE gap SET verdict = %s", [verdict])
    assert (await run(database, db, asked)).done == 8
    newest = "SELECT params, in_sample FROM sweep_trial WHERE sweep_id = (SELECT max(id) FROM sweep) ORDER BY number"
    found = []
    for trial in await fetch_all(db, newest):
        strategy = load_strategy(SMA, trial.params)
        loaded = await load_candles(db, strategy, "binance:BTC/USDT", "1h")
        result = backtest(strategy, loaded.frames, parse_settings({}))
        alone = measure(result, first_decision(strategy, loaded.frames))
        assert (trial.in_sample["trades"], trial.in_sample["profit"]) == (alone.trades, alone.profit)
        found.append(trial.in_sample["profit"])
    return found


DAILY = '''
from pandas import Series
from trader.strategy import Input, Params, Strategy, at, param

class DailyParams(Params):
    n: int = param(2, ge=1, le=9, search=(1, 4))

class Daily(Strategy[DailyParams]):
    """In above the mean of the last n days."""
    warm_up = 1

    @property
    def inputs(self):
        return {"days": Input(timeframe="1d", warm_up=self.params.n)}

    def signal(self, candles, days):
        return (candles["close"] > at(days["close"].rolling(self.params.n).mean(), candles.index)) * 1.0
'''


@pytest.fixture
async def daily(db: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The class above, with days to look at."""
    (tmp_path / "daily_looker.py").write_text(DAILY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "daily_looker", raising=False)
    days = 100 + np.arange(25) % 5.0
    opens = START + 24 * HOUR * np.arange(25, dtype=np.int64)
    candles = Candles(opens, days, days + 1, days - 1, days, np.ones(25))
    await write_buckets(db, 1, timeframe_named("1d"), candles, "imported")
    return "daily_looker:Daily"


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ("UPDATE bucket SET close = low WHERE timeframe_id = 1440 AND time_close = '2024-01-09Z'", "failed"),
        ("DELETE FROM bucket WHERE timeframe_id = 1440 AND time_close = '2024-01-02Z'", "failed"),
        ("UPDATE bucket SET close = low WHERE timeframe_id = 1440 AND time_close = '2024-01-26Z'", "done"),
    ],
)
async def test_candles_of_an_input_must_stay_what_they_were(
    database: str, db: Connection, daily: str, change: str, state: str
) -> None:
    until = datetime(2024, 1, 25, 12, tzinfo=UTC)
    made = await make(db, plan(daily, space={"n": "1..4"}, chunk_size=2, until=until))
    await db.execute(DEFER_DUE, DUE)
    await db.execute("DELETE FROM procrastinate_jobs WHERE lock <> %s", [f"sweep:{made.id}:1"])
    async with worker(database) as work:
        await work()
        assert (await fetch_one(db, TOLD, [made.id])).done == 2
        assert (await db.execute(change)).rowcount == 1
        await db.execute(DEFER_DUE, DUE)
        await work()
    row = await fetch_one(db, "SELECT state::text, error FROM sweep WHERE id = %s", [made.id])
    assert row.state == state
    if state == "failed":
        assert row.error.startswith("the candles of its input binance:BTC/USDT 1d are not what they were")
    with pytest.raises(psycopg.errors.RestrictViolation, match="sweep_input"):
        await db.execute("SET tallydesk.process = ''; UPDATE sweep_input SET digest = ''")
    await db.execute("DELETE FROM sweep")
    assert await fetch_all(db, "SELECT FROM sweep_input") == []


async def test_a_strategy_that_looks_at_other_candles_is_searched_by_its_own_ranges(
    database: str, db: Connection, daily: str
) -> None:
    done = await run(database, db, plan(daily, folds=2, train=2))
    assert (done.state, done.done, done.failed, done.error) == ("done", 8, 0, None)
    trades = await fetch_all(db, "SELECT DISTINCT in_sample->>'trades' AS many FROM sweep_trial WHERE fold = 1")
    assert len(trades) > 1


async def test_the_way_back_takes_the_jobs_along(database: str, db: Connection) -> None:
    await make(db, plan(space={"fast": "2..4", "slow": "10,20"}))
    await db.execute(DEFER_DUE, DUE)
    before = migrate.revisions()[migrate.revisions().index("0025_sweep") - 1]
    await asyncio.to_thread(migrate.downgrade, database, before)
    assert (await fetch_one(db, "SELECT count(*) AS jobs FROM procrastinate_jobs")).jobs == 0
    assert (await fetch_one(db, "SELECT to_regclass('sweep') AS found")).found is None
    await asyncio.to_thread(migrate.upgrade, database)
    assert (await make(db, plan(space={"fast": "2..4", "slow": "10,20"}))).trials == 6


async def test_a_trial_that_exits_ends_neither_the_worker_nor_the_sweep(
    database: str, db: Connection, odd: str
) -> None:
    done = await run(database, db, plan(odd, space={"n": "23,24,29"}))
    assert (done.state, done.done, done.failed) == ("done", 3, 2)
    rows = await fetch_all(db, "SELECT error FROM sweep_trial WHERE error IS NOT NULL ORDER BY number")
    assert [row.error.split(" (")[0] for row in rows] == ["SystemExit: 7", "KeyboardInterrupt: "]


async def test_a_chunk_that_kills_its_workers_is_given_up(database: str, db: Connection, odd: str) -> None:
    made = await make(db, plan(odd, space={"n": "2..5"}))
    await db.execute(DEFER_DUE, DUE)
    await db.execute("UPDATE procrastinate_jobs SET attempts = 5")
    async with worker(database) as work:
        await work()
    row = await fetch_one(db, "SELECT state::text, error FROM sweep WHERE id = %s", [made.id])
    assert row == ("failed", "chunk 1 was begun 5 times, and each time its worker died")


async def test_a_plan_that_cannot_be_is_refused_and_leaves_nothing(db: Connection, odd: str) -> None:
    grid = {"fast": "2..6:2", "slow": "4..40:6"}
    for asked, problem in (
        (plan("strategies.none:None", space=grid), 'there is no module "strategies.none"'),
        (plan(odd), "Odd: nothing is searched; name a range"),
        (plan(space={"fast": "50..60", "slow": "20..30"}), "none of 121 sets is one that the class takes"),
        (plan(space=grid, folds=600), "600 candles are too few for 600 tests"),
        (plan(space=grid, folds=90), r"the 6 candles of test \d+ lie within one day \(UTC\): a Sharpe ratio needs"),
        (plan(space=grid, embargo=5), "belong to --walk-forward"),
        (plan(space=grid, schedule="weekly"), "weekly"),
        (plan(space=grid, schedule="minute"), "minute"),
        (plan(space=grid, settings={"stakes": 5}), 'unknown setting "stakes"'),
        (plan(space=grid, settings={"file_gaps": "unknown"}), "file_gaps is unknown: it is for files"),
        (plan(space=grid, objective="luck"), "objective is 'luck': allowed are sharpe"),
        (plan(space=grid, random=5, sampler="tpe", trials=5), "only one of the two can be"),
        (plan(space=grid, random=0), "--random is 0"),
        (plan(space=grid, sampler="tpe"), "--trials is 0"),
        (plan(space=grid, chunk_size=0), "chunk is 0"),
        (Plan(SMA, "binance:XX/USDT", "1h", space=grid), "unknown market 'binance:XX/USDT'"),
        (Plan(SMA, "binance:BTC/USDT", "5m", space=grid), "fewer than two candles are stored; there is 1h from 2024"),
        (
            plan(space=grid, since=from_milliseconds(START + 900 * HOUR)),
            "from 2024-02-07 12:00 to the last; there is 1h",
        ),
    ):
        with pytest.raises(InputError, match=problem):
            await make(db, asked)
    assert await fetch_all(db, "SELECT FROM sweep") == []


async def test_the_database_refuses_what_no_sweep_can_be(database: str, db: Connection) -> None:
    made = await make(db, plan(space={"fast": "2..4", "slow": "10,20"}))
    for change, named in (
        ("trials = 0", "trials_is_above_zero"),
        ("chunk_size = 0", "chunk_size_is_above_zero"),
        ("class = 'SmaCross'", "class_is_module_and_name"),
        ("until = since", "since_is_before_until"),
        ("space = '{}'", "space_is_an_object"),
        ("params = '[]'", "params_is_an_object"),
        ("generation_size = 5", "a_sampler_proposes_in_generations"),
        ("folds = 2", "a_walk_forward_has_folds_and_train"),
        ("state = 'failed', finished_at = now()", "what_failed_says_why"),
        ("state = 'done'", "what_has_ended_says_when"),
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match=named):
            await db.execute(f"UPDATE sweep SET {change}")
    await db.execute("UPDATE sweep SET trials = 1, chunk_size = 1, state = 'done', finished_at = now()")
    for change, named in (
        ("state = 'failed'", "what_failed_says_why"),
        ("state = 'done'", "what_is_done_has_measures"),
        ("value = 1", "only_what_is_done_has_a_value"),
        ("state = 'done', in_sample = '{}', value = 'NaN'", "value_is_finite"),
    ):
        with pytest.raises(psycopg.errors.CheckViolation, match=named):
            await db.execute(f"UPDATE sweep_trial SET {change}")
    await db.execute("UPDATE sweep_trial SET state = 'done', in_sample = '{}', value = 1e308 WHERE number = 1")
    with pytest.raises(psycopg.errors.CheckViolation, match="a_test_comes_after_its_training"):
        await db.execute("UPDATE sweep_fold SET test_first = train_last, test_last = train_last")
    with pytest.raises(psycopg.errors.CheckViolation, match="deflated_sharpe_is_a_probability"):
        await db.execute("UPDATE sweep_fold SET deflated_sharpe = 1.001")
    with psycopg.connect(database, autocommit=True) as person:
        for statement in (
            "UPDATE sweep SET seed = 2",
            "UPDATE sweep_fold SET best = 2",
            "UPDATE sweep_trial SET value = 99 WHERE state = 'done'",
            "DELETE FROM sweep_trial",
        ):
            with pytest.raises(psycopg.errors.RestrictViolation):
                person.execute(statement)
        person.execute("DELETE FROM sweep WHERE id = %s", [made.id])
        assert person.execute("SELECT count(*) FROM sweep_trial").fetchone() == (0,)
