"""Unsigned routes: markets, time, candles, tickers, book, public trades."""

from decimal import Decimal

from trader.simulator.book import Level
from trader.simulator.decimals import ZERO, text
from trader.simulator.replay import Row, Trade
from trader.simulator.rules import VenueError
from trader.simulator.timeframe import TIMEFRAMES
from trader.simulator.venue import Market, Venue
from trader.simulator.wire import Json, Params, market_json

_LIMITS = [
    {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000},
    {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 100},
    {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": 200000},
]


def ping(_venue: Venue, _params: Params) -> Json:
    return {}


def time(venue: Venue, _params: Params) -> Json:
    return {"serverTime": venue.wall()}


def exchange_info(venue: Venue, params: Params) -> Json:
    return {
        "timezone": "UTC",
        "serverTime": venue.wall(),
        "rateLimits": _LIMITS,
        "exchangeFilters": [],
        "symbols": [market_json(market.rules) for market in _markets(venue, params)],
    }


def klines(venue: Venue, params: Params) -> list[list[object]]:
    market = venue.market(params.need("symbol"))
    timeframe = params.need("interval")
    if timeframe not in market.series.timeframes():
        raise VenueError(-1120, "Invalid interval.")
    start, end, limit = params.integer("startTime"), params.integer("endTime"), params.limit(500, 1000)
    more = market.hidden.most(TIMEFRAMES[timeframe])
    rows = market.hidden.candles(market.series.klines(timeframe, venue.now(), start, end, limit + more))
    return [kline_json(row) for row in (rows[:limit] if start is not None else rows[-limit:])]


def kline_json(row: Row) -> list[object]:
    opened, first, high, low, last, volume, closed = row
    quote, half = volume * last, volume / 2
    prices = [text(first), text(high), text(low), text(last), text(volume)]
    return [opened, *prices, closed, text(quote), 4, text(half), text(half * last), "0"]


def ticker_day(venue: Venue, params: Params) -> Json | list[Json]:
    tickers = [ticker_json(venue, market) for market in _markets(venue, params)]
    return tickers[0] if params.get("symbol") else tickers


def ticker_json(venue: Venue, market: Market) -> Json:
    """24-hour statistics; the prices are of the market clock, the times of the wall clock."""
    day, book, price = market.series.day(venue.now()), venue.book(market), venue.price(market)
    bid, ask = _top(book.bids), _top(book.asks)
    opened, last = Decimal(text(day.open)), price
    change = last - opened
    return {
        "symbol": market.rules.id,
        "priceChange": text(change),
        "priceChangePercent": f"{change / opened * 100:.3f}",
        "weightedAvgPrice": text(day.quote_volume / day.volume if day.volume else float(last)),
        "prevClosePrice": text(opened),
        "lastPrice": text(last),
        "lastQty": text(market.rules.step),
        "bidPrice": text(bid[0]),
        "bidQty": text(bid[1]),
        "askPrice": text(ask[0]),
        "askQty": text(ask[1]),
        "openPrice": text(opened),
        "highPrice": text(max(Decimal(text(day.high)), last)),
        "lowPrice": text(min(Decimal(text(day.low)), last)),
        "volume": text(day.volume),
        "quoteVolume": text(day.quote_volume),
        "openTime": venue.wall() - 86_400_000,
        "closeTime": venue.wall(),
        "firstId": 0,
        "lastId": day.trades - 1,
        "count": day.trades,
    }


def ticker_price(venue: Venue, params: Params) -> Json | list[Json]:
    found = [{"symbol": m.rules.id, "price": text(venue.price(m))} for m in _markets(venue, params)]
    return found[0] if params.get("symbol") else found


def ticker_book(venue: Venue, params: Params) -> Json | list[Json]:
    found = [book_ticker_json(venue, market) for market in _markets(venue, params)]
    return found[0] if params.get("symbol") else found


def book_ticker_json(venue: Venue, market: Market) -> Json:
    book = venue.book(market)
    bid, ask = _top(book.bids), _top(book.asks)
    return {
        "symbol": market.rules.id,
        "bidPrice": text(bid[0]),
        "bidQty": text(bid[1]),
        "askPrice": text(ask[0]),
        "askQty": text(ask[1]),
    }


def depth(venue: Venue, params: Params) -> Json:
    market = venue.market(params.need("symbol"))
    limit, book = params.limit(100, 5000), venue.book(market)
    sides = {"bids": levels_json(book.bids[:limit]), "asks": levels_json(book.asks[:limit])}
    return {"lastUpdateId": market.books[-1][0], **sides}


def levels_json(levels: tuple[Level, ...]) -> list[list[str]]:
    return [[text(price), text(quantity)] for price, quantity in levels]


def trades(venue: Venue, params: Params) -> list[Json]:
    market = venue.market(params.need("symbol"))
    return [
        {
            "id": number,
            "price": text(price),
            "qty": text(quantity),
            "quoteQty": text(price * quantity),
            "time": moment,
            "isBuyerMaker": bool(number % 2),
            "isBestMatch": True,
        }
        for number, moment, price, quantity in _shown_trades(venue, market, params.limit(500, 1000))
    ]


def aggregate_trades(venue: Venue, params: Params) -> list[Json]:
    market = venue.market(params.need("symbol"))
    start, end, number = params.integer("startTime"), params.integer("endTime"), params.integer("fromId")
    if number is not None and (start is not None or end is not None):
        raise VenueError(-1128, "Combination of optional parameters invalid.")
    found = _shown_trades(venue, market, params.limit(500, 1000), start=start, end=end, number=number)
    return [
        {"a": n, "p": text(p), "q": text(q), "f": n, "l": n, "T": moment, "m": bool(n % 2), "M": True}
        for n, moment, p, q in found
    ]


def _shown_trades(
    venue: Venue, market: Market, limit: int, *, start: int | None = None, end: int | None = None,
    number: int | None = None,
) -> list[Trade]:  # fmt: skip
    more = 4 * market.hidden.most(market.series.base_length)
    found = market.series.public_trades(venue.now(), start, limit + more, end=end, number=number)
    shown = market.hidden.trades(found)
    return shown[-limit:] if start is None and number is None else shown[:limit]


def system_status(_venue: Venue, _params: Params) -> Json:
    return {"status": 0, "msg": "normal"}


def _markets(venue: Venue, params: Params) -> list[Market]:
    names = params.symbols()
    return list(venue.markets.values()) if names is None else [venue.market(name) for name in names]


def _top(levels: tuple[Level, ...]) -> Level:
    return levels[0] if levels else (ZERO, ZERO)
