"""Processes from the nursery: they begin, speak, end and are killed as those that `subprocess` starts."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.plugins import _nursery

ROOT = Path(__file__).resolve().parents[2]
MODULE = "tests.plugins._told"


@pytest.fixture(params=["fork", "exec"])
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """For both kinds of start."""
    monkeypatch.setenv("GONE", "not for the process")
    environment = {**os.environ, "HERE": "told"}
    del environment["GONE"]
    monkeypatch.setenv("TALLYDESK_TEST_EXEC", "1" if request.param == "exec" else "")
    return environment


def waiting(environment: dict[str, str], log: Path) -> "_nursery.Born | subprocess.Popen[bytes]":
    """One that has begun, and waits for a signal."""
    with log.open("wb") as output:
        process = _nursery.start(MODULE, ["wait"], environment, output, output)
    deadline = time.monotonic() + 60
    while "stderr" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(
    ("arguments", "code", "more"), [(["exit", "0"], 0, ""), (["exit", "3"], 3, ""), (["thread"], 0, "from a thread\n")]
)
def test_it_speaks_and_ends_in_the_ordinary_way(
    environment: dict[str, str], arguments: list[str], code: int, more: str
) -> None:
    done = _nursery.run(MODULE, *arguments, environment=environment)

    said = f"{[*arguments, str(ROOT), 'told', None, '']}\n"
    assert (done.returncode, done.stdout) == (code, f"{said}{more}at exit\n")
    assert done.stderr == "said on stderr\n"


def test_an_error_is_a_traceback_and_exit_code_1(environment: dict[str, str]) -> None:
    done = _nursery.run(MODULE, "raise", environment=environment)

    assert done.returncode == 1
    assert done.stderr.startswith("said on stderr\nTraceback")
    assert done.stderr.endswith("\nValueError: so it ends\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_ends_it_and_it_alone(environment: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    first, second = (waiting(environment, tmp_path / f"{one}.log") for one in range(2))
    assert first.pid != second.pid
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(0.01)

    first.send_signal(number)
    assert first.wait(60) == -number
    assert second.poll() is None
    first.kill()  # it is known to have ended: nobody is hit
    second.kill()
    assert (second.wait(60), second.poll()) == (-signal.SIGKILL, -signal.SIGKILL)


def test_ctrl_c_reaches_it(environment: dict[str, str], tmp_path: Path) -> None:
    process = waiting(environment, tmp_path / "log")
    process.send_signal(signal.SIGINT)

    assert process.wait(60) in (130, -signal.SIGINT)
    assert "KeyboardInterrupt" in (tmp_path / "log").read_text()


def test_a_library_to_be_loaded_first_needs_an_ordinary_start(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as output:
        process = _nursery.start(MODULE, ["exit", "0"], {**os.environ, "LD_PRELOAD": ""}, output, output)

    assert isinstance(process, subprocess.Popen)
    assert process.wait(60) == 0


def test_its_number_is_not_given_away_before_its_end_is_known(tmp_path: Path) -> None:
    """Else a late kill would hit a stranger."""
    with (tmp_path / "log").open("wb") as output:
        process = _nursery.start(MODULE, ["exit", "0"], dict(os.environ), output, output)
    stat = Path(f"/proc/{process.pid}/stat")
    deadline = time.monotonic() + 60
    while (state := stat.read_text().rpartition(")")[2].split()[0]) != "Z":
        assert time.monotonic() < deadline, state
        time.sleep(0.01)

    assert process.wait(60) == 0
    while stat.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not stat.exists()
