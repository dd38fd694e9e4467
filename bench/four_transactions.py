"""The floor of the order pipeline: an order's life in four small transactions, with nothing around it.

Minimal tables: no triggers, no foreign keys, no checks, no history, no notification. Each transaction is ONE statement
in autocommit, one round trip: the strongest form that four transactions can have. One process, `CLIENTS` connections.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator
from decimal import Decimal

import psycopg

CLIENTS = 8

TABLES = """
CREATE TABLE f_order (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, strategy_id int NOT NULL,
  status smallint NOT NULL DEFAULT 0, quantity numeric NOT NULL, venue_order_id text,
  filled numeric NOT NULL DEFAULT 0);
CREATE INDEX f_order_queued ON f_order (id) WHERE status = 0;
CREATE TABLE f_balance (strategy_id int, asset_id int, total numeric NOT NULL, held numeric NOT NULL DEFAULT 0,
  PRIMARY KEY (strategy_id, asset_id)) WITH (fillfactor = 30);
CREATE TABLE f_fill (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id bigint NOT NULL,
  quantity numeric NOT NULL, price numeric NOT NULL, fee numeric NOT NULL, trade_id text NOT NULL UNIQUE);
CREATE TABLE f_ledger (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, strategy_id int NOT NULL,
  asset_id int NOT NULL, delta numeric NOT NULL, fill_id bigint NOT NULL);
"""

ACCOUNTS = """
INSERT INTO f_balance (strategy_id, asset_id, total)
SELECT s, a, 1000000000 FROM generate_series(1, %s) s, generate_series(1, 2) a
"""

INSERT = "INSERT INTO f_order (strategy_id, quantity) VALUES (%s, %s)"

CLAIM_AND_HOLD = """
WITH head AS (SELECT id FROM f_order WHERE status = 0 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED),
claimed AS (UPDATE f_order o SET status = 1 FROM head WHERE o.id = head.id RETURNING o.id, o.strategy_id, o.quantity),
held AS (UPDATE f_balance b SET held = held + c.quantity
  FROM claimed c WHERE b.strategy_id = c.strategy_id AND b.asset_id = 1)
SELECT id, strategy_id, quantity FROM claimed
"""

ACKNOWLEDGE = "UPDATE f_order SET status = 2, venue_order_id = %s WHERE id = %s"

FILL = """
WITH filled AS (INSERT INTO f_fill (order_id, quantity, price, fee, trade_id)
  VALUES (%(order)s, %(quantity)s, 50000, %(fee)s, %(trade)s) RETURNING id),
posted AS (INSERT INTO f_ledger (strategy_id, asset_id, delta, fill_id)
  SELECT %(strategy)s, x.asset_id, x.delta, filled.id
    FROM filled, (VALUES (1, -%(quote)s::numeric), (2, %(quantity)s::numeric), (2, -%(fee)s::numeric))
      x (asset_id, delta)),
balanced AS (UPDATE f_balance SET
    total = total + CASE asset_id WHEN 1 THEN -%(quote)s::numeric ELSE %(quantity)s::numeric - %(fee)s::numeric END,
    held = held - CASE asset_id WHEN 1 THEN %(quote)s::numeric ELSE 0 END WHERE strategy_id = %(strategy)s)
UPDATE f_order SET status = 3, filled = %(quantity)s WHERE id = %(order)s
"""


class FourTransactions:
    """The floor's tables in a database of their own, and a run over them."""

    def __init__(self, url: str, strategies: int) -> None:
        self._url = url
        self._strategies = strategies
        self._trades = itertools.count(1)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(TABLES)
            connection.execute(ACCOUNTS, [strategies])

    async def run(self, orders: int) -> float:
        """Orders per second over `orders` whole lives."""
        async with contextlib.AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(await psycopg.AsyncConnection.connect(self._url, autocommit=True))
                for _ in range(CLIENTS)
            ]
            numbers = iter(range(orders))
            started = time.perf_counter()
            await asyncio.gather(*(self._client(connection, numbers) for connection in connections))
            return orders / (time.perf_counter() - started)

    async def _client(self, connection: psycopg.AsyncConnection, numbers: Iterator[int]) -> None:
        for number in numbers:
            await connection.execute(INSERT, [1 + number % self._strategies, Decimal(10)])
            row = None
            while row is None:  # what its snapshot showed was taken by the others meanwhile: once more
                row = await (await connection.execute(CLAIM_AND_HOLD)).fetchone()
            order_id, strategy, quote = row
            await connection.execute(ACKNOWLEDGE, [f"v{order_id}", order_id])
            quantity = quote / 50000
            fill = {"order": order_id, "strategy": strategy, "quote": quote, "quantity": quantity}
            await connection.execute(FILL, fill | {"fee": quantity / 1000, "trade": f"t{next(self._trades)}"})
