"""The unmodified ccxt binance (sync and async) against a simulator in a process of its own."""

import importlib
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from typing import Any

import ccxt
import ccxt.async_support
import pytest

Start = Callable[..., Any]
SYMBOL = "BTC/USDT"


@pytest.fixture
def venue(simulator: Start) -> Any:
    return simulator("--balance", "USDT=10000", "--balance", "BTC=1")


@pytest.fixture
def client(venue: Any) -> Any:
    exchange = ccxt.binance(venue.options())
    exchange.load_markets()
    return exchange


def test_markets_and_time(client: Any, venue: Any) -> None:
    market = client.market(SYMBOL)
    assert market["precision"] == {"amount": 0.00001, "price": 0.01, "base": 1e-8, "quote": 1e-8}
    assert market["limits"]["cost"]["min"] == 5
    assert abs(client.fetch_time() - venue.clock()["wall"]) < 5_000
    assert client.fetch_status()["status"] == "ok"


def test_market_data(client: Any, venue: Any) -> None:
    venue.price("20000")
    ticker = client.fetch_ticker(SYMBOL)
    assert ticker["last"] == 20000
    assert ticker["bid"] < 20000 < ticker["ask"]
    assert client.fetch_tickers()[SYMBOL]["last"] == 20000
    assert client.fetch_bids_asks([SYMBOL])[SYMBOL]["ask"] == ticker["ask"]
    book = client.fetch_order_book(SYMBOL, 5)
    assert (len(book["bids"]), book["bids"][0][0], book["asks"][0][0]) == (5, ticker["bid"], ticker["ask"])
    candles = client.fetch_ohlcv(SYMBOL, "5m", limit=10)
    assert [b[0] - a[0] for a, b in pairwise(candles)] == [300_000] * 9
    assert client.fetch_ohlcv(SYMBOL, "5m", since=candles[3][0], limit=2) == candles[3:5]
    assert client.fetch_trades(SYMBOL, limit=7)[-1]["timestamp"] <= venue.clock()["market"]


def test_a_market_order_is_found_by_either_id_and_its_trades_add_up(client: Any, venue: Any) -> None:
    venue.price("20000")
    order = client.create_order(SYMBOL, "market", "buy", 0.1, params={"clientOrderId": "by-my-name"})
    assert (order["status"], order["filled"], order["clientOrderId"]) == ("closed", 0.1, "by-my-name")
    assert len(order["trades"]) > 1
    by_name = client.fetch_order(None, SYMBOL, {"clientOrderId": "by-my-name"})
    by_number = client.fetch_order(order["id"], SYMBOL)
    assert by_name["id"] == by_number["id"] == order["id"]
    trades = client.fetch_my_trades(SYMBOL)
    assert len({trade["id"] for trade in trades}) == len(trades) == len(order["trades"])
    assert sum(Decimal(trade["info"]["qty"]) for trade in trades) == Decimal("0.1")
    assert {trade["fee"]["currency"] for trade in trades} == {"BTC"}
    assert client.fetch_balance()["BTC"]["free"] == pytest.approx(1.0999, abs=1e-9)


def test_a_quote_amount_spends_no_more_than_it_says(client: Any, venue: Any) -> None:
    order = client.create_order(SYMBOL, "market", "buy", None, None, {"cost": 100})
    assert 99 < order["cost"] <= 100
    assert Decimal(venue.venue_state()["balances"][venue.key]["USDT"]["free"]) >= Decimal(9900)


def test_a_limit_order_rests_is_listed_and_can_be_cancelled(client: Any, venue: Any) -> None:
    venue.price("20000")
    order = client.create_order(SYMBOL, "limit", "sell", 0.5, 25000, {"clientOrderId": "resting"})
    assert order["status"] == "open"
    assert [o["clientOrderId"] for o in client.fetch_open_orders(SYMBOL)] == ["resting"]
    assert client.fetch_balance()["BTC"]["used"] == 0.5
    assert client.cancel_order(order["id"], SYMBOL)["status"] == "canceled"
    assert client.fetch_open_orders(SYMBOL) == []
    assert client.fetch_balance()["BTC"]["used"] == 0
    assert [o["status"] for o in client.fetch_orders(SYMBOL)] == ["canceled"]
    with pytest.raises(ccxt.OrderNotFound):
        client.cancel_order(order["id"], SYMBOL)


def test_a_resting_order_fills_when_the_market_crosses_it(client: Any, venue: Any) -> None:
    venue.price("20000")
    client.create_order(SYMBOL, "limit", "buy", 0.05, 19000, {"clientOrderId": "patient"})
    venue.price("19000.01")
    assert client.fetch_order(None, SYMBOL, {"clientOrderId": "patient"})["filled"] == 0
    for _ in range(20):
        venue.price("18999")
    order = client.fetch_order(None, SYMBOL, {"clientOrderId": "patient"})
    assert (order["status"], order["average"]) == ("closed", 19000)
    assert {trade["takerOrMaker"] for trade in client.fetch_my_trades(SYMBOL)} == {"maker"}


