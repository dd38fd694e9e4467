"""Who may ask a venue, and when: the seam between ccxt's requests and whatever shares a venue's limit among processes.

Units are ccxt's: the cost that it knows of each request. What venues say of their own counts is read here; who
counts by account instead of by address is data.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, runtime_checkable

COUNTS_ACCOUNTS = frozenset({"kraken", "bybit"})
"""Venues that count the signed requests of an account, wherever they come from. All others: by address."""

SHUT_SECONDS = {429: 10.0, 418: 120.0}
"""For how long nothing is asked after such an answer that does not say it itself."""
WORDED_SHUT_SECONDS = 2.0
"""And after one that says so in words alone, as Kraken and Bybit do with HTTP 200: their counts fall each second."""
LONGEST_SHUT_SECONDS = 3 * 86400.0
"""The longest ban that Binance documents. A longer one is not believed before it has been said again."""

_BINANCE_WEIGHT = "x-mbx-used-weight-1m"
_BINANCE_UNITS = 0.2
"""ccxt's cost of one of Binance's weights, for the routes under /api/v3/."""


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer told of a venue's limits; None: nothing of that kind."""

    used: float | None = None
    """Units that the venue has counted in its present minute."""
    minute_left: float | None = None
    """Seconds until it begins to count anew, at the latest."""
    stated: float | None = None
    """Units that it allows in a minute."""
    shut: float | None = None
    """Seconds for which it wants to hear nothing."""
    why: str = ""


class Limiter(Protocol):
    """A share in a venue's limit. One for each venue and address (or account) in a process."""

    async def ask(self, cost: float) -> None:
        """Wait until a request of this cost may be sent. Raises Retry if the venue is shut for longer than a moment."""
        ...

    def check(self) -> None:
        """Raises Retry if the venue is shut: nothing may be sent now."""
        ...

    def told(self, said: Said) -> None:
        """Take note of what an answer said."""
        ...


@runtime_checkable
class Limited(Protocol):
    """A connection whose requests can be made to ask a limiter first."""

    ccxt_id: str

    @property
    def units(self) -> float | None:
        """Units a minute that ccxt keeps to at this venue. None: it was told to keep to no limit."""
        ...

    @property
    def is_signed(self) -> bool:
        """Whether it asks on behalf of an account."""
        ...

    def limit(self, limiter: Limiter) -> None:
        """From now on ask `limiter` before each request."""
        ...


def heard(ccxt_id: str, status: int, url: str, headers: Mapping[str, str] | None, text: str = "") -> Said | None:
    """What the head of an answer tells; None if nothing."""
    lower = {name.lower(): value for name, value in (headers or {}).items()}
    shut = retry_after(lower) if status in SHUT_SECONDS else None
    if status in SHUT_SECONDS and shut is None:
        shut = SHUT_SECONDS[status]
    used, left = None, None
    if ccxt_id == "binance" and "/api/v3/" in url and lower.get(_BINANCE_WEIGHT, "").isdigit():
        used, left = int(lower[_BINANCE_WEIGHT]) * _BINANCE_UNITS, _minute_left(lower)
    if shut is None and used is None:
        return None
    return Said(used=used, minute_left=left, shut=shut, why=f"HTTP {status} {text}".strip()[:200] if shut else "")


def worded(error: Exception, status: int) -> Said | None:
    """What an error of ccxt tells, which it read in the words of an answer; None if it is of another kind."""
    if not {"RateLimitExceeded", "DDoSProtection"} & {base.__name__ for base in type(error).__mro__}:
        return None
    words = str(error) if status < 400 else type(error).__name__  # beyond that it has the whole address, signature too
    return Said(shut=WORDED_SHUT_SECONDS, why=f"HTTP {status} {words}"[:200])


def stated(ccxt_id: str, answer: Any) -> Said | None:
    """The limit that an answer tells (Binance: exchangeInfo); None if it tells none."""
    rules = answer.get("rateLimits") if ccxt_id == "binance" and isinstance(answer, Mapping) else None
    for rule in rules if isinstance(rules, list) else []:
        if not isinstance(rule, Mapping) or (rule.get("rateLimitType"), rule.get("interval")) != _MINUTE_RULE:
            continue
        limit, minutes = rule.get("limit"), rule.get("intervalNum")
        if isinstance(limit, int) and isinstance(minutes, int) and limit > 0 and minutes > 0:
            return Said(stated=limit * _BINANCE_UNITS / minutes)
    return None


_MINUTE_RULE = ("REQUEST_WEIGHT", "MINUTE")


def retry_after(lower: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header (a number, or a moment compared with Date); None if it cannot be read."""
    value = lower.get("retry-after", "").strip()
    if value.isdigit():
        return min(float(value), LONGEST_SHUT_SECONDS)
    try:
        until, now = parsedate_to_datetime(value), parsedate_to_datetime(lower.get("date", ""))
        return min(max((until - now).total_seconds() + 1.0, 1.0), LONGEST_SHUT_SECONDS)
    except (ValueError, TypeError):
        return None


def _minute_left(lower: Mapping[str, str]) -> float:
    """By the venue's clock, which Date tells to the second: never too early. Else by our own."""
    try:
        second: float = parsedate_to_datetime(lower.get("date", "")).second
    except (ValueError, TypeError):
        second = time.time() % 60
    return 60.0 - second
