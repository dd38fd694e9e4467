"""Chaos: a desk at work while everything that can fail does, by a seed; then the books are checked on both sides.

Run by `scripts/chaos --minutes N --seed S`; a short run is part of the tests. Real processes (two traders, a worker, a
scheduler, the simulated venue, PostgreSQL with fsync on), real kill -9, real immediate stops.
"""

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from tests.plugins.desk import MARKET, Desk, Process
from tests.plugins.simulator import Simulator
from trader.embedded import EmbeddedServer
from trader.migrate import upgrade

STRATEGIES = 6
DEPOSIT = 500
SETTLE_SECONDS = 180.0
OPEN = "('accepted', 'partially_filled', 'pending_cancel')"
CANCEL_ALL = f"""UPDATE "order" SET cancel_requested_at = now()
  WHERE status IN {OPEN} AND cancel_requested_at IS NULL"""
HTTP_FAULTS: list[dict[str, Any]] = [
    {"fault": "drop_answer"},
    {"fault": "drop_request"},
    {"fault": "delay_answer", "seconds": 1.5},
    {"fault": "delay", "seconds": 1.0},
    {"fault": "delay", "seconds": 3.5},
    {"fault": "hang", "seconds": 3},
    {"fault": "status", "status": 503},
    {"fault": "status", "status": 502, "act": True},
    {"fault": "unknown_1007", "act": True},
    {"fault": "unknown_1007"},
    {"fault": "truncate"},
    {"fault": "garbage"},
    {"fault": "too_many_requests", "seconds": 1},
    {"fault": "reject", "code": -2010, "message": "Account has insufficient balance for requested action."},
    {"fault": "partial"},
]
LOOK_UP_FAULTS = [
    {"fault": "lookup_error", "match": {"endpoint": "GET /api/v3/order"}},
    {"fault": "drop_answer", "match": {"endpoint": "GET /api/v3/myTrades"}},
    {"fault": "status", "match": {"endpoint": "GET /api/v3/openOrders"}},
    {"fault": "drop_answer", "match": {"endpoint": "DELETE /api/v3/order"}},
    {"fault": "drop_request", "match": {"endpoint": "DELETE /api/v3/order"}},
]


