"""Venues through ccxt: the only file that imports it.

What ccxt's answers and errors mean is decided in `verdict`, `convert` and `venue`; here they meet the network.
One `LiveExchange` is one account at one venue, used from one event loop. Requests keep to ccxt's rate
limit within this process, and to what all processes share if there is a limiter.
"""

import asyncio
import decimal as numbers
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Literal

from trader.clock import from_milliseconds
from trader.errors import ConfigError, ExchangeError, Retry, TallydeskError, Unknown
from trader.exchange import convert, library, stream
from trader.exchange.credentials import Credentials, check_keys, refuse_forbidden, refuse_secrets, scrub
from trader.exchange.hosts import drop_defaults, flat_urls, require_loopback, require_sandbox
from trader.exchange.limiter import Limiter
from trader.exchange.paging import PAGES, Ask
from trader.exchange.protocol import (
    AssetBalance,
    FillReport,
    OrderReport,
    OrderRequest,
)
from trader.exchange.reads import PublicReads
from trader.exchange.request import arguments
from trader.exchange.tap import CALL, Call, Tap, rows_at
from trader.exchange.venue import Venue, venue_of
from trader.exchange.verdict import Action, Failure, judge

ccxt = library.package("ccxt.async_support")

Mode = Literal["simulator", "paper", "sandbox", "live"]

_DEFAULTS: dict[str, Any] = {"enableRateLimit": True, "timeout": 10_000}

# ccxt asks in batches of 20 and, for a full one, sends an empty batch behind it.
_KRAKEN_BATCH = 19


def connect(
    ccxt_id: str,
    *,
    options: Mapping[str, Any],
    credentials: Credentials | None,
    mode: Mode,
    allow_live: bool = False,
) -> "LiveExchange":
    """A connection that is checked, but has sent nothing yet. Must be closed.

    `options` is ccxt's constructor config (exchange's and account's, merged). `paper` is the venue's demo
    trading, `sandbox` its test network. Raises ConfigError if `ccxt_id` is not a venue of ccxt, an option is not
    allowed, live trading is not allowed, or a base URL is not one that `mode` may talk to.
    """
    if mode == "live" and not allow_live:
        raise ConfigError(f"{ccxt_id}: mode live needs TALLYDESK_ALLOW_LIVE=1: nothing was connected")
    refuse_secrets(options)
    refuse_forbidden(options)
    venue = venue_of(ccxt_id)
    if ccxt_id not in ccxt.exchanges:
        raise ConfigError(f"ccxt_id: {ccxt_id!r} is not an exchange of ccxt {ccxt.__version__}")
    ways = _Ways(ccxt_id, venue, options, credentials, mode)
    return LiveExchange(_client(ways, getattr(ccxt, ccxt_id), Tap), ways)


@dataclass(frozen=True, slots=True)
class _Ways:
    """What every client of one connection is made with."""

    ccxt_id: str
    venue: Venue
    options: Mapping[str, Any]
    credentials: Credentials | None
    mode: Mode


def _listener(ways: _Ways, reader: Any) -> Any:
    """A client for the account's stream, with the markets that `reader` knows; None if ccxt has no stream there.

    Takes a moment: for a thread."""
    from ccxt.async_support.base.ws.cache import ArrayCacheBySymbolById

    pro = library.package("ccxt.pro")
    if ways.credentials is None or ways.ccxt_id not in pro.exchanges:
        return None
    client = _client(ways, getattr(pro, ways.ccxt_id), stream.Listener, Tap)
    if not stream.supports(client):
        return None
    client.limiter = reader.limiter
    client.set_markets_from_exchange(reader)
    client.listen(ArrayCacheBySymbolById)
    return client


