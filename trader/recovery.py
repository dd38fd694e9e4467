"""Recovery: orders in doubt are settled by evidence, and by nothing else.

An order is in doubt when its answer proved nothing, or when the trader that sent it is gone. It is looked up at the
venue by our own name for it. Found: settled. Absent: only after the receive deadline, asked twice, is that proof;
then it is sent again as a new attempt, or denied if it is too old by then. A look-up that fails proves nothing. What
the venue once said that it has ("duplicate id", too) is not absent, whatever it says later.

Every look is a row of `look_up`; an order that stays in doubt for long becomes an incident.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trader import gate, order
from trader.db import Connection, fetch_all, fetch_one
from trader.errors import ExchangeError, Refused
from trader.exchange.protocol import Exchange, OrderReport
from trader.order import ABSENCES_NEEDED, CLOCK_MARGIN, Claimed, Outcome
from trader.trader import UNREADABLE, Desk, call_venue, settle_in_transaction, tell_unreadable

log = logging.getLogger("recovery")

LOOKS_AT_ONCE = 50
"""Orders of one account that are looked up at the same time; a single take may go beyond it by as many."""
TAKEN_FOR_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 30.0
CLOCK_UNREAD_SECONDS = 2.0
"""Until the next look, when the venue did not tell its time."""

# Whoever can take the lock of an instance knows that its process is gone: free its lanes at once.
OWNERS = "SELECT DISTINCT owner FROM lane WHERE owner IS NOT NULL AND lease_until > clock_timestamp()"
FREE_DEAD = """
UPDATE lane SET owner = NULL, lease_until = '-infinity'
 WHERE owner = %(owner)s AND (SELECT pg_try_advisory_xact_lock(hashtextextended(%(owner)s::text, 0)))
"""

# In doubt and due; or submitted under a claim that has ended (its lane is free, or was claimed again since).
# A row written in what is now the future was written before the clock was set back: its next look would wait for that.
# One whose trader died while it looked is due at once.
TAKE = """
WITH due AS (
  SELECT o.id FROM "order" o JOIN lane l ON l.strategy_id = o.strategy_id
   WHERE o.status = 'submitted' AND o.account_id = ANY(%(accounts)s)
     AND CASE WHEN o.in_doubt_since IS NULL THEN l.lease_until < clock_timestamp() OR l.fence <> o.fence
              ELSE o.next_look_at <= clock_timestamp() OR o.updated_at > clock_timestamp() + interval '1 s'
                OR o.looked_up_by <> %(trader)s
                   AND pg_try_advisory_xact_lock(hashtextextended(o.looked_up_by::text, 0)) END
   ORDER BY o.next_look_at NULLS FIRST LIMIT %(limit)s FOR UPDATE OF o SKIP LOCKED)
UPDATE "order" o SET fence = %(fence)s, looked_up_by = %(trader)s,
       in_doubt_since = coalesce(o.in_doubt_since, clock_timestamp()),
       next_look_at = clock_timestamp() + make_interval(secs => %(taken_for)s),
       reason = coalesce(o.reason, 'the trader that sent it is gone')
  FROM due, market m, account a WHERE o.id = due.id AND m.id = o.market_id AND a.id = o.account_id
RETURNING o.id, o.strategy_id, o.account_id, o.client_order_id, o.type::text, o.side::text, o.sent_quantity,
  o.sent_quote_quantity, o.sent_price, coalesce(o.time_in_force, 'GTC')::text AS time_in_force, o.submitted_at,
  o.receive_deadline, o.absences, o.expires_at, o.fence, o.attempt,
  o.in_doubt_since, a.receive_window, m.symbol,
  EXISTS (SELECT FROM look_up k WHERE k.order_id = o.id AND k.answer = 'found') AS known
"""

# What the venue said becomes a row in the statement that plans the next look: neither is there without the other.
LOOK_AGAIN = """
WITH planned AS (
  UPDATE "order" SET next_look_at = clock_timestamp() + make_interval(secs => %(pause)s), reason = %(reason)s,
         absences = %(absences)s
   WHERE id = %(id)s AND fence = %(fence)s AND status = 'submitted'
  RETURNING id, attempt, receive_deadline)
