"""The command line as a whole: help, errors, start-up."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from procrastinate.exceptions import ConnectorException

from tests.plugins import _nursery
from trader.cli.main import UNMIGRATED, command_names, root, sentence
from trader.cli.psql import connection_variables

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TALLYDESK_", "DATABASE_URL"))}
    return _nursery.run("trader.cli.main", *arguments, environment={**clean, "TERM": "dumb", **environment})


def commands() -> Iterator[tuple[str, Any]]:
    yield "tallydesk", typer.main.get_command(root)
    for name in command_names():
        yield from walk(name, typer.main.get_command(importlib.import_module(f"trader.cli.{name}").app))


def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for child, inner in getattr(command, "commands", {}).items():
        yield from walk(f"{name} {child}", inner)


def test_every_command_has_help_with_an_example() -> None:
    found = dict(commands())
    assert {"db start", "migrate", "psql", "simulator", "watchdog"} <= found.keys()
    bare = [name for name, command in found.items() if "Example: " not in (command.help or "")]
    assert not bare, f"no docstring that ends with an example: {bare}"


def test_every_option_of_every_command_has_help() -> None:
    bare = [
        f"{name} {parameter.opts[0]}"
        for name, command in commands()
        for parameter in command.params
        if parameter.opts[0].startswith("-") and not parameter.help
    ]
    assert not bare


def test_help_names_every_command() -> None:
    shown = run("--help").stdout
    assert all(name in shown for name in command_names())


@pytest.mark.parametrize("arguments", [["db", "status"], ["migrate"], ["watchdog"], ["psql"]])
def test_a_wrong_setting_ends_with_one_sentence(tmp_path: Path, arguments: list[str]) -> None:
    done = run(*arguments, TALLYDESK_HOME=str(tmp_path), TALLYDESK_TICK="often")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "TALLYDESK_TICK is 'often'" in done.stderr


@pytest.mark.parametrize("command", ["migrate", "watchdog"])
def test_a_database_that_does_not_answer_ends_with_one_sentence(tmp_path: Path, command: str) -> None:
    url = "postgresql://someone:hush@127.0.0.1:1/nothing"
    done = run(command, TALLYDESK_HOME=str(tmp_path), DATABASE_URL=url)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "127.0.0.1" in done.stderr
    assert "DATABASE_URL" in done.stderr
    assert "hush" not in done.stderr


@pytest.mark.parametrize("arguments", [["status"], ["stop"], ["strategy", "list"]])
def test_commands_that_only_look_make_no_database(tmp_path: Path, arguments: list[str]) -> None:
    done = run(*arguments, TALLYDESK_HOME=str(tmp_path / "home"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no database in" in done.stderr
    assert "tallydesk migrate" in done.stderr
    assert not (tmp_path / "home").exists()


def test_an_unknown_command_is_refused() -> None:
    done = run("nonsense")
    assert done.returncode == 2
    assert "no such command: nonsense; there are account" in re.sub(r"[│\s]+", " ", done.stderr)


@pytest.mark.parametrize(("typed", "meant"), [(["statsu"], "`tallydesk status`"), (["strategy", "lst"], "'list'")])
def test_a_mistyped_command_is_answered_with_the_one_that_was_meant(typed: list[str], meant: str) -> None:
    done = run(*typed)
    assert done.returncode == 2
    assert f"id you mean {meant}?" in done.stderr


def test_it_tells_its_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert run("--version").stdout == f"tallydesk {project['version']}\n"


@pytest.mark.parametrize("arguments", [(), ("db",), ("strategy", "add"), ("simulator",)])
def test_short_help_is_help_and_offers_no_completion(arguments: tuple[str, ...]) -> None:
    short, long = run(*arguments, "-h"), run(*arguments, "--help")
    assert short.returncode == 0
    assert short.stdout == long.stdout
    assert "completion" not in short.stdout


def lacking(kind: type[psycopg.Error]) -> psycopg.Error:
    return kind('relation "strategy" does not exist\nLINE 1: ...')


@pytest.mark.parametrize(
    "kind", [psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction]
)
def test_missing_tables_are_one_sentence(kind: type[psycopg.Error]) -> None:
    by_queue = ConnectorException("the queue's words")
    by_queue.__cause__ = lacking(kind)
    for error in (lacking(kind), ExceptionGroup("tasks", [ExceptionGroup("inner", [lacking(kind)])]), by_queue):
        assert sentence(error) == f'{UNMIGRATED} (relation "strategy" does not exist)'


def test_a_fault_of_the_program_is_no_sentence() -> None:
    assert sentence(ValueError("x")) is None
    assert sentence(ExceptionGroup("tasks", [lacking(psycopg.errors.UndefinedTable), ValueError("x")])) is None
    assert sentence(psycopg.errors.DivisionByZero("x")) is None


def test_the_lines_for_cron_name_this_checkout(tmp_path: Path) -> None:
    done = run("watchdog", "--crontab", TALLYDESK_HOME=str(tmp_path))
    command = f'TALLYDESK_HOME="{tmp_path}" "{ROOT}/scripts/watchdog"'  # cron has no variable of this shell
    assert done.stdout.splitlines() == [f"@reboot {command}", f"* * * * * {command}"]


def test_short_commands_load_nothing_slow() -> None:
    code = "import sys, trader.cli.main, trader.cli.watchdog, trader.watchdog; "
    code += (
        "print([m for m in ('ccxt', 'pandas', 'procrastinate', 'sqlalchemy', 'alembic', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_psql_is_told_the_password_where_others_cannot_read_it() -> None:
    found = connection_variables("postgresql://me:hu%20sh@host:5433/db?sslmode=require")
    assert found == {
        "PGUSER": "me", "PGPASSWORD": "hu sh", "PGHOST": "host", "PGPORT": "5433", "PGDATABASE": "db",
        "PGSSLMODE": "require",
    }  # fmt: skip
