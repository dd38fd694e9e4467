"""The account's stream through ccxt.pro: exact, complete, in order; and how it ends."""

import asyncio
import decimal
import gc
import json
from collections.abc import Callable
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import ccxt.pro
import pytest
from aiohttp import WSMsgType, web

from trader.errors import ConfigError, Fatal, Unknown
from trader.exchange import live, stream
from trader.exchange.credentials import Credentials
from trader.exchange.hosts import SANDBOX_HOSTS, flat_urls
from trader.exchange.protocol import OrderReport
from trader.exchange.tap import Tap

KEYS = Credentials("TEST", "PublicLookingKey0123456789abcdef", "c2VjcmV0LW9mLXRoZS1hY2NvdW50LTEyMzQ1Njc4")
NEW = {"e": "executionReport", "E": 1700000000000, "s": "BTCUSDT", "c": "ours", "S": "BUY", "o": "LIMIT", "f": "GTC"}
NEW |= {"q": "1.00000000", "p": "100.00", "C": "", "x": "NEW", "X": "NEW", "i": 7, "l": "0", "z": "0", "L": "0"}
NEW |= {"n": "0", "N": None, "T": 1700000000123, "t": -1, "m": False, "O": 1700000000000, "Z": "0", "Y": "0", "Q": "0"}
TRADE = NEW | {"x": "TRADE", "X": "PARTIALLY_FILLED", "t": 31, "l": "0.3", "z": "0.3", "L": "99.5", "n": "0.0003"}
TRADE |= {"N": "BTC", "m": True}


class Speaker:
    """A websocket that answers the subscription with `answer`, then says `lines` as they are, then hangs up or not."""

    def __init__(self, answer: dict[str, Any], lines: list[str], *, hangs_up: bool, deaf: bool) -> None:
        self._answer, self._lines, self._hangs_up, self._deaf = answer, lines, hangs_up, deaf
        self.requests: list[dict[str, Any]] = []
        self._ended = asyncio.Event()
        app = web.Application()
        app.router.add_get("/ws-api/v3", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)

    async def __aenter__(self) -> str:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        return f"ws://{host}:{port}/ws-api/v3"

    async def __aexit__(self, *error: object) -> None:
        self._ended.set()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoclose=not self._deaf, autoping=not self._deaf)
        await socket.prepare(request)
        message = await socket.receive()
        assert message.type == WSMsgType.TEXT
        self.requests.append(json.loads(message.data))
        await socket.send_json({"id": self.requests[0]["id"]} | self._answer)
        for line in self._lines:
            await socket.send_str(line)
        if not self._hangs_up:
            await self._ended.wait()
        return socket


SUBSCRIBED = {"status": 200, "result": {"subscriptionId": 0}}


@pytest.fixture
def hear(open_live: Callable[..., Any], scripted: Any) -> Callable[..., Any]:
    """What a stream that says these events brings, and what ended it: `await hear(event, ...)`."""

    async def listen(*events: Any, answer: dict[str, Any] = SUBSCRIBED) -> tuple[list[OrderReport], Exception | None]:
        lines = [one if isinstance(one, str) else json.dumps({"subscriptionId": 0, "event": one}) for one in events]
        async with asyncio.timeout(30), Speaker(answer, lines, hangs_up=True, deaf=False) as address:
            heard: list[OrderReport] = []
            ended: Exception | None = None
            brought = await open_live(**addresses(scripted.url, address)).executions()
            async with aclosing(brought):
                try:
                    async for reports in brought:
                        heard += reports
                except Exception as error:
                    ended = error
        return heard, ended

    return listen


def addresses(url: str, socket: str) -> dict[str, Any]:
    base = f"{url}/api/v3"
    return {"urls": {"api": {"public": base, "private": base, "ws": {"ws-api": {"spot": socket}}}}}


async def test_an_order_and_its_executions_each_once_and_in_order(hear: Any) -> None:
    second = TRADE | {"t": 32, "l": "0.7", "z": "1.0", "X": "FILLED", "n": "0.00123", "N": "BNB"}
    heard, _ = await hear(TRADE, NEW, TRADE, second)
    assert [(one.status, one.filled_quantity) for one in heard] == [
        ("partially_filled", Decimal("0.3")),
        ("accepted", Decimal(0)),
        ("partially_filled", Decimal("0.3")),
        ("filled", Decimal(1)),
    ]
    assert {(one.venue_order_id, one.client_order_id, one.symbol) for one in heard} == {("7", "ours", "BTC/USDT")}
    fills = [[(fill.trade_id, fill.fee, fill.fee_asset, fill.liquidity) for fill in one.fills] for one in heard]
    first = ("31", Decimal("0.0003"), "BTC", "maker")
    assert fills == [[first], [], [first], [("32", Decimal("0.00123"), "BNB", "maker")]]
    assert heard[0].fills[0].traded_at.isoformat() == "2023-11-14T22:13:20.123000+00:00"


async def test_no_digit_is_lost_in_numbers_of_either_kind(hear: Any) -> None:
    """ccxt reads websockets with a parser of its own, which makes floats."""
    digits = "0.300000000000000012345678901"
    text = json.dumps({"subscriptionId": 0, "event": TRADE | {"l": digits, "z": digits, "n": "1e-8"}})
    plain = text.replace(f'"{digits}"', digits).replace('"1e-8"', "1e-8").replace('"99.5"', "99.50000000000000000001")
    heard, _ = await hear(text, plain)
    for one in heard:
        (fill,) = one.fills
        assert (one.filled_quantity, fill.quantity, fill.fee) == (Decimal(digits), Decimal(digits), Decimal("1e-8"))
    assert heard[1].fills[0].price == Decimal("99.50000000000000000001")


