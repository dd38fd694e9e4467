"""The built wheel holds all that is needed: it works away from the checkout, migrations included."""

import configparser
import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "import sys; from importlib import import_module; sys.exit(getattr(import_module(sys.argv.pop(1)), 'main')())"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is unpacked: that is what an installer does with one made of Python files."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("THE WHEEL WAS NOT TRIED: hatchling, which builds it, is not installed")
    made = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(made)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = made.glob("tallydesk-*.whl")
    target = made / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def tallydesk(unpacked: Path, tmp_path: Path, url: str, *arguments: str) -> str:
    """The command that the wheel declares, run elsewhere; what it printed."""
    (declared,) = unpacked.glob("*.dist-info/entry_points.txt")
    points = configparser.ConfigParser()
    points.read(declared)
    module, _, function = points["console_scripts"]["tallydesk"].partition(":")
    assert function == "main"
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "DATABASE_URL": url, "TALLYDESK_HOME": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM, module, *arguments]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(60)
def test_it_helps_migrates_and_looks_around(unpacked: Path, tmp_path: Path, empty_database: str) -> None:
    assert "strategy" in tallydesk(unpacked, tmp_path, empty_database, "--help")
    assert tallydesk(unpacked, tmp_path, empty_database, "migrate").startswith("base -> 0")
    assert "none was ever started" in tallydesk(unpacked, tmp_path, empty_database, "status")
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT count(*) FROM invariant_violation").fetchone() == (0,)


def test_it_is_the_wheel_that_was_tried(unpacked: Path, tmp_path: Path) -> None:
    code = "import trader, jobs, strategies; print(*(m.__file__ for m in (trader, jobs, strategies)), sep='\\n')"
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert [Path(line).is_relative_to(unpacked) for line in done.stdout.splitlines()] == [True] * 3, done.stderr
