"""A venue inside this process that accepts and fills at once: what is left to measure is ours alone."""

import itertools
import time
from datetime import UTC, datetime
from decimal import Decimal

from trader.errors import Refused
from trader.exchange.protocol import (
    AssetBalance,
    Candle,
    FillReport,
    MarketInfo,
    OrderReport,
    OrderRequest,
    Ticker,
)

PRICE = Decimal(50000)
FEE = Decimal("0.001")


class InstantVenue:
    """`protocol.Exchange`: every order is filled in full at PRICE, with a fee in base, in the answer to its request."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._prefix = time.time_ns()
        self.placed: dict[str, OrderReport] = {}

    async def create(self, request: OrderRequest) -> OrderReport:
        if request.client_order_id in self.placed:
            raise Refused("this client order id was used before")
        number = f"{self._prefix}-{next(self._numbers)}"
        quantity = request.quantity or ((request.quote_quantity or Decimal(0)) / PRICE).quantize(Decimal("1e-8"))
        fill = FillReport(
            number, number, request.side, quantity, PRICE, quantity * FEE, "BTC", "taker", datetime.now(UTC)
        )
        report = OrderReport(number, request.client_order_id, request.symbol, "filled", quantity, (fill,))
        self.placed[request.client_order_id] = report
        return report

    async def find(self, symbol: str, client_order_id: str, *, since: datetime | None = None) -> OrderReport | None:
        return self.placed.get(client_order_id)

    async def fills(
        self, symbol: str, *, venue_order_id: str | None = None, since: datetime | None = None
    ) -> list[FillReport]:
        return [
            fill for report in self.placed.values() for fill in report.fills if fill.venue_order_id == venue_order_id
        ]

    async def ticker(self, symbol: str) -> Ticker:
        return Ticker(symbol, PRICE, PRICE, PRICE)

    async def open_orders(self, symbol: str | None = None) -> list[OrderReport]:
        return []

    async def cancel(self, symbol: str, venue_order_id: str) -> None:
        raise Refused("it is not open any more")

    async def markets(self) -> list[MarketInfo]:
        return []

    async def time(self) -> datetime:
        return datetime.now(UTC)

    async def candles(self, symbol: str, timeframe: str, since: datetime | None, limit: int) -> list[Candle]:
        return []

    async def balances(self) -> list[AssetBalance]:
        return []

    async def close(self) -> None:
        return None
