"""The websocket side: public streams under /stream/ws, the websocket API and user data under /ws-api/v3."""

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from aiohttp import WSMsgType, web

from trader.simulator import private, public, user_events
from trader.simulator.connection import Connection
from trader.simulator.faults import Faults
from trader.simulator.matching import Balance, Change
from trader.simulator.request_log import RequestLog
from trader.simulator.rules import VenueError
from trader.simulator.streams import AllTickers, Stream, open_stream
from trader.simulator.venue import Venue
from trader.simulator.weights import SOCKET_ROUTES, Refusal, weight
from trader.simulator.wire import Json, Params

OPEN: dict[str, Callable[[Venue, Params], Any]] = {
    "ping": public.ping,
    "time": public.time,
    "exchangeInfo": public.exchange_info,
    "klines": public.klines,
    "depth": public.depth,
    "ticker.24hr": public.ticker_day,
    "ticker.price": public.ticker_price,
    "ticker.book": public.ticker_book,
    "trades.recent": public.trades,
}
SIGNED: dict[str, Callable[[Venue, str, Params], Any]] = {
    "account.status": private.account,
    "order.place": private.create,
    "order.test": private.create_test,
    "order.status": private.find,
    "order.cancel": private.cancel,
    "openOrders.status": private.open_orders,
    "openOrders.cancelAll": private.cancel_all,
    "allOrders": private.all_orders,
    "myTrades": private.my_trades,
}
_SUBSCRIBE = "userDataStream.subscribe.signature"


