"""The unmodified ccxt.pro binance against the simulator's websockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import ccxt.pro
import pytest

T = TypeVar("T")
SYMBOL = "BTC/USDT"


def soon(waiting: Awaitable[T]) -> Awaitable[T]:
    return asyncio.wait_for(waiting, 10)


@pytest.fixture
def venue(simulator: Callable[..., Any]) -> Any:
    return simulator("--balance", "USDT=10000", "--speed", "120", "--tick-seconds", "0.02")


@pytest.fixture
async def client(venue: Any) -> AsyncIterator[Any]:
    exchange = ccxt.pro.binance(venue.options())
    await exchange.load_markets()
    yield exchange
    await exchange.close()


async def test_tickers_trades_and_candles_move(client: Any) -> None:
    first = await soon(client.watch_ticker(SYMBOL))
    while (await soon(client.watch_ticker(SYMBOL)))["last"] == first["last"]:
        pass
    assert (await soon(client.watch_bids_asks([SYMBOL])))[SYMBOL]["bid"] > 0
    assert (await soon(client.watch_tickers()))[SYMBOL]["last"] > 0
    assert len(await soon(client.watch_trades(SYMBOL))) > 0
    candles = {candle[0]: candle for candle in await soon(client.watch_ohlcv(SYMBOL, "1m"))}
    while len(candles) < 4:
        candles |= {candle[0]: candle for candle in await soon(client.watch_ohlcv(SYMBOL, "1m"))}
    served = {candle[0]: candle for candle in await client.fetch_ohlcv(SYMBOL, "1m", limit=20)}
    closed = sorted(candles)[1:-1]
    assert closed
    assert [candles[opened] for opened in closed] == [served[opened] for opened in closed]


async def test_a_watched_book_is_the_book(client: Any, venue: Any) -> None:
    for _ in range(10):
        await soon(client.watch_order_book(SYMBOL))
    await asyncio.to_thread(venue.price, "20000")
    served = await client.fetch_order_book(SYMBOL)
    await until(lambda: client.orderbooks[SYMBOL]["nonce"] >= served["nonce"])
    book = client.orderbooks[SYMBOL]
    assert (book["bids"], book["asks"]) == (served["bids"], served["asks"])


async def until(condition: Callable[[], Any]) -> Any:
    """What `condition` gives as soon as that is true: ccxt drops an update that comes between two calls of watch."""
    async with asyncio.timeout(10):
        while not (found := condition()):  # noqa: ASYNC110 - ccxt's caches offer nothing to wait for
            await asyncio.sleep(0.01)
    return found


def known(client: Any, name: str, status: str) -> list[Any]:
    """The order as ccxt's own cache has it, once the stream has told that it has `status`."""
    return [o for o in client.orders or [] if o["clientOrderId"] == name and o["status"] == status]


async def subscribed(client: Any, venue: Any, *watching: Awaitable[Any]) -> list["asyncio.Task[Any]"]:
    """Start to watch, and wait until the venue has accepted the subscription."""
    tasks = [asyncio.ensure_future(one) for one in watching]
    await asyncio.to_thread(
        venue.wait_for_log, lambda e: e["path"].startswith("userDataStream.subscribe") and e["acted"]
    )
    return tasks


async def test_the_user_stream_tells_of_orders_trades_and_balances(client: Any, venue: Any) -> None:
    await asyncio.to_thread(venue.price, "20000")
    watching = (client.watch_orders(SYMBOL), client.watch_balance(), client.watch_my_trades(SYMBOL))
    orders, balance, trades = await subscribed(client, venue, *watching)
    made = await client.create_order(SYMBOL, "market", "buy", 0.05, params={"clientOrderId": "ws"})
    assert (await soon(orders))[0]["clientOrderId"] == "ws"
    (order,) = await until(lambda: known(client, "ws", "closed"))
    assert (order["id"], order["filled"]) == (made["id"], 0.05)
    assert (await soon(balance))["USDT"]["free"] == (await client.fetch_balance())["USDT"]["free"]
    assert {trade["order"] for trade in await soon(trades)} == {made["id"]}


async def test_the_user_stream_tells_of_a_resting_order_that_fills_and_of_a_deposit(client: Any, venue: Any) -> None:
    await asyncio.to_thread(venue.price, "20000")
    orders, balance = await subscribed(client, venue, client.watch_orders(SYMBOL), client.watch_balance())
    await asyncio.to_thread(venue.credit, "USDT", "500")
    await soon(balance)
    await until(lambda: client.balance["spot"]["USDT"]["free"] == 10500)
    await client.create_order(SYMBOL, "limit", "buy", 0.05, 19000, {"clientOrderId": "rest"})
    assert (await soon(orders))[0]["status"] == "open"
    await until(lambda: client.balance["spot"]["USDT"]["used"] == 950)
    for _ in range(20):
        await asyncio.to_thread(venue.price, "18990")
    (order,) = await until(lambda: known(client, "rest", "closed"))
    assert order["average"] == 19000


async def test_the_websocket_api_places_finds_and_cancels(client: Any) -> None:
    placed = await soon(client.create_order_ws(SYMBOL, "limit", "buy", 0.01, 1000, {"clientOrderId": "over-ws"}))
    assert placed["status"] == "open"
    assert (await soon(client.fetch_order_ws(placed["id"], SYMBOL)))["clientOrderId"] == "over-ws"
    assert (await client.fetch_balance())["USDT"]["used"] == 10
    assert (await soon(client.cancel_order_ws(placed["id"], SYMBOL)))["status"] == "canceled"
    with pytest.raises(ccxt.InsufficientFunds):
        await soon(client.create_order_ws(SYMBOL, "limit", "buy", 100, 20000))


async def test_a_wrong_signature_is_refused_on_the_websocket(venue: Any) -> None:
    stranger = ccxt.pro.binance(venue.options(secret="wrong"))
    try:
        # ccxt 4.5.90 trips over its own clean-up (KeyError) while it reports the refusal
        with pytest.raises((ccxt.AuthenticationError, KeyError)):
            await soon(stranger.watch_orders(SYMBOL))
        entries = await asyncio.to_thread(venue.log)
        assert [(e["outcome"], e["code"]) for e in entries if e["method"] == "WS"] == [("refused", -1022)]
    finally:
        await stranger.close()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("event_drop", ["TRADE"]),
        ("event_duplicate", ["NEW", "NEW", "TRADE"]),
        ("event_reorder", ["TRADE", "NEW"]),
        ("disconnect", []),
    ],
)
async def test_events_get_lost_doubled_swapped_or_cut_off(venue: Any, fault: str, told: list[str]) -> None:
    await asyncio.to_thread(venue.price, "20000")
    client = ccxt.pro.binance(venue.options())
    heard: list[str] = []

    def listen(_client: Any, message: dict[str, Any]) -> None:
        heard.append(message["x"])

    client.handle_order_update = listen
    try:
        (watching,) = await subscribed(client, venue, client.watch_balance())
        match = {"event": "executionReport", "client_order_id": "unlucky"}
        await asyncio.to_thread(venue.fault, fault, None, match=match)
        await client.create_order(SYMBOL, "market", "buy", 0.0005, params={"clientOrderId": "unlucky"})
        if fault == "disconnect":
            with pytest.raises(ccxt.NetworkError):
                await soon(watching)
        else:
            assert (await soon(watching))["BTC"]["free"] == pytest.approx(0.0004995)
        assert heard == told
    finally:
        await client.close()
