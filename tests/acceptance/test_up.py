"""`tallydesk up` keeps the desk running in the foreground; `status` and `doctor` tell how it is."""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.acceptance._installation import COMMAND, ROOT, Installation, lines_of, wait_until

ALIVE = {"ok   scheduler is running", "ok   trader-1 is running"}
ROLES = ("scheduler", "worker-1", "trader-1")
SLOW = {"ccxt", "pandas", "numpy", "procrastinate", "sqlalchemy", "alembic", "aiohttp", "talib"}


@pytest.mark.timeout(90)
def test_up_starts_all_replaces_what_dies_and_ends_in_order(installation: Installation) -> None:
    up = installation.start("up")
    output = [next(line for line in lines_of(up) if line.endswith(f"{name} started\n")) for name in ROLES]
    wait_until(lambda: installation.run("doctor").returncode == 0, 30, lambda: installation.run("doctor").stdout)
    _check_reports(installation)
    (worker,) = installation.roles("run worker")
    os.kill(worker.pid, signal.SIGKILL)
    output += [next(line for line in lines_of(up) if "worker-1 ended with code -9" in line)]
    output += [next(line for line in lines_of(up) if line.endswith("worker-1 started again\n"))]
    (again,) = installation.roles("run worker")
    assert again.pid != worker.pid
    wait_until(lambda: installation.run("doctor").returncode == 0, 30, lambda: installation.run("doctor").stdout)

    up.terminate()
    output += lines_of(up)
    assert up.wait() == 0, output
    assert installation.running() == []
    assert installation.server().running
    stopped = installation.run("doctor")
    assert stopped.returncode == 1
    assert [line for line in stopped.stdout.splitlines() if line.startswith("FAIL")] == [
        f"FAIL {name} is running" for name in ROLES
    ]
    for name in ROLES:
        assert re.search(rf"^{name} +no ", installation.do("status"), re.MULTILINE)


def _check_reports(installation: Installation) -> None:
    """A new desk that runs: `status` says so, and `doctor` finds nothing wrong."""
    doctor, status = installation.do("doctor"), installation.do("status")
    assert "FAIL" not in doctor
    for text in ("fsync is on", *(f"{name} is running" for name in ROLES), "0 invariant violations"):
        assert f"ok   {text}" in doctor
    for name in ROLES:
        assert re.search(rf"^{name} +yes ", status, re.MULTILINE), status
    assert "none yet: tallydesk account add" in status
    assert "none yet: tallydesk strategy add" in status


@pytest.mark.timeout(90)
def test_stop_ends_the_desk_and_the_up_that_runs_it(installation: Installation) -> None:
    up = installation.start("up", TALLYDESK_ROLES="scheduler trader")
    for name in ("scheduler", "trader-1"):
        next(line for line in lines_of(up) if line.endswith(f"{name} started\n"))
    wait_until(lambda: set(installation.run("doctor").stdout.splitlines()) >= ALIVE, 30, lambda: "not alive")

    assert "all stopped" in installation.do("stop")
    output = lines_of(up)
    assert up.wait() == 0, output
    assert [line for line in output if "started again" in line] == []
    assert installation.running() == []


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["stop", "signal"])
def test_an_up_that_is_late_does_not_start_postgresql_again(installation: Installation, how: str) -> None:
    """It is held while the desk is stopped: `stop` waits for it, and what `db stop` ended stays down."""
    up = installation.start("up", TALLYDESK_ROLES="scheduler trader")
    wait_until(lambda: set(installation.run("doctor").stdout.splitlines()) >= ALIVE, 60, lambda: "not alive")
    os.kill(up.pid, signal.SIGSTOP)
    if how == "stop":
        stop = installation.start("stop")
        wait_until(lambda: installation.roles("run") == [])
        assert stop.poll() is None, "up is there still"
        os.kill(up.pid, signal.SIGCONT)
        assert "all stopped" in "".join(lines_of(stop))
        assert stop.wait() == 0
        installation.do("db", "stop")
    else:
        installation.do("db", "stop")
        os.kill(up.pid, signal.SIGTERM)
        os.kill(up.pid, signal.SIGCONT)
    output = "".join(lines_of(up))
    assert up.wait() == 0, output
    assert "again" not in output
    assert installation.running() == []
    assert not installation.server().running


@pytest.mark.timeout(60)
def test_ctrl_c_ends_up_in_order_too(installation: Installation) -> None:
    up = installation.start("up", TALLYDESK_ROLES="scheduler")
    next(line for line in lines_of(up) if line.endswith("scheduler started\n"))
    os.killpg(up.pid, signal.SIGINT)
    output = "".join(lines_of(up))

    assert up.wait() == 0, output
    assert "all stopped" in output
    assert "Traceback" not in output
    assert installation.running() == []


@pytest.mark.parametrize("arguments", [("status",), ("watchdog", "--verbose")])
def test_short_commands_import_nothing_slow(
    installation: Installation, database: str, arguments: tuple[str, ...]
) -> None:
    environment = installation.environment | {"DATABASE_URL": database, "TALLYDESK_ROLES": ""}
    command = [sys.executable, "-X", "importtime", *COMMAND[1:], *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr[-2000:]
    imported = {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"psycopg", "typer"} <= imported
    assert {name.split(".")[0] for name in imported} & SLOW == set()
