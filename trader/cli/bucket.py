"""`tallydesk bucket`: candles."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from trader.cli._moment import moment
from trader.cli._screen import print_rows
from trader.cli._session import session
from trader.errors import InputError

if TYPE_CHECKING:
    from trader.bucket import Content, Counts, Imported, Timeframe
    from trader.bucket.derived_feed import LeftOut
    from trader.bucket.formats import Format, Stamp
    from trader.db import Connection

app = typer.Typer(no_args_is_help=True, add_completion=False)

LONGEST_GAPS = 10
"""Gaps of a file that are listed."""

LINE_SECONDS = 3.0
"""How often progress is said where there is no terminal to draw a bar on."""

SHOW = """
SELECT time_close, open, high, low, close, volume, source::text FROM (
  SELECT * FROM bucket WHERE market_id = %s AND timeframe_id = %s ORDER BY time_close DESC LIMIT %s) newest
 ORDER BY time_close
"""

GAPS = """
SELECT g.market, g.timeframe, g.gap_from, g.gap_to, g.missing, g.kind::text, g.checks
  FROM bucket_gap g JOIN timeframe t ON t.name = g.timeframe
 WHERE g.market = coalesce(%s, g.market) AND g.timeframe = coalesce(%s, g.timeframe)
 ORDER BY g.market, t.id, g.gap_from
"""

# Of several markets: how many there are of which kind, for a feed of years has thousands.
GAP_COUNTS = """
SELECT g.market, g.timeframe, g.kind::text, count(*) AS gaps, sum(g.missing)::int8 AS missing,
       min(g.gap_from) AS first, max(g.gap_to) AS last
  FROM bucket_gap g JOIN timeframe t ON t.name = g.timeframe
 WHERE g.timeframe = coalesce(%s, g.timeframe)
 GROUP BY g.market, g.timeframe, t.id, g.kind ORDER BY g.market, t.id, g.kind
"""

MarketArgument = Annotated[str, typer.Argument(help="exchange:symbol, as in binance:BTC/USDT.")]
TimeframeArgument = Annotated[str, typer.Argument(help="1m, 5m, 1h, 1d, 1M, ...")]
FormatOption = Annotated[
    str, typer.Option("--format", help="tallydesk, freqtrade, ccxt, backtesting or binance; auto: what it looks like.")
]


@app.callback()
def bucket() -> None:
    """Candles that are stored: in from files, out to files, and what is missing.

    Example: tallydesk bucket import btc_1m.csv.gz --market binance:BTC/USDT --timeframe 1m
    """


@app.command(name="import")
def import_(
    files: Annotated[
        list[Path], typer.Argument(help="CSV, JSON, Feather or Parquet, also in .gz or .zip, or a directory of them.")
    ],
    market: Annotated[str, typer.Option(help="exchange:symbol, as in binance:BTC/USDT.")],
    timeframe: Annotated[str, typer.Option(help="Length of the candles in the file: 1m, 5m, 1h, 1d, 1M, ...")],
    stamp: Annotated[
        str, typer.Option(help="What the time column means: when a candle opens, or closes; auto: what its name says.")
    ] = "auto",
    kind: FormatOption = "auto",
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite stored candles that differ.")] = False,
    gaps: Annotated[str, typer.Option(help="no-trades: declare that in the gaps of the files nobody traded.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Store the candles of files: all of them, or none if any line is wrong or differs from what is stored.

    Example: tallydesk bucket import BTCUSDT-1m-2024-*.zip --market binance:BTC/USDT --timeframe 1m --dry-run
    """
    if stamp not in ("auto", "open", "close"):
        raise InputError(f"--stamp is {stamp!r}: allowed are open and close, and auto")
    if gaps not in ("", "no-trades"):
        raise InputError(f"--gaps is {gaps!r}: allowed is no-trades")
    meaning: Stamp | None = "open" if stamp == "open" else "close" if stamp == "close" else None
    todo = _Import(files, market, timeframe, meaning, _format(kind), replace, gaps == "no-trades", dry_run)
    asyncio.run(_import(todo))


def _format(kind: str) -> "Format":
    from trader.bucket.formats import Format

    for known in get_args(Format):
        if kind == known:
            found: Format = known
            return found
    raise InputError(f"--format is {kind!r}: allowed are {', '.join(get_args(Format))}")


@dataclass(frozen=True)
class _Import:
    """What is to be imported, and how."""

    files: list[Path]
    market: str
    timeframe: str
    stamp: "Stamp | None"
    kind: "Format"
    replace: bool
    no_trades: bool
    dry_run: bool


