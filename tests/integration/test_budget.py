"""The budget of requests that all processes share: each `Budgets` here is a process, with connections of its own."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from tests.plugins import _nursery
from tests.plugins.simulator import ROOT
from trader import migrate
from trader.budget import Budgets
from trader.db import Identity
from trader.errors import DatabaseError, Retry
from trader.exchange.limiter import Limiter, Said
from trader.share import READS_LATER_SECONDS, TAKE
from trader.simulator.client_options import ccxt_options

pytestmark = pytest.mark.any_server

PATIENCE = 20.0
UNITS = 1200.0
"""Of a venue: 20 a second, of which reads get 17.3; the burst is 40."""
SETUP = """
-- a minute that begins with the test, wherever in the wall clock's minute it runs
ALTER TABLE rate_budget ALTER minute_ends SET DEFAULT clock_timestamp() + interval '60 s';
INSERT INTO exchange (name, ccxt_id) VALUES ('sim', 'binance'), ('counts', 'kraken');
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'simulator'), ('other', 2, 'simulator');
"""


@dataclass
class Client:
    """A connection to a venue, as far as a budget is concerned."""

    ccxt_id: str = "binance"
    units: float | None = UNITS
    is_signed: bool = True
    limiter: Limiter | None = None

    def limit(self, limiter: Limiter) -> None:
        self.limiter = limiter


class Desk:
    """A database, and processes that share it."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self.sql = psycopg.connect(url, autocommit=True, row_factory=namedtuple_row)
        self.sql.execute(SETUP)

    def process(self, *, orders: bool = False, address: str = "shared") -> Budgets:
        budgets = Budgets(self._url, Identity("worker", "test"), address, orders=orders)
        self._stack.push_async_callback(budgets.close)
        return budgets

    async def share(
        self, *, orders: bool = False, address: str = "shared", client: Client | None = None, exchange: int = 1
    ) -> Any:
        """What a client of a new process asks before its requests."""
        client = client or Client()
        await self.process(orders=orders, address=address).limit(client, exchange, exchange)
        return client.limiter

    def row(self) -> Any:
        return self.sql.execute("SELECT * FROM rate_budget").fetchone()

    async def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline, self.row()
            await asyncio.sleep(0.01)


@pytest.fixture
async def desk(database: str) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        made = Desk(database, stack)
        stack.callback(made.sql.close)
        yield made


async def seconds(work: Awaitable[Any]) -> float:
    began = time.monotonic()
    await asyncio.wait_for(work, PATIENCE)
    return time.monotonic() - began


def shut(share: Any) -> Retry | None:
    """What it says to a request, if it refuses one."""
    try:
        share.check()
    except Retry as error:
        return error
    return None


async def test_one_row_for_each_address_and_for_each_account_where_the_venue_counts_those(desk: Desk) -> None:
    await desk.share()
    await desk.share(orders=True)
    await desk.share(address="elsewhere")
    for _ in range(2):
        await desk.share(client=Client("kraken"), exchange=2)
    await desk.share(client=Client("kraken", is_signed=False), exchange=2)
    rows = desk.sql.execute("SELECT exchange_id, account_id, address FROM rate_budget ORDER BY id").fetchall()
    assert rows == [(1, None, "shared"), (1, None, "elsewhere"), (2, 2, None), (2, None, "shared")]


async def test_a_connection_that_keeps_to_no_limit_is_left_alone(desk: Desk) -> None:
    assert await desk.share(client=Client(units=None)) is None
    assert desk.row() is None


async def test_eight_processes_together_get_no_more_than_one(desk: Desk) -> None:
    shares = [await desk.share() for _ in range(8)]
    desk.sql.execute("UPDATE rate_budget SET tokens = 0, refilled_at = clock_timestamp()")
    began, got = time.monotonic(), [0.0] * 8

    async def hammer(number: int) -> None:
        while True:
            await shares[number].ask(0.4)
            got[number] += 0.4

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(6.0):
            await asyncio.gather(*(hammer(number) for number in range(8)))
    allowed = (UNITS * 0.9 - UNITS / 30) / 60 * (time.monotonic() - began)
    assert sum(got) <= allowed + 0.4  # the last request may cost more than was left
    assert sum(got) >= 0.6 * allowed
    assert min(got) > 0
    assert desk.row().used >= sum(got) - 0.01


