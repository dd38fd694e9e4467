"""The worker process: runs jobs until it is told to stop or until it must."""

import asyncio
import importlib
import logging
import os
import pkgutil
import signal
from contextlib import AsyncExitStack, suppress

import psycopg
from procrastinate import App
from procrastinate.exceptions import ConnectorException

import jobs
from jobs import sweep
from jobs.app import QUEUE, Context, Module, build_app
from jobs.maintenance import DEAD_AFTER_SECONDS, HEARTBEAT_SECONDS
from trader import role, schema
from trader.config import Settings
from trader.db import Identity, Pool, first_line, open_pool
from trader.errors import DatabaseError, TallydeskError
from trader.role import Role

CONCURRENCY = 8
"""Jobs that run at a time: they mostly wait for venues. For more work, run more workers."""
GRACE_SECONDS = 5.0
"""How long running jobs may go on after SIGTERM."""

PARENT_SECONDS = 1.0
"""How often a process that works for another looks whether that one is still there."""

log = logging.getLogger("worker")


def job_modules() -> list[Module]:
    """Every module of this package that has jobs."""
    found = [importlib.import_module(f"jobs.{module.name}") for module in pkgutil.iter_modules(jobs.__path__)]
    return [module for module in found if hasattr(module, "register")]


def one_line(record: logging.LogRecord) -> bool:
    """A job that fails as jobs may is worth a line; a traceback is for faults of the program."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, TallydeskError):
        record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}: {first_line(error)}", None
        record.exc_info = None
    return True


async def run(settings: Settings, url: str, name: str | None = None, concurrency: int = CONCURRENCY) -> None:
    """Be a worker until SIGTERM or SIGINT. Raises TallydeskError when the role or the database is lost."""
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    logging.getLogger("procrastinate.worker").addFilter(one_line)
    modules = job_modules()
    importlib.import_module("trader.exchange.live")  # slow, and it would stop the beat
    async with AsyncExitStack() as stack:
        held = await stack.enter_async_context(role.take(url, "worker", name))
        identity = Identity("worker", held.name)
        pool = await stack.enter_async_context(open_pool(url, identity, concurrency + 2))
        context = Context(settings, pool, instance=held.instance)
        stack.push_async_callback(context.close)
        try:
            app = build_app(url, identity, modules)
            await stack.enter_async_context(app.open_async())
            log.info("%s is running, %d jobs at a time", held.name, concurrency)
            await _work(app, held, context, concurrency)
        except (psycopg.Error, ConnectorException) as error:
            raise DatabaseError(f"the database is lost: {first_line(error)}") from None


async def _work(app: App, held: Role, context: Context, concurrency: int) -> None:
    """Run jobs until a signal comes or the role is lost, which raises TallydeskError."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    working = {asyncio.create_task(serve(app, held.name, context, QUEUE, concurrency))}
    told, lost = asyncio.create_task(stop.wait()), asyncio.create_task(held.lost.wait())
    await asyncio.wait({*working, told, lost}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    lost.cancel()
    ended = [task for task in working if task.done()]
    await _end(working - set(ended), GRACE_SECONDS * 2 if not (held.lost.is_set() or ended) else 1.0)
    for task in ended:
        task.result()
        raise TallydeskError(f"{held.name} stops: its queue ended by itself")
    if held.lost.is_set():
        raise TallydeskError(f"{held.name} stops: {held.why_lost}")
    log.info("%s has stopped", held.name)


async def run_sweeps(settings: Settings, url: str, name: str, parent: int | None = None) -> None:
    """Work on sweeps alone until SIGTERM or SIGINT, or until the process `parent`, which started this one, is gone.

    It is no role of the desk: nobody waits for it, and nothing but sweeps is done. Sweeps are done nowhere else: a set
    may compute for minutes, or for ever, and would hold up a process that trades. A chunk that it is at is given back
    at once, for another. Raises DatabaseError if the database is lost, or is at another revision of the schema.
    """
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    logging.getLogger("procrastinate.worker").addFilter(one_line)
    identity = Identity("worker", f"sweep {name}")
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool(url, identity, 3))
        async with pool.connection() as connection:
            await schema.check(connection)
        context = Context(settings, pool)
        stack.push_async_callback(context.close)
        try:
            app = build_app(url, identity, [sweep])
            await stack.enter_async_context(app.open_async())
            # A chunk may take minutes, and another worker can have it: nothing is waited for.
            working = {asyncio.create_task(serve(app, name, context, sweep.QUEUE, 1, grace=0.0))}
            stop = asyncio.create_task(_told_to_stop(parent))
            await asyncio.wait({*working, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            await _end({task for task in working if not task.done()}, GRACE_SECONDS * 2)
            for task in working:
                if task.done() and not task.cancelled():
                    task.result()
            await _give_back(pool)
        except (psycopg.Error, ConnectorException) as error:
            raise DatabaseError(f"the database is lost: {first_line(error)}") from None


async def _told_to_stop(parent: int | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not stop.is_set() and (parent is None or os.getppid() == parent):
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), PARENT_SECONDS)


async def _give_back(pool: Pool) -> None:
    """Queue what this worker leaves undone: where nothing ticks, the others would never hear of it."""
    async with pool.connection() as connection:
        await connection.execute(sweep.DEFER_DUE, sweep.DUE)


async def serve(
    app: App, name: str, context: Context, queue: str, concurrency: int, grace: float = GRACE_SECONDS
) -> None:
    """Run the jobs of one queue until cancelled; then they have `grace` seconds to end."""
    await app.run_worker_async(
        queues=[queue],
        name=name,
        concurrency=concurrency,
        fetch_job_polling_interval=0.5,
        shutdown_graceful_timeout=grace,
        delete_jobs="successful",
        additional_context={"context": context},
        install_signal_handlers=False,
        update_heartbeat_interval=HEARTBEAT_SECONDS,
        stalled_worker_timeout=DEAD_AFTER_SECONDS,
    )


async def _end(working: set[asyncio.Task[None]], patience: float) -> None:
    """Let the running jobs end. What they leave undone is done again: by another worker, or at the next tick."""
    for running in working:
        running.cancel()
    done, _ = await asyncio.wait(working, timeout=patience) if working else (set(), None)
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("while stopping: %s", first_line(error))
