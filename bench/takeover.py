"""How long the orders of a killed trader wait for another: real processes, `kill -9`, a venue between them."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg

from bench.desk import prepare
from bench.ground import Ground
from bench.simulated import CREDENTIALS, ROOT, simulator

PATIENCE = 60.0
STRATEGIES = 4

SLOW = {"fault": "delay_answer", "seconds": 3, "times": None, "match": {"endpoint": "POST /api/v3/order"}}
# Its name alone is taken before it has read its accounts: it runs when it listens.
READY = """
SELECT count(DISTINCT application_name) FROM pg_stat_activity
 WHERE datname = current_database() AND query LIKE 'LISTEN%%' AND application_name = ANY(%s)
"""
QUEUE = """
INSERT INTO orders (strategy, type, side, market, quote_quantity)
SELECT 's' || g, 'market', 'buy', 'binance:BTC/USDT', 10 FROM generate_series(1, %s) g
"""
SUBMITTED = """
SELECT r.name, array_agg(o.id) AS orders, max(o.fence) AS fence
  FROM "order" o JOIN lane l ON l.strategy_id = o.strategy_id JOIN role r ON r.instance = l.owner
 WHERE o.status = 'submitted' AND o.fence = l.fence AND o.in_doubt_since IS NULL GROUP BY 1
"""
NOT_TAKEN = """SELECT count(*) FROM "order" WHERE id = ANY(%s) AND status = 'submitted' AND fence <= %s"""
LEFT = """SELECT count(*) FROM "order" WHERE status IN ('queued', 'submitted')"""
HOLDER = """
import sys, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    connection.execute("SELECT pg_advisory_lock(1)")
    print("held", flush=True)
    sys.stdin.read()
"""


def takeovers(place: Ground, kills: int) -> tuple[list[float], list[float]]:
    """Milliseconds, ours and the floor's, measured in turn.

    Ours: from `kill -9` of a trader whose requests have no answer yet until another one has taken the last of its
    orders. The floor: from `kill -9` of a process that only holds an advisory lock until another session gets it.
    """
    url = place.database()
    ours, floor = [], []
    with simulator() as venue:
        prepare(url, STRATEGIES, venue.options())
        with psycopg.connect(url, autocommit=True) as connection:  # what never arrived is proved so in a shorter time
            connection.execute("UPDATE account SET receive_window = '1 s'")
        with contextlib.ExitStack() as stack, psycopg.connect(url, autocommit=True) as connection:
            traders = {name: stack.enter_context(_trader(url, name)) for name in ("trader-1", "trader-2")}
            for _ in range(kills):
                _wait(connection, READY, [list(traders)], until=len(traders))
                venue.admin("POST", "faults", [SLOW])
                connection.execute(QUEUE, [STRATEGIES])
                victim, orders, fence = _busy(connection)
                traders[victim].kill()
                ours.append(_wait(connection, NOT_TAKEN, [orders, fence]))
                _wait(connection, LEFT)
                venue.admin("DELETE", "faults")
                traders[victim].wait()
                traders[victim] = stack.enter_context(_trader(url, victim))
                floor.append(_floor(url, connection))
    return ours, floor


@contextlib.contextmanager
def _trader(url: str, name: str) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {**os.environ, **CREDENTIALS, "PYTHONPATH": str(ROOT), "DATABASE_URL": url}
    command = [sys.executable, "-m", "trader.cli.main", "run", "trader", "--name", name]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _busy(connection: "psycopg.Connection[Any]") -> tuple[str, list[int], int]:
    """The trader that has most orders submitted, once all are; those orders, and its newest fence."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        rows = connection.execute(SUBMITTED).fetchall()
        if sum(len(row[1]) for row in rows) == STRATEGIES:
            name, orders, fence = max(rows, key=lambda row: len(row[1]))
            return name, orders, fence
        time.sleep(0.005)
    raise AssertionError("the orders were not submitted")


def _wait(
    connection: "psycopg.Connection[Any]", count: LiteralString, values: list[Any] | None = None, until: int = 0
) -> float:
    """Until the query gives this number; the milliseconds that took."""
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE:
        row = connection.execute(count, values).fetchone()
        if row is not None and row[0] == until:
            return (time.monotonic() - started) * 1000
        time.sleep(0.002)
    raise AssertionError(f"still not {until} after {PATIENCE:.0f} s: {count}")


def _floor(url: str, connection: "psycopg.Connection[Any]") -> float:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
        return _wait(connection, "SELECT count(*) FROM (SELECT pg_try_advisory_lock(1) AS got) x WHERE got", until=1)
    finally:
        holder.wait()
        for pipe in (holder.stdin, holder.stdout):
            if pipe is not None:
                pipe.close()
        connection.execute("SELECT pg_advisory_unlock_all()")
