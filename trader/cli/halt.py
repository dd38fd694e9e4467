"""`tallydesk halt`: the emergency stop."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trader.cli._session import session
from trader.errors import DatabaseError, InputError

if TYPE_CHECKING:
    from trader.db import Connection

app = typer.Typer(add_completion=False)

ACCOUNTS = "SELECT id, name, state FROM account WHERE %(name)s::text IS NULL OR name = %(name)s ORDER BY name"
NAMES = "SELECT coalesce(string_agg(name, ', ' ORDER BY name), 'none yet: tallydesk account add') AS names FROM account"
HALT = """
UPDATE account SET halted = halted OR NOT %(reducing)s, reducing = reducing OR %(reducing)s,
       halt_reason = coalesce(%(reason)s, CASE WHEN state = 'active' THEN 'tallydesk halt' ELSE halt_reason END)
 WHERE id = ANY(%(accounts)s)
"""
SUBMITTED = """
SELECT id, in_doubt_since IS NOT NULL AS in_doubt FROM "order"
 WHERE account_id = ANY(%(accounts)s) AND status = 'submitted'
"""
NOW = "SELECT clock_timestamp() AT TIME ZONE 'UTC' AS now"
CAME_OF = """
SELECT count(*) FILTER (WHERE status = 'submitted') AS unknown,
       count(*) FILTER (WHERE status IN ('denied', 'canceled') AND venue_order_id IS NULL) AS stopped
  FROM "order" WHERE id = ANY(%(orders)s)
"""
# Each part has an index of its own; the locks are taken in the order in which everybody takes them.
CANCEL = """
WITH ours AS (
  SELECT id FROM "order" WHERE account_id = ANY(%(accounts)s) AND status = 'submitted'
  UNION ALL SELECT id FROM "order" WHERE account_id = ANY(%(accounts)s)
                                     AND status IN ('accepted', 'partially_filled', 'pending_cancel')
  UNION ALL SELECT id FROM "order" WHERE account_id = ANY(%(accounts)s) AND status < 'queued'
  UNION ALL SELECT o.id FROM strategy s JOIN "order" o ON o.strategy_id = s.id AND o.status = 'queued'
             WHERE s.account_id = ANY(%(accounts)s)),
locked AS (
  SELECT id FROM "order"
   WHERE id IN (SELECT id FROM ours) AND NOT order_is_final(status) AND cancel_requested_at IS NULL
   ORDER BY strategy_id, id FOR UPDATE)
UPDATE "order" o SET cancel_requested_at = clock_timestamp() FROM locked WHERE o.id = locked.id
RETURNING o.status::text
"""
IMPATIENT = "SET LOCAL lock_timeout = '3s'"
PATIENCE_SECONDS = 5.0
MEANINGS = {"halted": "halted, nothing more is sent", "reducing": "reducing, only sells are sent"}
"""What each state means. An account that was halted stays so when it is told to reduce."""
# Reading locks no row, and one that began later held nothing up. Of other roles not all may be seen, but the pid is.
HOLDERS = """
SELECT string_agg(format('pid %s (user %s%s, its transaction began %s UTC): SELECT pg_terminate_backend(%s);',
         a.pid, a.usename, ', ' || nullif(a.application_name, ''),
         coalesce(to_char(a.xact_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), 'nobody may say when'), a.pid),
         ' ' ORDER BY a.xact_start) AS found
  FROM pg_stat_activity a
 WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
   AND coalesce(a.xact_start < clock_timestamp() - interval '3 s', true) AND EXISTS (
   SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'relation' AND l.relation = 'account'::regclass
      AND l.granted AND l.mode <> 'AccessShareLock')
