"""The desk of an exact replay: rows, the trader's own steps on them, and what the ledger says afterwards.

The orders go the way of every order: queued as a row, claimed, sized, held, sent and settled by the functions that a
trader process runs, in its order. What is left out is only what a process does to wait: one strategy has one order at
a time, so the next step follows at once.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from uuid import uuid4

from trader.backtest.data import Bars
from trader.backtest.exact_connection import direct
from trader.backtest.exact_venue import ACCOUNT, BASE, QUOTE, SYMBOL, BarVenue, VenueExchange
from trader.backtest.settings import UNIT, Settings
from trader.clock import from_milliseconds
from trader.db import Connection, Identity, Pool, fetch_all, fetch_one
from trader.exchange.protocol import Side
from trader.gate import Gate
from trader.market_quote import QuoteCache
from trader.trader import Desk, claim, send_lane, settle_in_transaction

IDENTITY = Identity("trader", "exact")
RESERVE = Decimal("0.01")
"""Quote at the venue that is nobody's. A venue cuts what a fill is worth to eight places and the ledger does not, so
that a strategy may think that it has 1e-8 more than there is; an account with nothing else would be refused then."""

SETUP = (
    "INSERT INTO asset (code) VALUES (%(base)s), (%(quote)s)",
    "INSERT INTO exchange (name, ccxt_id, replay) VALUES (%(name)s, %(name)s, true)",
    "INSERT INTO account (name, exchange_id, mode) SELECT %(name)s, id, 'simulator' FROM exchange",
    """
INSERT INTO market (exchange_id, symbol, base_id, quote_id, price_tick, quantity_step, quantity_min, cost_min,
                    maker_fee, taker_fee, fee_side)
SELECT e.id, %(symbol)s, b.id, q.id, %(tick)s, %(step)s, %(least)s, %(cost)s, %(maker)s, %(taker)s, 'get'
  FROM exchange e, asset b, asset q WHERE b.code = %(base)s AND q.code = %(quote)s
""",
    """
INSERT INTO strategy (name, account_id, unit_id, market_id, timeframe_id, stake, stake_unit)
SELECT %(name)s, a.id, m.quote_id, m.id, %(timeframe)s, %(stake)s, %(unit)s FROM account a, market m
""",
)

IDS = "SELECT s.id AS strategy, s.market_id AS market, a.id AS account FROM strategy s JOIN account a ON true"

FLOW = "INSERT INTO orders (strategy, type, asset, quantity) VALUES (%s, %s, %s, %s) RETURNING id"

CANDLE = """
INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 'imported') ON CONFLICT DO NOTHING
"""

# As a strategy's run reads it; and what became of its last order.
MONEY = """
SELECT coalesce(q.total - q.held, 0) AS free, coalesce(b.total, 0) AS holding,
       p.cost / nullif(p.quantity, 0) AS average_cost,
       o.status::text, o.reason, o.filled_quantity, coalesce(order_is_final(o.status), true) AS final
  FROM strategy s
  JOIN market m ON m.id = s.market_id
  JOIN ledger_account l ON l.strategy_id = s.id
  LEFT JOIN balance q ON q.ledger_account_id = l.id AND q.asset_id = m.quote_id
  LEFT JOIN balance b ON b.ledger_account_id = l.id AND b.asset_id = m.base_id
  LEFT JOIN position p ON p.strategy_id = s.id AND p.market_id = m.id
  LEFT JOIN "order" o ON o.id = %s
 WHERE s.id = %s
"""

# As a strategy's run queues it. A candle that has its order already would be an error here.
QUEUE = """
INSERT INTO "order" (strategy_id, type, side, market_id, bucket_time, quantity)
VALUES (%(strategy)s, 'market', %(side)s, %(market)s, %(time_close)s, %(quantity)s)
RETURNING id
"""

CANCEL = "UPDATE orders SET cancel_requested_at = clock_timestamp() WHERE id = %s"

FILLS = """
SELECT f.order_id, o.bucket_time, f.side::text, f.traded_at, f.price, f.quantity, f.quote, f.fee, a.code AS fee_asset,
       f.liquidity::text, f.id
  FROM fill f JOIN "order" o ON o.id = f.order_id JOIN asset a ON a.id = f.fee_asset_id ORDER BY f.id
"""

# What each fill, deposit and withdrawal moved, as it was posted.
POSTED = """
SELECT p.order_id, p.fill_id, coalesce(sum(p.delta) FILTER (WHERE a.code = %(quote)s), 0) AS quote,
       coalesce(sum(p.delta) FILTER (WHERE a.code = %(base)s), 0) AS base
  FROM (SELECT id, order_id, fill_id, asset_id, -quantity AS delta, from_id AS account FROM ledger
        UNION ALL SELECT id, order_id, fill_id, asset_id, quantity, to_id FROM ledger) p
  JOIN ledger_account l ON l.id = p.account AND l.strategy_id = %(strategy)s
  JOIN asset a ON a.id = p.asset_id
 GROUP BY 1, 2 ORDER BY min(p.id)
"""

PERFORMANCE = "SELECT * FROM performance"

VIOLATIONS = "SELECT * FROM invariant_violation LIMIT 5"

TOTALS = """
SELECT a.code, sum(b.total) AS total FROM balance b JOIN asset a ON a.id = b.asset_id
  JOIN ledger_account l ON l.id = b.ledger_account_id WHERE l.strategy_id = %s GROUP BY 1
