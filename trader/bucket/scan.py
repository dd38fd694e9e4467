"""Stored candles as columns, some at a time, however many there are."""

from collections.abc import AsyncIterator
from datetime import datetime

from trader.bucket.candles import Candles
from trader.bucket.formats import VALUES
from trader.bucket.read import read_bucket_chunks
from trader.bucket.timeframe import Timeframe
from trader.db import Connection

ROWS = 50_000
"""Candles in one part, at most."""


async def scan(
    connection: Connection,
    market_id: int,
    timeframe: Timeframe,
    since: datetime | None = None,
    until: datetime | None = None,
) -> AsyncIterator[Candles]:
    """The candles that open and close between `since` and `until`, oldest first, in parts, of one moment.

    Raises psycopg.Error if they cannot be read.
    """
    async for frame in read_bucket_chunks(connection, market_id, timeframe.id, since, until, ROWS):
        closes = frame.index.to_numpy(dtype="datetime64[ms]").astype("int64")
        yield Candles(timeframe.opens(closes), *(frame[name].to_numpy() for name in VALUES))
