"""The gate before every send: may this order be sent now? Asked once for all orders that are at the gate together."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trader.db import Connection, Pool, fetch_all, numbers, retrying
from trader.order import Claimed

# Before each send: is it still ours, is it still wanted, and may anything be sent at all?
MAY_SEND = """
SELECT o.id, o.status = 'submitted' AND o.fence = x.fence AS ours, a.halted, a.reducing AND o.side = 'buy' AS reducing,
       o.cancel_requested_at IS NOT NULL AS canceled,
       clock_timestamp() > o.submitted_at + a.receive_window / 2 AS aged
  FROM unnest(%(ids)s::bigint[], %(fences)s::bigint[]) x (id, fence)
  JOIN "order" o ON o.id = x.id JOIN account a ON a.id = o.account_id
"""

RESTAMP = """
WITH locked AS (
  SELECT o.id, a.receive_window FROM unnest(%(ids)s::bigint[], %(fences)s::bigint[]) x (id, fence)
    JOIN "order" o ON o.id = x.id AND o.fence = x.fence AND o.status = 'submitted'
    JOIN account a ON a.id = o.account_id ORDER BY o.strategy_id, o.id FOR UPDATE OF o)
UPDATE "order" o SET attempt = o.attempt + 1, submitted_at = t.now, receive_deadline = t.now + locked.receive_window,
       absences = 0
  FROM locked, (SELECT date_trunc('milliseconds', clock_timestamp()) AS now) t
 WHERE o.id = locked.id RETURNING o.id, o.submitted_at
"""

GATHER_SECONDS = 0.002
"""Between two questions, so that the second is asked for several orders. The first after a rest is asked at once."""

Obstacle = Literal["halted", "reducing", "canceled", "fenced"]
Ready = Claimed | Obstacle
"""What may be sent; or why it may not: its account is halted, or only reduces and it buys, its cancel is requested,
another trader has it."""


@dataclass(slots=True)
class Gate:
    """Answers come from a statement that began after the question was put, so each send is still checked on its own."""

    pool: Pool
    pause: float = GATHER_SECONDS
    """Seconds between two questions; 0 where orders come one at a time."""
    _waiting: list[tuple[Claimed, "asyncio.Future[Ready]"]] = field(default_factory=list)
    _asking: "asyncio.Task[None] | None" = None

    async def ready(self, claimed: Claimed) -> Ready:
        """The order as it may be sent now, or why not. Raises psycopg.Error if the database cannot be asked."""
        answer: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._waiting.append((claimed, answer))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await answer

    async def _ask(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._answer(batch)
                await asyncio.sleep(self.pause)
        finally:
            self._asking = None

    async def _answer(self, batch: list[tuple[Claimed, "asyncio.Future[Ready]"]]) -> None:
        async def work() -> dict[int, Ready]:
            async with self.pool.connection() as connection:
                return await ready_to_send(connection, [claimed for claimed, _ in batch])

        try:
            found = await retrying(work)
        except BaseException as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for claimed, answer in batch:
            if not answer.done():
                answer.set_result(found[claimed.id])


async def ready_to_send(connection: Connection, claims: Sequence[Claimed]) -> dict[int, Ready]:
    """By order id: the order as it may be sent now, or why not.

    Orders that have waited for most of their receive window get a new time stamp first, durably.
    """
    rows = {row.id: row for row in await fetch_all(connection, MAY_SEND, _keys(claims))}
    obstacles = {row.id: _obstacle(row) for row in rows.values()}
    aged = [one for one in claims if obstacles[one.id] is None and rows[one.id].aged]
    stamped = await restamp(connection, aged) if aged else {}
    return {one.id: obstacles[one.id] or stamped.get(one.id, one) for one in claims}


def _obstacle(row: Any) -> Obstacle | None:
    if not row.ours:
        return "fenced"
    if row.canceled:
        return "canceled"
    if row.halted:
        return "halted"
    return "reducing" if row.reducing else None


async def restamp(connection: Connection, claims: Sequence[Claimed]) -> dict[int, Ready]:
    """Begin another attempt of each: the request's time stamp is written down before it can be sent."""
    stamps = {row.id: row.submitted_at for row in await fetch_all(connection, RESTAMP, _keys(claims))}
    return {
        one.id: replace(one, request=replace(one.request, submitted_at=stamps[one.id]))
        if one.id in stamps
        else "fenced"
        for one in claims
    }


def _keys(claims: Sequence[Claimed]) -> dict[str, str]:
    return {"ids": numbers(one.id for one in claims), "fences": numbers(one.fence for one in claims)}
