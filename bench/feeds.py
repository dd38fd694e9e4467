"""Feeds: how late candles are when many markets are kept fresh, what that costs, and a worker's memory over a backfill.

A simulated venue on wall time has the markets; scheduler and workers run as processes. `late` is from the close of a
candle to the statement that stores it, of every candle that closes while it is measured.

Examples: scripts/bench feeds; scripts/bench feeds --markets 100 --minutes 2; scripts/bench feeds --history 500000
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from bench.ground import Ground, ground
from bench.report import percentile
from bench.simulated import ROOT, Venue, simulator

TIMEFRAMES = ("1m", "3m", "5m", "15m", "1h")
TICKS = os.sysconf("SC_CLK_TCK")
EXCHANGE = "INSERT INTO exchange (name, ccxt_id, options) VALUES ('sim', 'binance', %s)"
FEEDS = """
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since)
SELECT m.id, t.id, %s FROM market m, timeframe t WHERE t.name = ANY(%s)
"""
# When each candle was stored, seen from within the statement; its commit is some milliseconds later.
STORED = """
CREATE TABLE stored (market_id int, timeframe_id smallint, time_close timestamptz,
                     at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note_stored() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO stored SELECT market_id, timeframe_id, time_close FROM fresh; RETURN NULL; END $$;
CREATE TRIGGER z_note AFTER INSERT ON bucket REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT
  EXECUTE FUNCTION note_stored();
"""
LATE = """
SELECT extract(epoch FROM at - time_close)::float8 FROM stored WHERE time_close > %s AND time_close <= %s
"""


def write_candles(path: Path, start: datetime, minutes: int) -> None:
    """A random walk in minutes."""
    random = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.0005, minutes)))
    opened = np.concatenate(([100.0], close[:-1]))
    times = int(start.timestamp() * 1000) + 60_000 * np.arange(minutes)
    columns = (times, opened, np.maximum(opened, close) + 0.01, np.minimum(opened, close) - 0.01, close)
    table = np.column_stack([*columns, random.gamma(2, 5, minutes)])
    header = "time_open_ms,open,high,low,close,volume"
    np.savetxt(path, table, delimiter=",", header=header, comments="", fmt=["%d"] + ["%.4f"] * 5)


class Bench:
    """A venue, a database and the processes between them."""

    def __init__(self, url: str, venue: Venue, home: str, workers: int) -> None:
        self.url = url
        self.home = home
        self.venue = venue
        self.sql = psycopg.connect(url, autocommit=True)
        self.sql.execute(EXCHANGE, [json.dumps(venue.options())])
        self.sql.execute(STORED)
        self.processes = [self._start("scheduler"), *(self._start("worker") for _ in range(workers))]

    def _start(self, kind: str) -> "subprocess.Popen[bytes]":
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "DATABASE_URL": self.url, "TALLYDESK_HOME": self.home, "TALLYDESK_TICK": "0.25",
        }  # fmt: skip
        log = (Path(self.home) / "roles.log").open("ab")
        command = [sys.executable, "-m", "trader.cli.main", "run", kind]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.sql.close()

    def value(self, statement: str, *parameters: Any) -> Any:
        row = self.sql.execute(statement, parameters or None).fetchone()
        assert row is not None
        return row[0]

    def wait_for(self, statement: str, *parameters: Any, seconds: float = 1800) -> None:
        deadline = time.monotonic() + seconds
        while not self.value(statement, *parameters):
            if time.monotonic() > deadline:
                raise SystemExit(f"not so within {seconds:.0f} s: {statement}")
            time.sleep(0.2)

    def backends(self) -> list[int]:
        rows = self.sql.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database()").fetchall()
        return [pid for (pid,) in rows]

    def cpu(self) -> dict[str, float]:
        """Seconds on a CPU so far, by who it is."""
        scheduler, *workers = (process.pid for process in self.processes)
        groups = {
            "scheduler": [scheduler], "workers": workers, "PostgreSQL": self.backends(), "the venue": [self.venue.pid],
        }  # fmt: skip
        return {name: sum(map(cpu_seconds, pids)) for name, pids in groups.items()}

    def ran_and_stood(self) -> tuple[float, float]:
        """Seconds that workers ran so far, and that they could have and had no core: in the thread they work in."""
        counts = [Path(f"/proc/{process.pid}/schedstat").read_text().split() for process in self.processes[1:]]
        return sum(int(one[0]) for one in counts) / 1e9, sum(int(one[1]) for one in counts) / 1e9


def cpu_seconds(pid: int) -> float:
    """Of one process; 0 if it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    return 0.0


def memory(pid: int) -> float:
    """Resident memory of a process, MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@contextlib.contextmanager
def desk(place: Ground, folder: Path, markets: int, history: int, workers: int) -> Iterator[Bench]:
    """Everything, with so many markets that have so many minutes behind them."""
    now = datetime.now(UTC)
    start = (now - timedelta(minutes=history)).replace(hour=0, minute=0, second=0, microsecond=0)
    write_candles(folder / "minutes.csv", start, (now + timedelta(hours=6) - start) // timedelta(minutes=1))
    names = [{"symbol": f"C{n}/USDT", "candles": str(folder / "minutes.csv"), "price": 100} for n in range(markets)]
    (folder / "config.json").write_text(json.dumps({"markets": names}))
    with simulator(
        "--config", str(folder / "config.json"), "--start", datetime.now(UTC).isoformat(), "--speed", "1"
    ) as venue:  # fmt: skip
        bench = Bench(place.database(), venue, str(folder), workers)
        try:
            bench.wait_for("SELECT count(*) = %s FROM market", markets)
            yield bench
        finally:
            bench.end()


def fresh(bench: Bench, minutes: float) -> None:
    """Fill all feeds, then measure."""
    began = time.monotonic()
    bench.sql.execute(FEEDS, [datetime.now(UTC) - timedelta(hours=6), list(TIMEFRAMES)])
    feeds = bench.value("SELECT count(*) FROM bucket_feed")
    bench.wait_for("SELECT count(*) = 0 FROM bucket_feed WHERE status <> 'full'")
    rows = bench.value("SELECT count(*) FROM bucket")
    took = time.monotonic() - began
    print(f"{feeds:,} feeds, {rows:,} candles fetched in {took:.0f} s ({rows / took:,.0f} a second)", flush=True)

    first, started, cpu, before = datetime.now(UTC), time.monotonic(), bench.cpu(), bench.ran_and_stood()
    most = 0
    while time.monotonic() < started + minutes * 60:
        most = max(most, bench.value("SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"))
        time.sleep(0.5)
    last = datetime.now(UTC)
    elapsed, used, after = time.monotonic() - started, bench.cpu(), bench.ran_and_stood()
    # Those that closed right at the end are still on their way.
    bench.wait_for(
        "SELECT bool_and(newest > %s - t.span) FROM bucket_feed JOIN timeframe t ON t.id = timeframe_id", last
    )
    late = [seconds for (seconds,) in bench.sql.execute(LATE, [first, last])]
    figures = ", ".join(f"p{share * 100:.0f} {percentile(late, share):.2f} s" for share in (0.5, 0.9, 0.99))
    print(f"{len(late):,} candles closed in {elapsed:.0f} s; late: {figures}, at most {max(late):.2f} s")
    shares = ", ".join(f"{name} {100 * (used[name] - cpu[name]) / elapsed:.0f} %" for name in cpu)
    print(f"of one core: {shares}; at most {most} jobs in the queue")
    each = ", ".join(f"{name} {1000 * (used[name] - cpu[name]) / len(late):.1f}" for name in cpu)
    ran, stood = (end - begin for begin, end in zip(before, after, strict=True))
    print(
        f"ms of CPU a candle: {each}; for each second that a worker ran it stood {stood / ran:.1f} s in line for a core"
    )
    print(f"errors: {bench.value('SELECT count(*) FROM bucket_feed WHERE last_error IS NOT NULL')}")


def backfill(bench: Bench, history: int) -> None:
    """One long backfill by one worker."""
    worker = bench.processes[1].pid
    began = time.monotonic()
    bench.sql.execute(FEEDS, [datetime.now(UTC) - timedelta(minutes=history), ["1m"]])
    for part in range(1, 11):
        bench.wait_for("SELECT count(*) >= %s FROM bucket", history * part // 10 - 1)
        rows, took = bench.value("SELECT count(*) FROM bucket"), time.monotonic() - began
        print(f"{rows:>10,} candles after {took:5.0f} s: the worker has {memory(worker):.0f} MB", flush=True)


def main() -> None:
    """Keep many fresh, or fetch one long history."""
    parser = argparse.ArgumentParser("bench feeds", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--markets", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=5, help="how long it is measured")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--history", type=int, help="only this: minutes of one market, fetched by one worker")
    options = parser.parse_args()
    with ground() as place, tempfile.TemporaryDirectory(prefix="bench-feeds-") as folder:
        load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
        print(f"{place.name}; {os.cpu_count()} cores, load {load}", flush=True)
        markets, history, workers = options.markets, 24 * 60, options.workers
        if options.history:
            markets, history, workers = 1, options.history, 1
        with desk(place, Path(folder), markets, history, workers) as bench:
            backfill(bench, options.history) if options.history else fresh(bench, options.minutes)


if __name__ == "__main__":
    main()
