"""A connection for a program that does one thing at a time: statement out, rows in, and no event loop in between.

The trader's code talks to an asynchronous connection, so that a thousand orders can be under way. In an exact replay
there is one, and most of its time would be spent in switching. This is libpq's own blocking call with psycopg's
adaptation of values around it: the same statements go out, in the same order, and the same rows come back.
"""

import re
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import psycopg
from psycopg import errors, pq
from psycopg.adapt import PyFormat, Transformer

from trader.db import Connection, Identity, Params, Pool, conninfo, first_line
from trader.errors import Unreachable

_PLACE = re.compile(r"%(?:\((\w+)\)s|([s%]))")


class Rows:
    """What a statement gave."""

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    async def fetchone(self) -> Any:
        return self._rows[0] if self._rows else None

    async def fetchall(self) -> list[Any]:
        return self._rows


class _Statement(NamedTuple):
    """A statement as the server takes it: its places numbered, and by which name or position each is filled."""

    text: bytes
    names: tuple[str | int, ...]


class Direct:
    """What the trader's code uses of a connection: `execute`, `transaction` and `pipeline`."""

    def __init__(self, session: psycopg.Connection[Any]) -> None:
        self._session = session
        self._server = session.pgconn
        self._statements: dict[str, _Statement] = {}
        self._prepared: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        self._makers: dict[bytes, Callable[[Sequence[Any]], Any]] = {}
        self._in_transaction = False

    async def execute(self, statement: str, parameters: Params | None = None) -> Rows:
        """Run a statement to its end. Raises psycopg.Error."""
        known = self._statements.get(statement)
        if known is None:
            known = self._statements[statement] = _numbered(statement, parameters is not None)
        adapting = Transformer(self._session)
        values: Sequence[Any] = []
        if known.names:
            given = [cast(Mapping[Any, Any], parameters)[name] for name in known.names]
            values = adapting.dump_sequence(given, [PyFormat.AUTO] * len(given))
        result = self._run(known.text, values, tuple(adapting.types or ()), adapting.formats)
        if result.status != pq.ExecStatus.TUPLES_OK:
            return Rows([], result.command_tuples or 0)
        adapting.set_pgresult(result)
        rows = adapting.load_rows(0, result.ntuples, self._maker(known.text, result))
        return Rows(rows, result.ntuples)

    def _run(self, text: bytes, values: Sequence[Any], types: tuple[int, ...], formats: Any) -> Any:
        name = self._prepared.get((text, types))
        if name is None:
            name = b"s%d" % len(self._prepared)
            self._checked(self._server.prepare(name, text, types))
            self._prepared[text, types] = name
        return self._checked(self._server.exec_prepared(name, values, formats))

    def _checked(self, result: Any) -> Any:
        if result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            return result
        if self._server.status == pq.ConnStatus.BAD:
            self._session.close()
            raise psycopg.OperationalError(self._server.get_error_message())
        raise errors.error_from_result(result)

    def _maker(self, text: bytes, result: Any) -> Callable[[Sequence[Any]], Any]:
        if text not in self._makers:
            names = [(result.fname(place) or b"").decode() for place in range(result.nfields)]
            self._makers[text] = cast(Any, namedtuple("Row", names, rename=True))._make
        return self._makers[text]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """All or nothing."""
        if self._in_transaction:
            raise AssertionError("a transaction within a transaction")
        self._command(b"BEGIN")
        self._in_transaction = True
        try:
            yield
        except BaseException:
            self._in_transaction = False
            self._command(b"ROLLBACK")
            raise
        self._in_transaction = False
        self._command(b"COMMIT")

    def _command(self, text: bytes) -> None:
        self._checked(self._server.exec_(text))

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[None]:
        """One statement after the other is what happens here anyway."""
        yield

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["Direct"]:
        """It is its own pool: nobody else needs a connection."""
        yield self


def _numbered(statement: str, has_parameters: bool) -> _Statement:
    """%(name)s, %s and %% as the server takes them; a name that comes twice is one value."""
    names: list[str | int] = []

    def place(found: re.Match[str]) -> str:
        if found[2] == "%":
            return "%"
        name: str | int = found[1] if found[1] is not None else len(names)
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}"

    text = _PLACE.sub(place, statement) if has_parameters else statement
    return _Statement(text.encode(), tuple(names))


@asynccontextmanager
async def direct(url: str, identity: Identity) -> AsyncIterator[tuple[Connection, Pool]]:
    """A connection, and a pool of nothing but it, for code that expects psycopg's. Raises Unreachable."""
    try:
        session: psycopg.Connection[Any] = psycopg.connect(conninfo(url, identity), autocommit=True)
    except psycopg.OperationalError as error:
        raise Unreachable(f"PostgreSQL cannot be reached: {first_line(error)}") from None
    with session:
        one = Direct(session)
        yield cast(Connection, one), cast(Pool, one)
