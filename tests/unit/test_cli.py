"""The command line as a whole: help, errors, start-up."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from trader.cli.main import command_names, root
from trader.cli.psql import connection_variables

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TALLYDESK_", "DATABASE_URL"))}
    return subprocess.run(
        [sys.executable, "-m", "trader.cli.main", *arguments],
        capture_output=True, text=True, cwd=ROOT, env={**clean, "TERM": "dumb", **environment}, check=False, timeout=60,
    )  # fmt: skip


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
    assert "hush" not in done.stderr


def test_an_unknown_command_is_refused() -> None:
    done = run("nonsense")
    assert done.returncode == 2
    assert "nonsense" in done.stderr


def test_the_lines_for_cron_name_this_checkout(tmp_path: Path) -> None:
    done = run("watchdog", "--crontab", TALLYDESK_HOME=str(tmp_path))
    assert done.stdout.splitlines() == [f'@reboot "{ROOT}/scripts/watchdog"', f'* * * * * "{ROOT}/scripts/watchdog"']


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
