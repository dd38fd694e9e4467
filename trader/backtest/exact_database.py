"""A throw-away database: a copy of a migrated template on the server at hand, and dropped again in any case."""

import contextlib
import re
import time
import uuid
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege, ObjectInUse

from trader.db import first_line
from trader.errors import DatabaseError, Unreachable
from trader.migrate import head, upgrade

PREFIX = "tallydesk_exact"
TEMPLATE = f"{PREFIX}_template"
ABANDONED_SECONDS = 3600
"""A throw-away database this old in which nobody is was left behind by a run that was killed."""
OWN = "an exact backtest runs in a database of its own, and none may be made here"
_NAME = re.compile(rf"{PREFIX}_(\d+)_[0-9a-f]+")

# Only for a database that is dropped anyway. A commit need not wait for the disk; and one run asks the same few hundred
# statements thousands of times of tables that begin empty, so they are planned once, for large tables. None of these
# changes what a statement does.
SETTINGS = ("synchronous_commit = off", "plan_cache_mode = force_generic_plan", "enable_seqscan = off", "jit = off")


@contextlib.contextmanager
def throw_away(server: str) -> Iterator[str]:
    """The URL of a database with the whole schema and nothing in it, on the server of the URL `server`.

    It is dropped when the block ends, also by an error or Ctrl-C. What a killed run left is dropped by the next one.
    Raises Unreachable, or DatabaseError if the user of the URL may not create databases, or the roles that each has.
    """
    name = f"{PREFIX}_{int(time.time())}_{uuid.uuid4().hex[:8]}"
    with _session(server) as session:
        try:
            _drop_abandoned(session)
            _make(session, server, name)
            for setting in SETTINGS:
                session.execute(sql.SQL("ALTER DATABASE {} SET {}").format(sql.Identifier(name), sql.SQL(setting)))
            yield _with_database(server, name)
        finally:
            if session.closed:
                with _session(server) as another:
                    _drop(another, name)
            else:
                _drop(session, name)


@contextlib.contextmanager
def _session(server: str) -> Iterator[psycopg.Connection]:
    try:
        session = psycopg.connect(server, autocommit=True, connect_timeout=10)
    except psycopg.OperationalError as error:
        raise Unreachable(f"PostgreSQL cannot be reached: {first_line(error)}") from None
    with contextlib.closing(session):
        try:
            yield session
        except InsufficientPrivilege as error:
            raise DatabaseError(
                f"{OWN} ({first_line(error)}): ALTER ROLE ... CREATEDB, or use the embedded server"
            ) from None


def _make(session: psycopg.Connection, server: str, name: str) -> None:
    """Copy the template; one at a time on a server, so that nobody copies what another is just making."""
    session.execute("SELECT pg_advisory_lock(hashtextextended('tallydesk:exact', 0))")
    try:
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        session.execute(copy.format(sql.Identifier(name), sql.Identifier(_template(session, server))))
    finally:
        session.execute("SELECT pg_advisory_unlock(hashtextextended('tallydesk:exact', 0))")


def _template(session: psycopg.Connection, server: str) -> str:
    """The name of a migrated, empty database to copy: made once for each version of the schema, and then kept.

    Each user has one: PostgreSQL lets nobody copy or drop a database of another's, and the tables in it are the
    other's, too.
    """
    user, mine = _mine(session)
    name = f"{TEMPLATE}_{user}_{head()}"
    if name not in mine:
        for old in mine:
            _drop(session, old)
        half = f"{TEMPLATE}_{user}_half"
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(half)))
        _migrate(session, server, half)
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        session.execute(rename.format(sql.Identifier(half), sql.Identifier(name)))
    return name


def _migrate(session: psycopg.Connection, server: str, half: str) -> None:
    """Make the tables of a template; without them it is of no use, and goes."""
    try:
        upgrade(_with_database(server, half))
    except DatabaseError as error:
        _drop(session, half)
        if isinstance(error, Unreachable):
            raise
        raise DatabaseError(f"{OWN}: {error}") from None


def _mine(session: psycopg.Connection) -> tuple[int, list[str]]:
    """The user's number, and the templates that are the user's."""
    ((user,),) = session.execute("SELECT oid::int8 FROM pg_roles WHERE rolname = current_user").fetchall()
    rows = session.execute("SELECT datname FROM pg_database WHERE datdba = %s", [user]).fetchall()
    return user, [name for (name,) in rows if name.startswith(TEMPLATE)]


def _drop_abandoned(session: psycopg.Connection) -> None:
    for (name,) in session.execute("SELECT datname FROM pg_database").fetchall():
        made = _NAME.fullmatch(str(name))
        if made and time.time() - int(made[1]) > ABANDONED_SECONDS:
            with contextlib.suppress(ObjectInUse, InsufficientPrivilege):  # a long run, or somebody else's
                session.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(str(name))))


def _drop(session: psycopg.Connection, name: str) -> None:
    session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _with_database(url: str, name: str) -> str:
    """The URL with another database. One that is named behind the `?` would win over the path: it is taken out."""
    parts = urlsplit(url)
    options = [option for option in parts.query.split("&") if unquote(option.partition("=")[0]) != "dbname"]
    return parts._replace(path=f"/{name}", query="&".join(options)).geturl()
