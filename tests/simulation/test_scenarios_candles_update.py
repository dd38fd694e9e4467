"""Scenarios 39, 41, 42 and 43: candles are kept up to date through races, corrections, errors and outages.

The venue's market clock stands still and is moved by the test, where that matters.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

import numpy as np
import pytest

from tests.plugins.desk import Desk, Process
from tests.plugins.simulator import ROOT

START = datetime(2024, 1, 1, tzinfo=UTC)
FEED = "INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (1, 1, %s)"
STORED = """
SELECT (extract(epoch FROM time_close) * 1000)::int8 - 60000, open, high, low, close, volume FROM bucket
 WHERE market_id = 1 AND timeframe_id = 1 ORDER BY time_close
"""
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
FAILED = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'failed'"
FREE = "UPDATE bucket_feed SET leased_by = NULL, lease_until = NULL WHERE leased_by IS NOT NULL"


@pytest.fixture
def make_still(make_desk: Callable[..., Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A factory: a desk whose venue replays a file of so many minutes and stands still in the middle of one of them."""
    monkeypatch.setenv("TALLYDESK_TICK", "0.2")

    def make(minutes: int, at: float) -> Desk:
        write_candles(tmp_path / "minutes.csv", minutes)
        moment = (START + timedelta(minutes=at)).isoformat()
        desk = make_desk("--candles", str(tmp_path / "minutes.csv"), "--speed", "0", "--start", moment)
        desk.venue.price(None)
        return desk

    return make


def write_candles(path: Path, minutes: int, changed: dict[int, float] | None = None) -> None:
    """A random walk; of the minutes in `changed`, the close is another."""
    random = np.random.default_rng(5)
    close = 50_000 * np.exp(np.cumsum(random.normal(0, 0.0005, minutes)))
    opened = np.concatenate(([50_000.0], close[:-1]))
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["time_open_ms", "open", "high", "low", "close", "volume"])
        for i in range(minutes):
            last = (changed or {}).get(i, close[i])
            high, low = max(opened[i], last) + 10, min(opened[i], last) - 10
            values = (f"{value:.2f}" for value in (opened[i], high, low, last, 1 + i % 7))
            rows.writerow([int(START.timestamp() * 1000) + i * 60_000, *values])


def served(desk: Desk, since: datetime = START) -> list[tuple[Any, ...]]:
    """What the venue has now, the open candle left out."""
    rows: list[list[Any]] = []
    start = int(since.timestamp() * 1000)
    while True:
        query = f"symbol=BTCUSDT&interval=1m&startTime={start}&limit=1000"
        with urlopen(f"{desk.venue.url}/api/v3/klines?{query}", timeout=10) as answer:
            page = json.load(answer)
        rows += page
        if len(page) < 1000:
            return [(row[0], *map(float, row[1:6])) for row in rows[:-1]]
        start = page[-1][0] + 1


def stored(desk: Desk) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in desk.execute(STORED)]


def asked(desk: Desk) -> int:
    """How many times the venue was asked for candles so far."""
    return sum(one["path"] == "/api/v3/klines" for one in desk.venue.log())


def work(desk: Desk, workers: int = 1) -> list[Process]:
    desk.process("run", "scheduler")
    return [desk.process("run", "worker") for _ in range(workers)]


def full_up_to(desk: Desk, minutes: int) -> None:
    desk.wait_for(
        "SELECT status = 'full' AND last_error IS NULL AND newest = %s FROM bucket_feed",
        START + timedelta(minutes=minutes),
    )


