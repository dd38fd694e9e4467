"""Everybody's trades through ccxt: from the simulator, whose candles they make, and from one of nonsense."""

from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.plugins.simulator import Simulator
from trader.clock import from_milliseconds, to_milliseconds
from trader.errors import Refused, Unknown
from trader.exchange.live import LiveExchange, connect
from trader.simulator.client_options import ccxt_options

MINUTE = 60_000
GARBAGE = ["{}", "null", "[]x", "<html></html>", '""', "5"]


@pytest.fixture
async def sim(simulator: Callable[..., Simulator]) -> AsyncIterator[tuple[LiveExchange, Simulator]]:
    venue = simulator("--market", "BTC/USDT")
    exchange = connect(
        "binance", options=ccxt_options(venue.url) | {"rateLimit": 1}, credentials=None, mode="simulator"
    )
    yield exchange, venue
    await exchange.close()


async def test_the_trades_of_a_minute_are_its_candle(sim: tuple[LiveExchange, Simulator]) -> None:
    exchange, venue = sim
    start = venue.clock()["market"] // MINUTE * MINUTE - 300 * MINUTE
    candles = await exchange.candles("BTC/USDT", "1m", from_milliseconds(start), 270)
    read = await exchange.trades("BTC/USDT", from_milliseconds(start), from_milliseconds(start + 270 * MINUTE))
    assert len(read.rows) > 1000
    assert to_milliseconds(read.until) >= start + 270 * MINUTE
    for candle in candles:
        inside = [t for t in read.rows if 0 <= (t.traded_at - candle.time_open).total_seconds() < 60]
        prices = [float(trade.price) for trade in inside]
        assert (prices[0], max(prices), min(prices), prices[-1]) == (candle.open, candle.high, candle.low, candle.close)
        assert float(sum((trade.quantity for trade in inside), Decimal(0))) == candle.volume


async def test_what_is_hidden_is_not_there_until_it_is_given_back(sim: tuple[LiveExchange, Simulator]) -> None:
    exchange, venue = sim
    start = venue.clock()["market"] // MINUTE * MINUTE - 300 * MINUTE
    since, until = from_milliseconds(start + 3 * MINUTE), from_milliseconds(start + 6 * MINUTE)

    async def look() -> tuple[int, int, int]:
        minutes = await exchange.candles("BTC/USDT", "1m", from_milliseconds(start), 10)
        coarse = await exchange.candles("BTC/USDT", "15m", from_milliseconds(start), 3)
        read = await exchange.trades("BTC/USDT", since, until)
        assert len(minutes) == 10
        shown = [c for c in minutes if since <= c.time_open < until]
        return len(shown), len(coarse), sum(since <= trade.traded_at < until for trade in read.rows)

    venue.hide(start + 3 * MINUTE, start + 6 * MINUTE)
    assert await look() == (0, 3, 12)
    venue.hide(start + 3 * MINUTE, start + 6 * MINUTE, trades=True)
    assert await look() == (0, 3, 0)
    venue.give_back()
    assert await look() == (3, 3, 12)
    with pytest.raises(AssertionError, match="from is 5 and to is 5"):
        venue.hide(5, 5)


@pytest.mark.parametrize("body", GARBAGE)
async def test_garbage_is_never_no_trades(open_live: Any, scripted: Any, body: str) -> None:
    scripted.on("GET", "/api/v3/aggTrades", body)
    with pytest.raises(Unknown):
        await open_live().trades("BTC/USDT", from_milliseconds(MINUTE), from_milliseconds(2 * MINUTE))


@pytest.mark.parametrize("field", ["p", "q", "T"])
async def test_a_trade_without_price_quantity_or_time_was_not_read(open_live: Any, scripted: Any, field: str) -> None:
    whole = {"a": 7, "p": "1.5", "q": "2", "f": 7, "l": 7, "T": 90_000, "m": True, "M": True}
    scripted.on("GET", "/api/v3/aggTrades", [{**whole, field: "0" if field != "T" else None}])
    with pytest.raises(Unknown):
        await open_live().trades("BTC/USDT", from_milliseconds(MINUTE), from_milliseconds(2 * MINUTE))


async def test_kraken_and_a_venue_that_lists_the_last_ones(open_live: Any, scripted: Any) -> None:
    row = ["58000.1", "0.25", 1_700_000_030.5, "b", "m", "", 41]
    scripted.on("GET", "/0/public/Trades", {"error": [], "result": {"XXBTZUSD": [row], "last": "1700000030500000000"}})
    since, until = from_milliseconds(1_700_000_000_000), from_milliseconds(1_700_000_060_000)
    read = await open_live("kraken").trades("BTC/USD", since, until)
    (seen,) = scripted.seen("GET", "/0/public/Trades")
    assert seen.params["since"] == "1699999999999999999"
    (trade,) = read.rows
    assert (trade.price, trade.quantity, to_milliseconds(trade.traded_at)) == (
        Decimal("58000.1"), Decimal("0.25"), 1_700_000_030_500)  # fmt: skip
    recent = {"execId": "1", "symbol": "BTCUSDT", "price": "1", "size": "2", "side": "Buy", "time": "1700000030500"}
    scripted.on(
        "GET", "/v5/market/recent-trade",
        {"retCode": 0, "retMsg": "OK", "result": {"category": "spot", "list": [recent]}, "time": 1700000060000},
    )  # fmt: skip
    with pytest.raises(Refused, match="only the last 60"):
        await open_live("bybit").trades("BTC/USDT", since, until)
