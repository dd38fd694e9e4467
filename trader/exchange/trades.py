"""All public trades of a window, in the ways that venues list them: complete, or not at all."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from trader.errors import Refused, Unknown
from trader.exchange.tap import rows_at

TradeList = Literal["numbers", "nanoseconds", "recent", "unknown"]
"""How a venue lists trades: numbered without a hole, from a moment; from a moment in nanoseconds; the last ones only;
nobody has tried."""
Rows = list[dict[str, Any]]
Ask = Callable[..., Awaitable[tuple[Rows, Any]]]
"""Asks for one page (`limit`, `params`); gives ccxt's rows and the venue's raw answer. No `since`: ccxt would leave out
rows without a time."""
Read = tuple[Rows, int]
"""Rows, and the moment in ms up to which they are complete: at least the end of the window."""

PAGE = 1000
RECENT = 60
MOST_PAGES = 60
"""A window with more trades than these pages hold is not read: a candle is not worth it."""
_HOUR = 3_600_000


async def by_number(ask: Ask, since: int, until: int) -> Read:
    """Binance: an hour at a time; where it is crowded, on by number. Numbers have no hole, which proves a long
    silence with two questions."""
    if until - since > _HOUR and await _silent(ask, since, until):
        return [], until
    rows: Rows = []
    start = since
    for _page in range(MOST_PAGES):
        page, _ = await ask(PAGE, {"startTime": start, "endTime": start + _HOUR - 1})
        if len(page) >= PAGE:
            await _require_first(ask, page[0], start)
            return await _on_by_number(ask, rows + page, until)
        rows += page
        start += _HOUR
        if start >= until:
            return rows, start
    raise _too_many()


async def _silent(ask: Ask, since: int, until: int) -> bool:
    """Whether the trade before the first one after the window is older than the window."""
    after, _ = await ask(PAGE, {"startTime": until, "endTime": until + _HOUR - 1})
    if not after:
        return False
    before = await _numbered(ask, _number(after[0]) - 1)
    return before is not None and _time(before) < since


async def _require_first(ask: Ask, first: Mapping[str, Any], start: int) -> None:
    """Refuse a page that holds the last trades of its window in place of the first."""
    before = await _numbered(ask, _number(first) - 1)
    if before is not None and _time(before) >= start:
        raise Refused("trades: the venue lists the last ones of a window, not all of it")


async def _numbered(ask: Ask, number: int) -> Mapping[str, Any] | None:
    if number < 0:
        return None
    rows, _ = await ask(1, {"fromId": number})
    return rows[0] if rows and _number(rows[0]) == number else None


async def _on_by_number(ask: Ask, rows: Rows, until: int) -> Read:
    for _page in range(MOST_PAGES):
        if _time(rows[-1]) >= until:
            return rows, _time(rows[-1])  # of its last moment there may be more
        page, _ = await ask(PAGE, {"fromId": _number(rows[-1]) + 1})
        rows = rows + page
        if len(page) < PAGE:
            return rows, until
    raise _too_many()


async def by_nanoseconds(ask: Ask, since: int, until: int) -> Read:
    """Kraken: from a moment, exclusive; each answer names the moment to go on from."""
    rows: Rows = []
    start = str(since * 1_000_000 - 1)
    for _page in range(MOST_PAGES):
        page, answer = await ask(PAGE, {"since": start})
        rows += page
        if len(page) < PAGE:
            return rows, until
        if _time(rows[-1]) >= until:
            return rows, _time(rows[-1])
        start = rows_at(answer, ("result", "last"), str)
    raise _too_many()


async def by_recent(ask: Ask, since: int, until: int) -> Read:
    """Bybit: the last ones only."""
    rows, _ = await ask(RECENT, {})
    if not rows or _time(rows[0]) >= since:
        raise Refused(f"trades: the venue lists only the last {RECENT} of them, which begin later than that")
    return rows, until


async def by_nothing(_ask: Ask, _since: int, _until: int) -> Read:
    """A venue of which nobody knows whether its list is complete."""
    raise Refused("trades: whether this venue lists all of a window is not known")


LISTS: Mapping[TradeList, Callable[[Ask, int, int], Awaitable[Read]]] = {
    "numbers": by_number,
    "nanoseconds": by_nanoseconds,
    "recent": by_recent,
    "unknown": by_nothing,
}


def _time(row: Mapping[str, Any]) -> int:
    moment = row.get("timestamp")
    if not isinstance(moment, int):
        raise Unknown(f"trade {row.get('id')!r}: its time {moment!r} is not in milliseconds")
    return moment


def _number(row: Mapping[str, Any]) -> int:
    try:
        return int(row["id"])
    except (KeyError, TypeError, ValueError):
        raise Unknown(f"trade id {row.get('id')!r} is not a number") from None


def _too_many() -> Refused:
    return Refused(f"trades: they do not end after {MOST_PAGES} pages")
