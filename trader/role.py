"""Roles: the processes of the desk, and how one is known to be alive.

A role is alive if its session advisory lock is held and its beat is fresh. Both live on one connection: who
loses one loses both, and must exit. No process id is ever stored or believed.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from uuid import UUID, uuid4

import psycopg

from trader import schema
from trader.db import Connection, Identity, connect, fetch_all, fetch_one, first_line
from trader.errors import TallydeskError

BEAT_SECONDS = 3.0
STALE_SECONDS = 30.0
"""A role that has not beaten for this long is replaced, even if it still holds its lock."""

KINDS = ("scheduler", "worker", "trader")

TAKE_LOCK = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0)) AS got"

REGISTER = """
INSERT INTO role (name, kind, instance, host) VALUES (%(name)s, %(kind)s, %(instance)s, %(host)s)
ON CONFLICT (name) DO UPDATE SET kind = EXCLUDED.kind, instance = EXCLUDED.instance, host = EXCLUDED.host,
  started_at = clock_timestamp(), beat_at = clock_timestamp(), stop_at = NULL
"""

BEAT = """
UPDATE role SET beat_at = clock_timestamp() WHERE name = %(name)s AND instance = %(instance)s
RETURNING stop_at IS NOT NULL AS told_to_stop, (SELECT version_num FROM alembic_version) AS revision
"""


class RoleTaken(TallydeskError):
    """A process of this name is running already."""


@dataclass(slots=True)
class Role:
    """A name that this process holds for as long as its connection lives."""

    kind: str
    name: str
    instance: UUID
    connection: Connection
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the lock or the beat is gone: stop at once, another process may have the name by now."""
    why_lost: str = ""

    async def beat(self) -> None:
        """Beat until cancelled; set `lost` when the database does not take a beat."""
        try:
            while True:
                async with asyncio.timeout(STALE_SECONDS / 2):
                    rows = await fetch_all(self.connection, BEAT, {"name": self.name, "instance": self.instance})
                if not rows:
                    self.why_lost = "another process has taken its name"
                    break
                if why := schema.misfit(rows[0].revision):
                    self.why_lost = why
                    break
                if rows[0].told_to_stop:
                    signal.raise_signal(signal.SIGTERM)  # the one way in which every process ends in order
                await asyncio.sleep(BEAT_SECONDS)
        except (psycopg.Error, TimeoutError) as error:
            self.why_lost = first_line(error) or "the database does not answer"
        self.lost.set()


def names(kind: str, name: str | None) -> list[str]:
    """The names to try: the one asked for, the only one there is, or the first free number."""
    if name is not None:
        return [name]
    return ["scheduler"] if kind == "scheduler" else [f"{kind}-{number}" for number in range(1, 100)]


@contextlib.asynccontextmanager
async def take(url: str, kind: str, name: str | None = None) -> AsyncIterator[Role]:
    """Hold a role while the block runs.

    Raises RoleTaken if every name that may be used is held by another process, DatabaseError if the database is at
    another revision of the schema than this program needs.
    """
    connection = await connect(url, Identity(kind, name or kind))
    try:
        await schema.check(connection)
        held = await _lock_first_free(connection, names(kind, name))
        if held is None:
            raise RoleTaken(f"{name or kind} is running already")
        role = Role(kind, held, uuid4(), connection)
        await connection.execute(TAKE_LOCK, [str(role.instance)])
        await connection.execute("SELECT set_config('application_name', %s, false)", [held])
        await connection.execute(
            REGISTER, {"name": held, "kind": kind, "instance": role.instance, "host": socket.gethostname()}
        )
        beating = asyncio.create_task(role.beat())
        try:
            yield role
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
    finally:
        await connection.close()


async def _lock_first_free(connection: Connection, candidates: list[str]) -> str | None:
    for candidate in candidates:
        if (await fetch_one(connection, TAKE_LOCK, [f"role:{candidate}"])).got:
            return candidate
    return None
