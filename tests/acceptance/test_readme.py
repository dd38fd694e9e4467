"""What the README shows is what happens: its session, its commands, its strategy; and the statements of the design."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer

from tests.plugins.desk import Desk
from trader import config
from trader.cli import main
from trader.cli.psql import connection_variables, find_psql
from trader.strategy import evaluate, load

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = ("operations.md", "strategies.md")
CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OF_THE_SERVER = ("create role", "create database", "alter system")
"""The tests share a server: tests/simulation/test_machines.py sets one of its own up by these."""


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    """A strategy `momentum` without a cent, a trader, the price at 50,000."""
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("momentum")
    desk.trader()
    return desk


def psql(desk: Desk, *statements: str) -> str:
    """What a person sees, without the spaces at the ends of lines."""
    shown = []
    for statement in statements:
        command = [find_psql(config.load()), "-Xq", "-v", "ON_ERROR_STOP=1", "-c", statement]
        environment = {**os.environ, **connection_variables(desk.url), "PGOPTIONS": ""}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, (statement, done.stderr)
        shown += [line.rstrip() for line in done.stdout.splitlines()]
    return "\n".join(shown).strip("\n")


def statements_of(text: str) -> list[str]:
    return [f"{one.strip()};" for one in text.split(";") if one.strip()]


def test_the_session_goes_as_it_is_printed(desk: Desk) -> None:
    [session] = re.findall(r"<!-- session.*?-->\n(.*?)<!-- end of session -->", README, re.DOTALL)
    (_, statements), (_, printed) = CODE.findall(session)
    writes = [one for one in statements_of(statements) if one.startswith("insert")]
    reads = [one for one in statements_of(statements) if one.startswith("select")]
    assert (len(writes), len(reads)) == (2, 2)
    assert psql(desk, *writes) == ""
    desk.wait_for("SELECT status = 'filled' FROM orders WHERE type = 'market'")

    assert psql(desk, *reads) == printed.strip("\n")
    desk.check()


def test_the_statements_of_the_design_work_as_printed(desk: Desk) -> None:
    psql(
        desk,
        "insert into orders (strategy, type, asset, quantity) values ('momentum', 'deposit', 'USDT', 100);",
        "insert into orders (strategy, market, side, type, quantity)"
        " values ('momentum', 'binance:BTC/USDT', 'buy', 'market', 0.001);",
    )
    desk.wait_for("SELECT status = 'filled' FROM orders WHERE type = 'market'")
    performance = psql(desk, "select * from performance;")
    assert "strategy" in performance
    assert "momentum" in performance
    assert {"BTC", "USDT"} <= set(re.findall(r"\b[A-Z]{3,4}\b", psql(desk, "select * from holding;")))
    assert "(0 rows)" in psql(desk, "select * from order_in_doubt;")
    psql(desk, "update account set halted = true where name = 'main';")

    denied = desk.wait_for_status(desk.order("momentum", quote_quantity="10"), "denied", "filled")
    assert denied.reason == "account main is halted"


def test_every_statement_of_the_tables_is_accepted(desk: Desk) -> None:
    [table] = re.findall(r"^## Write here.*?(\|.*?)\n\n", README, re.DOTALL | re.MULTILINE)
    statements = [one for one in re.findall(r"`((?:insert|update) [^`]*;)`", table) if "…" not in one]
    assert len(statements) == 8
    psql(desk, *statements)

    resting = desk.order("momentum", type="limit", quantity="0.001", limit_price="40000")
    assert desk.state(resting).status == "queued"
    names = re.findall(r"^\|[^|]+\| ((?:`\w+`(?:, )?)+) \|$", README, re.MULTILINE)
    views = re.findall(r"`(\w+)`", " ".join(names))
    assert {"allowance", "invariant_violation", "fill"} <= set(views)
    psql(desk, *(f"select * from {view};" for view in views))


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every `scripts/tallydesk ...` of a page, in its blocks and in its text."""
    blocks = [code.replace("\\\n", " ") for kind, code in CODE.findall(text) if kind == "sh"]
    inline = re.findall(r"`(scripts/tallydesk [^`]*)`", CODE.sub("", text))
    for line in "\n".join([*blocks, *inline]).splitlines():
        before, found, arguments = line.partition("scripts/tallydesk")
        if found and "#" not in before:
            yield shlex.split(arguments.partition("|")[0], comments=True)


def parse(arguments: list[str]) -> None:
    """Parse a command line as the program would, and do nothing; a click error says what is wrong with it."""
    command: Any = typer.main.get_command(main.root)
    context = command.make_context("tallydesk", [], resilient_parsing=True)
    rest = list(arguments)
    while hasattr(command, "get_command"):
        command = command.get_command(context, rest.pop(0))
        assert command is not None, arguments
    if "…" not in rest:
        command.make_context(command.name, rest)


def test_every_command_exists_and_takes_what_it_is_given() -> None:
    found = list(commands(README))
    assert {"psql", "migrate", "up", "account", "feed", "strategy", "watchdog", "status", "doctor"} <= {
        arguments[0] for arguments in found
    }
    for arguments in found:
        parse(arguments)
    for script in set(re.findall(r"\bscripts/\w+", README)):
        assert os.access(ROOT / script, os.X_OK), script


def test_every_command_of_the_other_pages_exists() -> None:
    operations, strategies = (list(commands((ROOT / "docs" / name).read_text())) for name in PAGES)
    assert {"simulator", "account", "up", "stop", "reconcile", "db", "watchdog", "migrate", "psql"} <= {
        arguments[0] for arguments in operations
    }
    assert ["strategy", "list"] in strategies
    for arguments in (*operations, *strategies):
        parse(arguments)


def test_every_statement_of_running_it_is_accepted(desk: Desk) -> None:
    """Those that stand after `psql -c`; the deposit needs the page's own strategy."""
    arguments = [one for one in commands((ROOT / "docs" / PAGES[0]).read_text()) if one[0] == "psql"]
    found = [text for one in arguments for option, text in pairwise(one) if option == "-c"]
    assert len(found) >= 6
    for kind, code in CODE.findall((ROOT / "docs" / PAGES[0]).read_text()):
        found += statements_of(code) if kind == "sql" else []
    psql(desk, *(one.replace("'sma'", "'momentum'") for one in found if not one.startswith(OF_THE_SERVER)))


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert {"docs/architecture.md", "docs/operations.md"} <= set(links)
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert missing == []


def test_its_strategy_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = [code for kind, code in CODE.findall(README) if kind == "python"]
    (tmp_path / "readme_breakout.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "readme_breakout", raising=False)
    strategy = load("readme_breakout:Breakout", {"n": 2})

    assert evaluate(strategy, _candles([10, 11, 12, 12, 11, 13, 12])).tolist() == [0, 0, 1, 0, 0, 1, 0]
    walk = (100 + np.random.default_rng(1).normal(0, 1, 120).cumsum()).tolist()
    whole = evaluate(strategy, _candles(walk)).tolist()
    assert [evaluate(strategy, _candles(walk[:n])).iloc[-1] for n in range(1, 121)] == whole
    assert 0 < sum(whole) < 120
    assert load("readme_breakout:Breakout").warm_up == 21


def _candles(closes: list[float]) -> pd.DataFrame:
    index = pd.date_range("2024-01-01", periods=len(closes), freq="1h", tz="UTC", name="time_close")
    columns = dict.fromkeys(("open", "high", "low", "close"), closes)
    return pd.DataFrame({**columns, "volume": 1.0}, index=index, dtype="float64")
