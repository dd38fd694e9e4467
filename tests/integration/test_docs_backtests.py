"""The commands and statements of docs/backtests.md, part "Runs", do what is said there."""

import os
import re
import shlex
from pathlib import Path

import psycopg
import pytest

from tests.integration.test_backtest_runs import as_csv
from tests.plugins import _nursery
from tests.plugins.simulator import ROOT

pytestmark = pytest.mark.any_server

PAGE = ROOT / "docs" / "backtests.md"
BLOCK = re.compile(r"```(sh|sql)\n(.*?)```\n(?:```\n(.*?)```\n)?", re.DOTALL)
WRITE = os.environ.get("TALLYDESK_WRITE_DOCS") == "1"
"""Whether what the commands say is written into the page, instead of compared with it."""


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.mark.timeout(300)
def test_the_page_does_what_it_says(database: str, tmp_path: Path) -> None:
    as_csv(tmp_path / "hours.csv", bars=9_000, hole=range(4_000, 4_100))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "DATABASE_URL": database, "TALLYDESK_HOME": str(tmp_path / "home"), "COLUMNS": "160",
    }  # fmt: skip

    def run(line: str) -> str:
        program, *arguments = shlex.split(line)
        assert program == "scripts/tallydesk", line
        done = _nursery.run("trader.cli.main", *arguments, environment=environment, timeout=100, place=tmp_path)
        return done.stdout + done.stderr

    text = PAGE.read_text(encoding="utf-8")
    kinds = [kind for kind, _, _ in BLOCK.findall(text)]
    assert (kinds.count("sh"), kinds.count("sql")) == (3, 1)
    for kind, code, shown in BLOCK.findall(text):
        if kind == "sql":
            with psycopg.connect(database) as connection:
                for statement in code.strip().split(";\n"):
                    assert connection.execute(statement).rowcount > 1
            continue
        said = tidy("".join(map(run, code.strip().splitlines())))
        if WRITE:
            page = PAGE.read_text(encoding="utf-8")
            PAGE.write_text(
                page.replace(f"{code}```\n```\n{shown}```", f"{code}```\n```\n{said}\n```"), encoding="utf-8"
            )
        else:
            assert said == tidy(shown), code
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")
