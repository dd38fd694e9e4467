"""What an import shows while it goes on: bars on a terminal, nothing but the outcome elsewhere."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.plugins.simulator import ROOT

pytestmark = pytest.mark.any_server

SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2);
"""


def test_bars_are_drawn_on_a_terminal_and_go(database: str, tmp_path: Path) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(SEED)
    for part in range(3):
        lines = [f"{1704067200000 + (part * 15_000 + i) * 60_000},1,2,1,2,3" for i in range(15_000)]
        (tmp_path / f"{part}.csv").write_text("\n".join(lines))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "DATABASE_URL": database, "TALLYDESK_HOME": str(tmp_path / "home"), "TERM": "xterm",
        "COLUMNS": "120",
    }  # fmt: skip
    command = [sys.executable, "-m", "trader.cli.main", "bucket", "import", str(tmp_path)]
    command += ["--market", "binance:BTC/USDT", "--timeframe", "1m"]
    terminal, inside = pty.openpty()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=inside, cwd=ROOT) as running:
        os.close(inside)
        assert running.stdout is not None
        seen, end = "", time.monotonic() + 60
        while time.monotonic() < end:
            try:
                seen += os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # the other end is closed
                break
        said = running.stdout.read().decode()
        assert running.wait(20) == 0, seen
    os.close(terminal)
    assert "45000/45000" in seen
    assert "files read" in seen
    assert said.splitlines()[-1].endswith("45000 candles added, 0 changed, 0 were there already")
    assert "\x1b" not in said
