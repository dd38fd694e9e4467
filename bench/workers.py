"""Workers: candles a second that one worker stores and that two store, and one worker's memory over a long backfill.

The workers are processes with the product's queue, jobs and PostgreSQL; only the venue is none: it is inside each
worker and answers at once, or after --delay. Beside the speed stands whose CPU it took: that says what is used up.

Examples: scripts/bench workers; scripts/bench workers --delay 20; scripts/bench workers --candles 10000000
"""

import argparse
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import psycopg

from bench.feeds import cpu_seconds, memory
from bench.ground import Ground, ground
from bench.report import compare
from bench.worker_process import Told, work
from jobs.bucket import DEFER_DUE, DUE
from trader.db import Identity, conninfo

TICK = 0.25
PREPARE = """
INSERT INTO exchange (name, ccxt_id) VALUES ('bench', 'binance');
INSERT INTO account (name, exchange_id, mode, credentials) VALUES ('main', 1, 'simulator', 'BENCH');
INSERT INTO asset (code) VALUES ('USDT'), ('BTC');
"""
MARKETS = """
INSERT INTO market (exchange_id, symbol, base_id, quote_id, price_tick, quantity_step, quantity_min, cost_min)
SELECT 1, format('C%%s/USDT', g), 2, 1, 0.01, 0.00001, 0.00001, 5 FROM generate_series(1, %s) g
"""
FEEDS = "INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) SELECT id, 1, %s FROM market"
DONE = "SELECT count(*) = 0 FROM bucket_feed WHERE status <> 'full'"
ERRORS = "SELECT string_agg(DISTINCT last_error, '; ') FROM bucket_feed WHERE last_error IS NOT NULL"
WAITS = """
SELECT coalesce(wait_event_type || ' ' || wait_event, 'runs') FROM pg_stat_activity
 WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()
"""
ROW_LOCKS = ("Lock advisory", "Lock transactionid", "Lock tuple", "Lock virtualxid")


@dataclass(frozen=True, slots=True)
class Round:
    """What storing so many candles took, in seconds."""

    candles: int
    wall: float
    workers_cpu: float
    postgres_cpu: float
    stood: float
    """For how long workers could have run and had no core, because others had both."""
    venue_cpu: float = 0.0
    shares: tuple[int, ...] = ()
    waits: tuple[tuple[str, int], ...] = ()
    """What backends did whenever they were looked at."""

    @property
    def speed(self) -> float:
        """Candles a second."""
        return self.candles / self.wall


class Postgres:
    """The CPU of the whole server: backends, those that are gone, and what writes and cleans behind them."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        pid = connection.info.backend_pid
        self.postmaster = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    def cpu(self) -> float:
        """Seconds so far."""
        children = Path(f"/proc/{self.postmaster}/task/{self.postmaster}/children").read_text().split()
        fields = Path(f"/proc/{self.postmaster}/stat").read_text().rpartition(")")[2].split()
        ended = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
        return ended + sum(cpu_seconds(int(child)) for child in children)


def _stood(pid: int) -> float:
    """Of the thread that a worker works in, the kernel's count of nanoseconds in the line for a core."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


