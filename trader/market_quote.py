"""The last bid and ask of markets, for a moment: what a market order is judged by before it is sent."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping

from trader.errors import ExchangeError
from trader.exchange.protocol import Exchange, Ticker
from trader.sizing import Quote

log = logging.getLogger("quote")

FRESH_SECONDS = 2.0


class QuoteCache:
    """Quotes by (account id, symbol), each good for FRESH_SECONDS."""

    def __init__(self) -> None:
        self._pending: set[tuple[int, str]] = set()
        self._quotes: dict[tuple[int, str], tuple[float, Quote]] = {}

    def fresh(self, account_id: int, symbol: str) -> Quote | None:
        """The quote if it is fresh, else None."""
        read_at, quote = self._quotes.get((account_id, symbol), (0.0, None))
        return quote if quote is not None and time.monotonic() - read_at < FRESH_SECONDS else None

    async def refresh(self, exchanges: Mapping[int, Exchange], wanted: Iterable[tuple[int, str]]) -> bool:
        """Ask the venues for what is wanted and not asked for already; True if anything new is known.

        A venue that cannot be read leaves its orders queued: they are denied as stale if that lasts.
        """
        asked = [key for key in wanted if key not in self._pending]
        self._pending.update(asked)
        try:
            return any(
                await asyncio.gather(*(self._read(exchanges[account], account, symbol) for account, symbol in asked))
            )
        finally:
            self._pending.difference_update(asked)

    async def _read(self, exchange: Exchange, account_id: int, symbol: str) -> bool:
        try:
            ticker = await exchange.ticker(symbol)
        except ExchangeError as error:
            log.warning("%s: no price now, its orders wait: %s", symbol, error)
            await asyncio.sleep(0.5)
            return False
        quote = from_ticker(ticker)
        if quote is None:
            log.warning("%s: the book is empty and nothing was ever traded, its orders wait", symbol)
            await asyncio.sleep(0.5)
            return False
        self._quotes[account_id, symbol] = (time.monotonic(), quote)
        return True


def from_ticker(ticker: Ticker) -> Quote | None:
    """The bid and ask, with the last price for a side that is empty; None if there is no price at all."""
    bid = ticker.bid or ticker.last or ticker.ask
    ask = ticker.ask or ticker.last or ticker.bid
    return None if bid is None or ask is None else Quote(bid, ask, ticker.last)
