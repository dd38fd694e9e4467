"""`tallydesk backtest`: run strategies over candles that are there, keep what came out, compare it."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trader.cli._moment import moment
from trader.cli._session import session
from trader.errors import InputError

if TYPE_CHECKING:
    from trader.backtest.record import Run
    from trader.cli._backtest import Wanted

app = typer.Typer(no_args_is_help=True, add_completion=False)

MOST_SEED = 2**63 - 1
LIST = "SELECT * FROM backtest ORDER BY id DESC LIMIT %s"

What = Annotated[str, typer.Argument(help="module:Class, or the name of a row of strategy.")]
Market = Annotated[str | None, typer.Option(help="exchange:symbol, as in binance:BTC/USDT.")]
Timeframe = Annotated[str | None, typer.Option(help="The length of its candles, as in 1h.")]
From = Annotated[str, typer.Option("--from", help="Candles that open then or later, in UTC: 2020-01-01.")]
To = Annotated[str, typer.Option("--to", help="Candles that close then or earlier, in UTC: 2024-01-01.")]
Params = Annotated[str, typer.Option(help="Values for the class's parameters, as a JSON object.")]
Schedule = Annotated[str | None, typer.Option(help="When it decides: bucket (every candle), minute, hour or day.")]
Files = Annotated[
    list[Path] | None, typer.Option("--file", help="Candles of this file, of any format of bucket import; repeatable.")
]
Inputs = Annotated[
    list[str] | None, typer.Option("--input", help="With --file: NAME=FILE, the candles of an input; repeatable.")
]
Stamp = Annotated[
    str, typer.Option(help="With --file: whether its times are of open or close; auto: as its name says.")
]
Gaps = Annotated[
    str, typer.Option(help="With --file: why candles are missing in it: no-trades (the default), or unknown.")
]


@app.callback()
def backtest() -> None:
    """Backtests: what a strategy would have done, stored with all that it was made of.

    Example: tallydesk backtest run strategies.sma_cross:SmaCross --market binance:BTC/USDT --timeframe 1h
    """


@app.command()
def run(
    what: What,
    market: Market = None,
    timeframe: Timeframe = None,
    since: From = "",
    until: To = "",
    params: Params = "{}",
    schedule: Schedule = None,
    deposit: Annotated[str | None, typer.Option(help="Quote that is there at the start; else 10000.")] = None,
    stake: Annotated[
        str | None, typer.Option(help="What an entry spends: 50% of what is free, or 1000 of quote.")
    ] = None,
    fee: Annotated[str | None, typer.Option(help="Maker's and taker's share: 0.001; else the market's.")] = None,
    slippage: Annotated[str | None, typer.Option(help="Share that prices move against an order: 0.0005.")] = None,
    spread: Annotated[str | None, typer.Option(help="Between buying and selling, as a share of the price.")] = None,
    settings: Annotated[str, typer.Option(help="Any other setting of a backtest, as a JSON object.")] = "{}",
    file: Files = None,
    input_: Inputs = None,
    stamp: Stamp = "auto",
    gaps: Gaps = "",
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Of the bootstrap that says how sure the result is.")
    ] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw it into this file: .png, .svg or .pdf.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report into this file.")] = None,
    no_store: Annotated[bool, typer.Option("--no-store", help="Keep nothing in the database.")] = False,
    exact: Annotated[
        bool, typer.Option("--exact", help="Then once more through rows, trader and ledger: is it the same?")
    ] = False,
) -> None:
    """Run a strategy over stored candles, or those of a file, and print what it made.

    Fees, steps and minimums are the market's; class, params, market, timeframe and stake those of a strategy's row, if
    one is named. It is stored with its trades, its equity, hashes of its candles and its code.

    Example: tallydesk backtest run strategies.sma_cross:SmaCross --market binance:BTC/USDT --timeframe 1h
    --from 2020-01-01 --params '{"fast": 5, "slow": 50}' --fee 0.001 --slippage 0.0005 --plot sma.png
    """
    from trader.cli._backtest import fee_of, stake_of
    from trader.cli._backtest import run as work

    wanted = _wanted(what, market, timeframe, since, until, params, schedule, file, input_, stamp, gaps)
    options = (("deposit", deposit), ("slippage", slippage), ("spread", spread))
    wanted = _with(
        wanted, options=(*options, *fee_of(fee), *stake_of(stake)), settings=settings, seed=seed, store=not no_store
    )
    if plot is not None:
        from trader.backtest.plot import check_path

        check_path(plot)
    if html is not None:
        from trader.backtest.report import check_path as check_html

        check_html(html)
    made, result, first = asyncio.run(work(wanted))
    if html is not None:
        from trader.backtest.report import write_report

        write_report(made, html)
    if plot is not None and result is not None:
        from trader.backtest.plot import plot as draw

        draw(result, made, plot, first)
    _print(made)
    if exact:
        _print_exact(wanted)


def _wanted(
    what: str, market: str | None, timeframe: str | None, since: str, until: str, params: str, schedule: str | None,
    files: list[Path] | None, inputs: list[str] | None, stamp: str, gaps: str,
) -> "Wanted":  # fmt: skip
    from trader.cli._backtest import Wanted

    return Wanted(
        what, market, timeframe, moment("--from", since) if since else None, moment("--to", until) if until else None,
        params, schedule, tuple(files or ()), tuple(inputs or ()), stamp, gaps,
    )  # fmt: skip


def _with(wanted: "Wanted", **changes: Any) -> "Wanted":
    from dataclasses import replace

    return replace(wanted, **changes)


def _print(made: "Run") -> None:
    """Print a run; one that failed ends the command with exit code 1."""
    from trader.cli._backtest_screen import print_run

    if made.error is not None:
        stored = f" (stored as backtest {made.id})" if made.id is not None else ""
        print(f"tallydesk: {made.path}: {made.error}{stored}", file=sys.stderr)
        raise typer.Exit(1)
    print_run(made)


def _print_exact(wanted: "Wanted") -> None:
    """Run it through the real path, in a throw-away database; a difference ends the command with exit code 1."""
    from trader.backtest.exact import run_exact
    from trader.cli._backtest import ready, sentences

    found = asyncio.run(ready(wanted))
    with sentences(found.path):
        run = run_exact(found.strategy, found.loaded.frames, found.settings, found.schedule)
    made = run.exact
    parts = f", in {made.parts} parts that meet to the last digit" if made.parts > 1 else ""
    print(f"exact: {made.orders:,} orders through rows, trader, simulator and ledger in {made.seconds:.1f} s{parts}")
    if run.difference is not None:
        print(f"tallydesk: the exact run differs: {run.difference}", file=sys.stderr)
        raise typer.Exit(1)
    print(f"{len(run.result.fills):,} fills, their fees and the equity are the same to the cent")


@app.command()
def check(
    what: What,
    market: Market = None,
    timeframe: Timeframe = None,
    since: From = "",
    until: To = "",
    params: Params = "{}",
    file: Files = None,
    input_: Inputs = None,
    stamp: Stamp = "auto",
    gaps: Gaps = "",
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Which bars are tried.")] = 0,
) -> None:
    """Prove on given candles that a strategy uses no future and that its warm-up is enough; name the bar where not.

    The exit code is 1 if something was found, or if nothing could be proved.

    Example: tallydesk backtest check strategies.sma_cross:SmaCross --market binance:BTC/USDT --timeframe 1h
    """
    from trader.backtest.check import check as prove
    from trader.cli._backtest import ready, sentences

    found = asyncio.run(ready(_wanted(what, market, timeframe, since, until, params, None, file, input_, stamp, gaps)))
    with sentences(found.path):
        report = prove(found.strategy, found.loaded.frames, seed, found.settings)
    print(report)
    if not report.proved:
        raise typer.Exit(1)


@app.command("list")
def list_(last: Annotated[int, typer.Option(min=1, max=10_000, help="How many of them, the newest.")] = 20) -> None:
    """Show the backtests that are stored, newest first.

    Example: tallydesk backtest list --last 5
    """
    asyncio.run(_list(last))


async def _list(last: int) -> None:
    from trader.cli._backtest_screen import print_list
    from trader.db import fetch_all

    async with session() as (_, connection):
        rows = await fetch_all(connection, LIST, [last])
    print_list(rows)


@app.command()
def show(number: Annotated[int, typer.Argument(help="The backtest's number.")]) -> None:
    """Show a stored backtest with all its measures.

    Example: tallydesk backtest show 3
    """
    from trader.cli._backtest_screen import print_run

    print_run(asyncio.run(_load([number]))[0])


@app.command()
def compare(numbers: Annotated[list[int], typer.Argument(help="The backtests' numbers, two or more.")]) -> None:
    """Show stored backtests beside each other: what they differ in, and their measures.

    Example: tallydesk backtest compare 3 4
    """
    from trader.cli._backtest_screen import print_comparison

    if len(numbers) < 2:
        raise InputError("name two or more backtests to compare")
    print_comparison(asyncio.run(_load(numbers)))


@app.command()
def report(
    number: Annotated[int, typer.Argument(help="The backtest's number.")],
    html: Annotated[Path, typer.Option(help="The file to write.")],
) -> None:
    """Write a stored backtest as one HTML file that needs nothing else.

    Example: tallydesk backtest report 3 --html sma.html
    """
    from trader.backtest.report import write_report

    write_report(asyncio.run(_load([number]))[0], html)
    print(f"backtest {number} written to {html}")


@app.command()
def delete(number: Annotated[int, typer.Argument(help="The backtest's number.")]) -> None:
    """Remove a stored backtest with its trades and its equity.

    Example: tallydesk backtest delete 3
    """
    asyncio.run(_delete(number))
    print(f"backtest {number} deleted")


async def _load(numbers: list[int]) -> "list[Run]":
    from trader.backtest.store import load_run

    async with session() as (_, connection):
        return [await load_run(connection, number) for number in numbers]


async def _delete(number: int) -> None:
    from trader.backtest.store import delete_run, load_run

    async with session() as (_, connection):
        await load_run(connection, number)
        await delete_run(connection, number)