INSERT INTO look_up (order_id, attempt, trader, answer, after_deadline, detail)
SELECT id, attempt, %(trader)s, %(answer)s::look_up_answer,
       coalesce(%(after)s::bool, clock_timestamp() > receive_deadline), %(detail)s FROM planned
"""

FOUND = """
INSERT INTO look_up (order_id, attempt, trader, answer, after_deadline, detail)
SELECT id, attempt, %(trader)s, 'found', clock_timestamp() > receive_deadline, %(detail)s FROM "order"
 WHERE id = %(id)s AND fence = %(fence)s AND status = 'submitted'
"""

# Locked first: an order that is settled meanwhile raises no alert that nobody would take back.
ALERT = """
WITH late AS (
  SELECT o.id, o.account_id, coalesce(o.in_doubt_since, o.receive_deadline) AS since
    FROM "order" o JOIN account a ON a.id = o.account_id
   WHERE o.status = 'submitted' AND coalesce(o.in_doubt_since, o.receive_deadline) < clock_timestamp() - a.doubt_alert
     AND NOT EXISTS (SELECT FROM incident i WHERE i.order_id = o.id AND i.kind = 'in doubt')
     FOR NO KEY UPDATE OF o SKIP LOCKED)
INSERT INTO incident (severity, kind, message, account_id, order_id)
SELECT 'critical', 'in doubt', 'nobody can say since ' || to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')
       || ' UTC whether it reached the venue; ' || order_evidence(id), account_id, id FROM late
ON CONFLICT DO NOTHING RETURNING order_id, message
"""

NOW = """
SELECT clock_timestamp() AS now, a.halted, a.reducing AND o.side = 'buy' AS reducing,
       o.cancel_requested_at IS NOT NULL AS canceled
  FROM "order" o JOIN account a ON a.id = o.account_id WHERE o.id = %(id)s
