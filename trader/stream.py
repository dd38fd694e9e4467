"""The venue's stream: a second source of facts beside the poll, which goes on as if there were none.

What the stream says is settled as what a poll says, in the same transaction, and it writes nothing that a poll would
not. It may lose, repeat and swap events and end when it likes: it can only make us faster. The trader that watches an
account (watch.py) is the one that listens to its stream.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from uuid import UUID

from psycopg.errors import LockNotAvailable

from trader.db import Connection, end_if_cancelled, fetch_all, first_line
from trader.errors import ConfigError, ExchangeError
from trader.exchange.protocol import OrderReport
from trader.order import Outcome
from trader.settle import next_status
from trader.trader import OUTCOMES_PER_SETTLE, UNREADABLE, Desk, settle_in_transaction

log = logging.getLogger("stream")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 60.0
STEADY_SECONDS = 30.0
"""A stream that has lasted so long was no failed attempt: the next one is made at once."""
SILENT_AFTER = 3
"""Facts that the poll alone has brought, one after the other, while the stream said nothing: it is dead."""
ANSWER_SECONDS = 0.25
"""An order that was sent just now has its answer on the way, which says the same and is settled with many others."""
SILENT = "it said nothing while orders moved"
_ENDED = ("filled", "canceled", "expired", "rejected", "denied")

STREAMED = "SELECT id, name FROM account WHERE stream AND id = ANY(%(accounts)s)"

# Ours, by our name for it, or by the venue's where the stream leaves ours out; with those of its trades that we have.
# One that has another number there is another order; one that was never sent is for reconciliation to judge.
OURS = """
SELECT x.place, o.id, o.status::text, o.filled_quantity, o.venue_order_id,
       o.status = 'submitted' AND o.in_doubt_since IS NULL
         AND o.submitted_at > clock_timestamp() - interval '1 s' AS fresh,
       ARRAY(SELECT f.trade_id FROM fill f WHERE f.order_id = o.id AND f.trade_id = ANY(%(trades)s::text[])) AS booked
  FROM unnest(%(places)s::int[], %(names)s::uuid[], %(symbols)s::text[], %(numbers)s::text[])
         x (place, name, symbol, number)
  JOIN account a ON a.id = %(account)s
  JOIN market m ON m.exchange_id = a.exchange_id AND m.symbol = x.symbol
 CROSS JOIN LATERAL (
    SELECT * FROM "order" WHERE client_order_id = x.name AND account_id = a.id AND market_id = m.id
       AND (venue_order_id IS NULL OR venue_order_id = x.number)
    UNION ALL
    SELECT * FROM "order" WHERE x.name IS NULL AND account_id = a.id AND market_id = m.id AND venue_order_id = x.number
  ) o
 WHERE o.status NOT IN ('waiting', 'queued')
