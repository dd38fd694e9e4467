"""`tallydesk strategy new`: what it writes works as it is; and a directory of one's own for strategies."""

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_cli import run
from trader.cli._new_strategy import make
from trader.cli.doctor import examine
from trader.config import Settings, load, strategies_folder
from trader.errors import ConfigError, InputError
from trader.strategy import find_class, search_space
from trader.strategy import load as load_class

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of one's own, as the settings name it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.setenv("TALLYDESK_STRATEGIES", str(folder))
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in [name for name, module in sys.modules.items() if str(folder) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


@pytest.mark.parametrize("style", ["signal", "on_bucket"])
def test_what_is_made_works_its_test_passes_and_it_is_clean(own: Path, style: str) -> None:
    done = run("strategy", "new", "my_cross", "--style", style, TALLYDESK_STRATEGIES=str(own), TALLYDESK_HOME=str(own))
    assert done.returncode == 0, done.stderr
    assert f"wrote {own}/my_cross.py, which is --class my_cross:MyCross" in done.stdout
    assert f"scripts/python -m pytest {own}/test_my_cross.py" in done.stdout
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{own}/test_my_cross.py"]
    tested = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert tested.returncode == 0, tested.stdout
    assert "2 passed" in tested.stdout
    test, strategy = f"{own}/test_my_cross.py", f"{own}/my_cross.py"
    lint = ["ruff", "check", "--config", "pyproject.toml", "--ignore", "S101", strategy, test]
    for command in (lint, ["ruff", "format", "--check", strategy, test], ["mypy", "--strict", strategy]):
        command = [sys.executable, "-m", *command]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stdout


def test_a_directory_of_the_settings_is_on_the_import_path(own: Path) -> None:
    settings = load()
    made = make("my_mean", "signal", settings)
    assert settings.strategies == own
    assert sys.path[-1] == str(own)
    assert load_class(made.class_, {"period": 7}).warm_up == 7
    assert list(search_space(find_class(made.class_))) == ["period"]
    load()
    assert sys.path.count(str(own)) == 1


def test_without_one_it_goes_into_the_checkout(tmp_path: Path) -> None:
    for folder in ("strategies", "tests/unit"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    made = make("my_cross", "on_bucket", Settings(home=tmp_path, project=tmp_path))
    assert made.strategy == tmp_path / "strategies" / "my_cross.py"
    assert made.test == tmp_path / "tests" / "unit" / "test_my_cross.py"
    assert made.class_ == "strategies.my_cross:MyCross"
    assert 'STRATEGY = "strategies.my_cross:MyCross"' in made.test.read_text()
    assert "sys.path" not in made.test.read_text()


def test_nothing_is_written_over(own: Path) -> None:
    settings = Settings(home=own, project=ROOT, strategies=own)
    (own / "test_my_cross.py").write_text("mine")
    with pytest.raises(InputError, match=r"test_my_cross\.py is there already: nothing is written over it"):
        make("my_cross", "signal", settings)
    assert sorted(path.name for path in own.iterdir()) == ["test_my_cross.py"]
    assert (own / "test_my_cross.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My", "small letters, digits and _ are allowed"),
        ("../x", "small letters"),
        ("class", "small letters"),
        ("test_x", "small letters"),
        ("", "small letters"),
        ("random", "Python has a module of that name"),
        ("pandas", "Python has a module of that name"),
        ("strategies", "Python has a module of that name"),
    ],
)
def test_a_name_that_is_none_is_refused(own: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(name, "signal", Settings(home=own, project=ROOT, strategies=own))
    assert list(own.iterdir()) == []


def test_a_style_that_is_none_is_refused(own: Path) -> None:
    with pytest.raises(InputError, match="--style is 'vector': allowed are signal, on_bucket"):
        make("my_cross", "vector", Settings(home=own, project=ROOT, strategies=own))


def test_places_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"TALLYDESK_STRATEGIES is /nowhere/at/all, and there is no such directory"):
        make("my_cross", "signal", Settings(home=tmp_path, project=ROOT, strategies=Path("/nowhere/at/all")))
    with pytest.raises(InputError, match="there is no checkout to write into: name a directory by TALLYDESK_STRATEG"):
        make("my_cross", "signal", Settings(home=tmp_path, project=tmp_path))


def test_a_class_that_is_not_found_says_what_the_directory_has(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one.py", "two.py", "test_one.py", "_part.py"):
        (own / name).touch()
    with pytest.raises(InputError, match=r'no module "three"; .*mine \(TALLYDESK_STRATEGIES\) has one, two$'):
        find_class("three:Three")
    monkeypatch.setenv("TALLYDESK_STRATEGIES", str(own / "gone"))
    with pytest.raises(InputError, match=r"TALLYDESK_STRATEGIES is .*gone, and there is no such directory"):
        find_class("three:Three")
    assert find_class("strategies.sma_cross:SmaCross").__name__ == "SmaCross"  # the others are found all the same


def test_the_doctor_says_whether_it_is_there(tmp_path: Path) -> None:
    for folder, well in ((tmp_path, True), (tmp_path / "gone", False)):
        findings = examine(Settings(home=tmp_path, project=tmp_path, strategies=folder))
        [found] = [finding for finding in itertools.islice(findings, 2) if "own strategies" in finding.text]
        assert found.well is well


def test_a_directory_must_be_absolute_and_may_be_in_the_home() -> None:
    with pytest.raises(ConfigError, match="TALLYDESK_STRATEGIES is 'mine': an absolute path is needed"):
        strategies_folder({"TALLYDESK_STRATEGIES": "mine"})
    assert strategies_folder({"TALLYDESK_STRATEGIES": "~/mine"}) == Path.home() / "mine"
    assert strategies_folder({}) is None


def test_a_file_there_does_not_take_the_place_of_a_library(own: Path) -> None:
    (own / "ccxt.py").write_text("raise RuntimeError")
    load()
    program = "from trader import config; config.load(); import ccxt; print(ccxt.__file__)"
    command, environment = [sys.executable, "-c", program], {**os.environ, "TALLYDESK_HOME": str(own)}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert str(own) not in found.stdout
