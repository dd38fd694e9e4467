"""Candles read: into a frame, again from the local copy, and a page more; beside Arrow's driver and Feather files."""

import importlib
import importlib.util
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.ground import in_turn
from bench.report import compare
from trader.bucket import CandleCache, Candles, read_bucket_chunks, read_buckets, timeframe_named, write_buckets
from trader.db import Connection

MINUTE = timeframe_named("1m")
PAGE = 1000
FETCH = """
SELECT time_close, open, high, low, close, volume FROM bucket
 WHERE market_id = 1 AND timeframe_id = 1 ORDER BY time_close
"""


class Reading:
    """Stored candles, and the ways to have them as a frame; each gives rows per second."""

    def __init__(self, connection: Connection, url: str, candles: Candles, directory: Path) -> None:
        self.connection = connection
        self.url = url
        self.candles = candles
        self.rows = len(candles)
        self.cache = CandleCache(directory / "cache", 10**10)
        self.feather = directory / "candles.feather"
        self.pages = 0

    async def timed(self, work: Callable[[], Awaitable[int]]) -> float:
        started = time.perf_counter()
        found = await work()
        speed = self.rows / (time.perf_counter() - started)
        assert found >= self.rows, found
        return speed

    async def whole(self) -> float:
        async def work() -> int:
            return len(await read_buckets(self.connection, 1, MINUTE.id))

        return await self.timed(work)

    async def chunks(self) -> float:
        async def work() -> int:
            return sum([len(chunk) async for chunk in read_bucket_chunks(self.connection, 1, MINUTE.id)])

        return await self.timed(work)

    async def cached(self) -> float:
        async def work() -> int:
            return len(await self.cache.read(self.connection, 1, MINUTE.id))

        return await self.timed(work)

    async def plain(self) -> float:
        async def work() -> int:
            return len(await (await self.connection.execute(FETCH)).fetchall())

        return await self.timed(work)

    async def from_feather(self) -> float:
        """As freqtrade does: the columns that it knows, and their types made sure of."""

        async def work() -> int:
            frame = pd.read_feather(self.feather, columns=["date", "open", "high", "low", "close", "volume"])
            frame = frame.astype(dict.fromkeys(("open", "high", "low", "close", "volume"), "float"))
            return len(frame.set_index("date"))

        return await self.timed(work)

    def arrow(self) -> Callable[[], Awaitable[float]] | None:
        """Arrow's own driver for PostgreSQL, if it is here."""
        try:
            driver: Any = importlib.import_module("adbc_driver_postgresql.dbapi")
        except ImportError:
            return None
        connection = driver.connect(self.url)

        async def work() -> int:
            with connection.cursor() as cursor:
                cursor.execute(FETCH)
                return len(cursor.fetch_arrow_table().to_pandas().set_index("time_close"))

        return lambda: self.timed(work)

    async def one_page_more(self) -> float:
        """Candles of a page that follow what is stored: pages per second."""
        page = self._page()
        started = time.perf_counter()
        await write_buckets(self.connection, 1, MINUTE, page, "fetched")
        return 1 / (time.perf_counter() - started)

    async def one_page_more_in_feather(self) -> float:
        """As freqtrade does: the file is read, the page added, the file written."""
        page = self._page()
        columns = {name: getattr(page, name) for name in ("open", "high", "low", "close", "volume")}
        started = time.perf_counter()
        dates = pd.to_datetime(page.time_open, unit="ms", utc=True)
        new = pd.DataFrame({"date": dates, **columns})
        whole = pd.concat([pd.read_feather(self.feather), new], ignore_index=True)
        whole.reset_index(drop=True).to_feather(self.feather, compression_level=9, compression="lz4")
        return 1 / (time.perf_counter() - started)

    def _page(self) -> Candles:
        self.pages += 1
        part = self.candles[:PAGE]
        end = self.candles.time_open[-1] + 60_000 * (1 + self.pages * PAGE)
        numbers = [getattr(part, name) for name in ("open", "high", "low", "close", "volume")]
        return Candles(end + 60_000 * np.arange(len(part), dtype=np.int64), *numbers)


async def read(connection: Connection, url: str, candles: Candles, rounds: int) -> None:
    """Frames from PostgreSQL, from the local copy, from files."""
    await connection.execute("TRUNCATE bucket")
    await write_buckets(connection, 1, MINUTE, candles, "imported")
    await connection.execute("VACUUM ANALYZE bucket")
    with tempfile.TemporaryDirectory(prefix="bench-candles-") as directory:
        reading = Reading(connection, url, candles, Path(directory))
        frame = await read_buckets(connection, 1, MINUTE.id)
        await reading.cached()
        await _first(reading, rounds)
        if importlib.util.find_spec("pyarrow") is None:
            print("NOT RUN: what is beside Feather files: pyarrow is not installed")
            return
        frame.rename_axis("date").reset_index().to_feather(reading.feather, compression_level=9, compression="lz4")
        await _next(reading, rounds)


async def _first(reading: Reading, rounds: int) -> None:
    arrow = reading.arrow()
    if arrow is None:
        print("NOT RUN: first read / adbc-driver-postgresql, which is not installed")
    else:
        first, driver = await in_turn(rounds, reading.whole, arrow)
        compare("first read / adbc-driver-postgresql, rows/s", first, driver, least=0.9)
        chunks, driver = await in_turn(rounds, reading.chunks, arrow)
        compare("in chunks / adbc-driver-postgresql", chunks, driver)
    first, plain = await in_turn(1, reading.whole, reading.plain)
    compare("first read / plain fetch to tuples", first, plain)
    again, first = await in_turn(rounds, reading.cached, reading.whole)
    compare("next read / first read", again, first)


async def _next(reading: Reading, rounds: int) -> None:
    # Short enough for the machine's other work to fall on one of the two alone: more rounds.
    again, feather = await in_turn(5 * rounds, reading.cached, reading.from_feather)
    compare("next read, local copy / Feather file", again, feather, least=0.5)
    ours, file = await in_turn(rounds, reading.one_page_more, reading.one_page_more_in_feather)
    compare("a page of 1,000 more / in a Feather file, pages/s", ours, file)
