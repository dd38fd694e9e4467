"""A venue that says exactly what a test tells it to, over real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import pytest
from aiohttp import web

SECRET = "c2VjcmV0LW9mLXRoZS1hY2NvdW50LTEyMzQ1Njc4"
API_KEY = "PublicLookingKey0123456789abcdef"

BINANCE_INFO = {
    "timezone": "UTC",
    "serverTime": 1700000000000,
    "rateLimits": [],
    "exchangeFilters": [],
    "symbols": [
        {
            "symbol": "BTCUSDT",
            "status": "TRADING",
            "baseAsset": "BTC",
            "baseAssetPrecision": 8,
            "quoteAsset": "USDT",
            "quotePrecision": 8,
            "quoteAssetPrecision": 8,
            "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"],
            "isSpotTradingAllowed": True,
            "isMarginTradingAllowed": False,
            "permissionSets": [["SPOT"]],
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000.00", "tickSize": "0.01000000"},
                {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000.0", "stepSize": "0.00001000"},
                {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True},
            ],
        },
        {
            "symbol": "SHIBUSDT",
            "status": "BREAK",
            "baseAsset": "SHIB",
            "baseAssetPrecision": 8,
            "quoteAsset": "USDT",
            "quotePrecision": 8,
            "quoteAssetPrecision": 8,
            "orderTypes": ["LIMIT", "MARKET"],
            "isSpotTradingAllowed": True,
            "permissionSets": [["SPOT"]],
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": "0.00000001", "maxPrice": "1.0", "tickSize": "0.00000001"},
                {"filterType": "LOT_SIZE", "minQty": "1.00", "maxQty": "46116860414.00", "stepSize": "1.00"},
            ],
        },
    ],
}
KRAKEN_PAIRS = {
    "error": [],
    "result": {
        "XXBTZUSD": {
            "altname": "XBTUSD",
            "wsname": "XBT/USD",
            "aclass_base": "currency",
            "base": "XXBT",
            "aclass_quote": "currency",
            "quote": "ZUSD",
            "lot": "unit",
            "cost_decimals": 5,
            "pair_decimals": 1,
            "lot_decimals": 8,
            "lot_multiplier": 1,
            "leverage_buy": [],
            "leverage_sell": [],
            "fees": [[0, 0.4]],
            "fees_maker": [[0, 0.25]],
            "fee_volume_currency": "ZUSD",
            "margin_call": 80,
            "margin_stop": 40,
            "ordermin": "0.00005",
            "costmin": "0.5",
            "tick_size": "0.1",
            "status": "online",
        }
    },
}
KRAKEN_ASSETS = {
    "error": [],
    "result": {
        "XXBT": {"aclass": "currency", "altname": "XBT", "decimals": 10, "display_decimals": 5, "status": "enabled"},
        "ZUSD": {"aclass": "currency", "altname": "USD", "decimals": 4, "display_decimals": 2, "status": "enabled"},
    },
}
BYBIT_INSTRUMENTS = {
    "retCode": 0,
    "retMsg": "OK",
    "result": {
        "category": "spot",
        "list": [
            {
                "symbol": "BTCUSDT",
                "baseCoin": "BTC",
                "quoteCoin": "USDT",
                "innovation": "0",
                "status": "Trading",
                "marginTrading": "none",
                "lotSizeFilter": {
                    "basePrecision": "0.000001",
                    "quotePrecision": "0.00000001",
                    "minOrderQty": "0.000048",
                    "maxOrderQty": "71.73956243",
                    "minOrderAmt": "1",
                    "maxOrderAmt": "2000000",
                },
                "priceFilter": {"tickSize": "0.01"},
            }
        ],
    },
    "retExtInfo": {},
    "time": 1700000000000,
}


@dataclass
class Reply:
    """What to answer. `fault`: drop (close at once), truncate (half a body), silent (never answer)."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    fault: str | None = None


@dataclass
class Seen:
    """One request as it came over the wire."""

    method: str
    path: str
    params: dict[str, str]
    body: str
    headers: dict[str, str]


Answer = Reply | Callable[[Seen], Reply]


class ScriptedVenue:
    """Answers by method and path: a list is used up one by one, its last answer stays."""

    def __init__(self) -> None:
        self.requests: list[Seen] = []
        self.url = ""
        self._script: dict[tuple[str, str], list[Answer]] = {}
        self._closing = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)

    def on(self, method: str, path: str, *answers: Answer | dict[str, Any] | list[Any] | str) -> None:
        self._script[method, path] = [a if isinstance(a, Reply) or callable(a) else Reply(a) for a in answers]

    def seen(self, method: str, path: str) -> list[Seen]:
        return [r for r in self.requests if (r.method, r.path) == (method, path)]

    async def start(self) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        self._closing.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = (await request.read()).decode()
        params = dict(request.query) | (dict(parse_qsl(body)) if not body.startswith("{") else json.loads(body))
        seen = Seen(request.method, request.path, params, body, dict(request.headers))
        self.requests.append(seen)
        answers = self._script.get((request.method, request.path))
        if not answers:
            return web.json_response({"code": -1, "msg": f"not scripted: {request.method} {request.path}"}, status=404)
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return await self._send(request, answer(seen) if callable(answer) else answer)

    async def _send(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        if reply.fault == "drop":
            transport.abort()
            return web.Response()
        if reply.fault == "silent":
            await self._closing.wait()
            return web.Response()
        text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        if reply.fault == "truncate":
            response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "5000"})
            await response.prepare(request)
            await response.write(text[: len(text) // 2].encode())
            transport.close()
            return response
        headers = {"Content-Type": "application/json"} | reply.headers
        return web.Response(text=text, status=reply.status, headers=headers)


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedVenue]:
    """A scripted venue that knows the market lists of Binance, Kraken and Bybit, and nothing else."""
    venue = ScriptedVenue()
    await venue.start()
    venue.on("GET", "/api/v3/exchangeInfo", BINANCE_INFO)
    venue.on("GET", "/0/public/AssetPairs", KRAKEN_PAIRS)
    venue.on("GET", "/0/public/Assets", KRAKEN_ASSETS)
    venue.on("GET", "/v5/market/instruments-info", BYBIT_INSTRUMENTS)
    yield venue
    await venue.stop()


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@pytest.fixture
async def open_live(scripted: ScriptedVenue) -> AsyncIterator[Callable[..., Any]]:
    """Opens a connection to the scripted venue in a given dialect; closes it after the test."""
    from trader.exchange.credentials import Credentials
    from trader.exchange.live import connect

    opened = []

    def connection(ccxt_id: str = "binance", **options: Any) -> Any:
        url = scripted.url
        api: dict[str, Any] = {
            "binance": {"public": f"{url}/api/v3", "private": f"{url}/api/v3"},
            "kraken": {"public": url, "private": url},
            "bybit": {"public": url, "private": url},
            "bitstamp": {"public": url, "private": url},
        }[ccxt_id]
        live = connect(
            ccxt_id,
            options={"urls": {"api": api}, "rateLimit": 1, "timeout": 1000} | options,
            credentials=Credentials("TEST", API_KEY, SECRET),
            mode="simulator",
        )
        opened.append(live)
        return live

    yield connection
    for live in opened:
        await live.close()
