"""Which hosts a connection may talk to: the last check before anything is sent."""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from trader.errors import ConfigError

SANDBOX_HOSTS: dict[str, frozenset[str]] = {
    "binance": frozenset(
        {
            "testnet.binance.vision",
            "testnet.binancefuture.com",
            "demo-api.binance.com",
            "demo-fapi.binance.com",
            "demo-dapi.binance.com",
            # websockets
            "stream.testnet.binance.vision",
            "ws-api.testnet.binance.vision",
            "demo-stream.binance.com",
            "demo-ws-api.binance.com",
            "fstream.binancefuture.com",
            "dstream.binancefuture.com",
        }
    ),
    "bybit": frozenset(
        {"api-testnet.bybit.com", "api-demo.bybit.com", "stream-testnet.bybit.com", "stream-demo.bybit.com"}
    ),
    "krakenfutures": frozenset({"demo-futures.kraken.com"}),
}


def require_loopback(exchange: str, urls: Mapping[str, str]) -> None:
    """Raise ConfigError unless there is at least one base URL and each points at this machine."""
    if not urls:
        raise ConfigError(f"{exchange}: mode simulator needs options.urls.api with the simulator's address")
    for path, url in urls.items():
        if not is_loopback(url):
            raise ConfigError(
                f"{exchange}: mode simulator: urls.{path} is {url}: only an address of this machine is allowed"
            )


def require_sandbox(exchange: str, mode: str, urls: Mapping[str, str]) -> None:
    """Raise ConfigError unless each base URL is a known sandbox of this venue (or this machine)."""
    known = SANDBOX_HOSTS.get(exchange, frozenset())
    if not known:
        raise ConfigError(f"{exchange} has no sandbox that Tallydesk knows: mode {mode} is not possible here")
    if not urls:
        raise ConfigError(f"{exchange}: mode {mode}: there is no base URL")
    for path, url in urls.items():
        if urlsplit(url).hostname not in known and not is_loopback(url):
            allowed = ", ".join(sorted(known))
            raise ConfigError(f"{exchange}: mode {mode}: urls.{path} is {url}: allowed are {allowed}")


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine."""
    host = urlsplit(url).hostname
    if host is None:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def flat_urls(node: Any, hostname: str | None, path: str = "api") -> dict[str, str]:
    """Every base URL under ccxt's `urls['api']`, by its path, with `{hostname}` filled in."""
    return dict(_flat(node, hostname or "", path))


def _flat(node: Any, hostname: str, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield path, node.replace("{hostname}", hostname)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flat(value, hostname, f"{path}.{key}")


def drop_defaults(node: Any, default: Any) -> Any:
    """`node` without what equals ccxt's own `default`: a URL that nobody set must not be reachable by accident."""
    if not isinstance(node, Mapping):
        return None if node == default else node
    known = default if isinstance(default, Mapping) else {}
    kept = {key: drop_defaults(value, known.get(key)) for key, value in node.items()}
    return {key: value for key, value in kept.items() if value not in (None, {})}