async def test_units_are_taken_several_at_a_time(desk: Desk, database: str) -> None:
    share = await desk.share()
    count = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'rate_budget'"
    for _ in range(60):
        await share.ask(0.4)
    await desk.process().close()

    def told() -> int:
        desk.sql.execute("SELECT pg_stat_clear_snapshot()")
        return int(desk.sql.execute(count).fetchone()[0])

    await desk.until(lambda: told() > 0)
    assert told() <= 20


async def test_a_large_request_is_not_passed_over_for_ever(desk: Desk) -> None:
    small, large = await desk.share(), await desk.share()

    async def hammer() -> None:
        while True:
            await small.ask(0.2)

    task = asyncio.create_task(hammer())
    assert await seconds(large.ask(16.0)) < PATIENCE
    task.cancel()


async def test_orders_wait_for_nothing_and_are_counted(desk: Desk) -> None:
    orders = await desk.share(orders=True)
    desk.sql.execute("UPDATE rate_budget SET used = capacity, tokens = -100")
    with desk.sql.transaction():
        desk.sql.execute("SELECT FROM rate_budget FOR UPDATE")  # not even for the row
        for _ in range(100):
            await asyncio.wait_for(orders.ask(0.2), 0.5)
    await desk.until(lambda: desk.row().used == UNITS + 20)


async def test_reads_leave_the_orders_their_share_of_the_minute(desk: Desk) -> None:
    reads, orders = await desk.share(), await desk.share(orders=True)
    desk.sql.execute("UPDATE rate_budget SET minute_ends = clock_timestamp() + interval '3 s'")
    orders.told(Said(used=UNITS * 0.9 - 1, minute_left=3.0))
    await desk.until(lambda: desk.row().used >= 1079)
    await reads.ask(0.9)
    waited = await seconds(reads.ask(0.9))
    assert 1.0 < waited < 6.0
    assert desk.row().used < 10


async def test_the_venues_count_corrects_ours_upward_only(desk: Desk) -> None:
    first, second = await desk.share(), await desk.share()
    first.told(Said(used=500.0, minute_left=40.0))
    await desk.until(lambda: desk.row().used == 500)
    second.told(Said(used=300.0, minute_left=40.0))  # an answer that was on its way for longer
    second.told(Said(stated=UNITS))
    await desk.until(lambda: desk.row().stated == UNITS)
    assert desk.row().used == 500
    second.told(Said(used=2.0, minute_left=0.001))  # of a minute that is over
    first.told(Said(used=20.0, minute_left=59.9))  # of the next one
    await desk.until(lambda: desk.row().used == 20)


async def test_what_the_venue_states_is_the_limit_for_all(desk: Desk) -> None:
    first = await desk.share()
    first.told(Said(stated=60.0))
    await desk.until(lambda: desk.row().capacity == 60)
    await desk.share()
    assert desk.row().capacity == 60
    desk.sql.execute("UPDATE rate_budget SET tokens = 0, refilled_at = clock_timestamp()")
    assert await seconds(first.ask(0.9)) + await seconds(first.ask(0.9)) > 0.8


async def test_one_answer_holds_every_process(desk: Desk) -> None:
    first, second, orders = await desk.share(), await desk.share(), await desk.share(orders=True)
    await second.ask(0.2)  # it has units left
    first.told(Said(shut=4.0, why="HTTP 429 Too Many Requests"))
    with pytest.raises(Retry, match=r"sim is not asked for .* s more: HTTP 429"):
        await first.ask(0.2)
    began = time.monotonic()
    await desk.until(lambda: shut(second) is not None and shut(orders) is not None)
    assert time.monotonic() - began < 1.0
    with pytest.raises(Retry):
        await second.ask(0.2)
    with pytest.raises(Retry) as caught:
        await orders.ask(0.2)
    assert 2.0 < (caught.value.after or 0) < 4.2
    seen = desk.sql.execute("SELECT * FROM budget").fetchone()
    assert (seen.exchange, seen.why) == ("sim", "HTTP 429 Too Many Requests")
    late = await desk.share(orders=True)  # one that starts meanwhile
    assert shut(late) is not None
    await desk.until(lambda: shut(orders) is None and shut(late) is None)
    assert shut(second) is not None  # orders first
    assert await seconds(second.ask(0.2)) > READS_LATER_SECONDS / 2


