"""Binance: the product's own simulator, in a process of its own, behind what a scripted venue offers to a test."""

from collections.abc import Callable
from typing import Any

from tests.plugins.simulator import Simulator
from trader.simulator.client_options import ccxt_options

ENDPOINTS = {
    "create": "POST /api/v3/order",
    "cancel": "DELETE /api/v3/order",
    "look-up": "GET /api/v3/order",
    "fills": "GET /api/v3/myTrades",
}
BALANCES = ("--balance", "USDT=1000", "--balance", "BTC=1", "--balance", "BNB=10")


class Binance:
    """See ScriptedVenue for what each call does."""

    ccxt_id = "binance"

    def __init__(self, simulator: Callable[..., Simulator], *arguments: str) -> None:
        self._simulator = simulator(*BALANCES, "--book-quote", "100000", *arguments)
        self.price("50000")
        self.key, self.secret = self._simulator.key, self._simulator.secret

    def options(self) -> dict[str, Any]:
        return ccxt_options(self._simulator.url) | {"enableRateLimit": False, "timeout": 3000}

    def price(self, price: str) -> None:
        self._simulator.price(price)

    def lose_answers(self, times: int = 1, kind: str = "create") -> None:
        self._simulator.fault("drop_answer", ENDPOINTS[kind], times=times)

    def lose_requests(self, times: int = 1, kind: str = "create") -> None:
        self._simulator.fault("drop_request", ENDPOINTS[kind], times=times)

    def hang(self, kind: str = "create") -> None:
        self._simulator.fault("hang", ENDPOINTS[kind], seconds=60)

    def truncate(self, kind: str = "create") -> None:
        self._simulator.fault("truncate", ENDPOINTS[kind])

    def fail(self, status: int, *, act: bool, kind: str = "create", times: int = 1) -> None:
        if status == 429:
            self._simulator.fault("too_many_requests", ENDPOINTS[kind], times=times)
        else:
            self._simulator.fault("status", ENDPOINTS[kind], status=status, act=act, times=times)

    def say(self, error: Any, *, kind: str = "create", times: int = 1) -> None:
        code, message = error
        self._simulator.fault("reject", ENDPOINTS[kind], code=code, message=message, times=times)

    def partial(self, fraction: str = "0.5") -> None:
        self._simulator.fault("partial", fraction=fraction)

    def orders(self) -> list[dict[str, Any]]:
        return self._simulator.orders()

    def venue_state(self) -> dict[str, Any]:
        return self._simulator.venue_state()

    def creates(self) -> list[dict[str, Any]]:
        return [one for one in self._simulator.log() if (one["method"], one["path"]) == ("POST", "/api/v3/order")]