"""


@dataclass(frozen=True, slots=True)
class Look:
    """What the venue said to one look-up that did not find the order."""

    answer: Literal["absent", "failed"]
    detail: str | None = None
    after: bool | None = None
    """Whether the request could not arrive any more; None: by the receive deadline alone."""


class Recovery:
    """Takes what is due and looks it up, each order in a task of its own.

    Nobody waits for a venue that is slow: not the orders of other venues, and not what another dead trader left.
    """

    def __init__(self, desk: Desk, group: asyncio.TaskGroup, resolved: Callable[[], None]) -> None:
        self._desk = desk
        self._group = group
        self._resolved = resolved
        """Called after each look: the lane of its order may be free now."""
        self._looks: dict[asyncio.Task[None], int] = {}
        """By task, the account whose venue is asked."""

    async def look(self) -> int:
        """Begin to look up every order that is due; how many there were."""
        busy = Counter(self._looks.values())
        free = [account for account in self._desk.exchanges if busy[account] < LOOKS_AT_ONCE]
        taken = await take_due(self._desk, free)
        for row in taken:
            task = self._group.create_task(resolve(self._desk, row))
            self._looks[task] = row.account_id
            task.add_done_callback(self._end)
        return len(taken)

    def stop(self) -> None:
        """End all looks where they are: whoever starts next takes them up."""
        for task in self._looks:
            task.cancel()

    def _end(self, task: asyncio.Task[None]) -> None:
        del self._looks[task]
        self._resolved()


async def take_due(desk: Desk, accounts: Sequence[int]) -> list[Any]:
    """Free the lanes of dead traders, and take every order of these accounts that is due for a look.

    An order that has been in doubt for longer than its account's `doubt_alert` becomes an incident, once.
    """
    async with desk.pool.connection() as connection:
        for row in await fetch_all(connection, OWNERS):
            await connection.execute(FREE_DEAD, {"owner": row.owner})
        taken = await _take(connection, desk, accounts)
        for row in await fetch_all(connection, ALERT):
            log.error("order %s: in doubt: %s", row.order_id, row.message)
    return taken


async def _take(connection: Connection, desk: Desk, accounts: Sequence[int]) -> list[Any]:
    fence = await order.next_fence(connection)
    parameters = {"accounts": list(accounts), "limit": LOOKS_AT_ONCE, "fence": fence}
    parameters |= {"taken_for": TAKEN_FOR_SECONDS, "trader": desk.instance}
    return await fetch_all(connection, TAKE, parameters)


async def resolve(desk: Desk, row: Any) -> None:
    """Look one order up and write what that proves. What no row can hold is an incident, and is looked up again."""
    try:
        await _resolve(desk, row)
    except UNREADABLE as error:
        await tell_unreadable(desk.pool, row.id, error)


async def _resolve(desk: Desk, row: Any) -> None:
    if row.absences >= ABSENCES_NEEDED:  # known never to have been placed: there is nothing to look up
        await _proved_absent(desk, row)
        return
    exchange = desk.exchanges[row.account_id]
    try:
        async with desk.sending[row.account_id]:
            wait = await _still_on_its_way(desk, exchange, row)  # before it is asked for: else "not found" is older
            report = await exchange.find(row.symbol, str(row.client_order_id), since=row.submitted_at)
            report, trace = (report, None) if report else await desk.traces.of(desk.pool, exchange, row)
            if report is not None:
                await _note_found(desk, row, report)
            outcome = None if report is None else await found(exchange, row, report)
    except ExchangeError as error:
        await _look_again(desk, row, Look("failed", str(error)), f"the look-up failed: {error}", row.absences)
        return
    if outcome is not None:
        desk.in_doubt.pop((row.id, row.attempt), None)
        await settle_in_transaction(desk.pool, [outcome])
    elif trace is not None:
        await _look_again(desk, row, Look("failed", trace), trace, row.absences)
    else:
        await _absent(desk, row, wait)


async def _note_found(desk: Desk, row: Any, report: OrderReport) -> None:
    """Existence is written down on its own, before fills are read: it stays evidence if the rest fails."""
    number = "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in report.venue_order_id)
    detail = f"{report.status} as {number}"  # evidence, even where that number can be in no row
    log.info("order %s: in doubt, found at the venue: %s", row.id, detail)
    parameters = {"id": row.id, "fence": row.fence, "trader": desk.instance, "detail": detail}
    async with desk.pool.connection() as connection:
        await connection.execute(FOUND, parameters)


async def found(exchange: Exchange, row: Any, report: OrderReport) -> Outcome:
    """The outcome of a look-up that found the order: the venue's report and all of its fills."""
    fills = await exchange.fills(row.symbol, venue_order_id=report.venue_order_id)
    return Outcome(row.id, row.fence, "accepted", source="look-up", report=report, fills=tuple(fills), reason=None)


async def _absent(desk: Desk, row: Any, wait: float) -> None:
    if row.known:  # one "yes" outweighs every "no": such an order is never sent again
        reason = "not found, but the venue has said before that it has it"
        await _look_again(desk, row, Look("absent"), reason, row.absences)
        return
    if wait > 0:
        reason = "not found yet; it may still arrive"
        await _look_again(desk, row, Look("absent", after=False), reason, row.absences, wait)
    elif row.absences + 1 < ABSENCES_NEEDED:
        reason = "not found after the receive deadline; asking once more"
        await _look_again(desk, row, Look("absent", after=True), reason, row.absences + 1, 0.5)
    else:
        reason = "not found after the receive deadline: it never arrived"
        await _look_again(desk, row, Look("absent", after=True), reason, row.absences + 1, TAKEN_FOR_SECONDS)
        await _proved_absent(desk, row)


