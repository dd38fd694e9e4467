"""What Tallydesk needs of a venue: thirteen calls and, where there is one, a stream; in Decimal and UTC, and the four
ways they fail.

Every call may raise `errors.Refused`, `errors.Retry`, `errors.Unknown` or `errors.Fatal`. For calls that
only read, `Retry` and `Unknown` both mean "could not read": never "empty".
"""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal, Protocol

Side = Literal["buy", "sell"]
OrderType = Literal["market", "limit"]
TimeInForce = Literal["GTC", "IOC", "FOK", "PO"]
"""Rests until canceled; trades at once or expires; all at once or nothing; post-only: refused if it would not rest."""
VenueStatus = Literal["accepted", "partially_filled", "filled", "canceled", "expired", "rejected"]
FeeSide = Literal["get", "give", "base", "quote", "other"]


@dataclass(frozen=True, slots=True)
class MarketInfo:
    """A pair that a venue trades, with its rules. None means that the venue states no such rule."""

    symbol: str
    base: str
    quote: str
    active: bool
    price_tick: Decimal | None
    quantity_step: Decimal | None
    quantity_min: Decimal | None
    quantity_max: Decimal | None
    cost_min: Decimal | None
    maker_fee: Decimal
    taker_fee: Decimal
    fee_side: FeeSide
    """Which side of a trade pays the fee, in ccxt's words: `get` is what the trade brings in."""


@dataclass(frozen=True, slots=True)
class Candle:
    """One candle as the venue gives it: market data, not money, so float."""

    time_open: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True, slots=True)
class BadCandle:
    """A row among candles that is none: `field` is the one to blame, `time_open` None where that cannot be read."""

    time_open: datetime | None
    text: str
    field: str
    problem: str


class CandlePage(list[Candle]):
    """Candles in the venue's answer to one question; `refused` are its rows that are none."""

    def __init__(self, candles: Iterable[Candle] = (), refused: Iterable[BadCandle] = ()) -> None:
        super().__init__(candles)
        self.refused = tuple(refused)


@dataclass(frozen=True, slots=True)
class CandleWays:
    """How a venue gives candles. The defaults are the careful ones for a venue nobody has tried."""

    page: int = 500
    """Candles in one answer, at most."""
    reach: int | None = None
    """It gives only the newest so many closed candles, whatever it is asked for. None: it honours `since`."""
    skips_holes: bool = False
    """An answer begins with the first candle at or after `since`, however far that is, and one with less than a page
    reaches the present: so an empty one proves that there is nothing. Else it proves only as much as a page is long."""


@dataclass(frozen=True, slots=True)
class Ticker:
    """The top of the book. A price is None when that side is empty."""

    symbol: str
    bid: Decimal | None
    ask: Decimal | None
    last: Decimal | None


@dataclass(frozen=True, slots=True)
class AssetBalance:
    """What the venue says the account owns of one asset: `total = free + used`."""

    asset: str
    total: Decimal
    free: Decimal
    used: Decimal


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An order as it will go over the wire, already rounded to the market's steps.

    Exactly one of `quantity` (base) and `quote_quantity` (what a market buy spends) is set.
    The request is signed with `submitted_at`, so the venue itself refuses it after
    `submitted_at + receive_window`: past that moment "not found" is proof of absence.
    """

    client_order_id: str
    symbol: str
    side: Side
    type: OrderType
    quantity: Decimal | None
    quote_quantity: Decimal | None
    limit_price: Decimal | None
    submitted_at: datetime
    receive_window: timedelta
    time_in_force: TimeInForce = "GTC"
    """Anything but GTC is a limit order's only."""


@dataclass(frozen=True, slots=True)
class FillReport:
    """One execution as the venue reports it. `fee` is in `fee_asset`; negative is a rebate."""

    trade_id: str
    venue_order_id: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_asset: str | None
    liquidity: Literal["maker", "taker"] | None
    traded_at: datetime


@dataclass(frozen=True, slots=True)
class OrderReport:
    """What the venue says of an order. `status` is None where it answers with ids only."""

    venue_order_id: str
    client_order_id: str | None
    symbol: str
    status: VenueStatus | None
    filled_quantity: Decimal | None
    fills: tuple[FillReport, ...]
    """The executions that came with this answer; a venue may leave them to `fills()`."""
    side: Side | None = None
    type: str | None = None
    """As the venue names it: other people's orders are of more kinds than ours."""
    quantity: Decimal | None = None
    limit_price: Decimal | None = None


@dataclass(frozen=True, slots=True)
class PublicTrade:
    """Somebody's trade, as the venue shows it to everybody: market data, exact so that it adds up."""

    traded_at: datetime
    price: Decimal
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class PublicTrades:
    """All trades of a window, oldest first, and what else came with them: complete from its start up to `until`,
    which is not before its end."""

    rows: tuple[PublicTrade, ...]
    until: datetime


class Exchange(Protocol):
    """A connection to one account at one venue (or to its public data, without credentials)."""

    async def markets(self) -> list[MarketInfo]: ...

    async def time(self) -> datetime:
        """The venue's own clock."""

    @property
    def candle_ways(self) -> CandleWays: ...

    async def candles(self, symbol: str, timeframe: str, since: datetime | None, limit: int) -> CandlePage:
        """Candles that open at or after `since`, oldest first, at most `limit`; the last may still be open.

        Without `since` the newest ones. A row that is no candle is left out and told in `refused`; Unknown if no row is
        one.
        """

    async def ticker(self, symbol: str) -> Ticker: ...

    async def trades(self, symbol: str, since: datetime, until: datetime) -> PublicTrades:
        """Every trade that anybody made from `since` on and before `until`, which must be past; empty: there was none.

        `Refused`: this venue does not tell all of them, because they are too old, too many, or not listed.
        """

    async def balances(self) -> list[AssetBalance]: ...

    async def create(self, request: OrderRequest) -> OrderReport:
        """Place an order. Never retried inside; every error class says whether it may have been placed."""

    async def find(self, symbol: str, client_order_id: str, *, since: datetime | None = None) -> OrderReport | None:
        """Look an order up by our name for it, wherever this venue keeps it (open, closed, trades). None: not there.

        `since` is when it was sent. An order that is not there and was sent before all that the venue still remembers
        may have been: that raises Unknown.
        """

    async def find_number(self, symbol: str, venue_order_id: str) -> OrderReport | None:
        """Look an order up by the venue's own number for it, whoever's it is. None: not there."""

    async def cancel(self, symbol: str, venue_order_id: str) -> None:
        """Ask for a cancel. `Refused`: the venue says it is not open any more. What became of it: see `find`."""

    async def open_orders(self, symbol: str | None = None) -> list[OrderReport]:
        """Everything open on the account, ours or not."""

    async def fills(
        self, symbol: str, *, venue_order_id: str | None = None, since: datetime | None = None
    ) -> list[FillReport]:
        """Executions on a market, oldest first, all pages; of one order, or since a moment."""

    async def executions(self) -> AsyncGenerator[list[OrderReport], None] | None:
        """What happens to the account's orders, ours or not, as the venue's stream brings it: all of a moment at once.

        None if there is no stream. It may leave out, repeat or swap anything, and ends only by an error; close it
        with `aclose`. Raises ConfigError where it would talk to a host that the mode does not allow.
        """

    async def close(self) -> None: ...
