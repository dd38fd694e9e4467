"""The series of candles that a live run of a strategy reads, and the command that lets one be kept."""

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from trader.bucket.timeframe import timeframe_named
from trader.strategy.evaluate import inputs_of
from trader.strategy.kit import Strategy
from trader.strategy.reach import MONTH, reach_of
from trader.strategy.schedule import Schedule

FIRST_MARKETS = datetime(2009, 1, 1, tzinfo=UTC)
"""No venue has older candles."""


@dataclass(frozen=True, slots=True)
class Series:
    """Candles that a strategy reads."""

    name: str
    """That of the input; empty: the strategy's own."""
    market: str
    """As in binance:BTC/USDT."""
    timeframe: str
    candles: int
    """How many a live run reads, at most."""

    def __str__(self) -> str:
        return f"the {self.timeframe} candles of {self.market}" + (f' (input "{self.name}")' if self.name else "")

    def command(self, now: datetime, *, there: bool) -> str:
        """What to type so that a feed keeps them, from as far back as a live run reads; `there`: it is paused."""
        exchange, _, symbol = self.market.partition(":")
        what = f"{shlex.quote(exchange)} {shlex.quote(symbol)} {self.timeframe}"
        if there:
            return f"tallydesk feed resume {what}"
        span = (timeframe_named(self.timeframe).span or MONTH) / 1_000
        far = (now - FIRST_MARKETS).total_seconds() <= self.candles * span
        since = "listing" if far else f"{now - timedelta(seconds=self.candles * span):%Y-%m-%d}"
        return f"tallydesk feed add {what} --since {since}"


def series_of(strategy: Strategy[Any], market: str, timeframe: str, schedule: Schedule = "bucket") -> list[Series]:
    """Its own candles first, then those of its inputs. Raises SignalError and InputError as `reach_of`."""
    reach = reach_of(strategy, timeframe, schedule)
    found = [Series("", market, timeframe, reach.candles)]
    for name, given in inputs_of(strategy).items():
        found.append(Series(name, given.market or market, given.timeframe or timeframe, reach.inputs[name]))
    return found
