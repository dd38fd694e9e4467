"""What other people do on our accounts: their fills are booked, their open orders are listed. Nothing of theirs is
ever canceled or changed, and no strategy is touched."""

import logging
from collections.abc import Sequence
from typing import Any

from trader import order
from trader.db import Connection, fetch_all
from trader.exchange.protocol import Exchange, FillReport, OrderReport

log = logging.getLogger("external")

BOOK = """
INSERT INTO external_fill (account_id, market_id, trade_id, side, venue_order_id, traded_at, quantity, price, fee,
  fee_asset_id, liquidity)
SELECT %(account)s, %(market)s, x.trade_id, x.side::order_side, x.venue_order_id, x.traded_at, x.quantity, x.price,
       x.fee, a.id, x.liquidity::liquidity
  FROM unnest(%(trades)s::text[], %(sides)s::text[], %(numbers)s::text[], %(traded_at)s::timestamptz[],
              %(quantities)s::numeric[], %(prices)s::numeric[], %(fees)s::numeric[], %(fee_assets)s::text[],
              %(liquidities)s::text[])
         x (trade_id, side, venue_order_id, traded_at, quantity, price, fee, fee_asset, liquidity)
  LEFT JOIN asset a ON a.code = x.fee_asset
 ORDER BY x.traded_at, x.trade_id
ON CONFLICT (account_id, market_id, trade_id, side) DO NOTHING RETURNING id
"""

# By the venue's number, or by our own name for an order that is still submitted. A name of ours that we believe was
# never sent is no order that we look after.
FOREIGN = """
WITH venue AS (
  SELECT m.id AS market_id, x.*,
         CASE WHEN x.client_order_id ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN x.client_order_id::uuid END
           AS name
    FROM unnest(%(symbols)s::text[], %(numbers)s::text[], %(names)s::text[], %(sides)s::text[], %(types)s::text[],
                %(prices)s::numeric[], %(quantities)s::numeric[], %(filled)s::numeric[])
           x (symbol, venue_order_id, client_order_id, side, type, price, quantity, filled_quantity)
    JOIN account a ON a.id = %(account)s
    JOIN market m ON m.exchange_id = a.exchange_id AND m.symbol = x.symbol
)
"""

# Rows of what is gone go in the same statement that stores what is there.
STORE_ORDERS = f"""
{FOREIGN}, theirs AS (
  SELECT * FROM venue v
   WHERE NOT EXISTS (SELECT FROM "order" o WHERE o.account_id = %(account)s AND o.market_id = v.market_id
                        AND o.venue_order_id = v.venue_order_id)
     AND NOT EXISTS (SELECT FROM "order" o WHERE o.client_order_id = v.name AND o.account_id = %(account)s
                        AND o.status NOT IN ('queued', 'denied', 'rejected'))
     AND (v.client_order_id IS NOT NULL
          OR NOT EXISTS (SELECT FROM "order" o WHERE o.account_id = %(account)s AND o.status = 'submitted'))
), gone AS (
  DELETE FROM external_order e WHERE e.account_id = %(account)s
     AND NOT EXISTS (SELECT FROM theirs t WHERE t.market_id = e.market_id AND t.venue_order_id = e.venue_order_id)
)
INSERT INTO external_order AS e (account_id, market_id, venue_order_id, client_order_id, side, type, price, quantity,
  filled_quantity)
SELECT %(account)s, market_id, venue_order_id, client_order_id, side::order_side, type, nullif(price, 0),
       nullif(quantity, 0), filled_quantity FROM theirs ORDER BY market_id, venue_order_id
ON CONFLICT (account_id, market_id, venue_order_id) DO UPDATE SET price = EXCLUDED.price, quantity = EXCLUDED.quantity,
  filled_quantity = EXCLUDED.filled_quantity, seen_at = clock_timestamp()
RETURNING venue_order_id
"""  # noqa: S608 - made of this file's own constants

# The venue was read before this snapshot, and an order is written down before it is sent: so these were sent by a
# database that has since been put back to an earlier state.
FORGOTTEN = f"""
{FOREIGN}
SELECT o.id, o.status::text FROM venue v JOIN "order" o ON o.client_order_id = v.name AND o.account_id = %(account)s
 WHERE o.status IN ('queued', 'denied', 'rejected') ORDER BY o.id
"""  # noqa: S608 - made of this file's own constants