async def test_a_person_can_shut_a_venue_and_open_it_again(desk: Desk) -> None:
    share = await desk.share(orders=True)
    desk.sql.execute("UPDATE rate_budget SET blocked_until = now() + interval '1 h', why = 'by hand'")
    await desk.until(lambda: shut(share) is not None)
    with pytest.raises(Retry, match="by hand"):
        share.check()
    desk.sql.execute("UPDATE rate_budget SET blocked_until = NULL")
    await desk.until(lambda: shut(share) is None)


@pytest.mark.parametrize("jump", [timedelta(hours=1), -timedelta(days=1)])
async def test_when_the_databases_clock_was_set(desk: Desk, jump: timedelta) -> None:
    """What was written before the clock was set back lies in the future; before it was set forward, far behind."""
    share = await desk.share()
    desk.sql.execute(
        "UPDATE rate_budget SET refilled_at = refilled_at + %s, minute_ends = minute_ends + %s, used = capacity",
        [jump, jump],
    )
    got, began = 0.0, time.monotonic()
    while time.monotonic() - began < 1.5:
        await asyncio.wait_for(share.ask(0.4), PATIENCE)
        got += 0.4
    assert 10 < got <= UNITS / 30 + 17.4 * (time.monotonic() - began) + 0.4
    ends = desk.sql.execute("SELECT extract(epoch FROM minute_ends - now()) AS left FROM rate_budget").fetchone().left
    assert 0 < ends <= 60


async def test_a_block_does_not_last_longer_because_the_clock_was_set_back(desk: Desk) -> None:
    share = await desk.share()
    share.told(Said(shut=3.0, why="HTTP 429"))
    await desk.until(lambda: desk.row().blocked_until is not None)
    desk.sql.execute("ALTER TABLE rate_budget DISABLE TRIGGER blocked")
    desk.sql.execute(
        "UPDATE rate_budget SET blocked_at = blocked_at + interval '1 h', "
        "blocked_until = blocked_until + interval '1 h'"
    )
    desk.sql.execute("ALTER TABLE rate_budget ENABLE TRIGGER blocked")
    fresh = await desk.share()
    fresh.told(Said(used=1.0, minute_left=30.0))  # the next who writes the row sees it
    await desk.until(lambda: shut(fresh) is not None and (shut(fresh).after or 0) < 10)  # type: ignore[union-attr]
    await desk.until(lambda: shut(fresh) is None)


async def test_a_process_that_dies_takes_less_than_a_second_with_it(desk: Desk, database: str) -> None:
    """Killed after it took units, and killed while it holds the row."""
    reads, orders = await desk.share(), await desk.share(orders=True)
    with contextlib.closing(psycopg.connect(database, row_factory=namedtuple_row)) as dying:
        taken = dying.execute(TAKE, {"id": desk.row().id, "cost": 0.4, "want": 1e6, "back": 0}).fetchone()
        dying.commit()
        assert taken is not None
        assert 0.4 <= taken.granted <= UNITS / 60
        dying.execute("SELECT FROM rate_budget FOR UPDATE")
        waiting = asyncio.create_task(reads.ask(0.4))
        await desk.until(lambda: _waiting(desk) > 0)
        await asyncio.wait_for(orders.ask(1.0), 0.5)
        desk.sql.execute("SELECT pg_terminate_backend(%s)", [dying.info.backend_pid])
        await asyncio.wait_for(waiting, PATIENCE)


def _waiting(desk: Desk) -> int:
    query = "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return int(desk.sql.execute(query).fetchone().n)


