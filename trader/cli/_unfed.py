"""Candles that a strategy reads and no feed keeps up to date, and what to do about each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trader.strategy import Series

# offline: NULL if there is no such market; enabled: NULL if there is no feed.
KEPT = """
SELECT e.offline, f.enabled
  FROM unnest(%(markets)s::text[], %(timeframes)s::text[]) WITH ORDINALITY w (market, timeframe, number)
  LEFT JOIN (market m JOIN exchange e ON e.id = m.exchange_id) ON e.name || ':' || m.symbol = w.market
  LEFT JOIN timeframe t ON t.name = w.timeframe
  LEFT JOIN bucket_feed f ON f.market_id = m.id AND f.timeframe_id = t.id
 ORDER BY w.number
"""


@dataclass(frozen=True, slots=True)
class Unfed:
    """Candles that nobody keeps up to date."""

    text: str
    remedy: str


def asked(series: "Sequence[Series]") -> dict[str, list[str]]:
    """The values of KEPT."""
    return {"markets": [one.market for one in series], "timeframes": [one.timeframe for one in series]}


def unfed(series: "Sequence[Series]", rows: Iterable[Sequence[Any]], now: datetime) -> list[Unfed]:
    """Those of `series` that no enabled feed keeps; `rows` are what KEPT gave for them."""
    found = []
    for one, (offline, enabled) in zip(series, rows, strict=True):
        if enabled:
            continue
        if offline is None:
            remedy = "there is no such market: tallydesk market sync, or check its name"
        elif offline:
            exchange = one.market.partition(":")[0]
            remedy = f"{exchange} is offline, no venue is asked: its candles come from files (tallydesk bucket import)"
        else:
            remedy = f"run: {one.command(now, there=enabled is not None)}"
        found.append(Unfed(f"no feed keeps {one} up to date", remedy))
    return found
