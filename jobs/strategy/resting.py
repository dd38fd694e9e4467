"""Orders that a class of the first style waits for and never gave: they may rest for ever, and only a person ends them.

A signal gives market orders, which are done soon. A limit or a stop is from a class of the second style that had the
strategy before, or from a person. It may guard what is held, so nobody takes it back unasked; but the decision that
waits for it says so, and how to end it.
"""

from typing import Any

from trader.db import Connection, fetch_all
from trader.sizing import plain

MOST_NAMED = 5
END = "UPDATE orders SET cancel_requested_at = now() WHERE id IN"
"""For a person to type."""

# Those that are on their way end by themselves.
RESTING = """
SELECT o.id, o.side::text, o.quantity, o.limit_price, o.trigger_price
  FROM "order" o
 WHERE o.id IN (SELECT p.id FROM open_order p JOIN strategy s ON (s.id, s.account_id) = (p.strategy_id, p.account_id)
                 WHERE s.id = %s)
   AND (o.status = 'waiting' OR o.type = 'limit' AND o.status IN ('accepted', 'partially_filled'))
   AND o.cancel_requested_at IS NULL
 ORDER BY o.id
"""


async def told_resting(connection: Connection, strategy_id: int) -> str | None:
    """Which orders rest, and how to end them; None: none does, all that are open are on their way."""
    rows = await fetch_all(connection, RESTING, [strategy_id])
    if not rows:
        return None
    several = len(rows) > 1
    named = ", ".join(f"{row.id} ({_what(row)})" for row in rows[:MOST_NAMED])
    more = f" and {len(rows) - MOST_NAMED} more" if len(rows) > MOST_NAMED else ""
    numbers = ", ".join(str(row.id) for row in rows)
    return (
        f"waits for order{'s' * several} {named}{more}, which its class did not give and which may rest for ever; to "
        f"end {'them' if several else 'it'}: {END} ({numbers})"
    )


def _what(row: Any) -> str:
    parts = [row.side] + ([] if row.quantity is None else [plain(row.quantity)])
    parts += [f"{name} {plain(at)}" for name, at in (("stop", row.trigger_price), ("limit", row.limit_price)) if at]
    return " ".join(parts)
