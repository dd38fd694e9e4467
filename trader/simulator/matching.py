"""The matching engine: accounts, open orders and fills. Pure: no clock, file or network."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from trader.simulator.book import Book, Level
from trader.simulator.decimals import ZERO, floor_to, money
from trader.simulator.rules import OrderType, Rules, Side, Ticket, TimeInForce, VenueError

INSUFFICIENT = "Account has insufficient balance for requested action."


@dataclass(slots=True)
class Balance:
    """What an account owns of an asset: `locked` is reserved by its open orders."""

    free: Decimal = ZERO
    locked: Decimal = ZERO


@dataclass(slots=True)
class Order:
    """An order that the venue has accepted. `locked` is what it still reserves of the asset that it gives."""

    id: int
    account: str
    market: str
    client_order_id: str
    side: Side
    type: OrderType
    time_in_force: TimeInForce
    quantity: Decimal
    quote_quantity: Decimal
    price: Decimal
    status: str
    filled: Decimal
    cost: Decimal
    locked: Decimal
    created: int
    updated: int
    market_time: int

    @property
    def remaining(self) -> Decimal:
        return self.quantity - self.filled


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution. `fee` is in `fee_asset`; ids are unique per market."""

    id: int
    order_id: int
    account: str
    market: str
    side: Side
    price: Decimal
    quantity: Decimal
    cost: Decimal
    fee: Decimal
    fee_asset: str
    maker: bool
    time: int


@dataclass(slots=True)
class Change:
    """What one act did: the order as it stands, its new fills, and the account's assets that moved."""

    order: Order
    cause: str
    fills: list[Fill] = field(default_factory=list)
    assets: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Moment:
    """When an act happens: wall time for the order, market time for the price it met. Milliseconds."""

    wall: int
    market: int


