"""Time in force on the wire, in the words of each venue."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.exchange.test_live_orders import AT, BYBIT, ID, ORDER, full_answer, venue_error
from trader.errors import Refused
from trader.exchange.protocol import OrderRequest, TimeInForce

LIMIT = OrderRequest(
    ID, "BTC/USDT", "buy", "limit", Decimal("0.01"), None, Decimal("58941.63"), AT, timedelta(seconds=5)
)


@pytest.mark.parametrize(
    ("force", "type_", "told"),
    [("GTC", "LIMIT", "GTC"), ("IOC", "LIMIT", "IOC"), ("FOK", "LIMIT", "FOK"), ("PO", "LIMIT_MAKER", None)],
)
async def test_binance(open_live: Any, scripted: Any, force: TimeInForce, type_: str, told: str | None) -> None:
    scripted.on(*ORDER, full_answer(status="NEW", executedQty="0", fills=[], type="LIMIT"))
    await open_live().create(replace(LIMIT, time_in_force=force))
    (sent,) = scripted.seen(*ORDER)
    assert (sent.params["type"], sent.params.get("timeInForce")) == (type_, told)
    assert "postOnly" not in sent.params


async def test_a_market_order_has_none(open_live: Any, scripted: Any) -> None:
    request = replace(LIMIT, type="market", limit_price=None, time_in_force="IOC")
    with pytest.raises(Refused, match="time_in_force IOC: only a limit order has one"):
        await open_live().create(request)
    assert scripted.seen(*ORDER) == []


async def test_a_post_only_order_that_would_trade_is_refused(open_live: Any, scripted: Any, reply: Any) -> None:
    scripted.on(*ORDER, reply(status=400, body=venue_error(-2010, "Order would immediately match and take.")))
    with pytest.raises(Refused, match="immediately match"):
        await open_live().create(replace(LIMIT, time_in_force="PO"))


@pytest.mark.parametrize(
    ("force", "field", "told"),
    [("GTC", "oflags", "fciq"), ("PO", "oflags", "fciq,post"), ("IOC", "timeinforce", "IOC")],
)
async def test_kraken(open_live: Any, scripted: Any, force: TimeInForce, field: str, told: str | None) -> None:
    scripted.on("POST", "/0/private/AddOrder", {"error": [], "result": {"descr": {}, "txid": ["OAAAA-BBBBB-CCCCCC"]}})
    request = replace(LIMIT, symbol="BTC/USD", limit_price=Decimal("58941.6"), time_in_force=force)
    await open_live("kraken").create(request)
    (sent,) = scripted.seen("POST", "/0/private/AddOrder")
    assert sent.params.get(field) == told


@pytest.mark.parametrize(("force", "told"), [("GTC", "GTC"), ("IOC", "IOC"), ("FOK", "FOK"), ("PO", "PostOnly")])
async def test_bybit(open_live: Any, scripted: Any, force: TimeInForce, told: str) -> None:
    scripted.on("POST", "/v5/order/create", {"retCode": 0, "result": {"orderId": "15", "orderLinkId": ID}, "time": 1})
    await open_live("bybit", options=BYBIT).create(replace(LIMIT, time_in_force=force))
    (sent,) = scripted.seen("POST", "/v5/order/create")
    assert sent.params.get("timeInForce", "GTC") == told