async def test_a_row_that_somebody_deleted_is_made_again(desk: Desk) -> None:
    reads, orders = await desk.share(), await desk.share(orders=True)
    desk.sql.execute("DELETE FROM rate_budget")
    await asyncio.wait_for(reads.ask(1.0), PATIENCE)
    await orders.ask(7.0)
    await desk.until(lambda: desk.row().used >= 8)
    orders.told(Said(shut=60.0, why="HTTP 429"))
    await desk.until(lambda: shut(reads) is not None)


async def test_an_exchange_that_is_gone_is_said(desk: Desk) -> None:
    desk.sql.execute("INSERT INTO exchange (name, ccxt_id) VALUES ('gone', 'binance')")
    share = await desk.share(exchange=3)
    desk.sql.execute("DELETE FROM exchange WHERE name = 'gone'")
    with pytest.raises(DatabaseError, match="budget of requests"):
        await share.ask(1.0)


async def test_a_connection_that_is_lost_is_opened_again(desk: Desk) -> None:
    reads, orders = await desk.share(), await desk.share(orders=True)
    desk.sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test budget' "
        "AND datname = current_database()"
    )
    await asyncio.wait_for(reads.ask(0.4), PATIENCE)
    before = desk.row().used
    await orders.ask(7.0)
    await desk.until(lambda: desk.row().used >= before + 7)
    reads.told(Said(shut=60.0, why="HTTP 418"))
    await desk.until(lambda: shut(orders) is not None)


def test_commands_ask_nothing_of_a_venue_that_is_shut(database: str, tmp_path: Path) -> None:
    """The venue of this test is a port where nobody listens: whoever asks it gets another error."""
    with psycopg.connect(database, autocommit=True) as sql:
        sql.execute(SETUP)
        options = Jsonb(ccxt_options("http://127.0.0.1:9"))
        sql.execute("UPDATE exchange SET options = %s WHERE id = 1", [options])
        sql.execute("UPDATE account SET credentials = 'TEST'")
        sql.execute(
            "INSERT INTO rate_budget (exchange_id, address, configured, blocked_until, why) "
            "VALUES (1, 'shared', 1200, now() + interval '1 h', 'HTTP 418')"
        )
    environment = {"DATABASE_URL": database, "TALLYDESK_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment |= {"TEST_API_KEY": "PublicLookingKey0123", "TEST_SECRET": "secret-of-the-account-1234"}
    for command, said in (
        (("market", "sync", "--exchange", "sim"), "sim is not asked for"),
        (("reconcile", "main"), "sim is not asked for"),
        (("status",), "HTTP 418"),
    ):
        done = _nursery.run("trader.cli.main", *command, environment=os.environ | environment, timeout=100)
        assert said in done.stdout + done.stderr


def test_the_step_goes_back(database: str) -> None:
    with psycopg.connect(database, autocommit=True, row_factory=namedtuple_row) as sql:
        sql.execute(SETUP)
        sql.execute("INSERT INTO rate_budget (exchange_id, address, configured) VALUES (1, 'x', 10)")
        revisions = migrate.revisions()
        migrate.downgrade(database, revisions[revisions.index("0018_budget") - 1])
        assert sql.execute("SELECT to_regclass('rate_budget') AS t, to_regclass('budget') AS v").fetchone() == (
            None,
            None,
        )
        migrate.upgrade(database)
        assert sql.execute("SELECT count(*) AS n FROM budget").fetchone().n == 0


@pytest.mark.parametrize("tokens", ["-1000000000", "'-Infinity'", "'NaN'"])
async def test_a_debt_that_cannot_be_is_a_minutes_worth_at_most(desk: Desk, tokens: str) -> None:
    await desk.share()
    desk.sql.execute(f"UPDATE rate_budget SET tokens = {tokens}")
    row = desk.sql.execute(TAKE, {"id": desk.row().id, "cost": 1, "want": 1, "back": 0}).fetchone()
    assert row.wait is None or 0 < row.wait < 90
    assert desk.row().tokens >= -desk.row().capacity
