"""Tickers of several markets: one request where the venue can, one symbol that it does not know hides no other."""

import json
from decimal import Decimal
from typing import Any

import pytest

from trader.errors import ExchangeError, Unknown
from trader.exchange.protocol import Ticker

PATH = "/api/v3/ticker/24hr"
BTC = Ticker("BTC/USDT", Decimal("58000"), Decimal("58000.1"), Decimal("58000.01"))
SHIB = Ticker("SHIB/USDT", None, None, Decimal("0.00001"))


def row(ticker: Ticker, **changes: Any) -> dict[str, Any]:
    prices = {"bidPrice": ticker.bid, "askPrice": ticker.ask, "lastPrice": ticker.last}
    texts = {name: str(price or "0.00000000") for name, price in prices.items()}
    return {"symbol": ticker.symbol.replace("/", ""), **texts} | changes


async def test_all_in_one_request_and_only_those_that_were_asked_for(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", PATH, [row(SHIB), row(BTC)])
    live = open_live()
    assert await live.tickers(["BTC/USDT", "SHIB/USDT"]) == [BTC, SHIB]
    assert await live.tickers(["BTC/USDT"]) == [BTC]
    first, second = scripted.seen("GET", PATH)
    assert json.loads(first.params["symbols"]) == ["BTCUSDT", "SHIBUSDT"]
    assert json.loads(second.params["symbols"]) == ["BTCUSDT"]
    assert await live.tickers([]) == []
    assert len(scripted.seen("GET", PATH)) == 2


async def test_a_symbol_that_the_venue_does_not_know_hides_no_other(open_live: Any, scripted: Any, reply: Any) -> None:
    def answer(seen: Any) -> Any:
        if "SHIBUSDT" in str(seen.params):
            return reply({"code": -1121, "msg": "Invalid symbol."}, status=400)
        return reply(row(BTC))

    scripted.on("GET", PATH, answer)
    assert await open_live().tickers(["SHIB/USDT", "BTC/USDT"]) == [BTC]
    assert len(scripted.seen("GET", PATH)) == 3
    assert await open_live().tickers(["NEVER/HEARD", "BTC/USDT"]) == [BTC]


async def test_a_ticker_that_is_no_ticker_is_left_out(open_live: Any, scripted: Any) -> None:
    scripted.on("GET", PATH, [row(SHIB, lastPrice="abc", bidPrice="abc"), row(BTC)])
    assert await open_live().tickers(["SHIB/USDT", "BTC/USDT"]) == [BTC]


@pytest.mark.parametrize(
    "answer",
    [
        {"body": "{}"}, {"body": "null"}, {"body": "<html></html>"}, {"body": '{"symbol": "BTC'},
        {"status": 503, "body": ""}, {"status": 429, "body": "{}"}, {"fault": "drop"},
        {"fault": "truncate", "body": [row(BTC)]},
    ],
    ids=str,
)  # fmt: skip
async def test_could_not_read_is_never_empty(open_live: Any, scripted: Any, reply: Any, answer: dict[str, Any]) -> None:
    scripted.on("GET", PATH, reply(**answer))
    with pytest.raises(ExchangeError):
        await open_live().tickers(["BTC/USDT"])


async def test_kraken_and_bybit(open_live: Any, scripted: Any) -> None:
    kraken = {"error": [], "result": {"XXBTZUSD": {"a": ["2", "1", "1"], "b": ["1", "1", "1"], "c": ["3", "1"]}}}
    scripted.on("GET", "/0/public/Ticker", kraken)
    assert await open_live("kraken").tickers(["BTC/USD"]) == [Ticker("BTC/USD", Decimal(1), Decimal(2), Decimal(3))]
    listed = [{"symbol": "BTCUSDT", "bid1Price": "1", "ask1Price": "2", "lastPrice": "3"}]
    listed += [{"symbol": "ELSEUSDT", "bid1Price": "1", "ask1Price": "2", "lastPrice": "3"}]
    result = {"retCode": 0, "retMsg": "OK", "time": 1, "result": {"category": "spot", "list": listed}}
    scripted.on("GET", "/v5/market/tickers", result)
    assert await open_live("bybit").tickers(["BTC/USDT"]) == [Ticker("BTC/USDT", Decimal(1), Decimal(2), Decimal(3))]
    scripted.on("GET", "/v5/market/tickers", result | {"result": {}})
    with pytest.raises(Unknown):
        await open_live("bybit").tickers(["BTC/USDT"])


async def test_a_venue_that_gives_one_at_a_time(open_live: Any, scripted: Any) -> None:
    live = open_live()
    live._client.has["fetchTickers"] = False
    scripted.on("GET", PATH, row(BTC), row(SHIB))
    assert await live.tickers(["BTC/USDT", "SHIB/USDT"]) == [BTC, SHIB]
