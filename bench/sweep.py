"""Sweeps: trials a second with one worker and with two, in turn; 100 pairs of parameters on 100,000 bars; and memory.

The workers are the product's own (`tallydesk sweep worker`), each a process, with PostgreSQL beside them on the same
cores. Timed is all of it: making the sweep, its jobs, reading the candles in each chunk, the runs, their measures, the
rows. The two-worker figure is honest only on two idle cores: the line of the load says whether they were.

Examples: scripts/bench sweep; scripts/bench sweep --sets 1000 --rounds 5
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psycopg

from bench.backtest_floor import walk
from bench.feeds import cpu_seconds
from bench.ground import Ground, ground
from bench.report import compare, header
from bench.workers import Postgres
from jobs.sweep import DEFER_DUE, DUE
from trader.backtest.sweep import Plan, make_sweep
from trader.bucket import Candles, timeframe_named, write_buckets
from trader.config import PROJECT, Settings
from trader.db import Identity, connect, fetch_one

ROOT = Path(__file__).resolve().parent.parent
BARS = 100_000
GOAL = 2.0
"""Seconds for 100 pairs on two cores."""
SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT');
INSERT INTO exchange (name, ccxt_id) VALUES ('bench', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2);
"""
WORKERS = "SELECT count(*) FROM procrastinate_workers WHERE last_heartbeat > clock_timestamp() - interval '20 s'"


async def fill(url: str) -> None:
    """A walk of minute bars."""
    async with await connect(url, Identity("worker", "bench")) as connection:
        await connection.execute(SEED)
        columns = walk(BARS)._asdict()
        opens = columns.pop("time") - 60_000
        await write_buckets(connection, 1, timeframe_named("1m"), Candles(opens, **columns), "imported")


