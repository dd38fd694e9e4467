"""Reading a venue: what is there, all of it, exactly; and never "empty" for "could not read"."""

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from trader.clock import from_milliseconds
from trader.errors import ExchangeError, InputError, Refused, Unknown
from trader.exchange.live import connect
from trader.exchange.protocol import AssetBalance, Candle, CandleWays, MarketInfo, Ticker

ID = "3f0c2a54-9d0e-4a59-8a3c-0d8d1a7d2f11"
T0 = 1777897815000
GARBAGE = ["{}", "null", "[]x", "<html></html>", '{"symbol": "BTC', '""', "5"]


def order(**changes: Any) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "orderId": 28,
        "clientOrderId": ID,
        "price": "58000.00",
        "origQty": "1.00000000",
        "executedQty": "0.40000000",
        "cummulativeQuoteQty": "23200.00",
        "status": "PARTIALLY_FILLED",
        "timeInForce": "GTC",
        "type": "LIMIT",
        "side": "BUY",
        "time": T0,
        "updateTime": T0,
        "isWorking": True,
    } | changes


def trade(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "symbol": "BTCUSDT",
        "id": number,
        "orderId": 28,
        "price": "58000.01",
        "qty": "0.00000001",
        "commission": "0.00000001",
        "commissionAsset": "BTC",
        "time": T0 + number,
        "isBuyer": True,
        "isMaker": number % 2 == 0,
        "isBestMatch": True,
    } | changes


async def test_markets_have_exact_steps_and_spot_only(open_live: Any) -> None:
    markets = {info.symbol: info for info in await open_live().markets()}
    assert markets["BTC/USDT"] == MarketInfo(
        symbol="BTC/USDT",
        base="BTC",
        quote="USDT",
        active=True,
        price_tick=Decimal("0.01"),
        quantity_step=Decimal("0.00001"),
        quantity_min=Decimal("0.00001"),
        quantity_max=Decimal(9000),
        cost_min=Decimal(5),
        maker_fee=Decimal("0.001"),
        taker_fee=Decimal("0.001"),
        fee_side="get",
    )
    shib = markets["SHIB/USDT"]
    assert (shib.active, shib.price_tick, shib.quantity_step) == (False, Decimal("0.00000001"), Decimal(1))


async def test_markets_of_kraken_and_bybit(open_live: Any) -> None:
    (kraken,) = await open_live("kraken").markets()
    assert (kraken.symbol, kraken.price_tick, kraken.quantity_step) == ("BTC/USD", Decimal("0.1"), Decimal("1E-8"))
    assert (kraken.quantity_min, kraken.cost_min) == (Decimal("0.00005"), Decimal("0.5"))
    assert (kraken.maker_fee, kraken.taker_fee) == (Decimal("0.0025"), Decimal("0.004"))
    (bybit,) = await open_live("bybit").markets()
    assert (bybit.symbol, bybit.price_tick, bybit.quantity_step) == ("BTC/USDT", Decimal("0.01"), Decimal("1E-6"))


@pytest.mark.parametrize("body", [*GARBAGE, '{"symbols": []}'])
async def test_no_markets_are_never_an_empty_list(open_live: Any, scripted: Any, body: str) -> None:
    scripted.on("GET", "/api/v3/exchangeInfo", body)
    with pytest.raises(Unknown):
        await open_live().markets()


