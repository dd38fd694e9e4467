"""The desk of an exact replay: rows, the trader's own steps on them, and what the ledger says afterwards.

The orders go the way of every order: queued as a row, claimed, sized, held, sent and settled by the functions that a
trader process runs, in its order. What is left out is only what a process does to wait: every part of the bars has one
order at a time, so the next step follows at once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from uuid import uuid4

from trader.backtest.data import Bars
from trader.backtest.exact_connection import direct
from trader.backtest.exact_part import Part
from trader.backtest.exact_replay import Flow, Order, Replay, Step
from trader.backtest.exact_seat import Seat
from trader.backtest.exact_venue import BASE, QUOTE, SYMBOL, rules_of
from trader.backtest.settings import UNIT, Settings
from trader.db import Connection, Identity, Pool, fetch_all, fetch_one, numbers, texts
from trader.errors import DatabaseError
from trader.gate import Gate
from trader.market_quote import QuoteCache
from trader.trader import Desk, claim, send_lane, settle_in_transaction

IDENTITY = Identity("trader", "exact")

SETUP = (
    "INSERT INTO asset (code) VALUES (%(base)s), (%(quote)s)",
    "INSERT INTO exchange (name, ccxt_id, replay) VALUES (%(name)s, %(name)s, true)",
    """
INSERT INTO market (exchange_id, symbol, base_id, quote_id, price_tick, quantity_step, quantity_min, cost_min,
                    maker_fee, taker_fee, fee_side)
SELECT e.id, %(symbol)s, b.id, q.id, %(tick)s, %(step)s, %(least)s, %(cost)s, %(maker)s, %(taker)s, 'get'
  FROM exchange e, asset b, asset q WHERE b.code = %(base)s AND q.code = %(quote)s
""",
)

# As a strategy's run reads it; and what became of its last order.
MONEY = """
SELECT s.id AS strategy, coalesce(q.total - q.held, 0) AS free, coalesce(b.total, 0) AS holding,
       p.cost / nullif(p.quantity, 0) AS average_cost,
       o.id AS "order", o.status::text, o.reason, o.filled_quantity, order_is_final(o.status) AS final
  FROM unnest(%(strategies)s::int[], %(orders)s::bigint[]) x (strategy_id, order_id)
  JOIN strategy s ON s.id = x.strategy_id
  JOIN market m ON m.id = s.market_id
  JOIN ledger_account l ON l.strategy_id = s.id
  LEFT JOIN balance q ON q.ledger_account_id = l.id AND q.asset_id = m.quote_id
  LEFT JOIN balance b ON b.ledger_account_id = l.id AND b.asset_id = m.base_id
  LEFT JOIN position p ON p.strategy_id = s.id AND p.market_id = m.id
  LEFT JOIN "order" o ON o.id = x.order_id
"""

# As a strategy's run queues it. A candle that has its order already would be an error here.
QUEUE = """
INSERT INTO "order" (strategy_id, type, side, market_id, bucket_time, quantity)
SELECT x.strategy_id, 'market', x.side::order_side, s.market_id, x.bucket_time, x.quantity
  FROM unnest(%(strategies)s::int[], %(sides)s::text[], %(moments)s::timestamptz[], %(quantities)s::numeric[])
         x (strategy_id, side, bucket_time, quantity)
  JOIN strategy s ON s.id = x.strategy_id
RETURNING id, strategy_id
"""

CANCEL = "UPDATE orders SET cancel_requested_at = clock_timestamp() WHERE id = %s"

FILLS = """
SELECT f.order_id, o.bucket_time, f.side::text, f.traded_at, f.price, f.quantity, f.quote, f.fee, a.code AS fee_asset,
       f.liquidity::text, f.id
  FROM fill f JOIN "order" o ON o.id = f.order_id JOIN asset a ON a.id = f.fee_asset_id ORDER BY o.strategy_id, f.id
