"""Markets: what an exchange trades, under which rules."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from trader.db import Connection, fetch_all, fetch_one
from trader.errors import InputError
from trader.exchange.protocol import MarketInfo

SMALLEST, TOO_LARGE = Decimal("1e-18"), Decimal("1e20")
"""What the columns can hold."""
NAME = re.compile(r"(?P<exchange>[^\s:]+):(?P<base>[^\s:/]+)/(?P<quote>[^\s:/]+)")
"""That of a spot market."""

# Synced by two processes at once: one after the other, in one order.
LOCK = "UPDATE exchange SET synced_at = clock_timestamp() WHERE id = %s"

ADD_ASSETS = """
INSERT INTO asset (code) SELECT DISTINCT code FROM unnest(%(codes)s::text[]) n (code)
 WHERE NOT EXISTS (SELECT FROM asset a WHERE a.code = n.code) ORDER BY code
ON CONFLICT (code) DO NOTHING
"""

# Rounded as the columns will round them, else a rule with more digits would look changed each time.
UPSERT = """
WITH given AS (
  SELECT n.symbol, b.id AS base_id, q.id AS quote_id, n.active, n.price_tick::numeric(38, 18) AS price_tick,
         n.quantity_step::numeric(38, 18) AS quantity_step, n.quantity_min::numeric(38, 18) AS quantity_min,
         n.quantity_max::numeric(38, 18) AS quantity_max, n.cost_min::numeric(38, 18) AS cost_min,
         n.maker_fee, n.taker_fee, n.fee_side, n.status
    FROM unnest(%(symbols)s::text[], %(bases)s::text[], %(quotes)s::text[], %(active)s::boolean[],
                %(price_ticks)s::numeric[], %(quantity_steps)s::numeric[], %(quantity_mins)s::numeric[],
                %(quantity_maxs)s::numeric[], %(cost_mins)s::numeric[], %(maker_fees)s::numeric[],
                %(taker_fees)s::numeric[], %(fee_sides)s::fee_side[], %(statuses)s::text[])
      n (symbol, base, quote, active, price_tick, quantity_step, quantity_min, quantity_max, cost_min, maker_fee,
         taker_fee, fee_side, status)
    JOIN asset b ON b.code = n.base JOIN asset q ON q.code = n.quote
), written AS (
  INSERT INTO market AS m (exchange_id, symbol, base_id, quote_id, active, price_tick, quantity_step, quantity_min,
                           quantity_max, cost_min, maker_fee, taker_fee, fee_side, status)
  SELECT %(exchange)s, g.* FROM given g
   WHERE NOT EXISTS (SELECT FROM market o WHERE o.exchange_id = %(exchange)s AND o.symbol = g.symbol
     AND o.listed
     AND (o.active, o.price_tick, o.quantity_step, o.quantity_min, o.quantity_max, o.cost_min, o.maker_fee,
          o.taker_fee, o.fee_side, o.status)
      IS NOT DISTINCT FROM (g.active, g.price_tick, g.quantity_step, g.quantity_min, g.quantity_max, g.cost_min,
          g.maker_fee, g.taker_fee, g.fee_side, g.status))
   ORDER BY g.symbol
  ON CONFLICT (exchange_id, symbol) DO UPDATE SET active = EXCLUDED.active, price_tick = EXCLUDED.price_tick,
    quantity_step = EXCLUDED.quantity_step, quantity_min = EXCLUDED.quantity_min,
    quantity_max = EXCLUDED.quantity_max, cost_min = EXCLUDED.cost_min, maker_fee = EXCLUDED.maker_fee,
    taker_fee = EXCLUDED.taker_fee, fee_side = EXCLUDED.fee_side, status = EXCLUDED.status, listed = true,
    synced_at = now()
  RETURNING (xmax = 0) AS is_new
), gone AS (
  UPDATE market SET active = false, listed = false, status = NULL, synced_at = now()
   WHERE exchange_id = %(exchange)s AND listed AND symbol <> ALL (%(symbols)s::text[])
  RETURNING id
)
SELECT count(*) FILTER (WHERE is_new) AS added, count(*) FILTER (WHERE NOT is_new) AS changed,
       (SELECT count(*) FROM gone) AS vanished FROM written
"""

FIND = """
SELECT m.id, m.exchange_id, e.name AS exchange_name, m.symbol, m.active
  FROM market m JOIN exchange e ON e.id = m.exchange_id WHERE e.name = %s AND m.symbol = %s
"""

SOME = """
SELECT string_agg(name, ', ' ORDER BY name)
       || coalesce((SELECT format(' and %%s more', count(*) - 5) FROM market WHERE active HAVING count(*) > 5), '')
       AS names
  FROM (
  SELECT e.name || ':' || m.symbol AS name FROM market m JOIN exchange e ON e.id = m.exchange_id
   WHERE m.active ORDER BY e.name <> %s, m.symbol LIMIT 5) few
