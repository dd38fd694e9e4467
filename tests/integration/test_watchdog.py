"""The watchdog, with a stand-in for `tallydesk run`: a program that takes the role's lock and beats once."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from trader.config import Settings, WantedRole
from trader.errors import DatabaseError
from trader.watchdog import Report, watch

ROOT = Path(__file__).resolve().parents[2]
SCHEDULER = WantedRole("scheduler", "scheduler")

STAND_IN = """
import os, sys, uuid
from pathlib import Path
import psycopg
kind, name = sys.argv[2], sys.argv[4]
with (Path(os.environ["TALLYDESK_HOME"]) / f"starts-{name}").open("a") as file:
    file.write("x")
if kind == "trader":
    raise SystemExit("a trader that cannot start")
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, application_name="stand-in") as connection:
    if not connection.execute("SELECT pg_try_advisory_lock(hashtextextended('role:' || %s, 0))", [name]).fetchone()[0]:
        raise SystemExit("taken")
    connection.execute(
        "INSERT INTO role (name, kind, instance, host) VALUES (%s, %s, %s, 'here')"
        " ON CONFLICT (name) DO UPDATE SET instance = EXCLUDED.instance, beat_at = clock_timestamp()",
        [name, kind, uuid.uuid4()],
    )
    connection.execute("SELECT pg_sleep(60)")
"""

END_SESSIONS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
 WHERE application_name = 'stand-in' AND datname = current_database()
"""


@pytest.fixture
def settings(
    tmp_path: Path, database: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    if connection.execute("SELECT to_regclass('role')").fetchone() == (None,):
        pytest.fail("the migrations make no table `role`")
    program = tmp_path / "project" / "trader" / "cli" / "main.py"
    program.parent.mkdir(parents=True)
    program.write_text(STAND_IN)
    for package in (program.parent, program.parent.parent):  # without these, an installed `trader` would come first
        (package / "__init__.py").touch()
    monkeypatch.setenv("DATABASE_URL", database)
    home = tmp_path / "home"
    yield Settings(home=home, project=tmp_path / "project", database_url=database, roles=(SCHEDULER,))
    connection.execute(END_SESSIONS)


def look(settings: Settings, stale: float = 30.0) -> Report:
    (report,) = watch(settings, stale)
    return report


def starts(settings: Settings, name: str = "scheduler") -> int:
    return (settings.home / f"starts-{name}").stat().st_size


def end_session(connection: psycopg.Connection) -> None:
    assert connection.execute(END_SESSIONS).fetchall() == [(True,)]


def test_a_role_is_started_once_and_then_left_alone(settings: Settings) -> None:
    first = look(settings)
    assert first.started, (settings.home / "log" / "scheduler.log").read_text()
    assert str(look(settings)) == "scheduler: alive"
    assert starts(settings) == 1


def test_s45_a_role_that_died_is_started_again(settings: Settings, connection: psycopg.Connection) -> None:
    look(settings)
    end_session(connection)
    assert look(settings).text == "started, because it was not running"
    assert starts(settings) == 2


def test_a_role_that_hangs_is_replaced(settings: Settings, connection: psycopg.Connection) -> None:
    look(settings)
    before = connection.execute("SELECT instance FROM role").fetchone()
    report = look(settings, stale=0.0)
    assert report.started
    assert "had not beaten" in report.text
    deadline = time.monotonic() + 20
    while connection.execute("SELECT instance FROM role").fetchone() == before:
        assert time.monotonic() < deadline, "the new one did not register"
        time.sleep(0.01)


def test_an_old_beat_does_not_condemn_one_that_has_only_just_started(
    settings: Settings, connection: psycopg.Connection
) -> None:
    look(settings)
    connection.execute("UPDATE role SET beat_at = now() - interval '1 hour'")
    assert look(settings).text == "alive"


def test_every_kind_and_number_is_looked_after(settings: Settings) -> None:
    roles = (SCHEDULER, WantedRole("worker", "worker-1"), WantedRole("worker", "worker-2"))
    many = Settings(home=settings.home, project=settings.project, database_url=settings.database_url, roles=roles)
    assert {(report.name, report.started) for report in watch(many)} == {(role.name, True) for role in roles}


def test_one_that_ends_at_once_is_reported_with_its_log(settings: Settings) -> None:
    roles = (WantedRole("trader", "trader-1"),)
    many = Settings(home=settings.home, project=settings.project, database_url=settings.database_url, roles=roles)
    report = look(many)
    assert report.failed
    assert "trader-1.log" in report.text
    assert "cannot start" in (settings.home / "log" / "trader-1.log").read_text()


def test_s45_five_at_once_start_one(settings: Settings) -> None:
    code = """
import sys
from pathlib import Path
from trader.config import Settings, WantedRole
from trader.watchdog import watch
home, project, url = sys.argv[1:]
role = WantedRole("scheduler", "scheduler")
for report in watch(Settings(home=Path(home), project=Path(project), database_url=url, roles=(role,))):
    print(report)
"""
    command = [sys.executable, "-c", code, str(settings.home), str(settings.project), str(settings.database_url)]

    def run(_: int) -> str:
        done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout

    with ThreadPoolExecutor(5) as pool:
        said = "".join(pool.map(run, range(5)))
    assert said.count("started") == 1
    assert starts(settings) == 1


def test_a_database_without_tables_is_told_what_to_do(settings: Settings, empty_database: str) -> None:
    empty = Settings(home=settings.home, project=settings.project, database_url=empty_database)
    with pytest.raises(DatabaseError, match="tallydesk migrate"):
        list(watch(empty))
