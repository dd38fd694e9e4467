"""Orders on the wire: what is sent, what an answer becomes, and what a failure means."""

import asyncio
import json
import re
import socket
import traceback
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from trader.clock import from_milliseconds, to_milliseconds
from trader.errors import ExchangeError, Fatal, Refused, Retry, Unknown
from trader.exchange.protocol import OrderRequest

AT = datetime(2026, 5, 4, 12, 30, 15, 123000, tzinfo=UTC)
ID = "3f0c2a54-9d0e-4a59-8a3c-0d8d1a7d2f11"
MARKET_BUY = OrderRequest(
    client_order_id=ID,
    symbol="BTC/USDT",
    side="buy",
    type="market",
    quantity=Decimal("0.01000"),
    quote_quantity=None,
    limit_price=None,
    submitted_at=AT,
    receive_window=timedelta(seconds=5),
)
LIMIT_SELL = replace(
    MARKET_BUY, side="sell", type="limit", quantity=Decimal("1.23456"), limit_price=Decimal("58941.63")
)
ORDER = ("POST", "/api/v3/order")


def full_answer(**changes: Any) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "orderId": 28,
        "orderListId": -1,
        "clientOrderId": ID,
        "transactTime": 1777897815200,
        "price": "0.00000000",
        "origQty": "0.01000000",
        "executedQty": "0.01000000",
        "cummulativeQuoteQty": "589.41630000",
        "status": "FILLED",
        "timeInForce": "GTC",
        "type": "MARKET",
        "side": "BUY",
        "fills": [
            {
                "price": "58941.63",
                "qty": "0.00400001",
                "commission": "0.0000040000001",
                "commissionAsset": "BTC",
                "tradeId": 56,
            },
            {
                "price": "58941.64",
                "qty": "0.00599999",
                "commission": "0.00000700",
                "commissionAsset": "BNB",
                "tradeId": 57,
            },
        ],
    } | changes


async def test_a_market_order_goes_out_exactly_and_signed_with_its_own_moment(open_live: Any, scripted: Any) -> None:
    scripted.on(*ORDER, full_answer())
    await open_live().create(MARKET_BUY)
    (sent,) = scripted.seen(*ORDER)
    signature = sent.params.pop("signature")
    assert re.fullmatch(r"[0-9a-f]{64}", signature)
    assert sent.params == {
        "symbol": "BTCUSDT",
        "side": "BUY",
        "type": "MARKET",
        "quantity": "0.01",
        "newClientOrderId": ID,
        "newOrderRespType": "FULL",
        "timestamp": str(to_milliseconds(AT)),
        "recvWindow": "5000",
    }


async def test_a_limit_order_keeps_every_digit(open_live: Any, scripted: Any) -> None:
    scripted.on(*ORDER, full_answer(status="NEW", executedQty="0", fills=[], type="LIMIT", side="SELL"))
    report = await open_live().create(LIMIT_SELL)
    (sent,) = scripted.seen(*ORDER)
    assert (sent.params["quantity"], sent.params["price"]) == ("1.23456", "58941.63")
    assert sent.params["timeInForce"] == "GTC"
    assert (report.status, report.filled_quantity, report.fills) == ("accepted", Decimal(0), ())


async def test_quote_quantity_is_spent_and_no_quantity_is_sent(open_live: Any, scripted: Any) -> None:
    scripted.on(*ORDER, full_answer())
    await open_live().create(replace(MARKET_BUY, quantity=None, quote_quantity=Decimal("100.25")))
    (sent,) = scripted.seen(*ORDER)
    assert sent.params["quoteOrderQty"] == "100.25"
    assert not {"quantity", "price", "cost"} & set(sent.params)


async def test_quote_quantity_is_cut_down_to_the_step_never_up(open_live: Any, scripted: Any) -> None:
    scripted.on(*ORDER, full_answer())
    await open_live().create(replace(MARKET_BUY, quantity=None, quote_quantity=Decimal("100.25999999")))
    (sent,) = scripted.seen(*ORDER)
    assert sent.params["quoteOrderQty"] == "100.25"