def _client(ways: _Ways, kind: type, *taps: type) -> Any:
    ccxt_id, venue, credentials = ways.ccxt_id, ways.venue, ways.credentials
    tapped = type(ccxt_id, (*taps, kind), {"pin_clock": venue.pin == "clock"})
    try:
        extended = ccxt.Exchange.deep_extend(_DEFAULTS, {"options": venue.defaults}, dict(ways.options))
        client = tapped(extended | _keys(credentials))
    except Exception as error:
        raise ConfigError(scrub(f"{ccxt_id}: options: {type(error).__name__}: {error}", credentials)) from None
    client.options.update(ccxt.Exchange.deep_extend(client.options, venue.options))
    if venue.skip_currencies:
        client.has["fetchCurrencies"] = False
    # ccxt writes headers and bodies, keys included, to its logger at DEBUG.
    client.logger = logging.getLogger("trader.exchange.silent")
    client.logger.disabled = True
    if credentials is not None:
        wants_password = bool(client.requiredCredentials.get("password"))
        check_keys(client.id, credentials, wants_password=wants_password, secret_is_base64=venue.secret_is_base64)
    _enter_mode(client, kind, ways)
    return client


def _keys(credentials: Credentials | None) -> dict[str, str]:
    if credentials is None:
        return {}
    keys = {"apiKey": credentials.api_key, "secret": credentials.secret}
    return keys | ({"password": credentials.password} if credentials.password else {})


def _enter_mode(client: Any, kind: type, ways: _Ways) -> None:
    ccxt_id, mode = ways.ccxt_id, ways.mode
    if mode == "simulator":
        default = kind().urls["api"]
        client.urls["api"] = drop_defaults(client.urls["api"], default) or {}
        require_loopback(ccxt_id, _urls(client))
        client.timeout_on_exit = 0
    elif mode in ("paper", "sandbox"):
        try:
            client.enable_demo_trading(True) if mode == "paper" else client.set_sandbox_mode(True)
        except Exception as error:
            raise ConfigError(f"{ccxt_id}: mode {mode} is not possible here: {type(error).__name__}: {error}") from None
        if isinstance(sockets := client.urls["api"].get("ws"), dict):
            sockets.pop("public", None)  # nobody asks for them here, and Bybit's test systems have none of their own
        require_sandbox(ccxt_id, mode, _urls(client))
    elif mode != "live":
        raise ConfigError(f"mode: {mode!r}: allowed are simulator, paper, sandbox, live")


def _urls(client: Any) -> dict[str, str]:
    return flat_urls(client.urls.get("api"), getattr(client, "hostname", None))


