"""Where market history comes from: a candle file, or a seeded random walk that goes on for ever."""

import gzip
import hashlib
from decimal import Decimal
from pathlib import Path

import numpy as np

from trader.errors import InputError
from trader.simulator.replay import Columns, Series
from trader.simulator.timeframe import DAY, MINUTE, base_of

HEADER = "time_open_ms,open,high,low,close,volume"
FIELDS = HEADER.split(",")
_DAY_MINUTES = DAY // MINUTE


def read_candles(path: Path, digits: int = 8) -> Series:
    """Read a CSV (or .csv.gz) of candles. InputError names the line and the field of the first thing wrong."""
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt") as file:
            header = file.readline().strip()
            if header != HEADER:
                raise InputError(f"{path}, line 1: the header is {header[:80]!r}; it must be {HEADER!r}")
            lines = file.readlines()
            if not lines:
                raise InputError(f"{path}: holds no candles")
            try:
                table = np.loadtxt(lines, delimiter=",", dtype=np.float64, ndmin=2)
            except ValueError as error:
                raise InputError(f"{path}: {error} (rows are counted after the header)") from None
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    _validate(path, table)
    columns = Columns(table[:, 0].astype(np.int64), *(np.ascontiguousarray(table[:, i]) for i in range(1, 6)))
    try:
        return Series(columns, base_of(columns.time), digits)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _validate(path: Path, table: np.ndarray) -> None:
    if table.shape[1] != len(FIELDS):
        raise InputError(f"{path}, line 2: has {table.shape[1]} fields; it must have {len(FIELDS)}: {HEADER}")
    time, first, high, low, last, volume = (table[:, i] for i in range(6))
    for i, field in enumerate(FIELDS):
        _refuse(path, field, table[:, i], ~np.isfinite(table[:, i]), "a finite number")
    _refuse(path, "time_open_ms", time, np.diff(time, prepend=time[0] - 1) <= 0, "later than the line before")
    _refuse(path, "low", low, low <= 0, "above zero")
    _refuse(path, "high", high, high < np.maximum(first, last), "at least open and close")
    _refuse(path, "low", low, low > np.minimum(first, last), "at most open and close")
    _refuse(path, "volume", volume, volume < 0, "zero or more")


def _refuse(path: Path, field: str, column: np.ndarray, wrong: np.ndarray, allowed: str) -> None:
    if wrong.any():
        i = int(np.argmax(wrong))
        raise InputError(f"{path}, line {i + 2}: {field} is {column[i]:.10g}; it must be {allowed}")


class SyntheticSeries(Series):
    """A random walk in one-minute candles from `start` on, made day by day, the same for the same seed."""

    def __init__(self, symbol: str, seed: int, start: int, price: Decimal, digits: int) -> None:
        self._seed = int.from_bytes(hashlib.sha256(f"{seed}:{symbol}".encode()).digest()[:8], "big")
        self._days = 1
        super().__init__(self._day(0, start // MINUTE * MINUTE, float(price), digits), "1m", digits)

    @property
    def end(self) -> int | None:
        return None

    def ensure(self, now: int) -> None:
        parts = [self.columns]
        while int(parts[-1].time[-1]) <= now:
            previous = parts[-1]
            parts.append(self._day(self._days, int(previous.time[-1]) + MINUTE, float(previous.close[-1]), self.digits))
            self._days += 1
        if len(parts) > 1:
            names = ("time", "open", "high", "low", "close", "volume")
            self.columns = Columns(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
            self._merged.clear()

    def _day(self, number: int, start: int, price: float, digits: int) -> Columns:
        random = np.random.default_rng((self._seed, number))
        smallest = 10.0**-digits
        steps = random.normal(0, 0.0007, _DAY_MINUTES) + 0.0015 * np.sin(np.arange(_DAY_MINUTES) / 37) / 37
        close = np.maximum(np.round(price * np.exp(np.cumsum(steps)), digits), smallest)
        first = np.concatenate(([price], close[:-1]))
        wick = np.abs(random.normal(0, 0.0004, (2, _DAY_MINUTES)))
        high = np.round(np.maximum(first, close) * (1 + wick[0]), digits)
        low = np.round(np.minimum(first, close) * (1 - wick[1]), digits)
        return Columns(
            start + MINUTE * np.arange(_DAY_MINUTES, dtype=np.int64),
            first,
            np.maximum(high, np.maximum(first, close)),
            np.maximum(np.minimum(low, np.minimum(first, close)), smallest),
            close,
            np.round(random.lognormal(0.5, 1.0, _DAY_MINUTES), 5),
        )
