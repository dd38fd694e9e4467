"""The scheduler process: queues jobs at their times, and never works itself.

Each kind of job has a thread of its own with a scheduler of the `schedule` library and a database connection, so that
none waits for another. Whatever goes wrong ends the process: the watchdog starts a new one, which catches up.
"""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
import schedule

from jobs import account, bucket, conversion, derive, equity, gap, maintenance, market, reconcile, strategy, sweep
from jobs.app import DEFER, Job, defer_parameters
from trader import role
from trader.config import Settings
from trader.db import Identity, conninfo, first_line
from trader.errors import TallydeskError
from trader.role import Role

JOIN_SECONDS = 1.0
"""How long the threads may take to end."""

log = logging.getLogger("scheduler")


@dataclass(frozen=True, slots=True)
class Tick:
    """A statement that queues jobs, and how often it is run, in seconds; the first time at once."""

    name: str
    seconds: float
    statement: LiteralString
    parameters: Mapping[str, Any]


def ticks(settings: Settings) -> list[Tick]:
    """Everything that is done at its time."""
    return [
        Tick("feeds", settings.tick, bucket.DEFER_DUE, bucket.DUE),
        Tick("derived candles", settings.tick, derive.DEFER_DUE, derive.DUE),
        Tick("gaps", max(settings.tick, 1.0), gap.DEFER_DUE, gap.DUE),
        Tick("feeds of the dead", max(settings.tick, 1.0), bucket.FREE_DEAD, {}),
        Tick("feeds that a clock holds up", 60.0, bucket.WAKE, {}),
        _one("strategies", 60.0, strategy.SWEEP_JOB),
        Tick("balances", 5.0, account.DEFER_ALL, account.ALL),
        Tick("reconciliation", reconcile.SECONDS, reconcile.DEFER_ALL, reconcile.ALL),
        Tick("markets", 3600.0, market.DEFER_ALL, market.ALL),
        Tick("missing markets", 60.0, market.DEFER_MISSING, market.ALL),
        _one("rates", conversion.SECONDS, conversion.RATES_JOB),
        _one("equity", 3.0, equity.SAMPLE_JOB),
        _one("rescue", 15.0, maintenance.RESCUE_JOB),
        Tick("candles not kept", maintenance.FORGET_SECONDS, maintenance.DEFER_FORGET, maintenance.FORGET_DUE),
        Tick("sweeps", max(settings.tick, 1.0), sweep.DEFER_DUE, sweep.DUE),
        _one("prune", 3600.0, maintenance.PRUNE_JOB),
    ]


def _one(name: str, seconds: float, job: Job) -> Tick:
    return Tick(name, seconds, DEFER, defer_parameters(job))


Failed = Callable[[Tick, Exception], None]


class Ticker(threading.Thread):
    """One tick in a thread. Calls `failed` with the error if it cannot go on."""

    def __init__(self, tick: Tick, url: str, stop: threading.Event, failed: Failed) -> None:
        super().__init__(name=tick.name, daemon=True)  # a statement that hangs must not hold the process up
        self.tick = tick
        self._conninfo = conninfo(url, Identity("scheduler", f"scheduler {tick.name}"))
        self._stop_event = stop
        self._failed = failed

    def run(self) -> None:
        try:
            with psycopg.connect(self._conninfo, autocommit=True) as connection:
                self._tick(connection)
        except Exception as error:
            self._failed(self.tick, error)

    def _tick(self, connection: psycopg.Connection[Any]) -> None:
        def queue() -> None:
            connection.execute(self.tick.statement, dict(self.tick.parameters))

        queue()
        every = self.tick.seconds
        times = schedule.Scheduler()
        times.every(every).seconds.do(queue)  # type: ignore[arg-type]  # any number will do
        while not self._stop_event.wait(min(max(times.idle_seconds or 0.0, 0.0), every)):
            if (times.idle_seconds or 0.0) > every:
                # `schedule` reads the wall clock, which was set back: begin again from now.
                times.clear()
                times.every(every).seconds.do(queue)  # type: ignore[arg-type]
            times.run_pending()


async def run(settings: Settings, url: str, name: str | None = None) -> None:
    """Be the scheduler until SIGTERM or SIGINT. Raises TallydeskError when its role or the database is lost."""
    os.environ["TZ"] = "UTC"  # `schedule` reads local time, which jumps twice a year in most places
    time.tzset()
    async with role.take(url, "scheduler", name) as held:
        await _keep_ticking(ticks(settings), url, held)


async def _keep_ticking(wanted: list[Tick], url: str, held: Role) -> None:
    loop = asyncio.get_running_loop()
    stop, end = asyncio.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    failure: asyncio.Future[tuple[Tick, Exception]] = loop.create_future()

    def failed(tick: Tick, error: Exception) -> None:
        loop.call_soon_threadsafe(fail, tick, error)

    def fail(tick: Tick, error: Exception) -> None:
        if not failure.done():
            failure.set_result((tick, error))

    threads = [Ticker(tick, url, end, failed) for tick in wanted]
    for thread in threads:
        thread.start()
    log.info("%s is running: %s", held.name, ", ".join(tick.name for tick in wanted))
    waiting = [asyncio.ensure_future(one) for one in (stop.wait(), held.lost.wait(), failure)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    end.set()
    await asyncio.to_thread(_join, threads)
    if failure.done():
        tick, error = failure.result()
        raise TallydeskError(f"{held.name} stops: {tick.name}: {first_line(error)}") from None
    for one in waiting:
        one.cancel()
    if held.lost.is_set():
        raise TallydeskError(f"{held.name} stops: {held.why_lost}")
    log.info("%s has stopped", held.name)


def _join(threads: list[Ticker]) -> None:
    deadline = time.monotonic() + JOIN_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
