"""The HTTP server: which route does what, who may call it, and where faults strike."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from trader.simulator import admin, private, public
from trader.simulator.faults import Faults, Rule
from trader.simulator.request_log import Entry, RequestLog
from trader.simulator.rules import VenueError
from trader.simulator.venue import Venue
from trader.simulator.wire import Params

PUBLIC: dict[str, Callable[[Venue, Params], Any]] = {
    "GET /api/v3/ping": public.ping,
    "GET /api/v3/time": public.time,
    "GET /api/v3/exchangeInfo": public.exchange_info,
    "GET /api/v3/klines": public.klines,
    "GET /api/v3/ticker/24hr": public.ticker_day,
    "GET /api/v3/ticker/price": public.ticker_price,
    "GET /api/v3/ticker/bookTicker": public.ticker_book,
    "GET /api/v3/depth": public.depth,
    "GET /api/v3/trades": public.trades,
    "GET /api/v3/aggTrades": public.aggregate_trades,
    "GET /sapi/v1/system/status": public.system_status,
}
PRIVATE: dict[str, Callable[[Venue, str, Params], Any]] = {
    "GET /api/v3/account": private.account,
    "POST /api/v3/order": private.create,
    "POST /api/v3/order/test": private.create_test,
    "GET /api/v3/order": private.find,
    "DELETE /api/v3/order": private.cancel,
    "GET /api/v3/openOrders": private.open_orders,
    "DELETE /api/v3/openOrders": private.cancel_all,
    "GET /api/v3/allOrders": private.all_orders,
    "GET /api/v3/myTrades": private.my_trades,
    "GET /sapi/v1/asset/tradeFee": private.trade_fee,
    "GET /sapi/v1/capital/config/getall": private.coins,
}
CREATE = "POST /api/v3/order"
_ACT_BY_DEFAULT = ("hang",)
_NEVER_ACT = ("drop_request", "reject", "too_many_requests", "lookup_error", "lookup_miss")
_LISTS = ("GET /api/v3/openOrders", "GET /api/v3/allOrders", "GET /api/v3/myTrades")
_FAILING = (*_NEVER_ACT, "status", "unknown_1007")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Call:
    """One request on its way through: what was asked, and the log entry that says what became of it."""

    request: web.Request
    route: str
    raw: str
    params: Params
    entry: Entry

    @property
    def key(self) -> str | None:
        return self.request.headers.get("X-MBX-APIKEY")


@dataclass(slots=True)
class Answer:
    """What goes back: a status and a JSON value."""

    status: int
    body: Any


class Server:
    """Serves one venue. `sockets` handles the websocket paths."""

    def __init__(
        self,
        venue: Venue,
        faults: Faults,
        log: RequestLog,
        sockets: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> None:
        self.venue = venue
        self.faults = faults
        self.log = log
        self.sockets = sockets

    def application(self) -> web.Application:
        app = web.Application(client_max_size=2**20)
        for path in ("/stream/ws", "/stream/ws/{streams:.*}", "/ws-api/v3"):
            app.router.add_get(path, self.sockets)
        app.router.add_route("*", "/simulator/{what:.*}", self.admin)
        app.router.add_route("*", "/{path:.*}", self.dispatch)
        return app

    async def dispatch(self, request: web.Request) -> web.StreamResponse:
        """Serve one request of the exchange: log it, let a fault strike, act, answer."""
        call = await self._read(request)
        rule = self.faults.take(_facts(call))
        if rule is None:
            return self._finish(call, self._act(call, None))
        call.entry.fault = rule.fault
        return await self._strike(call, rule)

    async def _read(self, request: web.Request) -> Call:
        query = request.raw_path.partition("?")[2]
        body = await request.text() if request.can_read_body else ""
        raw = f"{query}&{body}" if query and body else query + body
        params = Params(dict(parse_qsl(raw)))
        entry = self.log.begin(self.venue.wall(), request.method, request.path)
        call = Call(request, f"{request.method} {request.path}", raw, params, entry)
        entry.key, entry.symbol = call.key, params.get("symbol")
        entry.client_order_id = params.get("origClientOrderId") or params.get("newClientOrderId")
        return call

    def _act(self, call: Call, rule: Rule | None) -> Answer:
        """Do what was asked; everything that it changes is committed when this returns."""
        try:
            body = self._serve(call, rule)
        except VenueError as error:
            call.entry.code = error.code
            return Answer(error.status, {"code": error.code, "msg": error.message})
        except Exception:  # the last wall: a bug here must look like a venue's 500, and be seen in our log
            _log.exception("%s failed", call.route)
            return Answer(500, {"code": -1000, "msg": "An unknown error occurred while processing the request."})
        call.entry.acted = True
        return Answer(200, body)

    def _serve(self, call: Call, rule: Rule | None) -> Any:
        if call.route in PUBLIC:
            return PUBLIC[call.route](self.venue, call.params)
        if call.route not in PRIVATE:
            raise VenueError(-1000, f"The simulator does not serve {call.route}.", 404)
        key = private.authenticate(self.venue, call.key, private.signed_part(call.raw), call.params)
        if call.route == CREATE and rule is not None and rule.fault == "partial":
            return private.create(self.venue, key, call.params, rule.fraction)
        return PRIVATE[call.route](self.venue, key, call.params)

    def _finish(self, call: Call, answer: Answer) -> web.Response:
        call.entry.status = answer.status
        call.entry.outcome = "accepted" if answer.status == 200 else "refused"
        return web.json_response(answer.body, status=answer.status)

    async def _strike(self, call: Call, rule: Rule) -> web.StreamResponse:
        if rule.fault == "delay":
            await asyncio.sleep(rule.seconds)
        if rule.fault in ("delay", "partial"):
            return self._finish(call, self._act(call, rule))
        if rule.fault == "lookup_miss" and call.route in _LISTS:
            return self._finish(call, Answer(200, []))
        if rule.fault in _FAILING:
            return self._fail(call, rule)
        return await self._lose(call, rule)

    def _fail(self, call: Call, rule: Rule) -> web.Response:
        """Faults that answer with an error, whether or not the request took effect."""
        acted = rule.fault not in _NEVER_ACT and rule.act is True
        if acted:
            self._act(call, rule)
        call.entry.outcome = "answer_lost" if acted else "dropped"
        if rule.fault == "drop_request":
            return _hang_up(call)
        status, code, message = _refusal(rule)
        call.entry.status, call.entry.code = status, code
        if code is None:
            page = f"<html><head><title>{status}</title></head><body>{status} {message}</body></html>"
            return web.Response(status=status, text=page, content_type="text/html")
        if rule.fault == "reject":
            call.entry.outcome = "refused"
        headers = {"Retry-After": str(int(rule.seconds))} if status == 429 else {}
        return web.json_response({"code": code, "msg": message}, status=status, headers=headers)

    async def _lose(self, call: Call, rule: Rule) -> web.StreamResponse:
        """Faults that act first and then spoil the answer."""
        acts = rule.act is not False
        answer = self._act(call, rule) if acts else Answer(503, {})
        call.entry.status = answer.status
        call.entry.outcome = "answer_lost" if acts else "dropped"
        if rule.fault in ("delay_answer", "hang"):
            await asyncio.sleep(rule.seconds)
        if rule.fault == "delay_answer":
            return self._finish(call, answer)
        if rule.fault == "truncate":
            text = json.dumps(answer.body)
            half = text[: len(text) // 2]
            return web.Response(status=answer.status, text=half, content_type="application/json")
        if rule.fault == "garbage":
            return web.Response(text="<html>OK</html>", content_type="text/html")
        return _hang_up(call)

    async def admin(self, request: web.Request) -> web.Response:
        """Routes of the person at the machine. Refused to anyone who is not on this machine."""
        if request.remote not in ("127.0.0.1", "::1"):
            return web.json_response({"error": "only from this machine"}, status=403)
        try:
            return web.json_response(await self._administer(request))
        except (admin.BadAdminError, VenueError) as error:
            return web.json_response({"error": str(error)}, status=400)
        except LookupError:
            return web.json_response({"error": f"no route {request.method} {request.path}"}, status=404)

    async def _administer(self, request: web.Request) -> Any:
        params = Params(dict(request.query))
        readers: dict[str, Callable[[], Any]] = {
            "GET state": lambda: admin.state(self.venue),
            "GET orders": lambda: admin.orders(self.venue, params),
            "GET clock": lambda: admin.clock(self.venue),
            "GET log": lambda: admin.log(self.log, params),
            "GET faults": lambda: admin.list_faults(self.faults),
            "DELETE faults": self._clear_faults,
        }
        route = f"{request.method} {request.match_info['what']}"
        if route in readers:
            return readers[route]()
        writers: dict[str, Callable[[Any], Any]] = {
            "POST clock": lambda body: admin.set_clock(self.venue, _object(body)),
            "POST price": lambda body: admin.set_price(self.venue, _object(body)),
            "POST hide": lambda body: admin.hide(self.venue, _object(body)),
            "POST balance": lambda body: admin.change_balance(self.venue, _object(body)),
            "POST faults": lambda body: admin.add_faults(self.faults, body),
        }
        write = writers[route]
        try:
            body = await request.json()
        except ValueError:
            raise admin.BadAdminError("the body is not JSON") from None
        return write(body)

    def _clear_faults(self) -> Any:
        self.faults.clear()
        return admin.list_faults(self.faults)


def _object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise admin.BadAdminError(f"the body must be an object, not {body!r}")
    return body


def _facts(call: Call) -> dict[str, str]:
    entry = call.entry
    facts = {
        "endpoint": call.route,
        "client_order_id": entry.client_order_id,
        "symbol": entry.symbol,
        "side": call.params.get("side"),
        "key": entry.key,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _refusal(rule: Rule) -> tuple[int, int | None, str]:
    """HTTP status, Binance's code (None: an HTML page of a proxy) and message of a failing fault."""
    unknown = "Timeout waiting for response from backend server. Send status unknown; execution status unknown."
    answers: dict[str, tuple[int, int | None, str]] = {
        "status": (rule.status, None, "Simulated failure"),
        "reject": (400, rule.code, rule.message),
        "unknown_1007": (408, -1007, unknown),
        "too_many_requests": (429, -1003, "Too many requests; current limit of requests is exceeded."),
        "lookup_error": (400, -1000, "An unknown error occurred while processing the request."),
        "lookup_miss": (400, -2013, private.NO_SUCH_ORDER),
    }
    return answers[rule.fault]


def _hang_up(call: Call) -> web.Response:
    """Close the connection; the response that is returned reaches nobody."""
    transport = call.request.transport
    if transport is not None:
        transport.abort()
    return web.Response()