"""

# One that is there stays as it is: whether it is offline is judged after this.
ADD_EXCHANGE = """
INSERT INTO exchange (name, ccxt_id, offline) VALUES (%s, %s, true) ON CONFLICT (name) DO NOTHING
"""

EXCHANGE = "SELECT id, offline FROM exchange WHERE name = %s"

ADD_MARKET = """
INSERT INTO market (exchange_id, symbol, base_id, quote_id)
SELECT %(exchange)s, %(symbol)s, b.id, q.id FROM asset b, asset q WHERE b.code = %(base)s AND q.code = %(quote)s
ON CONFLICT (exchange_id, symbol) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class Market:
    """A market by its numbers and its names."""

    id: int
    exchange_id: int
    exchange_name: str
    symbol: str
    active: bool

    @property
    def name(self) -> str:
        """exchange:symbol, as people write it."""
        return f"{self.exchange_name}:{self.symbol}"


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync of markets changed."""

    added: int
    changed: int
    vanished: int
    """Markets that the venue no longer lists: kept, and no longer active."""


async def sync_markets(connection: Connection, exchange_id: int, infos: Sequence[MarketInfo]) -> Synced:
    """Make the rows of an exchange's markets what the venue says; rows that are right already are not touched.

    A market that is not among `infos` becomes inactive. `infos` must be all that the venue lists: InputError if there
    is none, for that is an answer that was not understood.
    """
    if not infos:
        raise InputError("markets: the venue lists none at all; nothing was changed")
    async with connection.transaction():
        await connection.execute(LOCK, [exchange_id])
        await connection.execute(ADD_ASSETS, {"codes": [code for info in infos for code in (info.base, info.quote)]})
        row = await fetch_one(connection, UPSERT, {"exchange": exchange_id} | _columns(infos))
    return Synced(row.added, row.changed, row.vanished)


def _columns(infos: Sequence[MarketInfo]) -> dict[str, list[object]]:
    return {
        "symbols": [info.symbol for info in infos],
        "bases": [info.base for info in infos],
        "quotes": [info.quote for info in infos],
        "active": [info.active for info in infos],
        "price_ticks": [_rule(info.price_tick) for info in infos],
        "quantity_steps": [_rule(info.quantity_step) for info in infos],
        "quantity_mins": [_rule(info.quantity_min) for info in infos],
        "quantity_maxs": [_rule(info.quantity_max) for info in infos],
        "cost_mins": [_rule(info.cost_min) for info in infos],
        "maker_fees": [info.maker_fee for info in infos],
        "taker_fees": [info.taker_fee for info in infos],
        "fee_sides": [info.fee_side for info in infos],
        "statuses": [info.status for info in infos],
    }


def _rule(value: Decimal | None) -> Decimal | None:
    """None for what rules nothing, as zero does, or a bound beyond any order: one odd market must not stop the rest."""
    return value if value is not None and SMALLEST <= value < TOO_LARGE else None


async def find_market(connection: Connection, name: str, *, from_file: bool = False) -> Market:
    """The market called `exchange:symbol`. InputError that lists some if there is none, and, where candles come
    `from_file`, how to make one that needs no venue.
    """
    exchange, _, symbol = name.partition(":")
    rows = await fetch_all(connection, FIND, [exchange, symbol])
    if not rows:
        known = (await fetch_one(connection, SOME, [exchange])).names or "none yet (tallydesk market sync)"
        rows = await fetch_all(connection, "SELECT offline FROM exchange WHERE name = %s", [exchange])
        is_new = from_file and NAME.fullmatch(name) and (not rows or rows[0].offline)
        hint = f"; to make it for candles of files: tallydesk market add {name}" if is_new else ""
        raise InputError(f"unknown market {name!r}: write exchange:symbol; there is {known}{hint}")
    return Market(*rows[0])


async def add_market(connection: Connection, name: str) -> tuple[Market, bool]:
    """The market `exchange:BASE/QUOTE` at an exchange that no venue stands behind, and whether it is new.

    Makes the exchange and the assets that are not there. InputError for a name that is none, and at an exchange that
    has a venue: there the sync makes the markets.
    """
    parts = NAME.fullmatch(name)
    if parts is None or parts["base"] == parts["quote"]:
        raise InputError(f"market {name!r}: write NAME:BASE/QUOTE, as in bitfinex:BTC/USD")
    exchange, base, quote = parts["exchange"], parts["base"], parts["quote"]
    async with connection.transaction():
        await connection.execute(ADD_EXCHANGE, [exchange, exchange])
        row = await fetch_one(connection, EXCHANGE, [exchange])
        if not row.offline:
            raise InputError(
                f"market {name!r}: {exchange} is not offline: what it trades the venue says (tallydesk market sync "
                f"--exchange {exchange}); for files that are not of it take another name, as in files:{base}/{quote}"
            )
        await connection.execute(ADD_ASSETS, {"codes": [base, quote]})
        market = {"exchange": row.id, "symbol": f"{base}/{quote}", "base": base, "quote": quote}
        is_new = (await connection.execute(ADD_MARKET, market)).rowcount == 1
        return await find_market(connection, name), is_new
