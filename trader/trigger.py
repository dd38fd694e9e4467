"""Triggers: orders that wait for a price, which the venue does not know of.

The price is asked for about once a second, one call for each market with such orders; what happens between two looks
is not seen. One statement writes down that an order has triggered, and the database queues it in the same transaction,
or as soon as the orders of its group that it replaces are closed. So it is sent once, whoever dies in between.

The trigger price of a trailing stop is in its row before it is obeyed, so whoever looks next goes on from there.
"""

import logging
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

from psycopg.errors import LockNotAvailable

from trader.db import fetch_all, retrying
from trader.errors import ExchangeError
from trader.exchange.protocol import Exchange, Ticker
from trader.sizing import plain
from trader.trader import HELD_UP, IMPATIENT, Desk
from trader.trail import moves, trigger_at

log = logging.getLogger("trigger")

Direction = Literal["rises", "falls"]

# One that waits for another order first has no eye for the price until then; nor has that of a paused strategy.
# begins: what a trailing stop after an entry counts from, the best price that the entry was filled at.
WAITING = """
SELECT o.id, o.trigger_price, o.trigger_when::text, m.symbol, coalesce(o.expires_at < clock_timestamp(), false) AS late,
       o.side::text, o.trail, m.price_tick,
       CASE WHEN o.trail IS NOT NULL AND o.trigger_price IS NULL AND o.after_id IS NOT NULL THEN (
         SELECT CASE o.side WHEN 'sell' THEN max(f.price) ELSE min(f.price) END
           FROM order_line(o.after_id) l JOIN fill f ON f.order_id = l.id
          WHERE f.market_id = o.market_id AND f.side <> o.side) END AS begins
  FROM "order" o JOIN strategy s ON s.id = o.strategy_id JOIN market m ON m.id = o.market_id
  LEFT JOIN "order" a ON a.id = o.after_id
 WHERE o.account_id = %(account)s AND o.status = 'waiting'
   AND (o.expires_at < clock_timestamp()
        OR num_nonnulls(o.trigger_price, o.trail) > 0 AND o.triggered_at IS NULL AND s.enabled
        AND (a.id IS NULL OR order_is_final(a.status) AND order_line_ended(a.id)))
 ORDER BY o.id
"""

EXPIRE = """
UPDATE "order" SET status = 'expired', reason = 'it expired while it waited'
 WHERE id = ANY(%(ids)s) AND status = 'waiting'
"""

NOTE = """
UPDATE "order" o SET trigger_when = x.direction::trigger_when
  FROM unnest(%(ids)s::bigint[], %(directions)s::text[]) x (id, direction)
 WHERE o.id = x.id AND o.status = 'waiting' AND o.trigger_when IS NULL
"""

# Of two that write at once the later looks at what the earlier left: nothing can bring it back.
FOLLOW = """
UPDATE "order" o SET trigger_price = x.price,
       trigger_when = CASE o.side WHEN 'sell' THEN 'falls' ELSE 'rises' END::trigger_when
  FROM unnest(%(ids)s::bigint[], %(prices)s::numeric[]) x (id, price)
 WHERE o.id = x.id AND o.status = 'waiting' AND o.triggered_at IS NULL AND o.trail IS NOT NULL
   AND (o.trigger_price IS NULL
        OR CASE o.side WHEN 'sell' THEN x.price > o.trigger_price ELSE x.price < o.trigger_price END)
"""

# A trailing stop obeys what is in its row: it may be that the price that it should follow could not be written.
TRIGGER = """
UPDATE "order" SET triggered_at = clock_timestamp(), reason = %(reason)s
 WHERE id = ANY(%(ids)s) AND status = 'waiting' AND triggered_at IS NULL
   AND (trail IS NULL
        OR CASE side WHEN 'sell' THEN %(price)s <= trigger_price ELSE %(price)s >= trigger_price END)
"""


