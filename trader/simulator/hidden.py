"""Candles that the venue does not show for a while, with or without the trades in them: a hole in its data."""

from dataclasses import dataclass
from typing import Any

from trader.simulator.replay import Row, Trade


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of market time, half-open, in milliseconds, and what of it is hidden."""

    start: int
    end: int
    trades: bool

    def describe(self) -> dict[str, Any]:
        return {"from": self.start, "to": self.end, "trades": self.trades}


class Hidden:
    """What one market hides at the moment."""

    def __init__(self) -> None:
        self.windows: list[Window] = []

    def most(self, length: int) -> int:
        """How many of anything that comes once in `length` milliseconds may be hidden."""
        return sum((window.end - window.start) // length + 1 for window in self.windows)

    def candles(self, rows: list[Row]) -> list[Row]:
        """Those of `rows` that are shown: a candle is hidden if all of it lies in a window."""
        return [row for row in rows if not any(w.start <= row[0] and row[6] < w.end for w in self.windows)]

    def trades(self, trades: list[Trade]) -> list[Trade]:
        """Those of `trades` that are shown."""
        windows = [window for window in self.windows if window.trades]
        return [trade for trade in trades if not any(w.start <= trade[1] < w.end for w in windows)]
