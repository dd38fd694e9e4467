"""Risk limits: what a strategy, or an account as a whole, may do at most. Judged in the claim's transaction.

The rows (`risk_limit`, people write the view `limits`) are locked after the lanes and before orders and balances, so
two traders that claim for one account come one after the other here: both cannot use the last slot. What is used is
read in statements that begin after that lock; the orders of the batch count as they are placed.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Any

from psycopg.errors import LockNotAvailable

from trader.db import Connection, fetch_all
from trader.order import Queued
from trader.sizing import Denial, Placement, Quote, plain

log = logging.getLogger("risk")

LOCK = """
SELECT r.id, r.account_id, r.strategy_id, coalesce('strategy ' || s.name, 'account ' || c.name) AS owner,
       u.code AS unit, r.max_order_value, r.max_position, r.max_open_orders, r.max_orders_per_minute,
       r.max_daily_loss, r.price_collar
  FROM risk_limit r JOIN asset u ON u.id = r.unit_id JOIN account c ON c.id = r.account_id
  LEFT JOIN strategy s ON s.id = r.strategy_id
 WHERE r.strategy_id = ANY(%(strategies)s)
    OR r.strategy_id IS NULL AND r.account_id IN (SELECT account_id FROM lane WHERE strategy_id = ANY(%(strategies)s))
 ORDER BY r.id FOR NO KEY UPDATE OF r
"""

# As long as a claim of another trader may take under load, not as long as a person may leave psql open.
BE_PATIENT = "SET LOCAL lock_timeout = '1s'"
BE_AS_BEFORE = "SET LOCAL lock_timeout TO DEFAULT"
LOCK_FREE = LOCK + "SKIP LOCKED"

HELD = """
SELECT DISTINCT s.id, s.name FROM strategy s JOIN risk_limit r ON r.account_id = s.account_id
 WHERE s.id = ANY(%(strategies)s) AND coalesce(r.strategy_id, s.id) = s.id AND r.id <> ALL(%(locked)s::int[])
"""

USED = """
SELECT r.id, CASE WHEN r.max_open_orders IS NOT NULL
                  THEN (SELECT count(*) FROM risk_open_orders(r.account_id, r.strategy_id)) END AS open_orders,
       (SELECT sum(orders)::int FROM risk_sent
         WHERE risk_limit_id = r.id AND at > clock_timestamp() - interval '1 min') AS sent
  FROM risk_limit r WHERE r.id = ANY(%(limits)s)
"""

LOSSES = "SELECT limit_id, loss, unpriced FROM risk_losses(%(limits)s::int[])"

# One statement, so one snapshot: what an open buy gets moves to what is held in between, never out of sight.
POSITIONS = """
SELECT r.id, p.base_id, p.quote_id, p.quantity, p.cost FROM risk_limit r CROSS JOIN LATERAL risk_positions(r.id) p
 WHERE r.id = ANY(%(limits)s) AND p.base_id = ANY(%(bases)s)
"""

RATES = """
SELECT r.id, q.id AS asset_id, asset_price(q.id, r.unit_id, c.exchange_id) AS rate
  FROM risk_limit r JOIN account c ON c.id = r.account_id CROSS JOIN unnest(%(assets)s::int[]) q (id)
 WHERE r.id = ANY(%(limits)s)
"""

NOTE_SENT = """
WITH old AS (DELETE FROM risk_sent
              WHERE risk_limit_id = ANY(%(limits)s) AND at < clock_timestamp() - interval '2 min')
INSERT INTO risk_sent (risk_limit_id, orders)
SELECT * FROM unnest(%(limits)s::int[], %(orders)s::int[]) x (id, orders)
"""

TELL_LOSS = """
WITH told AS (
  UPDATE risk_limit SET loss_told_at = clock_timestamp()
   WHERE id = %(limit)s AND coalesce(loss_told_at, '-infinity') < date_trunc('day', clock_timestamp(), 'UTC')
  RETURNING account_id)
