"""Watching open orders: cancels are passed on, fills are fetched, orders that ended at the venue are closed here, and
those that wait for a price are looked at (trigger.py).

One trader watches an account at a time (a session advisory lock); the others stand by.
"""

import logging
from contextlib import suppress
from typing import Any

from psycopg.errors import LockNotAvailable

from trader.db import Connection, fetch_all, fetch_one
from trader.errors import ExchangeError, Refused
from trader.exchange.protocol import Exchange, OrderReport
from trader.order import Outcome
from trader.stream import Streams
from trader.trader import HELD_UP, IMPATIENT, UNREADABLE, Desk, settle_in_transaction, tell_unreadable
from trader.trigger import look_at_waiting

log = logging.getLogger("watch")

WATCH_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('watch:' || %(account)s::text, 0)) AS got"

OPEN = """
SELECT o.id, o.status::text, o.client_order_id, o.venue_order_id, o.filled_quantity, o.cancel_requested_at, m.symbol
  FROM "order" o JOIN market m ON m.id = o.market_id
 WHERE o.account_id = %(account)s AND o.status IN ('accepted', 'partially_filled', 'pending_cancel') ORDER BY o.id
"""

# Written down before the venue is asked.
BEGIN_CANCEL = """
UPDATE "order" SET status = 'pending_cancel' WHERE id = %(id)s AND status IN ('accepted', 'partially_filled')
"""


class Watch:
    """The open orders of the accounts that this process watches, over one connection that holds their locks."""

    def __init__(self, desk: Desk, connection: Connection, streams: Streams) -> None:
        self._desk = desk
        self._connection = connection
        self._streams = streams
        self._ours: set[int] = set()

    async def look(self) -> None:
        """Look at every open order once. A venue that cannot be read is read again at the next look."""
        ours = [
            (number, exchange) for number, exchange in [*self._desk.exchanges.items()] if await self._is_ours(number)
        ]
        await self._streams.tend(self._connection, [number for number, _ in ours])
        for account_id, exchange in ours:
            rows = await fetch_all(self._connection, OPEN, {"account": account_id})
            with suppress(ExchangeError):
                await self._look_at(account_id, exchange, rows)
            await look_at_waiting(self._desk, account_id, exchange)

    async def _is_ours(self, account_id: int) -> bool:
        if (
            account_id not in self._ours
            and (await fetch_one(self._connection, WATCH_LOCK, {"account": account_id})).got
        ):
            self._ours.add(account_id)
        return account_id in self._ours

    async def _look_at(self, account_id: int, exchange: Exchange, rows: list[Any]) -> None:
        for row in rows:
            if row.cancel_requested_at is not None:
                await self._cancel(exchange, row)
        for symbol in sorted({row.symbol for row in rows}):
            try:
                still_open = {report.venue_order_id: report for report in await exchange.open_orders(symbol)}
            except ExchangeError as error:
                log.warning("%s: open orders cannot be read now: %s", symbol, error)
                raise
            for row in rows:
                if row.symbol == symbol and await self._refresh(exchange, row, still_open.get(row.venue_order_id)):
                    self._streams.missed(account_id)

    async def _cancel(self, exchange: Exchange, row: Any) -> None:
        """Ask for a cancel. Whatever the answer, what became of the order is read, not assumed."""
        if row.status != "pending_cancel" and not await self._begin_cancel(row.id):
            return
        try:
            await exchange.cancel(row.symbol, row.venue_order_id)
        except Refused as error:
            log.info("order %s: the venue refuses the cancel: %s", row.id, error)
        except ExchangeError as error:
            log.warning("order %s: the cancel has no answer yet, it is asked for again: %s", row.id, error)

    async def _begin_cancel(self, order_id: int) -> bool:
        try:
            async with self._connection.transaction():
                await self._connection.execute(IMPATIENT)
                await self._connection.execute(BEGIN_CANCEL, {"id": order_id})
        except LockNotAvailable:
            log.warning(HELD_UP, order_id)
            return False
        return True

    async def _refresh(self, exchange: Exchange, row: Any, report: OrderReport | None) -> bool:
        """Book what is new; whether there was any. An order that is open with nothing new costs no further call."""
        if report is not None and report.filled_quantity == row.filled_quantity:
            return False
        if report is None:
            report = await exchange.find(row.symbol, str(row.client_order_id))
        if report is None:
            log.error("order %s: the venue accepted it as %s and does not know it any more", row.id, row.venue_order_id)
            return False
        fills = await exchange.fills(row.symbol, venue_order_id=report.venue_order_id)
        outcome = Outcome(row.id, None, "accepted", source="poll", report=report, fills=tuple(fills))
        try:
            await settle_in_transaction(self._desk.pool, [outcome])
        except UNREADABLE as error:
            await tell_unreadable(self._desk.pool, row.id, error)
            return False
        except LockNotAvailable:
            log.warning(HELD_UP, row.id)
            return False
        return True