def test_s39_two_jobs_on_one_feed_at_once(make_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    """The leases are taken away all the time, so that up to four workers fetch the same candles at the same moment."""
    monkeypatch.setenv("TALLYDESK_TICK", "0.1")
    desk = make_desk("--speed", "600")
    desk.venue.price(None)
    work(desk, workers=4)
    desk.wait_for("SELECT count(*) = 5 FROM role_status WHERE alive")
    now = datetime.fromtimestamp(desk.venue.clock()["market"] / 1000, UTC)
    since = (now - timedelta(days=10)).replace(second=0, microsecond=0)
    desk.venue.fault("delay_answer", "GET /api/v3/klines", seconds=0.3, times=None)  # time for the others to come
    desk.execute(FEED, since)
    newest, seen = [], set()
    while desk.value("SELECT count(*) < 14_000 FROM bucket"):
        seen |= {row[0] for row in desk.execute("SELECT leased_by FROM bucket_feed WHERE leased_by IS NOT NULL")}
        newest.append(desk.value("SELECT newest FROM bucket_feed"))
        desk.execute(FREE)
    found = [one for one in newest if one is not None]
    assert all(a <= b for a, b in pairwise(found))
    assert len(seen) >= 2
    desk.venue.clear_faults()
    desk.venue.clock(speed=0)
    expected = served(desk, since)
    desk.wait_for("SELECT count(*) = %s FROM bucket", len(expected))
    desk.wait_for("SELECT status = 'full' AND last_error IS NULL FROM bucket_feed")
    assert stored(desk) == expected
    assert desk.value("SELECT count(*) - count(DISTINCT (market_id, timeframe_id, time_close)) FROM bucket") == 0
    assert desk.value(DEADLOCKS) == 0
    assert desk.value(FAILED) == 0


WITNESS = """
from pathlib import Path
from trader.strategy import Params, Strategy

class WitnessParams(Params):
    path: str

class Witness(Strategy[WitnessParams]):
    '''Writes down the newest candle that it was shown.'''

    @property
    def warm_up(self) -> int:
        return 1

    def signal(self, candles):
        with Path(self.params.path).open("a") as file:
            file.write(f"{candles.index[-1].timestamp():.0f} {float(candles['close'].iloc[-1])!r}\\n")
        return candles["close"] * 0.0
"""


def test_s41_the_venue_rewrites_the_last_candle(
    make_still: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The open candle changes with each look, and a closed one is corrected: no strategy saw what was not final."""
    (tmp_path / "witness.py").write_text(WITNESS)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    desk = make_still(400, 300.1)
    monkeypatch.setattr(Desk, "environment", property(lambda self: _environment(self, tmp_path)))
    desk.execute(FEED, START)
    params = json.dumps({"path": str(tmp_path / "seen")})
    desk.execute(
        """INSERT INTO strategy (name, account_id, class, params, market_id, timeframe_id)
           VALUES ('witness', 1, 'witness:Witness', %s, 1, 1)""",
        params,
    )
    work(desk)
    full_up_to(desk, 300)
    for _ in range(20):  # twice through each of ten minutes: the last candle is another each time that it is asked for
        desk.venue.clock(advance_seconds=30)
        count = asked(desk)
        desk.venue.wait_for_log(lambda _, count=count: asked(desk) > count + 1, 30)
    full_up_to(desk, 310)
    desk.wait_for("SELECT last_bucket = newest FROM strategy, bucket_feed")
    before = stored(desk)
    assert before == served(desk)

    desk.venue.stop()
    write_candles(tmp_path / "minutes.csv", 400, changed={309: 51_234.56})
    desk.venue.start()
    desk.venue.clock(advance_seconds=60)
    full_up_to(desk, 311)
    assert stored(desk) == served(desk)
    assert stored(desk)[309][4] == 51_234.56
    correction = desk.execute("SELECT time_close, old_close, new_close, new_source::text FROM bucket_correction")
    assert [tuple(row) for row in correction] == [
        (START + timedelta(minutes=310), before[309][4], 51_234.56, "fetched")
    ]
    desk.wait_for("SELECT last_bucket = newest FROM strategy, bucket_feed")
    finals = {row[0] // 1000 + 60: row[4] for row in before} | {
        row[0] // 1000 + 60: row[4] for row in stored(desk)[310:]
    }
    seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert len({moment for moment, _ in seen}) >= 5
    assert all(finals[int(moment)] == float(close) for moment, close in seen)


def _environment(desk: Desk, more: Path) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{more}",
        "DATABASE_URL": desk.url,
        "TALLYDESK_HOME": str(desk.home),
        "TEST_API_KEY": desk.venue.key,
        "TEST_SECRET": desk.venue.secret,
    }


def test_s42_select_is_revoked_in_the_middle_of_a_run(make_still: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is a role that may be told no. It says why, asks for nothing again, and goes on where it was."""
    desk = make_still(30_000, 29_000.5)
    name = f"worker_{os.getpid()}_of_this_test"
    desk.execute(f"CREATE ROLE {name} LOGIN SUPERUSER")
    desk.execute(f"ALTER ROLE {name} NOSUPERUSER")
    for what in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        desk.execute(f"GRANT ALL ON ALL {what} IN SCHEMA public TO {name}")
    owner = desk.url
    parts = urlsplit(owner)
    try:
        desk.url = urlunsplit(parts._replace(netloc=f"{name}@{parts.netloc.rpartition('@')[2]}"))
        worker = desk.process("run", "worker")
        desk.url = owner
        desk.process("run", "scheduler")
        desk.venue.fault("delay_answer", "GET /api/v3/klines", seconds=0.2, times=None)
        desk.execute(FEED, START)
        desk.wait_for("SELECT count(*) > 4000 FROM bucket")
        desk.execute(f"REVOKE SELECT ON bucket FROM {name}")
        desk.wait_for("SELECT status = 'error' AND failures >= 2 FROM bucket_feed")
        assert "permission denied for table bucket" in desk.value("SELECT last_error FROM bucket_feed")
        desk.wait_for(f"SELECT ({FAILED}) > 0")
        rows, covered, count = desk.execute("SELECT (SELECT count(*) FROM bucket), covered, failures FROM bucket_feed")[
            0
        ]
        assert 4000 < rows < 29_000
        before = asked(desk)
        desk.wait_for("SELECT failures > %s FROM bucket_feed", count)
        assert desk.value("SELECT covered = %s FROM bucket_feed", covered)
        assert 0 < asked(desk) - before <= 8  # once more for each failure: its newest page, or three of the oldest

        before = asked(desk)
        desk.execute(f"GRANT SELECT ON bucket TO {name}")
        full_up_to(desk, 29_000)
        missing = -(-(29_000 - rows) // 1000)
        count = asked(desk)
        assert stored(desk) == served(desk)
        # Not one page that was there was asked for again; a few for the newest candle, several times a second.
        assert desk.value("SELECT count(*) FROM bucket_correction") == 0
        assert missing <= count - before <= missing + 12, (missing, count - before)
        desk.wait_for(f"SELECT ({FAILED}) = 0")
        assert worker.alive
    finally:
        for process in desk.processes:
            process.kill()
        desk.execute(f"DROP OWNED BY {name}")
        desk.execute(f"DROP ROLE {name}")


def test_s43_six_hours_of_downtime_are_repaired_on_start(make_still: Any) -> None:
    desk = make_still(2000, 1000.5)
    desk.execute(FEED, START)
    for process in work(desk):
        full_up_to(desk, 1000)
        process.kill()
    desk.processes[0].kill()
    desk.venue.clock(advance_seconds=6 * 3600)
    before = asked(desk)
    work(desk)
    full_up_to(desk, 1360)
    # One page has them all. What is asked after that is for the newest candle, several times a second.
    assert asked(desk) - before <= 10
    assert stored(desk) == served(desk)
    assert len(stored(desk)) == 1360
    assert desk.value("SELECT count(*) FROM bucket_gap") == 0
    assert desk.value(FAILED) == 0
