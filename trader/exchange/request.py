"""An order request turned into what ccxt is called with, and the proof that ccxt sends what was asked. Pure."""

import decimal as numbers
from collections.abc import Callable
from datetime import UTC, timedelta
from decimal import Decimal
from typing import Any

from trader.clock import to_milliseconds
from trader.errors import Refused
from trader.exchange.convert import plain
from trader.exchange.credentials import scrub
from trader.exchange.protocol import OrderRequest
from trader.exchange.venue import Venue

_TRUNCATE = 0
"""ccxt's name for cutting off."""
Cut = Callable[[str, str], Any]


def arguments(client: Any, venue: Venue, request: OrderRequest) -> tuple[str | None, str | None, dict[str, Any]]:
    """Amount, price and parameters. Raises Refused if another quantity or price than the request's would be sent.

    Money to spend is cut down to the venue's step (less than a step less), never up.
    """
    if (request.quantity is None) == (request.quote_quantity is None):
        raise Refused("exactly one of quantity and quote_quantity must be set")
    if (request.type == "limit") != (request.limit_price is not None):
        raise Refused(f"a {request.type} order with limit_price {request.limit_price}: only limit orders have one")
    if request.receive_window < venue.window_min:
        least = venue.window_min.total_seconds()
        raise Refused(f"receive_window {request.receive_window}: this venue needs {least:g} seconds at least")
    params = (
        _signing(venue, request)
        | venue.create_params
        | {"clientOrderId": request.client_order_id}
        | _time_in_force(request)
    )
    price = None
    if request.limit_price is not None:
        price = _exact("limit_price", request.symbol, request.limit_price, client.price_to_precision)
    if request.quantity is not None:
        return _exact("quantity", request.symbol, request.quantity, client.amount_to_precision), price, params
    if request.quote_quantity is not None:
        params["cost"] = _spend(client, venue, request, request.quote_quantity)
    return None if venue.cost_alone else params["cost"], price, params


def _time_in_force(request: OrderRequest) -> dict[str, Any]:
    if request.time_in_force == "GTC":
        return {}  # what a venue does unasked
    if request.type != "limit":
        raise Refused(f"time_in_force {request.time_in_force}: only a limit order has one")
    return {"postOnly": True} if request.time_in_force == "PO" else {"timeInForce": request.time_in_force}


def _signing(venue: Venue, request: OrderRequest) -> dict[str, Any]:
    if venue.pin == "params":
        window = request.receive_window // timedelta(milliseconds=1)
        return {"timestamp": to_milliseconds(request.submitted_at), "recvWindow": window}
    if venue.pin == "deadline":
        deadline = (request.submitted_at + request.receive_window).astimezone(UTC)
        return {"deadline": deadline.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    return {}


def _spend(client: Any, venue: Venue, request: OrderRequest, value: Decimal) -> str:
    if (request.type, request.side) != ("market", "buy"):
        raise Refused("quote_quantity: only a market buy can be sized in quote")

    def cut_to_price(symbol: str, digits: str) -> Any:
        step = client.market(symbol)["precision"]["price"]
        return client.decimal_to_precision(digits, _TRUNCATE, step, client.precisionMode)

    cut = cut_to_price if venue.cost_precision == "price" else client.cost_to_precision
    sent = _cut("quote_quantity", request.symbol, value, cut)
    if not 0 < sent <= value:
        raise Refused(f"quote_quantity: {plain(value)} is below the smallest step of {request.symbol}")
    return plain(sent)


def _exact(field: str, symbol: str, value: Decimal, cut: Cut) -> str:
    sent = _cut(field, symbol, value, cut)
    if sent != value:
        raise Refused(f"{field}: {plain(value)} is not in steps of {symbol}: {plain(sent)} would be sent")
    return plain(value)


def _cut(field: str, symbol: str, value: Decimal, cut: Cut) -> Decimal:
    """What ccxt makes of `value` before it sends it."""
    if not value.is_finite() or value <= 0:
        raise Refused(f"{field}: {value} is not a positive number")
    try:
        # ccxt changes the rounding of the current decimal context: ours must not follow.
        with numbers.localcontext():
            return Decimal(str(cut(symbol, plain(value))))
    except Exception as error:
        text = f"{field}: {plain(value)}: {type(error).__name__}: {error}"
    raise Refused(scrub(text))
