"""The orders of a class that is called at each candle: which are open, and what it gave as rows of "order".

A row can do less than a bar's engine can: base that rests in one sale cannot be offered in another. So several sales
that wait are one group (one cancels the others), and each sells all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Any

from jobs.strategy.decision import Action
from jobs.strategy.errors import Stopped
from trader.backtest.ticket import Ticket
from trader.db import Connection, fetch_all, fetch_one
from trader.errors import InputError
from trader.exchange.protocol import Side
from trader.sizing import LEAST, floor_to, plain
from trader.strategy import Minimums
from trader.trail import trigger_at

MOST = Decimal("1e20")
MOST_ORDERS = 20
"""That one candle may place."""

NOTHING = "no order"

LONGEST_LINE = 20
"""Of orders that took one another's place: each looks at all before it, so after so many a new line begins."""

# trigger_price: that of a trailing stop moves by itself, which is no change that a class need be asked about again.
# on_its_way: it is being sent or taken back, so nobody knows yet what it will do. taken: what is taken off an order in
# its place, as order_due() does.
OPEN = """
SELECT o.id, o.side::text, o.quantity, o.limit_price,
       CASE WHEN o.trail IS NULL THEN o.trigger_price END AS trigger_price, o.trail,
       CASE WHEN o.parent_id IS NULL THEN o.filled_quantity + l.filled ELSE
         (SELECT sum(g.filled_quantity) FROM "order" g
           WHERE g.parent_id = o.parent_id AND (g.market_id, g.side) = (o.market_id, o.side)) END AS taken, l.line,
       o.status = 'waiting' AS waits, o.parent_id,
       o.status IN ('queued', 'submitted', 'pending_cancel') OR o.cancel_requested_at IS NOT NULL
         OR (o.type = 'market' AND o.status <> 'waiting') AS on_its_way,
       coalesce((SELECT sum(h.quantity) FROM hold h WHERE h.order_id = o.id), 0) AS held
  FROM "order" o
 CROSS JOIN LATERAL (
   WITH RECURSIVE line AS (
     SELECT p.replaces_id, p.filled_quantity FROM "order" p WHERE p.id = o.replaces_id
     UNION ALL SELECT p.replaces_id, p.filled_quantity FROM line JOIN "order" p ON p.id = line.replaces_id)
   SELECT count(*) AS line, coalesce(sum(filled_quantity), 0) AS filled FROM line) l
 WHERE o.id IN (SELECT p.id FROM open_order p JOIN strategy s ON (s.id, s.account_id) = (p.strategy_id, p.account_id)
                 WHERE s.id = %s AND p.market_id = %s)
 ORDER BY o.id
"""

# Before they are read again: none ends between that and what is written on them.
LOCK = """
SELECT FROM "order"
 WHERE id IN (SELECT p.id FROM open_order p JOIN strategy s ON (s.id, s.account_id) = (p.strategy_id, p.account_id)
               WHERE s.id = %s AND p.market_id = %s)
   AND NOT order_is_final(status)
 ORDER BY id FOR NO KEY UPDATE
"""

CANCEL = """
UPDATE "order" SET cancel_requested_at = clock_timestamp()
 WHERE id = ANY(%s) AND NOT order_is_final(status) AND cancel_requested_at IS NULL
"""

TAKEN = 'SELECT count(*) AS many FROM "order" WHERE (strategy_id, bucket_time) = (%(id)s, %(newest)s)'

# The entry that what is held came by: its exits are one group.
ENTRY = """
SELECT (SELECT id FROM "order" WHERE strategy_id = %(id)s AND market_id = %(market_id)s AND side = 'buy'
           AND filled_quantity > 0 ORDER BY id DESC LIMIT 1) AS id
"""

