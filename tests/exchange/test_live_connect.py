"""Connecting: what is refused before the first request could be sent."""

import ast
import logging
from pathlib import Path
from typing import Any

import pytest

from trader.errors import ConfigError
from trader.exchange.credentials import Credentials
from trader.exchange.live import LiveExchange, connect

KEYS = Credentials("MAIN", "key", "c2VjcmV0")
LOCAL = {"urls": {"api": {"public": "http://127.0.0.1:9/api/v3", "private": "http://127.0.0.1:9/api/v3"}}}


def opened(ccxt_id: str = "binance", mode: Any = "simulator", credentials: Any = KEYS, **more: Any) -> LiveExchange:
    return connect(ccxt_id, options=more.pop("options", LOCAL), credentials=credentials, mode=mode, **more)


def hosts(live: LiveExchange) -> set[str]:
    from trader.exchange.hosts import flat_urls

    return set(flat_urls(live._client.urls["api"], live._client.hostname).values())


async def test_a_simulator_reaches_this_machine_only() -> None:
    live = opened()
    assert hosts(live) == {"http://127.0.0.1:9/api/v3"}
    await live.close()


@pytest.mark.parametrize(
    "url",
    [
        "https://api.binance.com/api/v4",
        "http://127.0.0.1.evil.io/api",
        "http://localhost.evil.io",
        "http://127.0.0.1@evil.io/",
        "http://10.0.0.1/",
        "evil",
    ],
)
@pytest.mark.parametrize("key", ["private", "sapi", "somethingNew"])
def test_a_simulator_anywhere_else_is_refused(url: str, key: str) -> None:
    with pytest.raises(ConfigError, match="this machine"):
        opened(options={"urls": {"api": {"public": "http://127.0.0.1:9", key: url}}})


@pytest.mark.parametrize("ccxt_id", ["binance", "kraken", "bybit"])
def test_a_simulator_without_an_address_never_means_the_real_venue(ccxt_id: str) -> None:
    with pytest.raises(ConfigError, match=r"options\.urls\.api"):
        opened(ccxt_id, options={})


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost:1/x", "http://[::1]:1", "http://127.9.9.9"])
async def test_every_name_of_this_machine_will_do(url: str) -> None:
    await opened(options={"urls": {"api": {"public": url}}}).close()


@pytest.mark.parametrize(
    ("ccxt_id", "mode", "host"),
    [
        ("binance", "sandbox", "https://testnet.binance.vision/api/v3"),
        ("binance", "paper", "https://demo-api.binance.com/api/v3"),
        ("bybit", "sandbox", "https://api-testnet.bybit.com"),
        ("bybit", "paper", "https://api-demo.bybit.com"),
        ("krakenfutures", "sandbox", "https://demo-futures.kraken.com/derivatives/api/"),
    ],
)
async def test_a_sandbox_has_only_known_hosts(ccxt_id: str, mode: str, host: str) -> None:
    live = opened(ccxt_id, mode, options={})
    assert host in hosts(live)
    assert not [url for url in hosts(live) if "//api.bybit" in url or "//api.binance" in url]
    await live.close()


@pytest.mark.parametrize("mode", ["sandbox", "paper"])
@pytest.mark.parametrize("ccxt_id", ["kraken", "okx", "coinbase", "kucoin", "gate", "bitget"])
def test_a_venue_without_a_known_sandbox_is_refused(ccxt_id: str, mode: str) -> None:
    with pytest.raises(ConfigError):
        opened(ccxt_id, mode, options={}, credentials=Credentials("MAIN", "key", "c2VjcmV0", "password"))


@pytest.mark.parametrize("part", ["test", "demo"])
def test_a_sandbox_led_to_the_real_venue_is_refused(part: str) -> None:
    mode = {"test": "sandbox", "demo": "paper"}[part]
    with pytest.raises(ConfigError, match=r"api\.binance\.com"):
        opened(mode=mode, options={"urls": {part: {"private": "https://api.binance.com/api/v3"}}})


def test_a_hostname_in_the_options_is_looked_through() -> None:
    with pytest.raises(ConfigError, match=r"evil\.io"):
        opened("bybit", "sandbox", options={"hostname": "evil.io"})


def test_live_needs_to_be_allowed() -> None:
    with pytest.raises(ConfigError, match="TALLYDESK_ALLOW_LIVE"):
        opened(mode="live", options={})


async def test_live_when_allowed_has_sent_nothing() -> None:
    live = opened(mode="live", options={}, allow_live=True)
    assert live._client.session is None
    await live.close()


@pytest.mark.parametrize("mode", ["Live", "", "test"])
def test_an_unknown_mode_is_refused(mode: str) -> None:
    with pytest.raises(ConfigError, match="allowed are simulator, paper, sandbox, live"):
        opened(mode=mode)


def test_an_unknown_exchange_is_refused() -> None:
    with pytest.raises(ConfigError, match="nyse"):
        opened("nyse")


@pytest.mark.parametrize("options", [{"apiKey": "abc"}, {"options": {"secret": "abc"}}])
def test_secrets_in_options_are_refused(options: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        opened(options=LOCAL | options)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("options", [{"verbose": True}, {"options": {"maxRetriesOnFailure": 3}}, {"socksProxy": "x"}])
def test_options_that_would_resend_or_leak_are_refused(options: Any) -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        opened(options=LOCAL | options)


def test_a_kraken_secret_that_is_no_base64_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="MAIN_SECRET") as caught:
        opened("kraken", credentials=Credentials("MAIN", "key", "not base64!"))
    assert "not base64!" not in str(caught.value)


def test_a_password_that_the_venue_needs_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="MAIN_PASSWORD"):
        opened("okx", options={})


async def test_options_are_merged_deep_and_ours_stay() -> None:
    live = opened(options=LOCAL | {"timeout": 2500, "options": {"recvWindow": 7000}})
    client = live._client
    assert (client.timeout, client.enableRateLimit, client.options["recvWindow"]) == (2500, True, 7000)
    assert client.options["fetchMarkets"]["types"] == ["spot"]
    assert client.options["newOrderRespType"]["market"] == "FULL"
    await live.close()


async def test_public_data_needs_no_credentials(scripted: Any) -> None:
    options = {"urls": {"api": {"public": f"{scripted.url}/api/v3"}}}
    live = opened(options=options, credentials=None)
    assert [info.symbol for info in await live.markets()] == ["BTC/USDT", "SHIB/USDT"]
    await live.close()


async def test_nothing_is_logged_even_at_debug(open_live: Any, scripted: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    scripted.on("GET", "/api/v3/account", {"balances": []})
    live = open_live()
    await live.balances()
    shown = " ".join(record.getMessage() for record in caplog.records)
    assert not [s for s in ("signature", live._client.apiKey, live._client.secret) if s in shown]


async def test_close_closes_the_session_and_can_be_repeated(open_live: Any) -> None:
    live = open_live()
    await live.markets()
    session = live._client.session
    await live.close()
    await live.close()
    assert session.closed


def test_only_live_imports_ccxt() -> None:
    package = Path(connect.__code__.co_filename).parents[1]
    importing = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "ccxt" for name in names):
                importing.add(path.relative_to(package).as_posix())
    assert importing == {"exchange/live.py"}
