"""Reading candles into a frame."""

from typing import TYPE_CHECKING

import numpy as np

from trader.db import Connection, fetch_all

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("open", "high", "low", "close", "volume")

READ = """
SELECT (extract(epoch FROM time_close) * 1000)::int8 AS time_close, open, high, low, close, volume
  FROM bucket WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s
 ORDER BY time_close DESC LIMIT %(last)s
"""


async def read_buckets(
    connection: Connection, market_id: int, timeframe_id: int, last: int | None = None
) -> "pd.DataFrame":
    """The newest `last` candles (all if None), oldest first: a frame of float64 open, high, low, close and volume.

    Its index `time_close` is in UTC. An empty frame: none is stored. Raises psycopg.Error if they cannot be read.
    """
    import pandas as pd  # slow to import

    rows = await fetch_all(connection, READ, {"market": market_id, "timeframe": timeframe_id, "last": last})
    times = np.array([row[0] for row in reversed(rows)], dtype="int64")
    values = np.array([row[1:] for row in reversed(rows)], dtype="float64").reshape(-1, len(COLUMNS))
    index = pd.DatetimeIndex(times.view("datetime64[ms]"), tz="UTC", name="time_close")
    return pd.DataFrame(values, index=index, columns=list(COLUMNS))
