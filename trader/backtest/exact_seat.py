"""A seat at the desk of an exact replay: one part's strategy with its own account, at a venue of its own time."""

from decimal import Decimal
from typing import Any

import psycopg

from trader.backtest.data import Bars
from trader.backtest.exact_part import Part
from trader.backtest.exact_venue import ACCOUNT, BASE, QUOTE, BarVenue, VenueExchange
from trader.backtest.settings import Settings
from trader.clock import from_milliseconds
from trader.db import Connection, fetch_one, first_line
from trader.errors import InputError
from trader.simulator.rules import VenueError

RESERVE = Decimal("0.01")
"""Quote at the venue that is nobody's. A venue cuts what a fill is worth to eight places and the ledger does not, so
that a strategy may think that it has 1e-8 more than there is; an account with nothing else would be refused then."""

ACCOUNT_ROW = """
INSERT INTO account (name, exchange_id, mode) SELECT %(name)s, id, 'simulator' FROM exchange RETURNING id
"""

STRATEGY_ROW = """
INSERT INTO strategy (name, account_id, unit_id, market_id, timeframe_id, stake, stake_unit)
SELECT %(name)s, %(account)s, m.quote_id, m.id, %(timeframe)s, %(stake)s, %(unit)s FROM market m RETURNING id
"""

FLOW = "INSERT INTO orders (strategy, type, asset, quantity) VALUES (%s, %s, %s, %s) RETURNING id"

CANDLE = """
INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
SELECT id, %s, %s, %s, %s, %s, %s, %s, 'imported' FROM market ON CONFLICT DO NOTHING
"""


class Seat:
    """One strategy, its account and its venue, whose clock stands where this part of the bars is."""

    def __init__(self, connection: Connection, bars: Bars, settings: Settings, part: Part, name: str) -> None:
        self.connection = connection
        self.bars = bars
        self.settings = settings
        self.part = part
        self.name = name
        self.venue = BarVenue(bars, settings)
        self.exchange = VenueExchange(self.venue)
        self.account = self.strategy = 0
        self.begun: list[int] = []
        """Numbers of the deposits that it began with: none for the first part."""
        self.flows: dict[int, tuple[int, float]] = {}
        """By the number of its order: the bar at whose close a deposit or withdrawal counts, and its amount."""

    async def open(self) -> None:
        """Write its rows, with what the part begins with."""
        settings, part = self.settings, self.part
        values: dict[str, Any] = {"name": self.name, "timeframe": self.bars.timeframe.id, "stake": settings.stake}
        values["account"] = self.account = (await fetch_one(self.connection, ACCOUNT_ROW, values)).id
        values["unit"] = "%" if settings.stake_in_percent else QUOTE
        self.strategy = (await fetch_one(self.connection, STRATEGY_ROW, values)).id
        self.venue.credit(ACCOUNT, QUOTE, RESERVE)
        for asset, amount in ((QUOTE, part.cash), (BASE, part.holding)):
            if amount:
                self.begun.append(await self._move(part.first - 1, asset, amount))

    async def flow(self, bar: int, amount: Decimal) -> None:
        """A deposit or withdrawal at the close of a bar, at the venue and as a row.

        Raises InputError if more is taken than is free.
        """
        try:
            self.flows[await self._move(bar, QUOTE, amount)] = (bar, float(amount))
        except (VenueError, psycopg.errors.CheckViolation) as error:
            why = first_line(error)
            raise InputError(f"a withdrawal of {-amount} at {self.bars.moment(bar)}: {why}") from None

    async def _move(self, bar: int, asset: str, amount: Decimal) -> int:
        await self.candle(bar)
        self.venue.moment = int(self.bars.time[bar])
        self.venue.credit(ACCOUNT, asset, amount)
        kind = "deposit" if amount > 0 else "withdrawal"
        return int((await fetch_one(self.connection, FLOW, [self.name, kind, asset, abs(amount)])).id)

    async def candle(self, bar: int) -> None:
        """Store a bar: views tell what a strategy is worth by the last close."""
        bars = self.bars
        prices = (float(column[bar]) for column in (bars.open, bars.high, bars.low, bars.close, bars.volume))
        await self.connection.execute(CANDLE, [bars.timeframe.id, self.close_of(bar), *prices])

    def close_of(self, bar: int) -> Any:
        """When a bar closes."""
        return from_milliseconds(int(self.bars.time[bar]))

    async def owned(self) -> dict[str, Decimal]:
        """What the venue has of the strategy's, by asset."""
        found = {one.asset: one.total for one in await self.exchange.balances()}
        return {BASE: found.get(BASE, Decimal(0)), QUOTE: found.get(QUOTE, Decimal(0)) - RESERVE}
