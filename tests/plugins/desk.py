"""Fixture `make_desk`: a database, a simulated venue and real trader processes, with everything between them set up.

Use: `desk = make_desk("--balance", "USDT=1000")`; `desk.strategy("s1", deposit=100)`;
`desk.order("s1", side="buy", quantity=1)`; `desk.trader()` starts a process; `desk.settled()` waits until nothing is in
flight; `desk.check()` proves the invariants on both sides.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from tests.plugins.simulator import ROOT, Simulator
from trader.simulator.client_options import ccxt_options

PATIENCE = 60.0
MARKET = "binance:BTC/USDT"
MARKET_ROW = """
INSERT INTO market (exchange_id, symbol, base_id, quote_id, price_tick, quantity_step, quantity_min, cost_min,
  maker_fee, taker_fee) VALUES (1, 'BTC/USDT', 2, 1, 0.01, 0.00001, 0.00001, 5, 0.001, 0.001)
"""
# All that is at the venue by our books, less what was there before (the opening, posted by the first reading).
MOVED = """
SELECT a.code, coalesce(b.total, 0) - coalesce(o.total, 0) AS total FROM asset a
  LEFT JOIN (SELECT asset_id, sum(total) AS total FROM balance GROUP BY 1) b ON b.asset_id = a.id
  LEFT JOIN (SELECT asset_id, sum(quantity) AS total FROM adjustment GROUP BY 1) o ON o.asset_id = a.id
"""
AT_VENUE = """
SELECT client_order_id::text FROM "order" WHERE venue_order_id IS NOT NULL
   AND status IN ('accepted', 'partially_filled', 'pending_cancel', 'filled', 'canceled', 'expired')
"""


class Process:
    """A process of the desk."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trader.cli.main", *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

        self._ended = False

    def kill(self) -> None:
        """kill -9."""
        self._ended = True
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self._ended = True
        self._process.terminate()
        return self._process.wait(PATIENCE)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def wait(self) -> int:
        """Wait for it to end by itself; the exit code."""
        self._ended = True
        return self._process.wait(PATIENCE)

    @property
    def died(self) -> bool:
        """True if it ended and nobody asked it to."""
        return not self._ended and not self.alive

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        return self._log.read_text()