"""


class ExactDesk:
    """One strategy with its own money, at a venue that stands in the bars."""

    def __init__(self, connection: Connection, pool: Pool, bars: Bars, settings: Settings) -> None:
        self.connection = connection
        self.pool = pool
        self.bars = bars
        self.settings = settings
        self.venue = BarVenue(bars, settings)
        self.exchange = VenueExchange(self.venue)
        self.desk: Desk
        self.strategy = self.market = self.account = 0

    async def database(self) -> str:
        """The name of its database."""
        return str((await fetch_one(self.connection, "SELECT current_database() AS name")).name)

    async def open(self) -> None:
        """Write the rows that the settings stand for."""
        settings, rules = self.settings, self.venue.only.rules
        values = {
            "name": ACCOUNT,
            "base": BASE,
            "quote": QUOTE,
            "symbol": SYMBOL,
            "tick": rules.tick,
            "step": rules.step,
            "least": rules.min_quantity,
            "cost": settings.cost_min,
            "maker": rules.maker,
            "taker": rules.taker,
            "timeframe": self.bars.timeframe.id,
            "stake": settings.stake,
            "unit": "%" if settings.stake_in_percent else QUOTE,
        }
        self.venue.credit(ACCOUNT, QUOTE, RESERVE)
        for statement in SETUP:
            await self.connection.execute(statement, values)
        ids = await fetch_one(self.connection, IDS)
        self.strategy, self.market, self.account = ids.strategy, ids.market, ids.account
        self.desk = Desk(uuid4(), self.pool, {self.account: self.exchange})
        self.desk.gate = Gate(self.pool, pause=0)

    async def flow(self, bar: int, amount: Decimal) -> int:
        """A deposit or withdrawal at the close of a bar, at the venue and as a row; the number of its order.

        Raises VenueError or psycopg.Error if more is taken than is free.
        """
        await self.candle(bar)
        self.venue.moment = int(self.bars.time[bar])
        self.venue.credit(ACCOUNT, QUOTE, amount)
        kind = "deposit" if amount > 0 else "withdrawal"
        return int((await fetch_one(self.connection, FLOW, [ACCOUNT, kind, QUOTE, abs(amount)])).id)

    async def candle(self, bar: int) -> None:
        """Store a bar: views tell what a strategy is worth by the last close."""
        bars = self.bars
        prices = (float(column[bar]) for column in (bars.open, bars.high, bars.low, bars.close, bars.volume))
        await self.connection.execute(CANDLE, [self.market, bars.timeframe.id, self.close_of(bar), *prices])

    def close_of(self, bar: int) -> Any:
        return from_milliseconds(int(self.bars.time[bar]))

    async def money(self, order: int | None = None) -> Any:
        """What is free and what is held; and status, reason and what was filled of an order."""
        return await fetch_one(self.connection, MONEY, [order, self.strategy])

    def price_of(self, bar: int) -> Decimal:
        """The close of a bar, as a strategy's run reads it."""
        return Decimal(repr(float(self.bars.close[bar])))

    async def queue(self, bar: int, side: Side, quantity: float | None = None) -> int:
        """Queue what was decided at the close of a bar; the order's number. Without a quantity the trader sizes it."""
        values = {"strategy": self.strategy, "market": self.market, "side": side, "time_close": self.close_of(bar)}
        values["quantity"] = None if quantity is None else Decimal(repr(float(quantity)))
        return int((await fetch_one(self.connection, QUEUE, values)).id)

    async def cancel(self, order: int) -> None:
        """Ask for the end of an order that was not sent yet."""
        await self.connection.execute(CANCEL, [order])

    async def trade(self, moment: int, *, asks: bool) -> None:
        """Let the trader take its steps at a moment of the bars, in milliseconds: claim, send, settle.

        `asks`: it can only size its order with a price of now, so it has asked for one.
        """
        self.venue.moment = moment
        desk = self.desk
        if asks:  # two seconds of ours are days of the bars: what was asked before is stale
            desk.quotes = QuoteCache()
            await desk.quotes.refresh(desk.exchanges, [(self.account, SYMBOL)])
        for lane in (await claim(desk)).lanes:
            await send_lane(desk, lane)
        outcomes = [queue.get_nowait() for queue in desk.outcomes for _ in range(queue.qsize())]
        if outcomes:
            await settle_in_transaction(desk.pool, outcomes)

    async def fills(self) -> list[Any]:
        return await fetch_all(self.connection, FILLS)

    async def posted(self) -> list[Any]:
        """What moved, in its order, from the ledger."""
        return await fetch_all(self.connection, POSTED, {"strategy": self.strategy, "base": BASE, "quote": QUOTE})

    async def performance(self) -> Any:
        """The strategy's row of the view, at the last close."""
        await self.candle(len(self.bars) - 1)
        return await fetch_one(self.connection, PERFORMANCE)

    async def problems(self, fills: int) -> list[str]:
        """What is wrong in the books, and between them and the venue's, which cuts each of so many fills to 1e-8."""
        found = [str(row) for row in await fetch_all(self.connection, VIOLATIONS)]
        ours = {row.code: row.total for row in await fetch_all(self.connection, TOTALS, [self.strategy])}
        theirs = {one.asset: one.total for one in await self.exchange.balances()}
        theirs[QUOTE] -= RESERVE
        for asset in (BASE, QUOTE):
            apart = abs(ours.get(asset, Decimal(0)) - theirs.get(asset, Decimal(0)))
            if apart > UNIT * fills:
                found.append(f"{asset}: the ledger has {ours.get(asset)}, the venue {theirs.get(asset)}")
        return found


@asynccontextmanager
async def exact_desk(url: str, bars: Bars, settings: Settings) -> AsyncIterator[ExactDesk]:
    """A desk in an empty, migrated database."""
    async with direct(url, IDENTITY) as (connection, pool):
        desk = ExactDesk(connection, pool, bars, settings)
        await desk.open()
        yield desk
