"""Orders: the statements that claim them and move them on, one named constant each.

Nothing here opens a transaction or a connection: `trader.py` and its neighbours decide what belongs together.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from trader.db import Connection, fetch_all, fetch_one, numbers
from trader.exchange.protocol import FillReport, OrderReport, OrderRequest, OrderType, Side, TimeInForce
from trader.sizing import Denial, Intent, Placement, Rules, plain

ABSENCES_NEEDED = 2
"""How often the venue must say "not found", after the receive deadline, before that counts as proof."""

CLOCK_MARGIN = timedelta(seconds=1)
"""Added to the receive deadline: how far a venue's clocks may be apart, or behind ours if it tells no time."""

# Lock the free lanes that have work, least recently served first; a lane that another trader holds is skipped.
CLAIM_LANES = """
SELECT l.strategy_id FROM lane l JOIN strategy s ON s.id = l.strategy_id
 WHERE l.account_id = ANY(%(accounts)s) AND l.lease_until < clock_timestamp() AND s.enabled
   AND EXISTS (SELECT FROM "order" o WHERE o.strategy_id = l.strategy_id AND o.status = 'queued')
 ORDER BY l.served_at LIMIT %(lanes)s FOR UPDATE OF l SKIP LOCKED
"""

# A statement of its own: the one above read a snapshot that is older than its locks.
TAKE_HEADS = """
SELECT o.id, o.strategy_id, o.account_id, o.client_order_id, o.type::text, o.side::text,
       CASE WHEN o.replaces_id IS NULL OR o.quantity IS NULL THEN coalesce(o.due_quantity, o.quantity)
            ELSE greatest(0, least(o.due_quantity, o.quantity - order_replaced_quantity(o.id))) END AS quantity,
       o.quote_quantity,
       o.limit_price, coalesce(o.time_in_force, 'GTC')::text AS time_in_force, o.expires_at,
       s.stake, s.stake_unit = '%%' AS stake_in_percent, a.halted, a.reducing, a.name AS account,
       a.price_margin, a.receive_window, m.symbol, b.code AS base, q.code AS quote, m.base_id, m.quote_id, m.active,
       m.price_tick, m.quantity_step, m.quantity_min, m.quantity_max, m.cost_min,
       greatest(m.maker_fee, m.taker_fee) AS fee, m.fee_side::text, clock_timestamp() AS now
  FROM unnest(%(strategies)s::int[]) lane (strategy_id)
 CROSS JOIN LATERAL (SELECT * FROM "order" WHERE strategy_id = lane.strategy_id AND status = 'queued'
                      ORDER BY id LIMIT %(per_lane)s FOR UPDATE SKIP LOCKED) o
  JOIN strategy s ON s.id = o.strategy_id
  JOIN account a ON a.id = o.account_id
  JOIN market m ON m.id = o.market_id
  JOIN asset b ON b.id = m.base_id
  JOIN asset q ON q.id = m.quote_id
 ORDER BY o.strategy_id, o.id
"""

DENY = """
UPDATE "order" o SET status = 'denied', reason = x.reason
  FROM unnest(%(ids)s::bigint[], %(reasons)s::text[]) x (id, reason)
 WHERE o.id = x.id
"""

SUBMIT = """
UPDATE "order" o SET status = 'submitted', attempt = o.attempt + 1, fence = %(fence)s, sent_quantity = x.quantity,
       sent_quote_quantity = x.quote_quantity, sent_price = x.price,
       hold_asset_id = x.hold_asset_id, hold_quantity = x.hold_quantity,
       submitted_at = t.now, receive_deadline = t.now + x.receive_window * interval '1 ms'
  FROM unnest(%(ids)s::bigint[], %(quantities)s::numeric[], %(quote_quantities)s::numeric[], %(prices)s::numeric[],
              %(hold_assets)s::int[], %(holds)s::numeric[], %(windows)s::int[])
         x (id, quantity, quote_quantity, price, hold_asset_id, hold_quantity, receive_window),
       (SELECT date_trunc('milliseconds', clock_timestamp()) AS now) t
 WHERE o.id = x.id RETURNING o.id, o.submitted_at
"""