"""


@app.command()
def halt(
    account: Annotated[str | None, typer.Argument(help="Which account; without it, all of them.")] = None,
    cancel_open: Annotated[
        bool, typer.Option("--cancel-open", help="Cancel our orders that are open, in flight, queued or waiting.")
    ] = False,
    reducing: Annotated[
        bool, typer.Option("--reducing", help="Deny buys alone: sells of what strategies hold still pass.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for whoever reads it next.")] = None,
) -> None:
    """Stop all sending on an account, on every machine; cancels still pass.

    `UPDATE account SET halted = true` does the same. Says what was on its way when the stop committed. Other people's
    orders are never touched. The way back is `tallydesk resume`.

    Example: tallydesk halt main --cancel-open --reason "prices look wrong"
    """
    asyncio.run(_halt(account, cancel_open, reducing, reason))


async def _halt(name: str | None, cancel_open: bool, reducing: bool, reason: str | None) -> None:
    from trader.db import fetch_all, fetch_one

    async with session() as (_, connection):
        accounts = await find_accounts(connection, name)
        ids = [account.id for account in accounts]
        async with not_held_up(connection), connection.transaction():
            await connection.execute(IMPATIENT)
            await connection.execute(HALT, {"accounts": ids, "reducing": reducing, "reason": reason})
            before = await fetch_all(connection, SUBMITTED, {"accounts": ids})
        at = (await fetch_one(connection, NOW)).now
        after = await fetch_all(connection, SUBMITTED, {"accounts": ids})
        for state, meaning in MEANINGS.items():
            if reached := [one for one in await find_accounts(connection, name) if one.state == state]:
                print(f"{_named(reached)}: {meaning}; committed at {at.isoformat(' ', 'milliseconds')} UTC")
        if cancel_open:
            await _cancel(connection, ids)
        under_way = {row.id for row in (*before, *after) if not row.in_doubt}
        await _tell(connection, under_way, sum(row.in_doubt for row in after))


@asynccontextmanager
async def not_held_up(connection: "Connection") -> AsyncIterator[None]:
    """Around an impatient transaction. Raises DatabaseError if somebody's open one holds it up: with who that is."""
    from psycopg.errors import LockNotAvailable

    from trader.db import fetch_one

    try:
        yield
    except LockNotAvailable:
        found = (await fetch_one(connection, HOLDERS)).found
        raise DatabaseError(
            "NOTHING WAS CHANGED: somebody's open transaction holds the account. End it, then try again: "
            + (found or "it has ended by now")
        ) from None


async def find_accounts(connection: "Connection", name: str | None) -> list[Any]:
    """The account of that name, or all of them. Raises InputError if there is none."""
    from trader.db import fetch_all, fetch_one

    found = await fetch_all(connection, ACCOUNTS, {"name": name})
    if not found:
        names = (await fetch_one(connection, NAMES)).names
        raise InputError(f"unknown account {name!r}: there is {names}" if name else f"no account: there is {names}")
    return found


def _named(accounts: Sequence[Any]) -> str:
    return ("account " if len(accounts) == 1 else "accounts ") + ", ".join(account.name for account in accounts)


async def _cancel(connection: "Connection", accounts: list[int]) -> None:
    """After the halt has committed: it must wait for nobody's locks."""
    from trader.db import fetch_all, retrying

    async def work() -> list[Any]:
        async with connection.transaction():
            return await fetch_all(connection, CANCEL, {"accounts": accounts})

    asked = [row.status for row in await retrying(work)]
    ended = asked.count("canceled")
    print(
        f"cancels asked for {len(asked) - ended} orders in flight or open; {ended} queued or waiting ones are canceled"
    )


async def _tell(connection: "Connection", under_way: set[int], in_doubt: int) -> None:
    """What was on its way at the commit, and what came of it as far as is known within a few seconds."""
    from trader.db import fetch_one

    deadline = time.monotonic() + PATIENCE_SECONDS
    found = await fetch_one(connection, CAME_OF, {"orders": list(under_way)})
    while found.unknown and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        found = await fetch_one(connection, CAME_OF, {"orders": list(under_way)})
    arrived = len(under_way) - found.unknown - found.stopped
    print(
        f"{len(under_way)} orders were on their way when it committed: {arrived} reached the venue, "
        f"{found.stopped} were stopped, {found.unknown} have no answer yet"
    )
    if in_doubt:
        print(f"{in_doubt} more are in doubt: a trader looks them up (view order_in_doubt)")
