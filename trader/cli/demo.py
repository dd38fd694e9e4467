"""`tallydesk demo`: the whole system at work on replayed market history, then left for you to look at."""

import os
import shlex
import signal
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from trader import config
from trader.errors import InputError

app = typer.Typer(add_completion=False)

HISTORY_START = "2016-07-01"  # after the two months that the file lacks
HISTORY = Path("shared") / "data" / "bitfinex_BTC-USD_1m_2016.csv.gz"


@app.command()
def demo(
    candles: Annotated[
        Path | None, typer.Option(help="Candle file to replay (csv, csv.gz). Default: 2016 BTC/USD if it is there.")
    ] = None,
    market: Annotated[str, typer.Option(help="What the simulated exchange calls the market.")] = "BTC/USDT",
    timeframe: Annotated[str, typer.Option(help="The candles that the strategies trade on.")] = "1h",
    speed: Annotated[float, typer.Option(help="Market seconds that pass in one second.", min=1)] = 14400,
    start: Annotated[
        str | None, typer.Option(help="Where in the file the replay begins: a date or a fraction. Default: 2016-07-01.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long it trades.", min=5, max=120)] = 75,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Replay no file: make the candles up, by a seed.")
    ] = False,
) -> None:
    """Trade replayed market history through the real system for about a minute, and show every cent of it.

    It has a PostgreSQL of its own in TALLYDESK_HOME/demo, which is left running, with a new
    database each time; that of the time before is kept as tallydesk_previous.

    Example: scripts/demo --seconds 60
    """
    from rich.console import Console

    from trader.cli._demo import Demo, Plan
    from trader.embedded import server_of

    mine = config.load()
    settings = replace(mine, home=mine.home / "demo", database_url=None)
    if synthetic and candles is not None:
        raise InputError("--synthetic and --candles are two sources of candles: give one of them")
    file = None if synthetic else _history(candles)
    begin = start or _default_start(file)
    plan = Plan(file, market, timeframe, speed, begin, seconds, _override(settings))
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=120)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended in order, like Ctrl-C
    try:
        Demo(console, settings, plan).run()
    except KeyboardInterrupt:
        console.print("\nStopped: nothing of the demo runs on but PostgreSQL.")
        raise typer.Exit(130) from None
    finally:
        if server_of(settings).running:
            console.print(f"To stop PostgreSQL:  [bold]{plan.command('db stop')}[/bold]", soft_wrap=True)


def _history(given: Path | None) -> Path | None:
    if given is not None:
        if not given.is_file():
            raise InputError(f"--candles is {str(given)!r}: there is no such file")
        return given.resolve()
    found = config.PROJECT.parent / HISTORY
    return found if found.is_file() else None


def _default_start(file: Path | None) -> str | None:
    """None for synthetic candles: they go on for ever, so there is no part of them to begin at."""
    if file is None:
        return None
    return HISTORY_START if file.name == HISTORY.name else "0.3"


def _override(settings: config.Settings) -> str:
    """The variables that point a command at the demo's database."""
    other = "DATABASE_URL= " if os.environ.get("DATABASE_URL") else ""
    return f"{other}TALLYDESK_HOME={shlex.quote(str(settings.home))}"