class Desk:
    """A database, a venue, an account `main` at it, and the processes that a test starts."""

    def __init__(self, url: str, venue: Simulator, home: Path) -> None:
        self.url = url
        self.venue = venue
        self.home = home
        self.processes: list[Process] = []
        self.opening: dict[str, Decimal] = {}
        self.sql = psycopg.connect(url, autocommit=True, row_factory=namedtuple_row)
        options = json.dumps(ccxt_options(venue.url) | {"enableRateLimit": False})
        self.execute(
            "INSERT INTO exchange (name, ccxt_id, replay, options) VALUES ('binance', 'binance', true, %s)", options
        )
        self.execute(
            "INSERT INTO account (name, exchange_id, mode, credentials) VALUES ('main', 1, 'simulator', 'TEST')"
        )
        self.execute("INSERT INTO asset (code) VALUES ('USDT'), ('BTC'), ('BNB')")
        self.execute(MARKET_ROW)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": self.url,
            "TALLYDESK_HOME": str(self.home),
            "TEST_API_KEY": self.venue.key,
            "TEST_SECRET": self.venue.secret,
        }

    def execute(self, statement: str, *parameters: Any) -> list[Any]:
        cursor = self.sql.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def second_session(self) -> psycopg.Connection[Any]:
        """For what must be held open beside the desk's own statements. To be closed."""
        return psycopg.connect(self.url, autocommit=True)

    def value(self, statement: str, *parameters: Any) -> Any:
        return self.execute(statement, *parameters)[0][0]

    def strategy(self, name: str, deposit: str | Decimal | int | None = None) -> None:
        self.execute("INSERT INTO strategy (name, account_id, unit_id) VALUES (%s, 1, 1)", name)
        if deposit is not None:
            self.deposit(name, deposit)

    def deposit(self, name: str, quantity: str | Decimal | int, asset: str = "USDT") -> None:
        self.execute(
            "INSERT INTO orders (strategy, type, asset, quantity) VALUES (%s, 'deposit', %s, %s)", name, asset, quantity
        )

    def order(self, strategy: str, side: str = "buy", type: str = "market", market: str = MARKET, **fields: Any) -> int:  # noqa: A002
        """Queue an order; its id."""
        columns = {"strategy": strategy, "side": side, "type": type, "market": market} | fields
        names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
        return int(self.value(f"INSERT INTO orders ({names}) VALUES ({marks}) RETURNING id", *columns.values()))

    def state(self, order_id: int) -> Any:
        """One order as the view shows it."""
        return self.execute("SELECT * FROM orders WHERE id = %s", order_id)[0]

    def process(self, *arguments: str) -> Process:
        log = self.home / f"{len(self.processes)}-{'-'.join(arguments[:2])}.log"
        process = Process(list(arguments), self.environment, log)
        self.processes.append(process)
        return process

    def trader(self) -> Process:
        return self.process("run", "trader")

    def wait_for(self, statement: str, *parameters: Any, patience: float = PATIENCE) -> Any:
        """Poll until the statement's first value is true; it."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if found := self.value(statement, *parameters):
                return found
            if any(process.died for process in self.processes):
                break
            time.sleep(0.02)
        logs = "\n".join(process.output[-1500:] for process in self.processes)
        states = self.execute('SELECT status, reason, count(*) FROM "order" GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 10')
        raise AssertionError(f"not true within {patience} s: {statement}\n{states}\n{logs}")

    def wait_for_status(self, order_id: int, *statuses: str, patience: float = PATIENCE) -> Any:
        self.wait_for(
            'SELECT status::text = ANY(%s) FROM "order" WHERE id = %s', list(statuses), order_id, patience=patience
        )
        return self.state(order_id)

    def settled(self, patience: float = PATIENCE) -> None:
        """Wait until no order is queued, in flight or in doubt (open ones may rest)."""
        self.wait_for(
            """SELECT NOT EXISTS (SELECT FROM "order" WHERE status IN ('queued', 'submitted'))""", patience=patience
        )

    def check(self) -> None:
        """The invariants, here and at the venue; to be called when nothing is in flight."""
        assert self.execute("SELECT * FROM invariant_violation") == []
        at_venue = Counter(one["client_order_id"] for one in self.venue.orders())
        assert [name for name, count in at_venue.items() if count > 1] == []
        ours = {row.client_order_id for row in self.execute(AT_VENUE)}
        assert ours == set(at_venue)
        self.check_balances()

    def check_balances(self) -> None:
        """What our orders moved is exactly how the venue's balances changed."""
        moved = {row.code: row.total for row in self.execute(MOVED)}
        for asset, held in self.balances().items():
            change = held - self.opening.get(asset, Decimal(0))
            assert change == moved.get(asset, Decimal(0)), (asset, held, self.opening, moved)

    def balances(self) -> dict[str, Decimal]:
        """Total per asset at the venue."""
        account = self.venue.venue_state()["balances"][self.venue.key]
        return {asset: Decimal(one["free"]) + Decimal(one["locked"]) for asset, one in account.items()}


@pytest.fixture
def make_desk(database: str, simulator: Callable[..., Simulator], tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    """A factory: arguments go to the simulator."""
    made: list[Desk] = []

    def make(*arguments: str) -> Desk:
        venue = simulator(*arguments)
        venue.price("50000")
        desk = Desk(database, venue, tmp_path)
        desk.opening = desk.balances()
        made.append(desk)
        return desk

    yield make
    for desk in made:
        for process in desk.processes:
            if process.alive:
                process.kill()
        desk.sql.close()
