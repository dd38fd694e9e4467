"""Market history as arrays: klines of any interval, the price at any moment, and the extremes between two moments."""

from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

import numpy as np
from numpy.typing import NDArray

from trader.simulator.decimals import UNIT
from trader.simulator.timeframe import DAY, TIMEFRAMES, Times, closes, derivable, opens

Floats = NDArray[np.float64]
Row = tuple[int, float, float, float, float, float, int]
"""Open time, open, high, low, close, volume, last millisecond."""


Trade = tuple[int, int, Decimal, Decimal]
"""Number, time, price, quantity."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Candles column by column, oldest first; times are opening times in milliseconds."""

    time: Times
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats


@dataclass(frozen=True, slots=True)
class Partial:
    """The candle that is open at a moment, as far as it has come."""

    index: int
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True, slots=True)
class Day:
    """The last 24 hours of a market."""

    open_time: int
    open: float
    high: float
    low: float
    last: float
    volume: float
    quote_volume: float
    trades: int


class Series:
    """One market's candles. A candle walks open, low, high, close (falling: open, high, low, close), a third each."""

    def __init__(self, columns: Columns, base: str, digits: int) -> None:
        self.columns = columns
        self.base = base
        self.base_length = TIMEFRAMES[base]
        self.digits = digits
        self._merged: dict[str, tuple[Times, Columns]] = {}

    def ensure(self, now: int) -> None:
        """Have candles up to `now`. A file has what it has."""

    @property
    def start(self) -> int:
        return int(self.columns.time[0])

    @property
    def end(self) -> int | None:
        """The moment at which the last candle closes; None for a market that goes on for ever."""
        return int(closes(self.columns.time[-1:], self.base)[0])

    def timeframes(self) -> list[str]:
        return [name for name in TIMEFRAMES if derivable(name, self.base)]

    def index(self, now: int) -> int:
        """Which candle is the last to have opened by `now` (the first one before all history)."""
        self.ensure(now)
        return max(int(np.searchsorted(self.columns.time, now, "right")) - 1, 0)

    def partial(self, now: int) -> Partial:
        """The last opened candle as it stands at `now`; complete once its time is over."""
        i, c = self.index(now), self.columns
        first, last = float(c.open[i]), float(c.close[i])
        path = (first, float(c.low[i]), float(c.high[i]), last)
        if last < first:
            path = (first, float(c.high[i]), float(c.low[i]), last)
        done = min(max((now - int(c.time[i])) / self.base_length, 0.0), 1.0)
        whole = min(int(done * 3), 2)
        price = round(path[whole] + (path[whole + 1] - path[whole]) * (done * 3 - whole), self.digits)
        if done >= 1.0:
            return Partial(i, first, float(c.high[i]), float(c.low[i]), last, float(c.volume[i]))
        seen = (*path[: whole + 1], price)
        return Partial(i, first, max(seen), min(seen), price, round(float(c.volume[i]) * done, 8))

    def price(self, now: int) -> float:
        return self.partial(now).close

    def extremes(self, after: int, until: int) -> tuple[float, float]:
        """The lowest and the highest price in (after, until]."""
        begin, here = self.partial(after), self.partial(until)
        prices = [begin.close, here.close]
        if here.index > begin.index:
            inner = slice(begin.index + 1, here.index)
            prices += [here.low, here.high, *self.columns.low[inner].tolist(), *self.columns.high[inner].tolist()]
            low, high = float(self.columns.low[begin.index]), float(self.columns.high[begin.index])
            prices += [float(self.columns.close[begin.index])]
            prices += [low] if low < begin.low else []
            prices += [high] if high > begin.high else []
        else:
            prices += [here.low] if here.low < begin.low else []
            prices += [here.high] if here.high > begin.high else []
        return min(prices), max(prices)

    def klines(self, timeframe: str, now: int, start: int | None, end: int | None, limit: int) -> list[Row]:
        """Candles that opened by `now` within [start, end], oldest first; the last one may still be open.

        With `start` the first `limit` of them, otherwise the last `limit`.
        """
        here = self.partial(now)
        if now < self.start:
            return []
        firsts, merged = self._merge(timeframe)
        last = int(np.searchsorted(firsts, here.index, "right"))
        low = 0 if start is None else int(np.searchsorted(merged.time[:last], start, "left"))
        high = last if end is None else int(np.searchsorted(merged.time[:last], end, "right"))
        low, high = (low, min(high, low + limit)) if start is not None else (max(low, high - limit), high)
        rows = _rows(merged, low, high, timeframe)
        if rows and high == last:
            rows[-1] = self._open_row(rows[-1], int(firsts[last - 1]), here)
        return rows

    def day(self, now: int) -> Day:
        """What Binance's 24-hour ticker says."""
        here, c = self.partial(now), self.columns
        first = min(int(np.searchsorted(c.time, now - DAY, "left")), here.index)
        span = slice(first, here.index)
        return Day(
            open_time=int(c.time[first]),
            open=float(c.open[first]),
            high=max(here.high, float(c.high[span].max(initial=here.high))),
            low=min(here.low, float(c.low[span].min(initial=here.low))),
            last=here.close,
            volume=float(c.volume[span].sum()) + here.volume,
            quote_volume=float((c.volume[span] * c.close[span]).sum()) + here.volume * here.close,
            trades=4 * (here.index - first + 1),
        )

    def public_trades(
        self, now: int, start: int | None, limit: int, *, end: int | None = None, number: int | None = None
    ) -> list[Trade]:
        """Four trades a candle, at the corners of its path, that together are its volume.

        The first `limit` since `start`, or from the trade `number` on, up to `end`; else the last ones.
        """
        here, until = self.index(now), now if end is None else min(now, end)
        forward = start is not None or number is not None
        found: list[Trade] = []
        for i in range(self._first_corner(here, start, limit, number), here + 1):
            found += [x for x in self._corners(i) if x[1] <= until and x[1] >= (start or 0) and x[0] >= (number or 0)]
            if forward and (len(found) >= limit or self.columns.time[i] > until):
                break
        return found[:limit] if forward else found[-limit:]

    def _first_corner(self, here: int, start: int | None, limit: int, number: int | None) -> int:
        if number is not None:
            return max(number // 4, 0)
        if start is None:
            return max(here - limit // 4 - 1, 0)
        return max(int(np.searchsorted(self.columns.time, start, "right")) - 1, 0)

    def _corners(self, i: int) -> list[Trade]:
        c, volume = self.columns, Decimal(f"{self.columns.volume[i]:.8f}")
        quarter = max((volume / 4).quantize(UNIT, ROUND_DOWN), UNIT)
        quantities = (quarter, quarter, quarter, max(volume - 3 * quarter, UNIT))
        middle = (c.low[i], c.high[i]) if c.close[i] >= c.open[i] else (c.high[i], c.low[i])
        path = (c.open[i], *middle, c.close[i])
        opened, third = int(c.time[i]), self.base_length // 3
        last = opened + self.base_length - 1
        return [
            (4 * i + k, min(opened + k * third, last), Decimal(f"{price:.8f}"), quantity)
            for k, (price, quantity) in enumerate(zip(path, quantities, strict=True))
        ]

    def _merge(self, timeframe: str) -> tuple[Times, Columns]:
        """All candles of a longer interval, with the index of the first base candle of each. Kept once computed."""
        if timeframe not in self._merged:
            c = self.columns
            times = opens(c.time, timeframe)
            firsts = np.flatnonzero(np.diff(times, prepend=times[0] - 1))
            lasts = np.append(firsts[1:], len(times)) - 1
            self._merged[timeframe] = (
                firsts,
                Columns(
                    times[firsts],
                    c.open[firsts],
                    np.maximum.reduceat(c.high, firsts),
                    np.minimum.reduceat(c.low, firsts),
                    c.close[lasts],
                    np.add.reduceat(c.volume, firsts),
                ),
            )
        return self._merged[timeframe]

    def _open_row(self, row: Row, first: int, here: Partial) -> Row:
        """The last candle, from the base candles that have opened so far and the part of the newest one."""
        c, span = self.columns, slice(first, here.index)
        high = float(c.high[span].max(initial=here.high))
        low = float(c.low[span].min(initial=here.low))
        opened = float(c.open[first])
        return (row[0], opened, high, low, here.close, float(c.volume[span].sum()) + here.volume, row[6])


def _rows(c: Columns, low: int, high: int, timeframe: str) -> list[Row]:
    span = slice(low, high)
    columns = (c.time, c.open, c.high, c.low, c.close, c.volume)
    last = closes(c.time[span], timeframe) - 1
    return list(zip(*(column[span].tolist() for column in columns), last.tolist(), strict=True))