INSERT INTO incident (severity, kind, message, account_id)
SELECT 'warning', 'daily loss', %(message)s, account_id FROM told
"""


@dataclass(slots=True)
class Limit:
    """The limits of one strategy or account, and what of them is used. Values are in `unit`; None: no limit."""

    id: int
    account_id: int
    strategy_id: int | None
    owner: str
    unit: str
    max_order_value: Decimal | None
    max_position: Decimal | None
    max_open_orders: int | None
    max_orders_per_minute: int | None
    max_daily_loss: Decimal | None
    price_collar: Decimal | None
    open_orders: int = 0
    sent: int = 0
    placed: int = 0
    """How many of the orders sent are this batch's."""
    loss: Decimal = Decimal(0)
    unpriced: tuple[str, ...] = ()
    """Assets without which nobody can say what was lost."""
    held: dict[int, Decimal] = field(default_factory=dict)
    """By base: the quantity that is held, or bought at a price that is not known yet."""
    spent: dict[tuple[int, int], Decimal] = field(default_factory=dict)
    """By (base, quote): what open buys have still to spend."""
    rates: dict[int, Decimal | None] = field(default_factory=dict)
    """Units for one of a quote asset; None: nobody knows."""
    breach: str | None = None
    """Set when a buy was denied because of the day's loss."""

    def problem(self, one: Queued, placement: Placement, quote: Quote | None) -> str | None:
        """Which of the limits the order would break, in words; None if it may be sent."""
        return (
            self._too_many()
            or self._lost_too_much(one)
            or self._outside_collar(one, placement, quote)
            or self._worth_too_much(one, placement, quote)
            or self._holds_too_much(one, placement, quote)
        )

    def place(self, one: Queued, placement: Placement, quote: Quote | None) -> None:
        """Count an order that is about to be submitted."""
        self.open_orders += 1
        self.sent += 1
        self.placed += 1
        if one.intent.side == "buy" and self.max_position is not None:
            key = one.rules.base_id, one.rules.quote_id
            self.spent[key] = self.spent.get(key, Decimal(0)) + worth(one, placement, quote)

    def _too_many(self) -> str | None:
        if self.max_open_orders is not None and self.open_orders >= self.max_open_orders:
            return (
                f"{self.open_orders} orders of {self.owner} are in flight or open: "
                f"max_open_orders is {self.max_open_orders}"
            )
        if self.max_orders_per_minute is not None and self.sent >= self.max_orders_per_minute:
            return (
                f"{self.sent} orders of {self.owner} were sent within a minute: "
                f"max_orders_per_minute is {self.max_orders_per_minute}"
            )
        return None

    def _lost_too_much(self, one: Queued) -> str | None:
        if self.max_daily_loss is None or one.intent.side == "sell":
            return None
        if self.unpriced:
            return self._unknown("max_daily_loss", ", ".join(self.unpriced))
        if self.loss <= self.max_daily_loss:
            return None
        lost = f"{self.owner} has lost {plain(round(self.loss, 8))} {self.unit} since 00:00 UTC"
        self.breach = f"{lost}: max_daily_loss is {plain(self.max_daily_loss)}, only sells are sent"
        return self.breach

    def _outside_collar(self, one: Queued, placement: Placement, quote: Quote | None) -> str | None:
        if self.price_collar is None:
            return None
        if quote is None or quote.last is None:
            return f"price_collar of {self.owner} cannot be judged: no last price of {one.rules.symbol} is known"
        buys = one.intent.side == "buy"
        price = _price(one, placement, quote)
        bound = quote.last * (1 + self.price_collar if buys else 1 - self.price_collar)
        if price <= bound if buys else price >= bound:
            return None
        return (
            f"a price of {plain(price)} {one.rules.quote} is {'above' if buys else 'below'} {plain(bound)}: "
            f"price_collar of {self.owner} is {plain(self.price_collar)}, the last price {plain(quote.last)}"
        )

    def _worth_too_much(self, one: Queued, placement: Placement, quote: Quote | None) -> str | None:
        if self.max_order_value is None:
            return None
        rate = self.rates.get(one.rules.quote_id)
        if rate is None:
            return self._unknown("max_order_value", one.rules.quote)
        value = worth(one, placement, quote) * rate
        if value <= self.max_order_value:
            return None
        return (
            f"the order is worth {plain(value)} {self.unit}: "
            f"max_order_value of {self.owner} is {plain(self.max_order_value)}"
        )

    def _holds_too_much(self, one: Queued, placement: Placement, quote: Quote | None) -> str | None:
        if self.max_position is None or one.intent.side == "sell":
            return None
        base, own_quote = one.rules.base_id, one.rules.quote_id
        open_buys = {asset: spent for (of, asset), spent in self.spent.items() if of == base}
        rates = {asset: self.rates.get(asset) for asset in (own_quote, *open_buys)}
        rate = rates[own_quote]
        if quote is None or rate is None or None in rates.values():
            return self._unknown("max_position", one.rules.base)
        held = self.held.get(base, Decimal(0)) * (quote.last or quote.bid) * rate
        held += sum((spent * (rates[asset] or 0) for asset, spent in open_buys.items()), Decimal(0))
        value = held + worth(one, placement, quote) * rate
        if value <= self.max_position:
            return None
        return (
            f"{one.rules.base} worth {plain(round(value, 18))} {self.unit} would be held: "
            f"max_position of {self.owner} is {plain(self.max_position)}"
        )

    def _unknown(self, rule: str, what: str) -> str:
        return f"{rule} of {self.owner} cannot be judged: nobody knows what {what} is worth in {self.unit}"


