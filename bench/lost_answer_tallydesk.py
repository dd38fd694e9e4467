"""Tallydesk under one of the scoreboard's faults: a real trader process, a database, a simulated venue."""

import contextlib
import os
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from bench.desk import ACCOUNT, BROKEN, EXCHANGE, REFERENCE, STRATEGIES
from bench.lost_answer_venue import FUNDS, STEP, WANTED, Process, Row, faulty_venue, orders, quiet, spent, until
from bench.simulated import CREDENTIALS, ROOT, Venue

GOOD = "1 order, known, filled, allowance used once"
DEPOSIT = "INSERT INTO orders (strategy, type, asset, quantity) VALUES ('s1', 'deposit', 'USDT', %s)"
BUY = """
INSERT INTO orders (strategy, type, side, market, quote_quantity)
VALUES ('s1', 'market', 'buy', 'binance:BTC/USDT', %s) RETURNING id
"""
STATE = """SELECT status::text, filled_quantity FROM "order" WHERE id = %s"""
ENDED = ("filled", "canceled", "expired", "rejected", "denied")
KNOWN = """SELECT client_order_id::text AS name, venue_order_id AS number, filled_quantity AS filled FROM "order"
 WHERE side IS NOT NULL"""
MONEY = "SELECT total, held FROM allowance WHERE strategy = 's1' AND asset = %s"
POSITION = "SELECT coalesce(sum(quantity), 0) AS quantity FROM position"


@dataclass(frozen=True, slots=True)
class Result:
    """What is there when everything has settled."""

    at_venue: int
    known: int
    status: str
    cost: Decimal
    """USDT that the venue took in all."""
    used: Decimal
    """USDT of the allowance that are gone."""
    held: Decimal
    """USDT of it that are still reserved."""
    wrong: tuple[str, ...] = ()
    """What else is not right: the position, an invariant."""

    @property
    def verdict(self) -> str:
        """One sentence; it is GOOD, or says what differs."""
        words = [f"{self.at_venue} order{'' if self.at_venue == 1 else 's'}"]
        words += ["known" if self.known == self.at_venue > 0 else f"{self.known} known", self.status]
        return ", ".join([*words, self._allowance(), *self.wrong])

    def _allowance(self) -> str:
        once = self.held == 0 and self.used == self.cost and WANTED - STEP < self.used <= WANTED
        if once:
            return "allowance used once"
        return f"allowance used {self.used:f} of {WANTED}, {self.held:f} held, the venue took {self.cost:f}"


def measure(row: Row, url: str, home: Path, watched: float) -> Result:
    """Run one row on a migrated, empty database; `watched` seconds after the order's end nothing may have changed."""
    with faulty_venue(row) as venue, psycopg.connect(url, autocommit=True, row_factory=namedtuple_row) as sql:
        _prepare(sql, venue)
        order = _one(sql, BUY, WANTED).id
        trader = _trader(url, home)
        try:
            if row.killed:
                until(lambda: orders(venue), "the venue has the order", trader.log)
                trader.kill()
                if (before := _one(sql, STATE, order)).status != "submitted":
                    raise AssertionError(f"killed too late, this row measures nothing: the order is {before.status}")
                trader = _trader(url, home)
            with contextlib.suppress(TimeoutError):  # an order that does not end is a result, too
                until(lambda: _one(sql, STATE, order).status in ENDED, f"order {order} has ended", trader.log)
            quiet(lambda: (len(orders(venue)), _one(sql, STATE, order)), watched, trader.log)
            return _result(sql, venue, order)
        finally:
            trader.stop()


def _prepare(sql: "psycopg.Connection[Any]", venue: Venue) -> None:
    sql.execute(EXCHANGE, [Jsonb(venue.options())])
    sql.execute(ACCOUNT)
    sql.execute(REFERENCE)
    sql.execute(STRATEGIES, [1])
    sql.execute(DEPOSIT, [FUNDS])


def _trader(url: str, home: Path) -> Process:
    more = {**CREDENTIALS, "PYTHONPATH": str(ROOT), "DATABASE_URL": url, "TALLYDESK_HOME": str(home)}
    command = [sys.executable, "-m", "trader.cli.main", "run", "trader"]
    return Process(command, {**os.environ, **more}, ROOT, home / "trader.log")


def _result(sql: "psycopg.Connection[Any]", venue: Venue, order: int) -> Result:
    state, usdt, at_venue = _one(sql, STATE, order), _one(sql, MONEY, "USDT"), orders(venue)
    ours = {(row.name, row.number, row.filled) for row in sql.execute(KNOWN)}
    return Result(
        at_venue=len(at_venue),
        known=sum((one["client_order_id"], str(one["id"]), Decimal(one["filled"])) in ours for one in at_venue),
        status=state.status,
        cost=spent(venue),
        used=FUNDS - usdt.total,
        held=usdt.held,
        wrong=_wrong(sql, venue),
    )


def _wrong(sql: "psycopg.Connection[Any]", venue: Venue) -> tuple[str, ...]:
    owned = venue.admin("GET", "state")["balances"][CREDENTIALS["BENCH_API_KEY"]]
    there = Decimal(owned.get("BTC", {}).get("free", 0))
    here = _one(sql, POSITION).quantity
    found = [] if here == there else [f"position {here:f}, but {there:f} BTC at the venue"]
    broken = _one(sql, BROKEN).count
    return tuple(found + ([f"{broken} invariants broken"] if broken else []))


def _one(sql: "psycopg.Connection[Any]", statement: Any, *parameters: Any) -> Any:
    row = sql.execute(statement, parameters or None).fetchone()
    assert row is not None, statement
    return row
