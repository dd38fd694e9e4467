"""The demo on candles that it makes up: what it shows, what it leaves, how it ends."""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable

import psycopg
import pytest

from tests.acceptance._installation import COMMAND, ROOT, Installation, lines_of, wait_until
from trader.cli._demo import typed

SECONDS = "30"
"""Wherever its set-up ends, both strategies want to be in within so long: the made-up candles are always the same."""
SHOWN = ("holding (in its unit)", "performance (in its unit)", "select * from reconciliation")
STAGES = {"setting up": r"the schema is migrated", "trading": r"^ *\d+\.\d s \|"}


def as_printed(line: str) -> str:
    """A command of the demo for a shell; without the checkout's own environment, in the one of the tests."""
    assert os.access(ROOT / "scripts" / "tallydesk", os.X_OK)
    return (
        line if (ROOT / ".venv" / "bin" / "python").exists() else line.replace("scripts/tallydesk", " ".join(COMMAND))
    )


@pytest.mark.timeout(120)
def test_it_trades_by_itself_and_leaves_every_cent_to_look_at(installation: Installation) -> None:
    _leave_a_demo(installation)
    demo = installation.start("demo", "--synthetic", "--seconds", SECONDS)
    output = "".join(lines_of(demo))

    assert demo.wait() == 0, output
    assert "synthetic candles" in output
    assert "common_" not in output  # as old as the last reading of prices: hours of the market
    for title in SHOWN:
        assert title in output
    assert "select * from invariant_violation (0 rows)" in output
    first_fill = re.search(r"The first fill was booked ([\d.]+) s after", output)
    assert first_fill is not None
    assert float(first_fill[1]) < 60
    assert installation.running() == []
    assert "no candles yet" in output or "candles to 20" in output
    assert "candles to None" not in output
    assert "not advice" in output
    assert "psql -qc \"insert into orders (strategy, type, asset, quantity) values ('momentum', 'deposit'," in output
    _check_books(installation)
    _check_psql_line(installation, output)
    _check_previous(installation, output)


def _leave_a_demo(installation: Installation) -> None:
    """A database as a demo leaves it, as far as the next one looks."""
    with psycopg.connect(installation.server("demo").ensure(), autocommit=True) as connection:
        connection.execute('CREATE TABLE "order" AS SELECT 42 AS id')


def _check_previous(installation: Installation, output: str) -> None:
    (line,) = re.findall(r"^  the demo before this one is kept: (.+ psql -d tallydesk_previous)$", output, re.MULTILINE)
    asked = f"""{as_printed(line)} -XAtc 'select id from "order"'"""
    done = subprocess.run(asked, shell=True, cwd=ROOT, env=installation.environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("42\n", 0), done.stderr


def _check_books(installation: Installation) -> None:
    assert installation.server("demo").running
    with psycopg.connect(installation.server("demo").url()) as connection:
        results = connection.execute(
            "SELECT deposits, profit, fees, error FROM performance JOIN strategy s ON s.name = strategy"
        )
        assert all(row[0] == 100 and row[1] != 0 and row[2] > 0 and row[3] is None for row in results.fetchall())
        assert results.rowcount == 2
        drift = connection.execute("SELECT asset, drift FROM reconciliation ORDER BY 1").fetchall()
        assert drift == [("BTC", 0), ("USDT", 0)]


def _check_psql_line(installation: Installation, output: str) -> None:
    (line,) = re.findall(r"^ +(\S*TALLYDESK_HOME=\S+ scripts/tallydesk psql)$", output, re.MULTILINE)
    asked = f"{as_printed(line)} -XAtc 'select count(*) > 0 from fill'"
    done = subprocess.run(asked, shell=True, cwd=ROOT, env=installation.environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("t\n", 0), done.stderr


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("feed", "feed"),
        ("values ('a', 1)", "\"values ('a', 1)\""),
        ('{"fast": 5}', """'{"fast": 5}'"""),
        ("it's $5", """'it'"'"'s $5'"""),
    ],
)
def test_commands_are_shown_as_a_person_types_them(argument: str, shown: str) -> None:
    assert typed(argument) == shown
    assert shlex.split(shown) == [argument]


def to_itself(demo: "subprocess.Popen[str]") -> None:
    os.kill(demo.pid, signal.SIGINT)


def to_its_group(demo: "subprocess.Popen[str]") -> None:
    os.killpg(demo.pid, signal.SIGINT)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("stage", "interrupt"),
    [("setting up", to_its_group), ("trading", to_itself), ("trading", to_its_group)],
)
def test_interrupted_it_leaves_nothing_but_postgresql(
    installation: Installation, stage: str, interrupt: Callable[["subprocess.Popen[str]"], None]
) -> None:
    demo = installation.start("demo", "--synthetic", "--seconds", "60")
    seen = next(line for line in lines_of(demo) if re.search(STAGES[stage], line))
    assert stage == "setting up" or len(installation.roles()) == 3, seen
    interrupt(demo)
    output = "".join(lines_of(demo))

    assert demo.wait() == 130, output
    assert "Traceback" not in output
    assert installation.running() == []
    assert installation.server("demo").running
    (line,) = re.findall(r"^To stop PostgreSQL: +(.+)$", output, re.MULTILINE)
    subprocess.run(as_printed(line), shell=True, cwd=ROOT, env=installation.environment, check=True)
    assert not installation.server("demo").running


@pytest.mark.timeout(60)
def test_an_impatient_second_ctrl_c_leaves_nothing_either(installation: Installation) -> None:
    demo = installation.start("demo", "--synthetic", "--seconds", "60")
    next(line for line in lines_of(demo) if re.search(STAGES["trading"], line))
    to_its_group(demo)
    to_its_group(demo)
    output = "".join(lines_of(demo))

    assert demo.wait() == 130, output
    wait_until(lambda: installation.running() == [], patience=25, said=installation.running)
