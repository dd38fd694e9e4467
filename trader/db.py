"""Connections to PostgreSQL: what every one of them has in common.

All are autocommit with explicit transactions (READ COMMITTED): without autocommit a bare SELECT would open a
transaction, and no later `transaction()` block would be durable when it ends.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, LiteralString, NamedTuple, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.rows import namedtuple_row
from psycopg_pool import AsyncConnectionPool

from trader.errors import Unreachable

Result = TypeVar("Result")
Params = Sequence[Any] | Mapping[str, Any]
Connection = AsyncConnection[Any]
"""A connection whose rows are named tuples."""
Pool = AsyncConnectionPool[Connection]

LOST_RACES = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
LOST_CONNECTION = (psycopg.OperationalError, psycopg.InterfaceError)


class Identity(NamedTuple):
    """Who a connection belongs to: `process` is checked by the guards in the database, `name` is shown to people."""

    process: str
    name: str


def conninfo(url: str, identity: Identity) -> str:
    """The connection string of a process: a hung socket must not hang it, and the guards must know it."""
    return make_conninfo(
        url,
        application_name=identity.name,
        connect_timeout=10,
        keepalives=1,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=20_000,
        options=f"-c tallydesk.process={identity.process} -c timezone=UTC -c idle_in_transaction_session_timeout=60s",
    )


async def connect(url: str, identity: Identity) -> Connection:
    """One connection of its own. Raises Unreachable if the server cannot be reached."""
    try:
        return await AsyncConnection.connect(conninfo(url, identity), autocommit=True, row_factory=namedtuple_row)
    except psycopg.OperationalError as error:
        raise Unreachable(f"PostgreSQL cannot be reached: {first_line(error)}") from None


@asynccontextmanager
async def open_pool(url: str, identity: Identity, size: int) -> AsyncIterator[Pool]:
    """A pool of `size` connections. Raises Unreachable if the server cannot be reached."""
    await _probe(url, identity)
    pool: Pool = AsyncConnectionPool(
        conninfo(url, identity),
        kwargs={"autocommit": True, "row_factory": namedtuple_row},
        min_size=1,
        max_size=size,
        timeout=10,
        open=False,
    )
    async with pool:
        yield pool


async def _probe(url: str, identity: Identity) -> None:
    """A pool retries in silence; one connection of our own says what is wrong."""
    await (await connect(url, identity)).close()


def first_line(error: BaseException) -> str:
    """The first line of a database error: it names no password, libpq leaves that out."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


async def retrying(work: Callable[[], Awaitable[Result]], tries: int = 10) -> Result:
    """Run a whole transaction again when PostgreSQL chose it as the loser of a race.

    Nothing of a lost race was committed, so this is safe for anything that touches only the database.
    """
    for attempt in range(1, tries + 1):
        try:
            return await work()
        except LOST_RACES:
            if attempt == tries:
                raise
            await asyncio.sleep(0.005 * attempt)
    raise AssertionError("unreachable")


def end_if_cancelled() -> None:
    """For endless loops that use a pool: raise CancelledError if this task was told to end.

    A cancel that comes in the moment in which a pool hands out a connection is lost in there; the task still knows it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def numbers(values: Iterable[int | Decimal | None]) -> str:
    """An array of numbers as PostgreSQL writes it, to be cast to its type. psycopg makes the same, far slower."""
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def texts(values: Iterable[object]) -> str:
    """An array of anything whose `str` PostgreSQL reads: text, timestamps with their zone, booleans. None is NULL."""
    return "{" + ",".join(["NULL" if value is None else _quoted(str(value)) for value in values]) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


async def fetch_one(connection: Connection, statement: LiteralString, parameters: Params | None = None) -> Any:
    """The only row of a statement that always gives one, as a named tuple."""
    row = await (await connection.execute(statement, parameters)).fetchone()
    if row is None:
        raise AssertionError(f"a row was certain here: {statement.strip()[:60]}")
    return row


async def fetch_all(connection: Connection, statement: LiteralString, parameters: Params | None = None) -> list[Any]:
    """All rows of a statement, as named tuples."""
    return await (await connection.execute(statement, parameters)).fetchall()
