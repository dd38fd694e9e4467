"""A venue in memory that implements the part of the Exchange protocol that reads: candles, markets, balances, time.

Its answers are what a test puts into it; `asked` is what it was asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from trader.bucket import Timeframe, timeframe_named
from trader.clock import from_milliseconds, to_milliseconds
from trader.exchange.protocol import AssetBalance, Candle, CandlePage, CandleWays, MarketInfo, Ticker

START = datetime(2024, 1, 1, tzinfo=UTC)


def candle(index: int, timeframe: str = "1m", start: datetime = START, price: float = 100.0) -> Candle:
    """The candle `index` places after `start`; its numbers follow from the index."""
    time_open = start + index * timedelta(milliseconds=timeframe_named(timeframe).span or 0)
    low, high = price + index % 7, price + index % 7 + 3
    return Candle(time_open, low + 1, high, low, low + 2, float(index % 11))


def info(symbol: str = "BTC/USDT", **fields: object) -> MarketInfo:
    """A market as a venue lists it."""
    base, quote = symbol.split("/")
    rules = {
        "active": True,
        "price_tick": Decimal("0.01"),
        "quantity_step": Decimal("0.00001"),
        "quantity_min": Decimal("0.00001"),
        "quantity_max": None,
        "cost_min": Decimal(5),
        "maker_fee": Decimal("0.001"),
        "taker_fee": Decimal("0.001"),
        "fee_side": "get",
    }
    return MarketInfo(symbol, base, quote, **(rules | fields))


@dataclass
class Venue:
    """`now` is its clock: candles that open later are not given. `most` is the longest page that it gives; what
    is known of how it gives them is in `candle_ways`."""

    history: list[Candle] = field(default_factory=list)
    now: datetime = datetime(2100, 1, 1, tzinfo=UTC)
    most: int = 1000
    candle_ways: CandleWays = field(default_factory=lambda: CandleWays(1000))
    owned: dict[str, str] = field(default_factory=dict)
    infos: list[MarketInfo] = field(default_factory=lambda: [info()])
    asked: list[datetime | None] = field(default_factory=list)
    errors: dict[int | str, Exception] = field(default_factory=dict)
    """What the n-th question for candles (from 0), "balances" or "tickers", fails with."""
    books: dict[str, tuple[str | None, str | None, str | None]] = field(default_factory=dict)
    """Bid, ask and last price by symbol."""
    asked_tickers: list[list[str]] = field(default_factory=list)

    async def candles(self, symbol: str, timeframe: str, since: datetime | None, limit: int) -> CandlePage:
        number = len(self.asked)
        self.asked.append(since)
        if number in self.errors:
            raise self.errors[number]
        found = [c for c in self.history if c.time_open <= self.now and (since is None or c.time_open >= since)]
        most = min(limit, self.most)
        return CandlePage(found[:most] if since is not None else found[-most:])

    async def time(self) -> datetime:
        return self.now

    async def markets(self) -> list[MarketInfo]:
        return self.infos

    async def balances(self) -> list[AssetBalance]:
        if "balances" in self.errors:
            raise self.errors["balances"]
        return [AssetBalance(asset, Decimal(n), Decimal(n), Decimal(0)) for asset, n in self.owned.items()]

    async def tickers(self, symbols: Sequence[str]) -> list[Ticker]:
        self.asked_tickers.append(sorted(symbols))
        if "tickers" in self.errors:
            raise self.errors["tickers"]
        return [
            Ticker(symbol, *(None if price is None else Decimal(price) for price in self.books[symbol]))
            for symbol in symbols
            if symbol in self.books
        ]

    async def close(self) -> None:
        pass


def close_of(given: Candle, timeframe: Timeframe) -> datetime:
    """When a candle closes."""
    return from_milliseconds(to_milliseconds(given.time_open) + (timeframe.span or 0))
