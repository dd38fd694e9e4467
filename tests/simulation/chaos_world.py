"""The world that chaos happens in: a desk of real processes, its venue, its PostgreSQL, a person with the same keys.

What happens in it is in chaos_acts.py; a run of it, and the proof afterwards, in chaos.py.
"""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import ccxt
import psycopg
from psycopg.rows import namedtuple_row

from tests.plugins.desk import HUMAN, Desk, Process, kill_postgresql
from tests.plugins.simulator import Simulator
from trader.embedded import EmbeddedServer
from trader.migrate import upgrade

STRATEGIES = 6
DEPOSIT = 500
ROLES = ("trader-1", "trader-2", "worker-1", "scheduler")
SYMBOL = "BTC/USDT"
FAR_ABOVE = 200_000
"""A price that this market never comes to, not even when the venue has just been started again."""
READY = "SELECT count(*) = 4 AS ready FROM role_status WHERE alive"


@dataclass
class World:
    """Everything that is, and what has been done to it. Every decision is drawn from `dice`; when a process notices
    it is not."""

    home: Path
    seed: int
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.roles: dict[str, Process] = {}
        self.asleep: dict[str, float] = {}
        self.server = EmbeddedServer(self.home / "pg")
        arguments = ("--balance", "USDT=100000", "--balance", "BTC=1", "--seed", str(self.seed))
        self.venue = Simulator(self.home / "venue.sqlite", arguments, "chaos-key", "chaos-secret")

    def set_up(self) -> None:
        """Start PostgreSQL and the venue, open the account, fund the strategies. Whatever comes of it: `end`."""
        self.url = self.server.ensure()
        upgrade(self.url)
        self.venue.start()
        self.price = Decimal(50000)
        self.venue.price(str(self.price))
        self.desk = Desk(self.url, self.venue, self.home)
        self.desk.opening = self.desk.balances()
        self.desk.execute("UPDATE account SET receive_window = '2 s', stream = true")
        if self.desk.process("reconcile", "main").wait() != 0:
            raise AssertionError("the account could not be opened")
        for number in range(STRATEGIES):
            self.desk.strategy(f"s{number}", deposit=DEPOSIT)
        self._invite_a_human()

    def _invite_a_human(self) -> None:
        self.human = ccxt.binance(self.venue.options())
        self.human.load_markets()
        self.humans_open: set[str] = set()
        """The names of his orders, as far as he has not canceled them himself."""
        self.resting = self.humans_order("limit", "sell", 0.001, FAR_ABOVE)

    def humans_order(self, kind: str, side: str, quantity: float, price: float | None = None) -> str:
        """An order by hand, with the account's own keys; his name for it. Raises ccxt.BaseError."""
        self.counts["orders by hand"] += 1
        name = f"{HUMAN}{self.counts['orders by hand']}"
        self.humans_open.add(name)
        self.human.create_order(SYMBOL, kind, side, quantity, price, {"newClientOrderId": name})
        return name

    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        """Run a statement as a person would, connecting again if PostgreSQL went away."""
        for _ in range(200):
            try:
                return self.desk.execute(statement, *parameters)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self.connect_again()
                time.sleep(0.05)
        raise AssertionError("PostgreSQL does not come back")

    def connect_again(self) -> None:
        """A new session of the person."""
        with contextlib.suppress(psycopg.Error):
            self.desk.sql.close()
            self.desk.sql = psycopg.connect(self.url, autocommit=True, row_factory=namedtuple_row)

    def at_venue(self, call: Callable[[], Any]) -> None:
        """Call the venue; one that was just killed does not answer."""
        with contextlib.suppress(OSError):
            call()

    def keep_alive(self) -> None:
        """What the watchdog does, at once: start every role that has ended. Wake those that have slept enough."""
        for name in ROLES:
            process = self.roles.get(name)
            if process is None or not process.alive:
                self.asleep.pop(name, None)
                self.roles[name] = self.desk.process("run", name.split("-")[0], "--name", name)
        for name, until in list(self.asleep.items()):
            if time.monotonic() >= until:
                self.roles[name].wake()
                del self.asleep[name]

    def wait_until_ready(self) -> None:
        """Until every role is alive."""
        deadline = time.monotonic() + 60
        while not self.sql(READY)[0].ready and time.monotonic() < deadline:
            self.keep_alive()
            time.sleep(0.05)

    def cut_power(self, *, venue: bool) -> None:
        """kill -9 of everything that runs, PostgreSQL included, and of the venue too if so. Nothing comes back."""
        for process in self.roles.values():
            if process.alive:
                process.kill()
                self.counts["kill -9 of a role in a power cut"] += 1
        kill_postgresql(self.server)
        self.counts["kill -9 of PostgreSQL"] += 1
        self.asleep.clear()
        if venue:
            self.venue.kill()
            self.counts["kill -9 of the venue"] += 1

    def power_is_back(self, *, venue: bool) -> None:
        """PostgreSQL and the venue come back; roles are started by `keep_alive`."""
        self.server.ensure()
        self.connect_again()
        if venue:
            self.venue.start()
        self.at_venue(lambda: self.venue.price(str(self.price)))

    def end(self) -> None:
        """Nothing is left running."""
        for process in self.roles.values():
            if process.alive:
                process.kill()
        self.venue.kill()
        self.server.stop("immediate")