async def test_the_full_answer_becomes_fills_with_their_own_fee_assets(open_live: Any, scripted: Any) -> None:
    scripted.on(*ORDER, full_answer())
    report = await open_live().create(MARKET_BUY)
    assert (report.venue_order_id, report.client_order_id, report.status) == ("28", ID, "filled")
    assert report.filled_quantity == Decimal("0.01")
    first, second = report.fills
    assert (first.trade_id, first.quantity, first.price) == ("56", Decimal("0.00400001"), Decimal("58941.63"))
    assert (first.fee, first.fee_asset) == (Decimal("0.0000040000001"), "BTC")
    assert (second.fee, second.fee_asset) == (Decimal("0.000007"), "BNB")
    assert {fill.side for fill in report.fills} == {"buy"}
    assert {fill.venue_order_id for fill in report.fills} == {"28"}
    assert first.traded_at == from_milliseconds(1777897815200)


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": Decimal("0.010001")},
        {"quantity": Decimal("0.000001")},
        {"quantity": Decimal("NaN")},
        {"quantity": Decimal(0)},
        {"quantity": None},
        {"quote_quantity": Decimal(5)},
        {"limit_price": Decimal(5)},
        {"quantity": None, "quote_quantity": Decimal("0.009")},
        {"quantity": None, "quote_quantity": Decimal(100), "side": "sell"},
        {"type": "limit", "limit_price": Decimal("58941.635")},
        {"type": "limit"},
        {"symbol": "NO/SUCH"},
    ],
    ids=str,
)
async def test_what_would_go_out_changed_is_refused_before_it_is_sent(
    open_live: Any, scripted: Any, change: Any
) -> None:
    with pytest.raises(Refused):
        await open_live().create(replace(MARKET_BUY, **change))
    assert scripted.seen(*ORDER) == []


def venue_error(code: int, msg: str) -> str:
    return json.dumps({"code": code, "msg": msg})


FAILURES = [
    (
        "insufficient",
        {"status": 400, "body": venue_error(-2010, "Account has insufficient balance for requested action.")},
        Refused,
    ),
    ("min notional", {"status": 400, "body": venue_error(-1013, "Filter failure: NOTIONAL")}, Refused),
    ("lot size", {"status": 400, "body": venue_error(-1013, "Filter failure: LOT_SIZE")}, Refused),
    (
        "too late",
        {"status": 400, "body": venue_error(-1021, "Timestamp for this request is outside of the recvWindow.")},
        Retry,
    ),
    ("429", {"status": 429, "body": venue_error(-1003, "Too many requests."), "headers": {"Retry-After": "7"}}, Retry),
    ("bad key", {"status": 401, "body": venue_error(-2014, "API-key format invalid.")}, Fatal),
    ("bad signature", {"status": 400, "body": venue_error(-1022, "Signature for this request is not valid.")}, Fatal),
    ("duplicate", {"status": 400, "body": venue_error(-2010, "Duplicate order sent.")}, Unknown),
    (
        "venue time-out",
        {"status": 504, "body": venue_error(-1007, "Timeout waiting for response from backend server.")},
        Unknown,
    ),
    ("refusal inside a 503", {"status": 503, "body": venue_error(-1013, "Filter failure: NOTIONAL")}, Unknown),
    ("500", {"status": 500, "body": "oops"}, Unknown),
    ("502", {"status": 502, "body": "<html>bad gateway</html>"}, Unknown),
    ("unheard-of code", {"status": 400, "body": venue_error(-99999, "New in this release.")}, Unknown),
    ("empty object", {"body": "{}"}, Unknown),
    ("null", {"body": "null"}, Unknown),
    ("list", {"body": "[]"}, Unknown),
    ("garbage", {"body": "\x00\x01 what"}, Unknown),
    ("html with 200", {"body": "<html>welcome</html>"}, Unknown),
    ("half a JSON", {"body": '{"orderId": 28, "sym'}, Unknown),
    ("NaN", {"body": json.dumps(full_answer(executedQty=float("nan")))}, Unknown),
    ("another order's answer", {"body": json.dumps(full_answer(clientOrderId="someone-else"))}, Unknown),
    ("redirect", {"status": 302, "headers": {"Location": "/api/v3/elsewhere"}, "body": ""}, Unknown),
    ("redirect that repeats the order", {"status": 307, "headers": {"Location": "/api/v3/order"}, "body": ""}, Unknown),
    ("redirect to nowhere", {"status": 307, "headers": {"Location": "http://127.0.0.1:9/x"}, "body": ""}, Unknown),
    ("dropped", {"fault": "drop"}, Unknown),
    ("truncated", {"fault": "truncate", "body": full_answer()}, Unknown),
    ("silent", {"fault": "silent"}, Unknown),
]


