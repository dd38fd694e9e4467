"""The parts of scripts/bootstrap.py that need no installation."""

import fcntl
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "scripts" / "bootstrap.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "requirements.lock").write_text(
        "# comment\na==1 \\\n    --hash=sha256:00\nb==2 \\\n    --hash=sha256:11\n"
    )
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").symlink_to(sys.executable)
    return tmp_path


def test_an_environment_is_finished_only_with_its_stamp(bootstrap: ModuleType, checkout: Path) -> None:
    environment = bootstrap.Environment(checkout)
    assert not environment.finished()  # made half, and killed
    environment.stamp.write_text(environment.wanted())
    assert environment.finished()


def test_it_is_not_finished_for_another_lock(bootstrap: ModuleType, checkout: Path) -> None:
    environment = bootstrap.Environment(checkout)
    environment.stamp.write_text(environment.wanted())
    environment.lock.write_text("a==2\n")
    assert not environment.finished()


def test_it_is_not_finished_if_its_python_was_removed(bootstrap: ModuleType, checkout: Path) -> None:
    environment = bootstrap.Environment(checkout)
    environment.stamp.write_text(environment.wanted())
    environment.python.unlink()
    environment.python.symlink_to("/nowhere/python3.11")
    assert not environment.finished()


def test_it_is_not_finished_in_another_place(bootstrap: ModuleType, checkout: Path, tmp_path: Path) -> None:
    environment = bootstrap.Environment(checkout)
    environment.stamp.write_text(environment.wanted())
    moved = checkout.rename(checkout.with_name("moved"))
    assert not bootstrap.Environment(moved).finished()


def test_progress_counts_packages_of_pip_and_of_uv(bootstrap: ModuleType) -> None:
    progress = bootstrap.Progress("setting up", 3)
    for line in (
        "Collecting alpha==1.0 (from -r requirements.lock (line 1))",
        "  Downloading alpha-1.0-py3-none-any.whl (1 kB)",
        "DEBUG Selecting: beta==2.0 [compatible] (beta-2.0-py3-none-any.whl)",
        "Collecting alpha==1.0 (from -r requirements.lock (line 1))",
        "Installing collected packages: alpha, beta",
    ):
        progress.heard(line)
    assert progress.text() == "setting up: 0 s, 2 of 3 packages, installing"


def test_a_command_that_fails_shows_the_end_of_its_output(bootstrap: ModuleType) -> None:
    code = "print('why it failed'); raise SystemExit(3)"
    with (
        pytest.raises(bootstrap.Failed, match=r"(?s)why it failed.*failed \(3\)"),
        bootstrap.Progress("x", 1) as progress,
    ):
        progress.run([sys.executable, "-c", code])


def test_the_lock_holds_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    entries = text.split("\n", 2)[2].strip()
    for entry in entries.replace(" \\\n", " ").splitlines():
        assert "==" in entry.split()[0], entry
        assert "--hash=sha256:" in entry, entry


def test_an_installer_that_outlives_its_bootstrap_keeps_the_next_one_waiting(tmp_path: Path) -> None:
    """Else two would write into one environment."""
    code = f"""
import fcntl, os, sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
import bootstrap
class Slow(bootstrap.Environment):
    def finished(self): return False
    def make(self, base):
        with bootstrap.Progress("x", 1) as progress:
            progress.run([sys.executable, "-c", "import time; time.sleep(60)"])
bootstrap.ensure(Slow(bootstrap.Path({str(tmp_path)!r})))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        with (tmp_path / ".boot.lock").open("a") as lock:
            wait_for(lambda: len(descendants(parent.pid)) == 1)
            parent.kill()
            parent.wait()
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.killpg(parent.pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def descendants(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
