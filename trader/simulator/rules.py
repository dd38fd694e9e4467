"""A market's rules, an order as it is asked for, and the refusals of the venue."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from trader.simulator.decimals import ZERO, money

Side = Literal["BUY", "SELL"]
OrderType = Literal["MARKET", "LIMIT", "LIMIT_MAKER"]
TimeInForce = Literal["GTC", "IOC", "FOK"]
CLIENT_ID = re.compile(r"[a-zA-Z0-9\-_]{1,36}")


class VenueError(Exception):
    """The venue refuses a request with one of Binance's codes."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Rules:
    """What the venue allows on one market. Fees are fractions (0.001 is 0.1 %)."""

    base: str
    quote: str
    tick: Decimal = Decimal("0.01")
    step: Decimal = Decimal("0.00001")
    min_quantity: Decimal = Decimal("0.00001")
    max_quantity: Decimal = Decimal(9000000)
    max_price: Decimal = Decimal(100000000)
    min_notional: Decimal = Decimal(5)
    maker: Decimal = Decimal("0.001")
    taker: Decimal = Decimal("0.001")

    @property
    def id(self) -> str:
        return self.base + self.quote

    @property
    def symbol(self) -> str:
        return f"{self.base}/{self.quote}"


@dataclass(frozen=True, slots=True)
class Ticket:
    """An order as it is asked for. A market order has a quantity or a quote quantity; a limit order a price."""

    client_order_id: str
    side: Side
    type: OrderType
    quantity: Decimal | None = None
    quote_quantity: Decimal | None = None
    price: Decimal | None = None
    time_in_force: TimeInForce = "GTC"


def check(rules: Rules, ticket: Ticket, market_price: Decimal) -> None:
    """Apply the market's filters; VenueError -1013 names the one that failed."""
    if ticket.price is not None:
        _check_price(rules, ticket.price)
    if ticket.quantity is not None:
        _check_quantity(rules, ticket.quantity)
    price = ticket.price if ticket.price is not None else market_price
    notional = ticket.quote_quantity if ticket.quantity is None else money(price * ticket.quantity)
    if notional is None or notional < rules.min_notional:
        raise VenueError(-1013, "Filter failure: NOTIONAL")


def _check_price(rules: Rules, price: Decimal) -> None:
    if price <= ZERO:
        raise VenueError(-1013, "Invalid price.")
    if price < rules.tick or price > rules.max_price or price % rules.tick:
        raise VenueError(-1013, "Filter failure: PRICE_FILTER")


def _check_quantity(rules: Rules, quantity: Decimal) -> None:
    if quantity <= ZERO:
        raise VenueError(-1013, "Invalid quantity.")
    if quantity < rules.min_quantity or quantity > rules.max_quantity or quantity % rules.step:
        raise VenueError(-1013, "Filter failure: LOT_SIZE")
