"""A real cron keeps the desk alive. It needs root, unshare and cron: without them these tests say so and are skipped.

A kill is seen to within a minute by design: the first test takes up to 61 seconds. The second, which takes up to two
minutes, runs if TALLYDESK_SLOW=1. Both print how long it took (pytest -rP).
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.acceptance._installation import COMMAND, ROOT, Installation, wait_until

TICK = 61.0
NEEDED = ("unshare", "cron", "crontab")
MISSING = [name for name in NEEDED if not shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")]
WHY_NOT = "needs root" if os.geteuid() else f"needs {', '.join(MISSING)}" if MISSING else ""
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"A REAL CRON WAS NOT TRIED: it {WHY_NOT}")

HOLDERS = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
   AND (classid::bigint << 32 | objid::bigint) = hashtextextended('role:scheduler', 0)
"""
TICKING = """SELECT count(*) FROM pg_stat_activity WHERE application_name = 'scheduler feeds'"""
ALIVE = "SELECT count(*) FROM role_status WHERE alive"


@pytest.fixture
def cron(installation: Installation, tmp_path: Path) -> Iterator[Installation]:
    """An installation whose roles nobody but cron starts."""
    if _cannot_unshare():
        pytest.skip("A REAL CRON WAS NOT TRIED: this container forbids mount namespaces")
    installation.do("migrate")
    table = tmp_path / "crontab"
    settings = {name: installation.environment[name] for name in ("TALLYDESK_HOME", "PYTHONPATH")}
    settings |= {"PATH": "/usr/bin:/bin", "TALLYDESK_ROLES": "scheduler worker trader"}
    log = installation.home / "watchdog.log"
    lines = [f"{name}={value}" for name, value in settings.items()]
    lines += [f"* * * * * cd {ROOT} && {' '.join(COMMAND)} watchdog --verbose >> {log} 2>&1"]
    table.write_text("\n".join(lines) + "\n")
    script = ROOT / "tests" / "acceptance" / "cron-namespace.sh"
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    with (tmp_path / "cron.log").open("w") as output:
        command = ["unshare", "--mount", "--fork", "--kill-child", "sh", str(script), "root", str(table)]
        daemon = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    yield installation
    assert daemon.poll() is None, (tmp_path / "cron.log").read_text()
    daemon.kill()
    daemon.wait()


def _cannot_unshare() -> int:
    return subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode


class Lookout(threading.Thread):
    """Looks again and again how many schedulers there are: processes, and sessions that queue jobs."""

    def __init__(self, installation: Installation) -> None:
        super().__init__(daemon=True)
        self._installation = installation
        self._over = threading.Event()
        self.processes: Counter[int] = Counter()
        self.sessions: Counter[int] = Counter()

    def run(self) -> None:
        with psycopg.connect(self._installation.server().url(), autocommit=True) as connection:
            while not self._over.wait(0.1):
                self.sessions[value(connection, TICKING)] += 1
                self.processes[len(self._installation.roles("run scheduler"))] += 1

    def end(self) -> None:
        self._over.set()
        self.join()


def log_of(installation: Installation) -> str:
    log = installation.home / "watchdog.log"
    return log.read_text() if log.exists() else "the watchdog has said nothing"


def value(connection: "psycopg.Connection", statement: str) -> int:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.timeout(200)
def test_s45_a_killed_scheduler_is_back_within_61_seconds_and_never_twice(cron: Installation) -> None:
    lookout = Lookout(cron)
    lookout.start()
    at_once = [cron.start("watchdog") for _ in range(5)]
    assert {one.wait() for one in at_once} == {0}
    (first,) = cron.roles("run scheduler")
    with psycopg.connect(cron.server().url(), autocommit=True) as connection:
        wait_until(lambda: value(connection, ALIVE) == 3, said=lambda: cron.running())
        os.kill(first.pid, signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda: value(connection, HOLDERS) == 0, 5)
        wait_until(lambda: value(connection, HOLDERS) == 1, TICK, lambda: log_of(cron))
        took = time.monotonic() - killed
        wait_until(lambda: value(connection, TICKING) == 1, 10)
    lookout.end()

    print(f"cron: a scheduler that was killed was back after {took:.0f} s")
    (second,) = cron.roles("run scheduler")
    assert second.pid != first.pid
    assert set(lookout.processes) == set(lookout.sessions) == {0, 1}
    assert len(cron.roles("run")) == 3


@pytest.mark.skipif(os.environ.get("TALLYDESK_SLOW") != "1", reason="takes two minutes: TALLYDESK_SLOW=1 runs it")
@pytest.mark.timeout(240)
def test_after_kill_9_of_everything_and_of_postgresql_all_is_back_within_two_minutes(cron: Installation) -> None:
    cron.do("watchdog")
    server = cron.server()
    victims = [one.pid for one in cron.roles("run")]
    assert len(victims) == 3
    postmaster = server.pid
    assert postmaster is not None
    for pid in (*victims, postmaster):
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()

    wait_until(lambda: len(cron.roles("run")) == 3, 2 * TICK, lambda: log_of(cron))
    with psycopg.connect(server.url(), autocommit=True) as connection:
        wait_until(lambda: value(connection, ALIVE) == 3, 20)
    print(f"cron: everything and PostgreSQL, killed at once, was back after {time.monotonic() - killed:.0f} s")
    assert not {one.pid for one in cron.roles("run")} & set(victims)
