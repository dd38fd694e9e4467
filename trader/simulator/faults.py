"""Switchable faults: which request fails, how, how often. A rule is JSON as it is posted to /simulator/faults."""

from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from random import Random
from typing import Any

KINDS = {
    "drop_request": "the connection closes before anything is done",
    "drop_answer": "done and committed, then the connection closes without an answer",
    "delay": "the request arrives `seconds` late",
    "delay_answer": "done and committed, the answer comes `seconds` late",
    "hang": "no answer for `seconds`, then the connection closes; done first unless `act` is false",
    "status": "an HTTP `status` (default 503) with an HTML body; done first if `act` is true",
    "truncate": "done, half of the body is sent",
    "garbage": "done, HTTP 200 with a body that is not JSON",
    "reject": "refused with `code` and `message`",
    "unknown_1007": "Binance's -1007, send status unknown; done first if `act` is true",
    "too_many_requests": "HTTP 429 with Retry-After of `seconds`",
    "banned": "HTTP 418 with Retry-After of `seconds`",
    "lookup_error": "-1000, an unknown error occurred",
    "lookup_miss": "-2013, order does not exist, whether it does or not; a list is empty, whatever is in it",
    "partial": "only `fraction` (default 0.5) of what the book offers is filled at once",
    "event_drop": "websocket: the event is lost",
    "event_duplicate": "websocket: the event is sent twice",
    "event_reorder": "websocket: the event is sent after the next one",
    "disconnect": "websocket: the connection closes instead of the event",
}
MATCHES = ("endpoint", "client_order_id", "symbol", "side", "key", "event")
FIELDS = (
    "match",
    "fault",
    "seconds",
    "status",
    "times",
    "probability",
    "seed",
    "after",
    "act",
    "code",
    "message",
    "fraction",
)
SOCKET_KINDS = ("event_drop", "event_duplicate", "event_reorder", "disconnect")


class BadRuleError(ValueError):
    """A fault rule that cannot be understood; the text names the field and what is allowed."""


@dataclass(slots=True)
class Rule:
    """One fault. `times` None is for ever; `after` lets that many matching requests pass first."""

    id: int
    fault: str
    match: dict[str, str]
    seconds: float = 1.0
    status: int = 503
    times: int | None = 1
    probability: float = 1.0
    seed: int = 0
    after: int = 0
    act: bool | None = None
    code: int = -2010
    message: str = "Simulated refusal."
    fraction: Decimal = Decimal("0.5")
    seen: int = 0
    fired: int = 0
    random: Random = field(default_factory=Random, repr=False)

    def describe(self) -> dict[str, Any]:
        names = ("id", "fault", "match", "times", "seen", "fired")
        return {name: getattr(self, name) for name in names}


def parse_rule(number: int, raw: object) -> Rule:
    """Make a rule of posted JSON (BadRuleError)."""
    if not isinstance(raw, dict):
        raise BadRuleError(f"a rule must be an object, not {raw!r}")
    unknown = set(raw) - set(FIELDS)
    if unknown:
        raise BadRuleError(f"unknown field {sorted(unknown)[0]!r}; allowed: {', '.join(FIELDS)}")
    if raw.get("fault") not in KINDS:
        raise BadRuleError(f"fault is {raw.get('fault')!r}; allowed: {', '.join(KINDS)}")
    match = raw.get("match", {})
    if not isinstance(match, dict) or set(match) - set(MATCHES):
        raise BadRuleError(f"match is {match!r}; its fields are: {', '.join(MATCHES)}")
    values = {name: raw[name] for name in FIELDS if name in raw and name not in ("match", "fraction")}
    rule = Rule(id=number, match={k: str(v) for k, v in match.items()}, **values)
    _check_numbers(rule, raw)
    rule.random = Random(rule.seed)  # noqa: S311 - reproducible on purpose
    return rule


def _check_numbers(rule: Rule, raw: dict[str, Any]) -> None:
    try:
        rule.fraction = Decimal(str(raw.get("fraction", "0.5")))
    except InvalidOperation:
        raise BadRuleError(f"fraction is {raw['fraction']!r}; it must be a number from 0 to 1") from None
    limits: dict[str, tuple[Any, float, float]] = {
        "seconds": (rule.seconds, 0, 3600),
        "status": (rule.status, 200, 599),
        "times": (1 if rule.times is None else rule.times, 1, 10**9),
        "probability": (rule.probability, 0, 1),
        "after": (rule.after, 0, 10**9),
        "fraction": (rule.fraction, 0, 1),
    }
    for name, (value, low, high) in limits.items():
        if not isinstance(value, int | float | Decimal) or not low <= value <= high:
            raise BadRuleError(f"{name} is {value!r}; it must be a number from {low} to {high}")


class Faults:
    """The rules in force, in the order in which they were posted. The first that fires decides."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self._last = 0

    def add(self, raw: list[object]) -> list[Rule]:
        """Add all rules or none (BadRuleError)."""
        new = [parse_rule(self._last + i, one) for i, one in enumerate(raw, 1)]
        self._last += len(new)
        self.rules += new
        return new

    def clear(self) -> None:
        self.rules.clear()

    def take(self, facts: dict[str, str], *, socket: bool = False) -> Rule | None:
        """The fault that this request (or, with `socket`, this websocket event) meets, if any; it counts as used."""
        for rule in self.rules:
            if (rule.fault in SOCKET_KINDS) == socket and _matches(rule, facts) and _fires(rule):
                return rule
        return None


def _matches(rule: Rule, facts: dict[str, str]) -> bool:
    return all(facts.get(name) == wanted for name, wanted in rule.match.items())


def _fires(rule: Rule) -> bool:
    rule.seen += 1
    if rule.seen <= rule.after or (rule.times is not None and rule.fired >= rule.times):
        return False
    if rule.probability < 1 and rule.random.random() >= rule.probability:
        return False
    rule.fired += 1
    return True
