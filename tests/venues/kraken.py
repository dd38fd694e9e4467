"""Kraken spot as ccxt 4.5 knows it: ids-only answers, cl_ord_id, a deadline, money as volume (viqc), trades by id."""

import base64
import hashlib
import hmac
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

from tests.venues._book import Book, Order, Refusal, Trade
from tests.venues._server import Answer, Request, ScriptedVenue, plain

PAIR = {
    "altname": "XBTUSDT",
    "wsname": "XBT/USDT",
    "aclass_base": "currency",
    "base": "XXBT",
    "aclass_quote": "currency",
    "quote": "USDT",
    "lot": "unit",
    "cost_decimals": 5,
    "pair_decimals": 1,
    "lot_decimals": 8,
    "lot_multiplier": 1,
    "leverage_buy": [],
    "leverage_sell": [],
    "fees": [[0, 0.1]],
    "fees_maker": [[0, 0.1]],
    "fee_volume_currency": "ZUSD",
    "margin_call": 80,
    "margin_stop": 40,
    "ordermin": "0.00005",
    "costmin": "0.5",
    "tick_size": "0.1",
    "status": "online",
}
ASSETS = {
    "XXBT": {"aclass": "currency", "altname": "XBT", "decimals": 10, "display_decimals": 5, "status": "enabled"},
    "USDT": {"aclass": "currency", "altname": "USDT", "decimals": 8, "display_decimals": 4, "status": "enabled"},
    "BNB": {"aclass": "currency", "altname": "BNB", "decimals": 8, "display_decimals": 4, "status": "enabled"},
}
NAMES = {"BTC": "XXBT"}
NONCE_WINDOW = 10_000
"""What a key's owner sets at the venue, so that requests which overtake each other are not refused."""


