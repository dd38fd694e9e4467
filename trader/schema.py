"""Does this program fit the database? Each process asks before its first statement and while it runs.

A step of the schema changes what statements mean, so a program must not work with another revision than its own. The
revisions are the names of the files that lead to them: alembic, which takes half a second to import, is not needed.
"""

from functools import cache

import psycopg

from trader import config
from trader.db import Connection, fetch_all
from trader.errors import DatabaseError

STEPS = config.PROJECT / "migrations" / "sql"

REVISION = "SELECT version_num AS revision FROM alembic_version"


@cache
def known() -> list[str]:
    """Every revision that this program knows, oldest first; the last is the one it works with.

    Read once: an upgrade puts new files beside a process that goes on running the old program. DatabaseError if the
    installation has no migrations.
    """
    found = sorted(path.name.removesuffix(".up.sql") for path in STEPS.glob("*.up.sql"))
    if not found:
        raise DatabaseError(f"{STEPS} holds no migrations: the installation is damaged")
    return found


def misfit(revision: str | None) -> str | None:
    """Why this program cannot work with a database at `revision` (None: never migrated), in a sentence that names what
    to do; None if it can."""
    revisions = known()
    if revision == revisions[-1]:
        return None
    if revision is None:
        return "the database has no tables yet: run `tallydesk migrate` first"
    if revision in revisions:
        return f"the database is at {revision}, this Tallydesk needs {revisions[-1]}: run `tallydesk migrate` first"
    return (
        f"a newer Tallydesk has migrated this database to {revision}, and this one knows nothing after "
        f"{revisions[-1]}: run the newer one"
    )


async def check(connection: Connection) -> None:
    """DatabaseError if this program cannot work with the database as it is."""
    if why := misfit(await revision_of(connection)):
        raise DatabaseError(why)


async def revision_of(connection: Connection) -> str | None:
    """The revision of the database; None if it was never migrated."""
    try:
        rows = await fetch_all(connection, REVISION)
    except psycopg.errors.UndefinedTable:
        return None
    return str(rows[0].revision) if rows else None
