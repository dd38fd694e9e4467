"""Formats of candle files: which columns they have, and what is in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trader.errors import InputError

Format = Literal["auto", "tallydesk", "freqtrade", "ccxt", "backtesting", "binance"]
Stamp = Literal["open", "close"]
Unit = Literal["s", "ms", "us"]

VALUES = ("open", "high", "low", "close", "volume")
FIELDS = ("time_open_ms", *VALUES)
HEADER = ",".join(FIELDS)

DESCRIPTIONS: dict[Format, str] = {
    "tallydesk": f"columns {HEADER}",
    "freqtrade": "columns date,open,high,low,close,volume; or its JSON lists",
    "ccxt": "rows of [milliseconds, open, high, low, close, volume]: a JSON list, or CSV without a header",
    "backtesting": "columns Open,High,Low,Close,Volume and a date, as backtesting.py wants its frames",
    "binance": "klines as Binance Vision has them: 12 columns, with or without a header",
}
"""What each format is, for people."""

BINANCE_COLUMNS = (
    "open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count",
    "taker_buy_volume", "taker_buy_quote_volume", "ignore",
)  # fmt: skip

# An index without a name is written as one of the last four; it is only the time if nothing else is.
OPENS = ("time_open_ms", "time_open", "open_time", "date", "datetime", "timestamp", "time")
CLOSES = ("time_close_ms", "time_close", "close_time")
UNNAMED = ("", "unnamed: 0", "__index_level_0__", "index")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a file keeps what. `positions` are those of the time and of VALUES; `names` is what the file calls them."""

    format: Format | None
    """None: none of the named ones, but its columns have names that say what they are."""
    columns: int
    names: tuple[str, ...]
    positions: tuple[int, ...]
    stamp: Stamp = "open"
    """What the name of the time column says."""
    unit: Unit | None = None
    """None: the numbers themselves say it."""
    header: bool = True
    close_position: int | None = None
    """Where the file says when each candle closes, which it then must."""

    @property
    def time(self) -> str:
        """The file's name of its time column, for messages."""
        return self.names[0] or "the first column"


def by_names(given: Sequence[str], place: str) -> Layout:
    """The layout that column names tell. InputError, at `place`, if they do not tell one."""
    names = [name.strip().strip('"').strip() for name in given]
    lower = [name.lower() for name in names]
    positions = [_time(lower, names, place), *(_only(lower, name, names, place) for name in VALUES)]
    time = lower[positions[0]]
    chosen = tuple(names[position] for position in positions)
    if len(names) == len(BINANCE_COLUMNS) and time == "open_time" and "close_time" in lower:
        return Layout("binance", len(names), chosen, tuple(positions), close_position=lower.index("close_time"))
    unit: Unit | None = "ms" if time.endswith("_ms") else None
    return Layout(_format(chosen), len(names), chosen, tuple(positions), "close" if time in CLOSES else "open", unit)


def by_count(columns: int, place: str) -> Layout:
    """The layout of rows of numbers without a header. InputError if there is none with that many columns."""
    if columns == len(BINANCE_COLUMNS):
        return Layout("binance", columns, BINANCE_COLUMNS[:6], tuple(range(6)), header=False, close_position=6)
    if columns == len(FIELDS):
        return Layout("ccxt", columns, ("time", *VALUES), tuple(range(6)), header=False)
    raise InputError(
        f"{place}: has no header and {columns} columns; without one there must be 6 (time, open, high, low, close, "
        f"volume) or the 12 of Binance; else begin the file with {HEADER}"
    )


def must_be(layout: Layout, wanted: Format, place: str) -> None:
    """Raise InputError if the layout found is not the one that was asked for."""
    same = {"freqtrade", "ccxt"}  # their JSON files are alike
    if wanted == "auto" or layout.format == wanted or (not layout.header and {layout.format, wanted} == same):
        return
    found = f"format {layout.format}" if layout.format else f"columns {','.join(layout.names)}"
    raise InputError(f"{place}: --format is {wanted} ({DESCRIPTIONS[wanted]}), but this is {found}")


def _time(lower: list[str], names: list[str], place: str) -> int:
    for kind in (OPENS, CLOSES):
        found = [position for position, name in enumerate(lower) if name in kind]
        if len(found) > 1:
            both = " and ".join(repr(names[position]) for position in found)
            raise InputError(f"{place}: {both} could both be the time; leave one of them")
        if found:
            return found[0]
    for position in (0, -1):  # as text an index comes first, in Parquet last
        if lower[position] in UNNAMED:
            return position % len(lower)
    raise InputError(_unknown(names, place, "a time (date, timestamp, open_time, time_open_ms, time_close)"))


def _only(lower: list[str], name: str, names: list[str], place: str) -> int:
    count = lower.count(name)
    if count == 0:
        raise InputError(_unknown(names, place, name))
    if count > 1:
        raise InputError(f"{place}: the column {name} is there {count} times")
    return lower.index(name)


def _unknown(names: list[str], place: str, missing: str) -> str:
    header = ",".join(names)[:80]
    return f"{place}: the header is {header!r}, without {missing}; it must be {HEADER!r}, or that of another format"


def _format(chosen: tuple[str, ...]) -> Format | None:
    if chosen == FIELDS:
        return "tallydesk"
    if chosen == ("date", *VALUES):
        return "freqtrade"
    if chosen[1:] == tuple(name.capitalize() for name in VALUES):
        return "backtesting"
    return None
