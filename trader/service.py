"""The trader process: takes its role, connects what it needs, runs its loops until told to stop or until it must."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress

import psycopg

from trader import account, role
from trader.budget import Budgets
from trader.config import Settings
from trader.db import Connection, Identity, connect, end_if_cancelled, first_line, open_pool
from trader.errors import DatabaseError, TallydeskError
from trader.exchange.protocol import Exchange
from trader.recovery import Recovery
from trader.role import Role
from trader.stream import Streams
from trader.trader import Desk, Trader
from trader.watch import Watch

log = logging.getLogger("trader")

POOL_SIZE = 8
RECOVER_SECONDS = 0.25
WATCH_SECONDS = 1.0
NEW_ACCOUNTS_SECONDS = 5.0


async def run(settings: Settings, url: str, name: str | None = None) -> None:
    """Be a trader until SIGTERM or SIGINT. Raises TallydeskError when the role or the database is lost."""
    async with AsyncExitStack() as stack:
        held = await stack.enter_async_context(role.take(url, "trader", name))
        identity = Identity("trader", held.name)
        pool = await stack.enter_async_context(open_pool(url, identity, POOL_SIZE))
        watching = await stack.enter_async_context(await connect(url, identity))
        listening = await stack.enter_async_context(await connect(url, identity))
        desk = Desk(held.instance, pool, {})
        stack.push_async_callback(_close, desk.exchanges)
        trader = Trader(desk)
        budgets = Budgets(url, identity, settings.address, orders=True)
        stack.push_async_callback(budgets.close)
        await connect_accounts(settings, watching, desk, budgets)
        log.info("%s is running with %s", held.name, f"{len(desk.exchanges)} account(s)")
        try:
            await _run_loops(settings, held, trader, budgets, watching, listening)
        except BaseExceptionGroup as group:
            raise _reason(group, held) from group
    log.info("%s has stopped", held.name)


def _reason(group: BaseExceptionGroup[BaseException], held: Role) -> BaseException:
    """What to tell a person: a lost role or database in one sentence, a fault of the program whole."""
    expected, unexpected = group.split((TallydeskError, psycopg.Error))
    if unexpected is not None or expected is None:
        return group
    first: BaseException = expected
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first if isinstance(first, TallydeskError) else DatabaseError(f"{held.name} stops: {first_line(first)}")


async def _run_loops(
    settings: Settings, held: Role, trader: Trader, budgets: Budgets, watching: Connection, listening: Connection
) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, trader.stop.set)
    cancels = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        streams = Streams(trader.desk, group)
        watch = Watch(trader.desk, watching, streams)
        recovery = Recovery(trader.desk, group, trader.wake.set)
        background = [
            group.create_task(_give_up_when_lost(held)),
            group.create_task(_listen(listening, {"order_queued": trader.wake, "order_cancel": cancels})),
            group.create_task(_repeat(recovery.look, RECOVER_SECONDS)),
            group.create_task(_repeat(watch.look, WATCH_SECONDS, cancels)),
            group.create_task(_repeat(lambda: _new_accounts(settings, trader.desk, budgets), NEW_ACCOUNTS_SECONDS)),
        ]
        await trader.run()
        streams.stop()
        recovery.stop()
        for task in background:
            task.cancel()


async def _give_up_when_lost(held: Role) -> None:
    await held.lost.wait()
    raise TallydeskError(f"{held.name} stops: {held.why_lost}")


async def _repeat(work: Callable[[], Awaitable[object]], seconds: float, early: asyncio.Event | None = None) -> None:
    """Do the work again and again, at least every `seconds`, at once when `early` is set."""
    early = early or asyncio.Event()
    while True:
        end_if_cancelled()
        early.clear()
        await work()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await early.wait()


async def _listen(connection: Connection, events: dict[str, asyncio.Event]) -> None:
    """Set an event for each notification. All loops also tick, so a lost notification only costs time."""
    for channel in events:
        await connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(channel)))
    async for notification in connection.notifies():
        events[notification.channel].set()


async def _new_accounts(settings: Settings, desk: Desk, budgets: Budgets) -> None:
    async with desk.pool.connection() as connection:
        await connect_accounts(settings, connection, desk, budgets)


async def connect_accounts(
    settings: Settings, connection: Connection, desk: Desk, budgets: Budgets | None = None
) -> None:
    """Connect every account that is not connected yet. One that cannot be is reported and tried again later."""
    for one in await account.load_accounts(connection):
        if one.id not in desk.exchanges:
            try:
                desk.exchanges[one.id] = await _connect(one, settings, budgets)
            except TallydeskError as error:
                log.warning("account %s: its orders wait: %s", one.name, error)


async def _connect(one: account.Account, settings: Settings, budgets: Budgets | None) -> Exchange:
    exchange = account.connect_account(one, settings)
    if budgets is not None:
        try:
            await budgets.limit(exchange, one.exchange_id, one.id)
        except BaseException:
            await exchange.close()
            raise
    return exchange


async def _close(exchanges: dict[int, Exchange]) -> None:
    await asyncio.gather(*(exchange.close() for exchange in exchanges.values()), return_exceptions=True)