class Sockets:
    """Every open websocket: who listens to which public stream, and who to which account."""

    def __init__(self, venue: Venue, faults: Faults, log: RequestLog) -> None:
        self._venue = venue
        self._faults = faults
        self._log = log
        self._streams: dict[Connection, dict[str, Stream | AllTickers]] = {}
        self._users: dict[Connection, str] = {}
        self._open: set[Connection] = set()
        venue.listeners.append(self._on_change)
        venue.deposit_listeners.append(self._on_deposit)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one websocket until either side closes it."""
        socket = web.WebSocketResponse(heartbeat=60.0)
        await socket.prepare(request)
        connection = Connection(socket, self._faults, request.remote or "")
        self._open.add(connection)
        writer = asyncio.create_task(connection.write())
        serve = self._serve_api if request.path.startswith("/ws-api") else self._serve_streams
        names = [name for name in request.match_info.get("streams", "").split("/") if "@" in name]
        if names:
            serve(connection, {"method": "SUBSCRIBE", "params": names, "id": None})
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    _answer(connection, message.data, serve)
        finally:
            self._forget(connection)
            writer.cancel()
        return socket

    def tick(self) -> None:
        """Send everybody what is new."""
        for connection, streams in self._streams.items():
            for stream in streams.values():
                for event in stream.next():
                    connection.event(event, _public_facts(event))

    async def close(self) -> None:
        """Close every connection, as a venue does that goes down for maintenance."""
        for connection in list(self._open):
            await connection.socket.close(code=1001)

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._streams.pop(connection, None)
        self._users.pop(connection, None)

    def _serve_streams(self, connection: Connection, request: Json) -> Json:
        method, names = request.get("method"), request.get("params", [])
        streams = self._streams.setdefault(connection, {})
        if method == "SUBSCRIBE":
            streams.update({name: open_stream(self._venue, name) for name in names})
        elif method == "UNSUBSCRIBE":
            for name in names:
                streams.pop(name, None)
        elif method != "LIST_SUBSCRIPTIONS":
            raise VenueError(2, f"Invalid request: unknown method {method!r}")
        return {"result": list(streams) if method == "LIST_SUBSCRIPTIONS" else None}

    def _serve_api(self, connection: Connection, request: Json) -> Json:
        """The websocket API: the routes of the HTTP side by other names. Faults of requests do not reach it."""
        method = str(request.get("method"))
        values = {name: _text(value) for name, value in (request.get("params") or {}).items()}
        params = Params(values)
        entry = self._log.begin(self._venue.wall(), "WS", method)
        entry.client_order_id = params.get("origClientOrderId") or params.get("newClientOrderId")
        entry.key, entry.symbol = params.get("apiKey"), params.get("symbol")
        entry.address = connection.address
        entry.weight = 2 if method == _SUBSCRIBE else weight(SOCKET_ROUTES.get(method, "/api/v3/"), params)
        refusal = self._venue.weights.charge(connection.address, entry.weight)
        if refusal is not None:
            entry.status, entry.code, entry.outcome = refusal.status, -1003, "refused"
            return _too_much(refusal, self._venue.wall())
        try:
            result = self._call(connection, method, params)
        except VenueError as error:
            entry.status, entry.code, entry.outcome = error.status, error.code, "refused"
            return {"status": error.status, "error": {"code": error.code, "msg": error.message}}
        entry.status, entry.outcome, entry.acted = 200, "accepted", True
        return {"status": 200, "result": result, "rateLimits": []}

    def _call(self, connection: Connection, method: str, params: Params) -> Any:
        if method in OPEN:
            return OPEN[method](self._venue, params)
        if method == _SUBSCRIBE:
            self._users[connection] = self._authenticate(params)
            return {"subscriptionId": 0}
        if method == "userDataStream.unsubscribe":
            self._users.pop(connection, None)
            return {}
        if method not in SIGNED:
            raise VenueError(-1000, f"The simulator does not serve {method}.", 404)
        return SIGNED[method](self._venue, self._authenticate(params), params)

    def _authenticate(self, params: Params) -> str:
        """On a websocket the parameters are signed in alphabetical order."""
        values = params.values
        joined = "&".join(f"{name}={values[name]}" for name in sorted(values) if name != "signature")
        return private.authenticate(self._venue, params.get("apiKey"), joined, params)

    def _on_change(self, change: Change) -> None:
        for connection, key in self._users.items():
            if key == change.order.account:
                now, order = self._venue.wall(), change.order
                facts = {"symbol": order.market, "client_order_id": order.client_order_id, "side": order.side}
                for report in user_events.reports(change, now):
                    self._tell(connection, key, report, facts)
                moved = user_events.position(self._venue.engine.balances[key], change.assets, now)
                self._tell(connection, key, moved, {})

    def _on_deposit(self, account: str, asset: str, delta: Decimal, balance: Balance) -> None:
        for connection, key in self._users.items():
            if key == account:
                now = self._venue.wall()
                self._tell(connection, key, user_events.deposit(asset, delta, now), {})
                self._tell(connection, key, user_events.position({asset: balance}, {asset}, now), {})

    def _tell(self, connection: Connection, key: str, event: Json, facts: dict[str, Any]) -> None:
        known = {**facts, "event": event["e"], "key": key, "endpoint": "user"}
        connection.event({"subscriptionId": 0, "event": event}, known)


def _too_much(refusal: Refusal, now: int) -> Json:
    data = {"serverTime": now, "retryAfter": now + refusal.seconds * 1000}
    return {"status": refusal.status, "error": {"code": -1003, "msg": refusal.message, "data": data}}


def _public_facts(event: Json | list[Json]) -> Json:
    first = event[0] if isinstance(event, list) else event
    return {"event": first.get("e", "bookTicker"), "symbol": first["s"], "endpoint": "public"}


def _answer(connection: Connection, text: str, serve: Callable[[Connection, Json], Json]) -> None:
    try:
        request = json.loads(text)
    except ValueError as error:
        connection.answer({"error": {"code": 3, "msg": f"Invalid JSON: {error}"}, "id": None})
        return
    if not isinstance(request, dict):
        connection.answer({"error": {"code": 2, "msg": "Invalid request: not an object"}, "id": None})
        return
    try:
        answer = serve(connection, request)
    except VenueError as error:
        answer = {"error": {"code": error.code, "msg": error.message}}
    connection.answer({"id": request.get("id"), **answer})


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
