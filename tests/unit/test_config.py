"""Settings from the environment and from files."""

import subprocess
import sys
from pathlib import Path

import pytest

from trader.config import WantedRole, load, parse_roles
from trader.errors import ConfigError


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    settings = load({"HOME": str(tmp_path)}, project=tmp_path)
    assert settings.home == tmp_path / ".local" / "state" / "tallydesk"
    assert settings.database_url is None
    assert settings.allow_live is False
    assert settings.tick == 1.0
    assert [role.name for role in settings.roles] == ["scheduler", "worker-1", "trader-1"]


def test_the_environment_wins_over_the_project_over_the_home(tmp_path: Path) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    home.mkdir()
    project.mkdir()
    (project / ".env").write_text(f"TALLYDESK_HOME={home}\nTALLYDESK_TICK=2\nA=project\nB=project\n")
    (home / ".env").write_text("TALLYDESK_TICK=3\nA=home\nB=home\nC='a $word and a #'\n")
    environ = {"A": "environment"}
    settings = load(environ, project=project)
    assert (settings.home, settings.tick) == (home, 2.0)
    assert (environ["A"], environ["B"], environ["C"]) == ("environment", "project", "a $word and a #")


def test_the_url_is_not_shown(tmp_path: Path) -> None:
    settings = load({"HOME": "/x", "DATABASE_URL": "postgresql://me:hush@host/db"}, project=tmp_path)
    assert settings.database_url == "postgresql://me:hush@host/db"
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("TALLYDESK_CACHE_MB", "2GB", "a whole number of megabytes"),
        ("TALLYDESK_CACHE_MB", "-1", "a whole number of megabytes"),
        ("TALLYDESK_TICK", "soon", "0.05 to 60"),
        ("TALLYDESK_TICK", "nan", "0.05 to 60"),
        ("TALLYDESK_TICK", "0", "0.05 to 60"),
        ("TALLYDESK_ALLOW_LIVE", "perhaps", "true"),
        ("TALLYDESK_HOME", "state", "absolute"),
        ("TALLYDESK_PG_BIN", "/nowhere", "postgres"),
        ("TALLYDESK_ROLES", "scheduler cook", "scheduler, worker, trader"),
    ],
)
def test_a_wrong_value_is_refused_by_name_with_what_is_allowed(
    tmp_path: Path, name: str, value: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"HOME": "/x", name: value}, project=tmp_path)
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)
    assert allowed in str(caught.value)


def test_a_url_of_another_kind_is_refused_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mysql") as caught:
        load({"HOME": "/x", "DATABASE_URL": "mysql://me:hush@host/db"}, project=tmp_path)
    assert "hush" not in str(caught.value)


def test_a_malformed_file_is_refused_by_line_without_its_text(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\n\nthis is hush hush\n")
    with pytest.raises(ConfigError, match=r"\.env, line 3") as caught:
        load({"HOME": "/x"}, project=tmp_path)
    assert "hush" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load({"HOME": "/x"}, project=tmp_path)


def test_roles_with_numbers() -> None:
    assert list(parse_roles("trader:2 worker")) == [
        WantedRole("trader", "trader-1"),
        WantedRole("trader", "trader-2"),
        WantedRole("worker", "worker-1"),
    ]
    assert list(parse_roles("")) == []


@pytest.mark.parametrize(
    "text", ["scheduler:2", "worker:0", "worker:", "worker:x", "worker:-1", "worker worker", "worker:65"]
)
def test_roles_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match="TALLYDESK_ROLES"):
        list(parse_roles(text))


def test_it_is_quick_to_import() -> None:
    """By what it loads, which does not depend on how busy the machine is."""
    code = "import sys, trader.config; print([m for m in ('dotenv', 'psycopg', 'asyncio') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("password", ["pa/ss", "pa?ss", "pa#ss", "p@ss"])
def test_a_password_that_would_be_cut_is_refused_and_not_shown(tmp_path: Path, password: str) -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL: in a password write / as %2F") as caught:
        load({"HOME": "/x", "DATABASE_URL": f"postgresql://me:{password}@host:5432/db"}, project=tmp_path)
    assert password not in str(caught.value)


@pytest.mark.parametrize("rest", ["me:p%2Fss@host:5432/db", "host:5432/db?options=a@b", "me@host/db", "/db?host=/tmp"])
def test_other_urls_pass(tmp_path: Path, rest: str) -> None:
    load({"HOME": "/x", "DATABASE_URL": f"postgresql://{rest}"}, project=tmp_path)
