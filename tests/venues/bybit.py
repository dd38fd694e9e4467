"""Bybit spot (v5, unified account) as ccxt 4.5 knows it: ids-only answers, orderLinkId, a time stamp with a window."""

import hashlib
import hmac
from decimal import Decimal
from typing import Any, ClassVar

from tests.venues._book import Book, Order, Refusal, Trade
from tests.venues._server import Answer, Request, ScriptedVenue, plain

INSTRUMENT = {
    "symbol": "BTCUSDT",
    "baseCoin": "BTC",
    "quoteCoin": "USDT",
    "innovation": "0",
    "status": "Trading",
    "marginTrading": "none",
    "lotSizeFilter": {
        "basePrecision": "0.000001",
        "quotePrecision": "0.00000001",
        "minOrderQty": "0.000048",
        "maxOrderQty": "71.73956243",
        "minOrderAmt": "1",
        "maxOrderAmt": "2000000",
    },
    "priceFilter": {"tickSize": "0.01"},
}
FORCES = {"GTC": "GTC", "IOC": "IOC", "FOK": "FOK", "PostOnly": "PO"}


class Bybit(ScriptedVenue):
    """A look by client id at /v5/order/realtime finds closed orders, too; the history may be late.

    What is refused comes with HTTP 200 and a retCode.
    """

    ccxt_id = "bybit"
    kinds: ClassVar[dict[str, str]] = {
        "/v5/order/create": "create",
        "/v5/order/cancel": "cancel",
        "/v5/order/realtime": "look-up",
        "/v5/order/history": "look-up",
        "/v5/execution/list": "fills",
        "/v5/user/query-api": "account",
    }

    def __init__(self) -> None:
        super().__init__(Book("9"))
        self.realtime_forgets = False
        """Closed orders are in the history only, as after a restart of the venue's service."""
        self.history_is_late = False
        """Nothing is in the history yet."""

    def options(self) -> dict[str, Any]:
        return {
            "urls": {"api": {"public": self.url, "private": self.url}},
            "options": {"fetchMarkets": {"types": ["spot"]}},
            "enableRateLimit": False,
            "timeout": 3000,
        }

    def refusal(self, error: Any) -> Answer:
        code, text = error
        return Answer({"retCode": code, "retMsg": text, "result": {}, "retExtInfo": {}, "time": int(self.now() * 1000)})

    def respond(self, request: Request) -> Answer:
        is_public = request.path.startswith("/v5/market/")
        if not is_public and (problem := self._not_signed(request)):
            return self.refusal(problem)
        ask = {
            "/v5/market/instruments-info": lambda: {"category": "spot", "list": [INSTRUMENT]},
            "/v5/market/tickers": lambda: {"category": "spot", "list": [self._ticker()]},
            "/v5/market/time": lambda: {"timeSecond": str(int(self.now()))},
            "/v5/user/query-api": lambda: {"id": "1", "unified": 0, "uta": 1, "permissions": {"Spot": ["SpotTrade"]}},
            "/v5/account/info": lambda: {"unifiedMarginStatus": 6, "marginMode": "REGULAR_MARGIN"},
            "/v5/asset/coin/query-info": lambda: {"rows": []},
            "/v5/account/wallet-balance": self._balances,
            "/v5/order/create": lambda: self._create(request.fields),
            "/v5/order/cancel": lambda: self._cancel(request.fields),
            "/v5/order/realtime": lambda: self._realtime(request.fields),
            "/v5/order/history": lambda: self._history(request.fields),
            "/v5/execution/list": lambda: self._executions(request.fields),
        }
        try:
            result = ask[request.path]()
        except Refusal as refusal:
            return self.refusal(refusal.args)
        return Answer(
            {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": int(self.now() * 1000)}
        )

    def _not_signed(self, request: Request) -> tuple[int, str] | None:
        stamp, window = request.headers.get("X-BAPI-TIMESTAMP", ""), request.headers.get("X-BAPI-RECV-WINDOW", "")
        text = stamp + self.key + window + (request.body if request.method == "POST" else request.query)
        sign = hmac.new(self.secret.encode(), text.encode(), hashlib.sha256).hexdigest()
        if request.headers.get("X-BAPI-API-KEY") != self.key or request.headers.get("X-BAPI-SIGN") != sign:
            return 10004, "error sign!"
        now = int(self.now() * 1000)
        if not now - int(window) <= int(stamp) < now + 1000:
            return 10002, "invalid request, please check your server timestamp or recv_window param"
        return None

    def _create(self, fields: dict[str, Any]) -> dict[str, Any]:
        is_limit, side = fields["orderType"] == "Limit", "buy" if fields["side"] == "Buy" else "sell"
        in_money = not is_limit and fields.get("marketUnit", "quoteCoin" if side == "buy" else "baseCoin") != "baseCoin"
        quantity = Decimal(fields["qty"])
        order = Order(
            id=f"18{len(self.book.orders) + 1:017d}",
            client_id=fields.get("orderLinkId", ""),
            side="buy" if side == "buy" else "sell",
            type="limit" if is_limit else "market",
            quantity=None if in_money else quantity,
            spend=quantity if in_money else None,
            price=Decimal(fields["price"]) if is_limit else None,
            force=FORCES[fields.get("timeInForce", "GTC")],
            at=self.now(),
            fee_side="base" if side == "buy" else "quote",
        )
        if any(one.client_id == order.client_id for one in self.book.orders.values()):
            raise Refusal(110072, "OrderLinkedID is duplicate")
        try:
            self.book.place(order)
        except Refusal:
            raise Refusal(170131, "Balance insufficient") from None
        return {"orderId": order.id, "orderLinkId": order.client_id}

    def _cancel(self, fields: dict[str, Any]) -> dict[str, Any]:
        try:
            self.book.cancel(fields["orderId"])
        except Refusal:
            raise Refusal(170213, "Order does not exist.") from None
        return {"orderId": fields["orderId"], "orderLinkId": ""}

    def _realtime(self, fields: dict[str, Any]) -> dict[str, Any]:
        named = ("orderLinkId" in fields or "orderId" in fields) and not self.realtime_forgets
        return self._listed(fields, lambda one: named or one.status == "open")

    def _history(self, fields: dict[str, Any]) -> dict[str, Any]:
        return self._listed(fields, lambda one: one.status != "open" and not self.history_is_late)

    def _listed(self, fields: dict[str, Any], wanted: Any) -> dict[str, Any]:
        found = [
            one
            for one in self.book.orders.values()
            if wanted(one)
            and fields.get("orderLinkId") in (None, one.client_id)
            and fields.get("orderId") in (None, one.id)
        ]
        return {"category": "spot", "nextPageCursor": "", "list": [_order(one) for one in reversed(found)]}

    def _executions(self, fields: dict[str, Any]) -> dict[str, Any]:
        found = [one for one in self.book.trades if fields.get("orderId") in (None, one.order.id)]
        return {"category": "spot", "nextPageCursor": "", "list": [_execution(one) for one in reversed(found)]}

    def _balances(self) -> dict[str, Any]:
        coins = [
            {
                "coin": asset,
                "walletBalance": plain(total),
                "locked": plain(self.book.locked(asset)),
                "borrowAmount": "0",
                "accruedInterest": "0",
            }
            for asset, total in self.book.total.items()
        ]
        return {"list": [{"accountType": "UNIFIED", "coin": coins}]}

    def _ticker(self) -> dict[str, Any]:
        price = plain(self.book.price)
        sizes = {"bid1Size": "1", "ask1Size": "1", "volume24h": "2", "turnover24h": "100000"}
        return {"symbol": "BTCUSDT", "lastPrice": price, "bid1Price": price, "ask1Price": price} | sizes


def _status(order: Order) -> str:
    if order.status == "open":
        return "PartiallyFilled" if order.filled else "New"
    if order.status == "canceled":
        return "PartiallyFilledCanceled" if order.filled else "Cancelled"
    return "Filled"


def _order(order: Order) -> dict[str, Any]:
    in_money = order.spend is not None
    asked = order.spend if order.spend is not None else order.quantity or Decimal(0)
    force = {"PO": "PostOnly"}.get(order.force, order.force) if order.type == "limit" else "IOC"
    return {
        "symbol": "BTCUSDT",
        "orderId": order.id,
        "orderLinkId": order.client_id,
        "orderType": order.type.capitalize(),
        "side": order.side.capitalize(),
        "orderStatus": _status(order),
        "rejectReason": "EC_PostOnlyWillTakeLiquidity" if order.reason == "post only" else "EC_NoError",
        "price": plain(order.price or Decimal(0)),
        "qty": plain(asked),
        "marketUnit": "" if order.type == "limit" else "quoteCoin" if in_money else "baseCoin",
        "cumExecQty": plain(order.filled),
        "cumExecValue": plain(order.cost),
        "cumExecFee": plain(order.fees),
        "avgPrice": plain(order.cost / order.filled) if order.filled else "",
        "leavesQty": plain(asked - (order.cost if in_money else order.filled)) if order.status == "open" else "0",
        "leavesValue": "0",
        "timeInForce": force,
        "createdTime": str(int(order.at * 1000)),
        "updatedTime": str(int(order.at * 1000)),
        "triggerPrice": "",
        "stopOrderType": "",
        "cancelType": "UNKNOWN",
    }


def _execution(trade: Trade) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "orderId": trade.order.id,
        "orderLinkId": trade.order.client_id,
        "orderType": trade.order.type.capitalize(),
        "side": trade.order.side.capitalize(),
        "execId": trade.id,
        "execPrice": plain(trade.price),
        "execQty": plain(trade.quantity),
        "execValue": plain(trade.cost),
        "execFee": plain(trade.fee),
        "feeCurrency": trade.fee_asset,
        "feeRate": "0.001",
        "execType": "Trade",
        "execTime": str(int(trade.at * 1000)),
        "isMaker": trade.maker,
    }
