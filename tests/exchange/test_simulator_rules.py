"""What the simulated venue refuses, and in which words."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import ccxt
import pytest

Start = Callable[..., Any]
MARKET = {"symbol": "BTCUSDT", "side": "BUY", "type": "MARKET", "quantity": "0.01"}
LIMIT = {
    "symbol": "BTCUSDT",
    "side": "BUY",
    "type": "LIMIT",
    "quantity": "0.01",
    "price": "10000",
    "timeInForce": "GTC",
}


@pytest.fixture(scope="module")
def venue(simulator_for_module: Start) -> Any:
    started = simulator_for_module("--balance", "USDT=10000")
    started.price("20000")
    return started


def send(venue: Any, method: str, path: str, parameters: dict[str, Any], **change: Any) -> tuple[int, Any]:
    """A signed request as Binance's documents describe it, without ccxt: HTTP status and JSON."""
    shift, key = change.get("shift", 0), change.get("key", venue.key)
    query = urlencode({**parameters, "timestamp": int(time.time() * 1000) + shift} | change.get("extra", {}))
    secret = change.get("secret", venue.secret)
    query += "&signature=" + hmac.new(secret.encode(), query.encode(), hashlib.sha256).hexdigest()
    request = Request(f"{venue.url}{path}?{query}", method=method, headers={"X-MBX-APIKEY": key} if key else {})
    try:
        with urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        return error.code, json.load(error)


def order(venue: Any, parameters: dict[str, Any], **change: Any) -> tuple[int, Any]:
    return send(venue, "POST", "/api/v3/order", parameters, **change)


@pytest.mark.parametrize(
    ("change", "status", "code", "message"),
    [
        ({"key": None}, 401, -2014, "API-key format invalid."),
        ({"key": "stranger"}, 401, -2015, "Invalid API-key, IP, or permissions for action."),
        ({"secret": "wrong"}, 400, -1022, "Signature for this request is not valid."),
        ({"shift": -6000}, 400, -1021, "Timestamp for this request is outside of the recvWindow."),
        ({"shift": -600, "extra": {"recvWindow": 500}}, 400, -1021, "Timestamp for this request is outside of the"),
        ({"shift": 2500}, 400, -1021, "Timestamp for this request was 1000ms ahead of the server's time."),
        ({"extra": {"recvWindow": 60001}}, 400, -1131, "recvWindow must be less than 60000"),
    ],
)
def test_who_may_ask_and_when(venue: Any, change: dict[str, Any], status: int, code: int, message: str) -> None:
    before = venue.venue_state()["orders"]
    got, answer = order(venue, MARKET, **change)
    assert (got, answer["code"]) == (status, code)
    assert message in answer["msg"]
    assert venue.venue_state()["orders"] == before


def test_a_late_but_not_too_late_request_is_served(venue: Any) -> None:
    assert order(venue, MARKET, shift=-3000)[0] == 200
    assert order(venue, MARKET, shift=-20_000, extra={"recvWindow": 60_000})[0] == 200


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"symbol": "NOPE"}, -1121, "Invalid symbol."),
        ({"symbol": ""}, -1102, "Mandatory parameter 'symbol' was not sent"),
        ({"side": "HOLD"}, -1117, "Invalid side."),
        ({"type": "STOP_LOSS"}, -1116, "Invalid orderType."),
        ({"timeInForce": "GTX"}, -1115, "Invalid timeInForce."),
        ({"quantity": ""}, -1102, "Mandatory parameter 'quantity'"),
        ({"price": ""}, -1102, "Mandatory parameter 'price'"),
        ({"quantity": "NaN"}, -1100, "Illegal characters found in parameter 'quantity'"),
        ({"quantity": "-1"}, -1100, "Illegal characters found in parameter 'quantity'"),
        ({"quantity": "1e2"}, -1100, "Illegal characters found in parameter 'quantity'"),
        ({"price": "10000.123456789"}, -1111, "too much precision"),
        ({"quantity": "0.000001"}, -1013, "Filter failure: LOT_SIZE"),
        ({"price": "10000.005"}, -1013, "Filter failure: PRICE_FILTER"),
        ({"quantity": "0.0001"}, -1013, "Filter failure: NOTIONAL"),
        ({"quantity": "100"}, -2010, "Account has insufficient balance for requested action."),
        ({"newClientOrderId": "a b"}, -1100, "Illegal characters found in parameter 'newClientOrderId'"),
        ({"newClientOrderId": "x" * 37}, -1100, "Illegal characters found in parameter 'newClientOrderId'"),
        (
            {"type": "LIMIT_MAKER", "timeInForce": "", "price": "21000"},
            -2010,
            "Order would immediately match and take.",
        ),
        ({"type": "MARKET"}, -1106, "sent when not required"),
        ({"quoteOrderQty": "50"}, -1106, "Parameter 'quoteOrderQty' sent when not required."),
        ({"type": "MARKET", "timeInForce": "", "price": "", "quoteOrderQty": "50"}, -1128, "Combination"),
    ],
)
def test_what_is_refused_of_an_order(venue: Any, change: dict[str, str], code: int, message: str) -> None:
    before = venue.venue_state()["balances"]
    status, answer = order(venue, {**LIMIT, **change})
    assert (status, answer["code"]) == (400, code)
    assert message in answer["msg"]
    assert venue.venue_state()["balances"] == before


