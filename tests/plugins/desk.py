"""Fixture `make_desk`: a database, a simulated venue and real trader processes, with everything between them set up.

Use: `desk = make_desk("--balance", "USDT=1000")`; `desk.strategy("s1", deposit=100)`;
`desk.order("s1", side="buy", quantity=1)`; `desk.trader()` starts a process; `desk.settled()` waits until nothing is in
flight; `desk.check()` proves the invariants A-F of docs/reliability.md on both sides.

`make_own_desk` is the same on a PostgreSQL server of its own, with fsync on, which may be killed.
"""

import contextlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from tests.plugins import _nursery
from tests.plugins.books import UNBALANCED
from tests.plugins.simulator import ROOT, Simulator
from trader.embedded import EmbeddedServer
from trader.migrate import upgrade
from trader.simulator.client_options import ccxt_options

PATIENCE = 60.0
HUMAN = "human-"
"""How the names of orders begin that a test places by hand, with the account's own keys."""
MARKET = "binance:BTC/USDT"
MARKET_ROW = """
INSERT INTO market (exchange_id, symbol, base_id, quote_id, price_tick, quantity_step, quantity_min, cost_min,
  maker_fee, taker_fee) VALUES (1, 'BTC/USDT', 2, 1, 0.01, 0.00001, 0.00001, 5, 0.001, 0.001)
"""
# All that is at the venue by our books, less what was there before (the opening, posted by the first reading).
MOVED = """
SELECT a.code, coalesce(b.total, 0) - coalesce(o.total, 0) AS total FROM asset a
  LEFT JOIN (SELECT asset_id, sum(total) AS total FROM balance GROUP BY 1) b ON b.asset_id = a.id
  LEFT JOIN (SELECT asset_id, sum(quantity) AS total FROM adjustment WHERE kind = 'opening' GROUP BY 1) o
    ON o.asset_id = a.id
"""
# Every order that is, or was, at the venue as far as we know: with what we booked of it.
AT_VENUE = """
SELECT client_order_id::text AS name, id, status::text, filled_quantity FROM "order"
 WHERE venue_order_id IS NOT NULL OR filled_quantity > 0
    OR status IN ('accepted', 'partially_filled', 'pending_cancel', 'filled')
"""
# Each order's events are one chain of steps that exist, from its birth to its status now.
BROKEN_CHAIN = """
SELECT order_id, previous::text, from_status::text, to_status::text
  FROM (SELECT *, lag(to_status) OVER (PARTITION BY order_id ORDER BY id) AS previous FROM order_event) e
 WHERE from_status IS DISTINCT FROM previous
    OR NOT (from_status = to_status OR order_step_exists(from_status, to_status))
"""
# Ours and other people's: together they are all that traded.
BOOKED = """
SELECT count(*) AS rows, count(DISTINCT (account_id, market_id, trade_id, side)) AS trades
  FROM (SELECT account_id, market_id, trade_id, side FROM fill
        UNION ALL SELECT account_id, market_id, trade_id, side FROM external_fill) f
"""
WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
"""
SUBSCRIBE = "userDataStream.subscribe.signature"
LEASE_ENDS = "UPDATE lane SET lease_until = clock_timestamp() - interval '1 s' WHERE owner IS NOT NULL"


class Process:
    """A process of the desk."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = _nursery.start("trader.cli.main", arguments, environment, output, output)

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

    def wait_for_output(self, words: str) -> None:
        """Until it has said these words."""
        deadline = time.monotonic() + PATIENCE
        while words not in self.output:
            assert time.monotonic() < deadline, f"it did not say {words!r}: {self.output[-1500:]}"
            time.sleep(0.02)


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
            "INSERT INTO account (name, exchange_id, mode, credentials, stream) VALUES ('main', 1, %s, 'TEST', false)",
            self.mode,
        )
        self.execute("INSERT INTO asset (code) VALUES ('USDT'), ('BTC'), ('BNB')")
        self.execute(MARKET_ROW)

    @property
    def mode(self) -> str:
        """The mode of the account `main`: TALLYDESK_TEST_MODE=live runs the scenarios as they go with real money."""
        return os.environ.get("TALLYDESK_TEST_MODE", "simulator")

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": self.url,
            "TALLYDESK_HOME": str(self.home),
            "TEST_API_KEY": self.venue.key,
            "TEST_SECRET": self.venue.secret,
            **({"TALLYDESK_ALLOW_LIVE": "1"} if self.mode == "live" else {}),
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

    def as_trader(self, statement: str, *parameters: Any) -> None:
        """What no person may do: time that passes in a row, say."""
        with self.sql.transaction():
            self.sql.execute("SET LOCAL tallydesk.process = 'trader'")
            self.sql.execute(statement, parameters or None)

    def end_leases(self) -> None:
        """The lanes' leases are over, as if their owners had hung for long enough."""
        self.as_trader(LEASE_ENDS)

    @contextlib.contextmanager
    def locking(self, statement: str, *parameters: Any) -> Iterator[None]:
        """Hold the locks that a statement takes, in a session of its own: whoever needs them waits exactly there."""
        with psycopg.connect(self.url) as connection:
            connection.execute(statement, parameters or None)
            yield
            connection.rollback()

    @contextlib.contextmanager
    def locking_next(self, statement: str) -> Iterator[threading.Thread]:
        """Stand in the queue for locks; `join` what is given to wait until they are held."""
        waiting = self.value(WAITING)
        with psycopg.connect(self.url) as connection:
            thread = threading.Thread(target=connection.execute, args=(statement,))
            thread.start()
            self.wait_for(f"SELECT ({WAITING}) > {waiting}")
            yield thread
            thread.join()
            connection.rollback()

    def wait_until_blocked(self) -> None:
        """Until somebody waits for a lock."""
        self.wait_for(f"SELECT ({WAITING}) > 0")

    def ready_trader(self) -> Process:
        """A trader that has been to the venue: it has read the markets, and claims at once."""
        trader = self.trader()
        name = f"warm-up-{len(self.processes)}"
        self.strategy(name)
        self.wait_for_status(self.order(name, side="sell", quantity="0.001"), "denied")
        self.wait_for("SELECT EXISTS (SELECT FROM role_status WHERE alive AND kind = 'trader')")
        return trader

    def listen(self) -> None:
        """Let traders hear the venue's stream.

        Most tests do without: it is faster than the look-ups and polls that they are about.
        """
        self.execute("UPDATE account SET stream = true")

    def heard(self, times: int = 1) -> None:
        """Wait until traders have subscribed to the stream so many times since the venue was started."""
        self.venue.wait_for_log(lambda _: len(self.subscriptions()) >= times, PATIENCE)

    def subscriptions(self) -> list[dict[str, Any]]:
        """Every subscription to the account's stream that the venue has accepted since it was started."""
        return [one for one in self.venue.log() if one["path"] == SUBSCRIBE and one["acted"]]

    def posts(self) -> list[dict[str, Any]]:
        """Every request for a new order that the venue has seen since it was started."""
        return [one for one in self.venue.log() if (one["method"], one["path"]) == ("POST", "/api/v3/order")]

    def sent(self) -> None:
        """Wait until the venue has accepted an order whose answer is on its way."""
        self.venue.wait_for_log(lambda one: one["method"] == "POST" and one["outcome"] in ("accepted", "answer_lost"))

    def known_once(self, order_id: int, spent: int = 60) -> None:
        """One order at the venue, known and filled; the allowance was used once, and nothing is held any more."""
        state = self.wait_for_status(order_id, "filled", "denied", "rejected", "canceled", "expired")
        assert state.status == "filled", state.reason
        assert len(self.venue.orders()) == 1
        assert spent - 1 < self.value("SELECT 100 - total FROM allowance WHERE asset = 'USDT'") <= spent
        assert self.value("SELECT held FROM allowance WHERE asset = 'USDT'") == 0
        self.check()

    def check(self) -> None:
        """The invariants A-F, here and at the venue; to be called when nothing is in flight."""
        assert self.violations() == []

    def violations(self) -> list[str]:
        """What breaks an invariant, each with its letter."""
        found = [f"B, D, E or F: {row}" for row in self.execute("SELECT * FROM invariant_violation")]
        found += [f"B: not balanced: {row}" for row in self.execute(UNBALANCED)]
        found += [f"E: no step: {row}" for row in self.execute(BROKEN_CHAIN)]
        found += self._wrong_orders()
        booked, trades = self.execute(BOOKED)[0], self.venue.venue_state()["trades"]
        if not booked.rows == booked.trades == trades:
            found.append(f"F: {booked.rows} fills of {booked.trades} trades are booked, {trades} are at the venue")
        try:
            self.check_balances()
        except AssertionError as error:
            found.append(f"C: balances differ: {error}")
        return found

    def _wrong_orders(self) -> list[str]:
        """A: each of the venue's orders is one row of ours with the same fills; each row that is there, is there."""
        at_venue = [one for one in self.venue.orders() if not str(one["client_order_id"]).startswith(HUMAN)]
        again = Counter(one["client_order_id"] for one in at_venue)
        found = [f"A: {name} is {count} orders at the venue" for name, count in again.items() if count > 1]
        ours = {row.name: row for row in self.execute(AT_VENUE)}
        for one in at_venue:
            row = ours.pop(one["client_order_id"], None)
            if row is None:
                found.append(f"A: the venue has an order that we do not know: {one}")
            elif Decimal(one["filled"]) != row.filled_quantity:
                found.append(f"C: {one['filled']} is filled at the venue, {row.filled_quantity} here: {row}")
        return found + [f"A: we know an order that the venue does not: {row}" for row in ours.values()]

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


