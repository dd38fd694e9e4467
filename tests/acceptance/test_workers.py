"""Eight worker processes on the same feeds, two of them killed: every candle once, closed, and as the venue has it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.request import urlopen

import pytest

from tests.plugins.desk import Desk

SYMBOLS = ("BTC/USDT", "ETH/USDT", "LTC/USDT")
TIMEFRAMES = ("1m", "5m", "1h")
DAYS = 10
WORKERS = 8

FEEDS = """
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since)
SELECT m.id, t.id, %s FROM market m, timeframe t WHERE t.name = ANY(%s)
"""
# Jobs of the scheduler take turns by a lock. These do not: several workers write the same candles at once.
OVERLAPPING = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, args, scheduled_at)
SELECT 'default', 'bucket.update', 0, jsonb_build_object('market_id', market_id, 'timeframe_id', timeframe_id), NULL
  FROM bucket_feed, generate_series(1, 3)
"""
STORED = """
SELECT b.time_close, b.open, b.high, b.low, b.close, b.volume FROM bucket b JOIN market m ON m.id = b.market_id
  JOIN timeframe t ON t.id = b.timeframe_id WHERE m.symbol = %s AND t.name = %s ORDER BY b.time_close
"""
NEWEST = """
SELECT m.symbol, t.name, f.newest, f.status::text, f.last_error FROM bucket_feed f
  JOIN market m ON m.id = f.market_id JOIN timeframe t ON t.id = f.timeframe_id
"""
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"

READER = """
import sys, threading, time
import psycopg
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
reads, longest = 0, 0.0
with psycopg.connect(sys.argv[1], autocommit=True, options="-c lock_timeout=100ms") as connection:
    while not over.wait(0.005):
        started = time.monotonic()
        connection.execute("SELECT market_id, timeframe_id, count(*), max(time_close), sum(volume) FROM bucket"
            " WHERE time_close > (SELECT max(newest) - interval '1 day' FROM bucket_feed) GROUP BY 1, 2").fetchall()
        longest, reads = max(longest, time.monotonic() - started), reads + 1
print(reads, longest)
"""


class Reader:
    """A process that reads candles all the time; a read that has to wait for somebody's lock ends it with an error."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def end(self) -> tuple[int, float]:
        """How many reads there were, and how many seconds the longest took."""
        output, _ = self._process.communicate(timeout=30)
        assert self._process.returncode == 0
        reads, longest = output.split()
        return int(reads), float(longest)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def desk(make_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A venue with three markets whose clock runs ten minutes a second; nobody has any candles yet."""
    monkeypatch.setenv("TALLYDESK_TICK", "0.2")
    markets = [word for symbol in SYMBOLS for word in ("--market", symbol)]
    desk = make_desk(*markets, "--speed", "600")
    desk.venue.price(None)
    return desk


@pytest.fixture
def reader(desk: Desk) -> Iterator[Reader]:
    made = Reader(desk.url)
    yield made
    made.kill()


def served(desk: Desk, symbol: str, timeframe: str, since: datetime) -> list[tuple[Any, ...]]:
    """The venue's candles, the open one left out, each as it is stored: when it closes, and five numbers."""
    rows: list[list[Any]] = []
    start = int(since.timestamp() * 1000)
    while True:
        query = f"symbol={symbol.replace('/', '')}&interval={timeframe}&startTime={start}&limit=1000"
        with urlopen(f"{desk.venue.url}/api/v3/klines?{query}", timeout=10) as answer:
            page = json.load(answer)
        rows += page
        if len(page) < 1000:
            break
        start = page[-1][0] + 1
    return [
        (datetime.fromtimestamp((row[6] + 1) / 1000, UTC), *(float(number) for number in row[1:6])) for row in rows[:-1]
    ]


def market_time(desk: Desk) -> datetime:
    return datetime.fromtimestamp(desk.venue.clock()["market"] / 1000, UTC)


def nothing_open(desk: Desk) -> None:
    """No candle is stored whose end the venue's clock has not reached."""
    newest = desk.value("SELECT max(time_close) FROM bucket")
    assert newest is None or newest <= market_time(desk)


@pytest.mark.timeout(150)
def test_eight_workers_two_of_them_killed_store_every_candle_once(desk: Desk, reader: Reader) -> None:
    workers = [desk.process("run", "worker") for _ in range(WORKERS)]
    desk.process("run", "scheduler")
    desk.wait_for("SELECT count(*) = %s FROM role_status WHERE alive", WORKERS + 1)
    desk.wait_for("SELECT count(*) = %s FROM market", len(SYMBOLS))
    deadlocks = desk.value(DEADLOCKS)
    since = (market_time(desk) - timedelta(days=DAYS)).replace(minute=0, second=0, microsecond=0)
    desk.execute(FEEDS, since, list(TIMEFRAMES))
    desk.execute(OVERLAPPING)

    for share, victim in ((5, 2), (2, 5)):
        desk.wait_for("SELECT count(*) > %s FROM bucket", DAYS * 1440 * len(SYMBOLS) // share)
        nothing_open(desk)
        assert desk.value("SELECT count(*) > 0 FROM procrastinate_jobs WHERE status = 'doing'")
        workers[victim].kill()
    for _ in range(20):
        nothing_open(desk)
    desk.venue.clock(speed=0)
    expected = {(s, t): served(desk, s, t, since) for s in SYMBOLS for t in TIMEFRAMES}
    _wait_for_all(desk, {key: rows[-1][0] for key, rows in expected.items()})

    reads, longest = reader.end()
    print(f"{reads} reads, the longest took {longest:.3f} s")
    assert reads > 100
    assert longest < 1
    for (symbol, timeframe), rows in expected.items():
        assert [tuple(row) for row in desk.execute(STORED, symbol, timeframe)] == rows
    _check_once(desk)
    assert desk.value(DEADLOCKS) == deadlocks
    assert all("deadlock" not in process.output for process in desk.processes)


def _wait_for_all(desk: Desk, newest: dict[tuple[str, str], datetime]) -> None:
    """Until every feed is full up to what the venue has: jobs of the dead workers are taken over after 20 seconds."""
    for (symbol, timeframe), end in newest.items():
        desk.wait_for(
            f"SELECT (status, newest, last_error) IS NOT DISTINCT FROM ('full', %s, NULL) FROM ({NEWEST}) f"
            " WHERE (symbol, name) = (%s, %s)",
            end,
            symbol,
            timeframe,
        )
    desk.wait_for("SELECT NOT EXISTS (SELECT FROM procrastinate_jobs WHERE status = 'doing' AND lock IS NULL)")


def _check_once(desk: Desk) -> None:
    rows, distinct = desk.execute("""SELECT count(*) AS rows,
        count(DISTINCT (market_id, timeframe_id, time_close)) AS keys FROM bucket""")[0]
    assert rows == distinct
    assert desk.value("SELECT count(*) FROM procrastinate_jobs WHERE status = 'failed'") == 0
    assert desk.value("SELECT count(*) FROM bucket_feed WHERE status <> 'full'") == 0
