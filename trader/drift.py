"""Drift: what the venue has and the books do not, or the other way round, after every known trade is booked.

It counts only when two settled readings in a row, some seconds apart, give the same. Money that came in is
unallocated; money that is missing is taken from what is unallocated, then from suspense; a large difference halts the
account and is booked only when a person has set `account.halted` back.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

from trader import order
from trader.db import Connection, fetch_all

log = logging.getLogger("drift")

APART = timedelta(seconds=5)
"""How far apart the two readings are at least that must agree."""

NOTE = """
INSERT INTO account_drift AS d (account_id, asset_id, drift, first_seen_at, seen_at)
SELECT account_id, asset_id, total - ledger, statement_timestamp(), statement_timestamp() FROM account_balance
 WHERE account_id = %(account)s AND total <> ledger ORDER BY asset_id
ON CONFLICT (account_id, asset_id) DO UPDATE SET drift = EXCLUDED.drift, seen_at = EXCLUDED.seen_at,
  first_seen_at = CASE WHEN d.drift = EXCLUDED.drift THEN d.first_seen_at ELSE EXCLUDED.seen_at END,
  halted_at = CASE WHEN d.drift = EXCLUDED.drift THEN d.halted_at END
"""

FORGET = """
DELETE FROM account_drift d WHERE account_id = %(account)s AND NOT EXISTS (SELECT FROM account_balance b
  WHERE b.account_id = d.account_id AND b.asset_id = d.asset_id AND b.total <> b.ledger)
"""

SEEN = """
SELECT d.asset_id, s.code, d.drift, b.total AS venue, b.ledger, d.halted_at, a.halted, a.name AS account,
       drift_verdict(b.total, b.ledger, a.drift_tolerated, a.drift_dust, a.drift_halts) AS verdict,
       d.seen_at > d.first_seen_at AND d.seen_at - d.first_seen_at >= %(apart)s::interval AS confirmed,
       d.seen_at = d.first_seen_at AS first,
       coalesce(max(k.total) FILTER (WHERE l.kind = 'unallocated'), 0) AS unallocated,
       coalesce(max(k.total) FILTER (WHERE l.kind = 'suspense'), 0) AS suspense
  FROM account_drift d
  JOIN account a ON a.id = d.account_id
  JOIN asset s ON s.id = d.asset_id
  JOIN account_balance b ON b.account_id = d.account_id AND b.asset_id = d.asset_id
  JOIN ledger_account l ON l.account_id = d.account_id AND l.kind IN ('unallocated', 'suspense')
  LEFT JOIN balance k ON k.ledger_account_id = l.id AND k.asset_id = d.asset_id
 WHERE d.account_id = %(account)s
 GROUP BY d.account_id, d.asset_id, a.id, s.id, b.account_id, b.asset_id ORDER BY d.asset_id
"""

POST = """
INSERT INTO adjustment (account_id, asset_id, kind, quantity, reason)
VALUES (%(account)s, %(asset)s, %(kind)s::adjustment_kind, %(quantity)s, %(reason)s)
"""

# The reading stands beside the books that it is now equal to.
POSTED = """
WITH done AS (DELETE FROM account_drift WHERE account_id = %(account)s AND asset_id = %(asset)s RETURNING drift)
UPDATE account_balance SET ledger = ledger + done.drift FROM done
 WHERE account_id = %(account)s AND asset_id = %(asset)s
"""

HALTED = """
UPDATE account_drift SET halted_at = clock_timestamp() WHERE account_id = %(account)s AND asset_id = %(asset)s
"""

Kind = Literal["transfer", "suspense"]


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of a settled reading."""

    posted: tuple[str, ...] = ()
    """What was booked, as sentences."""
    waiting: tuple[str, ...] = ()
    """Assets whose difference is neither tolerated nor booked."""
    halting: tuple[str, ...] = ()
    """Those among them for which a person must decide."""


