"""CPU time per order, phase by phase: PostgreSQL's backend and our Python, one after the other on one connection.

Nothing waits and nothing runs at once, so another program on the machine makes a figure late, not large.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from bench.desk import BROKEN, FILLED, QUEUE, QUEUE_IN_TABLE, prepare, value
from bench.ground import Ground
from bench.instant import InstantVenue
from trader import gate, trader
from trader.db import Connection, Identity, fetch_one, open_pool
from trader.order import Claimed, Outcome
from trader.settle import settle

PER_SETTLE = 100
PER_CHECK = 32
STRATEGIES = 100


@dataclass
class Phases:
    """Microseconds of CPU per order, of the backend and of this process, by phase."""

    orders: int
    backend: Path
    server: dict[str, float] = field(default_factory=dict)
    python: dict[str, float] = field(default_factory=dict)
    _started: tuple[float, float] = (0, 0)

    def begin(self) -> None:
        """A phase begins."""
        self._started = self._now()

    def end(self, phase: str) -> None:
        """It ends: what it used is added to `phase`."""
        server, python = self._now()
        share = 1e6 / self.orders
        self.server[phase] = self.server.get(phase, 0) + (server - self._started[0]) * share
        self.python[phase] = self.python.get(phase, 0) + (python - self._started[1]) * share

    def _now(self) -> tuple[float, float]:
        """Seconds on a CPU so far, of the backend (the kernel counts nanoseconds) and of this process."""
        return int(self.backend.read_text().split()[0]) / 1e9, time.process_time()


async def cpu(place: Ground, orders: int, *, per_settle: int = PER_SETTLE) -> Phases:
    """Take `orders` market buys through their lives: half queued in each public way, claimed, checked, settled."""
    url = place.database()
    prepare(url, STRATEGIES)
    async with open_pool(url, Identity("trader", "bench"), 1) as pool:
        async with pool.connection() as connection:
            pid = (await fetch_one(connection, "SELECT pg_backend_pid() AS pid")).pid
            phases = Phases(orders, Path(f"/proc/{pid}/schedstat"))
            await _queue(connection, phases, orders)
        venue = InstantVenue()
        desk = trader.Desk(uuid4(), pool, {1: venue})
        claimed = await _claim(desk, phases)
        while claimed:
            outcomes = [await trader.call_venue(venue, one) for one in await _check(desk, claimed, phases)]
            await _settle(desk, outcomes, phases, per_settle)
            claimed = await _claim(desk, phases)
    if value(url, FILLED) != orders or value(url, BROKEN):
        raise AssertionError("not every order was filled: this run measures nothing")
    return phases


async def _queue(connection: Connection, phases: Phases, orders: int) -> None:
    """Each strategy's in one statement: the first half through the view, the second straight into the table."""
    share = orders // STRATEGIES // 2
    for phase, statement in (("queue through the view", QUEUE), ("queue in the table", QUEUE_IN_TABLE)):
        await connection.execute("SET tallydesk.process = ''")  # as a person or a strategy queues
        phases.begin()
        for number in range(1, STRATEGIES + 1):
            await connection.execute(statement, {"strategy": f"s{number}", "orders": share})
        phases.end(phase)
        phases.server[phase] *= 2
        phases.python[phase] *= 2
    await connection.execute("SET tallydesk.process = 'trader'")


async def _claim(desk: trader.Desk, phases: Phases) -> list[Claimed]:
    phases.begin()
    batch = await trader.claim(desk)
    phases.end("claim")
    return [one for lane in batch.lanes for one in lane]


async def _check(desk: trader.Desk, claimed: Sequence[Claimed], phases: Phases) -> list[Claimed]:
    passed: list[Claimed] = []
    phases.begin()
    async with desk.pool.connection() as connection:
        for start in range(0, len(claimed), PER_CHECK):
            ready = await gate.ready_to_send(connection, claimed[start : start + PER_CHECK])
            passed += [one for one in ready.values() if isinstance(one, Claimed)]
    phases.end("check before sending")
    return passed


async def _settle(desk: trader.Desk, outcomes: Sequence[Outcome], phases: Phases, per_settle: int) -> None:
    phases.begin()
    for start in range(0, len(outcomes), per_settle):
        async with desk.pool.connection() as connection, connection.transaction():
            await settle(connection, outcomes[start : start + per_settle])
    async with desk.pool.connection() as connection:  # in the pipeline the lanes are freed with the last outcomes
        await connection.execute("UPDATE lane SET owner = NULL, lease_until = '-infinity' WHERE owner IS NOT NULL")
    phases.end("settle")
