"""Balances: what a strategy may still spend.

The database keeps them (`balance.total - balance.held`) and refuses a hold that exceeds what is free. Here they are
locked and read, in two statements: a single one would read a snapshot that is older than the lock.
"""

from collections.abc import Collection
from decimal import Decimal

from trader.db import Connection, fetch_all

LOCK = """
SELECT FROM balance b JOIN ledger_account l ON l.id = b.ledger_account_id
 WHERE l.strategy_id = ANY(%(strategies)s) ORDER BY b.ledger_account_id, b.asset_id FOR UPDATE OF b
"""

LOCK_OF_ORDERS = """
SELECT FROM balance b JOIN ledger_account l ON l.id = b.ledger_account_id
 WHERE l.strategy_id IN (SELECT strategy_id FROM "order" WHERE id = ANY(%(ids)s::bigint[]))
 ORDER BY b.ledger_account_id, b.asset_id FOR UPDATE OF b
"""

READ_FREE = """
SELECT l.strategy_id, b.asset_id, b.total - b.held AS free
  FROM balance b JOIN ledger_account l ON l.id = b.ledger_account_id WHERE l.strategy_id = ANY(%(strategies)s)
"""


class Allowances:
    """What each strategy has free of each asset, while its balance rows are locked."""

    def __init__(self, free: dict[tuple[int, int], Decimal]) -> None:
        self._free = free

    def free(self, strategy_id: int, asset_id: int) -> Decimal:
        """What is free; zero if the strategy never had any."""
        return self._free.get((strategy_id, asset_id), Decimal(0))

    def reserve(self, strategy_id: int, asset_id: int, quantity: Decimal) -> None:
        """Count `quantity` as held for the orders that follow in the same batch."""
        self._free[strategy_id, asset_id] = self.free(strategy_id, asset_id) - quantity


async def lock(connection: Connection, strategies: Collection[int]) -> None:
    """Lock the balances of strategies until the transaction ends: always in one order, so that nothing deadlocks."""
    await connection.execute(LOCK, {"strategies": sorted(strategies)})


async def lock_of_orders(connection: Connection, ids: str) -> None:
    """Lock the balances of the strategies of orders (an array, see `db.numbers`) until the transaction ends."""
    await connection.execute(LOCK_OF_ORDERS, {"ids": ids})


async def allowances(connection: Connection, strategies: Collection[int]) -> Allowances:
    """Lock the balances of strategies and read what is free. Must run inside a transaction."""
    await lock(connection, strategies)
    rows = await fetch_all(connection, READ_FREE, {"strategies": sorted(strategies)})
    return Allowances({(row.strategy_id, row.asset_id): row.free for row in rows})
