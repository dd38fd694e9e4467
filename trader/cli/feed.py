"""`tallydesk feed`: which candles are kept up to date."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from trader.cli._screen import print_rows
from trader.cli._session import session
from trader.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False)

ADD = """
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (%s, %s, %s)
ON CONFLICT (market_id, timeframe_id) DO UPDATE SET enabled = true,
  collect_since = least(bucket_feed.collect_since, EXCLUDED.collect_since)
"""

LIST = """
SELECT market, timeframe, enabled, status, to_char(oldest, 'YYYY-MM-DD HH24:MI') AS oldest,
       to_char(newest, 'YYYY-MM-DD HH24:MI') AS newest, last_error
  FROM feeds ORDER BY 1, (SELECT id FROM timeframe WHERE name = feeds.timeframe)
"""


@app.callback()
def feed() -> None:
    """Feeds: candles that the worker keeps up to date.

    Example: tallydesk feed list
    """


@app.command()
def add(
    market: Annotated[str, typer.Argument(help="exchange:symbol, as in binance:BTC/USDT.")],
    timeframe: Annotated[str, typer.Argument(help="1m, 5m, 1h, 1d, 1M, ...")],
    since: Annotated[str, typer.Option(help="From when on, in UTC: 2024-01-01 or 2024-01-01T12:00.")],
) -> None:
    """Keep the candles of a market up to date; a feed that exists is switched on, and reaches back as far as asked.

    Example: tallydesk feed add binance:BTC/USDT 1h --since 2024-01-01
    """
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        raise InputError(f"--since is {since!r}: write 2024-01-01 or 2024-01-01T12:00") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    asyncio.run(_add(market, timeframe, moment))


async def _add(market: str, timeframe: str, since: datetime) -> None:
    from trader.bucket import timeframe_named
    from trader.market import find_market

    length = timeframe_named(timeframe)
    async with session() as (_, connection):
        found = await find_market(connection, market)
        await connection.execute(ADD, [found.id, length.id, since])
    print(f"{found.name} {length.name}: kept up to date from {since:%Y-%m-%d %H:%M} UTC on")


@app.command(name="list")
def list_() -> None:
    """Show the feeds and how far they are.

    Example: tallydesk feed list
    """
    asyncio.run(_list())


async def _list() -> None:
    from trader.db import fetch_all

    async with session() as (_, connection):
        rows = await fetch_all(connection, LIST)
    print_rows(
        "feeds", ["market", "timeframe", "collected", "status", "oldest", "newest", "last error"], [*map(list, rows)]
    )
