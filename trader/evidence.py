"""Evidence that an order which its look-up denies may be at the venue all the same: asked for before a resend.

Some venues answer "not found" for an order that they have, for longer than any deadline. Their other lists may know
better: open orders, executions, balances. What no order of ours explains there, and this one could have made, forbids
to send it again: it stays in doubt until the look-up finds it or a person says that it was somebody else's doing.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from trader.db import Pool, fetch_all, fetch_one
from trader.errors import Refused
from trader.exchange.protocol import Exchange, FillReport, OrderReport
from trader.execution import CLOCK_MARGIN, classify
from trader.order import ABSENCES_NEEDED
from trader.sizing import plain

log = logging.getLogger("evidence")

KIND = "unexplained execution"
"""The incident that asks a person. Resolved, it says: what was there until then was not this order's doing."""

# Since its first attempt (an event of which a clock that was set back since may be later than the last one); what a
# person has judged does not count any more.
SUSPECT = """
SELECT o.market_id, m.base_id, m.quote_id, b.code AS base, q.code AS quote,
       greatest(least(e.at, o.submitted_at) - %(margin)s::interval, i.resolved_at) AS since,
       a.opened_at IS NOT NULL AND i.resolved_at IS NULL
         AND NOT EXISTS (SELECT FROM "order" x WHERE x.account_id = o.account_id AND x.id <> o.id
                            AND x.status IN ('submitted', 'accepted', 'partially_filled', 'pending_cancel'))
         AS balances_tell,
       EXISTS (SELECT FROM "order" x WHERE x.account_id = o.account_id AND x.market_id = o.market_id AND x.id <> o.id
                  AND x.status = 'submitted') AS others
  FROM "order" o
  JOIN account a ON a.id = o.account_id
  JOIN market m ON m.id = o.market_id
  JOIN asset b ON b.id = m.base_id
  JOIN asset q ON q.id = m.quote_id
 CROSS JOIN LATERAL (SELECT min(at) AS at FROM order_event WHERE order_id = o.id AND to_status = 'submitted') e
 CROSS JOIN LATERAL (SELECT max(resolved_at) AS resolved_at FROM incident WHERE order_id = o.id AND kind = %(kind)s) i
 WHERE o.id = %(id)s
"""

# What the books have of the market's two assets, with the difference that was there when all was quiet.
BOOKS = """
SELECT a.code, coalesce(k.total, 0) + coalesce(d.drift, 0) AS expected
  FROM asset a
  LEFT JOIN account_drift d ON d.account_id = %(account)s AND d.asset_id = a.id
  LEFT JOIN (SELECT b.asset_id, sum(b.total) AS total FROM balance b JOIN ledger_account l ON l.id = b.ledger_account_id
              WHERE l.account_id = %(account)s GROUP BY 1) k ON k.asset_id = a.id
 WHERE a.id IN (%(base)s, %(quote)s)
"""

INCIDENT = """
INSERT INTO incident (severity, kind, message, account_id, order_id)
SELECT 'critical', %(kind)s, %(message)s, %(account)s, %(order)s
 WHERE NOT EXISTS (SELECT FROM incident WHERE order_id = %(order)s AND kind = %(kind)s AND resolved_at IS NULL)
"""


@dataclass(slots=True)
class Seen:
    """What a venue listed for a market, at one moment."""

    open_orders: dict[str | None, OrderReport]
    """By the name that their owner gave them."""
    trades: list[FillReport]
    """Executions that no order of ours is known to have made."""
    makers: dict[str, OrderReport | None]
    """What the venue says of the order of each of them, by its own number for it. None: it does not say."""

    def same_trades(self, later: "Seen") -> bool:
        return {fill.trade_id for fill in self.trades} == {fill.trade_id for fill in later.trades}

    def moved_by_others(self, base: str, quote: str) -> dict[str, Decimal]:
        """What executions that bear somebody's name did to the two assets; their booking waits for ours in flight."""
        moved = {base: Decimal(0), quote: Decimal(0)}
        for fill in self.trades:
            maker = self.makers.get(fill.venue_order_id)
            if maker is not None and maker.client_order_id is not None:
                sign = 1 if fill.side == "buy" else -1
                moved[base] += sign * fill.quantity
                moved[quote] -= sign * fill.quantity * fill.price
                if fill.fee_asset in moved:
                    moved[fill.fee_asset] -= fill.fee
        return moved