async def judge(connection: Connection, account_id: int, apart: timedelta) -> Judged:
    """Judge the reading that was just stored. Must run in the transaction that stored it, and only if it is settled."""
    await connection.execute(NOTE, {"account": account_id})
    await connection.execute(FORGET, {"account": account_id})
    rows = await fetch_all(connection, SEEN, {"account": account_id, "apart": apart})
    for row in rows:
        if row.first:
            log.info("account %s: %s differs by %s (%s)", row.account, row.code, _text(row.drift), row.verdict)
    wrong = [row for row in rows if row.verdict != "tolerated"]
    if not all(row.confirmed for row in wrong):
        return Judged(waiting=_codes(wrong))  # judged together: a deposit is told from a trade by what else moved
    stopped = [row for row in wrong if await _halts(connection, account_id, row, wrong)]
    if stopped:
        return Judged(waiting=_codes(wrong), halting=_codes(stopped))
    return Judged(posted=tuple([await _post(connection, account_id, row, wrong) for row in wrong]))


def _codes(rows: Iterable[Any]) -> tuple[str, ...]:
    return tuple(row.code for row in rows)


def is_mixed(rows: Sequence[Any]) -> bool:
    """True if one asset has come while another has gone: no deposit and no withdrawal, but something untold."""
    return any(row.drift > 0 for row in rows) and any(row.drift < 0 for row in rows)


async def _halts(connection: Connection, account_id: int, row: Any, rows: Sequence[Any]) -> bool:
    """True while a difference is too large to be booked before a person has agreed."""
    if row.verdict != "large" or (row.drift > 0 and not is_mixed(rows)):
        return False
    if row.halted_at is not None:
        return bool(row.halted)  # once it is set back, the difference is accepted
    reason = (
        f"the venue has {_text(row.venue)} {row.code}, the books have {_text(row.ledger)}: "
        "setting account.halted to false accepts it"
    )
    await connection.execute(order.HALT, {"account": account_id, "reason": reason})
    await connection.execute(HALTED, {"account": account_id, "asset": row.asset_id})
    await _incident(connection, account_id, "critical", "large difference", f"the account is halted: {reason}")
    return True


async def _post(connection: Connection, account_id: int, row: Any, rows: Sequence[Any]) -> str:
    """Book one difference, so that ledger = venue; what was booked, as a sentence."""
    parts = [part for part in split(row.drift, row.unallocated, row.suspense, mixed=is_mixed(rows)) if part[1] != 0]
    told = []
    for kind, quantity in parts:
        way = "came in" if quantity > 0 else "went out"
        where = "unallocated" if kind == "transfer" else "suspense"
        told.append(f"{_text(abs(quantity))} {row.code} {way} at the venue without a row: {where}")
        parameters = {"account": account_id, "asset": row.asset_id, "kind": kind, "quantity": quantity}
        await connection.execute(POST, parameters | {"reason": told[-1]})
        explained = kind == "transfer" or (quantity > 0 and not is_mixed(rows))
        severity, name = ("notice", "venue transfer") if explained else ("warning", "unexplained difference")
        await _incident(connection, account_id, severity, name, told[-1])
    await connection.execute(POSTED, {"account": account_id, "asset": row.asset_id})
    return "; ".join(told)


def split(drift: Decimal, unallocated: Decimal, suspense: Decimal, *, mixed: bool) -> list[tuple[Kind, Decimal]]:
    """Where a difference goes. What comes fills what suspense lacks, then is unallocated; what goes is taken from what
    is unallocated, then from suspense. Where something else moved the other way, all of it is suspense."""
    if mixed:
        return [("suspense", drift)]
    if drift > 0:
        back = min(drift, max(Decimal(0), -suspense))
        return [("suspense", back), ("transfer", drift - back)]
    covered = min(-drift, max(Decimal(0), unallocated))
    return [("transfer", -covered), ("suspense", drift + covered)]


async def _incident(connection: Connection, account_id: int, severity: str, kind: str, message: str) -> None:
    log.log(logging.INFO if severity == "notice" else logging.ERROR, "account %s: %s: %s", account_id, kind, message)
    await connection.execute(
        order.INCIDENT, {"severity": severity, "kind": kind, "message": message, "account": account_id, "order": None}
    )


def _text(quantity: Decimal) -> str:
    text = format(quantity, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
