"""What a failed call means: was it placed or not. The table is data, by the exact name of ccxt's class.

Only what is KNOWN not to have been placed is listed. Subclasses are not covered by their parents: a class that
is not in the table, whatever it derives from, means that nobody can say yet (`Unknown`).
"""

import re
from dataclasses import dataclass
from typing import Literal

from trader.errors import ExchangeError, Fatal, Refused, Retry, Unknown

Kind = Literal["refused", "retry", "fatal"]
Action = Literal["create", "cancel", "read"]

NOT_PLACED: dict[str, Kind] = {
    "InsufficientFunds": "refused",
    "BadSymbol": "refused",
    "BadRequest": "refused",
    "ArgumentsRequired": "refused",
    "NotSupported": "refused",
    "MarketClosed": "refused",
    "OrderImmediatelyFillable": "refused",
    "OrderNotFillable": "refused",
    "InvalidOrder": "refused",
    "AuthenticationError": "fatal",
    "PermissionDenied": "fatal",
    "AccountSuspended": "fatal",
    "DDoSProtection": "retry",
    "RateLimitExceeded": "retry",
    "OnMaintenance": "retry",
    "InvalidNonce": "retry",
}

NOT_CANCELED: dict[str, Kind] = NOT_PLACED | {"OrderNotFound": "refused"}
"""For a cancel, "there is no such open order" is an answer as well."""

# Raised as InvalidOrder, BadRequest or a bare ExchangeError: only the text tells a duplicate id from a bad order.
DUPLICATE_ID: dict[str, re.Pattern[str]] = {
    "binance": re.compile(r"Duplicate order sent"),
    "bybit": re.compile(r'"retCode"\s*:\s*"?(?:110072|170141|10014|12141|110030|30001)\b'),
    # Its words for this are not in its documents: these may mean it, and any other leaves the order in doubt as well.
    "kraken": re.compile(r"(?i)EOrder:Duplicate|cl_?ord_?id.*(?:duplicate|not unique|already)|duplicate.*cl_?ord_?id"),
    "krakenfutures": re.compile(r"clientOrderIdAlreadyExist"),
}
DUPLICATE_CLASS = "DuplicateOrderId"

MAYBE_PLACED: dict[str, re.Pattern[str]] = {
    "bybit": re.compile(r'"retCode"\s*:\s*"?170146\b'),  # "Order creation timeout", raised as InvalidOrder
}

# Refusals by the venue's own documents that ccxt raises as a bare ExchangeError. An argument that names the client id
# or the deadline is not among them: that may be a duplicate, or an order that came late.
REFUSED: dict[str, re.Pattern[str]] = {
    "kraken": re.compile(
        r"EOrder:(?:Post only order|Cost minimum not met|Tick size check failed|Orders limit exceeded|Invalid price"
        r"|Positions limit exceeded|Trading agreement required|Cannot open position|Margin [a-z ]+|Insufficient margin)"
        r"|EGeneral:Invalid arguments(?!:(?:cl_ord_id|deadline))"
        r"|EAccount:Invalid permissions"
    ),
}
FATAL: dict[str, re.Pattern[str]] = {
    "kraken": re.compile(r"EAPI:Invalid signature|EAuth:Account (?:temporary disabled|unconfirmed)"),
}
LATER: dict[str, re.Pattern[str]] = {
    "kraken": re.compile(r"EOrder:Domain rate limit exceeded|EAuth:(?:Rate limit exceeded|Too many requests)"),
}
_WORDS: tuple[tuple[dict[str, re.Pattern[str]], Kind], ...] = (
    (REFUSED, "refused"),
    (FATAL, "fatal"),
    (LATER, "retry"),
)
"""Only for a bare ExchangeError: a class of its own says more."""

# With proof that no byte of the request left this machine, these say only that the venue was not reached.
NOT_REACHED = frozenset({"ExchangeNotAvailable", "RequestTimeout", "NetworkError"})


@dataclass(frozen=True, slots=True)
class Failure:
    """The evidence about one failed call. `name` is empty for an exception that is not ccxt's."""

    venue: str
    action: Action
    name: str
    text: str
    sent: bool
    status: int | None = None
    after: float | None = None


def judge(failure: Failure) -> ExchangeError:
    """The error to raise for `failure`. Its message is `failure.text`, which must be free of secrets already."""
    if failure.action == "create" and _is_duplicate(failure):
        return Unknown(failure.text, exists=True)
    return _error(_kind(failure), failure)


def _is_duplicate(failure: Failure) -> bool:
    pattern = DUPLICATE_ID.get(failure.venue)
    return failure.name == DUPLICATE_CLASS or bool(failure.name and pattern and pattern.search(failure.text))


def _kind(failure: Failure) -> Kind | None:
    if not failure.sent and failure.name in NOT_REACHED:
        return "retry"
    maybe = MAYBE_PLACED.get(failure.venue)
    if maybe and maybe.search(failure.text):
        return None
    kind = (NOT_CANCELED if failure.action == "cancel" else NOT_PLACED).get(failure.name) or _by_words(failure)
    # A 5xx comes from a machine in trouble: it is no proof of a refusal, whatever its body says.
    if kind in ("refused", "fatal") and failure.status is not None and failure.status >= 500:
        return None
    return kind


def _by_words(failure: Failure) -> Kind | None:
    if failure.name != "ExchangeError":
        return None
    for table, kind in _WORDS:
        pattern = table.get(failure.venue)
        if pattern and pattern.search(failure.text):
            return kind
    return None


def _error(kind: Kind | None, failure: Failure) -> ExchangeError:
    if kind == "refused":
        return Refused(failure.text)
    if kind == "retry":
        return Retry(failure.text, after=failure.after)
    return Fatal(failure.text) if kind == "fatal" else Unknown(failure.text)
