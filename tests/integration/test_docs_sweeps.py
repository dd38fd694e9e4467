"""docs/sweeps.md: its commands print what stands there, its statements run, and its picture is drawn by it."""

import os
import re
import shlex
from pathlib import Path

import numpy as np
import psycopg
import pytest

from tests.plugins import _nursery
from tests.plugins.simulator import ROOT

pytestmark = pytest.mark.any_server

PAGE = ROOT / "docs" / "sweeps.md"
BLOCKS = re.findall(r"```(sh|sql)\n(.*?)```\n(?:```\n(.*?)```\n)?", PAGE.read_text(encoding="utf-8"), re.DOTALL)
PICTURE = ROOT / "docs" / "images" / "sweep-stability.png"
WRITE = os.environ.get("TALLYDESK_WRITE_DOCS") == "1"
"""Whether what the commands say is written into the page, instead of compared with it."""
HOURS = 365 * 24
START = 1_704_067_200_000


def hours() -> str:
    """A year that trends a little, up and down."""
    random = np.random.default_rng(2)
    trend = 0.0004 * np.sign(np.sin(np.arange(HOURS) / 60))
    close = 100 * np.exp((random.normal(0, 0.008, HOURS) + trend).cumsum())
    opens = np.concatenate(([100.0], close[:-1]))
    high, low = np.maximum(opens, close) * 1.002, np.minimum(opens, close) * 0.998
    columns = np.round(np.column_stack([opens, high, low, close]), 4)
    rows = (f"{START + 3_600_000 * n},{o},{h},{lo},{c},1" for n, (o, h, lo, c) in enumerate(columns.tolist()))
    return "time_open_ms,open,high,low,close,volume\n" + "\n".join(rows)


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.mark.timeout(300)
def test_the_page_does_what_it_says(database: str, tmp_path: Path) -> None:
    (tmp_path / "hours.csv").write_text(hours())
    environment = os.environ | {
        "DATABASE_URL": database, "TALLYDESK_HOME": str(tmp_path / "home"), "COLUMNS": "160", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    assert [kind for kind, _, _ in BLOCKS] == ["sh", "sh", "sh", "sh", "sh", "sh", "sql", "sql"]
    page = PAGE.read_text(encoding="utf-8")
    with psycopg.connect(database, autocommit=True) as connection:
        for kind, code, shown in BLOCKS:
            if kind == "sql":
                connection.execute(code)
                continue
            said = "".join(_shell(line, environment, tmp_path) for line in code.splitlines())
            if shown and WRITE and tidy(said) != tidy(shown):
                page = page.replace(f"{code}```\n```\n{shown}```", f"{code}```\n```\n{tidy(said)}\n```")
                PAGE.write_text(page, encoding="utf-8")
                shown = said
            assert not shown or tidy(said) == tidy(shown), code
        assert connection.execute("SELECT array_agg(id ORDER BY id) FROM sweep").fetchone() == ([1, 3],)
    if WRITE:
        PICTURE.write_bytes((tmp_path / "stability.png").read_bytes())
    drawn, kept = (path.read_bytes()[16:24] for path in (tmp_path / "stability.png", PICTURE))
    assert drawn == kept, "width and height"


def _shell(line: str, environment: dict[str, str], place: Path) -> str:
    program, *arguments = shlex.split(line)
    assert program == "scripts/tallydesk", line
    there = [str(place / one) if one in ("hours.csv", "stability.png") else one for one in arguments]
    done = _nursery.run("trader.cli.main", *there, environment=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace(f"{place}/", "")
