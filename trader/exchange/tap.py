"""A look at every request on its way out and every answer on its way in, mixed into ccxt's exchange class.

ccxt's unified answers hide what we must know: whether the request left this machine, what the venue's raw answer
was, and when the request was signed. The tap notes these per call (a context variable, so that calls running
side by side do not mix) and changes nothing else.
"""

import json
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import aiohttp

from trader.clock import to_milliseconds
from trader.errors import Retry, Unknown
from trader.exchange.limiter import Limiter, Said, heard, stated, worded


@dataclass(slots=True)
class Call:
    """The evidence of one of our calls, which may take several requests."""

    pinned_at: datetime | None = None
    """Sign with this moment in place of the clock (None: the clock)."""
    window: timedelta | None = None
    sent: bool = False
    """True from just before the first byte of a request is written."""
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    answer: Any = None
    """The last answer, parsed."""

    def after(self) -> float | None:
        """The seconds of a `Retry-After` header, if it states any."""
        for name, value in self.headers.items():
            if name.lower() == "retry-after" and value.strip().isdigit():
                return float(value)
        return None


CALL: ContextVar[Call] = ContextVar("call")


def exact_json(text: str) -> Any:
    """JSON with fractions kept as the text they came in; NaN and Infinity are no JSON (ValueError)."""
    return json.loads(text, parse_float=str, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def rows_at(answer: Any, path: tuple[str, ...], kind: type | tuple[type, ...]) -> Any:
    """What `answer` holds at `path`. Raises Unknown if it is not of `kind`: an answer without rows was not read."""
    node = answer
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    if not isinstance(node, kind):
        place = ".".join(path) or "the answer"
        expected = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise Unknown(f"malformed answer: {place} is {type(node).__name__}, expected {expected}")
    return node


class Tap:
    """Mixed in before a class of `ccxt.async_support`."""

    number = str
    pin_clock = False
    """The venue signs the time of its clock: sign ours as if it were `pinned_at`."""
    limiter: Limiter | None = None
    """Asked before every request; None: ccxt alone paces this connection's requests."""

    def on_json_response(self, response_body: str) -> Any:
        return exact_json(response_body)

    def open(self, lazy: bool = False) -> None:
        super().open(lazy)  # type: ignore[misc]
        session = getattr(self, "session", None)
        if session is not None and not any(isinstance(trace, _Watch) for trace in session.trace_configs):
            session.trace_configs.append(_Watch())

    async def throttle(self, cost: float | None = None) -> Any:
        """Before each request: what this venue lets all processes ask first, then ccxt's own pace for this one."""
        if self.limiter is None:
            return await super().throttle(cost)  # type: ignore[misc]
        try:
            await self.limiter.ask(1.0 if cost is None else float(cost))
            await super().throttle(cost)  # type: ignore[misc]
            self.limiter.check()
        except Retry as error:
            call = CALL.get(None)
            if call is not None and call.sent:  # a call of several requests: what the first one did, nobody can say
                raise Unknown(f"the rest of the call was not sent: {error}") from None
            raise

    def sign(self, *args: Any, **kwargs: Any) -> Any:
        call = CALL.get(None)
        options: dict[str, Any] = self.options  # type: ignore[attr-defined]
        if call is None or call.pinned_at is None or call.window is None or not self.pin_clock:
            return super().sign(*args, **kwargs)  # type: ignore[misc]
        # Nothing is awaited in here, so no other task can see the borrowed window.
        usual = options.get("recvWindow")
        options["recvWindow"] = call.window // timedelta(milliseconds=1)
        try:
            return super().sign(*args, **kwargs)  # type: ignore[misc]
        finally:
            options["recvWindow"] = usual

    def nonce(self) -> Any:
        call = CALL.get(None)
        if self.pin_clock and call is not None and call.pinned_at is not None:
            return to_milliseconds(call.pinned_at)
        return super().nonce()  # type: ignore[misc]

    async def fetch(self, *args: Any, **kwargs: Any) -> Any:
        call = CALL.get(None)
        if call is not None:
            call.answer, call.status, call.headers = None, None, {}
        answer = await super().fetch(*args, **kwargs)  # type: ignore[misc]
        self._tell(stated(self.id, answer))  # type: ignore[attr-defined]
        if call is not None:
            call.answer = answer
        return answer

    def handle_errors(self, code: int, reason: str, url: str, method: str, headers: Any, *rest: Any) -> Any:
        call = CALL.get(None)
        if call is not None:
            call.status, call.headers = code, headers or {}
        said = heard(self.id, code, url, headers, reason)  # type: ignore[attr-defined]
        self._tell(said)
        try:
            return super().handle_errors(code, reason, url, method, headers, *rest)  # type: ignore[misc]
        except Exception as error:
            if said is None or said.shut is None:
                self._tell(worded(error, code))
            raise

    def _tell(self, said: Said | None) -> None:
        if self.limiter is not None and said is not None:
            self.limiter.told(said)


class _Watch(aiohttp.TraceConfig):
    """Notes that headers are about to be written (before that the venue cannot have seen anything); stops redirects.

    A redirect would send a signed order a second time, or to a host that was never checked.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on_request_headers_sent.append(_note_sent)
        self.on_request_redirect.append(_stop)
        self.freeze()


async def _note_sent(session: Any, context: Any, params: Any) -> None:
    call = CALL.get(None)
    if call is not None:
        call.sent = True


async def _stop(session: Any, context: Any, params: Any) -> None:
    raise aiohttp.ClientError("the venue answered with a redirect")
