"""`tallydesk sweep`: search for parameters."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from trader.cli._json import parse_object
from trader.cli._moment import moment
from trader.cli._session import session
from trader.cli._signal import until_told
from trader.errors import InputError

if TYPE_CHECKING:
    from trader.backtest.sweep import Plan
    from trader.config import Settings
    from trader.db import Connection

RUN = "run"


class Default(TyperGroup):
    """`tallydesk sweep CLASS ...` is `tallydesk sweep run CLASS ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As ever, with the command that is meant when none is named."""
        words = [*self.commands, *ctx.help_option_names]
        return super().parse_args(ctx, [RUN, *args] if args and args[0] not in words else args)


app = typer.Typer(cls=Default, no_args_is_help=True, add_completion=False)

NumberArgument = Annotated[int, typer.Argument(help="The sweep's number: tallydesk sweep list.")]
HereOption = Annotated[int, typer.Option("--workers-here", help="Run it here, in so many processes.")]
BestOption = Annotated[int, typer.Option(min=1, max=1000, help="How many sets to show.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", help="Draw how stable parameters are into this PNG.")]
OfOption = Annotated[str, typer.Option("--of", help="The one or two parameters to draw, as in fast,slow.")]


@app.callback()
def sweep() -> None:
    """Search for parameters of a strategy: grids, random sets, Optuna, walk-forward. Workers do it, in chunks.

    Example: tallydesk sweep strategies.sma_cross:SmaCross --market binance:BTC/USDT --timeframe 1h
    --grid fast=2..20:2 --grid slow=30..120:10 --walk-forward 6 --embargo 50 --workers-here 2
    """


@app.command(RUN)
def run_(
    path: Annotated[str, typer.Argument(metavar="CLASS", help="module:Class.")],
    market: Annotated[str, typer.Option(help="exchange:symbol, as in binance:BTC/USDT.")],
    timeframe: Annotated[str, typer.Option(help="1m, 5m, 1h, 1d, 1M, ...")],
    since: Annotated[str, typer.Option("--from", help="Candles that open then or later, in UTC: 2024-01-01.")] = "",
    until: Annotated[str, typer.Option("--to", help="Candles that close then or earlier, in UTC.")] = "",
    grid: Annotated[
        list[str] | None,
        typer.Option(help="A parameter and its values: fast=2..50:2, price=close,ohlc4. Without: the class's own."),
    ] = None,
    random: Annotated[int | None, typer.Option(help="So many sets by chance, not all.")] = None,
    optuna: Annotated[str, typer.Option(help="The sampler that proposes sets: tpe, qmc or cmaes; with --trials.")] = "",
    trials: Annotated[int, typer.Option(help="How many sets Optuna proposes.")] = 0,
    generation: Annotated[int, typer.Option(help="How many it proposes at a time.")] = 16,
    seed: Annotated[int, typer.Option(help="All chance comes from it.")] = 0,
    params: Annotated[str, typer.Option(help="Parameters that are the same in all sets, as a JSON object.")] = "{}",
    settings: Annotated[str, typer.Option(help='Of the backtests, as a JSON object: {"taker": "0.0005"}.')] = "{}",
    schedule: Annotated[str, typer.Option(help="At which candles it decides: bucket, minute, hour or day.")] = "bucket",
    objective: Annotated[str, typer.Option(help="The measure to make as large as can be.")] = "sharpe",
    walk_forward: Annotated[int, typer.Option("--walk-forward", help="Choose and test so many times.")] = 0,
    train: Annotated[int, typer.Option(help="How long a training is, in tests.")] = 3,
    embargo: Annotated[int, typer.Option(help="Candles to leave out between a training and its test.")] = 0,
    anchored: Annotated[bool, typer.Option("--anchored", help="Every training begins at the first candle.")] = False,
    chunk: Annotated[int | None, typer.Option(help="How many sets one job runs.")] = None,
    workers_here: HereOption = 0,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow it to its end, or leave it to workers.")
    ] = True,
    best: BestOption = 10,
    plot: PlotOption = None,
    of: OfOption = "",
) -> None:
    """Search for parameters, and show the best. Ctrl-C stops it, or leaves it to the workers that are not of this
    command; nothing that was done is lost.

    Example: tallydesk sweep run strategies.sma_cross:SmaCross --market binance:BTC/USDT --timeframe 1h
    --grid fast=2..20:2 --grid slow=30..120:10 --random 50 --seed 1 --workers-here 2 --plot stability.png --of fast,slow
    """
    from trader.backtest.sweep import Plan

    plan = Plan(
        path, market, timeframe, _moment("--from", since), _moment("--to", until), space=_space(grid or []),
        params=parse_object("--params", params), settings=parse_object("--settings", settings), schedule=schedule,
        random=random,
        sampler=optuna or None, trials=trials, seed=seed, generation_size=generation, chunk_size=chunk,
        objective=objective, folds=walk_forward, train=train, embargo=embargo, anchored=anchored,
    )  # fmt: skip
    until_told(_run(plan, workers_here, wait, best, plot, _names(of)))


def _moment(option: str, text: str) -> datetime | None:
    return moment(option, text) if text else None


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")] if text else []


def _space(texts: list[str]) -> dict[str, str]:
    from trader.backtest.space import HOW

    found: dict[str, str] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not name.strip() or name.strip() in found:
            raise InputError(f"--grid is {text!r}: {'it is there twice' if name.strip() in found else HOW}")
        found[name.strip()] = values.strip()
    return found


async def _run(plan: "Plan", here: int, wait: bool, best: int, plot: Path | None, names: list[str]) -> None:
    from trader.backtest.sweep import make_sweep
    from trader.cli._sweep_watch import NOBODY_YET, need_workers, resume_command, workers_alive

    _check_plot(plot)
    async with session() as (settings, connection):
        if wait:
            await need_workers(connection, here)
        made = await make_sweep(connection, settings, plan)
        folds = f" in each of {plan.folds} folds" if plan.folds else ""
        skipped = f"; {made.skipped} skipped, the first: {made.reason}" if made.skipped else ""
        print(f"sweep {made.id}: {made.trials} sets to try{folds}{skipped}", flush=True)
        if wait:
            await _to_the_end(connection, settings, made.id, here, best, plot, names)
        elif not await workers_alive(connection):
            print(NOBODY_YET.format(command=resume_command(made.id, here or 2)))


def _check_plot(plot: Path | None) -> None:
    """Before hours of work: where to draw."""
    if plot is not None and (plot.suffix != ".png" or not plot.absolute().parent.is_dir()):
        raise InputError(f"--plot is {plot}: a name that ends in .png, in a directory that is there, is needed")


async def _to_the_end(
    connection: "Connection",
    settings: "Settings",
    number: int,
    here: int,
    best: int,
    plot: Path | None,
    names: list[str],
) -> None:
    from trader.backtest.sweep_row import load_sweep
    from trader.cli._sweep_screen import draw, print_sweep
    from trader.cli._sweep_watch import follow

    look = await follow(connection, settings, number, here)
    if look.state == "failed":
        raise InputError(f"sweep {number} failed: {look.error}")
    row = await load_sweep(connection, number)
    await print_sweep(connection, row, best)
    if plot is not None and look.state == "done":
        print(await draw(connection, row, plot, names))


@app.command()
def resume(number: NumberArgument, workers_here: HereOption = 0, best: BestOption = 10) -> None:
    """Go on with a sweep that was stopped, or follow one that runs.

    Example: tallydesk sweep resume 3 --workers-here 2
    """
    until_told(_resume(number, workers_here, best))


async def _resume(number: int, here: int, best: int) -> None:
    from trader.backtest.sweep_row import load_sweep
    from trader.cli._sweep_watch import need_workers, resume

    async with session() as (settings, connection):
        row = await load_sweep(connection, number)
        await need_workers(connection, here)
        await resume(connection, row)
        await _to_the_end(connection, settings, number, here, best, None, [])


@app.command()
def stop(number: NumberArgument) -> None:
    """Stop a sweep: what is in work is finished, nothing else is begun.

    Example: tallydesk sweep stop 3
    """
    asyncio.run(_stop(number))


async def _stop(number: int) -> None:
    from trader.backtest.sweep_row import load_sweep
    from trader.cli._sweep_watch import stop, stopped

    async with session() as (_, connection):
        row = await load_sweep(connection, number)
        told = await stopped(connection, number) if await stop(connection, number) else f"sweep {number}: {row.state}"
    print(told)


@app.command("list")
def list_(last: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest.")] = 20) -> None:
    """Show sweeps and how far they are.

    Example: tallydesk sweep list --last 5
    """
    asyncio.run(_list(last))


async def _list(last: int) -> None:
    from trader.cli._sweep_screen import print_list

    async with session() as (_, connection):
        await print_list(connection, last)


@app.command()
def show(number: NumberArgument, best: BestOption = 10, plot: PlotOption = None, of: OfOption = "") -> None:
    """Show what came of a sweep, and draw how stable parameters are.

    Example: tallydesk sweep show 3 --best 20 --plot stability.png --of fast,slow
    """
    asyncio.run(_show(number, best, plot, _names(of)))


async def _show(number: int, best: int, plot: Path | None, names: list[str]) -> None:
    from trader.backtest.sweep_row import load_sweep
    from trader.cli._sweep_screen import draw, print_sweep

    _check_plot(plot)
    async with session() as (_, connection):
        row = await load_sweep(connection, number)
        await print_sweep(connection, row, best)
        if plot is not None:
            print(await draw(connection, row, plot, names))


@app.command()
def worker(
    name: Annotated[str, typer.Option(help="What to call it in the list of connections.")] = "sweep-worker",
    parent: Annotated[int | None, typer.Option(hidden=True, help="A process: when it is gone, end.")] = None,
) -> None:
    """Work on sweeps alone, until told to stop: on any machine that reaches the database and has the strategies.

    Example: tallydesk sweep worker
    """
    from jobs.worker import run_sweeps
    from trader import config
    from trader.backtest.memory import keep_freed_memory
    from trader.cli.run import log_to_stderr
    from trader.embedded import existing_url

    log_to_stderr()
    keep_freed_memory()
    settings = config.load()
    asyncio.run(run_sweeps(settings, existing_url(settings), name, parent))
