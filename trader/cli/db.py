"""`tallydesk db`: the embedded database server."""

from typing import Annotated

import typer

from trader import config
from trader.embedded import server_of
from trader.errors import ConfigError

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def db() -> None:
    """The embedded PostgreSQL of this installation.

    Example: tallydesk db status
    """


@app.command()
def start() -> None:
    """Start the embedded server, making its data directory if there is none.

    Example: tallydesk db start
    """
    settings = config.load()
    if settings.database_url:
        raise ConfigError("DATABASE_URL names a server of your own: there is nothing to start")
    print(server_of(settings).ensure())


@app.command()
def stop(
    mode: Annotated[str, typer.Option(help="smart, fast or immediate, as pg_ctl means them.")] = "fast",
) -> None:
    """Stop the embedded server: sessions end, transactions that are open are undone. The data stays.

    Example: tallydesk db stop
    """
    if mode not in {"smart", "fast", "immediate"}:
        raise ConfigError(f"--mode is {mode!r}: allowed are smart, fast and immediate")
    stopped = server_of(config.load()).stop(mode)
    print("stopped" if stopped else "it was not running")


@app.command()
def status() -> None:
    """Say which database serves, and whether the embedded one runs; exit code 3 if it is needed and does not.

    Example: tallydesk db status
    """
    settings = config.load()
    if settings.database_url:
        print("DATABASE_URL names the database; the embedded server is not used")
        return
    server = server_of(settings)
    running = server.running
    print(f"embedded PostgreSQL {'runs' if running else 'does not run'}")
    print(f"data      {server.data}\nlog       {server.log}\nprograms  {server.programs}")
    if not running:
        raise typer.Exit(3)
    print(f"url       {server.url()}")
