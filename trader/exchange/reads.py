"""What a venue shows everybody: its markets, its clock, prices and candles. Mixed into `live.LiveExchange`."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from trader.clock import from_milliseconds, to_milliseconds
from trader.errors import Refused, Unknown
from trader.exchange import convert
from trader.exchange.protocol import CandlePage, CandleWays, MarketInfo, PublicTrades, Ticker
from trader.exchange.tap import Call
from trader.exchange.trades import LISTS
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
        if self._client.has.get("fetchTime"):
            return convert.moment(await self._call("read", self._client.fetch_time), "time")
        return await self._dated()

    async def _dated(self) -> datetime:
        """The clock of a venue that has no call for it: the date of an answer, in whole seconds, so never ahead."""
        await self._ready()
        call, symbol = Call(), next((name for name, row in self._client.markets.items() if row.get("active")), None)
        if symbol is None:
            raise Unknown("the venue's clock: it has no call for it, and no active market to ask for a ticker of")
        await self._list("ticker", lambda: self._client.fetch_ticker(symbol), call)
        stated = next((value for name, value in call.headers.items() if name.lower() == "date"), None)
        try:
            if stated is None:
                raise Unknown("the venue's clock: it has no call for it, and its answers have no Date")
            return parsedate_to_datetime(stated).astimezone(UTC)
        except (ValueError, OverflowError):
            raise Unknown(f"the venue's clock: the Date of its answer is {stated!r}") from None

    @property
    def candle_ways(self) -> CandleWays:
        venue = self._venue
        return CandleWays(venue.candle_page or self._candle_limit(), venue.candle_reach, venue.candle_skips_holes)

    def _candle_limit(self) -> int:
        """What ccxt knows of the longest page, if it does."""
        features = (self._client.features or {}).get("spot") or {}
        limit = (features.get("fetchOHLCV") or {}).get("limit")
        return limit if isinstance(limit, int) and limit > 0 else CandleWays().page

    async def candles(self, symbol: str, timeframe: str, since: datetime | None, limit: int) -> CandlePage:
        await self._ready()
        allowed = self._client.timeframes or {}
        if timeframe not in allowed:
            raise Refused(f"timeframe {timeframe!r}: {self.ccxt_id} has {', '.join(allowed)}")
        start = None if since is None else to_milliseconds(since)
        call = Call()
        rows = await self._list("candles", lambda: self._client.fetch_ohlcv(symbol, timeframe, start, limit), call)
        self._require_market(call.answer, symbol)
        page = convert.candles(rows)
        newest_first = since is None
        page.sort(key=lambda candle: candle.time_open)
        return CandlePage(page[-limit:] if newest_first else page[:limit], page.refused)

    def _require_market(self, answer: Any, symbol: str) -> None:
        """Raise Unknown if the answer says that it is about another market. Where ccxt looks by name, it finds nothing
        in such a one: an empty page, which would be taken for a market without candles."""
        where = self._venue.candles_name_market
        if where is None:
            return
        wanted, result = self._client.market(symbol)["id"], answer["result"]
        named = set(result) if where == "key" else {result.get("symbol")}
        if wanted not in named:
            raise Unknown(f"asked for the candles of {wanted}, those of {', '.join(map(str, sorted(named)))} came")

    async def ticker(self, symbol: str) -> Ticker:
        await self._ready()
        return convert.ticker(await self._list("ticker", lambda: self._client.fetch_ticker(symbol)), symbol)

    async def trades(self, symbol: str, since: datetime, until: datetime) -> PublicTrades:
        await self._ready()

        async def ask(limit: int, params: dict[str, Any]) -> tuple[list[Any], Any]:
            call = Call()
            rows = await self._list("trades", lambda: self._client.fetch_trades(symbol, None, limit, params), call)
            return rows, call.answer

        start, end = to_milliseconds(since), to_milliseconds(until)
        rows, complete = await LISTS[self._venue.trades](ask, start, end)
        found = sorted((convert.trade(row) for row in rows), key=lambda pair: pair[0])
        return PublicTrades(tuple(trade for (time, *_), trade in found if time >= start), from_milliseconds(complete))

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
