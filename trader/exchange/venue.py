"""How each venue is asked: what differs between them and cannot be read out of ccxt. Data only."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from trader.exchange.trades import TradeList

Find = Literal["by_client_id", "open_then_closed", "weak"]
Paging = Literal["from_id", "offset", "cursor", "since"]
OrderFills = Literal["filter", "trade_ids", "call"]
Pin = Literal["params", "clock", "deadline", "none"]
Shape = tuple[tuple[str, ...], type | tuple[type, ...]]


@dataclass(frozen=True, slots=True)
class Venue:
    """The ways of one venue. The defaults are the careful ones for a venue nobody has tried."""

    find: Find = "weak"
    """`weak`: its lists may be short or late, so an order that is not in them is not proven absent."""
    find_id: str = "clientOrderId"
    """The parameter that filters its order lists by our id."""
    remembers: timedelta | None = None
    """For how long it surely finds an order that ended without a fill; None: no such limit is known."""
    number_params: dict[str, Any] = field(default_factory=dict)
    """What ccxt wants beside the venue's own number of an order, to look it up by that."""
    closed_call: str = "fetch_closed_orders"
    paging: Paging = "since"
    order_fills: OrderFills = "call"
    """One order's executions: a filter of the list, the ids that the order names, or a call of its own."""
    page: int | None = None
    """Executions per page."""
    trades: TradeList = "unknown"
    """How it lists everybody's trades."""
    pin: Pin = "none"
    """How a request carries submitted_at: in its parameters, as the signing clock, as a deadline, or not at all."""
    window_min: timedelta = timedelta(0)
    """The shortest receive window with which a request still reaches the venue in time to be taken."""
    prepare: str | None = None
    """What ccxt asks unasked before its first order: asked by us beforehand, so that its failure leaves no doubt."""
    create_params: dict[str, Any] = field(default_factory=dict)
    """What every new order says besides."""
    cost_precision: Literal["cost", "price"] = "cost"
    """Which step ccxt cuts the amount of a quote-sized buy to."""
    cost_alone: bool = False
    """A quote-sized buy is sent without a base amount, so that no option can make one out of the other."""
    secret_is_base64: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)
    """ccxt options below the user's: only spot markets are wanted, and no signed request just to list them."""
    skip_currencies: bool = False
    """Do not load currencies with the markets: a signed request, and the markets are complete without."""
    options: dict[str, Any] = field(default_factory=dict)
    """ccxt options that we rely on; they win over the user's."""
    candle_page: int | None = None
    """Candles per answer; None: what ccxt says, else as many as nearly every venue gives."""
    candle_reach: int | None = None
    """See `protocol.CandleWays`, also for the next one."""
    candle_skips_holes: bool = False
    candles_name_market: Literal["key", "symbol"] | None = None
    """Where the answer says whose candles it has: as a key of its result, or in a field of it."""
    shapes: dict[str, Shape] = field(default_factory=dict)
    """Where a sound answer of a call holds its rows; anything else was not read."""


_BINANCE = Venue(
    find="by_client_id",
    find_id="origClientOrderId",
    remembers=timedelta(days=89),  # "archived" after 90
    paging="from_id",
    order_fills="filter",
    page=1000,
    trades="numbers",
    candle_page=1000,
    candle_skips_holes=True,
    pin="params",
    cost_precision="price",
    cost_alone=True,
    defaults={"fetchMarkets": {"types": ["spot"]}, "fetchMargins": False},
    skip_currencies=True,
    # With False ccxt would leave the money of a quote-sized buy out of the request.
    options={"quoteOrderQty": True, "createOrder": {"quoteOrderQty": True}},
    shapes={
        "open_orders": ((), list),
        "fills": ((), list),
        "candles": ((), list),
        "trades": ((), list),
        "balances": (("balances",), list),
    },
)
_KRAKEN = Venue(
    find="open_then_closed",
    paging="offset",
    order_fills="trade_ids",
    page=50,
    trades="nanoseconds",
    candle_page=720,
    candle_reach=719,  # "up to 720 of the most recent entries", the open one among them
    candle_skips_holes=True,
    candles_name_market="key",
    pin="deadline",
    # It wants its deadline two seconds ahead at least; a request is sent with half of its window left at the worst.
    window_min=timedelta(seconds=5),
    # A sell's fee is taken in base unless told otherwise, and ccxt calls every fee of Kraken one in quote.
    create_params={"oflags": "fciq"},
    cost_alone=True,
    secret_is_base64=True,
    shapes={
        "open_orders": (("result", "open"), dict),
        "closed_orders": (("result", "closed"), dict),
        "fills": (("result", "trades"), dict),
        "order_fills": (("result",), dict),
        "candles": (("result",), dict),
        "trades": (("result",), dict),
        "balances": (("result",), dict),
    },
)
_ROWS: Shape = (("result", "list"), list)
_BYBIT = Venue(
    find="open_then_closed",
    find_id="orderLinkId",
    remembers=timedelta(hours=23),  # canceled and rejected ones: 24 hours; filled ones: 7 days unless asked by time
    number_params={"acknowledged": True},  # that it knows the last 500 orders only: fewer than that are asked for
    closed_call="fetch_canceled_and_closed_orders",
    paging="cursor",
    order_fills="filter",
    page=100,
    trades="recent",
    candle_page=1000,
    candles_name_market="symbol",
    pin="clock",
    prepare="is_unified_enabled",
    cost_alone=True,
    defaults={"fetchMarkets": {"types": ["spot"]}},
    skip_currencies=True,
    # Without it a classic account reads the base quantity of a market buy as money to spend.
    options={"createOrder": {"createMarketBuyOrderRequiresPrice": True}},
    shapes={
        "open_orders": _ROWS,
        "closed_orders": _ROWS,
        "fills": _ROWS,
        "candles": _ROWS,
        "balances": _ROWS,
        "trades": _ROWS,
    },
)
_KRAKEN_FUTURES = Venue(find_id="cliOrdId")

VENUES: dict[str, Venue] = {
    "binance": _BINANCE,
    "kraken": _KRAKEN,
    "bybit": _BYBIT,
    "krakenfutures": _KRAKEN_FUTURES,
}


def venue_of(ccxt_id: str) -> Venue:
    """The ways of the venue that ccxt calls `ccxt_id`."""
    return VENUES.get(ccxt_id, Venue())
