"""Request weights as Binance counts them: per address, in minutes of the venue's own clock.

Every answer says what the minute has used (X-MBX-USED-WEIGHT-1M). Beyond the limit every request is refused with 429
and the seconds until the next minute; who goes on asking is banned: 418 until the ban ends. New orders are counted per
account as well; that count is told, not limited.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trader.simulator.wire import Params

MINUTE = 60_000
ORDER_WINDOWS = {"10S": 10_000, "1D": 86_400_000}
PATIENCE = 10
"""Refused requests of one minute after which the address is banned."""
BAN_SECONDS = 120
"""The shortest ban of Binance. Later ones are longer there, up to three days."""

# As Binance documents them for spot. What is not here costs 1.
WEIGHTS = {
    "GET /api/v3/exchangeInfo": 20,
    "GET /api/v3/klines": 2,
    "GET /api/v3/trades": 25,
    "GET /api/v3/aggTrades": 4,
    "GET /api/v3/account": 20,
    "GET /api/v3/order": 4,
    "GET /api/v3/allOrders": 20,
}
DEPTH = ((100, 5), (500, 25), (1000, 50))
DEPTH_DEEPEST = 250
WITH_SYMBOL = {
    "GET /api/v3/ticker/24hr": (2, 80),
    "GET /api/v3/ticker/price": (2, 4),
    "GET /api/v3/ticker/bookTicker": (2, 4),
    "GET /api/v3/openOrders": (6, 80),
}
"""With `symbol`, and without."""
SOCKET_ROUTES = {
    "time": "GET /api/v3/time",
    "exchangeInfo": "GET /api/v3/exchangeInfo",
    "klines": "GET /api/v3/klines",
    "depth": "GET /api/v3/depth",
    "ticker.24hr": "GET /api/v3/ticker/24hr",
    "ticker.price": "GET /api/v3/ticker/price",
    "ticker.book": "GET /api/v3/ticker/bookTicker",
    "trades.recent": "GET /api/v3/trades",
    "account.status": "GET /api/v3/account",
    "order.status": "GET /api/v3/order",
    "openOrders.status": "GET /api/v3/openOrders",
    "allOrders": "GET /api/v3/allOrders",
    "myTrades": "GET /api/v3/myTrades",
}
"""What a method of the websocket API costs: the same as its route."""


def weight(route: str, params: Params) -> int:
    """What a request costs. Routes under /sapi/ have a limit of their own, which is not counted here."""
    if "/api/v3/" not in route:
        return 0
    if route in WITH_SYMBOL:
        return WITH_SYMBOL[route][params.get("symbol") is None]
    if route == "GET /api/v3/depth":
        asked = params.get("limit") or "100"
        levels = int(asked) if asked.isdigit() else 100
        return next((cost for most, cost in DEPTH if levels <= most), DEPTH_DEEPEST)
    if route == "GET /api/v3/myTrades":
        return 5 if params.get("orderId") else 20
    return WEIGHTS.get(route, 1)


@dataclass(slots=True)
class Refusal:
    """Why a request is not served: 429 or 418, and for how many seconds."""

    status: int
    seconds: int
    message: str


@dataclass(slots=True)
class _Address:
    minute: int = -1
    used: int = 0
    refused: int = 0
    banned_until: int = 0


@dataclass(slots=True)
class Weights:
    """What every address has used. `limit` is per minute; 0: counted and told, never refused."""

    limit: int
    wall: Callable[[], int]
    ban_seconds: int = BAN_SECONDS
    _addresses: dict[str, _Address] = field(default_factory=dict)
    _orders: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def charge(self, address: str, cost: int) -> Refusal | None:
        """Count a request; why it is not served, if it is not."""
        now = self.wall()
        known = self._addresses.setdefault(address, _Address())
        if known.minute != now // MINUTE:
            known.minute, known.used, known.refused = now // MINUTE, 0, 0
        known.used += cost
        if not self.limit:
            return None
        if now < known.banned_until:
            return _banned(known.banned_until - now)
        if known.used <= self.limit:
            return None
        known.refused += 1
        if known.refused > PATIENCE:
            known.banned_until = now + self.ban_seconds * 1000
            return _banned(known.banned_until - now)
        return Refusal(
            429,
            _seconds(MINUTE - now % MINUTE),
            f"Too much request weight used; current limit is {self.limit} request weight per 1 MINUTE. "
            "Please use WebSocket Streams for live updates to avoid polling the API.",
        )

    def used(self, address: str) -> int:
        """What the address has used in this minute."""
        known = self._addresses.get(address)
        return known.used if known is not None and known.minute == self.wall() // MINUTE else 0

    def count_order(self, key: str) -> dict[str, str]:
        """Count an order that was taken; the headers that say how many there were."""
        now, headers = self.wall(), {}
        for name, span in ORDER_WINDOWS.items():
            window, count = self._orders.get((key, name), (-1, 0))
            count = count + 1 if window == now // span else 1
            self._orders[key, name] = (now // span, count)
            headers[f"X-MBX-ORDER-COUNT-{name}"] = str(count)
        return headers

    def headers(self, address: str) -> dict[str, str]:
        """What every answer says."""
        used = str(self.used(address))
        return {"X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used}

    def rules(self) -> list[dict[str, Any]]:
        """The limits as exchangeInfo tells them; one that is lifted is not among them."""
        minute = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": self.limit}
        return [
            *([minute] if self.limit else []),
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 100},
            {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": 200000},
        ]


def _banned(milliseconds: int) -> Refusal:
    return Refusal(418, _seconds(milliseconds), "Way too much request weight used; IP banned for a while.")


def _seconds(milliseconds: int) -> int:
    return max(1, -(-milliseconds // 1000))
