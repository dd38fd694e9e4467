"""What it is all worth, with real processes and two simulated exchanges, of which one dies and comes back."""

import os
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from tests.plugins import _nursery
from tests.plugins.desk import Process
from tests.plugins.simulator import ROOT, Simulator

PATIENCE = 60.0


class Worth:
    """A database, two exchanges, and the processes that read them."""

    def __init__(self, url: str, home: Path) -> None:
        self.home = home
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT), "DATABASE_URL": url, "TALLYDESK_HOME": str(home), "COLUMNS": "220",
            "TALLYDESK_TICK": "0.5",
        }  # fmt: skip
        self.processes: list[Process] = []
        self.sql = psycopg.connect(url, autocommit=True, row_factory=namedtuple_row)

    def cli(self, *arguments: str) -> str:
        done = _nursery.run("trader.cli.main", *arguments, environment=self.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def account(self, name: str, venue: Simulator) -> None:
        self.environment |= {f"{name.upper()}_API_KEY": venue.key, f"{name.upper()}_SECRET": venue.secret}
        where = ("--exchange", f"binance={name}", "--mode", "simulator", "--url", venue.url)
        self.cli("account", "add", name, *where, "--credentials", name.upper())

    def start(self, *arguments: str) -> None:
        self.processes.append(Process(["run", *arguments], self.environment, self.home / f"{arguments[0]}.log"))

    def wait_for(self, statement: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if (row := self.sql.execute(statement).fetchone()) is not None:
                return row
            time.sleep(0.05)
        shown = [
            self.sql.execute(f"SELECT * FROM {view}").fetchall() for view in ("account_total", "rates", "price_read")
        ]
        logs = "\n".join(process.output[-1500:] for process in self.processes)
        raise AssertionError(f"not within {PATIENCE} s: {statement}\n{shown}\n{logs}")


@pytest.fixture
def worth(database: str, tmp_path: Path) -> Iterator[Worth]:
    opened = Worth(database, tmp_path)
    yield opened
    for process in opened.processes:
        if process.alive:
            process.kill()
    opened.sql.close()


def test_an_exchange_dies_and_comes_back(worth: Worth, simulator: Callable[..., Simulator]) -> None:
    crypto = simulator("--market", "ETH/BTC", "--balance", "ETH=0.01", "--balance", "BTC=1", "--balance", "XRP=5")
    money = simulator("--market", "BTC/USDT", "--balance", "USDT=500")
    crypto.price("50", "ETH/BTC")
    money.price("50000")
    worth.account("crypto", crypto)
    worth.account("money", money)
    worth.sql.execute("UPDATE setting SET rate_fresh = '15 s', balance_fresh = '20 s'")
    worth.start("scheduler")
    worth.start("worker")

    row = worth.wait_for("SELECT * FROM account_total WHERE account IS NULL AND value > 70000 AND NOT stale")
    assert (row.unit, row.unpriced, row.old_rates) == ("USDT", ["XRP"], None)
    # 0.01 ETH at 50 BTC, and 1 BTC, at 50,000; the book is a little around its price.
    assert abs(row.value - 75500) < Decimal(100)
    path = worth.wait_for("SELECT path FROM rates WHERE asset = 'ETH' AND state = 'fresh'").path
    assert path == ["crypto:ETH/BTC", "money:BTC/USDT"]

    money.kill()
    row = worth.wait_for("SELECT * FROM account_total WHERE account = 'money' AND stale")
    assert row.value == 500
    assert row.note.startswith("money: could not be read: ")
    row = worth.wait_for("SELECT * FROM account_total WHERE account = 'crypto' AND old_rates IS NOT NULL")
    assert (row.stale, row.old_rates) == (False, ["BTC", "ETH"])
    assert abs(row.value - 75000) < Decimal(100)
    reason = worth.wait_for("SELECT reason FROM rates WHERE asset = 'BTC' AND reason IS NOT NULL").reason
    assert reason.startswith("no way to USDT with fresh prices: none of money:BTC/USDT; money: ")
    shown = worth.cli("account", "total")
    assert "money: could not be read" in shown

    money.start()
    money.price("60000")
    row = worth.wait_for("SELECT * FROM account_total WHERE account IS NULL AND NOT stale AND old_rates IS NULL")
    assert abs(row.value - 90500) < Decimal(100)
