"""Scheduler and workers as real processes, against a simulated venue: candles and balances, kills and losses."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from tests.plugins import _nursery
from tests.plugins.desk import Process
from tests.plugins.simulator import ROOT, Simulator

PATIENCE = 40.0


class Data:
    """A database, a venue that replays candles, and the processes that a test starts."""

    def __init__(self, url: str, venue: Simulator, home: Path) -> None:
        self.venue = venue
        self.home = home
        self.processes: list[Process] = []
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": url,
            "TALLYDESK_HOME": str(home),
            "TALLYDESK_TICK": "0.2",
            "SIM_API_KEY": venue.key,
            "SIM_SECRET": venue.secret,
        }
        self.sql = psycopg.connect(url, autocommit=True, row_factory=namedtuple_row)

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _nursery.run("trader.cli.main", *arguments, environment=self.environment)

    def account(self, *more: str) -> None:
        self.options = ("--exchange", "binance=sim", "--mode", "simulator", "--url", self.venue.url)
        done = self.cli("account", "add", "main", *self.options, "--credentials", "SIM", *more)
        assert done.returncode == 0, done.stderr

    def start(self, *arguments: str) -> Process:
        process = Process(["run", *arguments], self.environment, self.home / f"{len(self.processes)}.log")
        self.processes.append(process)
        return process

    def value(self, statement: str) -> Any:
        return self.sql.execute(statement).fetchone()[0]

    def wait_for(self, statement: str, patience: float = PATIENCE) -> Any:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if found := self.value(statement):
                return found
            time.sleep(0.02)
        logs = "\n".join(process.output[-2000:] for process in self.processes)
        feeds = self.sql.execute("SELECT * FROM bucket_feed").fetchall()
        raise AssertionError(f"not true within {patience} s: {statement}\n{feeds}\n{logs}")

    def feed(self, timeframe: str, hours: float) -> None:
        newest = self.klines("1m", limit=1)[-1][0]
        since = datetime.fromtimestamp(newest / 1000, UTC) - timedelta(hours=hours)
        done = self.cli("feed", "add", "sim", "BTC/USDT", timeframe, "--since", since.isoformat())
        assert done.returncode == 0, done.stderr

    def klines(self, timeframe: str, **query: int) -> list[list[Any]]:
        more = "".join(f"&{name}={value}" for name, value in query.items())
        with urlopen(f"{self.venue.url}/api/v3/klines?symbol=BTCUSDT&interval={timeframe}{more}") as answer:
            return json.load(answer)

    def check_candles(self, timeframe: str) -> int:
        """Each stored candle is once there, and is what the venue has for it now: it had closed when it was stored."""
        rows = self.sql.execute(
            """SELECT (extract(epoch FROM time_close - span) * 1000)::int8 AS at, open, high, low, close, volume
                 FROM bucket JOIN timeframe t ON t.id = timeframe_id AND t.name = %s ORDER BY time_close""",
            [timeframe],
        ).fetchall()
        stored = {row[0]: list(row[1:]) for row in rows}
        assert len(stored) == len(rows)
        start, seen = rows[0].at, 0
        while start <= rows[-1].at:
            page = self.klines(timeframe, startTime=start, limit=1000)
            for at, *numbers in [kline[:6] for kline in page if kline[0] <= rows[-1].at]:
                assert stored[at] == [float(number) for number in numbers]
                seen += 1
            start = page[-1][0] + 1
        assert seen == len(rows)
        return seen


@pytest.fixture
def make_data(database: str, simulator: Callable[..., Simulator], tmp_path: Path) -> Iterator[Callable[..., Data]]:
    """A factory: arguments go to the simulator."""
    made: list[Data] = []

    def make(*arguments: str) -> Data:
        data = Data(database, simulator("--market", "BTC/USDT", "--balance", "USDT=1000", *arguments), tmp_path)
        made.append(data)
        return data

    yield make
    for data in made:
        for process in data.processes:
            if process.alive:
                process.kill()
        data.sql.close()


@pytest.fixture
def replay(make_data: Callable[..., Data]) -> Data:
    """A venue whose minutes take a tenth of a second."""
    data = make_data("--speed", "600")
    data.account()
    return data


def test_candles_and_balances_flow_and_every_candle_had_closed(replay: Data) -> None:
    replay.feed("1m", hours=40)
    replay.feed("1h", hours=40)
    scheduler, worker = replay.start("scheduler"), replay.start("worker")
    replay.wait_for("SELECT count(*) = 2 FROM bucket_feed WHERE status = 'full'")
    first = replay.value("SELECT count(*) FROM bucket WHERE timeframe_id = 1")
    assert first > 2000
    replay.wait_for(f"SELECT count(*) > {first + 20} FROM bucket WHERE timeframe_id = 1")
    read = replay.value("SELECT max(read_at) FROM account_balance")
    replay.wait_for(f"SELECT max(read_at) > '{read}' FROM account_balance")
    assert replay.sql.execute("SELECT asset, drift FROM reconciliation").fetchall() == [("USDT", 0)]
    replay.sql.execute("UPDATE bucket_feed SET enabled = false WHERE timeframe_id = 1")
    replay.wait_for("SELECT max(updated_at) < clock_timestamp() - interval '1 s' FROM bucket_feed WHERE NOT enabled")
    replay.sql.execute("UPDATE bucket_feed SET enabled = true")
    replay.wait_for("SELECT min(updated_at) > clock_timestamp() - interval '1 s' FROM bucket_feed")
    began = time.monotonic()
    assert scheduler.stop() == 0
    assert time.monotonic() - began < 5  # at once, as far as a busy machine can
    assert worker.stop() == 0
    assert replay.check_candles("1m") > 2000
    assert replay.check_candles("1h") >= 39
    assert replay.value("SELECT count(*) FROM procrastinate_jobs WHERE status = 'failed'") == 0


def test_a_venue_on_wall_time(make_data: Callable[..., Data]) -> None:
    data = make_data("--live-clock")
    data.account("--live-clock")
    assert not data.value("SELECT replay FROM exchange")
    data.feed("1m", hours=2)
    data.start("scheduler"), data.start("worker")
    data.wait_for("SELECT status = 'full' FROM bucket_feed")
    newest = data.value("SELECT newest FROM bucket_feed")
    assert timedelta(0) <= datetime.now(UTC) - newest < timedelta(seconds=65)
    data.wait_for(f"SELECT newest > '{newest}' FROM bucket_feed", patience=70)
    lag = data.value("SELECT clock_timestamp() - newest FROM bucket_feed")
    assert lag < timedelta(seconds=10)
    assert data.check_candles("1m") >= 120


def test_eight_workers_on_four_feeds(replay: Data) -> None:
    timeframes = ("1m", "3m", "5m", "15m")
    for timeframe in timeframes:
        replay.feed(timeframe, hours=30)
    for _ in range(8):
        replay.start("worker")
    replay.start("scheduler")
    replay.wait_for("SELECT count(*) = 4 FROM bucket_feed WHERE status = 'full'")
    assert replay.value("SELECT count(*) - count(DISTINCT (market_id, timeframe_id, time_close)) FROM bucket") == 0
    assert replay.value("SELECT count(*) FROM procrastinate_jobs WHERE status = 'failed'") == 0
    assert replay.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    replay.sql.execute("UPDATE bucket_feed SET enabled = false")
    for timeframe in timeframes:
        replay.check_candles(timeframe)


def test_the_feeds_of_a_killed_worker_are_served_by_another(replay: Data) -> None:
    replay.feed("1m", hours=2)
    replay.venue.fault("hang", "GET /api/v3/klines", seconds=60, times=1000)
    worker = replay.start("worker")
    replay.start("scheduler")
    replay.wait_for("SELECT leased_by IS NOT NULL FROM bucket_feed")
    worker.kill()
    replay.venue.clear_faults()
    replay.start("worker")
    began = time.monotonic()
    replay.wait_for("SELECT status = 'full' FROM bucket_feed")
    assert time.monotonic() - began < 20  # its lease would be over after 30
    replay.check_candles("1m")


def test_a_venue_that_cannot_be_read_is_an_error_and_passes(replay: Data) -> None:
    replay.feed("1m", hours=2)
    replay.venue.fault("garbage", "GET /api/v3/klines", times=2)
    worker, _ = replay.start("worker"), replay.start("scheduler")
    replay.wait_for("SELECT status = 'error' FROM bucket_feed")
    assert replay.value("SELECT count(*) FROM bucket") == 0
    assert replay.value("SELECT last_error FROM bucket_feed").startswith("Unknown: ")
    replay.wait_for("SELECT count(*) > 0 FROM procrastinate_jobs WHERE status = 'failed'")
    replay.wait_for("SELECT status = 'full' AND last_error IS NULL FROM bucket_feed")  # after 2 and 4 seconds
    replay.wait_for("SELECT count(*) = 0 FROM procrastinate_jobs WHERE status = 'failed'")
    assert "ended with status: Error" in worker.output
    assert "Traceback" not in worker.output
    replay.check_candles("1m")


def test_there_is_one_scheduler_and_whoever_loses_its_role_ends(replay: Data) -> None:
    first = replay.start("scheduler")
    replay.wait_for("SELECT count(*) > 0 FROM procrastinate_jobs")
    second = replay.start("scheduler")
    assert second.wait() == 1
    assert "tallydesk: scheduler is running already" in second.output
    worker = replay.start("worker")
    replay.wait_for("SELECT count(*) > 0 FROM role WHERE name = 'worker-1'")
    for name, process in (("scheduler", first), ("worker-1", worker)):
        assert process.alive
        replay.sql.execute(
            """SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database =
                 (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND (classid::bigint << 32 | objid::bigint) = hashtextextended('role:' || %s, 0)""",
            [name],
        )
        assert process.wait() == 1
        assert f"tallydesk: {name} stops: " in process.output
        assert "Traceback" not in process.output


def test_a_scheduler_that_cannot_write_ends_and_says_why(replay: Data) -> None:
    scheduler = replay.start("scheduler")
    replay.wait_for("SELECT count(*) > 0 FROM procrastinate_jobs")
    replay.sql.execute("ALTER TABLE bucket_feed RENAME TO elsewhere")
    assert scheduler.wait() == 1
    why = r'^tallydesk: scheduler stops: [a-z ]+: relation "bucket_feed" does not exist$'
    assert re.search(why, scheduler.output, re.MULTILINE), scheduler.output