class Engine:
    """Every account and every open order. Closed orders leave it; the store keeps them."""

    def __init__(self, fee_asset: str | None = None, fee_asset_price: Decimal = Decimal(300)) -> None:
        self.fee_asset = fee_asset
        self.fee_asset_price = fee_asset_price
        self.balances: dict[str, dict[str, Balance]] = {}
        self.open: dict[int, Order] = {}
        self.next_order = 1
        self.next_trade: dict[str, int] = {}
        self._open_names: set[tuple[str, str]] = set()

    def balance(self, account: str, asset: str) -> Balance:
        return self.balances.setdefault(account, {}).setdefault(asset, Balance())

    def credit(self, account: str, asset: str, delta: Decimal) -> Balance:
        """Deposit, or withdraw a negative `delta` out of what is free (VenueError -2010 if that is too little)."""
        balance = self.balance(account, asset)
        if balance.free + delta < ZERO:
            raise VenueError(-2010, INSUFFICIENT)
        balance.free += delta
        return balance

    def open_orders(self, account: str | None = None, market: str | None = None) -> list[Order]:
        orders = self.open.values()
        return [o for o in orders if account in (None, o.account) and market in (None, o.market)]

    def place(
        self, account: str, rules: Rules, ticket: Ticket, book: Book, now: Moment, part: Decimal | None
    ) -> Change:
        """Accept an order and fill what the book offers (only `part` of it if given). VenueError if it is refused."""
        self._refuse_duplicate(account, ticket)
        plan = _plan(rules, ticket, book)
        if ticket.type == "LIMIT_MAKER" and plan:
            raise VenueError(-2010, "Order would immediately match and take.")
        if ticket.time_in_force == "FOK" and ticket.quantity and _total(plan) < ticket.quantity:
            plan = []
        quantity = ticket.quantity if ticket.quantity is not None else _total(plan)
        locked = self._lock(account, rules, ticket, plan)
        if part is not None:
            plan = _cut(plan, floor_to(_total(plan) * part, rules.step))
        order = self._new_order(account, rules, ticket, quantity, locked, now)
        change = Change(order, "NEW", assets={rules.base, rules.quote})
        for price, amount in plan:
            self._fill(change, rules, price, amount, maker=False, wall=now.wall)
        self._settle_rest(order, rules, ticket)
        return change

    def cancel(self, order: Order, rules: Rules, wall: int) -> Change:
        """Take an open order off the book and give back what it reserved."""
        self._close(order, rules, "CANCELED", wall)
        return Change(order, "CANCELED", assets={rules.base, rules.quote})

    def cross(
        self, rules: Rules, low: Decimal, high: Decimal, offered: Callable[[Order], Decimal], now: Moment
    ) -> list[Change]:
        """Fill the resting orders whose price lies within what the market did; `offered` says how much of each."""
        changes = []
        for order in self.open_orders(market=rules.id):
            if (low <= order.price) if order.side == "BUY" else (high >= order.price):
                quantity = min(offered(order), order.remaining)
                if quantity > ZERO:
                    change = Change(order, "TRADE", assets={rules.base, rules.quote})
                    order.market_time = now.market
                    self._fill(change, rules, order.price, quantity, maker=True, wall=now.wall)
                    changes.append(change)
        return changes

    def _refuse_duplicate(self, account: str, ticket: Ticket) -> None:
        """Binance keeps client ids unique among open orders only: after a fill the id may be used again."""
        if (account, ticket.client_order_id) in self._open_names:
            raise VenueError(-2010, "Duplicate order sent.")

    def _lock(self, account: str, rules: Rules, ticket: Ticket, plan: list[Level]) -> Decimal:
        if ticket.side == "SELL":
            asset, needed = rules.base, ticket.quantity if ticket.quantity is not None else _total(plan)
        elif ticket.type == "MARKET":
            asset, needed = rules.quote, sum((money(price * quantity) for price, quantity in plan), ZERO)
            needed = max(needed, ticket.quote_quantity or ZERO)
        else:
            asset, needed = rules.quote, money((ticket.price or ZERO) * (ticket.quantity or ZERO))
        balance = self.balance(account, asset)
        if needed > balance.free:
            raise VenueError(-2010, INSUFFICIENT)
        balance.free -= needed
        balance.locked += needed
        return needed

    def _new_order(
        self, account: str, rules: Rules, ticket: Ticket, quantity: Decimal, locked: Decimal, now: Moment
    ) -> Order:
        order = Order(
            id=self.next_order,
            account=account,
            market=rules.id,
            client_order_id=ticket.client_order_id,
            side=ticket.side,
            type=ticket.type,
            time_in_force=ticket.time_in_force,
            quantity=quantity,
            quote_quantity=ticket.quote_quantity or ZERO,
            price=ticket.price or ZERO,
            status="NEW",
            filled=ZERO,
            cost=ZERO,
            locked=locked,
            created=now.wall,
            updated=now.wall,
            market_time=now.market,
        )
        self.next_order += 1
        self.adopt(order)
        return order

    def adopt(self, order: Order) -> None:
        """Put an open order on the book as it stands (a restart brings back what was committed)."""
        self.open[order.id] = order
        self._open_names.add((order.account, order.client_order_id))

    def _fill(self, change: Change, rules: Rules, price: Decimal, quantity: Decimal, *, maker: bool, wall: int) -> None:
        order = change.order
        cost = money(price * quantity)
        order.filled += quantity
        order.cost += cost
        order.status = "FILLED" if order.remaining == ZERO else "PARTIALLY_FILLED"
        order.updated = wall
        self._pay(order, rules, quantity, cost)
        fee, fee_asset = self._charge(order, rules, quantity, cost, maker=maker)
        change.assets.add(fee_asset)
        trade = self.next_trade.get(rules.id, 1)
        self.next_trade[rules.id] = trade + 1
        change.fills.append(
            Fill(
                trade, order.id, order.account, rules.id, order.side, price, quantity, cost, fee, fee_asset, maker, wall
            )
        )
        if order.status == "FILLED":
            self._close(order, rules, "FILLED", wall)

    def _pay(self, order: Order, rules: Rules, quantity: Decimal, cost: Decimal) -> None:
        """Take what was sold out of the reservation; a better price than the limit gives the difference back."""
        spent = cost if order.side == "BUY" else quantity
        reserved = money(order.price * quantity) if order.side == "BUY" and order.price else spent
        balance = self.balance(order.account, rules.quote if order.side == "BUY" else rules.base)
        balance.locked -= reserved
        balance.free += reserved - spent
        order.locked -= reserved

    def _charge(
        self, order: Order, rules: Rules, quantity: Decimal, cost: Decimal, *, maker: bool
    ) -> tuple[Decimal, str]:
        """Credit what was bought less the fee, or take the fee from the fee asset while its balance lasts."""
        rate = rules.maker if maker else rules.taker
        asset, received = (rules.base, quantity) if order.side == "BUY" else (rules.quote, cost)
        if self.fee_asset:
            purse = self.balance(order.account, self.fee_asset)
            fee = money(cost * rate / self.fee_asset_price)
            if fee <= purse.free and self.fee_asset not in (rules.base, rules.quote):
                purse.free -= fee
                self.balance(order.account, asset).free += received
                return fee, self.fee_asset
        fee = money(received * rate)
        self.balance(order.account, asset).free += received - fee
        return fee, asset

    def _settle_rest(self, order: Order, rules: Rules, ticket: Ticket) -> None:
        """After the first match: a limit order good till cancelled stays; whatever else is left expires."""
        if order.id not in self.open:
            return
        if ticket.type == "MARKET" or ticket.time_in_force != "GTC":
            self._close(order, rules, "EXPIRED", order.updated)

    def _close(self, order: Order, rules: Rules, status: str, wall: int) -> None:
        balance = self.balance(order.account, rules.quote if order.side == "BUY" else rules.base)
        balance.locked -= order.locked
        balance.free += order.locked
        order.locked = ZERO
        order.status = status
        order.updated = wall
        self.open.pop(order.id, None)
        self._open_names.discard((order.account, order.client_order_id))