@pytest.mark.parametrize(("answer", "expected"), [f[1:] for f in FAILURES], ids=[f[0] for f in FAILURES])
async def test_what_a_failed_create_means(
    open_live: Any, scripted: Any, reply: Any, answer: Any, expected: Any
) -> None:
    live = open_live()
    scripted.on(*ORDER, reply(**answer))
    with pytest.raises(ExchangeError) as caught:
        await live.create(MARKET_BUY)
    assert type(caught.value) is expected, caught.value
    assert len(scripted.seen(*ORDER)) == 1, "an order is never sent twice"


async def test_only_a_duplicate_proves_that_the_order_exists(open_live: Any, scripted: Any, reply: Any) -> None:
    live = open_live()
    scripted.on(
        *ORDER,
        reply(status=400, body=venue_error(-2010, "Duplicate order sent.")),
        reply(status=400, body=venue_error(-1007, "Timeout waiting for response from backend server.")),
    )
    exists = []
    for _ in range(2):
        with pytest.raises(Unknown) as caught:
            await live.create(MARKET_BUY)
        exists.append(caught.value.exists)
    assert exists == [True, False]


async def test_retry_after_is_handed_on(open_live: Any, scripted: Any, reply: Any) -> None:
    live = open_live()
    scripted.on(*ORDER, reply(status=429, body="{}", headers={"Retry-After": "7"}), reply(status=418, body="{}"))
    waits = []
    for _ in range(2):
        with pytest.raises(Retry) as caught:
            await live.create(MARKET_BUY)
        waits.append(caught.value.after)
    assert waits == [7.0, None]


async def test_a_refused_connection_is_known_not_placed(open_live: Any, scripted: Any) -> None:
    live = open_live()
    await live.markets()
    await scripted.stop()
    with pytest.raises(Retry):
        await live.create(MARKET_BUY)


async def test_a_host_without_address_is_known_not_placed(open_live: Any) -> None:
    live = open_live()
    await live.markets()
    live._client.urls["api"]["private"] = "http://no-such-host.invalid/api/v3"
    with pytest.raises(Retry):
        await live.create(MARKET_BUY)


async def test_a_connect_that_hangs_is_known_not_placed(open_live: Any) -> None:
    live = open_live()
    await live.markets()
    with socket.socket() as deaf:
        # A full backlog: the kernel answers no further SYN.
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        live._client.urls["api"]["private"] = f"http://127.0.0.1:{deaf.getsockname()[1]}/api/v3"
        with pytest.raises(Retry):
            await live.create(MARKET_BUY)
        for filler in fillers:
            filler.close()


async def test_markets_that_cannot_be_read_before_an_order_are_no_doubt(
    open_live: Any, scripted: Any, reply: Any
) -> None:
    scripted.on("GET", "/api/v3/exchangeInfo", reply(fault="drop"))
    with pytest.raises(Retry):
        await open_live().create(MARKET_BUY)
    assert scripted.seen(*ORDER) == []


@pytest.mark.parametrize(
    "answer",
    [
        {"fault": "drop"},
        {"status": 502, "body": "x"},
        {"status": 400, "body": venue_error(-2013, "no")},
        {"fault": "silent"},
    ],
    ids=["drop", "502", "not found", "silent"],
)
async def test_no_error_shows_a_secret(open_live: Any, scripted: Any, reply: Any, answer: Any) -> None:
    live = open_live()
    for path in ("/api/v3/order", "/api/v3/account", "/api/v3/myTrades"):
        for method in ("GET", "POST", "DELETE"):
            scripted.on(method, path, reply(**answer))
    calls = [live.create(MARKET_BUY), live.balances(), live.cancel("BTC/USDT", "5"), live.fills("BTC/USDT")]
    for call in calls:
        with pytest.raises(ExchangeError) as caught:
            await call
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(live)
        signatures = [r.params["signature"] for r in scripted.requests if "signature" in r.params]
        assert signatures
        key = live._client.apiKey
        assert not [s for s in (*signatures, key, live._client.secret, "signature=") if s in shown]
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None


