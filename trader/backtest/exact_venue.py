"""The venue of an exact replay: the simulator's own venue and matching engine, in this process, on the bars' clock.

What is the simulator's: accounts, rules, refusals, matching, fees, cuts to eight places, its state. What is ours is
only the market that it stands in: at each moment the book has one price on either side, the bar's own moved by the
settings' spread and slippage, as deep as they say. In the process and not over HTTP: a request by way of ccxt takes
some three milliseconds, and the road over HTTP has tests of its own.
"""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from typing import Literal, NoReturn

from trader.backtest.data import Bars
from trader.backtest.settings import UNIT, Settings
from trader.clock import from_milliseconds, to_milliseconds
from trader.errors import Refused
from trader.exchange.protocol import (
    AssetBalance,
    CandlePage,
    CandleWays,
    FillReport,
    MarketInfo,
    OrderReport,
    OrderRequest,
    PublicTrades,
    Side,
    Ticker,
    VenueStatus,
)
from trader.simulator.book import Book
from trader.simulator.market_clock import MarketClock
from trader.simulator.matching import Balance, Engine, Fill, Order
from trader.simulator.replay import Columns, Series
from trader.simulator.rules import Rules, Ticket, VenueError
from trader.simulator.store import Store
from trader.simulator.timeframe import TIMEFRAMES
from trader.simulator.venue import Market, Venue
from trader.strategy import Minimums

BASE, QUOTE = "BASE", "QUOTE"
SYMBOL = f"{BASE}/{QUOTE}"
ACCOUNT = "exact"
BOUNDLESS = Decimal("1e15")
"""How deep the book is, in base, and how much an order may be, where the settings say nothing."""
DIGITS = 15
"""A float keeps fifteen digits: what comes after them is noise."""

_STATUS: dict[str, VenueStatus] = {
    "NEW": "accepted",
    "PARTIALLY_FILLED": "partially_filled",
    "FILLED": "filled",
    "CANCELED": "canceled",
    "EXPIRED": "expired",
}
_FOREVER = (0, 2**62)


class BarVenue(Venue):
    """The simulator's venue at one market, whose book is what the settings make of the bars."""

    def __init__(self, bars: Bars, settings: Settings) -> None:
        self.settings = settings
        self.bars = bars
        self.moment = int(bars.opened[0])
        """Of the bars, in milliseconds: the clock of this venue."""
        self._seen = (-1, Decimal(0))
        columns = Columns(bars.opened, bars.open, bars.high, bars.low, bars.close, bars.volume)
        series = Series(columns, _base(bars), DIGITS)
        clock = MarketClock(0, 0)
        super().__init__(
            markets=[Market(rules_of(settings), series, synthetic=False)],
            secrets={},
            engine=Engine(),
            store=Store(":memory:"),
            clock=clock,
            wall=lambda: self.moment,
        )
        self.only = self.markets[BASE + QUOTE]

    def open_of(self, bar: int) -> int:
        """The first moment of a bar, in milliseconds."""
        return int(self.bars.opened[bar])

    def price(self, market: Market) -> Decimal:
        """The price at this moment, to the tick, as the simulator rounds it."""
        tick = market.rules.tick
        return max((self._raw(market) / tick).to_integral_value() * tick, tick)

    def book(self, market: Market) -> Book:
        """One price to buy at and one to sell at."""
        bid, ask = self.quote(market)
        depth = self._depth(market)
        return Book(((bid, depth),), ((ask, depth),)) if depth > 0 else Book((), ())

    def quote(self, market: Market) -> tuple[Decimal, Decimal]:
        """Bid and ask: the price moved by half the spread and the slippage, to the tick, against us."""
        return self._against_us("sell", market), self._against_us("buy", market)

    def _against_us(self, side: Side, market: Market) -> Decimal:
        settings, tick = self.settings, market.rules.tick
        share = settings.spread / 2 + settings.slippage
        moved = self._raw(market) * (1 + share if side == "buy" else 1 - share)
        rounded = (moved / tick).to_integral_value(ROUND_CEILING if side == "buy" else ROUND_FLOOR) * tick
        return max(rounded + tick * settings.slippage_ticks * (1 if side == "buy" else -1), tick)

    def _raw(self, market: Market) -> Decimal:
        if self._seen[0] != self.moment:
            self._seen = (self.moment, Decimal(f"{market.series.price(self.moment):.{DIGITS}g}"))
        return self._seen[1]

    def _depth(self, market: Market) -> Decimal:
        share = self.settings.volume_share
        if share is None:
            return BOUNDLESS
        volume = Decimal(repr(float(self.bars.volume[market.series.index(self.moment)])))
        offered = (volume * share).quantize(UNIT, ROUND_DOWN)
        return offered // market.rules.step * market.rules.step


def _base(bars: Bars) -> str:
    name = bars.timeframe.name
    if name not in TIMEFRAMES:
        raise Refused(f"the simulator has no candles of {name}; it has {', '.join(TIMEFRAMES)}")
    return name


def minimums_of(settings: Settings) -> Minimums:
    """The same rules as a decision looks at them."""
    rules = rules_of(settings)
    return Minimums(rules.min_quantity, rules.step, settings.cost_min)