PLACE = """
INSERT INTO "order" (strategy_id, market_id, side, type, quantity, limit_price, trigger_price, trigger_when, trail,
                     after_id, parent_id, replaces_id, bucket_time, bucket_part)
VALUES (%(id)s, %(market_id)s, %(side)s::order_side, %(type)s::order_type, %(quantity)s, %(limit)s, %(stop)s,
        %(when)s::trigger_when, %(trail)s, %(after)s, %(parent)s, %(replaces)s, %(newest)s, %(part)s)
RETURNING id
"""


@dataclass(frozen=True, slots=True)
class Open:
    """An open order."""

    id: int
    side: Side
    quantity: Decimal | None
    limit_price: Decimal | None
    trigger_price: Decimal | None
    trail: Decimal | None
    """A trailing stop's, which has no trigger price here."""
    taken: Decimal
    """What an order in its place will not trade any more."""
    line: int
    """How many were replaced before it, one by the other."""
    waits: bool
    """The venue does not know of it."""
    parent_id: int | None
    on_its_way: bool
    held: Decimal
    """What it keeps: quote of a buy, base of a sale."""

    def ticket(self) -> Ticket:
        """The order as a strategy sees it."""
        prices = (self.quantity, self.limit_price, self.trigger_price, self.trail)
        return Ticket(self.side, -1, *(None if value is None else float(value) for value in prices))


