"""What every scripted venue keeps: one market, one account, its orders and trades. Its dialect is somebody else's."""

from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal
from typing import Literal

ZERO = Decimal(0)
STEP = Decimal("0.000001")
Status = Literal["open", "filled", "canceled"]


class Refusal(Exception):
    """The book does not take an order, or knows none such: the dialect finds the words."""


@dataclass
class Trade:
    """One execution."""

    id: str
    order: "Order"
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_asset: str
    maker: bool
    at: float

    @property
    def cost(self) -> Decimal:
        return self.quantity * self.price


@dataclass
class Order:
    """An order as it was taken. `quantity` is in base; `spend`, for a buy sized in money, in quote."""

    id: str
    client_id: str
    side: Literal["buy", "sell"]
    type: Literal["market", "limit"]
    quantity: Decimal | None
    spend: Decimal | None
    price: Decimal | None
    force: str
    at: float
    fee_side: Literal["base", "quote"]
    status: Status = "open"
    reason: str = ""
    locked: Decimal = ZERO
    trades: list[Trade] = field(default_factory=list)

    @property
    def filled(self) -> Decimal:
        return sum((trade.quantity for trade in self.trades), ZERO)

    @property
    def cost(self) -> Decimal:
        return sum((trade.cost for trade in self.trades), ZERO)

    @property
    def fees(self) -> Decimal:
        return sum((trade.fee for trade in self.trades), ZERO)


class Book:
    """BTC against USDT at a price that a test sets: the whole of an order that crosses it is filled at once.

    An order says which side of it pays the fee; `fee_in` names a third asset that pays instead, one for one in value of
    USDT.
    """

    fee_rate = Decimal("0.001")

    def __init__(self, trade_id: str) -> None:
        self.total = {"USDT": Decimal(1000), "BTC": Decimal(1), "BNB": Decimal(10)}
        self.price = Decimal(50000)
        self.orders: dict[str, Order] = {}
        self.trades: list[Trade] = []
        self.fee_in: str | None = None
        self.fraction: Decimal | None = None
        self._trade_id = trade_id

    def locked(self, asset: str) -> Decimal:
        """What open orders hold of it."""
        side = "buy" if asset == "USDT" else "sell" if asset == "BTC" else None
        return sum((one.locked for one in self.orders.values() if one.side == side and one.status == "open"), ZERO)

    def place(self, order: Order) -> None:
        """Take an order and match it. Refusal("funds") if the account cannot pay it."""
        paid = "USDT" if order.side == "buy" else "BTC"
        needed = self._needed(order, order.quantity)
        if needed > self.total[paid] - self.locked(paid):
            raise Refusal("funds")
        self.orders[order.id] = order
        crosses = self.crosses(order)
        if order.force == "PO" and crosses:
            order.status, order.reason = "canceled", "post only"
            return
        order.locked = needed
        if crosses:
            self._match(order)
        if order.status == "open" and (order.type == "market" or order.force in ("IOC", "FOK")):
            order.status, order.reason = "canceled", "nothing more at once"

    def move_price(self, price: Decimal) -> None:
        """The market moves; what rests and is crossed is filled at its own price."""
        self.price = price
        for order in self.orders.values():
            if order.status == "open" and self.crosses(order):
                self._fill(order, (order.quantity or ZERO) - order.filled, order.price or price, maker=True)

    def cancel(self, order_id: str) -> None:
        order = self.orders.get(order_id)
        if order is None or order.status != "open":
            raise Refusal("not open")
        order.status, order.reason = "canceled", "user"

    def _needed(self, order: Order, quantity: Decimal | None) -> Decimal:
        """What it takes out of the account: the fee on top, where it is of the same asset."""
        given = "base" if order.side == "sell" else "quote"
        on_top = 1 + (self.fee_rate if order.fee_side == given and self.fee_in is None else 0)
        if order.side == "sell":
            return (quantity or ZERO) * on_top
        cost = order.spend if order.spend is not None else (quantity or ZERO) * (order.price or self.price)
        return cost * on_top

    def crosses(self, order: Order) -> bool:
        """Whether it would trade at once."""
        if order.price is None:
            return True
        return order.price >= self.price if order.side == "buy" else order.price <= self.price

    def _match(self, order: Order) -> None:
        quantity = order.quantity
        if quantity is None:
            quantity = ((order.spend or ZERO) / self.price).quantize(STEP, ROUND_DOWN)
        fraction, self.fraction = self.fraction, None
        if fraction is not None:
            if order.force == "FOK":
                return
            self._fill(order, (quantity * fraction).quantize(STEP, ROUND_DOWN), self.price, maker=False)
        else:
            self._fill(order, quantity / 2, self.price, maker=False)  # two trades: few orders are one
            self._fill(order, quantity - quantity / 2, self.price, maker=False)
            order.status = "filled"

    def _fill(self, order: Order, quantity: Decimal, price: Decimal, *, maker: bool) -> None:
        cost = quantity * price
        self._move("BTC", quantity if order.side == "buy" else -quantity)
        self._move("USDT", -cost if order.side == "buy" else cost)
        fee, asset = self._fee(order, quantity, cost)
        self._move(asset, -fee)
        number = f"{self._trade_id}{len(self.trades) + 1:04d}"
        order.trades.append(Trade(number, order, quantity, price, fee, asset, maker, order.at))
        self.trades.append(order.trades[-1])
        left = None if order.quantity is None else order.quantity - order.filled
        if left == 0:
            order.status = "filled"
        elif left is not None:
            order.locked = self._needed(order, left)

    def _fee(self, order: Order, quantity: Decimal, cost: Decimal) -> tuple[Decimal, str]:
        if self.fee_in is not None:
            return (cost * self.fee_rate).normalize(), self.fee_in
        if order.fee_side == "base":
            return quantity * self.fee_rate, "BTC"
        return cost * self.fee_rate, "USDT"

    def _move(self, asset: str, quantity: Decimal) -> None:
        self.total[asset] = self.total[asset] + quantity
