"""Eight workers on twelve feeds of two venues, three of them killed: every candle once, closed, as the venue has it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from urllib.request import urlopen

import pytest

from tests.plugins.desk import Desk, Process
from tests.plugins.simulator import ROOT, Simulator
from trader.simulator.client_options import ccxt_options

SYMBOLS = ("BTC/USDT", "ETH/USDT")
TIMEFRAMES = ("1m", "5m", "1h")
DAYS = 25
WORKERS = 8
MARKETS = [word for symbol in SYMBOLS for word in ("--market", symbol)]

STORED = """
SELECT b.time_close, b.open, b.high, b.low, b.close, b.volume FROM bucket b JOIN market m ON m.id = b.market_id
  JOIN exchange e ON e.id = m.exchange_id JOIN timeframe t ON t.id = b.timeframe_id
 WHERE e.name = %s AND m.symbol = %s AND t.name = %s ORDER BY b.time_close
"""
NEWEST = """
SELECT market, timeframe, newest, status, last_error FROM feeds
"""
SERVING = """
SELECT (SELECT r.name FROM bucket_feed f JOIN role r ON r.instance = f.leased_by
         WHERE r.name = ANY(%s) ORDER BY random() LIMIT 1)
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
    """Two markets at a venue whose clock runs ten minutes a second; nobody has any candles yet."""
    monkeypatch.setenv("TALLYDESK_TICK", "0.2")
    desk = make_desk(*MARKETS, "--speed", "600")
    desk.venue.price(None)
    return desk


@pytest.fixture
def second(desk: Desk, simulator: Callable[..., Simulator]) -> Simulator:
    """Another venue with the same pairs and other candles, at another pace."""
    venue = simulator(*MARKETS, "--speed", "300", "--seed", "7")
    options = json.dumps(ccxt_options(venue.url) | {"enableRateLimit": False})
    desk.execute("INSERT INTO exchange (name, ccxt_id, replay, options) VALUES ('two', 'binance', true, %s)", options)
    return venue


@pytest.fixture
def reader(desk: Desk) -> Iterator[Reader]:
    made = Reader(desk.url)
    yield made
    made.kill()


def served(venue: Simulator, symbol: str, timeframe: str, since: datetime) -> list[tuple[Any, ...]]:
    """The venue's candles, the open one left out, each as it is stored: when it closes, and five numbers."""
    rows: list[list[Any]] = []
    start = int(since.timestamp() * 1000)
    while True:
        query = f"symbol={symbol.replace('/', '')}&interval={timeframe}&startTime={start}&limit=1000"
        with urlopen(f"{venue.url}/api/v3/klines?{query}", timeout=10) as answer:
            page = json.load(answer)
        rows += page
        if len(page) < 1000:
            break
        start = page[-1][0] + 1
    return [
        (datetime.fromtimestamp((row[6] + 1) / 1000, UTC), *(float(number) for number in row[1:6])) for row in rows[:-1]
    ]


def market_time(venue: Simulator) -> datetime:
    return datetime.fromtimestamp(venue.clock()["market"] / 1000, UTC)


def nothing_open(desk: Desk, venues: dict[str, Simulator]) -> None:
    """No candle is stored whose end the venue's clock has not reached."""
    for name, venue in venues.items():
        newest = desk.value("SELECT max(newest) FROM feeds WHERE market LIKE %s", f"{name}:%")
        assert newest is None or newest <= market_time(venue)


def add_feed(desk: Desk, market: str, timeframe: str, since: datetime) -> None:
    """As a person adds it."""
    added = subprocess.run(
        [
            sys.executable, "-m", "trader.cli.main", "feed", "add", *market.split(":"), timeframe,
            "--since", since.isoformat(),
        ],
        cwd=ROOT, env=desk.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert added.returncode == 0, added.stderr


def kill_one_at_work(desk: Desk, workers: list[Process]) -> str:
    """kill -9 of a worker that serves a feed at this moment; its name."""
    alive = {one.output.split(" is running")[0].split()[-1]: one for one in workers if one.alive}
    name = desk.wait_for(SERVING, sorted(alive))
    alive[name].kill()
    return str(name)


@pytest.mark.timeout(300)
def test_twelve_feeds_eight_workers_three_killed_at_random(desk: Desk, second: Simulator, reader: Reader) -> None:
    seed = time.time_ns() % 100_000
    print(f"seed {seed}")
    random = Random(seed)
    venues = {"binance": desk.venue, "two": second}
    workers = [desk.process("run", "worker") for _ in range(WORKERS)]
    desk.process("run", "scheduler")
    desk.wait_for("SELECT count(*) = %s FROM role_status WHERE alive", WORKERS + 1)
    desk.wait_for("SELECT count(*) = %s FROM market", 2 * len(SYMBOLS))
    deadlocks = desk.value(DEADLOCKS)
    since = {
        name: (market_time(venue) - timedelta(days=DAYS)).replace(minute=0, second=0, microsecond=0)
        for name, venue in venues.items()
    }
    feeds = [(name, s, t) for name in venues for s in SYMBOLS for t in TIMEFRAMES]
    random.shuffle(feeds)
    kills = random.sample(range(3, len(feeds)), 3)
    for number, (name, symbol, timeframe) in enumerate(feeds):
        add_feed(desk, f"{name}:{symbol}", timeframe, since[name])
        nothing_open(desk, venues)
        if number in kills:
            print(f"{kill_one_at_work(desk, workers)} is killed after feed {number + 1}")
    for _ in range(20):
        nothing_open(desk, venues)
    for venue in venues.values():
        venue.clock(speed=0)
    expected = {(name, s, t): served(venues[name], s, t, since[name]) for name, s, t in feeds}
    _wait_for_all(desk, {key: rows[-1][0] for key, rows in expected.items()})

    reads, longest = reader.end()
    print(f"{reads} reads, the longest took {longest:.3f} s")
    assert reads > 100
    assert longest < 1
    for key, rows in expected.items():
        assert [tuple(row) for row in desk.execute(STORED, *key)] == rows
    _check_once(desk, sum(map(len, expected.values())))
    assert desk.value(DEADLOCKS) == deadlocks
    assert all("deadlock" not in process.output for process in desk.processes)


def _wait_for_all(desk: Desk, newest: dict[tuple[str, str, str], datetime]) -> None:
    """Until every feed is full up to what the venue has: those of dead workers are served by others."""
    for (name, symbol, timeframe), end in newest.items():
        desk.wait_for(
            f"SELECT (status, newest, last_error) IS NOT DISTINCT FROM ('full', %s, NULL) FROM ({NEWEST}) f"
            " WHERE (market, timeframe) = (%s, %s)",
            end,
            f"{name}:{symbol}",
            timeframe,
        )
    desk.wait_for("SELECT count(*) = 0 FROM procrastinate_jobs WHERE status = 'failed'")


def _check_once(desk: Desk, expected: int) -> None:
    rows, distinct = desk.execute("""SELECT count(*) AS rows,
        count(DISTINCT (market_id, timeframe_id, time_close)) AS keys FROM bucket""")[0]
    assert rows == distinct == expected
    assert desk.value("SELECT count(*) FROM bucket_gap") == 0
    assert (
        desk.value("SELECT count(*) FROM feeds WHERE status <> 'full' OR progress <> 100 OR last_error IS NOT NULL")
        == 0
    )
    assert desk.value("SELECT count(*) FROM bucket_refusal") == 0