async def test_a_venue_that_echoes_the_key_is_scrubbed(open_live: Any, scripted: Any, reply: Any) -> None:
    live = open_live()
    key = live._client.apiKey
    scripted.on(*ORDER, reply(status=400, body=venue_error(-99999, f"bad key {key} apiKey={key}")))
    with pytest.raises(Unknown) as caught:
        await live.create(MARKET_BUY)
    assert key not in str(caught.value)


async def test_the_decimal_context_of_the_caller_stays_as_it_was(open_live: Any, scripted: Any) -> None:
    import decimal

    before = (decimal.getcontext().rounding, decimal.getcontext().traps[decimal.Underflow])
    scripted.on(*ORDER, full_answer())
    await open_live().create(LIMIT_SELL)
    assert (decimal.getcontext().rounding, decimal.getcontext().traps[decimal.Underflow]) == before


async def test_kraken_sends_the_id_and_a_deadline(open_live: Any, scripted: Any) -> None:
    answer = {
        "error": [],
        "result": {"descr": {"order": "sell 1.23456 XBTUSD @ limit 58941.6"}, "txid": ["OAAAA-BBBBB-CCCCCC"]},
    }
    scripted.on("POST", "/0/private/AddOrder", answer)
    report = await open_live("kraken").create(replace(LIMIT_SELL, symbol="BTC/USD", limit_price=Decimal("58941.6")))
    (sent,) = scripted.seen("POST", "/0/private/AddOrder")
    assert sent.params.pop("nonce").isdigit()
    assert sent.params == {
        "pair": "XXBTZUSD",
        "type": "sell",
        "ordertype": "limit",
        "volume": "1.23456",
        "price": "58941.6",
        "cl_ord_id": ID,
        "deadline": "2026-05-04T12:30:20.123Z",
        "oflags": "fciq",
    }
    assert (report.venue_order_id, report.status, report.fills) == ("OAAAA-BBBBB-CCCCCC", None, ())


KRAKEN_FAILURES = [
    ("EOrder:Insufficient funds", Refused),
    ("EAPI:Invalid nonce", Retry),
    ("EAPI:Rate limit exceeded", Retry),
    ("EAPI:Invalid key", Fatal),
    ("EService:Unavailable", Unknown),
    ("EOrder:Something nobody has seen", Unknown),
]


@pytest.mark.parametrize(("error", "expected"), KRAKEN_FAILURES, ids=str)
async def test_what_a_kraken_error_means(open_live: Any, scripted: Any, error: str, expected: Any) -> None:
    scripted.on("POST", "/0/private/AddOrder", {"error": [error]})
    with pytest.raises(ExchangeError) as caught:
        await open_live("kraken").create(replace(MARKET_BUY, symbol="BTC/USD"))
    assert type(caught.value) is expected


BYBIT = {"enableUnifiedMargin": False, "enableUnifiedAccount": True}


async def test_bybit_signs_with_the_orders_moment_and_window(open_live: Any, scripted: Any) -> None:
    scripted.on("POST", "/v5/order/create", {"retCode": 0, "result": {"orderId": "99", "orderLinkId": ID}})
    live = open_live("bybit", options=BYBIT)
    usual = live._client.options["recvWindow"]
    report = await live.create(MARKET_BUY)
    (sent,) = scripted.seen("POST", "/v5/order/create")
    assert sent.headers["X-BAPI-TIMESTAMP"] == str(to_milliseconds(AT))
    assert sent.headers["X-BAPI-RECV-WINDOW"] == "5000"
    assert live._client.options["recvWindow"] == usual
    assert sent.params == {
        "symbol": "BTCUSDT",
        "side": "Buy",
        "orderType": "Market",
        "orderLinkId": ID,
        "category": "spot",
        "marketUnit": "baseCoin",
        "qty": "0.01",
    }
    assert (report.venue_order_id, report.client_order_id, report.status) == ("99", ID, None)


async def test_orders_side_by_side_keep_their_own_moments(open_live: Any, scripted: Any, reply: Any) -> None:
    def answer(seen: Any) -> Any:
        return reply({"retCode": 0, "result": {"orderId": "1", "orderLinkId": seen.params["orderLinkId"]}})

    scripted.on("POST", "/v5/order/create", answer)
    live = open_live("bybit", options=BYBIT)
    moments = {f"id-{n}": AT + timedelta(seconds=n) for n in range(8)}
    orders = [replace(MARKET_BUY, client_order_id=name, submitted_at=at) for name, at in moments.items()]
    await asyncio.gather(*(live.create(request) for request in orders))
    sent = {r.params["orderLinkId"]: r.headers["X-BAPI-TIMESTAMP"] for r in scripted.seen("POST", "/v5/order/create")}
    assert sent == {name: str(to_milliseconds(at)) for name, at in moments.items()}