# Queued before a trade that is not known: they may have made it, if this database forgot that it sent them.
MAY_BE_FORGOTTEN = """
SELECT o.id, o.client_order_id::text AS name, m.symbol FROM "order" o JOIN market m ON m.id = o.market_id
 WHERE o.account_id = %(account)s AND o.market_id = %(market)s AND o.status = 'queued' AND o.created_at < %(before)s
 ORDER BY o.id LIMIT 50
"""

INCIDENT_ONCE = """
INSERT INTO incident (severity, kind, message, account_id, order_id)
SELECT 'critical', %(kind)s, %(message)s, %(account)s, %(order)s
 WHERE NOT EXISTS (SELECT FROM incident WHERE order_id = %(order)s AND kind = %(kind)s)
"""


async def book(connection: Connection, account_id: int, market_id: int, fills: Sequence[FillReport]) -> int:
    """Book other people's executions on a market; how many were new. Must run inside a transaction."""
    if not fills:
        return 0
    codes = sorted({fill.fee_asset for fill in fills if fill.fee_asset is not None})
    await connection.execute(order.ADD_ASSETS, {"codes": codes})
    parameters = {
        "account": account_id,
        "market": market_id,
        "trades": [fill.trade_id for fill in fills],
        "sides": [fill.side for fill in fills],
        "numbers": [fill.venue_order_id for fill in fills],
        "traded_at": [fill.traded_at for fill in fills],
        "quantities": [fill.quantity for fill in fills],
        "prices": [fill.price for fill in fills],
        "fees": [fill.fee for fill in fills],
        "fee_assets": [fill.fee_asset for fill in fills],
        "liquidities": [fill.liquidity for fill in fills],
    }
    return len(await fetch_all(connection, BOOK, parameters))


async def list_orders(connection: Connection, exchange: Exchange, account_id: int) -> int:
    """Store which open orders at the venue are not ours; how many there are.

    Raises ExchangeError if they could not be read: then the rows stay as they were.
    """
    parameters = _listed(account_id, await exchange.open_orders())
    async with connection.transaction():
        for row in await fetch_all(connection, FORGOTTEN, parameters):
            await _forgotten(connection, account_id, row.id, f"it is open at the venue, and {row.status} here")
        return len(await fetch_all(connection, STORE_ORDERS, parameters))


def _listed(account_id: int, reports: Sequence[OrderReport]) -> dict[str, Any]:
    return {
        "account": account_id,
        "symbols": [report.symbol for report in reports],
        "numbers": [report.venue_order_id for report in reports],
        "names": [report.client_order_id for report in reports],
        "sides": [report.side for report in reports],
        "types": [report.type for report in reports],
        "prices": [report.limit_price for report in reports],
        "quantities": [report.quantity for report in reports],
        "filled": [report.filled_quantity for report in reports],
    }


async def find_forgotten(
    connection: Connection, exchange: Exchange, account_id: int, market_id: int, fills: Sequence[FillReport]
) -> None:
    """Halt the account if one of `fills`, which nobody of ours is known to have made, is of an order queued here.

    Only a database put back to an earlier state gives such: sending the queued order would send it twice.
    """
    if not fills:
        return
    parameters = {"account": account_id, "market": market_id, "before": max(fill.traded_at for fill in fills)}
    numbers = {fill.venue_order_id for fill in fills}
    for row in await fetch_all(connection, MAY_BE_FORGOTTEN, parameters):
        report = await exchange.find(row.symbol, row.name)
        if report is not None and report.venue_order_id in numbers:
            await _forgotten(connection, account_id, row.id, "it has traded at the venue, and is queued here")


async def _forgotten(connection: Connection, account_id: int, order_id: int, what: str) -> None:
    message = f"order {order_id} was sent by a later state of this database: {what}"
    log.error("%s", message)
    parameters = {"account": account_id, "order": order_id, "kind": "order forgotten", "message": message}
    if (await connection.execute(INCIDENT_ONCE, parameters)).rowcount:
        await connection.execute(order.HALT, {"account": account_id, "reason": message})