LEASE_LANES = """
UPDATE lane SET served_at = clock_timestamp(), fence = %(fence)s,
       owner = CASE WHEN strategy_id = ANY(%(busy)s) THEN %(owner)s::uuid END,
       lease_until = CASE WHEN strategy_id = ANY(%(busy)s) THEN clock_timestamp() + %(lease)s ELSE '-infinity' END
 WHERE strategy_id = ANY(%(lanes)s)
"""

RELEASE_LANES = """
UPDATE lane SET owner = NULL, lease_until = '-infinity'
 WHERE (strategy_id, fence) IN (SELECT * FROM unnest(%(strategies)s::int[], %(fences)s::bigint[]))
"""

NEXT_FENCE = "SELECT nextval('fence') AS fence"

# A claim's: whether there are limits at all costs no statement of its own.
CLAIM_FENCE = "SELECT nextval('fence') AS fence, EXISTS (SELECT FROM risk_limit) AS limited"

LOCK = """
SELECT id, strategy_id, account_id, status::text, fence, venue_order_id FROM "order"
 WHERE id = ANY(%(ids)s::bigint[]) ORDER BY strategy_id, id FOR UPDATE
"""

BOOK_FILLS = """
INSERT INTO fill (order_id, traded_at, quantity, price, fee, fee_asset_id, liquidity, trade_id, source)
SELECT x.order_id, x.traded_at, x.quantity, x.price, x.fee, a.id, x.liquidity::liquidity, x.trade_id,
       %(source)s::fill_source
  FROM unnest(%(orders)s::bigint[], %(traded_at)s::timestamptz[], %(quantities)s::numeric[], %(prices)s::numeric[],
              %(fees)s::numeric[], %(fee_assets)s::text[], %(liquidities)s::text[], %(trades)s::text[])
         x (order_id, traded_at, quantity, price, fee, fee_asset, liquidity, trade_id)
  LEFT JOIN asset a ON a.code = x.fee_asset
 ORDER BY x.order_id, x.traded_at, x.trade_id
ON CONFLICT (account_id, market_id, trade_id, side) DO NOTHING RETURNING order_id
"""

ADD_ASSETS = """
INSERT INTO asset (code) SELECT DISTINCT code FROM unnest(%(codes)s::text[]) code
 WHERE NOT EXISTS (SELECT FROM asset WHERE asset.code = code.code) ON CONFLICT (code) DO NOTHING
"""

MOVE_ON = """
UPDATE "order" o SET status = x.status::order_status, venue_order_id = coalesce(x.venue_order_id, o.venue_order_id),
       reason = x.reason
  FROM unnest(%(ids)s::bigint[], %(statuses)s::text[], %(venue_order_ids)s::text[], %(reasons)s::text[])
         x (id, status, venue_order_id, reason)
 WHERE o.id = x.id AND (o.status::text = x.status OR order_step_exists(o.status, x.status::order_status))
"""

LEAVE_IN_DOUBT = """
UPDATE "order" o SET in_doubt_since = coalesce(o.in_doubt_since, clock_timestamp()), reason = x.reason,
       next_look_at = clock_timestamp() + make_interval(secs => x.pause),
       absences = CASE WHEN x.never_sent THEN %(proof)s ELSE o.absences END
  FROM unnest(%(ids)s::bigint[], %(reasons)s::text[], %(pauses)s::float8[], %(never_sent)s::bool[])
         x (id, reason, pause, never_sent)
 WHERE o.id = x.id AND o.status = 'submitted'
"""

# Proof of existence that came in place of an answer ("duplicate id"): from now on no absence proves anything.
NOTE_EXISTENCE = """
INSERT INTO look_up (order_id, attempt, answer, after_deadline, detail)
SELECT o.id, o.attempt, 'found', false, 'the answer to the request: ' || x.reason
  FROM unnest(%(ids)s::bigint[], %(reasons)s::text[]) x (id, reason) JOIN "order" o ON o.id = x.id
"""

