"""The job queue: procrastinate on our own connections, and what the jobs of a worker share.

A module of jobs has a function `register(app)` that adds its tasks, each under a name of its own: a name made of the
module path changes with every move of a file, and a queue outlives that. Tasks are coroutines (procrastinate gives
plain functions a pool of few threads), may run twice, and take their `Context` from `context_of`.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from procrastinate import App, JobContext, PsycopgConnector
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

from trader import budget
from trader.account import Account, connect_account, connect_public, load_accounts
from trader.config import Settings
from trader.db import Connection, Identity, Pool, conninfo, fetch_one
from trader.errors import InputError
from trader.exchange.protocol import Exchange

QUEUE = "default"
CLOCK_SECONDS = 60.0
"""How long a reading of a venue's clock is carried on by our own."""

# Not through procrastinate's own defer: there a lock that is taken is an error, and an error ends our transaction.
DEFER = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
VALUES (%(queue)s, %(task)s, %(priority)s, %(lock)s, %(queueing_lock)s, %(args)s, NULL)
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
"""

EXCHANGE = "SELECT id, name, ccxt_id, replay, options, offline FROM exchange WHERE id = %s"


class Job(NamedTuple):
    """A job to defer. `queueing_lock`: at most one waits; `lock`: at most one runs."""

    task: str
    args: Mapping[str, Any] = {}
    queueing_lock: str | None = None
    lock: str | None = None
    priority: int = 0


class Module(Protocol):
    """A module of jobs."""

    def register(self, app: App) -> None: ...


def build_app(url: str, identity: Identity, modules: Iterable[Module] = ()) -> App:
    """procrastinate's app with the tasks of `modules`; it connects when it is opened."""
    app = App(connector=PsycopgConnector(conninfo=conninfo(url, identity), min_size=1, max_size=8, timeout=10))
    for module in modules:
        module.register(app)
    return app


def defer_parameters(job: Job) -> dict[str, Any]:
    """The parameters of DEFER."""
    return {
        "queue": QUEUE,
        "task": job.task,
        "priority": job.priority,
        "lock": job.lock,
        "queueing_lock": job.queueing_lock,
        "args": Jsonb(dict(job.args)),
    }


async def defer_in(
    connection: Connection,
    task: str,
    *,
    queueing_lock: str | None = None,
    lock: str | None = None,
    priority: int = 0,
    **args: Any,
) -> bool:
    """Queue a job within the transaction of `connection`, if any: it exists if and only if that commits.

    False if a job with the same `queueing_lock` waits already, which will do the work. A priority must be the same for
    all jobs of one lock.
    """
    job = Job(task, args, queueing_lock, lock, priority)
    return (await connection.execute(DEFER, defer_parameters(job))).rowcount == 1


@dataclass(slots=True)
class _VenueClock:
    read: datetime
    at: float


@dataclass(slots=True)
class Context:
    """What the jobs of one worker share: settings, database connections, and one connection per account."""

    settings: Settings
    pool: Pool
    connect: Callable[[Account, Settings], Exchange] = connect_account
    instance: UUID | None = None
    """That of the worker's role: what it leases is free as soon as it is dead. None: only when the lease is over."""
    _closing: AsyncExitStack = field(default_factory=AsyncExitStack)
    _connected: dict[str, tuple[Any, Exchange]] = field(default_factory=dict)
    _clocks: dict[int, _VenueClock] = field(default_factory=dict)
    _connecting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _budgets: budget.Budgets = field(init=False)

    def __post_init__(self) -> None:
        url = str(self.pool.conninfo)
        identity = Identity("worker", str(conninfo_to_dict(url).get("application_name", "worker")))
        self._budgets = budget.Budgets(url, identity, self.settings.address, orders=False)
        self._closing.push_async_callback(self._budgets.close)

    async def account(self, connection: Connection, account_id: int) -> tuple[Account, Exchange]:
        """An account and the connection to its venue. InputError if there is no such account."""
        for account in await load_accounts(connection):
            if account.id == account_id:
                return account, await self._of_account(account)
        raise InputError(f"account {account_id}: there is none of this number")

    async def exchange(self, connection: Connection, exchange_id: int) -> Exchange:
        """A connection for public data: that of an account at the exchange, else one without credentials.

        InputError for one that is offline: nobody asks it anything.
        """
        accounts = [account for account in await load_accounts(connection) if account.exchange_id == exchange_id]
        if accounts:
            return await self._of_account(accounts[0])
        row = await fetch_one(connection, EXCHANGE, [exchange_id])
        if row.offline:
            raise InputError(f"exchange {row.name}: it is offline, no venue is asked")
        connect = partial(connect_public, row.ccxt_id, row.options)
        return await self._keep(f"exchange {row.id}", row, connect, exchange_id)

    async def venue_time(self, connection: Connection, exchange_id: int) -> datetime | None:
        """The venue's clock, never ahead of it; None where only a later candle proves that one has closed.

        Raises ExchangeError if the clock must be read and cannot.
        """
        if (await fetch_one(connection, EXCHANGE, [exchange_id])).replay:
            return None
        clock = self._clocks.get(exchange_id)
        if clock is None or time.monotonic() - clock.at > CLOCK_SECONDS:
            exchange = await self.exchange(connection, exchange_id)
            clock = _VenueClock(read=await exchange.time(), at=0.0)
            clock.at = time.monotonic()  # after the answer, so that what is carried on lags, never leads
            self._clocks[exchange_id] = clock
        return clock.read + timedelta(seconds=time.monotonic() - clock.at)

    async def _of_account(self, account: Account) -> Exchange:
        connect = partial(self.connect, account, self.settings)
        return await self._keep(f"account {account.id}", account, connect, account.exchange_id, account.id)

    async def _keep(
        self, key: str, row: Any, connect: Callable[[], Exchange], exchange_id: int, account_id: int | None = None
    ) -> Exchange:
        """The connection under `key`, made anew when its row has changed; the old one may be in use.

        It asks the budget that all processes share before each of its requests.
        """
        async with self._connecting:
            known = self._connected.get(key)
            if known is not None and known[0] == row:
                return known[1]
            exchange = connect()
            self._closing.push_async_callback(exchange.close)
            await self._budgets.limit(exchange, exchange_id, account_id)
            self._connected[key] = (row, exchange)
            return exchange

    async def close(self) -> None:
        """Close the connections to venues."""
        await self._closing.aclose()


def context_of(job: JobContext) -> Context:
    """What the worker that runs `job` shares among its jobs."""
    shared = job.additional_context["context"]
    if not isinstance(shared, Context):
        raise TypeError(f"the worker shares {type(shared).__name__}, not a Context")
    return shared
