"""Signed routes: the account, its orders and its trades."""

import hashlib
import hmac
import secrets
from decimal import Decimal
from typing import cast

from trader.simulator.decimals import text
from trader.simulator.matching import Order
from trader.simulator.rules import OrderType, Side, Ticket, TimeInForce, VenueError
from trader.simulator.venue import Market, Venue
from trader.simulator.wire import Json, Params, canceled_json, created_json, order_json, trade_json

_DAY = 86_400_000
_FOREVER = 2**62
NO_SUCH_ORDER = "Order does not exist."


def signed_part(raw: str) -> str:
    """What of a query and body (joined) is signed: all but the signature, as it was sent."""
    return "&".join(part for part in raw.split("&") if part and not part.startswith("signature="))


def authenticate(venue: Venue, key: str | None, signed: str, params: Params) -> str:
    """Who signed: the account's key. VenueError: unknown key, wrong signature, too late or too early."""
    if not key:
        raise VenueError(-2014, "API-key format invalid.", 401)
    if key not in venue.secrets:
        raise VenueError(-2015, "Invalid API-key, IP, or permissions for action.", 401)
    expected = hmac.new(venue.secrets[key].encode(), signed.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, params.need("signature").lower()):
        raise VenueError(-1022, "Signature for this request is not valid.")
    check_time(venue.wall(), params)
    return key


def check_time(now: int, params: Params) -> None:
    """Refuse what arrives later than its own deadline: after that moment plus skew, absence is proof."""
    params.need("timestamp")
    timestamp, window = params.integer("timestamp") or 0, params.integer("recvWindow") or 5000
    if window > 60_000:
        raise VenueError(-1131, "recvWindow must be less than 60000")
    if timestamp > now + 1000:
        raise VenueError(-1021, "Timestamp for this request was 1000ms ahead of the server's time.")
    if now - timestamp > window:
        raise VenueError(-1021, "Timestamp for this request is outside of the recvWindow.")


def account(venue: Venue, key: str, _params: Params) -> Json:
    venue.advance()
    owned = venue.engine.balances.get(key, {})
    fees = next(iter(venue.markets.values())).rules
    commission = {"maker": text(fees.maker), "taker": text(fees.taker), "buyer": text(0.0), "seller": text(0.0)}
    return {
        "makerCommission": int(fees.maker * 10_000),
        "takerCommission": int(fees.taker * 10_000),
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": commission,
        "canTrade": True,
        "canWithdraw": True,
        "canDeposit": True,
        "brokered": False,
        "requireSelfTradePrevention": False,
        "preventSor": False,
        "updateTime": venue.wall(),
        "accountType": "SPOT",
        "balances": [{"asset": a, "free": text(b.free), "locked": text(b.locked)} for a, b in sorted(owned.items())],
        "permissions": ["SPOT"],
    }


def create(venue: Venue, key: str, params: Params, part: Decimal | None = None) -> Json:
    market = venue.market(params.need("symbol"))
    ticket = read_ticket(params)
    default = "ACK" if ticket.type == "LIMIT_MAKER" else "FULL"
    kind = params.get("newOrderRespType") or default
    return created_json(venue.place(key, market, ticket, part), kind)


def create_test(venue: Venue, _key: str, params: Params) -> Json:
    venue.market(params.need("symbol"))
    read_ticket(params)
    return {}


def read_ticket(params: Params) -> Ticket:
    """The order that the parameters ask for; Binance's codes for what is missing, unknown or too much."""
    side = params.one_of("side", -1117, "Invalid side.", ("BUY", "SELL"))
    kind = params.one_of("type", -1116, "Invalid orderType.", ("MARKET", "LIMIT", "LIMIT_MAKER"))
    force = "GTC"
    if kind == "LIMIT":
        force = params.one_of("timeInForce", -1115, "Invalid timeInForce.", ("GTC", "IOC", "FOK"))
    elif params.get("timeInForce"):
        raise VenueError(-1106, "Parameter 'timeInForce' sent when not required.")
    if kind != "MARKET" and params.get("quoteOrderQty"):
        raise VenueError(-1106, "Parameter 'quoteOrderQty' sent when not required.")
    if kind != "MARKET":
        params.need("quantity")
        params.need("price")
    elif params.get("price"):
        raise VenueError(-1106, "Parameter 'price' sent when not required.")
    elif not params.get("quoteOrderQty"):
        params.need("quantity")
    elif params.get("quantity"):
        raise VenueError(-1128, "Combination of optional parameters invalid.")
    return Ticket(
        client_order_id=params.client_id("newClientOrderId") or secrets.token_urlsafe(16).replace("-", "x"),
        side=cast(Side, side),
        type=cast(OrderType, kind),
        quantity=params.decimal("quantity"),
        quote_quantity=params.decimal("quoteOrderQty"),
        price=params.decimal("price"),
        time_in_force=cast(TimeInForce, force),
    )


