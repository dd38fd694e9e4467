"""Moving a database from one version of the schema to another, forward and back.

Each step is a pair of files, `migrations/sql/NNNN_name.up.sql` and `.down.sql`, and a version file that orders it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import command, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg.errors import InsufficientPrivilege

from trader import config
from trader.embedded import database_url
from trader.errors import DatabaseError, InputError, Unreachable

DIRECTORY = config.PROJECT / "migrations"
LOCK = "tallydesk:migrate"


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at `url` forward to `revision`; nothing happens if it is there already.

    All steps or none. InputError: there is no such revision. DatabaseError: the database cannot be reached, a newer
    Tallydesk has migrated it, or its user may not.
    """
    with _errors(url):
        command.upgrade(_config(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Take the database at `url` back to `revision` ("base": before the first). Errors as for `upgrade`.

    What the later steps made is dropped with all that it holds.
    """
    with _errors(url):
        command.downgrade(_config(url), revision)


def current(url: str) -> str | None:
    """The revision that the database at `url` is at; None if it was never migrated. DatabaseError if not reached."""
    engine = sa.create_engine(connection_url(url), poolclass=sa.NullPool)
    with _errors(url), engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """The revision that this version of Tallydesk works with."""
    newest = ScriptDirectory.from_config(_config(None)).get_current_head()
    if newest is None:
        raise DatabaseError(f"{DIRECTORY} holds no migrations: the installation is damaged")
    return newest


def revisions() -> list[str]:
    """Every revision, oldest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config(None)).walk_revisions()][::-1]


def forward(revision: str) -> None:
    """For version files: run the statements that lead to `revision`."""
    _run_file(f"{revision}.up.sql")


def backward(revision: str) -> None:
    """For version files: run the statements that lead back from `revision`."""
    _run_file(f"{revision}.down.sql")


def connection_url(url: str | None) -> sa.URL:
    """`url` for SQLAlchemy on psycopg; the installation's own database if None."""
    if url is None:
        url = database_url(config.load())
    return sa.make_url(url).set(drivername="postgresql+psycopg")


def _run_file(name: str) -> None:
    # The one way that takes a whole file as it is: `op.execute` would read `:name` as a parameter, and the driver `%`.
    text = (DIRECTORY / "sql" / name).read_text(encoding="utf-8")
    op.get_bind().execution_options(no_parameters=True).exec_driver_sql(text)


def _config(url: str | None) -> Config:
    made = Config()
    made.set_main_option("script_location", str(DIRECTORY).replace("%", "%%"))
    made.attributes["url"] = url
    return made


@contextmanager
def _errors(url: str) -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        at = current(url)
        if at is not None and at not in revisions():
            raise DatabaseError(
                f"the database is at revision {at!r}, which this version of Tallydesk does not know: a newer one "
                "migrated it; install that one"
            ) from error
        raise InputError(f"{error}; known revisions: base, {', '.join(revisions())}, head") from error
    except sa.exc.ProgrammingError as error:
        if not isinstance(error.orig, InsufficientPrivilege):
            raise
        raise DatabaseError(
            f"the database cannot be migrated: {first_line(error.orig)}: who does it must own it and may make roles "
            "(ALTER ROLE ... CREATEROLE; afterwards NOCREATEROLE will do)"
        ) from None
    except sa.exc.OperationalError as error:
        raise Unreachable(f"PostgreSQL cannot be reached: {first_line(error.orig)}") from error


def first_line(error: BaseException | None) -> str:
    """The first line of an error's text. psycopg and libpq name host, port and user there, never the password."""
    return (str(error).strip().splitlines() or ["no reason given"])[0]