def rules_of(settings: Settings) -> Rules:
    """The settings as a venue states them; what they leave out is as fine as eight places."""
    step = settings.quantity_step or UNIT
    return Rules(
        BASE,
        QUOTE,
        tick=settings.price_tick or UNIT,
        step=step,
        min_quantity=max(step, settings.quantity_min or step),
        max_quantity=BOUNDLESS,
        max_price=BOUNDLESS,
        min_notional=settings.cost_min or Decimal(0),
        maker=settings.maker,
        taker=settings.taker,
    )


class VenueExchange:
    """The protocol of an exchange, spoken to a venue in this process: what ccxt and HTTP do, without either."""

    def __init__(self, venue: BarVenue) -> None:
        self.venue = venue

    async def markets(self) -> list[MarketInfo]:
        rules = self.venue.only.rules
        steps = (rules.tick, rules.step, rules.min_quantity, rules.max_quantity, rules.min_notional or None)
        return [MarketInfo(SYMBOL, BASE, QUOTE, True, *steps, rules.maker, rules.taker, "get")]

    async def time(self) -> datetime:
        return from_milliseconds(self.venue.wall())

    @property
    def candle_ways(self) -> CandleWays:
        return CandleWays()

    async def candles(self, symbol: str, timeframe: str, since: datetime | None, limit: int) -> CandlePage:
        self._has_none("candles")

    async def ticker(self, symbol: str) -> Ticker:
        bid, ask = self.venue.quote(self.venue.only)
        return Ticker(symbol, bid, ask, self.venue.price(self.venue.only))

    async def tickers(self, symbols: Sequence[str]) -> list[Ticker]:
        return [await self.ticker(symbol) for symbol in symbols]

    async def trades(self, symbol: str, since: datetime, until: datetime) -> PublicTrades:
        self._has_none("other people's trades")

    async def balances(self) -> list[AssetBalance]:
        owned: dict[str, Balance] = self.venue.engine.balances.get(ACCOUNT, {})
        return [AssetBalance(name, one.free + one.locked, one.free, one.locked) for name, one in sorted(owned.items())]

    async def create(self, request: OrderRequest) -> OrderReport:
        try:
            change = self.venue.place(ACCOUNT, self.venue.only, _ticket(request))
        except VenueError as error:
            raise Refused(f"{error.code} {error.message}") from None
        return _report(change.order, change.fills)

    async def find(self, symbol: str, client_order_id: str, *, since: datetime | None = None) -> OrderReport | None:
        self.venue.advance()
        return self._found(self.venue.store.order_named(ACCOUNT, self.venue.only.rules.id, client_order_id))

    async def find_number(self, symbol: str, venue_order_id: str) -> OrderReport | None:
        self.venue.advance()
        return self._found(self.venue.store.order(ACCOUNT, int(venue_order_id)))

    async def cancel(self, symbol: str, venue_order_id: str) -> None:
        self.venue.advance()
        order = self.venue.engine.open.get(int(venue_order_id))
        if order is None:
            raise Refused("-2011 Unknown order sent.")
        self.venue.cancel(order)

    async def open_orders(self, symbol: str | None = None) -> list[OrderReport]:
        self.venue.advance()
        return [_report(order, []) for order in self.venue.engine.open_orders(ACCOUNT)]

    async def fills(
        self, symbol: str, *, venue_order_id: str | None = None, since: datetime | None = None
    ) -> list[FillReport]:
        self.venue.advance()
        number = None if venue_order_id is None else int(venue_order_id)
        span = (0 if since is None else to_milliseconds(since), _FOREVER[1])
        found = self.venue.store.trades(ACCOUNT, self.venue.only.rules.id, number, 0, span, 2**31)
        return [_fill(fill) for fill in found]

    async def executions(self) -> AsyncGenerator[list[OrderReport], None] | None:
        return None

    async def close(self) -> None:
        self.venue.store.close()

    def _found(self, order: Order | None) -> OrderReport | None:
        if order is None:
            return None
        market = self.venue.only.rules.id
        return _report(order, self.venue.store.trades(ACCOUNT, market, order.id, 0, _FOREVER, 2**31))

    def _has_none(self, what: str) -> NoReturn:
        raise Refused(f"the venue of a replay shows no {what}: the bars are known already")


def _ticket(request: OrderRequest) -> Ticket:
    kind: Literal["MARKET", "LIMIT", "LIMIT_MAKER"] = "MARKET" if request.type == "market" else "LIMIT"
    force: Literal["GTC", "IOC", "FOK"] = "GTC"
    if request.time_in_force == "PO":
        kind = "LIMIT_MAKER"
    else:
        force = request.time_in_force
    return Ticket(
        request.client_order_id,
        "BUY" if request.side == "buy" else "SELL",
        kind,
        request.quantity,
        request.quote_quantity,
        request.limit_price,
        force,
    )


def _report(order: Order, fills: Sequence[Fill]) -> OrderReport:
    return OrderReport(
        str(order.id),
        order.client_order_id,
        SYMBOL,
        _STATUS[order.status],
        order.filled,
        tuple(_fill(fill) for fill in fills),
        side="buy" if order.side == "BUY" else "sell",
        type=order.type.lower(),
        quantity=order.quantity,
        limit_price=order.price or None,
    )


def _fill(fill: Fill) -> FillReport:
    return FillReport(
        str(fill.id),
        str(fill.order_id),
        "buy" if fill.side == "BUY" else "sell",
        fill.quantity,
        fill.price,
        fill.fee,
        fill.fee_asset,
        "maker" if fill.maker else "taker",
        from_milliseconds(fill.time),
    )