NAME_AT_VENUE = """
UPDATE "order" SET venue_order_id = %(venue_order_id)s WHERE id = %(id)s AND venue_order_id IS NULL
"""

FILLED = 'SELECT id, filled_quantity, sent_quantity FROM "order" WHERE id = ANY(%(ids)s::bigint[])'

INCIDENT = """
INSERT INTO incident (severity, kind, message, account_id, order_id)
VALUES (%(severity)s, %(kind)s, %(message)s, %(account)s, %(order)s)
"""

# The evidence contradicts what we know: only a person can say what happened. The funds stay held.
LEAVE_DISPUTED = """
UPDATE "order" SET in_doubt_since = coalesce(in_doubt_since, clock_timestamp()), reason = %(reason)s, absences = 0,
       next_look_at = clock_timestamp() + interval '1 minute'
 WHERE id = %(id)s AND (%(fence)s::bigint IS NULL OR fence = %(fence)s) AND status = 'submitted'
"""

ACCOUNT_OF = """
SELECT o.id, o.account_id, EXISTS (SELECT FROM incident i WHERE i.order_id = o.id AND i.kind = %(kind)s
                                      AND i.resolved_at IS NULL) AS known
  FROM "order" o WHERE o.id = %(id)s
"""

HALT = "UPDATE account SET halted = true, halt_reason = %(reason)s WHERE id = %(account)s AND NOT halted"


@dataclass(frozen=True, slots=True)
class Queued:
    """A queued order at the head of its lane, with the rules that it meets."""

    id: int
    strategy_id: int
    account_id: int
    client_order_id: UUID
    account: str
    halted: bool
    reducing: bool
    now: datetime
    receive_window: timedelta
    intent: Intent
    rules: Rules


@dataclass(frozen=True, slots=True)
class Claimed:
    """An order that is submitted under our fence: what to send."""

    id: int
    strategy_id: int
    account_id: int
    fence: int
    request: OrderRequest


