"""The embedded server: many at once, kills, lies in pid files, other users."""

import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from trader.embedded import EmbeddedServer
from trader.errors import ConfigError, DatabaseError
from trader.programs import major, wheel_programs

ROOT = Path(__file__).resolve().parents[2]
PG_BIN = Path(os.environ["TEST_PG_BIN"]) if os.environ.get("TEST_PG_BIN") else None

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def embedded(short_home: Path) -> EmbeddedServer:
    return EmbeddedServer(short_home, pg_bin=PG_BIN, tests=True, limit=30, patience=0.5)


def ask(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def tell(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def test_many_at_once_get_one_server(short_home: Path) -> None:
    """Also: nothing inherits a pipe, or the children would not be seen to end."""
    code = """
import sys, psycopg
from pathlib import Path
from trader.embedded import EmbeddedServer
url = EmbeddedServer(Path(sys.argv[1]), pg_bin=Path(sys.argv[2]) if sys.argv[2] else None, tests=True).ensure("many")
with psycopg.connect(url) as connection:
    print(connection.execute("SELECT pg_postmaster_start_time(), current_database()").fetchone())
"""
    command = [sys.executable, "-c", code, str(short_home), str(PG_BIN or "")]

    def run(_: int) -> str:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(run, range(6)))) == 1


def test_it_stops_only_when_told_and_keeps_its_data(embedded: EmbeddedServer) -> None:
    assert not embedded.running
    assert not embedded.stop()
    url = embedded.ensure()
    tell(url, "CREATE TABLE kept AS SELECT 7 AS n")
    assert embedded.running
    assert embedded.stop()
    assert not embedded.running
    assert not embedded.stop()
    assert embedded.ensure(unless=lambda: True) == url
    assert not embedded.running
    assert ask(embedded.ensure(), "SELECT n FROM kept") == 7


class EndsByItself(EmbeddedServer):
    """A server that ends in the moment between being seen and being told to stop."""

    def _run(self, program: str, *arguments: object, script: str = "") -> int:
        if "stop" in arguments:
            super()._run(program, *arguments)
        return super()._run(program, *arguments, script=script)


def test_a_server_that_ends_by_itself_while_it_is_stopped_is_stopped(short_home: Path) -> None:
    server = EndsByItself(short_home, pg_bin=PG_BIN, tests=True, limit=30)
    server.ensure()
    assert server.stop()
    assert not server.running


class Deaf(EmbeddedServer):
    """A server that cannot be told to stop."""

    def _run(self, program: str, *arguments: object, script: str = "") -> int:
        return 1 if "stop" in arguments else super()._run(program, *arguments, script=script)


def test_a_server_that_lives_on_is_not_called_stopped(short_home: Path) -> None:
    server = Deaf(short_home, pg_bin=PG_BIN, tests=True, limit=30)
    server.ensure()
    with pytest.raises(DatabaseError, match="pg_ctl failed"):
        server.stop()
    assert EmbeddedServer(short_home, pg_bin=PG_BIN, tests=True, limit=30).stop()


def test_a_killed_postmaster_is_replaced_and_nothing_committed_is_lost(embedded: EmbeddedServer) -> None:
    tell(embedded.ensure(), "CREATE TABLE kept AS SELECT 7 AS n")
    assert embedded.pid
    os.kill(embedded.pid, signal.SIGKILL)
    assert ask(embedded.ensure(), "SELECT n FROM kept") == 7


def test_a_backend_that_outlives_its_postmaster_is_killed(embedded: EmbeddedServer) -> None:
    url = embedded.ensure()

    def work() -> None:
        with pytest.raises(psycopg.OperationalError), psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DO $$ BEGIN LOOP END LOOP; END $$")  # it never looks whether its postmaster lives

    thread = threading.Thread(target=work)
    thread.start()
    busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO%' AND state = 'active'"
    deadline = time.monotonic() + 20
    while ask(url, busy) == 0:
        assert time.monotonic() < deadline, "the backend did not get to work"
        time.sleep(0.01)
    assert embedded.pid
    os.kill(embedded.pid, signal.SIGKILL)
    assert ask(embedded.ensure(), "SELECT 1") == 1
    thread.join(20)
    assert not thread.is_alive()


def test_a_pid_file_that_names_a_stranger_is_not_believed(embedded: EmbeddedServer) -> None:
    embedded.ensure()
    file = embedded.data / "postmaster.pid"
    lines = file.read_text().split("\n")
    embedded.stop("immediate")
    file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    assert ask(embedded.ensure(), "SELECT 1") == 1


def test_half_a_cluster_is_made_again(embedded: EmbeddedServer) -> None:
    (embedded.base / "data.new" / "base").mkdir(parents=True)
    (embedded.base / "data.new" / "PG_VERSION").write_text("18\n")
    assert ask(embedded.ensure(), "SELECT 1") == 1