@dataclass(frozen=True, slots=True)
class New:
    """An order to be placed."""

    side: Side
    quantity: Decimal | None
    limit: Decimal | None
    stop: Decimal | None
    trail: Decimal | None = None
    begins: Decimal | None = None
    """Where the trigger price of a trailing stop stands at first. None: its buy's fills will say."""
    replaces: int | None = None
    """The order at the venue whose funds it needs: it goes when that one has ended."""
    after: int | None = None
    """The buy that it waits for."""
    follows: bool = False
    """It waits for a buy of the same candle."""

    def __str__(self) -> str:
        many = "" if self.quantity is None else f" {plain(self.quantity)}"
        what = f"{self.side}{many or (' for its stake' if self.side == 'buy' else ' all')}"
        terms = (("stop", self.stop), ("limit", self.limit), ("trail", self.trail))
        prices = [f" {name} {plain(value)}" for name, value in terms if value]
        later = f" in place of order {self.replaces}" if self.replaces else ""
        return what + "".join(prices) + later + (" after the buy" if self.follows or self.after else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done at a candle."""

    cancel: tuple[int, ...] = ()
    """Orders to be taken back, but for those that are replaced."""
    place: tuple[New, ...] = ()
    group: int | None = None
    """The entry of the sales that wait already."""
    first: bool = False
    """Only take orders back now: what is to be placed is asked again when they have ended."""
    sales: int = 0
    """How many will wait then."""
    dropped: int = 0
    """Sales of nothing: there is neither base nor a buy."""

    def __str__(self) -> str:
        parts = [str(new) for new in self.place]
        parts += [f"take back order {number}" for number in self.cancel]
        parts += ["sell: nothing is held"] * bool(self.dropped)
        return "; ".join(parts) or NOTHING

    @property
    def action(self) -> Action:
        """As in `decision.action`."""
        replaced = any(new.replaces for new in self.place)
        if len(self.place) == 1 and not self.cancel and not replaced:
            return self.place[0].side
        return "orders" if self.place or self.cancel else "none"


async def read_orders(connection: Connection, strategy_id: int, market_id: int) -> tuple[Open, ...]:
    """The open orders of a strategy on a market, oldest first."""
    return tuple(Open(*found) for found in await fetch_all(connection, OPEN, [strategy_id, market_id]))


async def lock_orders(connection: Connection, strategy_id: int, market_id: int) -> tuple[Open, ...]:
    """The same, locked until the transaction ends."""
    await connection.execute(LOCK, [strategy_id, market_id])
    return await read_orders(connection, strategy_id, market_id)


def plan_of(wanted: Sequence[Ticket], known: Mapping[Ticket, Open], money: Any, price: Decimal) -> Plan:
    """What is to be done so that `wanted` are the orders that wait. `known` are those that wait now.

    Raises InputError for what the desk cannot do.
    """
    given = [ticket for ticket in wanted if ticket.alive and ticket not in known]
    if any(ticket.kind == "market" and ticket.side == "sell" and ticket.quantity is None for ticket in given):
        for ticket in known:  # it sells all, so the other sales have nothing to wait for
            ticket.alive = ticket.alive and ticket.side == "buy"
    kept = [order for ticket, order in known.items() if ticket.alive]
    gone = [order for ticket, order in known.items() if not ticket.alive]
    if len(given) > MOST_ORDERS:
        raise InputError(f"{len(given)} orders at one candle: at most {MOST_ORDERS} are allowed")
    news = [_new(ticket) for ticket in given if ticket.side == "buy"]
    sales, dropped = _sales(given, kept, news, money, price)
    news = _replacing([*news, *sales], gone, money, price)
    if any(order.line >= LONGEST_LINE for order in gone if order.id in {new.replaces for new in news}):
        return Plan(cancel=tuple(order.id for order in gone), first=True)
    _check_sales([new for new in news if new.side == "sell"], [order for order in kept if order.side == "sell"])
    replaced = {new.replaces for new in news}
    cancel = tuple(order.id for order in gone if order.id not in replaced)
    group = next((order.parent_id for order in kept if order.side == "sell" and order.parent_id), None)
    waiting = [new.side for new in news] + [order.side for order in kept]
    return Plan(cancel, tuple(news), group, sales=waiting.count("sell"), dropped=dropped)


def _new(ticket: Ticket) -> New:
    trail = _amount(ticket, "trail")
    if trail is not None and trail >= 1:  # a float just below it
        raise InputError(f"{ticket.side} order: trail is {ticket.trail!r}: below 1 in fifteen digits is allowed")
    return New(ticket.side, _amount(ticket, "quantity"), _amount(ticket, "limit"), _amount(ticket, "stop"), trail)


def _amount(ticket: Ticket, name: str) -> Decimal | None:
    """A float as the database keeps it: its 15 digits that mean something, in 18 decimals. InputError: it cannot."""
    given = getattr(ticket, name)
    if given is None:
        return None
    with localcontext() as context:
        context.prec = 60
        value = Decimal(f"{float(given):.15g}").quantize(LEAST, ROUND_HALF_EVEN)
    if not LEAST <= value < MOST:
        raise InputError(f"{ticket.side} order: {name} is {given!r}: from 1e-18 to below 1e20 is allowed")
    return value.normalize() if value == value.to_integral() else value


def _sales(
    given: Sequence[Ticket], kept: Sequence[Open], buys: Sequence[New], money: Any, price: Decimal
) -> tuple[list[New], int]:
    """Sales of what is held (dust is nothing), or of what a buy will bring; and how many there are of nothing."""
    sales = [_new(ticket) for ticket in given if ticket.side == "sell"]
    if Minimums(money.quantity_min, money.quantity_step, money.cost_min).sellable(money.holding, price):
        return [sale if sale.trail is None else _trailing(sale, sale.trail, money, price) for sale in sales], 0
    if buys:
        return [replace(sale, follows=True) for sale in sales], 0
    waiting = [order.id for order in kept if order.side == "buy"]
    if waiting:
        return [replace(sale, after=waiting[-1]) for sale in sales], 0
    return [], len(sales)


def _trailing(sale: New, trail: Decimal, money: Any, price: Decimal) -> New:
    """A trailing stop of what is held already: as in a backtest it follows from the close on at which it was given."""
    return replace(sale, begins=trigger_at("sell", trail, price, money.price_tick))


def _check_sales(news: Sequence[New], kept: Sequence[Open]) -> None:
    """InputError: several sales wait, and one of them sells a part only."""
    quantities = [new.quantity for new in news] + [order.quantity for order in kept]
    parts = [quantity for quantity in quantities if quantity is not None]
    if news and len(news) + len(kept) > 1 and parts:
        raise InputError(
            f"sell order: quantity is {plain(parts[0])}, but {len(news) + len(kept)} sales would wait: live they are "
            "one group, of which each sells all; give no quantity, or take the others back"
        )


def _replacing(news: Sequence[New], gone: Sequence[Open], money: Any, price: Decimal) -> list[New]:
    """Let orders wait for the end of those that are taken back and still keep what they need."""
    at_venue: dict[Side, list[Open]] = {"buy": [], "sell": []}
    for order in gone:
        if not order.waits:
            at_venue[order.side].append(order)
    free = money.free + sum((order.held for order in at_venue["buy"]), Decimal(0))
    placed = []
    for new in news:
        if at_venue[new.side] and not new.follows and new.after is None:
            old = at_venue[new.side].pop(0)
            placed.append(replace(new, replaces=old.id, quantity=_whole(new, old, money, free, price)))
        else:
            placed.append(new)
    return placed


def _whole(new: New, old: Open, money: Any, free: Decimal, price: Decimal) -> Decimal | None:
    """The quantity of an order in another's place: what that one fills is taken off it."""
    quantity = new.quantity
    if quantity is None:
        if new.side == "sell":
            return None  # all that is there then
        at = new.limit or (new.stop or price) * (1 + money.price_margin)
        spend = free * money.stake / 100 if money.in_percent else money.stake
        with localcontext() as context:
            context.prec = 60
            quantity = floor_to(spend / (at * (1 + (money.fee or 0))), money.quantity_step or LEAST)
        if quantity <= 0:
            raise InputError(f"buy order: a stake of {plain(spend)} buys nothing at {plain(at)}")
    return quantity + old.taken


async def is_answered(connection: Connection, row: Any) -> bool:
    """Whether the newest candle has an order already, which a person wrote."""
    return bool((await fetch_one(connection, TAKEN, {"id": row.id, "newest": row.newest})).many)


async def carry_out(connection: Connection, row: Any, plan: Plan) -> None:
    """Take orders back and place others, within the transaction of their decision.

    Raises Stopped: several sales, and no buy whose exits they are.
    """
    if plan.cancel:
        await connection.execute(CANCEL, [list(plan.cancel)])
    values = {"id": row.id, "market_id": row.market_id, "newest": row.newest}
    entry = plan.group
    if entry is None and any(new.side == "sell" for new in plan.place):
        entry = (await fetch_one(connection, ENTRY, values)).id
        if entry is None and plan.sales > 1 and not any(new.follows or new.after for new in plan.place):
            raise Stopped("on_bucket: several sales are the exits of one buy, but what is held was not bought here")
    bought = None
    for part, new in enumerate(plan.place, 1):
        after = bought if new.follows else new.after
        parent = None if new.replaces else _parent(new, after, entry)
        placed = await fetch_one(connection, PLACE, values | _columns(new, after, parent, part))
        if new.side == "buy":
            bought = placed.id


def _parent(new: New, after: int | None, entry: int | None) -> int | None:
    """The entry whose exits one cancels the other; none for what sells a part, or at once."""
    if new.side == "buy" or new.quantity is not None:
        return None
    if after is not None:
        return after
    waits = new.limit is not None or new.stop is not None or new.trail is not None
    return entry if waits else None


def _columns(new: New, after: int | None, parent: int | None, part: int) -> dict[str, Any]:
    return {
        "side": new.side,
        "type": "market" if new.limit is None else "limit",
        "quantity": new.quantity,
        "limit": new.limit,
        "stop": new.stop if new.trail is None else new.begins,
        "trail": new.trail,
        "when": None if new.stop is None else ("rises" if new.side == "buy" else "falls"),
        "after": after,
        "parent": parent,
        "replaces": new.replaces,
        "part": part,
    }
