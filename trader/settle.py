"""Settling: write what became of orders, many at a time, in one transaction.

Fills are facts and are always booked, whoever reports them and in whatever state the order is. The status moves only
forward, only under the fence that the outcome was obtained with, and only to a final status when every fill that the
venue counts is booked: until then the funds stay held.
"""

import logging
from collections.abc import Sequence
from typing import Any

from psycopg import AsyncCursor

from trader import balance, order
from trader.db import Connection, fetch_one, numbers, texts
from trader.exchange.protocol import FillReport, OrderReport
from trader.order import Outcome

log = logging.getLogger("settle")


async def settle(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    """Write outcomes. Must run inside a transaction; may be run again after a lost race.

    Lock order, as everywhere: lanes, orders, balances.
    """
    before, booked, after = await _book(connection, outcomes)
    valid = [outcome for outcome in outcomes if not _is_fenced(outcome, before[outcome.order_id])]
    await _move_on(connection, valid, before, after)
    await _leave_in_doubt(connection, [outcome for outcome in valid if outcome.verdict in ("in doubt", "never sent")])
    await _halt(connection, [outcome for outcome in valid if outcome.halts], before)
    await _note_late_acceptances(connection, outcomes, before)
    await _raise_incidents(connection, booked, before, after)
    missed = {outcome.order_id for outcome in outcomes if outcome.source == "reconciliation"} & set(booked)
    for order_id in sorted(missed):
        message = f"{booked.count(order_id)} booked that no answer, look-up, poll or stream had brought"
        await _raise_incident(connection, "notice", "missing fill booked", message, before[order_id])


async def _book(
    connection: Connection, outcomes: Sequence[Outcome]
) -> tuple[dict[int, Any], list[int], dict[int, Any]]:
    """Lock what is settled and book its fills, in one round trip: orders before, the order of each new fill, after."""
    ids = numbers(sorted({outcome.order_id for outcome in outcomes}))
    async with connection.pipeline():
        await _release_lanes(connection, outcomes)
        locked = await connection.execute(order.LOCK, {"ids": ids})
        await balance.lock_of_orders(connection, ids)
        booking = await _book_fills(connection, outcomes)
        filled = await connection.execute(order.FILLED, {"ids": ids})
    before = {row.id: row for row in await locked.fetchall()}
    booked = [row.order_id for cursor in booking for row in await cursor.fetchall()]
    return before, booked, {row.id: row for row in await filled.fetchall()}


async def dispute(connection: Connection, outcome: Outcome) -> None:
    """Write down that the venue's answer cannot be true beside what is known, and stop the account.

    It happens when a venue was reset, or restored, and gives out order numbers a second time.
    """
    number = outcome.report.venue_order_id if outcome.report else "?"
    reason = f"the venue calls it {number}, which is another order of ours: was the venue reset?"
    await connection.execute(order.LEAVE_DISPUTED, {"id": outcome.order_id, "fence": outcome.fence, "reason": reason})
    kind = "contradiction"
    row = await fetch_one(connection, order.ACCOUNT_OF, {"id": outcome.order_id, "kind": kind})
    await connection.execute(order.HALT, {"account": row.account_id, "reason": f"order {outcome.order_id}: {reason}"})
    if not row.known:
        await _raise_incident(connection, "critical", kind, reason, row)


async def note_unreadable(connection: Connection, order_id: int, why: str) -> None:
    """Ask a person, once until it is resolved: what the venue says of this order cannot be booked."""
    kind = "unreadable execution"
    row = await fetch_one(connection, order.ACCOUNT_OF, {"id": order_id, "kind": kind})
    if not row.known:
        message = f"what the venue says of it cannot be booked, it stays as it is: {why}"
        await _raise_incident(connection, "critical", kind, message, row)


def _is_fenced(outcome: Outcome, row: Any) -> bool:
    fenced = outcome.fence is not None and outcome.fence != row.fence
    if fenced:
        log.warning("order %s: taken over by another trader; its status is theirs to write", row.id)
    return fenced


async def _release_lanes(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    lanes = [outcome.frees_lane for outcome in outcomes if outcome.frees_lane is not None]
    if lanes:
        await connection.execute(
            order.RELEASE_LANES, {"strategies": [lane[0] for lane in lanes], "fences": [lane[1] for lane in lanes]}
        )


async def _book_fills(connection: Connection, outcomes: Sequence[Outcome]) -> list[AsyncCursor[Any]]:
    """Insert the fills that are not known yet; cursors with the order id of each new one."""
    cursors = []
    for source in ("answer", "look-up", "poll", "stream", "reconciliation"):
        fills = [
            (outcome.order_id, fill)
            for outcome in outcomes
            if outcome.source == source
            for fill in (*(outcome.report.fills if outcome.report else ()), *outcome.fills)
        ]
        if fills:
            cursors.append(await _insert_fills(connection, fills, source))
    return cursors


async def _insert_fills(
    connection: Connection, fills: Sequence[tuple[int, FillReport]], source: str
) -> AsyncCursor[Any]:
    codes = sorted({fill.fee_asset for _, fill in fills if fill.fee_asset is not None})
    await connection.execute(order.ADD_ASSETS, {"codes": codes})
    return await connection.execute(
        order.BOOK_FILLS,
        {
            "source": source,
            "orders": numbers(order_id for order_id, _ in fills),
            "traded_at": texts(fill.traded_at for _, fill in fills),
            "quantities": numbers(fill.quantity for _, fill in fills),
            "prices": numbers(fill.price for _, fill in fills),
            "fees": numbers(fill.fee for _, fill in fills),
            "fee_assets": texts(fill.fee_asset for _, fill in fills),
            "liquidities": texts(fill.liquidity for _, fill in fills),
            "trades": texts(fill.trade_id for _, fill in fills),
        },
    )


async def _move_on(
    connection: Connection, outcomes: Sequence[Outcome], before: dict[int, Any], after: dict[int, Any]
) -> None:
    moves: list[tuple[int, str, str | None, str | None]] = []
    for outcome in outcomes:
        if outcome.verdict == "accepted" and outcome.report is not None:
            status = next_status(
                before[outcome.order_id].status, outcome.report, after[outcome.order_id].filled_quantity
            )
            reason = outcome.reason or _why(status, before[outcome.order_id].status)
            moves.append((outcome.order_id, status, outcome.report.venue_order_id, reason))
        elif before[outcome.order_id].status != "submitted":
            log.info("order %s: %s no more, the stream knows better", outcome.order_id, outcome.verdict)
        elif outcome.verdict == "refused":
            moves.append((outcome.order_id, "rejected", None, outcome.reason))
        elif outcome.verdict in ("denied", "canceled"):
            moves.append((outcome.order_id, outcome.verdict, None, outcome.reason))
    if moves:
        ids, statuses, venue_order_ids, reasons = zip(*moves, strict=True)
        await connection.execute(
            order.MOVE_ON,
            {
                "ids": numbers(ids),
                "statuses": texts(statuses),
                "venue_order_ids": texts(venue_order_ids),
                "reasons": texts(reasons),
            },
        )


def next_status(now: str, report: OrderReport, filled: Any) -> str:
    """The status that a venue's report leads to, given what is booked as filled after its fills were written."""
    missing_fills = report.filled_quantity is not None and filled < report.filled_quantity
    if report.status in ("filled", "canceled", "expired", "rejected") and not missing_fills:
        return report.status
    if now == "pending_cancel":
        return now  # still open at the venue: the cancel is under way
    return "partially_filled" if filled > 0 else "accepted"


def _why(status: str, before: str) -> str | None:
    if status == "canceled":
        return "canceled as requested" if before == "pending_cancel" else "canceled at the venue"
    if status == "filled" and before == "pending_cancel":
        return "the fill came before the cancel"
    return "expired at the venue" if status == "expired" else None


async def _leave_in_doubt(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    if outcomes:
        await connection.execute(
            order.LEAVE_IN_DOUBT,
            {
                "ids": [outcome.order_id for outcome in outcomes],
                "reasons": [outcome.reason for outcome in outcomes],
                "pauses": [outcome.pause for outcome in outcomes],
                "never_sent": [outcome.verdict == "never sent" for outcome in outcomes],
                "proof": order.ABSENCES_NEEDED,
            },
        )
    if known := [outcome for outcome in outcomes if outcome.exists]:
        named = {"ids": [one.order_id for one in known], "reasons": [one.reason for one in known]}
        await connection.execute(order.NOTE_EXISTENCE, named)


async def _halt(connection: Connection, outcomes: Sequence[Outcome], before: dict[int, Any]) -> None:
    for outcome in outcomes:
        account = before[outcome.order_id].account_id
        await connection.execute(order.HALT, {"account": account, "reason": outcome.reason})
        await _raise_incident(connection, "critical", "account refused", str(outcome.reason), before[outcome.order_id])


async def _note_late_acceptances(connection: Connection, outcomes: Sequence[Outcome], before: dict[int, Any]) -> None:
    """An order that we closed as never placed, and that the venue has after all: its name there, and an incident."""
    for outcome in outcomes:
        was, report = before[outcome.order_id], outcome.report
        if report is not None and was.venue_order_id is None and was.status in ("denied", "rejected", "canceled"):
            name = report.venue_order_id
            await connection.execute(order.NAME_AT_VENUE, {"id": was.id, "venue_order_id": name})
            message = f"the venue has accepted it as {name} after it was {was.status}; if it is open, cancel it there"
            await _raise_incident(connection, "critical", "late acceptance", message, was)


async def _raise_incidents(
    connection: Connection, booked: Sequence[int], before: dict[int, Any], after: dict[int, Any]
) -> None:
    for order_id in sorted(set(booked)):
        was, now = before[order_id], after[order_id]
        if was.status in ("filled", "canceled", "expired", "rejected", "denied"):
            await _raise_incident(
                connection, "critical", "late fill", f"a fill came after the order was {was.status}", was
            )
        if now.sent_quantity is not None and now.filled_quantity > now.sent_quantity:
            message = f"{now.filled_quantity} was filled, {now.sent_quantity} was asked"
            await _raise_incident(connection, "critical", "over-fill", message, was)


async def _raise_incident(connection: Connection, severity: str, kind: str, message: str, row: Any) -> None:
    log.error("order %s: %s: %s", row.id, kind, message)
    await connection.execute(
        order.INCIDENT,
        {"severity": severity, "kind": kind, "message": message, "account": row.account_id, "order": row.id},
    )
