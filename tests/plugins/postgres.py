"""PostgreSQL for the tests: one server for a run (all xdist workers share it), one database for a test.

TEST_DATABASE_URL, if set, names the server. Else a container serves if a Docker engine answers and has (or gets) the
image. Else the embedded server does, in memory and without fsync. TEST_PG=container or TEST_PG=embedded insists on one
of the two; TEST_PG_BIN is the directory of another PostgreSQL's programs for the embedded server.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from trader.embedded import EmbeddedServer
from trader.programs import version

PREFIX = "tallydesk-test-"
ADMIN = "postgres"
WORKER_INPUT = "tallydesk_postgres"


@dataclass(frozen=True)
class Served:
    """What serves this run. It is plain data, so that xdist workers can be told."""

    name: str
    """For people: what it is, and which version."""
    directory: str
    """Where the run keeps its locks, and the embedded server its data."""
    run: str
    """A word of this run alone: a part of the names of its databases."""
    url: str | None = None
    """Any database of the server; None: the embedded one, started when a test first needs it."""
    pg_bin: str | None = None

    def server(self) -> EmbeddedServer:
        return EmbeddedServer(Path(self.directory), pg_bin=Path(self.pg_bin) if self.pg_bin else None, tests=True)

    def ensure(self) -> str:
        """The URL of a database to administer the server from."""
        return self.url or self.server().ensure(ADMIN)


@dataclass
class Run:
    """The controller's side: what to undo when the run ends."""

    served: Served
    ends: list[Callable[[], object]] = field(default_factory=list)


RUN = pytest.StashKey[Run]()
SERVED = pytest.StashKey[Served]()


def choose() -> Run:
    """Go down the ladder; a rung that was asked for by name and cannot serve is an error."""
    directory, unlock = _directory()
    ends: list[Callable[[], object]] = [unlock, lambda: shutil.rmtree(directory, ignore_errors=True)]
    run = uuid.uuid4().hex[:8]
    wanted = os.environ.get("TEST_PG", "")
    if wanted not in {"", "container", "embedded"}:
        raise pytest.UsageError(f"TEST_PG is {wanted!r}: allowed are container and embedded")
    if url := os.environ.get("TEST_DATABASE_URL"):
        return Run(Served(f"PostgreSQL {_asked(url)} at TEST_DATABASE_URL", str(directory), run, url), ends)
    if wanted == "container" or (wanted == "" and _engine_may_answer()):
        try:
            return _container(directory, run, ends)
        except Exception as error:
            if wanted == "container":
                raise
            warnings.warn(f"no PostgreSQL in a container, the embedded one serves: {error!r}", stacklevel=1)
    pg_bin = os.environ.get("TEST_PG_BIN")
    served = Served("", str(directory), run, pg_bin=pg_bin)
    name = f"PostgreSQL {version(served.server().programs)} embedded" + (f" ({pg_bin})" if pg_bin else "")
    served = Served(name, str(directory), run, pg_bin=pg_bin)
    return Run(served, [lambda: served.server().stop("immediate"), *ends])


def _asked(url: str) -> str:
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    assert row is not None
    return str(row[0]).split()[0]


def _engine_may_answer() -> bool:
    """Cheap: without an engine it must cost nothing."""
    return bool(os.environ.get("DOCKER_HOST")) or Path("/var/run/docker.sock").exists()


def _container(directory: Path, run: str, ends: list[Callable[[], object]]) -> Run:
    from testcontainers.community.postgres import PostgresContainer

    image = os.environ.get("TEST_PG_IMAGE", "postgres:18-alpine")
    container = PostgresContainer(image, driver=None)
    container.start()
    url = container.get_connection_url()
    return Run(
        Served(f"PostgreSQL {_asked(url)} in container {image}", str(directory), run, url), [container.stop, *ends]
    )


