"""`tallydesk bucket`: candles."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer

from trader.cli._session import session
from trader.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def bucket() -> None:
    """Candles that are stored.

    Example: tallydesk bucket import btc_1m.csv.gz --market binance:BTC/USDT --timeframe 1m
    """


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV with time_open_ms,open,high,low,close,volume; .gz is unpacked.")],
    market: Annotated[str, typer.Option(help="exchange:symbol, as in binance:BTC/USDT.")],
    timeframe: Annotated[str, typer.Option(help="Length of the candles in the file: 1m, 5m, 1h, 1d, 1M, ...")],
    stamp: Annotated[str, typer.Option(help="What the time column means: when a candle opens, or closes.")] = "open",
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite stored candles that differ.")] = False,
) -> None:
    """Store the candles of a file: all of them, or none if any line is wrong or differs from what is stored.

    Example: tallydesk bucket import btc_1m.csv.gz --market binance:BTC/USDT --timeframe 1m
    """
    if stamp not in ("open", "close"):
        raise InputError(f"--stamp is {stamp!r}: allowed are open and close")
    asyncio.run(_import(file, market, timeframe, stamp, replace))


async def _import(file: Path, market: str, timeframe: str, stamp: str, replace: bool) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from trader.bucket import import_file, timeframe_named
    from trader.market import find_market

    length = timeframe_named(timeframe)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with session() as (_, connection):
        found = await find_market(connection, market)
        bar = Progress(*columns, transient=True)  # what is left on the screen is the outcome
        task = bar.add_task(f"{market} {timeframe}", total=None)

        def show(done: int, total: int) -> None:
            bar.start()
            bar.update(task, completed=done, total=total)

        kind: Literal["open", "close"] = "close" if stamp == "close" else "open"
        try:
            result = await import_file(connection, file, found.id, length, kind, show, replace=replace)
        finally:
            if bar.live.is_started:
                bar.stop()
    counts = result.counts
    print(
        f"{market} {timeframe}, {result.first_open} to {result.last_close} UTC: {counts.inserted} candles added, "
        f"{counts.changed} changed, {counts.unchanged} were there already"
    )