def _plan(rules: Rules, ticket: Ticket, book: Book) -> list[Level]:
    """Which levels of the book the order takes, best first."""
    levels = book.asks if ticket.side == "BUY" else book.bids
    if ticket.quantity is None and levels:
        _refuse_too_little(rules, ticket.quote_quantity or ZERO, levels[0][0])
    if ticket.price is not None:
        limit = ticket.price
        levels = tuple(x for x in levels if (x[0] <= limit if ticket.side == "BUY" else x[0] >= limit))
    if ticket.quantity is not None:
        return _cut(levels, ticket.quantity)
    return _spend(levels, ticket.quote_quantity or ZERO, rules.step)


def _refuse_too_little(rules: Rules, quote: Decimal, price: Decimal) -> None:
    """An order by quote breaks no rule for quantities either: what it would buy must be one that may be ordered."""
    if floor_to(quote / price, rules.step) < rules.min_quantity:
        raise VenueError(-1013, "Filter failure: LOT_SIZE")


def _cut(levels: Iterable[Level], quantity: Decimal) -> list[Level]:
    taken = []
    for price, offered in levels:
        amount = min(offered, quantity)
        if amount <= ZERO:
            break
        taken.append((price, amount))
        quantity -= amount
    return taken


def _spend(levels: Iterable[Level], quote: Decimal, step: Decimal) -> list[Level]:
    """Take levels for at most `quote`, in whole steps."""
    taken = []
    for price, offered in levels:
        amount = min(offered, floor_to(quote / price, step))
        if amount <= ZERO:
            break
        taken.append((price, amount))
        quote -= money(price * amount)
    return taken


def _total(levels: Iterable[Level]) -> Decimal:
    return sum((quantity for _, quantity in levels), ZERO)
