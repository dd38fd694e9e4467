"""The look-up by the venue's own number: whose is an order that nobody here knows?"""

from typing import Any

import pytest

from trader.errors import ExchangeError, Unknown

NAME = "0193c2a4-6f0e-7c3b-9d1e-2f4a5b6c7d8e"
BINANCE = {
    "symbol": "BTCUSDT",
    "orderId": 28,
    "clientOrderId": NAME,
    "price": "0",
    "origQty": "1",
    "executedQty": "1",
    "cummulativeQuoteQty": "100",
    "status": "FILLED",
    "timeInForce": "GTC",
    "type": "MARKET",
    "side": "BUY",
    "time": 1777897815000,
    "updateTime": 1777897815000,
}
KRAKEN = {
    "status": "closed",
    "opentm": 1777897815.0,
    "cl_ord_id": NAME,
    "descr": {"pair": "XBTUSD", "type": "buy", "ordertype": "market", "price": "0", "price2": "0"},
    "vol": "0.0001",
    "vol_exec": "0.0001",
    "cost": "7",
    "fee": "0.01",
    "price": "70000",
    "misc": "",
    "oflags": "fciq",
}
BYBIT = {
    "symbol": "BTCUSDT",
    "orderId": "99",
    "orderLinkId": NAME,
    "orderStatus": "Filled",
    "side": "Buy",
    "orderType": "Market",
    "qty": "0.01",
    "cumExecQty": "0.01",
    "cumExecValue": "100",
    "createdTime": "1777897815000",
    "updatedTime": "1777897815000",
}
ORDERS: dict[str, tuple[str, str, tuple[str, str], str, Any, dict[str, Any]]] = {
    "binance": ("BTC/USDT", "28", ("GET", "/api/v3/order"), "orderId", BINANCE, {}),
    "kraken": (
        "BTC/USD",
        "OA-1",
        ("POST", "/0/private/QueryOrders"),
        "txid",
        {"error": [], "result": {"OA-1": KRAKEN}},
        {},
    ),
    "bybit": (
        "BTC/USDT",
        "99",
        ("GET", "/v5/order/realtime"),
        "orderId",
        {"retCode": 0, "retMsg": "OK", "result": {"list": [BYBIT], "category": "spot"}},
        {"enableUnifiedMargin": False, "enableUnifiedAccount": True},
    ),
}


@pytest.mark.parametrize("venue", ORDERS)
async def test_a_number_leads_to_the_name(open_live: Any, scripted: Any, venue: str) -> None:
    symbol, number, path, field, answer, options = ORDERS[venue]
    scripted.on(*path, answer)
    report = await open_live(venue, options=options).find_number(symbol, number)
    assert (report.venue_order_id, report.client_order_id, report.status) == (number, NAME, "filled")
    assert scripted.seen(*path)[-1].params[field] == number


async def test_a_number_that_is_not_there(open_live: Any, scripted: Any, reply: Any) -> None:
    absent = '{"code": -2013, "msg": "Order does not exist."}'
    scripted.on("GET", "/api/v3/order", reply(status=400, body=absent))
    assert await open_live().find_number("BTC/USDT", "28") is None


async def test_an_answer_about_another_number_is_no_answer(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", "/api/v3/order", BINANCE | {"orderId": 29})
    with pytest.raises(Unknown):
        await open_live().find_number("BTC/USDT", "28")


@pytest.mark.parametrize("body", ["", "{}", "[]", "null"])
async def test_what_cannot_be_read_says_nothing(open_live: Any, scripted: Any, body: str) -> None:
    scripted.on("GET", "/api/v3/order", body)
    with pytest.raises(ExchangeError):
        await open_live().find_number("BTC/USDT", "28")