async def test_a_failure_is_judged_by_its_own_evidence(open_live: Any, scripted: Any, reply: Any) -> None:
    def answer(seen: Any) -> Any:
        busy = seen.params["newClientOrderId"].startswith("busy")
        return reply(status=429, body="{}", headers={"Retry-After": "9"}) if busy else reply(fault="drop")

    scripted.on(*ORDER, answer)
    live = open_live()
    names = [f"{kind}-{n}" for n in range(5) for kind in ("busy", "lost")]
    calls = (live.create(replace(MARKET_BUY, client_order_id=name)) for name in names)
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [Retry, Unknown] * 5
    assert {error.after for error in errors if isinstance(error, Retry)} == {9.0}


QUOTE_BUY = replace(MARKET_BUY, quantity=None, quote_quantity=Decimal("100.25"))


async def test_no_option_makes_quantity_out_of_money(open_live: Any, scripted: Any) -> None:
    scripted.on(*ORDER, full_answer())
    await open_live(options={"quoteOrderQty": False, "createOrder": {"quoteOrderQty": False}}).create(QUOTE_BUY)
    (sent,) = scripted.seen(*ORDER)
    assert sent.params["quoteOrderQty"] == "100.25"
    assert "quantity" not in sent.params


async def test_quote_sized_buys_of_kraken_and_bybit(open_live: Any, scripted: Any) -> None:
    scripted.on(
        "POST",
        "/0/private/AddOrder",
        {"error": [], "result": {"descr": {"order": "buy 100.2 XBTUSD @ market"}, "txid": ["O-1"]}},
    )
    scripted.on("POST", "/v5/order/create", {"retCode": 0, "result": {"orderId": "99", "orderLinkId": ID}})
    await open_live("kraken").create(replace(QUOTE_BUY, symbol="BTC/USD", quote_quantity=Decimal("100.2")))
    await open_live("bybit", options=BYBIT).create(QUOTE_BUY)
    (kraken,) = scripted.seen("POST", "/0/private/AddOrder")
    (bybit,) = scripted.seen("POST", "/v5/order/create")
    assert (kraken.params["volume"], kraken.params["oflags"]) == ("100.2", "fciq,viqc")
    assert bybit.params["qty"] == "100.25"
    assert "marketUnit" not in bybit.params, "a market buy without a unit is sized in quote"


async def test_bybit_never_reads_a_base_quantity_as_money(open_live: Any, scripted: Any) -> None:
    live = open_live("bybit", options={"enableUnifiedMargin": False, "enableUnifiedAccount": False})
    with pytest.raises(Refused):
        await live.create(MARKET_BUY)
    assert scripted.seen("POST", "/v5/order/create") == []


@pytest.mark.parametrize(
    ("code", "exists"), [(110072, True), (170141, True), (10014, True), (12141, True), (170146, False)]
)
async def test_bybit_refusals_that_are_none(open_live: Any, scripted: Any, code: int, exists: bool) -> None:
    scripted.on("POST", "/v5/order/create", {"retCode": code, "retMsg": "x", "result": {}, "time": 1})
    with pytest.raises(Unknown) as caught:
        await open_live("bybit", options=BYBIT).create(MARKET_BUY)
    assert caught.value.exists is exists


async def test_a_cancel_of_what_is_not_open_is_refused(open_live: Any, scripted: Any, reply: Any) -> None:
    scripted.on("DELETE", "/api/v3/order", reply(status=400, body=venue_error(-2011, "Unknown order sent.")))
    with pytest.raises(Refused):
        await open_live().cancel("BTC/USDT", "28")


async def test_a_cancel_names_the_order(open_live: Any, scripted: Any) -> None:
    scripted.on("DELETE", "/api/v3/order", full_answer(status="CANCELED", fills=[]))
    await open_live().cancel("BTC/USDT", "28")
    (sent,) = scripted.seen("DELETE", "/api/v3/order")
    assert (sent.params["orderId"], sent.params["symbol"]) == ("28", "BTCUSDT")
