"""Binance's JSON: shapes of what is answered, and the reading of parameters."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from trader.simulator.decimals import ZERO, text
from trader.simulator.matching import Change, Fill, Order
from trader.simulator.rules import CLIENT_ID, Rules, VenueError

_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
_INTEGER = re.compile(r"[0-9]{1,19}")
_NUMBER_RANGE = "^([0-9]{1,20})(\\.[0-9]{1,20})?$"
Json = dict[str, Any]


class Params:
    """The parameters of a request, with Binance's refusals for missing and malformed ones."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values

    def get(self, name: str) -> str | None:
        return self.values.get(name) or None

    def need(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise VenueError(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
        return value

    def integer(self, name: str) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        if not _INTEGER.fullmatch(value) or int(value) >= 2**63:
            raise VenueError(
                -1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'."
            )
        return int(value)

    def limit(self, default: int, largest: int) -> int:
        value = self.integer("limit")
        if value is None:
            return default
        if value < 1:
            raise VenueError(-1130, "Data sent for parameter 'limit' is not valid.")
        return min(value, largest)

    def decimal(self, name: str) -> Decimal | None:
        value = self.get(name)
        if value is None:
            return None
        if not _NUMBER.fullmatch(value):
            raise VenueError(
                -1100, f"Illegal characters found in parameter '{name}'; legal range is '{_NUMBER_RANGE}'."
            )
        if len(value.partition(".")[2].rstrip("0")) > 8:
            raise VenueError(-1111, f"Parameter '{name}' has too much precision.")
        return Decimal(value)

    def client_id(self, name: str) -> str | None:
        value = self.get(name)
        if value is not None and not CLIENT_ID.fullmatch(value):
            raise VenueError(
                -1100, f"Illegal characters found in parameter '{name}'; legal range is '^[a-zA-Z0-9-_]{{1,36}}$'."
            )
        return value

    def one_of(self, name: str, code: int, message: str, allowed: tuple[str, ...]) -> str:
        value = self.need(name)
        if value not in allowed:
            raise VenueError(code, message)
        return value

    def symbols(self) -> list[str] | None:
        """`symbol=` or `symbols=[...]`; None if neither was sent."""
        one, many = self.get("symbol"), self.get("symbols")
        if one is not None:
            return [one]
        if many is None:
            return None
        try:
            names = json.loads(many)
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise VenueError(-1100, "Illegal characters found in parameter 'symbols'; legal range is a JSON array.")
        return names


def market_json(rules: Rules) -> Json:
    """One entry of exchangeInfo."""
    lot = {"minQty": text(rules.min_quantity), "maxQty": text(rules.max_quantity), "stepSize": text(rules.step)}
    market_lot = {"minQty": text(ZERO), "maxQty": text(rules.max_quantity), "stepSize": text(ZERO)}
    price = {"minPrice": text(rules.tick), "maxPrice": text(rules.max_price), "tickSize": text(rules.tick)}
    notional = {"minNotional": text(rules.min_notional), "applyMinToMarket": True, "maxNotional": text(rules.max_price)}
    return {
        "symbol": rules.id,
        "status": "TRADING",
        "baseAsset": rules.base,
        "baseAssetPrecision": 8,
        "quoteAsset": rules.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
        "icebergAllowed": False,
        "ocoAllowed": False,
        "otoAllowed": False,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", **price},
            {"filterType": "LOT_SIZE", **lot},
            {"filterType": "MARKET_LOT_SIZE", **market_lot},
            {"filterType": "NOTIONAL", **notional, "applyMaxToMarket": False, "avgPriceMins": 5},
        ],
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_MAKER"],
    }


def _order_core(order: Order) -> Json:
    return {
        "price": text(order.price),
        "origQty": text(order.quantity),
        "executedQty": text(order.filled),
        "origQuoteOrderQty": text(order.quote_quantity),
        "cummulativeQuoteQty": text(order.cost),
        "status": order.status,
        "timeInForce": order.time_in_force,
        "type": order.type,
        "side": order.side,
        "selfTradePreventionMode": "EXPIRE_MAKER",
    }


def order_json(order: Order) -> Json:
    """An order as it is queried."""
    return {
        "symbol": order.market,
        "orderId": order.id,
        "orderListId": -1,
        "clientOrderId": order.client_order_id,
        **_order_core(order),
        "stopPrice": text(ZERO),
        "icebergQty": text(ZERO),
        "time": order.created,
        "updateTime": order.updated,
        "isWorking": True,
        "workingTime": order.created,
    }


def created_json(change: Change, kind: str) -> Json:
    """The answer to a new order: `kind` is ACK, RESULT or FULL."""
    order = change.order
    answer: Json = {
        "symbol": order.market,
        "orderId": order.id,
        "orderListId": -1,
        "clientOrderId": order.client_order_id,
        "transactTime": order.created,
    }
    if kind == "ACK":
        return answer
    answer |= {**_order_core(order), "workingTime": order.created}
    if kind == "FULL":
        answer["fills"] = [_fill_json(fill) for fill in change.fills]
    return answer


def canceled_json(order: Order, cancel_id: str) -> Json:
    return {
        "symbol": order.market,
        "origClientOrderId": order.client_order_id,
        "orderId": order.id,
        "orderListId": -1,
        "clientOrderId": cancel_id,
        "transactTime": order.updated,
        **_order_core(order),
    }


def _fill_json(fill: Fill) -> Json:
    return {
        "price": text(fill.price),
        "qty": text(fill.quantity),
        "commission": text(fill.fee),
        "commissionAsset": fill.fee_asset,
        "tradeId": fill.id,
    }


def trade_json(fill: Fill) -> Json:
    """An execution as the account sees it."""
    return {
        "symbol": fill.market,
        "id": fill.id,
        "orderId": fill.order_id,
        "orderListId": -1,
        "price": text(fill.price),
        "qty": text(fill.quantity),
        "quoteQty": text(fill.cost),
        "commission": text(fill.fee),
        "commissionAsset": fill.fee_asset,
        "time": fill.time,
        "isBuyer": fill.side == "BUY",
        "isMaker": fill.maker,
        "isBestMatch": True,
    }