Verdict = Literal["accepted", "refused", "in doubt", "never sent", "denied", "canceled"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an order, as an answer, a look-up, a poll or the stream says: to be settled in one transaction."""

    order_id: int
    fence: int | None
    """The fence we hold the order under; None for facts that a poll or the stream brings, which need none."""
    verdict: Verdict
    source: Literal["answer", "look-up", "poll", "stream", "reconciliation"] = "answer"
    report: OrderReport | None = None
    fills: tuple[FillReport, ...] = ()
    reason: str | None = None
    pause: float = 0.5
    """Seconds until an order in doubt is looked up."""
    exists: bool = False
    """In doubt, but the venue has said that it has an order of this name."""
    halts: bool = False
    """The venue refuses the account as such: stop everything on it."""
    frees_lane: tuple[int, int] | None = None
    """(strategy, fence) of the lane that has nothing more to send."""


async def next_fence(connection: Connection) -> int:
    """A number above every fence handed out before."""
    return int((await fetch_one(connection, NEXT_FENCE)).fence)


async def claim_fence(connection: Connection) -> tuple[int, bool]:
    """A number above every fence handed out before, and whether any strategy or account has risk limits."""
    row = await fetch_one(connection, CLAIM_FENCE)
    return int(row.fence), bool(row.limited)


async def claim_lanes(connection: Connection, accounts: Collection[int], lanes: int) -> list[int]:
    """Lock up to `lanes` lanes that are free and have work; their strategies' ids."""
    rows = await fetch_all(connection, CLAIM_LANES, {"accounts": list(accounts), "lanes": lanes})
    return sorted(row.strategy_id for row in rows)


async def take_heads(connection: Connection, strategies: Sequence[int], per_lane: int) -> list[Queued]:
    """Lock the oldest queued orders of each lane, at most `per_lane` each."""
    rows = await fetch_all(connection, TAKE_HEADS, {"strategies": list(strategies), "per_lane": per_lane})
    return [_queued(row) for row in rows]


def _queued(row: Any) -> Queued:
    intent = Intent(
        row.type,
        row.side,
        row.quantity,
        row.quote_quantity,
        row.limit_price,
        row.stake,
        row.stake_in_percent,
        row.expires_at,
        row.time_in_force,
    )
    rules = Rules(
        symbol=row.symbol,
        base=row.base,
        quote=row.quote,
        base_id=row.base_id,
        quote_id=row.quote_id,
        active=row.active,
        price_tick=row.price_tick,
        quantity_step=row.quantity_step,
        quantity_min=row.quantity_min,
        quantity_max=row.quantity_max,
        cost_min=row.cost_min,
        fee=row.fee,
        fee_side=row.fee_side,
        price_margin=row.price_margin,
    )
    return Queued(
        row.id,
        row.strategy_id,
        row.account_id,
        row.client_order_id,
        row.account,
        row.halted,
        row.reducing,
        row.now,
        row.receive_window,
        intent,
        rules,
    )


async def deny(connection: Connection, denials: Sequence[tuple[int, Denial]]) -> None:
    """Move orders to `denied`, each with its reason; what they held is free again."""
    if denials:
        parameters = {"ids": [order_id for order_id, _ in denials], "reasons": [denial.reason for _, denial in denials]}
        await connection.execute(DENY, parameters)


async def submit(connection: Connection, placements: Sequence[tuple[Queued, Placement]], fence: int) -> list[Claimed]:
    """Move orders to `submitted` with their holds; the database refuses any that would overspend."""
    if not placements:
        return []
    rows = await fetch_all(
        connection,
        SUBMIT,
        {
            "fence": fence,
            "ids": numbers(order.id for order, _ in placements),
            "quantities": numbers(placement.quantity for _, placement in placements),
            "quote_quantities": numbers(placement.quote_quantity for _, placement in placements),
            "prices": numbers(placement.price for _, placement in placements),
            "hold_assets": numbers(placement.hold_asset_id for _, placement in placements),
            "holds": numbers(placement.hold_quantity for _, placement in placements),
            "windows": numbers(order.receive_window // timedelta(milliseconds=1) for order, _ in placements),
        },
    )
    submitted_at = {row.id: row.submitted_at for row in rows}
    return [
        Claimed(
            order.id,
            order.strategy_id,
            order.account_id,
            fence,
            request(
                order.client_order_id,
                order.rules.symbol,
                order.intent.side,
                order.intent.type,
                placement.quantity,
                placement.quote_quantity,
                placement.price,
                submitted_at[order.id],
                order.receive_window,
                order.intent.time_in_force,
            ),
        )
        for order, placement in placements
    ]


def request(
    client_order_id: UUID,
    symbol: str,
    side: Side,
    order_type: OrderType,
    quantity: Decimal | None,
    quote_quantity: Decimal | None,
    price: Decimal | None,
    submitted_at: datetime,
    receive_window: timedelta,
    time_in_force: TimeInForce,
) -> OrderRequest:
    """What goes over the wire, with numbers as short as they can be written."""
    return OrderRequest(
        str(client_order_id),
        symbol,
        side,
        order_type,
        short(quantity),
        short(quote_quantity),
        short(price),
        submitted_at,
        receive_window,
        time_in_force,
    )


def short(value: Decimal | None) -> Decimal | None:
    """The same number without the trailing zeros that a numeric column adds."""
    return None if value is None else Decimal(plain(value))


async def lease_lanes(
    connection: Connection, lanes: Sequence[int], busy: Collection[int], owner: UUID, fence: int, lease: timedelta
) -> None:
    """Note that `lanes` were served; keep those that have something to send."""
    await connection.execute(
        LEASE_LANES, {"lanes": list(lanes), "busy": list(busy), "owner": owner, "fence": fence, "lease": lease}
    )