class Desk:
    """A database with candles, and the home of its workers."""

    def __init__(self, place: Ground, home: Path) -> None:
        self.url, self.home = place.database(), home
        asyncio.run(fill(self.url))
        self.sql = psycopg.connect(self.url, autocommit=True)
        self.postgres = Postgres(self.sql)

    @contextmanager
    def workers(self, count: int) -> Iterator[list[int]]:
        """So many, ready; their process ids."""
        environment = {
            **os.environ,
            "DATABASE_URL": self.url,
            "TALLYDESK_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-P", "-m", "trader.cli.main", "sweep", "worker", "--parent", str(os.getpid())]
        errors = subprocess.DEVNULL
        started = [subprocess.Popen(command, env=environment, cwd=ROOT, stderr=errors) for _ in range(count)]
        try:
            self.wait_for(f"SELECT ({WORKERS}) >= {count}")
            yield [process.pid for process in started]
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(30)
            self.sql.execute("DELETE FROM procrastinate_workers")

    def wait_for(self, question: str, line: "Line | None" = None) -> None:
        end = time.monotonic() + 300
        while self.sql.execute(question).fetchone() != (True,):  # type: ignore[arg-type]
            if time.monotonic() > end:
                raise SystemExit(f"never true: {question}")
            if line:
                line.look()
            time.sleep(0.05)  # each look costs a millisecond of the cores that are measured

    def sweep(self, sets: int, line: "Line | None" = None) -> float:
        """Seconds from asking for so many pairs to all of them done."""
        fast = max(1, sets // 10)
        grid = {"fast": f"2..{fast + 1}", "slow": f"{fast + 10}..{fast + 100}:10"}
        plan = Plan("strategies.sma_cross:SmaCross", "bench:BTC/USDT", "1m", space=grid, params={"price": "close"})
        started = time.perf_counter()
        made = asyncio.run(self._make(plan))
        self.wait_for(f"SELECT state <> 'running' FROM sweep WHERE id = {made}", line)
        took = time.perf_counter() - started
        row = self.sql.execute("SELECT state, done, failed, error FROM sweeps WHERE id = %s", [made]).fetchone()
        if row is None or row[:3] != ("done", fast * 10, 0):
            raise SystemExit(f"{row}")
        return took

    async def _make(self, plan: Plan) -> int:
        async with await connect(self.url, Identity("cli", "bench")) as connection:
            made = await make_sweep(connection, Settings(self.home, PROJECT), plan)
            await connection.execute(DEFER_DUE, DUE)
            return int((await fetch_one(connection, "SELECT %s::int AS id", [made.id])).id)


class Line:
    """How long threads of some processes stood in line for a core. Each chunk has a thread of its own, which takes its
    count along when it ends: so they are looked at all the time."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._seen: dict[str, int] = {}

    def look(self) -> float:
        """Seconds so far."""
        for pid in self._pids:
            for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with suppress(OSError, IndexError):
                    self._seen[str(path)] = int(path.read_text().split()[1])
        return sum(self._seen.values()) / 1e9


@dataclass(frozen=True)
class Round:
    """A sweep with some workers: how long, and where the time went."""

    workers: int
    sets: int
    wall: float
    cpu: float
    stood: float
    postgres: float
    """CPU of the whole server: it has the same cores."""

    @property
    def unhindered(self) -> float:
        """Trials a second, had there always been a core: the time in which there was none is taken off."""
        return self.sets / max(self.cpu / self.workers, self.wall - self.stood / self.workers)

    def __str__(self) -> str:
        total = self.workers * self.wall
        idle = max(0.0, 1 - (self.cpu + self.stood) / total)
        each = [1000 * cpu / self.sets for cpu in (self.cpu, self.postgres)]
        return (
            f"{self.sets / self.wall:4.0f} trials/s with {self.workers}: {each[0]:.1f} ms of CPU each, "
            f"{each[1]:.1f} of PostgreSQL; ran {self.cpu / total:.0%}, had no core {self.stood / total:.0%}, "
            f"waited {idle:.0%}"
        )


def timed(desk: Desk, pids: list[int], sets: int) -> Round:
    """One sweep."""
    line = Line(pids)
    before = sum(map(cpu_seconds, pids)), line.look(), desk.postgres.cpu()
    wall = desk.sweep(sets, line)
    after = sum(map(cpu_seconds, pids)), line.look(), desk.postgres.cpu()
    return Round(len(pids), sets, wall, *(now - then for now, then in zip(after, before, strict=True)))


def peak(pid: int) -> float:
    """The most memory that a process had, in MB."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser("bench sweep", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sets", type=int, default=3000, help="sets of the comparison of one worker with two")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ground() as place, tempfile.TemporaryDirectory() as home:
        header(f"sweep: SMA cross by the kit, {BARS:,} bars", place.name)
        desk = Desk(place, Path(home))
        ones, twos, pairs, memory = [], [], [], []
        for _ in range(options.rounds):
            with desk.workers(1) as pids:
                desk.sweep(20)  # imports, and the copy of the candles
                few = peak(pids[0])
                ones.append(timed(desk, pids, options.sets))
                memory.append((few, peak(pids[0])))
            with desk.workers(2) as pids:
                desk.sweep(40)
                twos.append(timed(desk, pids, options.sets))
                pairs.append(desk.sweep(100))
        speeds = [[one.sets / one.wall for one in rounds] for rounds in (twos, ones)]
        compare("two workers / one, trials/s", *speeds, least=1.8)
        free = [[one.unhindered for one in rounds] for rounds in (twos, ones)]
        compare("  without the time in which others had the cores", *free, least=1.8)
        print(*(f"  {one}" for pair in zip(ones, twos, strict=True) for one in pair), sep="\n")
        verdict = "met" if median(pairs) < GOAL else "NOT met"
        each = ", ".join(f"{one:.2f}" for one in pairs)
        print(f"100 pairs x {BARS:,} bars, two workers: {median(pairs):.2f} s (< {GOAL:g} s: {verdict}; each: {each})")
        told = ", ".join(f"{few:.0f} and {many:.0f}" for few, many in memory)
        print(f"peak of one worker's memory after 20 sets and after {options.sets + 20:,}: {told} MB")
        desk.sql.close()


if __name__ == "__main__":
    main()
