"""An embedded PostgreSQL for a trial or a single machine: one server per home, shared by many short-lived processes.

Nobody owns the server. `ensure` is idempotent and safe to call from any number of processes at once; only an explicit
`stop` stops it. Nothing here believes a process id that was written down: ids are used again after a restart.

    home/postgres.lock        flock: one process at a time looks after the server
    home/postgres/            or, if the server's user cannot come here, a link to a directory where it can
        data/  s/             the cluster; its only socket (0700, no TCP: that is why `trust` is safe)
        postgres.log control.log
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from trader.config import Settings
from trader.errors import ConfigError, DatabaseError
from trader.programs import ServerUser, copy_for, major, server_user, user_name, wheel_programs

OWNER = "tallydesk"
DATABASE = "tallydesk"
PORT = 5432
LONGEST_SOCKET = 100
"""Bytes: the kernel takes 104 (macOS) to 108 (Linux)."""
LONGEST_LOG = 10_000_000
"""Bytes of log at a start that make it the old log."""
SYSTEM_STATE = Path("/var/lib/tallydesk")

ACCEPTING, NOBODY = 0, 2
"""What pg_isready answers (1: starting or stopping)."""

_CONF = """\
# Written by Tallydesk before every start: use ALTER SYSTEM for settings of your own.
listen_addresses = ''
unix_socket_directories = '{socket}'
unix_socket_permissions = 0700
port = {port}
max_connections = 100
shared_buffers = 128MB
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %a '
jit = off
# Neither systemd's RemoveIPC nor a /dev/shm of 64 MB can hurt it.
dynamic_shared_memory_type = mmap
idle_in_transaction_session_timeout = '60s'
"""
_CONF_OF_TESTS = """\
# A killed server loses nothing here either (synchronous_commit stays on); only a power cut would hurt.
fsync = off
full_page_writes = off
max_wal_size = 4GB
max_connections = 400
"""
_HBA = """\
# Written by Tallydesk. The socket's directory is 0700: who can connect is its owner, or root.
local all all trust
local replication all trust
"""


class EmbeddedServer:
    """The PostgreSQL server of one home directory.

    `pg_bin` is the directory of its programs (default: those of the wheel, PostgreSQL 18). `tests` gives up what keeps
    data safe over a power cut (fsync, checksums) for speed. `limit` is the longest start, in seconds; `patience` how
    long backends may outlive a postmaster that was killed. `outside` is where root's clusters live if the server's user
    cannot reach `home`.
    """

    def __init__(
        self,
        home: Path,
        *,
        pg_bin: Path | None = None,
        tests: bool = False,
        limit: float = 120.0,
        patience: float = 10.0,
        outside: Path = SYSTEM_STATE,
    ) -> None:
        self.home = Path(home).absolute()
        self._given_bin = pg_bin
        self._tests = tests
        self._limit = limit
        self._patience = patience
        self._outside = outside

    def ensure(self, database: str = DATABASE, unless: Callable[[], bool] = lambda: False) -> str:
        """Make sure that the server runs and has `database`; return the URL to connect with.

        Nothing is started any more if `unless`, asked when the lock is held (somebody may have stopped the server while
        we waited for it). ConfigError: the home cannot be used (path too long, other owner, other major version, no
        programs). DatabaseError: the server does not start; the message names its log.
        """
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", database):
            raise ConfigError(f"database name {database!r}: lower-case letters, digits and _ are allowed")
        with self._locked():
            if unless():
                return self.url(database)
            if not (self.data / "PG_VERSION").exists():
                self._make_cluster()
            self._check_major()
            self._start()
            self._make_database(database)
        return self.url(database)

    def stop(self, mode: str = "fast") -> bool:
        """Stop the server (`smart`, `fast`, `immediate`, as pg_ctl means them); True if it ran.

        DatabaseError if it does not stop in time.
        """
        if not (self.data / "PG_VERSION").exists():
            return False
        with self._locked():
            if not self._lives():
                return False
            try:
                self._control("pg_ctl", "-D", self.data, "-w", "-t", int(self._limit), "-m", mode, "stop")
            except DatabaseError:
                if self._lives():  # else it ended by itself in this moment, as it does on a full disk
                    raise
        return True

    def _lives(self) -> bool:
        return self._answer() != NOBODY or self.pid in (self._processes() or [])

    def url(self, database: str = DATABASE) -> str:
        """The URL of `database` on this server, whether or not it runs."""
        return f"postgresql://{OWNER}@/{database}?host={quote(str(self.socket))}"

    @property
    def exists(self) -> bool:
        """True if there is a cluster, running or not."""
        return (self.data / "PG_VERSION").exists()

    @property
    def running(self) -> bool:
        """True if the server accepts connections."""
        return (self.data / "PG_VERSION").exists() and self._answer() == ACCEPTING

    @property
    def pid(self) -> int | None:
        """The postmaster's process id as its file gives it, for a person to read; None without a file."""
        try:
            return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None

    @property
    def programs(self) -> Path:
        """The directory of psql, pg_dump and the others that belong to this server."""
        return self._given_bin or wheel_programs()

    @property
    def base(self) -> Path:
        """The directory of everything that the server's user owns."""
        return (self.home / "postgres").resolve()

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def socket(self) -> Path:
        """The directory of the server's socket."""
        return self.base / "s"

    @property
    def log(self) -> Path:
        return self.base / "postgres.log"

    # Places and people

    @cached_property
    def _user(self) -> ServerUser:
        return server_user(self.data)

    @cached_property
    def _bin(self) -> Path:
        if self._user.other and not self._user.can_run(self.programs):
            return copy_for(self._user, self.programs, self.base)
        return self.programs

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the home. It dies with its holder: a kill leaves nothing to clean up."""
        try:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (self.home / "postgres.lock").open("a")
        except OSError as error:
            raise ConfigError(f"TALLYDESK_HOME {self.home} cannot be used: {error.strerror}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._make_places()
            yield

    def _make_places(self) -> None:
        place = self.home / "postgres"
        if self._user.other and not place.exists() and not self._user.can_enter(self.home):
            self._open_home_or_move_out(place)
        path = self.socket / f".s.PGSQL.{PORT}"
        if len(os.fsencode(path)) >= LONGEST_SOCKET:
            raise ConfigError(
                f"TALLYDESK_HOME is too long for a socket: {path} has {len(os.fsencode(path))} bytes, fewer than "
                f"{LONGEST_SOCKET} are allowed; set TALLYDESK_HOME to a shorter path"
            )
        for directory in (self.base, self.socket):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._user.own(directory)
            self._check_owner(directory)
            directory.chmod(0o700)

    def _open_home_or_move_out(self, place: Path) -> None:
        """Root's home is closed to others: let the server's user pass through ours, else keep the cluster elsewhere."""
        if self.home.stat().st_uid == 0 and self.home.stat().st_mode & 0o777 == 0o700:
            os.chown(self.home, 0, self._user.gid)
            self.home.chmod(0o710)
            if self._user.can_enter(self.home):
                return
        outside = self._outside / hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        place.unlink(missing_ok=True)  # a link whose target was deleted
        place.symlink_to(outside)  # written down, so that a later chmod cannot make the cluster look lost

    def _check_owner(self, directory: Path) -> None:
        owner = directory.stat().st_uid
        if owner != self._user.uid:
            raise ConfigError(
                f"{directory} belongs to user {user_name(owner)}, and the server would run as {self._user.name}: "
                "run this as the owner, or set TALLYDESK_HOME to a directory of your own"
            )

    # Running PostgreSQL's programs

    def _run(self, program: str, *arguments: object, script: str = "") -> int:
        """Run a program to its end. Its output is never a pipe: the server would inherit it, and a reader hang."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | {"LC_ALL": "C"}
        with open(self.base / "control.log", "a") as output:
            return subprocess.run(
                [self._bin / program, *map(str, arguments)],
                check=False,
                input=script,
                text=True,
                stdout=output,
                stderr=output,
                cwd=self.base,
                env=environment,
                **self._user.child,
            ).returncode

    def _control(self, program: str, *arguments: object, script: str = "") -> None:
        if code := self._run(program, *arguments, script=script):
            raise DatabaseError(f"{program} failed ({code}); see {self.base / 'control.log'} and {self.log}")

    def _answer(self) -> int:
        return self._run("pg_isready", "-q", "-t", 3, "-h", self.socket, "-p", PORT, "-U", OWNER, "-d", "postgres")

    # The cluster

    def _make_cluster(self) -> None:
        fresh = self.base / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        locale = ["--locale-provider=builtin", "--locale=C.UTF-8"] if major(self._bin) >= 17 else ["--locale=C"]
        safety = ["--no-sync"] if self._tests else ["--data-checksums"]
        self._control("initdb", "-D", fresh, "-U", OWNER, "-A", "trust", "-E", "UTF8", *safety, *locale)
        with open(fresh / "postgresql.conf", "a") as file:
            file.write("\ninclude 'tallydesk.conf'\n")
        (fresh / "pg_hba.conf").write_text(_HBA)
        fresh.replace(self.data)  # half an initdb is never taken for a cluster
        directory = os.open(self.base, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _check_major(self) -> None:
        have, wanted = (self.data / "PG_VERSION").read_text().strip(), str(major(self._bin))
        if have != wanted:
            raise ConfigError(
                f"{self.data} was made by PostgreSQL {have}, and the programs in {self.programs} are version {wanted}: "
                f"set TALLYDESK_PG_BIN to the programs of version {have}, or TALLYDESK_HOME to another directory "
                "(pg_dump with the old programs, then psql with the new ones, moves the data)"
            )

    def _start(self) -> None:
        now = time.monotonic()
        end, kill_at = now + self._limit, now + self._patience
        while (answer := self._answer()) != ACCEPTING:
            alive = self._processes()
            if answer == NOBODY and not alive and self._start_once(sure=alive is not None):
                return
            if answer == NOBODY and alive and time.monotonic() > kill_at and self.pid not in alive:
                for process in alive:  # a backend deep in a query outlives its postmaster and blocks the next one
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
            if time.monotonic() > end:
                raise DatabaseError(f"the embedded PostgreSQL did not start in {self._limit:.0f} s; see {self.log}")
            time.sleep(0.1)

    def _start_once(self, *, sure: bool) -> bool:
        if sure:  # these may name a zombie, or a stranger who got the number: PostgreSQL would refuse to start
            for stale in (self.data / "postmaster.pid", self.socket / f".s.PGSQL.{PORT}.lock"):
                stale.unlink(missing_ok=True)
        conf = _CONF.format(socket=str(self.socket).replace("'", "''"), port=PORT)
        (self.data / "tallydesk.conf").write_text(conf + (_CONF_OF_TESTS if self._tests else ""))
        self._user.own(self.data / "tallydesk.conf")
        if self.log.exists() and self.log.stat().st_size > LONGEST_LOG:
            self.log.replace(self.log.with_suffix(".log.1"))
        if self._run("pg_ctl", "-D", self.data, "-l", self.log, "-w", "-t", int(self._limit), "start") == 0:
            return True
        if self._answer() == NOBODY and not self._processes():  # it said no: asking again gives the same answer
            raise DatabaseError(f"the embedded PostgreSQL does not start: {self._last_words()} (see {self.log})")
        return False

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()[-50:]
        except FileNotFoundError:
            return "it wrote no log"
        fatal = [line for line in lines if "FATAL" in line or "PANIC" in line]
        return fatal[-1].partition("] ")[2].strip() if fatal else "it gave no reason"

    def _make_database(self, database: str) -> None:
        connect = ["-Xq", "-v", "ON_ERROR_STOP=1", "-h", self.socket, "-p", PORT, "-U", OWNER, "-d", "postgres"]
        missing = f"NOT EXISTS (SELECT FROM pg_database WHERE datname = '{database}')"
        # psql runs what the query answers, which is nothing if the database is there.
        script = f"SELECT 'CREATE DATABASE {database}' WHERE {missing} \\gexec\n"
        self._control("psql", *connect, script=script)

    def _processes(self) -> list[int] | None:
        """The cluster's live processes, orphans too: each stands in the data directory, and a zombie stands nowhere.

        None where there is no /proc to ask (macOS).
        """
        if not Path("/proc/self/cwd").exists():
            return None
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # gone, or another user's
                    if (entry / "cwd").samefile(self.data):
                        found.append(int(entry.name))
        return found


def server_of(settings: Settings) -> EmbeddedServer:
    """The embedded server of an installation, whether it is used or not."""
    return EmbeddedServer(settings.home, pg_bin=settings.pg_bin)


def database_url(settings: Settings) -> str:
    """The URL of the installation's database: DATABASE_URL, else the embedded server, started if need be.

    Errors as for `EmbeddedServer.ensure`.
    """
    return settings.database_url or server_of(settings).ensure()


def existing_url(settings: Settings) -> str:
    """Like `database_url`, for commands that only look: DatabaseError if there is no embedded cluster to start."""
    if settings.database_url is None and not server_of(settings).exists:
        raise DatabaseError(
            f"there is no database in {settings.home} yet: `tallydesk migrate` makes one; if you have one elsewhere, "
            "set DATABASE_URL or TALLYDESK_HOME"
        )
    return database_url(settings)
