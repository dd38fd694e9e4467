"""A desk at any of the venues: a database, the venue's own markets, and a trader in a thread of this process.

The trader is the product's: its role, its loops, its connection through ccxt; only its signals and its new accounts are
left out. `kill` ends it between two awaits, as a crash does.
"""

import asyncio
import json
import threading
import time
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from tests.plugins.desk import Desk, Process
from trader import role
from trader.account import connect_account, connect_public, load_accounts
from trader.config import Settings
from trader.db import Identity, connect, open_pool
from trader.exchange.protocol import OrderRequest
from trader.market import sync_markets
from trader.reconcile import reconcile_account
from trader.recovery import Recovery
from trader.service import connect_accounts
from trader.stream import Streams
from trader.trader import Desk as TradersDesk
from trader.trader import Trader
from trader.watch import Watch

TICK = 0.1


class VenueDesk(Desk):
    """`Desk` (see there for what it proves), at a venue that is a scripted one or the simulator."""

    def __init__(self, url: str, venue: Any, settings: Settings) -> None:
        self.url = url
        self.home = settings.home
        self.venue = venue
        self.settings = settings
        self.processes: list[Process] = []
        self.traders: list[TraderThread] = []
        self.sql = psycopg.connect(url, autocommit=True, row_factory=namedtuple_row)
        self.execute("INSERT INTO asset (code) VALUES ('USDT'), ('BTC'), ('BNB')")
        self.execute(
            "INSERT INTO exchange (name, ccxt_id, replay, options) VALUES ('venue', %s, true, %s)",
            venue.ccxt_id,
            json.dumps(venue.options()),
        )
        self.execute(
            "INSERT INTO account (name, exchange_id, mode, credentials, stream)"
            " VALUES ('main', 1, 'simulator', 'TEST', false)"
        )
        asyncio.run(self._sync_markets())
        self.opening = self.balances()

    async def _sync_markets(self) -> None:
        exchange = connect_public(self.venue.ccxt_id, self.venue.options())
        try:
            async with await connect(self.url, Identity("worker", "test")) as connection:
                await sync_markets(connection, 1, await exchange.markets())
        finally:
            await exchange.close()

    def start(self) -> "TraderThread":
        """A trader that runs."""
        trader = TraderThread(self)
        self.traders.append(trader)
        trader.start()
        return trader

    def wait_for(self, statement: str, *parameters: Any, patience: float = 60.0) -> Any:
        """Poll until the statement's first value is true; it. A trader's own error ends the wait."""
        deadline = time.monotonic() + patience
        while not (found := self.value(statement, *parameters)):
            errors = [trader.error for trader in self.traders if trader.error is not None]
            if errors:
                raise errors[0]
            assert time.monotonic() < deadline, (statement, self.execute("SELECT * FROM orders"))
            time.sleep(0.02)
        return found

    def buy(self, **fields: Any) -> int:
        return self.order("s", market="venue:BTC/USDT", **fields)

    def sell(self, **fields: Any) -> int:
        return self.order("s", side="sell", market="venue:BTC/USDT", **fields)

    def cancel(self, order_id: int) -> None:
        self.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", order_id)

    def filled_at_venue(self) -> list[Any]:
        """The venue's orders of which something was filled."""
        return [one for one in self.venue.orders() if Decimal(one["filled"]) > 0]

    def wait_until_filled_at_venue(self, count: int = 1) -> None:
        """Until it has filled so many; the simulator matches what rests at its next tick."""
        deadline = time.monotonic() + 60
        while len(self.filled_at_venue()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    async def reconcile(self) -> None:
        """Rounds, as the job and the command run them, until the venue and the books agree: a young trade waits."""
        async with await connect(self.url, Identity("worker", "reconcile")) as connection:
            (account,) = await load_accounts(connection)
            exchange = connect_account(account, self.settings)
            try:
                deadline = time.monotonic() + 60
                while not (done := await reconcile_account(connection, exchange, account, timedelta(0))).agrees:
                    assert time.monotonic() < deadline, done
                    assert done.failures == ()
                    await asyncio.sleep(0.25)
            finally:
                await exchange.close()

    async def place_behind_its_back(self, request: OrderRequest) -> Exception | None:
        """Place an order with the account's keys that no trader knows of; what it failed with."""
        async with await connect(self.url, Identity("trader", "behind")) as connection:
            (account,) = await load_accounts(connection)
        exchange = connect_account(account, self.settings)
        try:
            await exchange.create(request)
        except Exception as error:  # for the test to look at
            return error
        finally:
            await exchange.close()
        return None

    def free(self, asset: str = "USDT") -> Any:
        return self.value("SELECT coalesce(sum(free), 0) FROM allowance WHERE strategy = 's' AND asset = %s", asset)

    def held(self) -> Any:
        return self.value("SELECT coalesce(sum(held), 0) FROM allowance WHERE strategy = 's'")

    def close(self) -> None:
        for trader in self.traders:
            trader.kill()
        for process in self.processes:
            if process.alive:
                process.kill()
        self.sql.close()


class TraderThread(threading.Thread):
    """A trader with a loop of its own. An error in it fails the test that waits."""

    def __init__(self, desk: VenueDesk) -> None:
        super().__init__(daemon=True)
        self._desk = desk
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self._live())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # shown by whoever waits
            self.error = error
        finally:
            self._loop.close()

    def kill(self) -> None:
        """End it wherever it is; what it holds is let go, what it has sent stays sent."""
        if self.is_alive():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(lambda: self._task and self._task.cancel())
            self.join(30)
            assert not self.is_alive()

    async def _live(self) -> None:
        url = self._desk.url
        async with AsyncExitStack() as stack:
            held = await stack.enter_async_context(role.take(url, "trader"))
            identity = Identity("trader", held.name)
            pool = await stack.enter_async_context(open_pool(url, identity, 4))
            watching = await stack.enter_async_context(await connect(url, identity))
            desk = TradersDesk(held.instance, pool, {})
            trader = Trader(desk)
            await connect_accounts(self._desk.settings, watching, desk)
            stack.push_async_callback(_close, desk)
            async with asyncio.TaskGroup() as group:
                watch = Watch(desk, watching, Streams(desk, group))
                group.create_task(_repeat(Recovery(desk, group, trader.wake.set).look))
                group.create_task(_repeat(watch.look))
                group.create_task(_repeat(lambda: _wake(trader)))
                await trader.run()


async def _wake(trader: Trader) -> None:
    """In place of the notification of the database: its connection belongs to the service."""
    trader.wake.set()


async def _repeat(work: Any) -> None:
    while True:
        await work()
        await asyncio.sleep(TICK)


async def _close(desk: TradersDesk) -> None:
    for exchange in desk.exchanges.values():
        await exchange.close()