def _directory() -> tuple[Path, Callable[[], object]]:
    """A directory in memory if there is room, locked while the run lives; those that a killed run left are removed."""
    memory = Path("/dev/shm")
    room = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30
    parent = memory if room else Path(tempfile.gettempdir())
    for old in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or going away just now
            _remove_if_dead(old)
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    directory.chmod(0o711)  # root's tests run the server as another user
    lock = (directory / "run.lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return directory, lock.close


def _remove_if_dead(directory: Path) -> None:
    if time.time() - directory.stat().st_mtime < 60:
        return  # its run may be about to lock it
    with (directory / "run.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        EmbeddedServer(directory, tests=True).stop("immediate")
        shutil.rmtree(directory, ignore_errors=True)


# Hooks: the controller chooses, workers are told, the controller cleans up.


def pytest_configure(config: pytest.Config) -> None:
    told = getattr(config, "workerinput", {}).get(WORKER_INPUT)
    if told:
        config.stash[SERVED] = Served(**json.loads(told))
    elif not config.option.collectonly:
        config.stash[RUN] = choose()
        config.stash[SERVED] = config.stash[RUN].served


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput[WORKER_INPUT] = json.dumps(vars(node.config.stash[SERVED]))


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"database: {config.stash[SERVED].name}"] if SERVED in config.stash else []


def pytest_unconfigure(config: pytest.Config) -> None:
    if run := config.stash.get(RUN, None):
        for end in run.ends:
            end()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Tell `scripts/test` what served and how many tests ran."""
    if (path := os.environ.get("TALLYDESK_TEST_REPORT")) and SERVED in config.stash:
        kinds = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
        counts = {kind: len(terminalreporter.stats.get(kind, [])) for kind in kinds}
        Path(path).write_text(json.dumps({"database": config.stash[SERVED].name, **counts}))


# Fixtures


def with_database(url: str, name: str) -> str:
    """`url` with another database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> str:
    """The URL of the run's server, as one who may do everything. For tests: `database`, unless they need two."""
    return pytestconfig.stash[SERVED].ensure()


@pytest.fixture(scope="session")
def admin(server: str) -> Iterator[psycopg.Connection]:
    """A session on the server, for creating and dropping databases."""
    with psycopg.connect(server, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="session")
def template(pytestconfig: pytest.Config, server: str, admin: psycopg.Connection) -> Iterator[str]:
    """The name of a migrated database that the tests' databases are copies of; the first worker makes it."""
    served = pytestconfig.stash[SERVED]
    name = f"template_{served.run}"
    with (Path(served.directory) / "template.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not admin.execute("SELECT FROM pg_database WHERE datname = %s", [name]).rowcount:
            _make_template(server, admin, name)
    yield name
    if RUN in pytestconfig.stash:  # xdist workers end at different times: theirs goes with the server
        _drop(admin, name)


def _make_template(server: str, admin: psycopg.Connection, name: str) -> None:
    from trader.migrate import upgrade

    half = f"{name}_new"
    _drop(admin, half)
    admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(half)))
    upgrade(with_database(server, half))
    admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(half), sql.Identifier(name)))


def _drop(admin: psycopg.Connection, name: str) -> None:
    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@contextlib.contextmanager
def _database(
    pytestconfig: pytest.Config, server: str, admin: psycopg.Connection, template: str | None
) -> Iterator[str]:
    name = f"test_{pytestconfig.stash[SERVED].run}_{uuid.uuid4().hex[:8]}"
    source = sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
    admin.execute(sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(name), source))
    try:
        yield with_database(server, name)
    finally:
        _drop(admin, name)


@pytest.fixture
def database(pytestconfig: pytest.Config, server: str, admin: psycopg.Connection, template: str) -> Iterator[str]:
    """The URL of a fresh, migrated database of this test alone."""
    with _database(pytestconfig, server, admin, template) as url:
        yield url


@pytest.fixture
def empty_database(pytestconfig: pytest.Config, server: str, admin: psycopg.Connection) -> Iterator[str]:
    """The URL of a fresh database without anything in it."""
    with _database(pytestconfig, server, admin, None) as url:
        yield url


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """A session on `database`, autocommit, as in production."""
    with psycopg.connect(database, autocommit=True) as opened:
        yield opened


@pytest.fixture
def short_home() -> Iterator[Path]:
    """An empty TALLYDESK_HOME short enough for a socket, closed to others; an embedded server in it is stopped."""
    directory, unlock = _directory()
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        server = EmbeddedServer(directory, tests=True)
        server.stop("immediate")
        unlock()
        shutil.rmtree(directory, ignore_errors=True)