"""


class Streams:
    """The streams of the accounts that this process watches."""

    def __init__(self, desk: Desk, group: asyncio.TaskGroup) -> None:
        self._desk = desk
        self._group = group
        self._streams: dict[int, tuple[Stream, asyncio.Task[None]]] = {}

    async def tend(self, connection: Connection, accounts: Collection[int]) -> None:
        """Listen to these accounts, as far as their rows want it, and to no other."""
        rows = await fetch_all(connection, STREAMED, {"accounts": list(accounts)})
        wanted = {row.id: row.name for row in rows}
        for account_id in self._streams.keys() - wanted.keys():
            stream, task = self._streams.pop(account_id)
            task.cancel()
            log.info("account %s: it is polled only from now on, as its row wants it", stream.name)
        for account_id in wanted.keys() - self._streams.keys():
            stream = Stream(self._desk, account_id, wanted[account_id])
            self._streams[account_id] = stream, self._group.create_task(stream.run())

    def missed(self, account_id: int) -> None:
        """The poll has found what the stream should have said."""
        if account_id in self._streams:
            self._streams[account_id][0].miss()

    def stop(self) -> None:
        """Listen to none any more."""
        for _, task in self._streams.values():
            task.cancel()


class Stream:
    """One account's stream, as one trader listens to it."""

    def __init__(self, desk: Desk, account_id: int, name: str) -> None:
        self._desk = desk
        self._account_id = account_id
        self.name = name
        self._lost = False
        self._missed = 0
        self._patience: asyncio.Timeout | None = None

    async def run(self) -> None:
        """Listen, again and again. Ends if there is no stream; raises only if the database fails."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            end_if_cancelled()
            began = time.monotonic()
            try:
                await self._listen()
            except ConfigError as error:
                log.warning("account %s: there is no stream, it is polled: %s", self.name, error)
                return
            except (ExchangeError, TimeoutError) as error:
                if time.monotonic() - began >= STEADY_SECONDS:
                    pause = FIRST_PAUSE_SECONDS
                if pause == FIRST_PAUSE_SECONDS:  # once for an outage, however many attempts that takes
                    log.warning("account %s: its stream is down, polling goes on: %s", self.name, str(error) or SILENT)
                    self._lost = True
            else:
                log.info("account %s: there is no stream, it is polled", self.name)
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _listen(self) -> None:
        """Settle what the stream brings. Returns if there is none; raises what ended it, TimeoutError if silence."""
        events = await self._desk.exchanges[self._account_id].executions()
        if events is None:
            return
        try:
            async with asyncio.timeout(None) as self._patience, aclosing(events):
                self._missed = 0
                async for reports in events:
                    self._missed = 0
                    if self._lost:
                        log.info("account %s: its stream is back", self.name)
                        self._lost = False
                    await settle_reports(self._desk, self._account_id, reports)
        finally:
            self._patience = None

    def miss(self) -> None:
        """The poll has found what this stream has not said. Told too often, it listens anew."""
        self._missed += 1
        if self._missed >= SILENT_AFTER and self._patience is not None:
            self._patience.reschedule(asyncio.get_running_loop().time())
            self._patience = None


async def settle_reports(desk: Desk, account_id: int, reports: Iterable[OrderReport]) -> None:
    """Settle what is new in these reports and about our orders. The rest is left to reconciliation."""
    try:
        await _settle_told(desk, account_id, merged(reports))
    except UNREADABLE as error:  # what the venue said can be in no row: not even be looked for
        _warn(error)


async def _settle_told(desk: Desk, account_id: int, told: Sequence[OrderReport]) -> None:
    rows = await _ours(desk, account_id, told)
    await _settle(desk, told, [row for row in rows if not row.fresh])
    if any(row.fresh for row in rows):
        await asyncio.sleep(ANSWER_SECONDS)
        told = [told[row.place] for row in rows if row.fresh]
        await _settle(desk, told, await _ours(desk, account_id, told))


async def _ours(desk: Desk, account_id: int, told: Sequence[OrderReport]) -> list[Any]:
    """The orders that are told of, each once."""
    async with desk.pool.connection() as connection:
        rows = await fetch_all(connection, OURS, _parameters(account_id, told))
    return list({row.id: row for row in rows}.values())


async def _settle(desk: Desk, told: Sequence[OrderReport], rows: Sequence[Any]) -> None:
    outcomes = [
        Outcome(row.id, None, "accepted", source="stream", report=told[row.place])
        for row in rows
        if has_news(row, told[row.place])
    ]
    for first in range(0, len(outcomes), OUTCOMES_PER_SETTLE):
        try:
            await settle_in_transaction(desk.pool, outcomes[first : first + OUTCOMES_PER_SETTLE])
        except UNREADABLE as error:  # what the venue said is not what it should be
            _warn(error)
        except LockNotAvailable:
            log.warning("somebody's open transaction holds an order that the stream told of, the poll reads it again")


def _warn(error: BaseException) -> None:
    log.warning("what the stream said cannot be settled, the poll reads it again: %s", first_line(error))


def merged(reports: Iterable[OrderReport]) -> list[OrderReport]:
    """One report for each order: the furthest that it came, with every execution once.

    A rejection is left out: it may be of an earlier attempt, and the answer or a look-up says for sure. An end that
    does not say how much was filled is none: an execution may be missing, and its hold would be free to buy it again.
    """
    by_order: dict[tuple[str, str], list[OrderReport]] = {}
    for report in reports:
        if report.status != "rejected":
            unsure = report.status in _ENDED and report.filled_quantity is None
            told = replace(report, status=None) if unsure else report
            by_order.setdefault((told.symbol, told.venue_order_id), []).append(told)
    return [_furthest(same) for same in by_order.values()]


def _furthest(reports: Sequence[OrderReport]) -> OrderReport:
    last = max(reports, key=lambda one: (one.status in _ENDED, one.status is not None, one.filled_quantity or 0))
    fills = {fill.trade_id: fill for report in reports for fill in report.fills}
    names = [report.client_order_id for report in reports if report.client_order_id is not None]
    return replace(last, client_order_id=names[0] if names else None, fills=tuple(fills.values()))


def has_news(row: Any, report: OrderReport) -> bool:
    """Whether settling `report` would write anything: most of what a stream says, an answer has said before."""
    if row.venue_order_id is None or any(fill.trade_id not in row.booked for fill in report.fills):
        return True
    return row.status not in _ENDED and next_status(row.status, report, row.filled_quantity) != row.status


def _parameters(account_id: int, told: Sequence[OrderReport]) -> dict[str, Any]:
    return {
        "account": account_id,
        "places": list(range(len(told))),
        "names": [_uuid(report.client_order_id) for report in told],
        "symbols": [report.symbol for report in told],
        "numbers": [report.venue_order_id for report in told],
        "trades": [fill.trade_id for report in told for fill in report.fills],
    }


def _uuid(name: str | None) -> UUID | None:
    """Our names are UUIDs; other people's may be anything."""
    try:
        return UUID(name) if name else None
    except ValueError:
        return None
