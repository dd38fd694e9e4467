"""`tallydesk bucket`: candles."""

import asyncio
from pathlib import Path
from typing import Annotated

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
) -> None:
    """Store the candles of a file: all of them, or none if any line is wrong. A second time changes nothing.

    Example: tallydesk bucket import btc_1m.csv.gz --market binance:BTC/USDT --timeframe 1m
    """
    if stamp not in ("open", "close"):
        raise InputError(f"--stamp is {stamp!r}: allowed are open and close")
    asyncio.run(_import(file, market, timeframe, stamp))


async def _import(file: Path, market: str, timeframe: str, stamp: str) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from trader.bucket import import_file, timeframe_named
    from trader.market import find_market

    length = timeframe_named(timeframe)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with session() as (_, connection):
        found = await find_market(connection, market)
        with Progress(*columns) as progress:
            task = progress.add_task(f"{market} {timeframe}", total=None)
            result = await import_file(
                connection,
                file,
                found.id,
                length,
                "close" if stamp == "close" else "open",
                lambda done, total: progress.update(task, completed=done, total=total),
            )
    counts = result.counts
    print(
        f"{market} {timeframe}, {result.first_open} to {result.last_close} UTC: {counts.inserted} candles added, "
        f"{counts.changed} changed, {counts.unchanged} were there already"
    )