async def test_the_venues_clock(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", "/api/v3/time", {"serverTime": T0})
    assert await open_live().time() == from_milliseconds(T0)


@pytest.mark.parametrize("body", GARBAGE)
async def test_garbage_is_no_time(open_live: Any, scripted: Any, body: str) -> None:
    scripted.on("GET", "/api/v3/time", body)
    with pytest.raises(Unknown):
        await open_live().time()


async def test_find_asks_by_our_id(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", "/api/v3/order", order())
    report = await open_live().find("BTC/USDT", ID)
    (sent,) = scripted.seen("GET", "/api/v3/order")
    assert (sent.params["origClientOrderId"], sent.params["symbol"]) == (ID, "BTCUSDT")
    assert "orderId" not in sent.params
    assert (report.venue_order_id, report.status, report.filled_quantity) == ("28", "partially_filled", Decimal("0.4"))


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (order(status="NEW", executedQty="0"), "accepted"),
        (order(), "partially_filled"),
        (order(status="FILLED", executedQty="1"), "filled"),
        (order(status="CANCELED"), "canceled"),
        (order(status="EXPIRED"), "expired"),
        (order(status="REJECTED", executedQty="0"), "rejected"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_every_status(open_live: Any, scripted: Any, raw: Any, status: str) -> None:
    scripted.on("GET", "/api/v3/order", raw)
    assert (await open_live().find("BTC/USDT", ID)).status == status


async def test_only_the_venues_own_word_is_absence(open_live: Any, scripted: Any, reply: Any) -> None:
    absent = '{"code": -2013, "msg": "Order does not exist."}'
    live = open_live()
    scripted.on("GET", "/api/v3/order", reply(status=400, body=absent))
    assert await live.find("BTC/USDT", ID) is None


UNREADABLE: list[dict[str, Any]] = [
    *({"body": body} for body in GARBAGE),
    {"status": 404, "body": "not here"},
    {"status": 500, "body": '{"code": -2013, "msg": "Order does not exist."}'},
    {"status": 503, "body": ""},
    {"status": 429, "body": "{}"},
    {"status": 400, "body": '{"code": -1021, "msg": "Timestamp for this request is outside of the recvWindow."}'},
    {"fault": "drop"},
    {"fault": "silent"},
    {"fault": "truncate", "body": order()},
]


@pytest.mark.parametrize("answer", UNREADABLE, ids=str)
async def test_a_look_up_that_fails_proves_nothing(open_live: Any, scripted: Any, reply: Any, answer: Any) -> None:
    scripted.on("GET", "/api/v3/order", reply(**answer))
    with pytest.raises(ExchangeError):
        await open_live().find("BTC/USDT", ID)


async def test_an_answer_about_another_order_is_no_answer(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", "/api/v3/order", order(clientOrderId="someone-else"))
    with pytest.raises(Unknown):
        await open_live().find("BTC/USDT", ID)


READS = {
    "balances": ("/api/v3/account", lambda live: live.balances()),
    "open_orders": ("/api/v3/openOrders", lambda live: live.open_orders("BTC/USDT")),
    "fills": ("/api/v3/myTrades", lambda live: live.fills("BTC/USDT")),
    "candles": ("/api/v3/klines", lambda live: live.candles("BTC/USDT", "1m", None, 10)),
    "ticker": ("/api/v3/ticker/24hr", lambda live: live.ticker("BTC/USDT")),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("answer", [a for a in UNREADABLE if a.get("fault") != "silent"], ids=str)
async def test_could_not_read_is_never_empty(
    open_live: Any, scripted: Any, reply: Any, name: str, answer: dict[str, Any]
) -> None:
    path, read = READS[name]
    scripted.on("GET", path, reply(**answer))
    with pytest.raises(ExchangeError):
        await read(open_live())


async def test_balances_are_exact_and_only_what_is_owned(open_live: Any, scripted: Any) -> None:
    scripted.on(
        "GET",
        "/api/v3/account",
        {
            "balances": [
                {"asset": "BTC", "free": "0.12345678901234567", "locked": "0.1"},
                {"asset": "USDT", "free": "100.1", "locked": "0"},
                {"asset": "DOGE", "free": "0.00000000", "locked": "0.00000000"},
            ]
        },
    )
    assert await open_live().balances() == [
        AssetBalance("BTC", Decimal("0.22345678901234567"), Decimal("0.12345678901234567"), Decimal("0.1")),
        AssetBalance("USDT", Decimal("100.1"), Decimal("100.1"), Decimal(0)),
    ]


async def test_an_account_that_owns_nothing_is_empty(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", "/api/v3/account", {"balances": []})
    assert await open_live().balances() == []


@pytest.mark.parametrize("free", ["NaN", None, "abc", ""])
async def test_a_balance_that_is_no_number_is_not_read(open_live: Any, scripted: Any, free: Any) -> None:
    scripted.on("GET", "/api/v3/account", {"balances": [{"asset": "BTC", "free": free, "locked": "0"}]})
    with pytest.raises(Unknown):
        await open_live().balances()


async def test_open_orders_ours_or_not(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", "/api/v3/openOrders", [order(), order(orderId=29, clientOrderId="web_1", executedQty="0")])
    reports = await open_live().open_orders()
    assert [(r.venue_order_id, r.client_order_id) for r in reports] == [("28", ID), ("29", "web_1")]


async def test_no_open_orders(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", "/api/v3/openOrders", [])
    assert await open_live().open_orders("BTC/USDT") == []


def trade_pages(total: int) -> Any:
    def page(seen: Any) -> Any:
        first = int(seen.params.get("fromId", 1))
        limit = int(seen.params["limit"])
        body = [trade(number) for number in range(max(first, 1), total + 1)][:limit]
        return type("Page", (), {"body": body, "status": 200, "headers": {}, "fault": None})()

    return page


async def test_fills_come_from_all_pages_oldest_first(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", "/api/v3/myTrades", trade_pages(2345))
    fills = await open_live().fills("BTC/USDT", since=from_milliseconds(T0 + 1))
    assert [int(fill.trade_id) for fill in fills] == list(range(1, 2346))
    first, second, third = scripted.seen("GET", "/api/v3/myTrades")
    assert first.params["startTime"] == str(T0 + 1)
    assert (second.params["fromId"], third.params["fromId"]) == ("1001", "2001")
    assert "startTime" not in second.params
    assert (fills[0].quantity, fills[0].price, fills[0].fee_asset) == (Decimal("1E-8"), Decimal("58000.01"), "BTC")
    assert (fills[0].liquidity, fills[1].liquidity) == ("taker", "maker")
    assert fills[0].traded_at == from_milliseconds(T0 + 1)


async def test_fills_of_one_order_ask_for_that_order(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", "/api/v3/myTrades", [trade(5), trade(6), trade(7, orderId=99)])
    fills = await open_live().fills("BTC/USDT", venue_order_id="28")
    assert [fill.trade_id for fill in fills] == ["5", "6"]
    (sent,) = scripted.seen("GET", "/api/v3/myTrades")
    assert sent.params["orderId"] == "28"


async def test_all_fills_start_with_the_first(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", "/api/v3/myTrades", [])
    assert await open_live().fills("BTC/USDT") == []
    (sent,) = scripted.seen("GET", "/api/v3/myTrades")
    assert sent.params["fromId"] == "0"


@pytest.mark.parametrize("change", [{"qty": None}, {"price": "NaN"}, {"id": None}, {"time": None}, {"orderId": None}])
async def test_a_fill_that_lacks_a_field_is_not_read(open_live: Any, scripted: Any, change: Any) -> None:
    scripted.on("GET", "/api/v3/myTrades", [trade(1), trade(2, **change)])
    with pytest.raises(Unknown):
        await open_live().fills("BTC/USDT")


async def test_a_failing_second_page_fails_the_whole(open_live: Any, scripted: Any, reply: Any) -> None:
    scripted.on("GET", "/api/v3/myTrades", [trade(n) for n in range(1, 1001)], reply(status=502))
    with pytest.raises(Unknown):
        await open_live().fills("BTC/USDT")


def kline(number: int, **changes: Any) -> list[Any]:
    row: dict[str, Any] = {"time": T0 + number * 60_000, "o": "1.1", "h": "1.3", "l": "1.0", "c": "1.2", "v": "7.5"}
    return [*(row | changes).values(), 0, "0", 1, "0", "0", "0"]


async def test_candles_oldest_first_and_no_more_than_asked(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", "/api/v3/klines", [kline(0), kline(1), kline(2)])
    candles = await open_live().candles("BTC/USDT", "1m", from_milliseconds(T0), 2)
    assert candles[0] == Candle(from_milliseconds(T0), 1.1, 1.3, 1.0, 1.2, 7.5)
    assert [candle.time_open - candles[0].time_open for candle in candles] == [timedelta(0), timedelta(minutes=1)]
    (sent,) = scripted.seen("GET", "/api/v3/klines")
    assert (sent.params["interval"], sent.params["startTime"]) == ("1m", str(T0))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"c": None}, "close"),
        ({"c": "NaN"}, "close"),
        ({"h": "abc"}, "high"),
        ({"v": None}, "volume"),
        ({"o": "1e999"}, "open"),
    ],
)
async def test_a_row_that_is_no_candle_is_left_out_and_told(
    open_live: Any, scripted: Any, change: Any, field: str
) -> None:
    scripted.on("GET", "/api/v3/klines", [kline(0), kline(1, **change), kline(2)])
    page = await open_live().candles("BTC/USDT", "1m", None, 10)
    assert [candle.time_open for candle in page] == [from_milliseconds(T0), from_milliseconds(T0 + 120_000)]
    assert [(row.time_open, row.field) for row in page.refused] == [(from_milliseconds(T0 + 60_000), field)]


@pytest.mark.parametrize("body", [[kline(0, c=None), kline(1, c=None)], {"rows": 1}, "no", None, [1, 2]])
async def test_what_holds_no_candle_at_all_is_not_read(open_live: Any, scripted: Any, body: Any) -> None:
    scripted.on("GET", "/api/v3/klines", body)
    with pytest.raises(Unknown):
        await open_live().candles("BTC/USDT", "1m", None, 10)


async def test_how_a_venue_gives_candles(open_live: Any) -> None:
    assert open_live().candle_ways == CandleWays(1000, skips_holes=True)
    assert open_live("kraken").candle_ways == CandleWays(720, reach=719, skips_holes=True)
    assert open_live("bybit").candle_ways == CandleWays(1000)


@pytest.mark.parametrize(("ccxt_id", "page"), [("okx", 300), ("kucoin", 1500), ("krakenfutures", 500)])
async def test_what_is_not_known_of_a_venue_ccxt_may_know(ccxt_id: str, page: int) -> None:
    live = connect(ccxt_id, options={}, credentials=None, mode="live", allow_live=True)
    assert live.candle_ways == CandleWays(page)
    await live.close()


async def test_candles_of_another_market_are_not_read(open_live: Any, scripted: Any) -> None:
    """ccxt finds an empty list in Kraken's answer, and would take what Bybit gave."""
    row = [T0 // 1000, "1.1", "1.3", "1.0", "1.2", "1.15", "7.5", 9]
    scripted.on("GET", "/0/public/OHLC", {"error": [], "result": {"XETHZUSD": [row], "last": 0}})
    with pytest.raises(Unknown, match="asked for the candles of XXBTZUSD, those of XETHZUSD, last came"):
        await open_live("kraken").candles("BTC/USD", "1m", from_milliseconds(T0), 10)
    rows = [[str(T0), "1.1", "1.3", "1.0", "1.2", "7.5", "8"]]
    result = {"category": "spot", "symbol": "ETHUSDT", "list": rows}
    scripted.on("GET", "/v5/market/kline", {"retCode": 0, "retMsg": "OK", "result": result, "time": T0})
    with pytest.raises(Unknown, match="asked for the candles of BTCUSDT, those of ETHUSDT came"):
        await open_live("bybit").candles("BTC/USDT", "1m", from_milliseconds(T0), 10)


async def test_the_candles_of_kraken_and_bybit(open_live: Any, scripted: Any) -> None:
    wanted = [Candle(from_milliseconds(T0), 1.1, 1.3, 1.0, 1.2, 7.5)]
    row = [T0 // 1000, "1.1", "1.3", "1.0", "1.2", "1.15", "7.5", 9]
    scripted.on("GET", "/0/public/OHLC", {"error": [], "result": {"XXBTZUSD": [row], "last": 0}})
    assert await open_live("kraken").candles("BTC/USD", "1m", from_milliseconds(T0), 10) == wanted
    rows = [[str(T0), "1.1", "1.3", "1.0", "1.2", "7.5", "8"]]
    result = {"category": "spot", "symbol": "BTCUSDT", "list": rows}
    scripted.on("GET", "/v5/market/kline", {"retCode": 0, "retMsg": "OK", "result": result, "time": T0})
    assert await open_live("bybit").candles("BTC/USDT", "1m", from_milliseconds(T0), 10) == wanted


async def test_a_timeframe_the_venue_has_not_is_refused(open_live: Any, scripted: Any) -> None:
    with pytest.raises(Refused, match="7m"):
        await open_live().candles("BTC/USDT", "7m", None, 10)
    assert scripted.seen("GET", "/api/v3/klines") == []


async def test_an_empty_side_of_the_book_has_no_price(open_live: Any, scripted: Any) -> None:
    raw = {"symbol": "BTCUSDT", "bidPrice": "0.00000000", "askPrice": "58000.10", "lastPrice": "58000.01"}
    scripted.on("GET", "/api/v3/ticker/24hr", raw)
    assert await open_live().ticker("BTC/USDT") == Ticker("BTC/USDT", None, Decimal("58000.1"), Decimal("58000.01"))


def kraken_order(**changes: Any) -> dict[str, Any]:
    return {
        "refid": None,
        "userref": None,
        "cl_ord_id": ID,
        "status": "closed",
        "opentm": 1777897815.123456,
        "closetm": 1777897816.1,
        "descr": {
            "pair": "XBTUSD",
            "type": "buy",
            "ordertype": "limit",
            "price": "70000.0",
            "price2": "0",
            "order": "buy 0.00010000 XBTUSD @ limit 70000.0",
        },
        "vol": "0.00010000",
        "vol_exec": "0.00010000",
        "cost": "7.0",
        "fee": "0.01",
        "price": "70000.0",
        "misc": "",
        "oflags": "fciq",
    } | changes


OPEN, CLOSED = ("POST", "/0/private/OpenOrders"), ("POST", "/0/private/ClosedOrders")


async def test_kraken_is_searched_open_first_then_closed(open_live: Any, scripted: Any) -> None:
    scripted.on(*OPEN, {"error": [], "result": {"open": {}}})
    scripted.on(*CLOSED, {"error": [], "result": {"closed": {"OA-1": kraken_order()}, "count": 1}})
    report = await open_live("kraken").find("BTC/USD", ID)
    assert (report.venue_order_id, report.status, report.filled_quantity) == ("OA-1", "filled", Decimal("0.0001"))
    assert [r.params["cl_ord_id"] for r in (*scripted.seen(*OPEN), *scripted.seen(*CLOSED))] == [ID, ID]


async def test_kraken_absence_needs_both_lists(open_live: Any, scripted: Any) -> None:
    live = open_live("kraken")
    scripted.on(*OPEN, {"error": [], "result": {"open": {}}})
    scripted.on(*CLOSED, {"error": [], "result": {"closed": {}, "count": 0}})
    assert await live.find("BTC/USD", ID) is None
    for body in ({"error": []}, {"error": [], "result": {}}, {}, "null"):
        scripted.on(*CLOSED, body)
        with pytest.raises(Unknown):
            await live.find("BTC/USD", ID)


async def test_kraken_fills_by_offset(open_live: Any, scripted: Any, reply: Any) -> None:
    def row(number: int) -> dict[str, Any]:
        return {
            "ordertxid": "OA-1",
            "pair": "XXBTZUSD",
            "time": 1777897815.0 + number,
            "type": "buy",
            "ordertype": "limit",
            "price": "70000.1",
            "cost": "7.0",
            "fee": "0.0182",
            "vol": "0.00010000",
            "misc": "",
            "trade_id": number,
            "maker": True,
        }

    def page(seen: Any) -> Any:
        offset = int(seen.params.get("ofs", 0))
        numbers = range(120 - offset, max(120 - offset - 50, 0), -1)
        return reply({"error": [], "result": {"trades": {f"T-{n:03}": row(n) for n in numbers}, "count": 120}})

    scripted.on("POST", "/0/private/TradesHistory", page)
    fills = await open_live("kraken").fills("BTC/USD", since=from_milliseconds(T0))
    assert [fill.trade_id for fill in fills] == [f"T-{n:03}" for n in range(1, 121)]
    assert (fills[0].fee, fills[0].fee_asset, fills[0].venue_order_id) == (Decimal("0.0182"), "USD", "OA-1")


async def test_kraken_fills_of_one_order_are_asked_for_by_their_ids(open_live: Any, scripted: Any, reply: Any) -> None:
    ids = [f"T-{n:02}" for n in range(40)]
    named = {"error": [], "result": {"OA-1": kraken_order() | {"trades": ids}}}

    def trades(seen: Any) -> Any:
        asked = seen.params["txid"].split(",")
        row = {"ordertxid": "OA-1", "pair": "XXBTZUSD", "type": "buy", "ordertype": "limit", "price": "70000.1"}
        row |= {"cost": "7.0", "fee": "0.0182", "vol": "0.00010000", "time": 1777897815.5, "maker": False}
        return reply({"error": [], "result": {name: row for name in asked if name not in missing}})

    missing: set[str] = set()
    scripted.on("POST", "/0/private/QueryOrders", named)
    scripted.on("POST", "/0/private/QueryTrades", trades)
    live = open_live("kraken")
    assert [fill.trade_id for fill in await live.fills("BTC/USD", venue_order_id="OA-1")] == ids
    missing.add("T-21")
    with pytest.raises(Unknown):
        await live.fills("BTC/USD", venue_order_id="OA-1")


BYBIT = {"enableUnifiedMargin": False, "enableUnifiedAccount": True}


async def test_bybit_is_searched_in_both_lists(open_live: Any, scripted: Any) -> None:
    empty = {"retCode": 0, "retMsg": "OK", "result": {"list": [], "category": "spot"}}
    found = {
        "symbol": "BTCUSDT",
        "orderId": "99",
        "orderLinkId": ID,
        "orderStatus": "PartiallyFilledCanceled",
        "side": "Buy",
        "orderType": "Market",
        "qty": "0.01",
        "cumExecQty": "0.004",
        "cumExecValue": "40",
        "createdTime": str(T0),
        "updatedTime": str(T0),
    }
    scripted.on("GET", "/v5/order/realtime", empty)
    scripted.on("GET", "/v5/order/history", {"retCode": 0, "result": {"list": [found], "category": "spot"}})
    live = open_live("bybit", options=BYBIT)
    report = await live.find("BTC/USDT", ID)
    assert (report.venue_order_id, report.status, report.filled_quantity) == ("99", "canceled", Decimal("0.004"))
    (sent,) = scripted.seen("GET", "/v5/order/history")
    assert sent.params["orderLinkId"] == ID
    scripted.on("GET", "/v5/order/history", empty)
    assert await live.find("BTC/USDT", ID) is None
    scripted.on("GET", "/v5/order/history", {"retCode": 0, "result": {}})
    with pytest.raises(Unknown):
        await live.find("BTC/USDT", ID)


async def test_bybit_fills_follow_the_cursor(open_live: Any, scripted: Any, reply: Any) -> None:
    def row(number: int) -> dict[str, Any]:
        return {
            "symbol": "BTCUSDT",
            "orderId": "99",
            "side": "Buy",
            "execId": f"e{number}",
            "execPrice": "58000.01",
            "execQty": "0.001",
            "execFee": "0.000001",
            "feeCurrency": "BTC",
            "isMaker": False,
            "execTime": str(T0 + number),
        }

    def page(seen: Any) -> Any:
        last = seen.params.get("cursor") == "two"
        rows = [row(3)] if last else [row(1), row(2)]
        return reply({"retCode": 0, "result": {"list": rows, "nextPageCursor": "" if last else "two"}})

    scripted.on("GET", "/v5/execution/list", page)
    live = open_live("bybit", options=BYBIT)
    fills = await live.fills("BTC/USDT", venue_order_id="99")
    assert [fill.trade_id for fill in fills] == ["e1", "e2", "e3"]
    assert (fills[0].fee, fills[0].fee_asset) == (Decimal("0.000001"), "BTC")
    with pytest.raises(InputError):
        await live.fills("BTC/USDT")


async def test_bybit_fills_walk_week_by_week(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", "/v5/execution/list", {"retCode": 0, "result": {"list": [], "nextPageCursor": ""}})
    live = open_live("bybit", options=BYBIT)
    since = datetime.now(UTC) - timedelta(days=15)
    assert await live.fills("BTC/USDT", since=since) == []
    windows = [
        (int(r.params["startTime"]), int(r.params["endTime"])) for r in scripted.seen("GET", "/v5/execution/list")
    ]
    assert len(windows) == 3
    assert all(end - start == 7 * 24 * 3600 * 1000 for start, end in windows)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(windows))