"""

# What each fill, deposit and withdrawal moved, as it was posted; without what a part began with.
POSTED = """
SELECT p.order_id, p.fill_id, coalesce(sum(p.delta) FILTER (WHERE a.code = %(quote)s), 0) AS quote,
       coalesce(sum(p.delta) FILTER (WHERE a.code = %(base)s), 0) AS base
  FROM (SELECT id, order_id, fill_id, asset_id, -quantity AS delta, from_id AS account FROM ledger
        UNION ALL SELECT id, order_id, fill_id, asset_id, quantity, to_id FROM ledger) p
  JOIN ledger_account l ON l.id = p.account AND l.strategy_id IS NOT NULL
  JOIN asset a ON a.id = p.asset_id
 WHERE p.order_id <> ALL (%(begun)s::bigint[])
 GROUP BY l.strategy_id, p.order_id, p.fill_id ORDER BY l.strategy_id, min(p.id)
"""

PERFORMANCE = "SELECT * FROM performance"

VIOLATIONS = "SELECT * FROM invariant_violation LIMIT 5"

TOTALS = """
SELECT l.strategy_id, a.code, b.total FROM balance b JOIN asset a ON a.id = b.asset_id
  JOIN ledger_account l ON l.id = b.ledger_account_id WHERE l.strategy_id IS NOT NULL
