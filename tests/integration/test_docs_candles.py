"""The commands, statements and programs of docs/candles.md do what is said there."""

import io
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.plugins import _nursery
from tests.plugins.simulator import ROOT

pytestmark = pytest.mark.any_server

TEXT = (ROOT / "docs" / "candles.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|sql|python)\n(.*?)```\n(?:```\n(.*?)```\n)?", TEXT, re.DOTALL)
SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('ETH'), ('USDT');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 3), (1, 'ETH/USDT', 2, 3);
"""
DAY = 1440
START = 1704067200000
HEADER = "time_open_ms,open,high,low,close,volume"


def klines(minutes: Iterator[int] | range) -> str:
    return "".join(
        f"{START + m * 60_000},101.25,103.5,100.0,102.5,{m % 60}.0,{START + m * 60_000 + 59_999},1,1,1,1,0\n"
        for m in minutes
    )


def zipped(name: str, text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.csv", text)
    return buffer.getvalue()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the files that the page speaks of."""
    second = (minute for minute in range(DAY, 2 * DAY) if not DAY + 600 <= minute < DAY + 603)
    for name, minutes in (("BTCUSDT-1m-2024-01", range(DAY)), ("BTCUSDT-1m-2024-02", second)):
        (tmp_path / f"{name}.zip").write_bytes(zipped(name, klines(minutes)))
    ends = ("2023-10-31", "2023-11-30", "2023-12-31")
    (tmp_path / "months.csv").write_text(
        "Date,Open,High,Low,Close,Volume\n" + "".join(f"{d},1,2,1,2,3\n" for d in ends)
    )
    (tmp_path / "broken.csv").write_text(f"{HEADER}\n{START},1,2,1,2,3\n{START + 60_000},1,0.4,1,2,3\n")
    return tmp_path


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.mark.timeout(300)
def test_the_page_does_what_it_says(database: str, place: Path) -> None:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "DATABASE_URL": database, "TALLYDESK_HOME": str(place / "home"), "COLUMNS": "160",
    }  # fmt: skip

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def shell(line: str) -> str:
        program, *arguments = shlex.split(line)
        assert program == "scripts/tallydesk", line
        expanded = [
            name
            for argument in arguments
            for name in (
                sorted(path.name for path in place.glob(argument)) if argument.endswith("*.zip") else [argument]
            )
        ]
        done = _nursery.run("trader.cli.main", *expanded, environment=environment, place=place)
        return done.stdout + done.stderr

    kinds = [kind for kind, _, _ in BLOCKS]
    assert (kinds.count("sh"), kinds.count("sql"), kinds.count("python")) == (14, 5, 1)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SEED)
        for kind, code, shown in BLOCKS:
            if kind == "sql":
                connection.execute(code)
                continue
            said = "".join(map(shell, code.splitlines())) if kind == "sh" else run(sys.executable, "-c", code)
            assert tidy(said) == tidy(shown), code
        assert connection.execute("SELECT count(*) FROM bucket").fetchone() == (2 * DAY + 53,)
        feeds = connection.execute("SELECT count(*) FROM bucket_feed").fetchone()
        assert feeds == (6,)