def test_post_only_ioc_and_fok(client: Any, venue: Any) -> None:
    venue.price("20000")
    best = client.fetch_order_book(SYMBOL)["asks"][0]
    with pytest.raises(ccxt.OrderImmediatelyFillable):
        client.create_order(SYMBOL, "limit", "buy", 0.01, 21000, {"postOnly": True})
    taken = client.create_order(SYMBOL, "limit", "buy", best[1] + 0.01, best[0], {"timeInForce": "IOC"})
    assert (taken["status"], taken["filled"]) == ("expired", best[1])
    none = client.create_order(SYMBOL, "limit", "buy", best[1] + 0.01, best[0], {"timeInForce": "FOK"})
    assert (none["status"], none["filled"]) == ("expired", 0)


def test_orders_made_by_hand_with_the_same_key_are_listed_too(client: Any, venue: Any) -> None:
    other = ccxt.binance(venue.options())
    other.create_order(SYMBOL, "market", "buy", 0.01)
    assert len(client.fetch_orders(SYMBOL)) == 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("load_markets", ()),
        ("fetch_currencies", ()),
        ("fetch_ticker", (SYMBOL,)),
        ("fetch_tickers", (SYMBOL,)),
        ("fetch_order_book", (SYMBOL,)),
        ("fetch_l2_order_book", (SYMBOL,)),
        ("fetch_trades", (SYMBOL,)),
        ("fetch_ohlcv", (SYMBOL,)),
        ("fetch_balance", ()),
        ("fetch_my_trades", (SYMBOL,)),
        ("fetch_orders", (SYMBOL,)),
        ("fetch_open_orders", (SYMBOL,)),
        ("fetch_closed_orders", (SYMBOL,)),
        ("fetch_trading_fee", (SYMBOL,)),
        ("fetch_trading_fees", ()),
        ("fetch_last_prices", (SYMBOL,)),
        ("fetch_status", ()),
        ("sign_in", ()),
    ],
)
def test_ccxt_own_conformance(shared_client: Any, name: str, arguments: tuple[str, ...]) -> None:
    module = importlib.import_module(f"ccxt.test.exchange.sync.test_{name}")
    # Binance's spot depth has no time stamp: ccxt's own list of exceptions leaves these two out as well
    skipped = {"timestamp": True, "datetime": True} if "order_book" in name else {}
    assert getattr(module, f"test_{name}")(shared_client, skipped, *arguments)


@pytest.mark.parametrize(
    ("kind", "side", "price"), [("market", "buy", None), ("market", "sell", None), ("limit", "buy", 10000)]
)
def test_ccxt_own_checks_of_a_new_order(shared_client: Any, kind: str, side: str, price: float | None) -> None:
    # ccxt's own test_create_order cannot run in Python (it asks for a rounding mode that Python's ccxt refuses)
    module = importlib.import_module("ccxt.test.exchange.base.test_order")
    created = shared_client.create_order(SYMBOL, kind, side, 0.01, price)
    fetched = shared_client.fetch_order(created["id"], SYMBOL)
    for order in (created, fetched):
        module.test_order(shared_client, {}, "createOrder", order, SYMBOL, shared_client.milliseconds())


@pytest.fixture(scope="module")
def shared_client(simulator_for_module: Start) -> Any:
    """One venue with a history of orders for all conformance functions."""
    venue = simulator_for_module("--balance", "USDT=10000", "--balance", "BTC=1")
    exchange = ccxt.binance(venue.options(has={"swap": False, "future": False, "option": False}))
    exchange.load_markets()
    exchange.create_order(SYMBOL, "market", "buy", 0.1)
    exchange.create_order(SYMBOL, "market", "sell", 0.05)
    exchange.create_order(SYMBOL, "limit", "buy", 0.01, 10000)
    return exchange


async def test_the_async_client_does_the_same(venue: Any) -> None:
    exchange = ccxt.async_support.binance(venue.options())
    try:
        await exchange.load_markets()
        assert (await exchange.fetch_balance())["total"] == {"BTC": 1, "USDT": 10000}
        order = await exchange.create_order(SYMBOL, "market", "buy", 0.01, params={"clientOrderId": "async"})
        assert (await exchange.fetch_order(None, SYMBOL, {"clientOrderId": "async"}))["id"] == order["id"]
        assert len(await exchange.fetch_my_trades(SYMBOL)) == len(order["trades"])
        resting = await exchange.create_order(SYMBOL, "limit", "buy", 0.01, 10000)
        assert (await exchange.cancel_order(resting["id"], SYMBOL))["status"] == "canceled"
        assert await exchange.fetch_open_orders(SYMBOL) == []
        assert len(await exchange.fetch_ohlcv(SYMBOL, "1h", limit=20)) == 20
    finally:
        await exchange.close()