@dataclass(slots=True)
class Traces:
    """Reads what orders may have left at a venue. Who asks at the same time shares a read that begins after that."""

    _next: "dict[tuple[int, int], asyncio.Task[Seen]]" = field(default_factory=dict)
    _since: dict[tuple[int, int], datetime] = field(default_factory=dict)
    _reading: dict[tuple[int, int], asyncio.Lock] = field(default_factory=dict)
    _makers: dict[tuple[int, str], OrderReport] = field(default_factory=dict)
    """Whose an order is never changes: each is asked for once."""

    async def of(self, pool: Pool, exchange: Exchange, row: Any) -> tuple[OrderReport | None, str | None]:
        """The order itself, if a list has it by our name; or what may be its doing, as a sentence; or neither.

        Asked only when one more "not found" would count as proof. Raises ExchangeError. A person is asked by an
        incident, unless another order that is in flight may explain what is found.
        """
        if row.absences + 1 < ABSENCES_NEEDED:
            return None, None
        async with pool.connection() as connection:  # given back while the venue is asked
            suspect = await fetch_one(connection, SUSPECT, {"id": row.id, "kind": KIND, "margin": CLOCK_MARGIN})
        seen = await self._seen(pool, exchange, row, suspect)
        if report := _named(row, seen):
            log.warning("order %s: the look-up does not find it, the venue's lists do", row.id)
            return report, None
        found = _trades(row, suspect, seen)
        if found is None and suspect.balances_tell:
            found = await _balances(pool, exchange, row, suspect, seen)
            if found is not None and not seen.same_trades(await self._seen(pool, exchange, row, suspect)):
                return None, "not found, and somebody trades here: what the balances say is not clear yet"
        if found is None:
            return None, None
        if not suspect.others:
            await _ask(pool, row, found)
        return None, f"not found, but {found}"

    async def _seen(self, pool: Pool, exchange: Exchange, row: Any, suspect: Any) -> Seen:
        key = (row.account_id, suspect.market_id)
        self._since[key] = min(self._since.get(key, suspect.since), suspect.since)
        if key not in self._next:
            self._next[key] = asyncio.create_task(self._read(pool, exchange, key, row.symbol))
        return await self._next[key]

    async def _read(self, pool: Pool, exchange: Exchange, key: tuple[int, int], symbol: str) -> Seen:
        async with self._reading.setdefault(key, asyncio.Lock()):
            del self._next[key]  # who asks from now on gets the next read
            since = self._since.pop(key)
            listed = {report.client_order_id: report for report in await exchange.open_orders(symbol)}
            fills = await exchange.fills(symbol, since=since)
            async with pool.connection() as connection:
                found = await classify(connection, *key, fills)
            trades = [one.fill for one in found if one.order_id is None and one.whose != "booked"]
            numbers = list(dict.fromkeys(fill.venue_order_id for fill in trades))
            makers = await asyncio.gather(*(self._maker(exchange, key[0], symbol, number) for number in numbers))
            return Seen(listed, trades, dict(zip(numbers, makers, strict=True)))

    async def _maker(self, exchange: Exchange, account_id: int, symbol: str, number: str) -> OrderReport | None:
        if (account_id, number) in self._makers:
            return self._makers[account_id, number]
        try:
            report = await exchange.find_number(symbol, number)
        except Refused:  # there are venues that cannot be asked so
            return None
        if report is not None and report.client_order_id is not None:
            self._makers[account_id, number] = report
        return report


