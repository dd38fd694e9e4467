"""`tallydesk market`: what exchanges trade."""

import asyncio
from typing import Annotated

import typer

from trader.cli._session import Session, asking, session
from trader.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False)

ALL = "SELECT id, name, ccxt_id, options, offline FROM exchange ORDER BY name"


@app.callback()
def market() -> None:
    """Markets and their rules.

    Example: tallydesk market sync
    """


@app.command()
def sync(
    exchange: Annotated[str | None, typer.Option(help="Our name of one exchange; all of them if not given.")] = None,
) -> None:
    """Read the markets of exchanges now. (The worker does so every hour.)

    Example: tallydesk market sync --exchange binance
    """
    asyncio.run(_sync(exchange))


async def _sync(wanted: str | None) -> None:
    from trader.db import fetch_all

    async with session() as opened:
        rows = await fetch_all(opened.connection, ALL)
        names = ", ".join(row.name for row in rows if not row.offline) or "none yet (tallydesk account add)"
        if any(row.offline and row.name == wanted for row in rows):
            raise InputError(f"--exchange is {wanted!r}: it is offline, no venue is asked; there is {names}")
        chosen = [row for row in rows if wanted in (None, row.name) and not row.offline]
        if not chosen:
            raise InputError(f"--exchange is {wanted!r}: there is {names}")
        for row in chosen:
            await _sync_one(opened, row.id, row.name, row.ccxt_id, row.options)


async def _sync_one(opened: Session, exchange_id: int, name: str, ccxt_id: str, options: dict[str, object]) -> None:
    from trader.account import connect_account, connect_public, load_accounts
    from trader.market import sync_markets

    accounts = [one for one in await load_accounts(opened.connection) if one.exchange_id == exchange_id]
    client = connect_account(accounts[0], opened.settings) if accounts else connect_public(ccxt_id, options)
    async with asking(opened, client, exchange_id, accounts[0].id if accounts else None):
        synced = await sync_markets(opened.connection, exchange_id, await client.markets())
    print(f"{name}: {synced.added} markets added, {synced.changed} changed, {synced.vanished} no longer listed")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="exchange:BASE/QUOTE, as in bitfinex:BTC/USD; made if it is not there.")],
) -> None:
    """Make a market for candles of files: its exchange is offline, no venue is asked anything, no account is needed.

    Example: tallydesk market add bitfinex:BTC/USD
    """
    asyncio.run(_add(name))


async def _add(name: str) -> None:
    from trader.market import add_market

    async with session() as opened:
        market, is_new = await add_market(opened.connection, name)
    what = "added" if is_new else "was there already"
    print(f"{market.name}: {what}; {market.exchange_name} is offline, its candles come from files")