def find(venue: Venue, key: str, params: Params) -> Json:
    venue.advance()
    return order_json(_find(venue, key, params, VenueError(-2013, NO_SUCH_ORDER)))


def _find(venue: Venue, key: str, params: Params, absent: VenueError) -> Order:
    """An order by id, by client id (the newest of that name), or by both."""
    market = venue.market(params.need("symbol")).rules.id
    number, name = params.integer("orderId"), params.client_id("origClientOrderId")
    if number is None and name is None:
        message = "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!"
        raise VenueError(-1102, message)
    store = venue.store
    order = store.order_named(key, market, name or "") if number is None else store.order(key, number)
    if order is None or order.market != market or name not in (None, order.client_order_id):
        raise absent
    return order


def cancel(venue: Venue, key: str, params: Params) -> Json:
    venue.advance()
    unknown = VenueError(-2011, "Unknown order sent.")
    order = venue.engine.open.get(_find_open(venue, key, params, unknown))
    if order is None:
        raise unknown
    cancel_id = params.client_id("newClientOrderId") or secrets.token_hex(11)
    return canceled_json(venue.cancel(order).order, cancel_id)


def _find_open(venue: Venue, key: str, params: Params, unknown: VenueError) -> int:
    return _find(venue, key, params, unknown).id


def cancel_all(venue: Venue, key: str, params: Params) -> list[Json]:
    venue.advance()
    market = venue.market(params.need("symbol"))
    orders = venue.engine.open_orders(key, market.rules.id)
    if not orders:
        raise VenueError(-2011, "Unknown order sent.")
    return [canceled_json(venue.cancel(order).order, secrets.token_hex(11)) for order in orders]


def open_orders(venue: Venue, key: str, params: Params) -> list[Json]:
    venue.advance()
    name = params.get("symbol")
    market = None if name is None else venue.market(name).rules.id
    return [order_json(order) for order in sorted(venue.engine.open_orders(key, market), key=lambda o: o.id)]


def all_orders(venue: Venue, key: str, params: Params) -> list[Json]:
    venue.advance()
    market = venue.market(params.need("symbol")).rules.id
    first, span = params.integer("orderId"), _span(params)
    if first is None and params.get("startTime"):
        first = 0  # Binance gives the oldest of the span when it is told where to start
    return [order_json(order) for order in venue.store.orders(key, market, first, span, params.limit(500, 1000))]


def my_trades(venue: Venue, key: str, params: Params) -> list[Json]:
    venue.advance()
    market = venue.market(params.need("symbol")).rules.id
    order_id, first, span = params.integer("orderId"), params.integer("fromId"), _span(params)
    if first is None and params.get("startTime"):
        first = 0
    found = venue.store.trades(key, market, order_id, first, span, params.limit(500, 1000))
    return [trade_json(fill) for fill in found]


def _span(params: Params) -> tuple[int, int]:
    start, end = params.integer("startTime"), params.integer("endTime")
    if start is not None and end is not None and end - start > _DAY:
        raise VenueError(-1127, "More than 24 hours between startTime and endTime.")
    return (0 if start is None else start, _FOREVER if end is None else end)


def trade_fee(venue: Venue, _key: str, params: Params) -> list[Json]:
    names = params.symbols()
    markets: list[Market] = [venue.market(n) for n in names] if names else list(venue.markets.values())
    return [
        {"symbol": m.rules.id, "makerCommission": text(m.rules.maker), "takerCommission": text(m.rules.taker)}
        for m in markets
    ]


def coins(venue: Venue, key: str, _params: Params) -> list[Json]:
    """Every asset the venue knows, with one made-up network, so that fetch_currencies works."""
    names = {asset for m in venue.markets.values() for asset in (m.rules.base, m.rules.quote)}
    return [_coin(venue, key, name) for name in sorted(names)]


def _coin(venue: Venue, key: str, name: str) -> Json:
    balance = venue.engine.balance(key, name)
    network = {
        "network": "SIMULATED",
        "coin": name,
        "name": "Simulated network",
        "isDefault": True,
        "depositEnable": False,
        "withdrawEnable": False,
        "withdrawFee": text(0.0),
        "withdrawMin": text(0.0),
        "withdrawMax": text(0.0),
        "withdrawIntegerMultiple": "0.00000001",
        "minConfirm": 1,
        "unLockConfirm": 1,
        "estimatedArrivalTime": 1,
    }
    return {
        "coin": name,
        "name": name,
        "depositAllEnable": False,
        "withdrawAllEnable": False,
        "free": text(balance.free),
        "locked": text(balance.locked),
        "isLegalMoney": False,
        "trading": True,
        "networkList": [network],
    }
