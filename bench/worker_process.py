"""A worker to measure: the product's queue and jobs in a process of its own, with an instant venue inside."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, cast

import numpy as np

from jobs import bucket
from jobs.app import Context, build_app
from trader.clock import from_milliseconds, to_milliseconds
from trader.config import PROJECT, Settings
from trader.db import Identity, open_pool
from trader.exchange.protocol import Candle, CandlePage, CandleWays, Exchange

CONCURRENCY = 8
MINUTE = 60_000
WALK = 1 << 16


class InstantCandles:
    """The part of `protocol.Exchange` that feeds need: a random walk without end in each market."""

    candle_ways = CandleWays(page=1000, skips_holes=True)

    def __init__(self, delay: float, first: int) -> None:
        self._delay = delay
        self._first = first
        self.cpu = 0.0
        """Seconds of this process's CPU that went into making pages."""
        self.candles_given = 0
        random = np.random.default_rng(1)
        close = 100 * np.exp(np.cumsum(random.normal(0, 0.0005, WALK)))
        opened = np.roll(close, 1)
        high, low = np.maximum(opened, close) + 0.01, np.minimum(opened, close) - 0.01
        self._walk = np.column_stack([opened, high, low, close, random.gamma(2, 5, WALK)])

    async def time(self) -> datetime:
        return datetime.now(UTC)

    async def candles(self, symbol: str, timeframe: str, since: datetime | None, limit: int) -> CandlePage:
        if self._delay:
            await asyncio.sleep(self._delay)
        started = time.thread_time()
        now = int(time.time() * 1000) // MINUTE * MINUTE
        start = now - limit * MINUTE if since is None else max(to_milliseconds(since), self._first)
        times = np.arange(-(-start // MINUTE) * MINUTE, now + MINUTE, MINUTE)[:limit]
        rows = self._walk[(times // MINUTE) % WALK].tolist()
        page = CandlePage(Candle(from_milliseconds(at), *row) for at, row in zip(times.tolist(), rows, strict=True))
        self.cpu += time.thread_time() - started
        self.candles_given += len(page)
        return page

    async def close(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Told:
    """What a worker says when it ends."""

    candles: int
    venue_cpu: float


def work(url: str, name: str, delay: float, first: int, stop: Event, parent: Connection, profile: str | None) -> None:
    """Serve feeds until `stop`. Tells `parent` when it is ready, and at the end what its venue did."""
    with _profiled(profile):
        asyncio.run(_work(url, name, delay, first, stop, parent))


async def _work(url: str, name: str, delay: float, first: int, stop: Event, parent: Connection) -> None:
    venue = InstantCandles(delay, first)
    identity = Identity("worker", name)
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool(url, identity, CONCURRENCY + 2))
        context = Context(Settings(Path("."), PROJECT), pool, connect=lambda *_: cast(Exchange, venue))
        stack.push_async_callback(context.close)
        app = build_app(url, identity, [bucket])
        await stack.enter_async_context(app.open_async())
        running = app.run_worker_async(
            name=name, concurrency=CONCURRENCY, fetch_job_polling_interval=0.5, delete_jobs="successful",
            additional_context={"context": context}, install_signal_handlers=False, shutdown_graceful_timeout=5,
        )  # fmt: skip
        working = asyncio.create_task(running)
        parent.send(os.getpid())
        told = asyncio.create_task(asyncio.to_thread(stop.wait))
        await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    parent.send(Told(venue.candles_given, venue.cpu))


@contextmanager
def _profiled(path: str | None) -> Iterator[None]:
    """Write what cProfile saw to `path`, if there is one."""
    if path is None:
        yield
        return
    import cProfile

    profile: Any = cProfile.Profile(time.process_time)
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        profile.dump_stats(path)
