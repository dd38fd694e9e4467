"""The connection of an exact replay does what psycopg's does, as far as the trader's code uses one."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import CheckViolation, UniqueViolation

from trader.backtest.exact_connection import direct
from trader.db import Connection, Identity, connect, fetch_all, fetch_one
from trader.errors import Unreachable

IDENTITY = Identity("trader", "exact-test")
TABLE = "CREATE TABLE one (n int PRIMARY KEY CHECK (n < 100))"
VALUES = {
    "whole": 7,
    "large": 2**40,
    "money": Decimal("12345.678900"),
    "text": "a 'b' %s \\ c",
    "moment": datetime(2024, 2, 29, 12, 30, 15, 250_000, tzinfo=UTC),
    "span": timedelta(hours=3, seconds=1),
    "name": UUID(int=77),
    "yes": True,
    "nothing": None,
    "list": [1, 2, 3],
    "texts": ["x", None, "y,z"],
    "floats": [0.1, 2.5],
}
ASK = """
SELECT %(whole)s::int AS whole, %(large)s::bigint AS large, %(money)s::numeric AS money, %(text)s::text AS text,
       %(moment)s::timestamptz AS moment, %(span)s::interval AS span, %(name)s::uuid AS name, %(yes)s::bool AS yes,
       %(nothing)s::text AS nothing, %(list)s::int[] AS list, %(texts)s::text[] AS texts,
       %(floats)s::float8[] AS floats, '50 %%' AS share, %(whole)s::int + 1 AS again
"""


@pytest.fixture
async def one(empty_database: str) -> AsyncIterator[Connection]:
    async with direct(empty_database, IDENTITY) as (connection, _):
        await connection.execute(TABLE)
        yield connection


async def numbers(connection: Connection) -> list[int]:
    return [row.n for row in await fetch_all(connection, "SELECT n FROM one ORDER BY n")]


async def test_values_go_and_come_as_with_psycopg(one: Connection, empty_database: str) -> None:
    async with await connect(empty_database, IDENTITY) as usual:
        for _ in range(8):  # psycopg prepares a statement after five
            expected, found = await fetch_one(usual, ASK, VALUES), await fetch_one(one, ASK, VALUES)
            assert found._asdict() == expected._asdict()
            assert [type(value) for value in found] == [type(value) for value in expected]
        assert (found.share, found.again, found.money) == ("50 %", 8, Decimal("12345.678900"))
        for statement in ("SHOW timezone", "SELECT current_setting('tallydesk.process') AS process"):
            assert tuple(await fetch_one(one, statement)) == tuple(await fetch_one(usual, statement))


async def test_rowcount_and_rows_are_known_when_they_are_asked_for(one: Connection) -> None:
    async with one.transaction(), one.pipeline():
        first = await one.execute("INSERT INTO one VALUES (%s), (%s)", [1, 2])
        changed = await one.execute("UPDATE one SET n = n + 10 RETURNING n")
        assert first.rowcount == 2
        assert [row.n for row in await changed.fetchall()] == [11, 12]
        assert (await (await one.execute("SELECT n FROM one WHERE n = %s", [5])).fetchone()) is None
    assert await numbers(one) == [11, 12]


async def test_a_statement_alone_is_committed_at_once(one: Connection, empty_database: str) -> None:
    await one.execute("INSERT INTO one VALUES (%s)", [4])
    with psycopg.connect(empty_database) as other:
        assert other.execute("SELECT n FROM one").fetchall() == [(4,)]


async def insert(connection: Connection, *values: int) -> None:
    """All in one transaction."""
    async with connection.transaction():
        for value in values:
            await connection.execute(f"INSERT INTO one VALUES ({value})")


async def test_an_error_undoes_the_transaction_and_nothing_else(one: Connection) -> None:
    with pytest.raises(UniqueViolation, match="one_pkey"):
        await insert(one, 1, 1, 2)
    assert await numbers(one) == []
    with pytest.raises(CheckViolation):
        await insert(one, 3, 100, 4)
    with pytest.raises(CheckViolation):
        await one.execute("INSERT INTO one VALUES (%s)", [101])
    assert await numbers(one) == []
    await insert(one, 3, 4)
    assert await numbers(one) == [3, 4]


async def test_an_inner_transaction_is_undone_alone(one: Connection) -> None:
    async with one.transaction():
        await one.execute("INSERT INTO one VALUES (1)")
        for value in (1, 2, 100, 3):
            with contextlib.suppress(UniqueViolation, CheckViolation):
                async with one.transaction():
                    await one.execute("INSERT INTO one VALUES (%s)", [value])
        await one.execute("INSERT INTO one VALUES (4)")
    assert await numbers(one) == [1, 2, 3, 4]

    async def outer() -> None:
        async with one.transaction():
            await one.execute("INSERT INTO one VALUES (5)")
            await insert(one, 6, 1)

    with pytest.raises(UniqueViolation):
        await outer()
    assert await numbers(one) == [1, 2, 3, 4]


async def interrupted(connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute("INSERT INTO one VALUES (1)")
        raise KeyboardInterrupt


async def test_an_error_of_ours_undoes_the_transaction(one: Connection) -> None:
    with pytest.raises(KeyboardInterrupt):
        await interrupted(one)
    assert await numbers(one) == []


async def test_a_lost_connection_is_an_error(one: Connection, empty_database: str) -> None:
    pid = (await fetch_one(one, "SELECT pg_backend_pid() AS pid")).pid
    with psycopg.connect(empty_database, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
    with pytest.raises(psycopg.OperationalError):
        await insert(one, 1)


async def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(Unreachable, match="PostgreSQL cannot be reached"):
        async with direct("postgresql://localhost:1/none", IDENTITY):
            pass