async def _import(todo: _Import) -> None:
    from trader.bucket import present, preview_content, read_files, store_content, timeframe_named
    from trader.market import find_market

    length, name = timeframe_named(todo.timeframe), f"{todo.market} {todo.timeframe}"
    async with session() as (_, connection):
        found = await find_market(connection, todo.market, from_file=True)
        with _bar() as bar:
            now = await present(connection)
            content = read_files(todo.files, length, todo.stamp, todo.kind, bar("files read"), now)
            if todo.dry_run:
                result = await preview_content(connection, content, found.id, length, bar("candles compared"))
            else:
                result = await store_content(
                    connection, content, found.id, length, bar(name), replace=todo.replace, no_trades=todo.no_trades
                )
    for file in content.files:
        print(f"{file.where}: {len(file.candles)} candles ({file.says})")
    if todo.dry_run:
        _print_preview(content, result, length, todo.replace)
    _print_outcome(name, result, todo.dry_run)
    if todo.no_trades and not todo.dry_run:
        print(f"{result.declared} gaps declared to be times without a trade")


def _print_outcome(name: str, result: "Imported", dry_run: bool) -> None:
    counts = result.counts
    added, changed, there = ("to add", "to change", "are") if dry_run else ("added", "changed", "were")
    print(
        f"{name}, {result.first_open} to {result.last_close} UTC: {counts.inserted} candles {added}, {counts.changed} "
        f"{changed}, {counts.unchanged} {there} there already" + ("; nothing was written" if dry_run else "")
    )


def _print_preview(content: "Content", result: "Imported", timeframe: "Timeframe", replace: bool) -> None:
    from trader.bucket import holes
    from trader.clock import from_milliseconds

    gaps = holes(content.candles, timeframe)
    print(f"{len(gaps)} gaps with {sum(gap.missing for gap in gaps)} missing candles between the first and the last")
    longest = sorted(gaps, key=lambda gap: (-gap.missing, gap.start))[:LONGEST_GAPS]
    rows = [[from_milliseconds(gap.start), from_milliseconds(gap.end), gap.missing] for gap in longest]
    if rows:
        print_rows("the longest of them" if len(gaps) > len(rows) else "gaps", ["from", "to", "missing"], rows)
    if result.difference and not replace:
        print(f"{result.difference}: the import would be refused without --replace")