async def test_ccxt_does_not_change_how_we_round(hear: Any) -> None:
    before = decimal.getcontext().copy()
    await hear(NEW, TRADE)
    assert repr(decimal.getcontext()) == repr(before)


async def test_a_canceled_order_keeps_our_name(hear: Any) -> None:
    (one,), _ = await hear(NEW | {"x": "CANCELED", "X": "CANCELED", "c": "the-cancel", "C": "ours"})
    assert (one.client_order_id, one.status) == ("ours", "canceled")


async def test_an_execution_without_its_fee_is_left_to_the_poll(hear: Any) -> None:
    silent = {name: value for name, value in TRADE.items() if name not in ("n", "N")}
    heard, _ = await hear(silent, TRADE | {"n": "0.1", "N": None}, TRADE | {"n": "0", "N": None})
    assert [len(one.fills) for one in heard] == [0, 0, 1]
    assert (heard[2].fills[0].fee, heard[2].fills[0].fee_asset) == (Decimal(0), None)
    assert {one.filled_quantity for one in heard} == {Decimal("0.3")}


async def test_an_event_that_makes_no_sense_is_passed_over(hear: Any, caplog: pytest.LogCaptureFixture) -> None:
    heard, ended = await hear(NEW | {"i": None}, {"e": "surprise"}, TRADE)
    assert [one.status for one in heard] == ["partially_filled"]
    assert isinstance(ended, Unknown)  # it hung up
    assert "order id is missing" in caplog.text


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (None, "closed by remote server"),
        ('{"subscriptionId": 0, "event": {"e": "executionReport", "l": NaN}}', "NaN is not JSON"),
        ({"e": "eventStreamTerminated", "E": 1}, "terminated"),
    ],
    ids=["hung up", "not JSON", "terminated"],
)
async def test_what_ends_it_is_said_after_what_it_brought(hear: Any, last: Any, words: str) -> None:
    heard, ended = await hear(TRADE, *([last] if last else []))
    assert [one.status for one in heard] == ["partially_filled"]
    assert isinstance(ended, Unknown)
    assert words in str(ended)


async def test_a_refused_subscription_tells_no_secret(hear: Any, caplog: pytest.LogCaptureFixture) -> None:
    refusal = {"status": 401, "error": {"code": -2015, "msg": f"Invalid API-key {KEYS.api_key}, signature=abcdef"}}
    heard, ended = await hear(answer=refusal)
    assert heard == []
    assert isinstance(ended, Fatal)
    assert "Invalid API-key" in str(ended)
    gc.collect()  # asyncio logs an exception that nobody took note of when it is forgotten
    assert "never retrieved" not in caplog.text
    for told in (str(ended), repr(ended), caplog.text):
        assert KEYS.api_key not in told
        assert KEYS.secret not in told
        assert "abcdef" not in told


async def test_it_is_closed_at_once_though_the_venue_says_nothing(open_live: Any, scripted: Any) -> None:
    """A polite good-bye would wait for ten seconds."""
    async with Speaker(SUBSCRIBED, [json.dumps({"event": NEW})], hangs_up=False, deaf=True) as address:
        brought = await open_live(**addresses(scripted.url, address)).executions()
        assert await asyncio.wait_for(anext(brought), 20)
        await asyncio.wait_for(brought.aclose(), 5)


async def test_nobody_answers(open_live: Any, scripted: Any) -> None:
    brought = await open_live(**addresses(scripted.url, "ws://127.0.0.1:1/ws-api/v3")).executions()
    with pytest.raises(Unknown, match="NetworkError"):
        await asyncio.wait_for(anext(brought), 20)


async def test_there_is_none_without_an_address_or_keys(open_live: Any, scripted: Any) -> None:
    assert await open_live().executions() is None
    options = addresses(scripted.url, "ws://127.0.0.1:1") | {"rateLimit": 1}
    public = live.connect("binance", options=options, credentials=None, mode="simulator")
    assert await public.executions() is None
    await public.close()


def test_a_stream_elsewhere_is_refused_before_anything_is_sent(scripted: Any) -> None:
    with pytest.raises(ConfigError, match="this machine"):
        live.connect(
            "binance", options=addresses(scripted.url, "wss://ws.binance.com"), credentials=KEYS, mode="simulator"
        )


@pytest.mark.parametrize("mode", ["paper", "sandbox"])
@pytest.mark.parametrize("ccxt_id", ["binance", "bybit"])
def test_a_test_systems_stream_is_that_systems(ccxt_id: str, mode: Any) -> None:
    ways = live.connect(ccxt_id, options={}, credentials=KEYS, mode=mode)._ways
    client = live._client(ways, getattr(ccxt.pro, ccxt_id), stream.Listener, Tap)
    hosts = {url.split("/")[2] for url in flat_urls(client.urls["api"]["ws"], client.hostname).values()}
    assert hosts
    assert hosts <= SANDBOX_HOSTS[ccxt_id]