@dataclass
class Chaos:
    """One run. Every decision is drawn from `dice`; when a process notices it is not."""

    home: Path
    seed: int
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.server = EmbeddedServer(self.home / "pg")
        self.url = self.server.ensure()
        upgrade(self.url)
        arguments = ("--balance", "USDT=100000", "--balance", "BTC=1", "--seed", str(self.seed))
        self.venue = Simulator(self.home / "venue.sqlite", arguments, "chaos-key", "chaos-secret")
        self.venue.start()
        self.price = Decimal(50000)
        self.venue.price(str(self.price))
        self.desk = Desk(self.url, self.venue, self.home)
        self.desk.opening = self.desk.balances()
        self.desk.execute("UPDATE account SET receive_window = '2 s'")
        for number in range(STRATEGIES):
            self.desk.strategy(f"s{number}", deposit=DEPOSIT)
        self.roles: dict[str, Process] = {}
        self.asleep: dict[str, float] = {}
        self.actions: list[tuple[int, Callable[[], None]]] = [
            (30, self.queue_orders),
            (6, self.deposit_or_withdraw),
            (6, self.cancel_one),
            (8, self.move_price),
            (10, self.venue_fault),
            (5, self.look_up_fault),
            (6, self.kill_trader),
            (3, self.pause_trader),
            (2, self.kill_helper),
            (1, self.stop_postgresql),
            (1, self.kill_venue),
            (1, self.halt_for_a_moment),
        ]

    # -- the desk ------------------------------------------------------------------------------------------------

    def sql(self, statement: str, *parameters: Any) -> list[Any]:
        """Run a statement as a person would, connecting again if PostgreSQL went away."""
        for _ in range(200):
            try:
                return self.desk.execute(statement, *parameters)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                with contextlib.suppress(psycopg.Error):
                    self.desk.sql.close()
                    self.desk.sql = psycopg.connect(self.url, autocommit=True, row_factory=namedtuple_row)
                time.sleep(0.05)
        raise AssertionError("PostgreSQL does not come back")

    def keep_alive(self) -> None:
        """What the watchdog does, at once: start every role that has ended."""
        for name in ("trader-1", "trader-2", "worker-1", "scheduler"):
            process = self.roles.get(name)
            if process is None or not process.alive:
                self.asleep.pop(name, None)
                self.roles[name] = self.desk.process("run", name.split("-")[0], "--name", name)
        for name, until in list(self.asleep.items()):
            if time.monotonic() >= until:
                self.roles[name].wake()
                del self.asleep[name]

    def run(self, seconds: float) -> None:
        """Let it happen for `seconds`."""
        weights, actions = [weight for weight, _ in self.actions], [action for _, action in self.actions]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.keep_alive()
            self.dice.choices(actions, weights)[0]()
            time.sleep(self.dice.uniform(0.02, 0.25))  # the rhythm of events is drawn from the seed

    # -- what happens ----------------------------------------------------------------------------------------------

    def queue_orders(self) -> None:
        for _ in range(self.dice.choice((1, 1, 2, 5, 12))):
            side = self.dice.choice(("buy", "buy", "sell"))
            fields: dict[str, Any] = {"strategy": f"s{self.dice.randrange(STRATEGIES)}", "side": side, "market": MARKET}
            kind = self.dice.random()
            if kind < 0.35:
                fields |= {"type": "market", "quote_quantity": self.dice.choice((4, 10, 25, 60))}
            elif kind < 0.55:
                fields |= {"type": "market", "quantity": self.dice.choice(("0.0002", "0.001", "0.000001"))}
            elif kind < 0.65:
                fields |= {"type": "market"}
            else:
                away = Decimal(self.dice.choice(("0.97", "0.995", "1.0", "1.005", "1.03")))
                fields |= {"type": "limit", "quantity": "0.0005", "limit_price": round(self.price * away, 2)}
            if self.dice.random() < 0.05:
                fields["expires_at"] = "2020-01-01"
            columns, marks = ", ".join(fields), ", ".join(["%s"] * len(fields))
            self.sql(f"INSERT INTO orders ({columns}) VALUES ({marks})", *fields.values())
            self.counts["orders queued"] += 1

    def deposit_or_withdraw(self) -> None:
        kind = self.dice.choice(("deposit", "withdrawal"))
        try:
            self.sql(
                "INSERT INTO orders (strategy, type, asset, quantity) VALUES (%s, %s, 'USDT', %s)",
                f"s{self.dice.randrange(STRATEGIES)}", kind, self.dice.choice((5, 50, 200)),
            )  # fmt: skip
            self.counts[f"{kind}s"] += 1
        except psycopg.errors.CheckViolation:
            self.counts["withdrawals refused"] += 1

    def cancel_one(self) -> None:
        rows = self.sql(f'SELECT id FROM "order" WHERE status IN {OPEN} AND cancel_requested_at IS NULL')
        if rows:
            with contextlib.suppress(psycopg.errors.RestrictViolation):  # it ended meanwhile
                self.sql("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", self.dice.choice(rows).id)
                self.counts["cancels asked"] += 1

    def move_price(self) -> None:
        self.price = round(self.price * Decimal(self.dice.choice(("0.98", "0.997", "1.003", "1.02"))), 2)
        self.at_venue(lambda: self.venue.price(str(self.price)))

    def venue_fault(self) -> None:
        fault = dict(self.dice.choice(HTTP_FAULTS))
        times = self.dice.choice((1, 1, 2, 3))
        self.at_venue(lambda: self.venue.fault(fault.pop("fault"), times=times, **fault))
        self.counts["faults of the venue"] += 1

    def look_up_fault(self) -> None:
        fault = dict(self.dice.choice(LOOK_UP_FAULTS))
        kind = str(fault.pop("fault"))
        match: Any = fault.pop("match")
        times = self.dice.choice((1, 2, 3))
        self.at_venue(lambda: self.venue.fault(kind, endpoint=match["endpoint"], times=times))
        self.counts["faults of look-ups and cancels"] += 1

    def at_venue(self, call: Callable[[], Any]) -> None:
        with contextlib.suppress(OSError):  # a venue that was just killed
            call()

    def kill_trader(self) -> None:
        name = self.dice.choice(("trader-1", "trader-2"))
        self.roles[name].kill()
        self.counts["kill -9 of a trader"] += 1

    def kill_helper(self) -> None:
        name = self.dice.choice(("worker-1", "scheduler"))
        self.roles[name].kill()
        self.counts["kill -9 of worker or scheduler"] += 1

    def pause_trader(self) -> None:
        name = self.dice.choice(("trader-1", "trader-2"))
        if self.roles[name].alive and name not in self.asleep:
            self.roles[name].pause()
            self.asleep[name] = time.monotonic() + self.dice.choice((0.5, 3.0, 12.0, 36.0))
            self.counts["SIGSTOP of a trader"] += 1

    def stop_postgresql(self) -> None:
        self.server.stop("immediate")
        time.sleep(self.dice.uniform(0, 1))
        self.server.ensure()
        self.counts["immediate stops of PostgreSQL"] += 1

    def kill_venue(self) -> None:
        self.venue.kill()
        time.sleep(self.dice.uniform(0, 1))
        self.venue.start()
        self.venue.price(str(self.price))
        self.counts["kill -9 of the venue"] += 1

    def halt_for_a_moment(self) -> None:
        self.sql("UPDATE account SET halted = true, halt_reason = 'chaos' WHERE name = 'main'")
        time.sleep(self.dice.uniform(0, 0.5))
        self.sql("UPDATE account SET halted = false WHERE name = 'main'")
        self.counts["halts"] += 1

    # -- the end -----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """No more faults: everything in flight ends, what is open is canceled."""
        self.venue.clear_faults()
        self.venue.price(str(self.price))
        for name in list(self.asleep):
            self.asleep[name] = 0.0
        unfinished = f"SELECT count(*) AS n FROM \"order\" WHERE status IN ('queued', 'submitted') OR status IN {OPEN}"
        end = time.monotonic() + SETTLE_SECONDS
        while self.sql(unfinished)[0].n and time.monotonic() < end:
            self.keep_alive()
            self.sql(CANCEL_ALL)
            time.sleep(0.2)

    def violations(self) -> list[str]:
        """A-F of the scenarios, here and at the venue."""
        unfinished = self.sql(f"""SELECT id, status::text, reason FROM "order"
            WHERE status IN ('queued', 'submitted') OR status IN {OPEN}""")
        found = [f"unfinished: {row}" for row in unfinished] + self.desk.violations()
        found += [
            f"incident: {row}"
            for row in self.sql("SELECT kind, message, order_id FROM incident WHERE severity = 'critical'")
        ]
        return found

    def end(self) -> None:
        for process in self.roles.values():
            if process.alive:
                process.kill()
        self.venue.kill()
        self.desk.sql.close()
        self.server.stop("immediate")

    def report(self) -> str:
        rows = self.sql('SELECT status::text, count(*) AS n FROM "order" GROUP BY 1 ORDER BY 1')
        lines = [f"  {count:6} {what}" for what, count in sorted(self.counts.items())]
        lines += [f"  {row.n:6} orders ended {row.status}" for row in rows]
        fills = self.sql("SELECT count(*) AS n FROM fill")[0].n
        again = self.sql('SELECT coalesce(sum(attempt - 1), 0) AS n FROM "order" WHERE attempt > 1')[0].n
        lines += [f"  {fills:6} fills", f"  {again:6} sent again after proof of absence"]
        return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run chaos; 0 if nothing was violated."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the directory with the database and the logs")
    options = parser.parse_args(arguments)
    home = Path(tempfile.mkdtemp(prefix="chaos"))
    home.chmod(0o755)
    chaos = Chaos(home, options.seed)
    try:
        chaos.run(options.minutes * 60)
        chaos.settle()
        violations = chaos.violations()
        print(f"seed {options.seed}, {options.minutes:g} minutes\n{chaos.report()}\n  {len(violations):6} violations")
        for violation in violations:
            print("VIOLATION", violation)
    finally:
        chaos.end()
        if not options.keep:
            shutil.rmtree(home, ignore_errors=True)
    if violations and options.keep:
        print(f"kept: {home}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
