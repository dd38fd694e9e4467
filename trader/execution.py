"""Executions: what the venue says has traded on an account, and whose trades they are.

A trade is booked once, as a fill of one of our orders or as other people's doing. What is neither yet, and why, is
decided here, by one statement over one snapshot.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from trader.db import Connection, fetch_all, fetch_one
from trader.exchange.protocol import Exchange, FillReport

OVERLAP = timedelta(minutes=5)
"""How much is read again: venues list a trade a little late, and their clocks are not ours."""
PATIENCE = timedelta(seconds=15)
"""A fill of an order that is open is the trader's to book: only an older one was missed."""
CLOCK_MARGIN = timedelta(seconds=5)
"""How far the venue's clock may run before ours, when a trade is compared with the birth of an order."""

SINCE = """
SELECT m.symbol, coalesce(r.read_until, a.created_at) - %(overlap)s::interval AS since
  FROM market m JOIN account a ON a.id = %(account)s
  LEFT JOIN execution_read r ON r.account_id = a.id AND r.market_id = m.id
 WHERE m.id = %(market)s
"""

# A trade that was fetched before this snapshot belongs to an order that is, in it, either submitted or known by the
# venue's number, or to nobody of ours. An order born after a trade did not make it.
CLASSIFY = """
SELECT x.n::int - 1 AS n, o.id AS order_id,
       CASE WHEN EXISTS (SELECT FROM fill f WHERE (f.account_id, f.market_id, f.trade_id, f.side)
                          = (a.id, %(market)s, x.trade_id, x.side::order_side))
              OR EXISTS (SELECT FROM external_fill f WHERE (f.account_id, f.market_id, f.trade_id, f.side)
                          = (a.id, %(market)s, x.trade_id, x.side::order_side)) THEN 'booked'
            WHEN o.id IS NOT NULL THEN
              CASE WHEN order_is_final(o.status) OR x.traded_at < clock_timestamp() - %(patience)s::interval THEN 'ours'
                   ELSE 'young' END
            WHEN a.opened_at IS NULL OR x.traded_at < date_trunc('milliseconds', a.opened_at) THEN 'opening'
            WHEN EXISTS (SELECT FROM "order" s WHERE s.account_id = a.id AND s.market_id = %(market)s
                            AND s.status = 'submitted' AND s.created_at <= x.traded_at + %(margin)s::interval)
              THEN 'waiting'
            ELSE 'foreign' END AS whose
  FROM unnest(%(trades)s::text[], %(sides)s::text[], %(numbers)s::text[], %(traded_at)s::timestamptz[])
         WITH ORDINALITY x (trade_id, side, venue_order_id, traded_at, n)
  JOIN account a ON a.id = %(account)s
  LEFT JOIN "order" o ON o.account_id = a.id AND o.market_id = %(market)s AND o.venue_order_id = x.venue_order_id
 ORDER BY x.n
"""

Whose = Literal["booked", "ours", "young", "opening", "waiting", "foreign"]


@dataclass(frozen=True, slots=True)
class Execution:
    """A trade that the venue reports, and whose it is."""

    fill: FillReport
    whose: Whose
    """booked: we have it; ours: an order of ours made it and nobody booked it; young: the same, but the trader may be
    about to; opening: the account's opening has it in; waiting: an order of ours whose venue id is not known yet may
    have made it; foreign: none of ours did."""
    order_id: int | None


async def read_executions(
    connection: Connection, exchange: Exchange, account_id: int, market_id: int
) -> list[FillReport]:
    """The venue's executions on a market since it was last read, with an overlap; at first since the account was made.

    Raises ExchangeError if they could not be read.
    """
    row = await fetch_one(connection, SINCE, {"account": account_id, "market": market_id, "overlap": OVERLAP})
    return await exchange.fills(row.symbol, since=row.since)


async def classify(
    connection: Connection, account_id: int, market_id: int, fills: Sequence[FillReport]
) -> list[Execution]:
    """Whose each of `fills` is, by what is known now; they must have been read before."""
    parameters = {
        "account": account_id,
        "market": market_id,
        "patience": PATIENCE,
        "margin": CLOCK_MARGIN,
        "trades": [fill.trade_id for fill in fills],
        "sides": [fill.side for fill in fills],
        "numbers": [fill.venue_order_id for fill in fills],
        "traded_at": [fill.traded_at for fill in fills],
    }
    return [
        Execution(fills[row.n], row.whose, row.order_id) for row in await fetch_all(connection, CLASSIFY, parameters)
    ]


async def all_booked(connection: Connection, exchange: Exchange, account_id: int, market_id: int) -> bool:
    """True if every execution that the venue lists now on a market is in our books. Raises ExchangeError."""
    fills = await read_executions(connection, exchange, account_id, market_id)
    found = await classify(connection, account_id, market_id, fills)
    return all(execution.whose in ("booked", "opening") for execution in found)


def oldest(executions: Iterable[Execution]) -> datetime | None:
    """When the oldest of them traded."""
    return min((execution.fill.traded_at for execution in executions), default=None)