class Scheduler(threading.Thread):
    """What the scheduler does for feeds."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.end = threading.Event()

    def run(self) -> None:
        with psycopg.connect(
            conninfo(self._url, Identity("scheduler", "bench scheduler")), autocommit=True
        ) as connection:
            while not self.end.wait(TICK):
                connection.execute(DEFER_DUE, dict(DUE))


class Desk:
    """A database with feeds that lack everything, and the workers that will fill them."""

    def __init__(self, url: str, feeds: int, history: int, options: argparse.Namespace) -> None:
        self.url = url
        self.sql = psycopg.connect(url, autocommit=True)
        self.sql.execute(PREPARE)
        self.sql.execute(MARKETS, [feeds])
        self.since = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=history)
        self.postgres = Postgres(self.sql)
        self._options = options
        self._stop = multiprocessing.get_context("spawn").Event()
        self._processes: list[Any] = []
        self._pipes: list[Any] = []
        self.pids: list[int] = []

    @contextmanager
    def workers(self, count: int) -> Iterator[None]:
        """So many, ready, and the scheduler; feeds are there from now on."""
        spawn = multiprocessing.get_context("spawn")
        for number in range(1, count + 1):
            ours, theirs = spawn.Pipe()
            profile = self._options.profile and f"{self._options.profile}.{count}.{number}"
            values = (self.url, f"worker-{number}", self._options.delay / 1000, 0, self._stop, theirs, profile)
            self._processes.append(spawn.Process(target=work, args=values))
            self._processes[-1].start()
            self._pipes.append(ours)
        self.pids = [pipe.recv() for pipe in self._pipes]
        scheduler = Scheduler(self.url)
        scheduler.start()
        try:
            yield
        finally:
            scheduler.end.set()
            scheduler.join()
            self._stop.set()

    def end(self) -> list[Told]:
        """What the workers had to say."""
        told = [pipe.recv() for pipe in self._pipes]
        for process in self._processes:
            process.join(30)
        self.sql.close()
        return told

    def value(self, statement: str) -> Any:
        """The first value of a statement."""
        row = self.sql.execute(statement).fetchone()
        assert row is not None
        return row[0]

    def cpu(self) -> tuple[float, float, float]:
        """Seconds so far: of the workers, of PostgreSQL, and that workers stood in line for a core."""
        return sum(map(cpu_seconds, self.pids)), self.postgres.cpu(), sum(map(_stood, self.pids))


def one_round(place: Ground, workers: int, options: argparse.Namespace) -> Round:
    """Fill all feeds with so many workers. A run in which one candle is missing, or anything failed, ends the bench."""
    desk = Desk(place.database(), options.feeds, options.history, options)
    waits: dict[str, int] = {}
    with desk.workers(workers):
        before, started = desk.cpu(), time.monotonic()
        desk.sql.execute(FEEDS, [desk.since])
        while not desk.value(DONE):
            for (what,) in desk.sql.execute(WAITS).fetchall():
                waits[what] = waits.get(what, 0) + 1
            time.sleep(0.05)
        wall, after = time.monotonic() - started, desk.cpu()
    candles = _judge(desk, options)
    told = desk.end()
    found = Round(candles, wall, after[0] - before[0], after[1] - before[1], after[2] - before[2])
    most = sorted(waits.items(), key=lambda item: -item[1])
    return replace(found, venue_cpu=sum(one.venue_cpu for one in told),
                   shares=tuple(one.candles for one in told), waits=tuple(most))  # fmt: skip


def _judge(desk: Desk, options: argparse.Namespace) -> int:
    candles, errors = desk.value("SELECT count(*) FROM bucket"), desk.value(ERRORS)
    if errors or candles < options.feeds * options.history:
        raise SystemExit(f"{candles:,} candles where at least {options.feeds * options.history:,} were due: {errors}")
    deadlocks = desk.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    if deadlocks:
        raise SystemExit(f"{deadlocks} deadlocks")
    return int(candles)


def show(rounds: Sequence[Round], name: str) -> None:
    """Where the time of some rounds went."""

    def each(seconds: Sequence[float]) -> float:
        return median(1000 * 1000 * one / taken.candles for one, taken in zip(seconds, rounds, strict=True))

    workers, venue = each([one.workers_cpu for one in rounds]), each([one.venue_cpu for one in rounds])
    cores = median((one.workers_cpu + one.postgres_cpu) / one.wall for one in rounds)
    stood = median(one.stood / one.wall / len(one.shares) for one in rounds)
    print(
        f"{name}: ms of CPU per 1,000 candles: workers {workers:.1f} (of which the venue {venue:.1f}), "
        f"PostgreSQL {each([one.postgres_cpu for one in rounds]):.1f}; {cores:.2f} cores used; a worker could run and "
        f"had no core for {100 * stood:.0f} % of the time"
    )
    for one in rounds:
        shares = " + ".join(f"{share:,}" for share in one.shares)
        waits = ", ".join(f"{what} {count}" for what, count in one.waits[:6])
        rows = sum(count for what, count in one.waits if what in ROW_LOCKS)
        print(f"  {one.candles:,} in {one.wall:.1f} s; asked for by each: {shares}; backends seen: {waits}; "
              f"waiting for another's row or advisory lock: {rows}")  # fmt: skip


def compared(place: Ground, options: argparse.Namespace) -> None:
    """One worker and two, in turn."""
    ones, twos = [], []
    for _ in range(options.rounds):
        ones.append(one_round(place, 1, options))
        twos.append(one_round(place, 2, options))
    what = f"two workers / one, venue after {options.delay:g} ms, candles/s"
    compare(what, [one.speed for one in twos], [one.speed for one in ones], least=1.7)
    show(ones, "one worker ")
    show(twos, "two workers")


def long_backfill(place: Ground, options: argparse.Namespace) -> None:
    """One feed, one worker: what it holds in memory at each tenth."""
    desk = Desk(place.database(), 1, options.candles, options)
    held = []
    with desk.workers(1):
        started = time.monotonic()
        desk.sql.execute(FEEDS, [desk.since])
        for part in range(1, 11):
            while not _reached(desk, options.candles * part // 10, options.candles):
                if errors := desk.value(ERRORS):
                    raise SystemExit(errors)
                time.sleep(0.1)
            took = time.monotonic() - started
            held.append(memory(desk.pids[0]))
            print(f"{options.candles * part // 10:>12,} candles after {took:6.0f} s: {held[-1]:.0f} MB", flush=True)
    rows = desk.value("SELECT count(*) FROM bucket")
    desk.end()
    print(f"{rows:,} candles stored; resident memory {min(held):.0f} to {max(held):.0f} MB, "
          f"max - min {max(held) - min(held):.1f} MB")  # fmt: skip


def _reached(desk: Desk, candles: int, of: int) -> bool:
    """Whether so many are stored. They are not counted, which takes seconds: backfills go from the oldest on, and only
    the newest page comes before that."""
    if candles >= of:
        return bool(desk.value(DONE))
    wanted = desk.since + timedelta(minutes=candles)
    row = desk.sql.execute("SELECT bool_and(covered @> %s) FROM bucket_feed", [wanted]).fetchone()
    return row is not None and bool(row[0])


def main() -> None:
    """Compare one worker with two, or watch one over a long backfill."""
    parser = argparse.ArgumentParser(
        "bench workers", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--feeds", type=int, default=12)
    parser.add_argument("--history", type=int, default=60_000, help="minutes of each feed")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--delay", type=float, default=0, help="milliseconds that the venue takes for an answer")
    parser.add_argument("--candles", type=int, help="only this: so many of one feed, by one worker")
    parser.add_argument("--profile", help="write a cProfile of each worker to this file name and its number")
    options = parser.parse_args()
    with ground() as place:
        load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
        print(f"{place.name}; {os.cpu_count()} cores, load {load}", flush=True)
        long_backfill(place, options) if options.candles else compared(place, options)


if __name__ == "__main__":
    main()
