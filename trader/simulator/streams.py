"""Public streams: tickers, candles, trades and book changes, each as the next events since the last look."""

from collections.abc import Callable
from typing import Any

from trader.simulator.book import Book
from trader.simulator.decimals import ZERO, text
from trader.simulator.public import ticker_json
from trader.simulator.replay import Row
from trader.simulator.rules import VenueError
from trader.simulator.venue import Market, Venue
from trader.simulator.wire import Json

_HEARTBEAT = 1000
_MOST_CANDLES = 1000


class Stream:
    """One subscription such as btcusdt@kline_1m. `next` gives what is new; it remembers what it has shown."""

    def __init__(self, venue: Venue, name: str) -> None:
        """Understand the name (VenueError if the simulator has no such stream)."""
        self.name = name
        symbol, _, kind = name.partition("@")
        self._venue = venue
        self._market = venue.market(symbol.upper())
        self._timeframe = kind.removeprefix("kline_")
        self._shown: Any = None
        self._sent = 0
        self._since = venue.now()
        self.next: Callable[[], list[Json]] = self._find(kind)
        if kind.startswith("depth"):  # whatever snapshot the client takes from now on, the changes will join it
            venue.book(self._market)
            self._shown = self._market.books[-1][0]

    def _find(self, kind: str) -> Callable[[], list[Json]]:
        kinds: dict[str, Callable[[], list[Json]]] = {
            "ticker": lambda: self._on_change(_ticker),
            "miniTicker": lambda: self._on_change(_mini_ticker),
            "bookTicker": lambda: self._on_change(_book_ticker),
            "trade": self._trades,
            "aggTrade": self._trades,
            "depth": self._depth,
            "kline": self._klines,
        }
        found = kinds.get(kind.split("@")[0].split("_")[0])
        if found is None or (kind.startswith("kline") and self._timeframe not in self._market.series.timeframes()):
            raise VenueError(2, f"Invalid request: invalid stream {self.name}")
        return found

    def _on_change(self, make: Callable[[Venue, Market], Json]) -> list[Json]:
        """At a new price, and as a heartbeat once a second."""
        price, now = self._venue.price(self._market), self._venue.wall()
        if price == self._shown and now - self._sent < _HEARTBEAT:
            return []
        self._shown, self._sent = price, now
        return [make(self._venue, self._market)]

    def _trades(self) -> list[Json]:
        now, series = self._venue.now(), self._market.series
        found = series.public_trades(now, self._since, 1000)
        self._since = now + 1
        kind, rules = self.name.split("@")[1], self._market.rules
        return [
            {
                "e": kind,
                "E": self._venue.wall(),
                "s": rules.id,
                **({"t": n} if kind == "trade" else {"a": n, "f": n, "l": n}),
                "p": text(price),
                "q": text(quantity),
                "T": moment,
                "m": bool(n % 2),
                "M": True,
            }
            for n, moment, price, quantity in found
        ]

    def _klines(self) -> list[Json]:
        """Every candle that closed since the last look, then the open one if it moved."""
        now = self._venue.now()
        start, most = (self._shown[0], _MOST_CANDLES) if self._shown else (None, 1)
        rows = self._market.series.klines(self._timeframe, now, start, None, most)
        if not rows or rows[-1] == self._shown:
            return []
        self._shown = rows[-1]
        return [self._kline(row, closed=row is not rows[-1]) for row in rows]

    def _kline(self, row: Row, *, closed: bool) -> Json:
        prices = {name: text(value) for name, value in zip("ohlcv", row[1:6], strict=True)}
        span = {"t": row[0], "T": row[6], "s": self._market.rules.id, "i": self._timeframe, "f": -1, "L": -1}
        volumes = {"q": text(row[5] * row[4]), "V": text(row[5] / 2), "Q": text(row[5] * row[4] / 2)}
        candle = {**span, **prices, **volumes, "n": 4, "x": closed, "B": "0"}
        return {"e": "kline", "E": self._venue.wall(), "s": self._market.rules.id, "k": candle}

    def _depth(self) -> list[Json]:
        """The change since the last look, over every book that a snapshot may have shown in between."""
        book = self._venue.book(self._market)
        number = self._market.books[-1][0]
        if self._shown == number:
            return []
        between = [old for n, _, old in self._market.books if self._shown <= n < number]
        first, self._shown = self._shown + 1, number
        return [
            {
                "e": "depthUpdate",
                "E": self._venue.wall(),
                "s": self._market.rules.id,
                "U": first,
                "u": number,
                "b": _changes(between, book, "bids"),
                "a": _changes(between, book, "asks"),
            }
        ]


class AllTickers:
    """Every market's ticker in one event, once a second: !ticker@arr and !miniTicker@arr."""

    def __init__(self, venue: Venue, name: str) -> None:
        self._venue = venue
        self._make = {"!ticker@arr": _ticker, "!miniTicker@arr": _mini_ticker}[name]
        self._sent = 0

    def next(self) -> list[list[Json]]:
        now = self._venue.wall()
        if now - self._sent < _HEARTBEAT:
            return []
        self._sent = now
        return [[self._make(self._venue, market) for market in self._venue.markets.values()]]


def open_stream(venue: Venue, name: str) -> Stream | AllTickers:
    """The stream of that name (VenueError if the simulator has none)."""
    return AllTickers(venue, name) if name in ("!ticker@arr", "!miniTicker@arr") else Stream(venue, name)


def _changes(old: list[Book], new: Book, side: str) -> list[list[str]]:
    levels = {price: ZERO for book in old for price, _ in getattr(book, side)}
    levels.update(getattr(new, side))
    return [[text(price), text(quantity)] for price, quantity in levels.items()]


def _ticker(venue: Venue, market: Market) -> Json:
    t = ticker_json(venue, market)
    names = {
        "p": "priceChange",
        "P": "priceChangePercent",
        "w": "weightedAvgPrice",
        "x": "prevClosePrice",
        "c": "lastPrice",
        "Q": "lastQty",
        "b": "bidPrice",
        "B": "bidQty",
        "a": "askPrice",
        "A": "askQty",
        "o": "openPrice",
        "h": "highPrice",
        "l": "lowPrice",
        "v": "volume",
        "q": "quoteVolume",
        "O": "openTime",
        "C": "closeTime",
        "F": "firstId",
        "L": "lastId",
        "n": "count",
    }
    return {"e": "24hrTicker", "E": venue.wall(), "s": market.rules.id} | {k: t[v] for k, v in names.items()}


def _mini_ticker(venue: Venue, market: Market) -> Json:
    full = _ticker(venue, market)
    return {"e": "24hrMiniTicker"} | {name: full[name] for name in "Escohlvq"}


def _book_ticker(venue: Venue, market: Market) -> Json:
    full = _ticker(venue, market)
    return {"u": market.books[-1][0], "s": market.rules.id} | {name: full[name] for name in "bBaA"}
