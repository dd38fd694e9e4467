"""What the database has of the gaps of candles, read as a live run reads it, but for all candles at once."""

from typing import TYPE_CHECKING

import numpy as np

from trader.bucket.gap import FOUND, WHOLE_FROM
from trader.db import Connection, fetch_all
from trader.strategy import GapPolicy, Missing, accepts
from trader.strategy.gap import nowhere

if TYPE_CHECKING:
    from pandas import DataFrame

# As arrays of milliseconds: there may be hundreds of thousands.
READ = f"""
SELECT f.verdict, f.partial,
       array_agg((extract(epoch FROM CASE WHEN f.partial THEN f."end" ELSE f.start END) * 1000)::int8) AS times
  FROM ({FOUND}) f GROUP BY 1, 2
"""  # noqa: S608 - made of our own statement
UNSEEN = f"SELECT (extract(epoch FROM moment) * 1000)::int8 AS time FROM ({WHOLE_FROM}) w"  # noqa: S608


async def read_missing(
    connection: Connection, market_id: int, timeframe_id: int, candles: "DataFrame", policy: GapPolicy
) -> Missing:
    """What is known of the gaps between the first and the last of some stored candles, as far as `policy` asks."""
    if not len(candles):
        return Missing()
    series = {
        "market_id": market_id,
        "timeframe_id": timeframe_id,
        "first": candles.index[0],
        "last": candles.index[-1],
        "partial": not accepts(policy, "no_trades"),
    }
    found = await fetch_all(connection, READ, series)
    times = {(row.verdict, row.partial): np.sort(np.array(row.times, dtype=np.int64)) for row in found}
    unseen = [row.time for row in await fetch_all(connection, UNSEEN, series)]
    partial = times.pop(("no_trades", True), nowhere())
    gaps = {verdict: starts for (verdict, _), starts in times.items()}
    return Missing(gaps, partial, np.sort(np.array(unseen, dtype=np.int64)))
