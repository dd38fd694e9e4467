"""`tallydesk feed`: which candles are kept up to date."""

import asyncio
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import typer

from trader.cli._moment import moment
from trader.cli._screen import more, print_rows
from trader.cli._session import session
from trader.errors import InputError

if TYPE_CHECKING:
    from trader.bucket import Timeframe
    from trader.db import Connection

app = typer.Typer(no_args_is_help=True, add_completion=False)

MANY = 50
"""More feeds than that are not added without a question."""

OFFLINE = "it is offline, no venue is asked: its candles come from files (tallydesk bucket import)"

MARKETS = """
SELECT m.id, m.symbol, m.active, e.offline FROM market m JOIN exchange e ON e.id = m.exchange_id
 WHERE e.name = %s ORDER BY m.symbol
"""

# A feed reaches back as far as anybody asked; NULL is as far as the venue goes.
ADD = """
INSERT INTO bucket_feed AS f (market_id, timeframe_id, collect_since)
SELECT market, timeframe, %(since)s FROM unnest(%(markets)s::int[]) market, unnest(%(timeframes)s::smallint[]) timeframe
ON CONFLICT (market_id, timeframe_id) DO UPDATE SET enabled = true,
  collect_since = CASE WHEN num_nulls(f.collect_since, EXCLUDED.collect_since) = 0
                       THEN least(f.collect_since, EXCLUDED.collect_since) END
"""

LIST = """
SELECT f.market, f.timeframe, f.enabled, f.status, f.collect_since, f.oldest, f.newest, f.lag, f.progress, f.gaps,
       f.refused, f.last_error
  FROM feeds f JOIN timeframe t ON t.name = f.timeframe ORDER BY f.market, t.id
"""

FEEDS = """
SELECT f.market_id, f.timeframe_id, m.symbol, t.name AS timeframe, e.offline AND f.derived_from IS NULL AS offline
  FROM bucket_feed f JOIN market m ON m.id = f.market_id JOIN timeframe t ON t.id = f.timeframe_id
  JOIN exchange e ON e.id = m.exchange_id WHERE e.name = %s ORDER BY m.symbol, t.id
"""

SWITCH = """
UPDATE bucket_feed f SET enabled = %(on)s
  FROM unnest(%(markets)s::int[], %(timeframes)s::smallint[]) n (market, timeframe)
 WHERE f.market_id = n.market AND f.timeframe_id = n.timeframe AND f.enabled <> %(on)s
"""

ExchangeArgument = Annotated[str, typer.Argument(help="Name of the exchange.")]
MarketsArgument = Annotated[str, typer.Argument(help="'BTC/USDT', several with commas, or a pattern as in '*/USDT'.")]
GlobArgument = Annotated[
    str, typer.Argument(help="Only these: a pattern over exchange:symbol, as in 'binance:*/USDT'.")
]


@app.callback()
def feed() -> None:
    """Feeds: candles that the worker keeps up to date.

    Example: tallydesk feed list
    """


