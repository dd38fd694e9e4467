"""What a venue shows everybody: its markets, its clock, prices and candles. Mixed into `live.LiveExchange`."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

from trader.clock import to_milliseconds
from trader.errors import Refused, Unknown
from trader.exchange import convert
from trader.exchange.protocol import Candle, MarketInfo, Ticker
from trader.exchange.tap import Call
from trader.exchange.venue import Venue
from trader.exchange.verdict import Action

log = logging.getLogger("exchange")


class PublicReads(ABC):
    """The unsigned half of `protocol.Exchange`."""

    ccxt_id: str
    _client: Any
    _venue: Venue

    @abstractmethod
    async def _ready(self, *, placing: bool = False) -> None: ...

    @abstractmethod
    async def _call(self, action: Action, ask: Callable[[], Awaitable[Any]], call: Call | None = None) -> Any: ...

    @abstractmethod
    async def _list(self, shape: str, ask: Callable[[], Awaitable[Any]], call: Call | None = None) -> Any: ...

    async def markets(self) -> list[MarketInfo]:
        rows = await self._call("read", lambda: self._client.load_markets(True))
        if not rows:
            raise Unknown("malformed answer: there is not one market in it")
        found = (convert.market(row, self._client.precisionMode) for row in rows.values())
        return [info for info in found if info is not None]

    async def time(self) -> datetime:
        return convert.moment(await self._call("read", self._client.fetch_time), "time")

    async def candles(self, symbol: str, timeframe: str, since: datetime | None, limit: int) -> list[Candle]:
        await self._ready()
        allowed = self._client.timeframes or {}
        if timeframe not in allowed:
            raise Refused(f"timeframe {timeframe!r}: {self.ccxt_id} has {', '.join(allowed)}")
        start = None if since is None else to_milliseconds(since)
        rows = await self._list("candles", lambda: self._client.fetch_ohlcv(symbol, timeframe, start, limit))
        return sorted((convert.candle(row) for row in rows), key=lambda candle: candle.time_open)[:limit]

    async def ticker(self, symbol: str) -> Ticker:
        await self._ready()
        return convert.ticker(await self._list("ticker", lambda: self._client.fetch_ticker(symbol)), symbol)

    async def tickers(self, symbols: Sequence[str]) -> list[Ticker]:
        await self._ready()
        if not symbols:
            return []
        if not self._client.has.get("fetchTickers"):
            return await self._one_by_one(symbols)
        try:
            rows = await self._list("tickers", lambda: self._client.fetch_tickers(list(symbols)))
        except Refused as error:
            # One symbol that the venue does not know any more must not hide the others.
            log.info("%s: tickers of %d markets at once are refused: %s", self.ccxt_id, len(symbols), error)
            return await self._one_by_one(symbols)
        if not isinstance(rows, dict):
            raise Unknown("malformed answer: tickers: not by symbol")
        found = (self._readable(rows[symbol], symbol) for symbol in symbols if symbol in rows)
        return [ticker for ticker in found if ticker is not None]

    async def _one_by_one(self, symbols: Sequence[str]) -> list[Ticker]:
        found = []
        for symbol in symbols:
            try:
                found.append(await self.ticker(symbol))
            except Refused as error:
                log.info("%s: no ticker of %s: %s", self.ccxt_id, symbol, error)
        return found

    def _readable(self, row: Any, symbol: str) -> Ticker | None:
        try:
            return convert.ticker(row, symbol)
        except Unknown as error:
            log.warning("%s: the ticker of %s is left out: %s", self.ccxt_id, symbol, error)
            return None