class Kraken(ScriptedVenue):
    """`vol_exec` of an order sized in money is in money, as the venue documents it; a sell's fee may be in base."""

    ccxt_id = "kraken"
    kinds: ClassVar[dict[str, str]] = {
        "/0/private/AddOrder": "create",
        "/0/private/CancelOrder": "cancel",
        "/0/private/OpenOrders": "look-up",
        "/0/private/ClosedOrders": "look-up",
        "/0/private/QueryOrders": "fills",
        "/0/private/QueryTrades": "fills",
        "/0/private/TradesHistory": "fills",
    }

    def __init__(self) -> None:
        super().__init__(Book("TSCRPT-KRAKN-"))
        self.names_few_trades = False
        """Orders do not name their last trade."""
        self._highest_nonce = 0

    def options(self) -> dict[str, Any]:
        return {"urls": {"api": {"public": self.url, "private": self.url}}, "enableRateLimit": False, "timeout": 3000}

    def refusal(self, error: Any) -> Answer:
        return Answer({"error": [error]})

    def respond(self, request: Request) -> Answer:
        name = request.path.rsplit("/", 1)[1]
        if request.path.startswith("/0/private/") and (problem := self._not_signed(request)):
            return self.refusal(problem)
        ask = {
            "AssetPairs": lambda: {"XBTUSDT": PAIR},
            "Assets": lambda: ASSETS,
            "Ticker": lambda: {"XBTUSDT": self._ticker()},
            "Time": lambda: {"unixtime": int(self.now())},
            "BalanceEx": self._balances,
            "AddOrder": lambda: self._create(request.fields),
            "CancelOrder": lambda: self._cancel(request.fields),
            "OpenOrders": lambda: {"open": self._listed(request.fields, is_open=True)},
            "ClosedOrders": lambda: {"closed": self._listed(request.fields, is_open=False), "count": 0},
            "QueryOrders": lambda: self._queried(request.fields),
            "QueryTrades": lambda: self._trades(request.fields["txid"].split(",")),
            "TradesHistory": lambda: self._history(request.fields),
        }
        try:
            return Answer({"error": [], "result": ask[name]()})
        except Refusal as refusal:
            return self.refusal(str(refusal))

    def _not_signed(self, request: Request) -> str | None:
        digest = hashlib.sha256((request.fields.get("nonce", "") + request.body).encode()).digest()
        secret = base64.b64decode(self.secret)
        sign = base64.b64encode(hmac.new(secret, request.path.encode() + digest, hashlib.sha512).digest()).decode()
        if request.headers.get("API-Key") != self.key or request.headers.get("API-Sign") != sign:
            return "EAPI:Invalid key"
        nonce = int(request.fields["nonce"])
        if nonce <= self._highest_nonce - NONCE_WINDOW:
            return "EAPI:Invalid nonce"
        self._highest_nonce = max(nonce, self._highest_nonce)
        return None

    def _create(self, fields: dict[str, str]) -> dict[str, Any]:
        self._check_deadline(fields.get("deadline"))
        flags = fields.get("oflags", "").split(",")
        is_limit = fields["ordertype"] == "limit"
        volume = Decimal(fields["volume"])
        order = Order(
            id=f"OSCRPT-KRAKN-{len(self.book.orders) + 1:06d}",
            client_id=fields.get("cl_ord_id", ""),
            side="buy" if fields["type"] == "buy" else "sell",
            type="limit" if is_limit else "market",
            quantity=None if "viqc" in flags else volume,
            spend=volume if "viqc" in flags else None,
            price=Decimal(fields["price"]) if is_limit else None,
            force="PO" if "post" in flags else fields.get("timeinforce", "GTC"),
            at=self.now(),
            # As documented: a sell's fee is preferred in base, unless the request says otherwise.
            fee_side="base" if fields["type"] == "sell" and "fciq" not in flags else "quote",
        )
        if any(one.client_id == order.client_id and one.status == "open" for one in self.book.orders.values()):
            raise Refusal("EOrder:Duplicate cl_ord_id")
        if order.force == "PO" and self.book.crosses(order):
            raise Refusal("EOrder:Post only order")
        try:
            self.book.place(order)
        except Refusal:
            raise Refusal("EOrder:Insufficient funds") from None
        return {"descr": {"order": self._words(order)}, "txid": [order.id]}

    def _check_deadline(self, deadline: str | None) -> None:
        if deadline is None:
            return
        left = datetime.fromisoformat(deadline.replace("Z", "+00:00")).timestamp() - self.now()
        if left < 0:
            raise Refusal("EService:Deadline elapsed")
        if not 2 <= left <= 60:
            raise Refusal("EGeneral:Invalid arguments:deadline")

    def _cancel(self, fields: dict[str, str]) -> dict[str, Any]:
        try:
            self.book.cancel(fields["txid"])
        except Refusal:
            raise Refusal("EOrder:Unknown order") from None
        return {"count": 1}

    def _words(self, order: Order) -> str:
        amount = order.quantity if order.spend is None else order.spend
        price = "market" if order.price is None else f"limit {plain(order.price)}"
        return f"{order.side} {amount or 0:.8f} XBTUSDT @ {price}"

    def _listed(self, fields: dict[str, str], *, is_open: bool) -> dict[str, Any]:
        wanted = fields.get("cl_ord_id")
        found = [
            one
            for one in self.book.orders.values()
            if (one.status == "open") == is_open and wanted in (None, one.client_id)
        ]
        return {one.id: self._info(one) for one in sorted(found, key=lambda one: one.id, reverse=True)[:50]}

    def _queried(self, fields: dict[str, str]) -> dict[str, Any]:
        one = self.book.orders.get(fields["txid"])
        if one is None:
            raise Refusal("EOrder:Invalid order")
        ids = [trade.id for trade in one.trades]
        return {one.id: self._info(one) | {"trades": ids[:-1] if self.names_few_trades else ids}}

    def _info(self, order: Order) -> dict[str, Any]:
        in_money = order.spend is not None
        words = {"open": "open", "filled": "closed", "canceled": "canceled"}
        average = order.cost / order.filled if order.filled else Decimal(0)
        return {
            "refid": None,
            "userref": None,
            "cl_ord_id": order.client_id,
            "status": words[order.status],
            "opentm": order.at,
            "starttm": 0,
            "expiretm": 0,
            "descr": {
                "pair": "XBTUSDT",
                "type": order.side,
                "ordertype": order.type,
                "price": plain(order.price or Decimal(0)),
                "price2": "0",
                "leverage": "none",
                "order": self._words(order),
                "close": "",
            },
            "vol": f"{order.spend if order.spend is not None else order.quantity:.8f}",
            "vol_exec": f"{order.cost if in_money else order.filled:.8f}",
            "cost": f"{order.cost:.5f}",
            "fee": f"{order.fees:.5f}",
            "price": f"{average:.5f}",
            "stopprice": "0.00000",
            "limitprice": "0.00000",
            "misc": "",
            "oflags": "fciq,viqc" if in_money else "fciq",
        }

    def _trades(self, ids: list[str]) -> dict[str, Any]:
        return {trade.id: _trade(trade) for trade in self.book.trades if trade.id in ids}

    def _history(self, fields: dict[str, str]) -> dict[str, Any]:
        start, offset = float(fields.get("start", 0)), int(fields.get("ofs", 0))
        found = [trade for trade in reversed(self.book.trades) if trade.at > start]
        return {"trades": {one.id: _trade(one) for one in found[offset : offset + 50]}, "count": len(found)}

    def _balances(self) -> dict[str, Any]:
        return {
            NAMES.get(asset, asset): {"balance": plain(total), "hold_trade": plain(self.book.locked(asset))}
            for asset, total in self.book.total.items()
        }

    def _ticker(self) -> dict[str, Any]:
        price = plain(self.book.price)
        return {
            "a": [price, "1", "1.000"],
            "b": [price, "1", "1.000"],
            "c": [price, "0.001"],
            "v": ["1", "2"],
            "p": [price, price],
            "t": [1, 2],
            "l": [price, price],
            "h": [price, price],
            "o": price,
        }


def _trade(trade: Trade) -> dict[str, Any]:
    return {
        "ordertxid": trade.order.id,
        "postxid": "TSCRPT-POS",
        "pair": "XBTUSDT",
        "time": trade.at,
        "type": trade.order.side,
        "ordertype": trade.order.type,
        "price": plain(trade.price),
        "cost": plain(trade.cost),
        "fee": plain(trade.fee),
        "vol": plain(trade.quantity),
        "margin": "0.00000000",
        "misc": "",
        "trade_id": 1,
        "maker": trade.maker,
    }