@contextmanager
def _bar() -> Iterator[Callable[[str], Callable[[int, int | None], None]]]:
    """Progress bars on stderr, one for each description asked for, gone at the end: what stays is the outcome.

    Where stderr is no terminal: a line every few seconds.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    shown = Progress(*columns, TimeRemainingColumn(), transient=True, console=Console(stderr=True))

    def add(description: str) -> Callable[[int, int | None], None]:
        task: Any = None
        said = time.monotonic()

        def show(done: int, total: int | None) -> None:
            nonlocal task, said
            if not shown.console.is_terminal:
                if time.monotonic() - said >= LINE_SECONDS:
                    said = time.monotonic()
                    print(f"{description}: {done}" + (f" of {total}" if total else ""), file=sys.stderr, flush=True)
                return
            if task is None:
                shown.start()
                task = shown.add_task(description, total=total)
            shown.update(task, completed=done, total=total)

        return show

    try:
        yield add
    finally:
        if shown.live.is_started:
            shown.stop()


@app.command()
def export(
    market: MarketArgument,
    timeframe: TimeframeArgument,
    file: Annotated[Path, typer.Argument(help="Ends in .csv, .csv.gz, .json, .json.gz, .feather or .parquet.")],
    since: Annotated[str, typer.Option(help="Candles that open then or later, in UTC: 2024-01-01.")] = "",
    until: Annotated[str, typer.Option(help="Candles that close then or earlier, in UTC: 2025-01-01.")] = "",
    kind: FormatOption = "auto",
) -> None:
    """Write stored candles to a file, exactly; it is there as a whole or not at all.

    Example: tallydesk bucket export binance:BTC/USDT 1m BTC_USDT-1m.feather --since 2024-01-01
    """
    start = moment("--since", since) if since else None
    end = moment("--until", until) if until else None
    asyncio.run(_export(market, timeframe, file, start, end, _format(kind)))


async def _export(
    market: str, timeframe: str, file: Path, since: datetime | None, until: datetime | None, kind: "Format"
) -> None:
    from trader.bucket import export_file, timeframe_named
    from trader.market import find_market

    length = timeframe_named(timeframe)
    async with session() as (_, connection):
        found = await find_market(connection, market)
        with _bar() as bar:
            progress = bar("candles written")
            count = await export_file(
                connection, file, found.id, length, since, until, kind, lambda done: progress(done, None)
            )
    print(f"{market} {timeframe}: {count} candles written to {file}")


@app.command()
def show(
    market: MarketArgument,
    timeframe: TimeframeArgument,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 10,
) -> None:
    """Show the newest candles that are stored.

    Example: tallydesk bucket show binance:BTC/USDT 1h --last 5
    """
    asyncio.run(_show(market, timeframe, last))


async def _show(market: str, timeframe: str, last: int) -> None:
    from trader.bucket import timeframe_named
    from trader.db import fetch_all
    from trader.market import find_market

    length = timeframe_named(timeframe)
    async with session() as (_, connection):
        found = await find_market(connection, market)
        rows = await fetch_all(connection, SHOW, [found.id, length.id, last])
    columns = ["closes (UTC)", "open", "high", "low", "close", "volume", "source"]
    print_rows(f"{market} {timeframe}", columns, [*map(list, rows)])


@app.command()
def gaps(
    market: Annotated[
        str, typer.Argument(help="exchange:symbol, or a pattern as in 'binance:*/USDT', which counts them by kind.")
    ] = "*",
    timeframe: Annotated[str, typer.Argument(help="1m, 5m, 1h, 1d, 1M, ...; all if not given.")] = "",
    last: Annotated[int, typer.Option(min=1, max=10_000, help="How many of them, the newest.")] = 50,
) -> None:
    """Show which candles are missing, and why: not_fetched, no_trades, outage or before_listing.

    Example: tallydesk bucket gaps binance:BTC/USDT 1m --last 10, or: tallydesk bucket gaps 'binance:*/USDT'
    """
    asyncio.run(_gaps(market, timeframe, last))


async def _gaps(market: str, timeframe: str, last: int) -> None:
    from trader.bucket import timeframe_named
    from trader.db import fetch_all
    from trader.market import find_market

    length = timeframe_named(timeframe).name if timeframe else None
    async with session() as (_, connection):
        if any(sign in market for sign in "*?["):
            rows = [row for row in await fetch_all(connection, GAP_COUNTS, [length]) if fnmatchcase(row.market, market)]
            columns = ["market", "timeframe", "kind", "gaps", "missing", "first", "last"]
            print_rows("gaps", columns, [*map(list, rows)])
            return
        found = await find_market(connection, market)
        rows = await fetch_all(connection, GAPS, [found.name, length])
    print_rows("gaps", ["market", "timeframe", "from", "to", "missing", "kind", "checks"], [*map(list, rows[-last:])])
    if len(rows) > last:
        print(f"the newest {last} of {len(rows)}; --last shows more, the view bucket_gap all")


@app.command()
def derive(
    market: MarketArgument,
    timeframes: Annotated[str, typer.Argument(help="What to make: 5m, 1h, 1d, 1w, 1M, ...; several with commas.")],
    smaller: Annotated[str, typer.Option("--from", help="What to make them of.")] = "1m",
) -> None:
    """Make larger candles out of smaller ones, now, and have the worker keep them in step from then on.

    Example: tallydesk bucket derive binance:BTC/USDT 1h,1d --from 1m
    """
    asyncio.run(_derive(market, timeframes, smaller))


async def _derive(market: str, timeframes: str, smaller: str) -> None:
    from trader.bucket import timeframe_named
    from trader.market import find_market

    source = timeframe_named(smaller)
    lengths = sorted((timeframe_named(name.strip()) for name in timeframes.split(",")), key=lambda one: one.id)
    async with session() as (_, connection):
        found = await find_market(connection, market)
        for length in lengths:
            counts, left = await _derive_one(connection, found.id, length, source)
            print(
                f"{market} {length.name}: {counts.inserted} candles made of {source.name}, {counts.changed} changed, "
                f"{counts.unchanged} were there already; the worker keeps them in step"
            )
            if left.periods:
                print(
                    f"{market} {length.name}: {left.periods} left out, for {source.name} candles are missing in them: "
                    f"{left.gaps} gaps of which nobody has confirmed that nobody traded. The worker asks the venue; of "
                    "what came from a file, you say so: bucket import FILE --gaps no-trades"
                )


async def _derive_one(
    connection: "Connection", market_id: int, length: "Timeframe", source: "Timeframe"
) -> "tuple[Counts, LeftOut]":
    from trader.bucket.derived_feed import add_derived, derive_all, left_out

    await add_derived(connection, market_id, length, source)
    with _bar() as bar:
        show = bar(f"{length.name} candles made")
        show(0, None)
        counts = await derive_all(connection, market_id, length, source, lambda done: show(done, None))
    return counts, await left_out(connection, market_id, length, source)