"""


class ExactDesk:
    """The parts of a replay, each with its own money, at one trader's desk."""

    def __init__(self, connection: Connection, pool: Pool, bars: Bars, settings: Settings) -> None:
        self.connection = connection
        self.pool = pool
        self.bars = bars
        self.settings = settings
        self.seats: list[Seat] = []
        self.desk: Desk
        self.orders = 0
        """How many orders became rows."""

    async def open(self, parts: Sequence[Part]) -> None:
        """Write the rows that the settings and the parts stand for."""
        settings, rules = self.settings, rules_of(self.settings)
        values = {
            "name": IDENTITY.name,
            "base": BASE,
            "quote": QUOTE,
            "symbol": SYMBOL,
            "tick": rules.tick,
            "step": rules.step,
            "least": rules.min_quantity,
            "cost": settings.cost_min,
            "maker": rules.maker,
            "taker": rules.taker,
        }
        for statement in SETUP:
            await self.connection.execute(statement, values)
        for place, part in enumerate(parts):
            name = f"{IDENTITY.name}-{place + 1}" if place else IDENTITY.name
            self.seats.append(Seat(self.connection, self.bars, settings, part, name))
            await self.seats[-1].open()
        self.desk = Desk(uuid4(), self.pool, {seat.account: seat.exchange for seat in self.seats})
        self.desk.gate = Gate(self.pool, pause=0)

    async def play(self, replays: Sequence[Replay]) -> None:
        """Do what the replays of the seats want, step by step, all at once; each ends with its last `money`."""
        known = await self.money(dict.fromkeys(self.seats))
        going = {}
        for seat, replay in zip(self.seats, replays, strict=True):
            replay.money = known[seat]
            going[seat] = replay.go()
        wanted = {seat: await self._order(seat, steps.send, None) for seat, steps in going.items()}
        while orders := {seat: order for seat, order in wanted.items() if order is not None}:
            known = await self.trade(orders)
            wanted = {seat: await self._order(seat, going[seat].send, known[seat]) for seat in orders}

    async def _order(self, seat: Seat, send: Callable[[Any], Step], money: Any) -> Order | None:
        """The next order of a replay, after the deposits and withdrawals before it; None: it has ended."""
        try:
            step = send(money)
            while isinstance(step, Flow):
                await seat.flow(step.bar, step.amount)
                step = send((await self.money({seat: None}))[seat])
        except StopIteration:
            return None
        return step

    async def money(self, last: Mapping[Seat, int | None]) -> dict[Seat, Any]:
        """What is free and what is held; and status, reason and what was filled of the `last` order."""
        values = {"strategies": numbers(seat.strategy for seat in last), "orders": numbers(last.values())}
        rows = {row.strategy: row for row in await fetch_all(self.connection, MONEY, values)}
        return {seat: rows[seat.strategy] for seat in last}

    async def trade(self, orders: Mapping[Seat, Order]) -> dict[Seat, Any]:
        """Queue an order of each seat, let the trader claim, send and settle, and tell what came of each."""
        last = await self._queue(orders)
        for seat, order in orders.items():
            if order.taken_back:
                await self.connection.execute(CANCEL, [last[seat]])
            else:
                seat.venue.moment = seat.venue.open_of(order.bar + 1)
        await self.turn([seat for seat, order in orders.items() if order.side == "sell" or order.quantity is not None])
        known = await self.money(last)
        for money in known.values():
            if not money.final:
                raise DatabaseError(
                    f"order {money.order} is {money.status} after its turn: a market order has an end at once"
                )
        return known

    async def _queue(self, orders: Mapping[Seat, Order]) -> dict[Seat, int]:
        """Queue what was decided at the close of a bar; the orders' numbers."""
        quantities = [None if one.quantity is None else Decimal(repr(float(one.quantity))) for one in orders.values()]
        values = {
            "strategies": numbers(seat.strategy for seat in orders),
            "sides": texts(order.side for order in orders.values()),
            "moments": texts(seat.close_of(order.bar) for seat, order in orders.items()),
            "quantities": numbers(quantities),
        }
        rows = {row.strategy_id: row.id for row in await fetch_all(self.connection, QUEUE, values)}
        self.orders += len(rows)
        return {seat: rows[seat.strategy] for seat in orders}

    async def turn(self, asking: Sequence[Seat]) -> None:
        """The trader's turn. `asking`: whose order can only be sized with a price of now, so it has asked for one."""
        desk = self.desk
        if asking:  # two seconds of ours are days of the bars: what was asked before is stale
            desk.quotes = QuoteCache()
            await desk.quotes.refresh(desk.exchanges, [(seat.account, SYMBOL) for seat in asking])
        await asyncio.gather(*(send_lane(desk, lane) for lane in (await claim(desk)).lanes))
        outcomes = [queue.get_nowait() for queue in desk.outcomes for _ in range(queue.qsize())]
        if outcomes:
            await settle_in_transaction(desk.pool, outcomes)

    async def fills(self) -> list[Any]:
        """As they were booked, part after part."""
        return await fetch_all(self.connection, FILLS)

    async def posted(self) -> list[Any]:
        """What moved, in its order, from the ledger, part after part."""
        begun = numbers(order for seat in self.seats for order in seat.begun)
        return await fetch_all(self.connection, POSTED, {"base": BASE, "quote": QUOTE, "begun": begun})

    async def performance(self) -> Any:
        """The strategy's row of the view, at the last close; None if its parts have one each."""
        await self.seats[-1].candle(len(self.bars) - 1)
        return await fetch_one(self.connection, PERFORMANCE) if len(self.seats) == 1 else None

    async def problems(self, fills: int) -> list[str]:
        """What is wrong in the books, and between them and the venue's, which cuts each of so many fills to 1e-8."""
        found = [str(row) for row in await fetch_all(self.connection, VIOLATIONS)]
        rows = await fetch_all(self.connection, TOTALS)
        ours = {(row.strategy_id, row.code): row.total for row in rows}
        for seat in self.seats:
            for asset, theirs in (await seat.owned()).items():
                total = ours.get((seat.strategy, asset), Decimal(0))
                if abs(total - theirs) > UNIT * fills:
                    found.append(f"{asset}: the ledger has {total}, the venue {theirs}")
        return found


@asynccontextmanager
async def exact_desk(url: str, bars: Bars, settings: Settings, parts: Sequence[Part]) -> AsyncIterator[ExactDesk]:
    """A desk in an empty, migrated database, with a seat for each part."""
    async with direct(url, IDENTITY) as (connection, pool):
        desk = ExactDesk(connection, pool, bars, settings)
        await desk.open(parts)
        yield desk
