"""Keeping roles alive without process ids: a role lives if its advisory lock is held and its beat is fresh.

One connection of the role's process holds the lock and beats. So to end a role that hangs is to end that session: a
process that wakes up later finds its session gone, and exits.
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from trader import schema
from trader.config import Settings, WantedRole
from trader.embedded import database_url
from trader.errors import ConfigError, DatabaseError
from trader.role import STALE_SECONDS

START_LIMIT = 25.0
"""Seconds that a new process has to take its lock. Less than cron's minute."""
LONGEST_LOG = 10_000_000

Connection = psycopg.Connection[Any]

# A session that has just taken the lock may not have written its first beat: it is as fresh as its session.
HOLDER: LiteralString = """
SELECT l.pid, extract(epoch FROM clock_timestamp() - greatest(r.beat_at, a.backend_start))
  FROM pg_locks l
  JOIN pg_stat_activity a USING (pid)
  LEFT JOIN role r ON r.name = %(name)s
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended('role:' || %(name)s, 0)
"""

END_SESSION: LiteralString = "SELECT pg_terminate_backend(%(pid)s, 5000)"


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and done, about one role."""

    name: str
    text: str
    started: bool = False
    failed: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def watch(settings: Settings, stale: float = STALE_SECONDS) -> Iterator[Report]:
    """Look after every wanted role once; `stale` is the age of a beat, in seconds, that a role may not reach.

    If another watchdog is at it, do nothing.

    DatabaseError if the database cannot be reached, or is at another revision of the schema than this program needs.
    """
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        lock = (settings.home / "watchdog.lock").open("a")
    except OSError as error:
        raise ConfigError(f"TALLYDESK_HOME {settings.home} cannot be used: {error.strerror}") from error
    with lock:  # children do not inherit it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        url = database_url(settings)
        with psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="watchdog") as connection:
            yield from _watch(settings, connection, stale)


def _watch(settings: Settings, connection: Connection, stale: float) -> Iterator[Report]:
    if why := schema.misfit(_revision(connection)):  # each of them would end at once, and say so in its own log
        raise DatabaseError(why)
    starting = []
    for role in settings.roles:
        why = _why_not_alive(connection, role.name, stale)
        if why is None:
            yield Report(role.name, "alive")
        else:
            starting.append((role, why, _start(settings, role)))
    yield from _wait(settings, connection, starting)


def _why_not_alive(connection: Connection, name: str, stale: float) -> str | None:
    """None if the role is alive; else why it has to be started. A session that hangs is ended on the way."""
    holder = connection.execute(HOLDER, {"name": name}).fetchone()
    if holder is None:
        return "it was not running"
    pid, age = holder
    if age < stale:
        return None
    if not _row(connection, END_SESSION, {"pid": pid})[0]:
        raise DatabaseError(f"the session of {name} hangs and could not be ended (backend {pid})")
    return f"it had not beaten for {age:.0f} s"


def _start(settings: Settings, role: WantedRole) -> subprocess.Popen[bytes]:
    """Start a role in a session of its own, so that nothing that ends this one reaches it."""
    log = log_of(settings, role.name)
    log.parent.mkdir(exist_ok=True)
    if log.exists() and log.stat().st_size > LONGEST_LOG:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "trader.cli.main", "run", role.kind, "--name", role.name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=settings.project,
            env={**os.environ, "TALLYDESK_HOME": str(settings.home)},
        )


def log_of(settings: Settings, name: str) -> Path:
    """The file that a role started by the watchdog writes to."""
    return settings.home / "log" / f"{name}.log"


def _wait(
    settings: Settings, connection: Connection, starting: list[tuple[WantedRole, str, subprocess.Popen[bytes]]]
) -> Iterator[Report]:
    """Report each start when its lock is held: until then, the next watchdog would start it again."""
    end = time.monotonic() + START_LIMIT
    while starting:
        for entry in list(starting):
            role, why, child = entry
            log = log_of(settings, role.name)
            if connection.execute(HOLDER, {"name": role.name}).fetchone():
                yield Report(role.name, f"started, because {why}", started=True)
            elif child.poll() is not None:
                yield Report(role.name, f"{why}; a new one ended at once ({child.returncode}): see {log}", failed=True)
            elif time.monotonic() > end:
                yield Report(role.name, f"{why}; a new one is not up after {START_LIMIT:.0f} s: see {log}", failed=True)
            else:
                continue
            starting.remove(entry)
        time.sleep(0.05)


def _revision(connection: Connection) -> str | None:
    """The revision of the schema; None if it was never migrated."""
    try:
        row = connection.execute(schema.REVISION).fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    return str(row[0]) if row else None


def _row(connection: Connection, statement: LiteralString, values: dict[str, object] | None = None) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(statement, values).fetchone()
    if row is None:
        raise AssertionError(f"a row was certain here: {statement}")
    return row