def kill_postgresql(server: EmbeddedServer) -> None:
    """kill -9 of every process of a server at once; it comes back by its log alone."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile
                if (entry / "cwd").samefile(server.data):
                    os.kill(int(entry.name), signal.SIGKILL)


class OwnDesk(Desk):
    """A desk on a PostgreSQL server that belongs to it alone, so that the power may be cut."""

    def __init__(self, server: EmbeddedServer, venue: Simulator, home: Path) -> None:
        self.server = server
        url = server.ensure()
        upgrade(url)
        super().__init__(url, venue, home)

    def cut_power(self) -> None:
        """kill -9 of every process, PostgreSQL included; then PostgreSQL alone comes back."""
        for process in self.processes:
            if process.alive:
                process.kill()
        kill_postgresql(self.server)
        self._come_back()

    def crash_postgresql(self) -> None:
        """An immediate stop: no checkpoint, no goodbye; what is back afterwards is what was durable."""
        self.server.stop("immediate")
        self._come_back()

    def _come_back(self) -> None:
        self.server.ensure()
        self.sql.close()
        self.sql = psycopg.connect(self.url, autocommit=True, row_factory=namedtuple_row)


@pytest.fixture
def make_own_desk(short_home: Path, simulator: Callable[..., Simulator]) -> Iterator[Callable[..., OwnDesk]]:
    """A factory like `make_desk`, on a server of its own; once for a test."""
    made: list[OwnDesk] = []

    def make(*arguments: str) -> OwnDesk:
        venue = simulator(*arguments)
        venue.price("50000")
        desk = OwnDesk(EmbeddedServer(short_home / "pg"), venue, short_home)
        desk.opening = desk.balances()
        made.append(desk)
        return desk

    yield make
    for desk in made:
        for process in desk.processes:
            if process.alive:
                process.kill()
        desk.sql.close()
        desk.server.stop("immediate")
