"""All pages of the account's executions, in the four ways that venues offer. Each yields ccxt's trade rows."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from trader.clock import to_milliseconds
from trader.errors import InputError, Unknown
from trader.exchange.tap import rows_at
from trader.exchange.venue import Paging, Venue

Rows = list[dict[str, Any]]
Ask = Callable[..., Awaitable[tuple[Rows, Any]]]
"""Asks for one page (`since` in ms, `limit`, `params`); gives the rows and the venue's raw answer."""
Pages = Callable[[Ask, Venue, datetime | None, str | None, int], AsyncIterator[Rows]]

_WEEK = 7 * 24 * 3600 * 1000
_MOST_PAGES = 10_000
"""A venue that never ends its list must not keep us for ever."""


async def by_from_id(
    ask: Ask, venue: Venue, since: datetime | None, order_id: str | None, _now: int
) -> AsyncIterator[Rows]:
    """Binance: ascending from an id. `fromId` excludes a start time, so only the first page uses one."""
    limit = venue.page or 1000
    base: dict[str, Any] = {} if order_id is None else {"orderId": order_id}
    start = None if since is None or order_id is not None else to_milliseconds(since)
    first = base if order_id is not None or since is not None else {"fromId": 0}
    rows, _ = await ask(start, limit, first)
    for _page in range(_MOST_PAGES):
        yield rows
        if len(rows) < limit:
            return
        last = max(_number(row) for row in rows)
        rows, _ = await ask(None, limit, base | {"fromId": last + 1})
    raise _endless()


async def by_offset(
    ask: Ask, _venue: Venue, since: datetime | None, _order_id: str | None, _now: int
) -> AsyncIterator[Rows]:
    """Kraken: newest first, by offset. A trade made meanwhile shifts the list: rows repeat, none is missed."""
    # Its start is exclusive and cut to seconds.
    start = None if since is None else max(to_milliseconds(since) - 1000, 0)
    offset = 0
    for _page in range(_MOST_PAGES):
        rows, answer = await ask(start, None, {"ofs": offset} if offset else {})
        yield rows
        received = len(rows_at(answer, ("result", "trades"), dict))
        offset += received
        if received == 0 or offset >= _count(answer):
            return
    raise _endless()


async def by_cursor(
    ask: Ask, venue: Venue, since: datetime | None, order_id: str | None, now: int
) -> AsyncIterator[Rows]:
    """Bybit: a cursor within a window of at most seven days."""
    if order_id is None:
        _require(since)
    start = None if since is None or order_id is not None else to_milliseconds(since)
    base: dict[str, Any] = {} if order_id is None else {"orderId": order_id}
    while start is None or start <= now:
        window = {} if start is None else {"endTime": min(start + _WEEK, now + _WEEK)}
        async for rows in _cursor_pages(ask, venue, start, base | window):
            yield rows
        if start is None:
            return
        start += _WEEK


async def _cursor_pages(ask: Ask, venue: Venue, start: int | None, params: dict[str, Any]) -> AsyncIterator[Rows]:
    cursor: dict[str, Any] = {}
    for _page in range(_MOST_PAGES):
        rows, answer = await ask(start, venue.page, params | cursor)
        yield rows
        following = answer["result"].get("nextPageCursor")
        if not following or not rows_at(answer, ("result", "list"), list):
            return
        cursor = {"cursor": following}
    raise _endless()


async def by_since(
    ask: Ask, _venue: Venue, since: datetime | None, _order_id: str | None, _now: int
) -> AsyncIterator[Rows]:
    """Any venue: from the last time seen, until nothing new comes."""
    start = to_milliseconds(_require(since))
    seen: set[str] = set()
    for _page in range(_MOST_PAGES):
        rows, _ = await ask(start, None, {})
        fresh = [row for row in rows if row.get("id") not in seen]
        if not fresh:
            return
        yield fresh
        seen.update(str(row.get("id")) for row in fresh)
        start = max(int(row.get("timestamp") or 0) for row in rows)
    raise _endless()


PAGES: Mapping[Paging, Pages] = {"from_id": by_from_id, "offset": by_offset, "cursor": by_cursor, "since": by_since}


def _require(since: datetime | None) -> datetime:
    if since is None:
        raise InputError("fills: this venue lists by order or from a moment: give venue_order_id or since")
    return since


def _number(row: Mapping[str, Any]) -> int:
    try:
        return int(row["id"])
    except (KeyError, TypeError, ValueError):
        raise Unknown(f"trade id {row.get('id')!r} is not a number") from None


def _count(answer: Any) -> int:
    count = answer["result"].get("count")
    return count if isinstance(count, int) else 0


def _endless() -> Unknown:
    return Unknown(f"the list of executions did not end after {_MOST_PAGES} pages")