class Limits:
    """The limits that the orders of one claim meet, while their rows are locked."""

    def __init__(self, limits: Sequence[Limit] = ()) -> None:
        self._limits = limits

    def need_quote(self, one: Queued) -> bool:
        """Whether the order can only be judged with a price of now."""
        buys = one.intent.side == "buy"
        return any(
            limit.price_collar is not None or (buys and limit.max_position is not None) for limit in self._of(one)
        )

    def admit(self, one: Queued, placement: Placement, quote: Quote | None) -> Denial | None:
        """The first limit that the order would break; none, and it counts for those that follow in the same batch.

        `quote` may be None unless `need_quote(one)` or the order was sized with one.
        """
        limits = self._of(one)
        with localcontext() as context:
            context.prec = 60
            for limit in limits:
                if problem := limit.problem(one, placement, quote):
                    return Denial(problem)
            for limit in limits:
                limit.place(one, placement, quote)
        return None

    def _of(self, one: Queued) -> list[Limit]:
        if not self._limits:
            return []
        return [
            limit
            for limit in self._limits
            if limit.account_id == one.account_id and limit.strategy_id in (None, one.strategy_id)
        ]


NO_LIMITS = Limits()


def worth(one: Queued, placement: Placement, quote: Quote | None) -> Decimal:
    """What an order is worth in the market's quote: at its limit price, else at the quote that it was sized with."""
    if placement.quote_quantity is not None:
        return placement.quote_quantity
    return (placement.quantity or Decimal(0)) * _price(one, placement, quote)


def _price(one: Queued, placement: Placement, quote: Quote | None) -> Decimal:
    if placement.price is not None:
        return placement.price
    if quote is None:
        raise ValueError("a market order that is not by quote amount is judged with a price of now")
    return quote.ask if one.intent.side == "buy" else quote.bid


async def lock(connection: Connection, strategies: Collection[int]) -> tuple[list[Limit], set[int]]:
    """Lock the limits that orders of these strategies meet, theirs and their accounts'. Must run in a transaction.

    Also the strategies whose limits somebody else holds for longer than a claim does, in psql say: their orders wait,
    and only theirs.
    """
    wanted = {"strategies": sorted(strategies)}
    try:
        async with connection.transaction():  # a savepoint: a time-out ends only what is in here
            await connection.execute(BE_PATIENT)
            rows = await fetch_all(connection, LOCK, wanted)
            await connection.execute(BE_AS_BEFORE)
    except LockNotAvailable:
        rows = await fetch_all(connection, LOCK_FREE, wanted)
        held = await fetch_all(connection, HELD, wanted | {"locked": [row.id for row in rows]})
        names = ", ".join(sorted(row.name for row in held))
        log.warning("somebody's open transaction holds limits that these strategies meet, their orders wait: %s", names)
        return [Limit(*row) for row in rows], {row.id for row in held}
    return [Limit(*row) for row in rows], set()


async def read(connection: Connection, locked: Sequence[Limit], queued: Sequence[Queued]) -> Limits:
    """What is used of locked limits, and what is needed to judge these orders by them."""
    by_id = {limit.id: limit for limit in locked}
    for row in await fetch_all(connection, USED, {"limits": list(by_id)}):
        limit = by_id[row.id]
        limit.open_orders, limit.sent = row.open_orders or 0, row.sent or 0
    with_loss = [limit.id for limit in locked if limit.max_daily_loss is not None]
    if with_loss and any(one.intent.side == "buy" for one in queued):
        for row in await fetch_all(connection, LOSSES, {"limits": with_loss}):
            by_id[row.limit_id].loss, by_id[row.limit_id].unpriced = row.loss, tuple(row.unpriced or ())
    with_position = [limit.id for limit in locked if limit.max_position is not None]
    if with_position:
        bases = sorted({one.rules.base_id for one in queued})
        for row in await fetch_all(connection, POSITIONS, {"limits": with_position, "bases": bases}):
            _add_position(by_id[row.id], row)
    with_value = [limit.id for limit in locked if limit.max_position is not None or limit.max_order_value is not None]
    if with_value:
        assets = {one.rules.quote_id for one in queued} | {quote for limit in locked for _, quote in limit.spent}
        for row in await fetch_all(connection, RATES, {"limits": with_value, "assets": sorted(assets)}):
            by_id[row.id].rates[row.asset_id] = row.rate
    return Limits(locked)


def _add_position(limit: Limit, row: Any) -> None:
    limit.held[row.base_id] = limit.held.get(row.base_id, Decimal(0)) + row.quantity
    if row.quote_id is not None:
        limit.spent[row.base_id, row.quote_id] = row.cost


async def note(connection: Connection, locked: Sequence[Limit]) -> None:
    """Write down what was claimed under limits of orders per minute, and tell of losses that stopped a buy."""
    counted = [limit for limit in locked if limit.max_orders_per_minute is not None and limit.placed]
    if counted:
        orders = [limit.placed for limit in counted]
        await connection.execute(NOTE_SENT, {"limits": [limit.id for limit in counted], "orders": orders})
    for limit in locked:
        if limit.breach is not None:
            await connection.execute(TELL_LOSS, {"limit": limit.id, "message": limit.breach})
