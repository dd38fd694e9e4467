"""A scripted venue: an HTTP server in a thread of its own that keeps a book and speaks one venue's dialect.

A test says what is to go wrong (`lose_answers`, `lose_requests`, `say`, ...); all else is answered from the book. What
a test may ask of it is what it may ask of the simulator (`Binance` in binance.py), so that one suite fits all.
"""

import asyncio
import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from aiohttp import web

from tests.venues._book import Book


def plain(value: Decimal) -> str:
    """The digits of a number, never in exponent form, no zeros at the end."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass
class Request:
    """One request as it came over the wire."""

    method: str
    path: str
    fields: dict[str, str]
    body: str
    headers: dict[str, str]
    query: str
    kind: str = ""
    outcome: str = "answered"


@dataclass
class Answer:
    """A status and a body: an object becomes JSON."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """What goes wrong with the next requests of a kind. `act`: the venue does what was asked all the same."""

    kind: str
    how: str
    act: bool
    answer: Answer | None = None


class ScriptedVenue:
    """Start it, point ccxt at `options()`, stop it. Its book is touched by a test only while it holds `lock`."""

    ccxt_id: ClassVar[str]
    key = "scripted-key-of-the-venue"
    secret = "c2VjcmV0LW9mLXRoZS1hY2NvdW50LTEyMzQ1Njc4"
    kinds: ClassVar[dict[str, str]]
    """What each path is: create, cancel, look-up, fills, other."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.lock = threading.Lock()
        self.requests: list[Request] = []
        self.url = ""
        self.behind = 0.0
        """Seconds that the venue's clock is behind ours."""
        self._faults: deque[Fault] = deque()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)

    # What a test does to it.

    def start(self) -> None:
        self._thread.start()
        self._run(self._runner.setup())
        self._run(web.TCPSite(self._runner, "127.0.0.1", 0).start())
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])

    def stop(self) -> None:
        self._run(self._runner.cleanup())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def lose_answers(self, times: int = 1, kind: str = "create") -> None:
        """It does what was asked, and closes the connection without an answer."""
        self._add(Fault(kind, "drop", act=True), times)

    def lose_requests(self, times: int = 1, kind: str = "create") -> None:
        """The connection closes before anything is done."""
        self._add(Fault(kind, "drop", act=False), times)

    def hang(self, kind: str = "create") -> None:
        """It does what was asked and does not answer."""
        self._add(Fault(kind, "hang", act=True), 1)

    def truncate(self, kind: str = "create") -> None:
        """It does what was asked, and half of the answer arrives."""
        self._add(Fault(kind, "truncate", act=True), 1)

    def fail(self, status: int, *, act: bool, kind: str = "create", times: int = 1) -> None:
        """An HTTP status with a page of HTML."""
        self._add(Fault(kind, "answer", act, Answer("<html>a machine in trouble</html>", status)), times)

    def say(self, error: Any, *, act: bool = False, kind: str = "create", times: int = 1) -> None:
        """One of the venue's own errors; with `act` it is a lie: the order was taken."""
        self._add(Fault(kind, "answer", act, self.refusal(error)), times)

    def partial(self, fraction: str = "0.5") -> None:
        """Of the next order that trades at once, only this part is filled; a limit order rests with the rest."""
        with self.lock:
            self.book.fraction = Decimal(fraction)

    def price(self, price: str) -> None:
        with self.lock:
            self.book.move_price(Decimal(price))

    def pay_fees_in(self, asset: str) -> None:
        with self.lock:
            self.book.fee_in = asset

    # What it knows, in the simulator's shapes.

    def orders(self) -> list[dict[str, Any]]:
        """Every order that it has ever taken."""
        with self.lock:
            return [
                {"client_order_id": one.client_id, "order_id": one.id, "filled": str(one.filled), "status": one.status}
                for one in self.book.orders.values()
            ]

    def venue_state(self) -> dict[str, Any]:
        with self.lock:
            held = {asset: self.book.locked(asset) for asset in self.book.total}
            balances = {
                asset: {"free": str(total - held[asset]), "locked": str(held[asset])}
                for asset, total in self.book.total.items()
            }
            return {"trades": len(self.book.trades), "balances": {self.key: balances}}

    def creates(self) -> list[Request]:
        """Every request for a new order, in the order in which they came."""
        return [one for one in list(self.requests) if one.kind == "create"]

    def wait_for_requests(self, count: int) -> None:
        """Until it has seen so many requests of any kind."""
        deadline = time.monotonic() + 20
        while len(self.requests) < count:
            assert time.monotonic() < deadline, f"{len(self.requests)} requests"
            time.sleep(0.02)

    # What a dialect says.

    def options(self) -> dict[str, Any]:
        """ccxt's constructor config that points it here. No credentials in it."""
        raise NotImplementedError

    def respond(self, request: Request) -> Answer:
        """The answer of the venue when nothing goes wrong; changes the book."""
        raise NotImplementedError

    def refusal(self, error: Any) -> Answer:
        """How the venue says an error."""
        raise NotImplementedError

    def now(self) -> float:
        return time.time() - self.behind

    def _add(self, fault: Fault, times: int) -> None:
        with self.lock:
            self._faults.extend([fault] * times)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _fault(self, kind: str) -> Fault | None:
        for fault in self._faults:
            if fault.kind == kind:
                self._faults.remove(fault)
                return fault
        return None

    async def _handle(self, raw: web.Request) -> web.StreamResponse:
        request = await self._read(raw)
        with self.lock:
            self.requests.append(request)
            fault = self._fault(request.kind)
            request.outcome = fault.how if fault else "answered"
            answer = self.respond(request) if fault is None or fault.act else Answer({})
        if fault is None:
            return _response(answer)
        if fault.answer is not None:
            return _response(fault.answer)
        assert raw.transport is not None
        if fault.how == "hang":
            await asyncio.Event().wait()  # until the server stops
        if fault.how == "drop":
            raw.transport.abort()
            return web.Response()
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "5000"})
        await response.prepare(raw)
        await response.write(json.dumps(answer.body)[:40].encode())
        raw.transport.close()
        return response

    async def _read(self, raw: web.Request) -> Request:
        body = (await raw.read()).decode()
        fields = dict(raw.query) | (json.loads(body) if body.startswith("{") else dict(parse_qsl(body)))
        query = raw.raw_path.partition("?")[2]
        return Request(raw.method, raw.path, fields, body, dict(raw.headers), query, self.kinds.get(raw.path, "other"))


def _response(answer: Answer) -> web.Response:
    text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
    return web.Response(text=text, status=answer.status, headers={"Content-Type": "application/json"} | answer.headers)