def test_a_client_id_is_unique_among_open_orders_and_free_again_after(venue: Any) -> None:
    named = {"newClientOrderId": "again"}
    first = order(venue, {**LIMIT, **named})[1]
    assert order(venue, {**MARKET, **named})[1] == {"code": -2010, "msg": "Duplicate order sent."}
    by_name = {"symbol": "BTCUSDT", "origClientOrderId": "again"}
    assert send(venue, "DELETE", "/api/v3/order", by_name)[1]["status"] == "CANCELED"
    second = order(venue, {**MARKET, **named})[1]
    third = order(venue, {**MARKET, **named})[1]
    assert [second["status"], third["status"]] == ["FILLED", "FILLED"]
    assert len({first["orderId"], second["orderId"], third["orderId"]}) == 3
    assert send(venue, "GET", "/api/v3/order", by_name)[1]["orderId"] == third["orderId"]
    assert {"key": venue.key, "client_order_id": "again", "orders": 3, "filled": 2} in venue.venue_state()["duplicates"]


@pytest.mark.parametrize(("kind", "present"), [("ACK", []), ("RESULT", ["status"]), ("FULL", ["status", "fills"])])
def test_the_three_kinds_of_answer(venue: Any, kind: str, present: list[str]) -> None:
    answer = order(venue, {**MARKET, "newOrderRespType": kind})[1]
    assert [name for name in ("status", "fills") if name in answer] == present


def test_what_is_not_there_is_said_so(venue: Any) -> None:
    absent = {"symbol": "BTCUSDT", "origClientOrderId": "never-sent"}
    assert send(venue, "GET", "/api/v3/order", absent)[1]["code"] == -2013
    assert send(venue, "DELETE", "/api/v3/order", absent)[1] == {"code": -2011, "msg": "Unknown order sent."}
    assert send(venue, "GET", "/api/v3/order", {"symbol": "BTCUSDT"})[1]["code"] == -1102
    assert send(venue, "GET", "/api/v3/nothing", {})[0] == 404
    for wrong in (2**63, "1.5", "-1", "٣"):
        assert send(venue, "GET", "/api/v3/order", {"symbol": "BTCUSDT", "orderId": wrong})[1]["code"] == -1100
    assert send(venue, "GET", "/api/v3/klines", {"symbol": "BTCUSDT", "interval": "7m"})[1]["code"] == -1120


def test_trades_are_paged_by_id_by_order_and_by_time(venue: Any) -> None:
    mine = order(venue, {**MARKET, "quantity": "0.1"})[1]
    assert len(mine["fills"]) > 1
    everything = send(venue, "GET", "/api/v3/myTrades", {"symbol": "BTCUSDT"})[1]

    def page(**parameters: Any) -> list[int]:
        return [t["id"] for t in send(venue, "GET", "/api/v3/myTrades", {"symbol": "BTCUSDT", **parameters})[1]]

    numbers = [trade["id"] for trade in everything]
    assert numbers == sorted(numbers)
    assert page(fromId=numbers[0], limit=2) == numbers[:2]
    assert page(limit=2) == numbers[-2:]
    assert page(orderId=mine["orderId"]) == [fill["tradeId"] for fill in mine["fills"]]
    assert page(startTime=everything[0]["time"], limit=1) == numbers[:1]
    assert page(startTime=everything[-1]["time"] + 60_000) == []
    assert (
        send(venue, "GET", "/api/v3/myTrades", {"symbol": "BTCUSDT", "startTime": 1, "endTime": 10**9})[1]["code"]
        == -1127
    )


def test_ccxt_gives_the_refusals_their_classes(venue: Any) -> None:
    client = ccxt.binance(venue.options())
    client.load_markets()
    with pytest.raises(ccxt.InsufficientFunds):
        client.create_order("BTC/USDT", "market", "buy", 100)
    with pytest.raises(ccxt.BadRequest):
        client.create_order("BTC/USDT", "limit", "buy", 0.0001, 10000)
    with pytest.raises(ccxt.AuthenticationError):
        ccxt.binance(venue.options(apiKey="stranger")).fetch_balance()
    with pytest.raises(ccxt.InvalidNonce):
        client.fetch_balance({"timestamp": 1})
    with pytest.raises(ccxt.OrderNotFound):
        client.fetch_order("999999", "BTC/USDT")


def test_fees_are_paid_in_the_fee_asset_while_it_lasts(simulator: Start) -> None:
    started = simulator("--balance", "USDT=10000", "--balance", "BNB=0.005", "--fee-asset", "BNB")
    started.price("20000")
    client = ccxt.binance(started.options())
    fees = [client.create_order("BTC/USDT", "market", "buy", 0.05)["fees"] for _ in range(2)]
    assert {fee["currency"] for fee in fees[0] + fees[1]} == {"BNB", "BTC"}
    assert 0 <= client.fetch_balance()["BNB"]["free"] < 0.005
