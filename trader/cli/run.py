"""`tallydesk run`: be one of the desk's processes, in the foreground."""

import asyncio
import logging
import sys
from typing import Annotated

import typer

from trader import config

app = typer.Typer(no_args_is_help=True, add_completion=False)
Name = Annotated[str | None, typer.Option(help="The name to run under; by default the first free one.")]


@app.callback()
def run() -> None:
    """Be a scheduler, a worker or a trader, until told to stop.

    Example: tallydesk run trader
    """


@app.command()
def trader(name: Name = None) -> None:
    """Claim queued orders, send them, settle what comes back, recover what is in doubt.

    Example: tallydesk run trader --name trader-2
    """
    from trader import service
    from trader.embedded import database_url

    log_to_stderr()
    settings = config.load()
    asyncio.run(service.run(settings, database_url(settings), name))


@app.command()
def worker(
    name: Name = None,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Jobs that run at a time.")] = 8,
) -> None:
    """Run queued jobs: candles, balances, strategies, upkeep.

    Example: tallydesk run worker --name worker-2
    """
    from jobs import worker
    from trader.embedded import database_url

    log_to_stderr()
    settings = config.load()
    asyncio.run(worker.run(settings, database_url(settings), name, concurrency))


@app.command()
def scheduler(name: Name = None) -> None:
    """Queue jobs at their times. There is one at a time: a second one says so and ends.

    Example: tallydesk run scheduler
    """
    from jobs import scheduler
    from trader.embedded import database_url

    log_to_stderr()
    settings = config.load()
    asyncio.run(scheduler.run(settings, database_url(settings), name))


def log_to_stderr() -> None:
    """One line per event, with the time in UTC, on stderr."""
    import time

    formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