def test_a_cluster_of_another_major_version_is_refused(embedded: EmbeddedServer) -> None:
    embedded.data.mkdir(parents=True)
    (embedded.data / "PG_VERSION").write_text("12\n")
    with pytest.raises(ConfigError, match=rf"made by PostgreSQL 12, .* are version {major(embedded.programs)}"):
        embedded.ensure()


def test_settings_that_it_cannot_start_with_are_told_from_its_log(embedded: EmbeddedServer) -> None:
    embedded.ensure()
    embedded.stop()
    with (embedded.data / "postgresql.auto.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(DatabaseError, match=r"no_such_setting|configuration file"):
        embedded.ensure()


def test_a_path_too_long_for_a_socket_is_refused(short_home: Path) -> None:
    with pytest.raises(ConfigError, match=r"TALLYDESK_HOME is too long .* fewer than 100"):
        EmbeddedServer(short_home / ("x" * 90)).ensure()


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"TALLYDESK_HOME .* cannot be used"):
        EmbeddedServer(tmp_path / "file").ensure()


@pytest.mark.parametrize("name", ['x"; drop', "", "Upper", "a" * 64])
def test_names_that_no_database_of_ours_has_are_refused(embedded: EmbeddedServer, name: str) -> None:
    with pytest.raises(ConfigError, match="database name"):
        embedded.ensure(name)


def test_in_production_nothing_is_lost_in_a_power_cut(short_home: Path) -> None:
    server = EmbeddedServer(short_home, pg_bin=PG_BIN)
    safe = "SELECT concat_ws(' ', current_setting('fsync'), current_setting('full_page_writes'), "
    safe += "current_setting('synchronous_commit'), current_setting('data_checksums'))"
    assert ask(server.ensure(), safe) == "on on on on"


def test_sessions_begin_as_we_rely_on(embedded: EmbeddedServer) -> None:
    query = "SELECT concat_ws(' ', current_setting('timezone'), current_setting('jit'), "
    query += "current_setting('listen_addresses'), "
    query += "current_setting('idle_in_transaction_session_timeout'), current_setting('server_encoding'))"
    assert ask(embedded.ensure(), query) == "UTC off  1min UTF8"


@as_root
def test_root_runs_it_as_another_user_behind_a_closed_directory(embedded: EmbeddedServer) -> None:
    embedded.ensure()
    assert embedded.data.stat().st_uid != 0
    assert embedded.socket.stat().st_mode & 0o777 == 0o700


@as_root
def test_roots_closed_home_sends_the_cluster_elsewhere_for_good(short_home: Path) -> None:
    closed, outside = short_home / "closed", short_home / "o"
    closed.mkdir(mode=0o700)
    server = EmbeddedServer(closed / "home", pg_bin=PG_BIN, tests=True, outside=outside)
    try:
        server.ensure()
        assert server.base.parent == outside
        closed.chmod(0o755)  # opening it later must not make the cluster look lost
        again = EmbeddedServer(closed / "home", pg_bin=PG_BIN, tests=True, outside=outside)
        assert again.base == server.base
        assert again.running
    finally:
        server.stop("immediate")


@as_root
@pytest.mark.skipif(PG_BIN is not None, reason="only the wheel's programs can be copied")
def test_programs_that_the_other_user_cannot_reach_are_copied(short_home: Path) -> None:
    closed = short_home / "closed"
    closed.mkdir(mode=0o700)
    wheel = wheel_programs().parent.parent
    (closed / f"{wheel.name}.libs").symlink_to(wheel.with_name(f"{wheel.name}.libs"))
    (closed / wheel.name).symlink_to(wheel)
    server = EmbeddedServer(short_home, pg_bin=closed / wheel.name / "pginstall18" / "bin", tests=True)
    assert ask(server.ensure(), "SELECT 1") == 1
    assert list(server.base.glob("programs-18.*"))


@as_root
def test_a_cluster_of_another_user_is_refused_by_name(short_home: Path) -> None:
    """As user nobody, who finds a cluster that someone else owns."""
    nobody = pwd.getpwnam("nobody")
    place = short_home / "postgres" / "s"
    place.mkdir(parents=True)
    os.chown(short_home, nobody.pw_uid, nobody.pw_gid)
    code = "import sys; from pathlib import Path; from trader.embedded import EmbeddedServer; "
    code += "EmbeddedServer(Path(sys.argv[1])).ensure()"
    done = subprocess.run(
        ["/usr/bin/env", sys.executable, "-c", code, str(short_home)],
        cwd=ROOT, capture_output=True, text=True, check=False, user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[],
    )  # fmt: skip
    if "Permission denied" in done.stderr and "env:" in done.stderr:
        pytest.skip("this Python is out of another user's reach")
    assert "belongs to user root, and the server would run as nobody" in done.stderr
