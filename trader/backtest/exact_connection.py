"""A connection for a program that does one thing at a time: statement out, rows in, and no event loop in between.

The trader's code talks to an asynchronous connection, so that a thousand orders can be under way. In an exact replay
there is one, and most of its time would be spent in switching. This is libpq's own blocking call with psycopg's
adaptation of values around it: the same statements go out, in the same order, and the same rows come back.
"""

import contextlib
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
    """What a statement gives: known at the latest when it is asked for."""

    def __init__(self, owner: "Direct", text: bytes) -> None:
        self._owner = owner
        self.text = text
        self.rows: list[Any] | None = None
        self.count = 0

    @property
    def rowcount(self) -> int:
        self._known()
        return self.count

    async def fetchone(self) -> Any:
        rows = self._known()
        return rows[0] if rows else None

    async def fetchall(self) -> list[Any]:
        return self._known()

    def _known(self) -> list[Any]:
        if self.rows is None:
            self._owner.flush()
        return self.rows or []


class _Statement(NamedTuple):
    """A statement as the server takes it: its places numbered, and by which name or position each is filled."""

    text: bytes
    names: tuple[str | int, ...]


_Prepared = tuple[bytes, tuple[int, ...]]
"""A statement and the types of its values: the server keeps a plan for each."""


class Direct:
    """What the trader's code uses of a connection: `execute`, `transaction` and `pipeline`.

    Within a transaction a statement is sent together with the next ones, until somebody asks for what it gave or the
    transaction ends. An error is raised there.
    """

    def __init__(self, session: psycopg.Connection[Any]) -> None:
        self._session = session
        self._server = session.pgconn
        self._statements: dict[str, _Statement] = {}
        self._prepared: dict[_Prepared, bytes] = {}
        self._names = 0
        self._makers: dict[bytes, Callable[[Sequence[Any]], Any]] = {}
        self._sent: list[Rows | _Prepared] = []
        """Statements and preparations that are on their way."""
        self._in_transaction = False
        self._server.enter_pipeline_mode()

    async def execute(self, statement: str, parameters: Params | None = None) -> Rows:
        """Send a statement. Raises psycopg.Error, at the latest when the transaction ends."""
        rows = self._send(statement, parameters)
        if not self._in_transaction:
            self.flush()
        return rows

    def _send(self, statement: str, parameters: Params | None = None) -> Rows:
        known = self._statements.get(statement)
        if known is None:
            known = self._statements[statement] = _numbered(statement, parameters is not None)
        values: Sequence[Any] = []
        types: tuple[int, ...] = ()
        formats: Sequence[pq.Format] | None = None
        if known.names:
            adapting = Transformer(self._session)
            given = [cast(Mapping[Any, Any], parameters)[name] for name in known.names]
            values = adapting.dump_sequence(given, [PyFormat.AUTO] * len(given))
            types, formats = tuple(adapting.types or ()), adapting.formats
        key = (known.text, types)
        name = self._prepared.get(key)
        if name is None:
            self._names += 1
            name = self._prepared[key] = b"s%d" % self._names
            self._server.send_prepare(name, known.text, types)
            self._sent.append(key)
        self._server.send_query_prepared(name, values, formats)
        rows = Rows(self, known.text)
        self._sent.append(rows)
        return rows

    def flush(self) -> None:
        """Wait for all that was sent. Raises the error of the first that failed; those after it were not run."""
        sent, self._sent = self._sent, []
        self._server.pipeline_sync()
        failed: Any = None
        for one in sent:
            result = self._server.get_result()
            if result is None:
                self._session.close()
                raise psycopg.OperationalError(f"the connection is lost: {self._server.get_error_message()}")
            if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                failed = failed or result
                if not isinstance(one, Rows):
                    del self._prepared[one]  # it was skipped, or refused
            elif isinstance(one, Rows):
                self._fill(one, result)
            self._server.get_result()  # the end of its results
        self._server.get_result()  # the mark that was set behind them
        if failed is not None:
            raise errors.error_from_result(failed)

    def _fill(self, rows: Rows, result: Any) -> None:
        rows.rows, rows.count = [], result.command_tuples or 0
        if result.status == pq.ExecStatus.TUPLES_OK:
            adapting = Transformer(self._session)
            adapting.set_pgresult(result)
            rows.rows = adapting.load_rows(0, result.ntuples, self._maker(rows.text, result))
            rows.count = result.ntuples

    def _maker(self, text: bytes, result: Any) -> Callable[[Sequence[Any]], Any]:
        if text not in self._makers:
            names = [(result.fname(place) or b"").decode() for place in range(result.nfields)]
            self._makers[text] = cast(Any, namedtuple("Row", names, rename=True))._make
        return self._makers[text]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """All or nothing; within another transaction, of what is done here alone."""
        if self._in_transaction:
            async with self._savepoint():
                yield
            return
        self._in_transaction = True
        self._send("BEGIN")
        try:
            yield
            self._send("COMMIT")  # skipped by the server, as all behind it is, if a statement before it has failed
            self.flush()
        except BaseException:
            if not self._session.closed:
                self._abandon()
            raise
        finally:
            self._in_transaction = False

    @asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        self._send("SAVEPOINT inner_transaction")
        try:
            yield
            self._send("RELEASE inner_transaction")
            self.flush()
        except BaseException:
            if not self._session.closed:
                self._abandon("ROLLBACK TO inner_transaction")
            raise

    def _abandon(self, how: str = "ROLLBACK") -> None:
        """Undo what was done, whether or not all of it was sent."""
        with contextlib.suppress(psycopg.Error):  # what comes after the error that counts
            if self._sent:
                self.flush()
        self._send(how)
        self.flush()

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[None]:
        """That is how statements are sent here anyway."""
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
    with contextlib.closing(session):
        one = Direct(session)
        yield cast(Connection, one), cast(Pool, one)