@app.command()
def add(
    exchange: ExchangeArgument,
    markets: MarketsArgument,
    timeframes: Annotated[str, typer.Argument(help="1m, 5m, 1h, 1d, 1M, ...; several with commas.")],
    since: Annotated[
        str, typer.Option(help="From when on, in UTC: 2024-01-01, or listing: from the venue's first candle on.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help=f"Do not ask, however many feeds that is (above {MANY}).")] = False,
) -> None:
    """Keep the candles of markets up to date; a feed that exists is switched on, and reaches back as far as asked.

    Example: tallydesk feed add binance 'BTC/USDT' 1m,5m,1h --since 2024-01-01
    """
    start = None if since == "listing" else _since(since)
    asyncio.run(_add(exchange, markets, timeframes, start, yes))


def _since(text: str) -> datetime:
    try:
        return moment("--since", text)
    except InputError as error:
        raise InputError(f"{error}, or listing") from None


async def _add(exchange: str, markets: str, timeframes: str, since: datetime | None, yes: bool) -> None:
    lengths = _lengths(timeframes)
    async with session() as (_, connection):
        found = await _markets(connection, exchange, markets)
        count = len(found) * len(lengths)
        names = ", ".join(length.name for length in lengths)
        where = f"from {since:%Y-%m-%d %H:%M} UTC on" if since else "from the first candle that the venue has on"
        if count > MANY and not yes:
            typer.confirm(f"{exchange}: {len(found)} markets in {names} are {count} feeds. Add them?", abort=True)
        keys = {"markets": list(found.values()), "timeframes": [length.id for length in lengths]}
        await connection.execute(ADD, keys | {"since": since})
    what = (
        f"{exchange}:{next(iter(found))} {names}" if len(found) == 1 else f"{exchange}: {len(found)} markets, {names}"
    )
    print(f"{what}: kept up to date {where}")


def _lengths(text: str) -> "list[Timeframe]":
    from trader.bucket import timeframe_named

    return [timeframe_named(name.strip()) for name in dict.fromkeys(text.split(","))]


async def _markets(connection: "Connection", exchange: str, patterns: str) -> dict[str, int]:
    """The ids of the markets that are meant, by symbol. InputError that lists what there is if there is none."""
    from trader.db import fetch_all

    rows = await fetch_all(connection, MARKETS, [exchange])
    if not rows:
        raise InputError(await _no_such_exchange(connection, exchange))
    if rows[0].offline:
        raise InputError(f"exchange {exchange}: {OFFLINE}")
    found: dict[str, int] = {}
    for pattern in map(str.strip, patterns.split(",")):
        meant = [row for row in rows if fnmatchcase(row.symbol, pattern)]
        open_ones = [row for row in meant if row.active]
        if not open_ones:
            listed = [row.symbol for row in rows if row.active]
            problem = f"{exchange} does not list it any more" if meant else f"{exchange} has none of that name"
            some = ", ".join(listed[:5]) + more(len(listed), 5)
            raise InputError(f"market {pattern!r}: {problem}; there is {some}")
        found |= {row.symbol: row.id for row in open_ones}
    return found


async def _no_such_exchange(connection: "Connection", exchange: str) -> str:
    from trader.db import fetch_all

    rows = await fetch_all(connection, "SELECT name FROM exchange ORDER BY name")
    names = [row.name for row in rows]
    if exchange in names:
        return f"exchange {exchange}: it has no markets yet (tallydesk market sync)"
    hint = "; write the exchange and the market apart, as in binance BTC/USDT" if ":" in exchange else ""
    return f"exchange {exchange!r}: there is {', '.join(names) or 'none yet (tallydesk account add)'}{hint}"


@app.command(name="list")
def list_(glob: GlobArgument = "*") -> None:
    """Show the feeds and how far they are.

    Example: tallydesk feed list 'binance:*/USDT'
    """
    asyncio.run(_list(glob))


async def _list(glob: str) -> None:
    from trader.db import fetch_all

    async with session() as (_, connection):
        rows = await fetch_all(connection, LIST)
    shown = [list(row._replace(lag=short(row.lag))) for row in rows if fnmatchcase(row.market, glob)]
    columns = ["market", "timeframe", "collected", "status", "since", "oldest", "newest", "lag", "%", "gaps", "refused"]
    print_rows("feeds", [*columns, "last error"], shown)


def short(span: timedelta | None) -> str | None:
    """A length of time in one unit, for people."""
    if span is None:
        return None
    seconds = span.total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


TimeframesArgument = Annotated[str, typer.Argument(help="1m, 5m, ...; several with commas; all if not given.")]


@app.command()
def pause(exchange: ExchangeArgument, markets: MarketsArgument, timeframes: TimeframesArgument = "") -> None:
    """Stop keeping feeds up to date; what is stored stays.

    Example: tallydesk feed pause binance '*/USDT' 1m
    """
    asyncio.run(_switch(exchange, markets, timeframes, on=False))


@app.command()
def resume(exchange: ExchangeArgument, markets: MarketsArgument, timeframes: TimeframesArgument = "") -> None:
    """Keep paused feeds up to date again; what was missed is fetched.

    Example: tallydesk feed resume binance '*/USDT'
    """
    asyncio.run(_switch(exchange, markets, timeframes, on=True))


async def _switch(exchange: str, markets: str, timeframes: str, *, on: bool) -> None:
    from trader.db import fetch_all

    patterns = [pattern.strip() for pattern in markets.split(",")]
    lengths = [length.name for length in _lengths(timeframes)] if timeframes else None
    async with session() as (_, connection):
        rows = await fetch_all(connection, FEEDS, [exchange])
        if not rows:
            raise InputError(f"{exchange}: there are no feeds of that exchange (tallydesk feed list)")
        meant = [
            row
            for row in rows
            if (lengths is None or row.timeframe in lengths)
            and any(fnmatchcase(row.symbol, pattern) for pattern in patterns)
        ]
        if not meant:
            some = ", ".join(f"{row.symbol} {row.timeframe}" for row in rows[:5]) + more(len(rows), 5)
            raise InputError(f"{exchange}: no feed is {markets} {timeframes}".rstrip() + f"; there is {some}")
        if on and any(row.offline for row in meant):
            raise InputError(f"exchange {exchange}: {OFFLINE}")
        keys = {"markets": [row.market_id for row in meant], "timeframes": [row.timeframe_id for row in meant]}
        changed = (await connection.execute(SWITCH, keys | {"on": on})).rowcount
    done, already = ("resumed", "were on already") if on else ("paused", "were paused already")
    print(f"{exchange}: {changed} feeds {done}, {len(meant) - changed} {already}")


@app.command()
def watch(
    glob: GlobArgument = "*",
    once: Annotated[bool, typer.Option("--once", help="Show how far they are now, and end.")] = False,
) -> None:
    """Show how the feeds that are on fill, until Ctrl-C: progress, lag, and how long it will still take.

    Example: tallydesk feed watch 'binance:*'
    """
    from trader.cli._feed_watch import watch_feeds

    asyncio.run(watch_feeds(glob, once=once))