def _named(row: Any, seen: Seen) -> OrderReport | None:
    name = str(row.client_order_id)
    if name in seen.open_orders:
        return seen.open_orders[name]
    return next((report for report in seen.makers.values() if report and report.client_order_id == name), None)


def _trades(row: Any, suspect: Any, seen: Seen) -> str | None:
    """The first of the venue's orders that this one could be, as a sentence: nobody's by name, of its side and size."""
    for number, maker in seen.makers.items():
        group = [fill for fill in seen.trades if fill.venue_order_id == number and fill.side == row.side]
        is_somebodys = maker is not None and maker.client_order_id is not None
        if group and group[0].traded_at >= suspect.since and not is_somebodys and could_be(row, group):
            size = sum((fill.quantity for fill in group), Decimal(0))
            return (
                f"the venue's order {number} has traded ({row.side} {plain(size)} {row.symbol} at "
                f"{group[0].traded_at:%Y-%m-%d %H:%M:%S} UTC) and no order here explains it"
            )
    return None


def could_be(row: Any, fills: Iterable[FillReport]) -> bool:
    """True unless executions are too large, or too dear (too cheap for a sale), to be of this order."""
    fills = list(fills)
    if row.sent_price is not None:
        worst = max(fill.price for fill in fills) if row.side == "buy" else min(fill.price for fill in fills)
        if (worst > row.sent_price) if row.side == "buy" else (worst < row.sent_price):
            return False
    if row.sent_quantity is not None:
        return bool(sum(fill.quantity for fill in fills) <= row.sent_quantity)
    return bool(sum(fill.quantity * fill.price for fill in fills) <= row.sent_quote_quantity)


async def _balances(pool: Pool, exchange: Exchange, row: Any, suspect: Any, seen: Seen) -> str | None:
    """For a venue that hides the execution, too: both assets have moved as the order would have moved them.

    Asked only while no other order of the account is at the venue, so that nothing else of ours moves them. What
    others are seen to have traded is theirs.
    """
    before = await _books(pool, row, suspect)
    at_venue = {one.asset: one.total for one in await exchange.balances()}
    after = await _books(pool, row, suspect)
    if before != after:
        return None  # something was booked meanwhile: this reading tells nothing
    others = seen.moved_by_others(suspect.base, suspect.quote)
    moved = {code: at_venue.get(code, Decimal(0)) - expected - others[code] for code, expected in after.items()}
    got, gave = (suspect.base, suspect.quote) if row.side == "buy" else (suspect.quote, suspect.base)
    if not (moved[got] > 0 > moved[gave]) or not _is_small_enough(row, suspect, moved):
        return None
    return (
        f"the account has {plain(moved[got])} {got} more and {plain(-moved[gave])} {gave} less than its books, "
        "and no order here explains it"
    )


async def _books(pool: Pool, row: Any, suspect: Any) -> dict[str, Decimal]:
    parameters = {"account": row.account_id, "base": suspect.base_id, "quote": suspect.quote_id}
    async with pool.connection() as connection:
        return {one.code: one.expected for one in await fetch_all(connection, BOOKS, parameters)}


def _is_small_enough(row: Any, suspect: Any, moved: dict[str, Decimal]) -> bool:
    if row.sent_quantity is not None:
        return bool(abs(moved[suspect.base]) <= row.sent_quantity)
    return bool(abs(moved[suspect.quote]) <= row.sent_quote_quantity)


async def _ask(pool: Pool, row: Any, found: str) -> None:
    message = (
        f"it is not sent again: its look-up does not find it, but {found}. If that was somebody else's doing, set this "
        "incident's resolved_at, and it goes on; else leave it until the look-up finds it"
    )
    parameters = {"kind": KIND, "message": message, "account": row.account_id, "order": row.id}
    async with pool.connection() as connection:
        if (await connection.execute(INCIDENT, parameters)).rowcount:
            log.error("order %s: %s", row.id, message)
