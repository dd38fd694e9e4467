"""One table of candles against monthly partitions: writing, reading, keeping clean, and giving up the oldest month.

Both have the columns, checks and indexes of `bucket`, no triggers, and are unlogged: what is compared is the shape of
the table. Examples: scripts/bench partition; scripts/bench partition --rows 10000000
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from bench.ground import ground
from bench.report import header

MARKETS = 10
PAGE = 10_000
START = "2020-01-01Z"

# A partitioned table's unique keys must hold the key that it is partitioned by.
TABLES = f"""
CREATE UNLOGGED TABLE plain (LIKE bucket INCLUDING ALL);
CREATE TABLE monthly (LIKE bucket INCLUDING DEFAULTS INCLUDING CONSTRAINTS, PRIMARY KEY (id, time_close),
                      UNIQUE (market_id, timeframe_id, time_close)) PARTITION BY RANGE (time_close);
DO $$ BEGIN
  FOR month IN 0..%(months)s LOOP
    EXECUTE format('CREATE UNLOGGED TABLE month_%%s PARTITION OF monthly FOR VALUES FROM (%%L) TO (%%L)', month,
                   '{START}'::timestamptz + month * interval '1 month',
                   '{START}'::timestamptz + (month + 1) * interval '1 month');
  END LOOP;
END $$
"""
# A page of one market after the other: as many feeds fill up side by side, each with a wave of its own.
FILL = f"""
INSERT INTO %(table)s (id, market_id, timeframe_id, time_close, open, high, low, close, volume, source)
SELECT uuidv7(), %(market)s, 1, t, p, p + 1, p - 1, p, 3, 'fetched'
  FROM (SELECT '{START}'::timestamptz + i * interval '1 min' AS t, 100 + 50 * sin(i) AS p
          FROM generate_series(%(first)s, %(last)s) i) r
"""
NEWEST = """
SELECT count(*) FROM (SELECT close FROM %(table)s WHERE market_id = %(market)s AND timeframe_id = 1
                       ORDER BY time_close DESC LIMIT 200) r
"""
RANGE = f"""
SELECT sum(length(float8send(close))) FROM %(table)s WHERE market_id = %(market)s AND timeframe_id = 1
   AND time_close >= '{START}'::timestamptz + %(first)s * interval '1 min'
   AND time_close < '{START}'::timestamptz + (%(first)s + 43200) * interval '1 min'
"""
POINT = f"""
SELECT close FROM %(table)s WHERE market_id = %(market)s AND timeframe_id = 1
   AND time_close = '{START}'::timestamptz + %(first)s * interval '1 min'
"""
SIZE = """
SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c
 WHERE relname = '%(table)s' OR (relname LIKE 'month\\_%%' AND '%(table)s' = 'monthly' AND relkind = 'r')
"""


class Store:
    """One of the two tables."""

    def __init__(self, connection: "psycopg.Connection[Any]", table: str, rows: int) -> None:
        self.connection = connection
        self.table = table
        self.minutes = rows // MARKETS

    def run(self, statement: str, **values: int) -> Any:
        """Its text holds our own numbers alone, so that each plan is made for them, as the drivers' are."""
        cursor = self.connection.execute((statement % {"table": self.table, **values}).encode())
        return cursor.fetchone() if cursor.description else None

    def fill(self) -> int:
        for first in range(1, self.minutes + 1, PAGE):
            for market in range(1, MARKETS + 1):
                self.run(FILL, market=market, first=first, last=min(first + PAGE - 1, self.minutes))
        return self.minutes * MARKETS

    def newest(self) -> int:
        return self._each(NEWEST, 500)

    def ranges(self) -> int:
        return self._each(RANGE, 20)

    def points(self) -> int:
        return self._each(POINT, 2_000)

    def _each(self, statement: str, times: int) -> int:
        for turn in range(times):
            first = 1 + turn * 7_919 % max(1, self.minutes - 43_200)
            self.run(statement, market=1 + turn % MARKETS, first=first)
        return times

    def vacuum(self) -> int:
        self.run("VACUUM ANALYZE %(table)s")
        return 1

    def forget(self) -> int:
        """The oldest month goes: what it takes until the space can be used again."""
        if self.table == "monthly":
            self.run("DROP TABLE month_0")
        else:
            self.run(f"DELETE FROM plain WHERE time_close < '{START}'::timestamptz + interval '1 month'")
            self.run("VACUUM plain")
        return 1


STEPS: list[tuple[str, str, Callable[[Store], int]]] = [
    ("write, pages of 10,000", "us/row", Store.fill),
    ("VACUUM ANALYZE after that", "s", Store.vacuum),
    ("VACUUM ANALYZE again", "s", Store.vacuum),
    ("one candle by its time", "us", Store.points),
    ("newest 200 of a market", "us", Store.newest),
    ("30 days of a market, 43,200 rows", "us", Store.ranges),
    ("the oldest month goes", "s", Store.forget),
]


def measured(stores: list[Store]) -> Iterator[tuple[str, str, list[float]]]:
    """Each step in each store, one after the other."""
    for what, unit, step in STEPS:
        found = []
        for store in stores:
            began = time.perf_counter()
            times = step(store)
            taken = time.perf_counter() - began
            found.append(taken if unit == "s" else taken / times * 1e6)
        yield what, unit, found
        if what.startswith("write"):
            yield (
                "size of tables and indexes",
                "bytes/row",
                [float(store.run(SIZE)[0]) / (store.minutes * MARKETS) for store in stores],
            )


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(
        "bench partition", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    months = options.rows // MARKETS // 43_200 + 1
    with ground() as place:
        header(
            f"candles, {options.rows:,} of {MARKETS} markets: one table (ours), {months + 1} months (floor)", place.name
        )
        with psycopg.connect(place.database(), autocommit=True) as connection:
            connection.execute("SET maintenance_work_mem = '256MB'")
            connection.execute((TABLES % {"months": months}).encode())
            stores = [Store(connection, table, options.rows) for table in ("plain", "monthly")]
            for what, unit, (plain, monthly) in measured(stores):
                print(f"{what:<50} {plain:>12,.2f} {monthly:>12,.2f} {plain / monthly:>8.2f}   {unit}", flush=True)


if __name__ == "__main__":
    main()
