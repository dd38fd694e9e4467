"""What a venue's user-data stream brings, exactly and completely: mixed into a class of ccxt.pro, which speaks to it.

ccxt's watchers give the last state of what changed since they were asked before: two changes become one, a swapped
pair becomes the older one, and what comes between two questions waits for the next event. So nobody waits for their
answers here. Every order and execution is noted in the moment in which ccxt has parsed it, and whatever ccxt rejects
ends the stream. Numbers stay the text that they came in; no float is made of them.
"""

import asyncio
import decimal as numbers
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from trader.errors import Unknown
from trader.exchange import convert
from trader.exchange.credentials import scrub
from trader.exchange.protocol import OrderReport
from trader.exchange.tap import exact_json

log = logging.getLogger("stream")

GATHER_SECONDS = 0.05
"""Events are gathered for so long: they come in groups, and beside the answer to the request that caused them."""
PING_MILLISECONDS = 10_000
"""A venue that has not answered two pings is gone."""
ASK_SECONDS = 1.0
CLOSE_SECONDS = 1.0
_REMEMBERED = 1000
_WATCHERS = {"watchOrders": "watch_orders", "watchMyTrades": "watch_my_trades"}
Row = dict[str, Any]


class Listener:
    """Mixed in before a class of ccxt.pro, over its list of orders and its list of executions."""

    def listen(self, cache: type) -> None:
        """Begin to note. `cache` is ccxt's class for both lists."""
        self.heard: asyncio.Queue[OrderReport | Exception] = asyncio.Queue()
        self._new_orders: list[Row] = []
        self._new_trades: list[Row] = []
        # Without fees in its list, ccxt does not add them up: it does so in floats, and fails where they name no asset.
        self.orders = _noting(cache, self._new_orders.append, {"fee": None, "fees": []})
        self.myTrades = _noting(cache, self._new_trades.append, {})
        settings: Row = self.streaming  # type: ignore[has-type]
        self.streaming = settings | {
            "keepAlive": min(settings.get("keepAlive") or PING_MILLISECONDS, PING_MILLISECONDS)
        }

    def fail(self, error: Exception) -> None:
        """End the stream: whoever listens gets this error after everything that was heard before."""
        self.heard.put_nowait(error)

    def client(self, url: str) -> Any:
        known = url in (self.clients or {})  # type: ignore[attr-defined]
        client: Any = super().client(url)  # type: ignore[misc]
        if not known:
            client.handle_text_or_binary_message = partial(self._read, client)
            client.reject = partial(self._reject, client, client.reject)
        return client

    def _read(self, client: Any, data: str | bytes) -> None:
        """One message. An exception that left this function would end ccxt's reading in silence."""
        self._new_orders.clear()
        self._new_trades.clear()
        try:
            text = data.decode() if isinstance(data, bytes) else data
            # ccxt changes the rounding of the current decimal context: ours must not follow.
            with numbers.localcontext():
                self.handle_message(client, exact_json(text) if text[:1] in ("{", "[") else text)  # type: ignore[attr-defined]
            for report in self._reports():
                self.heard.put_nowait(report)
        except Exception as error:
            self.fail(error)

    def _reject(self, client: Any, rejected: Callable[..., Any], error: Any, message_hash: str | None = None) -> Any:
        """ccxt tells an error to whoever waits for that message, which may be nobody: asyncio would log all of it."""
        self.fail(error if isinstance(error, Exception) else Unknown(str(error)))
        futures = list(client.futures.values())
        result = rejected(error, message_hash)
        for future in futures:
            if future.done() and not future.cancelled():
                future.exception()  # taken note of
        return result

    def _reports(self) -> list[OrderReport]:
        """What one message said: orders with the executions that came with them, then executions that came alone."""
        named = {row.get("id") for row in self._new_orders}
        alone = {row.get("order"): row for row in self._new_trades if row.get("order") not in named}
        found = []
        for make, row in [(_of_order, row) for row in self._new_orders] + [(_of_trade, row) for row in alone.values()]:
            try:
                found.append(make(row, self._new_trades))
            except Unknown as error:  # the poll reads it again
                log.warning("an event of the stream cannot be understood: %s", scrub(str(error)))
        return found


def _noting(cache: type, note: Callable[[Row], None], instead: Row) -> Any:
    """One of ccxt's lists, which notes each row as it is when it is added (ccxt changes it later), and keeps it."""

    class Noting(cache):  # type: ignore[misc]
        def append(self, item: Row) -> None:
            note(dict(item))
            super().append({**item, **instead})

    return Noting(_REMEMBERED)


def _of_order(row: Row, trades: list[Row]) -> OrderReport:
    own = [trade for trade in trades if trade.get("order") == row.get("id") and _is_whole(trade)]
    report = convert.order({**row, "trades": []})
    return replace(report, fills=tuple(convert.fill(trade, row) for trade in own))


def _of_trade(row: Row, trades: list[Row]) -> OrderReport:
    own = [trade for trade in trades if trade.get("order") == row.get("order") and _is_whole(trade)]
    if not own:
        raise Unknown(f"execution {row.get('id')}: its fee is missing")
    fills = tuple(convert.fill(trade) for trade in own)
    number, symbol = fills[0].venue_order_id, convert.text(row.get("symbol"), "symbol of an execution")
    return OrderReport(number, None, symbol, None, None, fills)


def _is_whole(trade: Row) -> bool:
    """An execution is booked once and for ever: one whose fee is not told is left to the poll."""
    fees = [fee for fee in [*(trade.get("fees") or []), trade.get("fee")] if fee and fee.get("cost") is not None]
    costs = [convert.decimal(fee["cost"], "fee") for fee in fees]
    return bool(fees) and all(fee.get("currency") or cost == 0 for fee, cost in zip(fees, costs, strict=True))


async def executions(client: Any, judged: Callable[[Exception], Exception]) -> AsyncGenerator[list[OrderReport], None]:
    """What the stream brings: all of a moment at once. Raises what ended it, as `judged`; closes the client."""
    names = [method for feature, method in _WATCHERS.items() if client.has.get(feature)]
    watching = [asyncio.create_task(_watch(client, getattr(client, name))) for name in names]
    try:
        while True:
            first = await client.heard.get()
            if isinstance(first, OrderReport):
                await asyncio.sleep(GATHER_SECONDS)
            heard = [first, *(client.heard.get_nowait() for _ in range(client.heard.qsize()))]
            reports = [one for one in heard if isinstance(one, OrderReport)]
            if reports:
                yield reports
            for error in heard:
                if isinstance(error, Exception):
                    raise judged(error)
    finally:
        for task in watching:
            task.cancel()
        await _close(client)


async def _watch(client: Any, ask: Callable[[], Any]) -> None:
    """Keep a subscription. What it answers was noted already: it is asked seldom, for asking costs more than noting."""
    while True:
        try:
            await ask()
        except Exception as error:
            client.fail(error)
            return
        await asyncio.sleep(ASK_SECONDS)


async def _close(client: Any) -> None:
    """At once: a venue that is gone would let a polite good-bye wait for ten seconds."""
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            if client.session is not None:
                await client.session.close()
            await client.close()
    except Exception as error:  # it is of no use any more, however it ends
        log.info("a stream was closed with %s", type(error).__name__)


def supports(client: Any) -> bool:
    """Whether ccxt can watch orders here, and has an address for it."""
    return bool(client.has.get("watchOrders") and (client.urls.get("api") or {}).get("ws"))