class LiveExchange(PublicReads):
    """`protocol.Exchange` over ccxt. See there for what each call promises."""

    def __init__(self, client: Any, ways: _Ways) -> None:
        self._client = client
        self._ways = ways
        self._venue = ways.venue
        self._credentials = ways.credentials
        self._is_prepared = ways.venue.prepare is None
        self.ccxt_id = ways.ccxt_id
        self.pins_submitted_at = ways.venue.pin != "none"
        """True if the venue itself refuses a request after submitted_at + receive_window, so that "not found"
        past that moment is proof. Where it is False, absence is never proven."""

    @property
    def units(self) -> float | None:
        """Units a minute that ccxt keeps to here (`limiter.Limited`); None: its options switch that off."""
        return 60_000 / self._client.rateLimit if self._client.enableRateLimit and self._client.rateLimit > 0 else None

    @property
    def is_signed(self) -> bool:
        """Whether it asks on behalf of an account."""
        return self._credentials is not None

    def limit(self, limiter: Limiter) -> None:
        """From now on ask `limiter` before each request."""
        self._client.limiter = limiter

    def __repr__(self) -> str:
        return f"LiveExchange({self.ccxt_id!r}, {self._credentials!r})"

    async def balances(self) -> list[AssetBalance]:
        await self._ready()
        return convert.balances(await self._list("balances", self._client.fetch_balance))

    async def create(self, request: OrderRequest) -> OrderReport:
        await self._ready(placing=True)
        amount, price, params = arguments(self._client, self._venue, request)
        order = await self._call(
            "create",
            lambda: self._client.create_order(request.symbol, request.type, request.side, amount, price, params),
            Call(pinned_at=request.submitted_at, window=request.receive_window),
        )
        report = convert.order(order, request.symbol)
        if report.client_order_id not in (None, request.client_order_id):
            raise Unknown(f"the answer names another order: {report.client_order_id!r}")
        # What fills before the answer to its own order took liquidity; Binance does not say so here.
        fills = tuple(replace(fill, liquidity=fill.liquidity or "taker") for fill in report.fills)
        return replace(report, fills=fills)

    async def find(self, symbol: str, client_order_id: str, *, since: datetime | None = None) -> OrderReport | None:
        await self._ready()
        look = self._find_one if self._venue.find == "by_client_id" else self._find_listed
        report = await look(symbol, client_order_id)
        if report is None and since is not None:
            self._require_remembered(since)
        return report

    def _require_remembered(self, since: datetime) -> None:
        kept = self._venue.remembers
        if kept is not None and from_milliseconds(self._client.milliseconds()) - since > kept:
            raise Unknown(f"not found, and {self.ccxt_id} remembers orders for {kept} only: that proves nothing")

    async def _find_one(self, symbol: str, client_order_id: str) -> OrderReport | None:
        call = Call()
        params = {self._venue.find_id: client_order_id}
        order = await self._call("read", lambda: self._or_absent(None, symbol, params, call), call)
        if order is None:
            return None
        report = convert.order(order, symbol)
        if report.client_order_id != client_order_id:
            raise Unknown(f"asked for {client_order_id}, the answer is about {report.client_order_id!r}")
        return report

    async def find_number(self, symbol: str, venue_order_id: str) -> OrderReport | None:
        await self._ready()
        call = Call()
        params = dict(self._venue.number_params)
        order = await self._call("read", lambda: self._or_absent(venue_order_id, symbol, params, call), call)
        if order is None:
            return None
        report = convert.order(order, symbol)
        if report.venue_order_id != venue_order_id:
            raise Unknown(f"asked for the venue's order {venue_order_id}, the answer is about {report.venue_order_id}")
        return report

    async def _or_absent(self, number: str | None, symbol: str, params: dict[str, Any], call: Call) -> Any:
        try:
            return await self._client.fetch_order(number, symbol, params)
        except ccxt.OrderNotFound as error:
            # Only the venue's own clear answer proves absence: not a subclass, not a 404 or 5xx from a proxy.
            if type(error) is ccxt.OrderNotFound and call.status is not None and call.status < 500:
                return None
            raise

    async def _find_listed(self, symbol: str, client_order_id: str) -> OrderReport | None:
        weak = self._venue.find == "weak"
        params = {} if weak else {self._venue.find_id: client_order_id}
        for name in ("fetch_open_orders", self._venue.closed_call):
            shape = "open_orders" if name == "fetch_open_orders" else "closed_orders"
            rows = await self._orders(shape, name, symbol, params)
            for report in rows:
                if report.client_order_id == client_order_id:
                    return report
        if weak:
            raise Unknown(f"{self.ccxt_id}: {client_order_id} is not in its lists, which is no proof of absence here")
        return None

    async def _orders(self, shape: str, name: str, symbol: str | None, params: dict[str, Any]) -> list[OrderReport]:
        rows = await self._list(shape, lambda: getattr(self._client, name)(symbol, None, None, params))
        return [convert.order(row, symbol) for row in rows]

    async def cancel(self, symbol: str, venue_order_id: str) -> None:
        await self._ready(placing=True)
        await self._call("cancel", lambda: self._client.cancel_order(venue_order_id, symbol))

    async def open_orders(self, symbol: str | None = None) -> list[OrderReport]:
        await self._ready()
        self._client.options["warnOnFetchOpenOrdersWithoutSymbol"] = False
        return await self._orders("open_orders", "fetch_open_orders", symbol, {})

    async def fills(
        self, symbol: str, *, venue_order_id: str | None = None, since: datetime | None = None
    ) -> list[FillReport]:
        await self._ready()

        async def ask(start: int | None, limit: int | None, params: dict[str, Any]) -> tuple[list[Any], Any]:
            call = Call()
            rows = await self._list("fills", lambda: self._client.fetch_my_trades(symbol, start, limit, params), call)
            return rows, call.answer

        found: dict[str, FillReport] = {}
        async for rows in self._fill_pages(ask, symbol, venue_order_id, since):
            found.update((report.trade_id, report) for report in map(convert.fill, rows))
        wanted = (
            report
            for report in found.values()
            if venue_order_id in (None, report.venue_order_id) and (since is None or report.traded_at >= since)
        )
        return sorted(wanted, key=lambda report: (report.traded_at, len(report.trade_id), report.trade_id))

    def _fill_pages(
        self, ask: Ask, symbol: str, order_id: str | None, since: datetime | None
    ) -> AsyncIterator[list[dict[str, Any]]]:
        if order_id is None or self._venue.order_fills == "filter":
            return PAGES[self._venue.paging](ask, self._venue, since, order_id, self._client.milliseconds())
        if self._venue.order_fills == "trade_ids":
            return self._named_fills(symbol, order_id)
        return self._called_fills(symbol, order_id)

    async def _named_fills(self, symbol: str, order_id: str) -> AsyncIterator[list[dict[str, Any]]]:
        """Kraken: the order names its trades; they are asked for by id."""
        call = Call()
        await self._call("read", lambda: self._client.fetch_order(order_id, symbol), call)
        info = rows_at(call.answer, ("result", order_id), dict)
        ids = info.get("trades") or []
        found: list[dict[str, Any]] = []
        for first in range(0, len(ids), _KRAKEN_BATCH):
            batch = ids[first : first + _KRAKEN_BATCH]
            rows = await self._order_trades(symbol, order_id, {"trades": batch})
            if {row.get("id") for row in rows} != set(batch):
                raise Unknown(f"asked for the trades {batch}, {len(rows)} came")
            found += rows
        convert.require_all_trades(info, found)
        yield found

    async def _called_fills(self, symbol: str, order_id: str) -> AsyncIterator[list[dict[str, Any]]]:
        yield await self._order_trades(symbol, order_id, {})

    async def _order_trades(self, symbol: str, order_id: str, params: dict[str, Any]) -> Any:
        ask = self._client.fetch_order_trades
        return await self._list("order_fills", lambda: ask(order_id, symbol, None, None, params))

    async def executions(self) -> AsyncGenerator[list[OrderReport], None] | None:
        await self._ready()
        client = await self._call("read", lambda: asyncio.to_thread(_listener, self._ways, self._client))
        judged = partial(self._judged, "read", call=Call(sent=True))
        return None if client is None else stream.executions(client, judged)

    async def close(self) -> None:
        await self._client.close()

    async def _ready(self, *, placing: bool = False) -> None:
        """Read once what orders need. Before an order, failing here means that nothing was placed."""
        if self._client.markets and (self._is_prepared or not placing):
            return
        try:
            if not self._client.markets:
                await self._call("read", self._client.load_markets)
            if placing and self._venue.prepare and not self._is_prepared:
                await self._call("read", getattr(self._client, self._venue.prepare))
                self._is_prepared = True
            failure: ExchangeError | None = None
        except Unknown as error:
            failure = Retry(f"markets and account could not be read: {error}") if placing else error
        if failure is not None:
            raise failure

    async def _list(self, shape: str, ask: Callable[[], Awaitable[Any]], call: Call | None = None) -> Any:
        """A reading call whose raw answer must hold rows: ccxt makes an empty list of any garbage."""
        call = call or Call()
        result = await self._call("read", ask, call)
        path, kind = self._venue.shapes.get(shape, ((), (dict, list)))
        rows_at(call.answer, path, kind)
        if result is None or call.answer == {}:
            raise Unknown(f"malformed answer: {shape}: nothing in it")
        return result

    async def _call(self, action: Action, ask: Callable[[], Awaitable[Any]], call: Call | None = None) -> Any:
        """Run one ccxt call and turn whatever it raises into one of our four errors, free of secrets."""
        call = call or Call()
        token = CALL.set(call)
        try:
            # ccxt changes the rounding of the current decimal context: ours must not follow.
            with numbers.localcontext():
                return await ask()
        except TallydeskError as error:
            failure = error
        except Exception as error:
            # ccxt's own bugs included: after the send they are as doubtful as a lost answer.
            failure = self._judged(action, error, call)
        finally:
            CALL.reset(token)
        # Raised out here so that no chained exception carries ccxt's text, which holds signatures.
        raise failure

    def _judged(self, action: Action, error: Exception, call: Call) -> ExchangeError:
        known = isinstance(error, ccxt.BaseError)
        text = scrub(f"{type(error).__name__}: {error}", self._credentials)
        return judge(
            Failure(
                venue=self.ccxt_id,
                action=action,
                name=type(error).__name__ if known else "",
                text=text,
                sent=call.sent,
                status=call.status,
                after=call.after(),
            )
        )