async def _still_on_its_way(desk: Desk, exchange: Exchange, row: Any) -> float:
    """Seconds for which the request may still arrive.

    The venue refuses what is late by its own clock, so that is asked; a clock that cannot be read proves nothing. Where
    a venue tells no time: by the database's clock, and by our own watch that nobody sets.
    """
    known_since = desk.in_doubt.setdefault((row.id, row.attempt), time.monotonic())
    deadline = row.receive_deadline + CLOCK_MARGIN
    try:
        theirs: float = (deadline - await exchange.time()).total_seconds()
    except Refused:
        async with desk.pool.connection() as connection:
            by_stamp: float = (deadline - (await fetch_one(connection, NOW, {"id": row.id})).now).total_seconds()
        by_watch: float = known_since + (row.receive_window + CLOCK_MARGIN).total_seconds() - time.monotonic()
        return max(by_stamp, by_watch)
    except ExchangeError as error:  # the order may be found all the same
        log.warning("order %s: the venue's clock cannot be read now: %s", row.id, error)
        return CLOCK_UNREAD_SECONDS
    return theirs


async def _proved_absent(desk: Desk, row: Any) -> None:
    """It is not at the venue and cannot arrive there any more: send it again, unless nobody wants that any more."""
    desk.in_doubt.pop((row.id, row.attempt), None)
    async with desk.pool.connection() as connection:
        state = await fetch_one(connection, NOW, {"id": row.id})
    if state.canceled:
        await _settle(desk, _given_up(row, "canceled"))
    elif state.halted or state.reducing:
        await _settle(desk, _given_up(row, "halted" if state.halted else "reducing"))
    elif row.expires_at is not None and row.expires_at < state.now:
        await _settle(desk, _given_up(row, "old"))
    else:
        await _send_again(desk, row)


WHY_NOT = {
    "halted": "the account is halted",
    "reducing": "the account is reducing: only sells are sent",
    "old": "it is too old to send again",
}


def _given_up(row: Any, why: str) -> Outcome:
    """What becomes of an order that never reached the venue and is not sent again."""
    if why == "canceled":
        return Outcome(row.id, row.fence, "canceled", reason="canceled: it never reached the venue")
    return Outcome(row.id, row.fence, "denied", reason=f"it never reached the venue, and {WHY_NOT[why]}")


async def _send_again(desk: Desk, row: Any) -> None:
    """Absence is proved: one more attempt, written down before it is made."""
    request = order.request(
        row.client_order_id,
        row.symbol,
        row.side,
        row.type,
        row.sent_quantity,
        row.sent_quote_quantity,
        row.sent_price,
        row.submitted_at,
        row.receive_window,
        row.time_in_force,
    )
    claimed = Claimed(row.id, row.strategy_id, row.account_id, row.fence, request)
    async with desk.pool.connection() as connection:
        ready = (await gate.restamp(connection, [claimed]))[claimed.id]
        if not isinstance(ready, str):  # the last look: writing the stamp down may have taken its time
            ready = (await gate.ready_to_send(connection, [ready]))[claimed.id]
    if ready == "fenced":
        return
    if isinstance(ready, str):
        await _settle(desk, _given_up(row, ready))
        return
    log.info("order %s: proved absent, sending it again", row.id)
    await _settle(desk, await call_venue(desk.exchanges[row.account_id], ready))


async def _settle(desk: Desk, outcome: Outcome) -> None:
    await settle_in_transaction(desk.pool, [outcome])


async def _look_again(desk: Desk, row: Any, look: Look, reason: str, absences: int, pause: float | None = None) -> None:
    """Write down what the venue said, and plan the next look: pauses grow with the time in doubt."""
    async with desk.pool.connection() as connection:
        if pause is None:
            now = (await fetch_one(connection, NOW, {"id": row.id})).now
            pause = min(max(0.5, (now - row.in_doubt_since).total_seconds() / 2), LONGEST_PAUSE_SECONDS)
        plan = {"id": row.id, "fence": row.fence, "reason": reason, "absences": absences, "pause": pause}
        evidence = {"trader": desk.instance, "answer": look.answer, "after": look.after, "detail": look.detail}
        await connection.execute(LOOK_AGAIN, plan | evidence)
