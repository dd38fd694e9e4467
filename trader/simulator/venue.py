"""The venue: engine, candles, clocks and state file put together. Everything here happens in one thread."""

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from trader.simulator.book import Book, BookShape, make_book, resting_liquidity
from trader.simulator.decimals import ZERO
from trader.simulator.hidden import Hidden
from trader.simulator.market_clock import MarketClock
from trader.simulator.matching import Balance, Change, Engine, Moment, Order
from trader.simulator.replay import Series
from trader.simulator.rules import Rules, Ticket, VenueError, check
from trader.simulator.store import Store

BOOKS_KEPT = 1000


@dataclass(slots=True)
class Market:
    """One pair: its rules, its history, and how far its resting orders have been carried along."""

    rules: Rules
    series: Series
    synthetic: bool
    pinned: Decimal | None = None
    pin_round: int = 0
    advanced: int = 0
    drawn: dict[int, str] = field(default_factory=dict)
    books: deque[tuple[int, Decimal, Book]] = field(default_factory=lambda: deque(maxlen=BOOKS_KEPT))
    """Update number, price and book, newest last: streams need every one that a snapshot may have shown."""
    hidden: Hidden = field(default_factory=Hidden)
    """Candles and trades that it does not show over HTTP. Not kept in the state file."""


class Venue:
    """What every request acts on. `wall` gives wall time in milliseconds."""

    def __init__(
        self,
        *,
        markets: list[Market],
        secrets: dict[str, str],
        engine: Engine,
        store: Store,
        clock: MarketClock,
        wall: Callable[[], int],
        seed: int = 0,
        shape: BookShape | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.markets = {market.rules.id: market for market in markets}
        self.secrets = secrets
        self.engine = engine
        self.store = store
        self.clock = clock
        self.wall = wall
        self.seed = seed
        self.shape = shape or BookShape()
        self.notes = notes
        """What a person should know before the first request."""
        self.listeners: list[Callable[[Change], None]] = []
        self.deposit_listeners: list[Callable[[str, str, Decimal, Balance], None]] = []
        self._restore()

    def _restore(self) -> None:
        """Bring back what was committed: a killed simulator has forgotten nothing that it acknowledged."""
        self.engine.balances = self.store.balances()
        self.engine.next_order = self.store.last_order_id() + 1
        self.engine.next_trade = {market: last + 1 for market, last in self.store.trade_counts().items()}
        now = self.clock.now(self.wall())
        for market in self.markets.values():
            market.advanced = now
        for order in self.store.open_orders():
            self.engine.adopt(order)
            market = self.markets[order.market]
            market.advanced = min(market.advanced, order.market_time)

    def market(self, market_id: str) -> Market:
        if market_id not in self.markets:
            raise VenueError(-1121, "Invalid symbol.")
        return self.markets[market_id]

    def now(self) -> int:
        """Market time in milliseconds."""
        return self.clock.now(self.wall())

    def price(self, market: Market) -> Decimal:
        """The market price at this moment, a multiple of the tick."""
        if market.pinned is not None:
            return market.pinned
        return _to_tick(market.series.price(self.now()), market.rules)

    def book(self, market: Market) -> Book:
        """The order book at this moment. Its update number moves with the price."""
        price = self.price(market)
        if not market.books or market.books[-1][1] != price:
            number = market.books[-1][0] + 1 if market.books else 1
            market.books.append((number, price, make_book(market.rules, price, self.seed, self.shape)))
        return market.books[-1][2]

    def place(self, account: str, market: Market, ticket: Ticket, part: Decimal | None = None) -> Change:
        """Accept an order, match it and commit it (VenueError if it is refused)."""
        self.advance()
        check(market.rules, ticket, self.price(market))
        change = self.engine.place(account, market.rules, ticket, self.book(market), self._moment(), part)
        self._commit([change])
        return change

    def cancel(self, order: Order) -> Change:
        """Cancel an order of `engine.open`."""
        change = self.engine.cancel(order, self.markets[order.market].rules, self.wall())
        self._commit([change])
        return change

    def credit(self, account: str, asset: str, delta: Decimal) -> Balance:
        """Deposit or withdraw (VenueError if more than is free is withdrawn)."""
        balance = self.engine.credit(account, asset, delta)
        self.store.save_balances(account, {asset: balance})
        for listener in self.deposit_listeners:
            listener(account, asset, delta, balance)
        return balance

    def advance(self) -> None:
        """Carry resting orders along to the present: they fill where the market has crossed them."""
        now = self._moment()
        for market in self.markets.values():
            if self.engine.open:
                self._advance_market(market, now)
            else:
                market.advanced = now.market

    def pin(self, market: Market, price: Decimal | None) -> None:
        """Hold the market price where a test wants it, or let it go (None). Every pin is one chance to fill."""
        self.advance()
        market.pinned = price
        market.pin_round += 1
        market.advanced = self.now()
        if price is not None:
            self._cross(market, price, price, f"pin{market.pin_round}", self._moment())

    def set_clock(self, *, speed: float | None = None, advance_milliseconds: int = 0) -> None:
        """Change the pace of the market clock, or jump ahead, and keep that in the state file."""
        if speed is not None:
            self.clock.set_speed(self.wall(), speed)
        if advance_milliseconds:
            self.clock.advance(self.wall(), advance_milliseconds)
        self.store.set_meta("clock", self.clock.state())
        self.advance()

    def _moment(self) -> Moment:
        wall = self.wall()
        return Moment(wall, self.clock.now(wall))

    def _advance_market(self, market: Market, now: Moment) -> None:
        if now.market <= market.advanced:
            return
        after, market.advanced = market.advanced, now.market
        if market.pinned is None:
            low, high = (_to_tick(x, market.rules) for x in market.series.extremes(after, now.market))
            self._cross(market, low, high, str(market.series.index(now.market)), now)

    def _cross(self, market: Market, low: Decimal, high: Decimal, occasion: str, now: Moment) -> None:
        """Each order gets one helping of liquidity per occasion (a candle of the market, or a pin)."""

        def offered(order: Order) -> Decimal:
            if market.drawn.get(order.id) == occasion:
                return ZERO
            market.drawn[order.id] = occasion
            key = f"{order.id}:{occasion}"
            return resting_liquidity(order.remaining, market.rules, order.price, self.seed, key)

        changes = self.engine.cross(market.rules, low, high, offered, now)
        if changes:
            market.drawn = {number: seen for number, seen in market.drawn.items() if number in self.engine.open}
            self._commit(changes)

    def _commit(self, changes: list[Change]) -> None:
        try:
            self.store.save(changes, self.engine.balances)
        except sqlite3.Error as error:  # memory is now ahead of the file: going on would acknowledge what is not kept
            raise SystemExit(f"state file {self.store.path} cannot be written: {error}") from None
        for change in changes:
            for listener in self.listeners:
                listener(change)


def _to_tick(price: float, rules: Rules) -> Decimal:
    exact = Decimal(f"{price:.8f}")
    return max((exact / rules.tick).to_integral_value() * rules.tick, rules.tick)
