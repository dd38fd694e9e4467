"""The ground a benchmark stands on: a throw-away PostgreSQL with fsync on, or the server that DATABASE_URL_BENCH names.

Databases are made for the run and dropped after it; nothing else on the server is touched.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import LiteralString, TypeVar
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from trader.embedded import EmbeddedServer
from trader.migrate import upgrade

Ours = TypeVar("Ours")
Floor = TypeVar("Floor")


class Ground:
    """A server, and the databases made on it."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self.commit_delay = 0
        """Microseconds that PostgreSQL waits before each flush of its log, as on a slower disk; group commit stays."""
        self._made: list[str] = []

    def database(self, *, migrated: bool = True) -> str:
        """The URL of a new database: with our whole schema, or empty."""
        name = f"bench_{uuid.uuid4().hex[:10]}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        self._made.append(name)
        url = urlsplit(self.url)._replace(path=f"/{name}").geturl()
        if migrated:
            upgrade(url)
        if self.commit_delay:
            with psycopg.connect(self.url, autocommit=True) as connection:
                for setting, value in (("commit_delay", self.commit_delay), ("commit_siblings", 0)):
                    change = sql.SQL("ALTER DATABASE {} SET {} = {}")
                    connection.execute(change.format(sql.Identifier(name), sql.Identifier(setting), sql.Literal(value)))
        return url

    def commit_time(self, commits: int = 200) -> float:
        """Milliseconds of one bare commit at a time, the median: what the disk of the day is like."""
        with psycopg.connect(self.database(migrated=False), autocommit=True) as connection:
            connection.execute("CREATE TABLE one (n int)")
            times = [_timed(connection, "INSERT INTO one VALUES (1)") for _ in range(commits)]
        return sorted(times)[commits // 2]

    def drop(self) -> None:
        """Drop what was made."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for name in self._made:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """A server for the run. The embedded one lives on a disk (TMPDIR), so that a commit costs what it costs."""
    if url := os.environ.get("DATABASE_URL_BENCH"):
        made = Ground(url, f"PostgreSQL {_version(url)} at DATABASE_URL_BENCH")
        try:
            yield made
        finally:
            made.drop()
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started here is stopped here
    home = Path(tempfile.mkdtemp(prefix="bench-"))
    home.chmod(0o711)  # root's server runs as another user
    server = EmbeddedServer(home)
    try:
        url = server.ensure("postgres")
        yield Ground(url, f"PostgreSQL {_version(url)} embedded, fsync on")
    finally:
        base = server.base
        server.stop("immediate")
        shutil.rmtree(base, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def _timed(connection: psycopg.Connection, statement: LiteralString) -> float:
    started = time.perf_counter()
    connection.execute(statement)
    return 1000 * (time.perf_counter() - started)


def _version(url: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    assert row is not None
    return str(row[0]).split()[0]


async def in_turn(
    rounds: int, ours: Callable[[], Awaitable[Ours]], floor: Callable[[], Awaitable[Floor]]
) -> tuple[list[Ours], list[Floor]]:
    """Run A B A B: what else the machine does meanwhile falls on both alike."""
    first: list[Ours] = []
    second: list[Floor] = []
    for _ in range(rounds):
        first.append(await ours())
        second.append(await floor())
        await asyncio.sleep(0)
    return first, second
