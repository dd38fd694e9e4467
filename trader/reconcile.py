"""Reconciliation: a venue's executions, open orders and balances against the books, account by account.

Fills that nobody booked are booked; other people's trades and orders are noted as external; what then still differs is
drift. One round at a time for an account, whoever runs it. A venue that cannot be read is never taken for empty: after
a failure nothing is judged.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from trader import external
from trader.account import Account, BalanceRead, read_balances
from trader.db import Connection, fetch_all, fetch_one, retrying
from trader.drift import APART, Judged, judge
from trader.errors import ExchangeError, Refused
from trader.exchange.protocol import Exchange
from trader.execution import Execution, classify, oldest, read_executions
from trader.order import Outcome
from trader.settle import settle

log = logging.getLogger("reconcile")

LOCK = "SELECT pg_advisory_lock(hashtextextended('reconcile:' || %(account)s::text, 0))"
UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('reconcile:' || %(account)s::text, 0))"
NOW = "SELECT clock_timestamp() AS now"

# Where an order of ours went, where a strategy trades, where somebody else has an order open, and every market between
# two assets that the account has or the books say it has.
WATCHED = """
WITH owned AS (SELECT asset_id FROM account_balance WHERE account_id = %(account)s AND (total <> 0 OR ledger <> 0))
SELECT m.id, m.symbol, m.active FROM market m JOIN account a ON a.exchange_id = m.exchange_id
 WHERE a.id = %(account)s AND (
       EXISTS (SELECT FROM "order" o WHERE o.account_id = a.id AND o.market_id = m.id AND o.venue_order_id IS NOT NULL)
    OR EXISTS (SELECT FROM "order" o WHERE o.account_id = a.id AND o.market_id = m.id AND o.status = 'submitted')
    OR EXISTS (SELECT FROM strategy s WHERE s.account_id = a.id AND s.market_id = m.id)
    OR EXISTS (SELECT FROM external_order e WHERE e.account_id = a.id AND e.market_id = m.id)
    OR (m.base_id IN (SELECT asset_id FROM owned) AND m.quote_id IN (SELECT asset_id FROM owned)))
 ORDER BY m.id
"""

ORDERS = """SELECT o.id, o.client_order_id::text AS name, m.symbol FROM "order" o JOIN market m ON m.id = o.market_id
 WHERE o.id = ANY(%(ids)s) ORDER BY o.id"""

# What waits is read again; an account that is not open yet has nothing that counts as read.
READ = """
INSERT INTO execution_read AS r (account_id, market_id, read_until)
SELECT id, %(market)s, %(until)s FROM account WHERE id = %(account)s AND opened_at IS NOT NULL
ON CONFLICT (account_id, market_id) DO UPDATE SET read_until = EXCLUDED.read_until, read_at = clock_timestamp()
"""


@dataclass(slots=True)
class Round:
    """What one round did on an account."""

    account: str
    markets: int = 0
    booked: int = 0
    """Fills of our own orders that had been missed."""
    foreign: int = 0
    """Fills of other people's orders."""
    waiting: int = 0
    """Executions that the next round decides: the trader may be about to book them."""
    foreign_orders: int = 0
    read: BalanceRead | None = None
    judged: Judged | None = None
    """None: the reading was not settled, or something before it failed or waits."""
    failures: tuple[ExchangeError, ...] = ()

    @property
    def agrees(self) -> bool:
        """True if everything was read and nothing beyond what is tolerated is left."""
        return self.judged is not None and not self.judged.waiting


async def reconcile_account(
    connection: Connection, exchange: Exchange, account: Account, apart: timedelta = APART
) -> Round:
    """Run one round. `connection` must not be in a transaction.

    A venue that cannot be read is told in `failures`; what could be read is booked all the same.
    """
    made = Round(account.name)
    failures: list[ExchangeError] = []
    async with _alone(connection, account.id):
        try:
            made.foreign_orders = await external.list_orders(connection, exchange, account.id)
        except ExchangeError as error:
            failures.append(error)
        for market in await fetch_all(connection, WATCHED, {"account": account.id}):
            try:
                await _read_market(connection, exchange, account, market, made)
            except ExchangeError as error:
                if market.active or not isinstance(error, Refused):  # one that is delisted may be unknown by now
                    failures.append(error)
        try:
            await _read_balances(connection, exchange, account, made, apart, complete=not (failures or made.waiting))
        except ExchangeError as error:
            failures.append(error)
    made.failures = tuple(failures)
    return made


@asynccontextmanager
async def _alone(connection: Connection, account_id: int) -> AsyncIterator[None]:
    """Hold the account's lock: a second round waits for the first."""
    await connection.execute(LOCK, {"account": account_id})
    try:
        yield
    finally:
        if not connection.broken:
            await connection.execute(UNLOCK, {"account": account_id})


async def _read_market(connection: Connection, exchange: Exchange, account: Account, market: Any, made: Round) -> None:
    started = (await fetch_one(connection, NOW)).now
    fills = await read_executions(connection, exchange, account.id, market.id)
    found = await classify(connection, account.id, market.id, fills)
    ours = [execution for execution in found if execution.whose == "ours"]
    foreign = [execution.fill for execution in found if execution.whose == "foreign"]
    waiting = [execution for execution in found if execution.whose in ("young", "waiting")]
    await external.find_forgotten(connection, exchange, account.id, market.id, foreign)
    outcomes = await _look_up(connection, exchange, ours)

    async def write() -> int:
        async with connection.transaction():
            if outcomes:
                await settle(connection, outcomes)
            new = await external.book(connection, account.id, market.id, foreign)
            until = min(started, oldest(waiting) or started)
            await connection.execute(READ, {"account": account.id, "market": market.id, "until": until})
            return new

    made.foreign += await retrying(write)
    made.booked += len(ours)
    made.waiting += len(waiting)
    made.markets += 1


async def _look_up(connection: Connection, exchange: Exchange, ours: Sequence[Execution]) -> list[Outcome]:
    """What the venue says of the orders whose fills were missed, so that their status follows their fills."""
    outcomes = []
    for row in await fetch_all(connection, ORDERS, {"ids": sorted({one.order_id for one in ours if one.order_id})}):
        report = await exchange.find(row.symbol, row.name)
        fills = tuple(one.fill for one in ours if one.order_id == row.id)
        if report is None:
            log.error("order %s: the venue lists fills of it, and does not know it any more", row.id)
        else:
            fills = tuple(await exchange.fills(row.symbol, venue_order_id=report.venue_order_id))
        outcomes.append(Outcome(row.id, None, "accepted", source="reconciliation", report=report, fills=fills))
    return outcomes


async def _read_balances(
    connection: Connection, exchange: Exchange, account: Account, made: Round, apart: timedelta, *, complete: bool
) -> None:
    async def then(inside: Connection, read: BalanceRead) -> None:
        made.judged = await judge(inside, account.id, apart) if complete and read.settled else None

    made.read = await read_balances(connection, exchange, account, then)