async def look_at_waiting(desk: Desk, account_id: int, exchange: Exchange) -> None:
    """End the waiting orders of an account that have expired, and trigger those whose price has come."""
    async with desk.pool.connection() as connection:
        rows = await fetch_all(connection, WAITING, {"account": account_id})
    if late := [row.id for row in rows if row.late]:
        await _write(desk, EXPIRE, {"ids": late})
    watched = [row for row in rows if not row.late]
    for symbol in sorted({row.symbol for row in watched}):
        price = await _price(exchange, symbol)
        if price is not None:
            await _meet(desk, [row for row in watched if row.symbol == symbol], price)


async def _price(exchange: Exchange, symbol: str) -> Decimal | None:
    try:
        price = last_price(await exchange.ticker(symbol))
    except ExchangeError as error:
        log.warning("%s: no price now, its triggers are looked at again: %s", symbol, error)
        return None
    if price is None:
        log.warning("%s: the book is empty and nothing was ever traded, its triggers wait", symbol)
    return price


async def _meet(desk: Desk, rows: Sequence[Any], price: Decimal) -> None:
    rows = await _follow(desk, rows, price)
    undecided = [row.id for row in rows if row.trigger_when is None]
    directions = {row.id: row.trigger_when or direction(row.trigger_price, price) for row in rows}
    if undecided:
        await _write(desk, NOTE, {"ids": undecided, "directions": [directions[order_id] for order_id in undecided]})
    due = [row.id for row in rows if has_come(row.trigger_price, directions[row.id], price)]
    if due:
        log.info("orders %s: triggered at %s", due, plain(price))
        await _write(desk, TRIGGER, {"ids": due, "reason": f"triggered at {plain(price)}", "price": price})


async def _follow(desk: Desk, rows: Sequence[Any], price: Decimal) -> list[Any]:
    """Move the trigger prices of trailing stops that this price moves; all rows, with where they stand then."""
    moved = {row.id: new for row in rows if row.trail is not None and (new := follow(row, price)) is not None}
    if moved:
        await _write(desk, FOLLOW, {"ids": [*moved], "prices": [*moved.values()]})
    sides: dict[str, Direction] = {"sell": "falls", "buy": "rises"}
    return [
        row._replace(trigger_price=moved[row.id], trigger_when=sides[row.side]) if row.id in moved else row
        for row in rows
    ]


def follow(row: Any, price: Decimal) -> Decimal | None:
    """Where the trigger price of a trailing stop goes at this price; None: it stays where it is."""
    best = price if row.begins is None else (max if row.side == "sell" else min)(price, row.begins)
    new = trigger_at(row.side, row.trail, best, row.price_tick)
    return new if moves(row.side, row.trigger_price, new) else None


async def _write(desk: Desk, statement: str, parameters: dict[str, Any]) -> None:
    """One statement, run again if it loses a race: an order's end and its group's trigger may lock one another out.

    An order that somebody holds is left for the next look, alone.
    """

    async def work() -> None:
        async with desk.pool.connection() as connection, connection.transaction():
            await connection.execute(IMPATIENT)
            await connection.execute(statement, parameters)

    try:
        await retrying(work)
    except LockNotAvailable:
        ids = parameters["ids"]
        if len(ids) == 1:
            log.warning(HELD_UP, ids[0])
            return
        for place in range(len(ids)):
            one = {name: [value[place]] if isinstance(value, list) else value for name, value in parameters.items()}
            await _write(desk, statement, one)


def last_price(ticker: Ticker) -> Decimal | None:
    """What triggers go by: the last trade; where a venue tells none, the bid, then the ask."""
    return ticker.last or ticker.bid or ticker.ask


def direction(trigger_price: Decimal, price: Decimal) -> Direction:
    """From where the price will come to the trigger: from below if it is not above it now."""
    return "rises" if price <= trigger_price else "falls"


def has_come(trigger_price: Decimal, when: Direction, price: Decimal) -> bool:
    """Whether the price is at the trigger or beyond it."""
    return price >= trigger_price if when == "rises" else price <= trigger_price
