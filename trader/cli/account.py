"""`tallydesk account`: our accounts at exchanges."""

import asyncio
import json
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from trader.cli._screen import print_rows
from trader.cli._session import session
from trader.errors import InputError, Retry

app = typer.Typer(no_args_is_help=True, add_completion=False)

MODES = ("simulator", "paper", "sandbox", "live")

LIST = """
SELECT a.name, e.name AS exchange, e.ccxt_id, a.mode::text AS mode, a.state, a.credentials, t.value, t.unit, t.read_at,
       CASE WHEN t.stale THEN 'stale' END AS stale
  FROM account a JOIN exchange e ON e.id = a.exchange_id LEFT JOIN account_total t ON t.account = a.name
 ORDER BY a.name
"""

TOTAL = """
SELECT mode, coalesce(account, 'all of it') AS account, exchange, value, unit,
       array_to_string(unpriced, ' ') AS unpriced, array_to_string(old_rates, ' ') AS old_rates, age, note
  FROM account_total ORDER BY mode, account_total.account NULLS LAST
"""

ASSETS = """
SELECT account, asset, total, used, value, unit, rate_state, rate_age, age, CASE WHEN stale THEN 'stale' END AS stale
  FROM account_value ORDER BY account, value DESC NULLS LAST, asset
"""


@app.callback()
def account() -> None:
    """Accounts: credentials and mode at an exchange.

    Example: tallydesk account list
    """


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it, such as main.")],
    exchange: Annotated[str, typer.Option(help="ccxt's name of the exchange, as ID or ID=OUR-NAME.")],
    mode: Annotated[str, typer.Option(help=f"One of {', '.join(MODES)}.")],
    url: Annotated[str | None, typer.Option(help="Where the simulator listens (mode simulator only).")] = None,
    credentials: Annotated[
        str | None, typer.Option(help="PREFIX of the variables PREFIX_API_KEY, PREFIX_SECRET, PREFIX_PASSWORD.")
    ] = None,
    options: Annotated[str, typer.Option(help="More of ccxt's constructor config, as JSON.")] = "{}",
    live_clock: Annotated[
        bool, typer.Option(help="The simulator's candles run on wall time (mode simulator only).")
    ] = False,
) -> None:
    """Add an account, and its exchange if it is new; then connect once, sync its markets and read its balances.

    Nothing is kept if that fails.

    Example: tallydesk account add main --exchange binance --mode sandbox --credentials BINANCE_TEST
    or:      tallydesk account add main --exchange binance=sim --mode simulator --url http://127.0.0.1:8700
    """
    if mode not in MODES:
        raise InputError(f"--mode is {mode!r}: allowed are {', '.join(MODES)}")
    if (mode == "simulator") != (url is not None):
        raise InputError("--url belongs to --mode simulator, which needs it")
    more = _options(options)
    ccxt_id, _, ours = exchange.partition("=")
    asyncio.run(_add(name, ccxt_id, ours or ccxt_id, mode, url, credentials, more, live_clock))


def _options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except ValueError as error:
        raise InputError(f"--options is not JSON: {error}") from None
    if not isinstance(options, dict):
        raise InputError("--options is not a JSON object such as '{\"timeout\": 5000}'")
    return options


async def _add(
    name: str,
    ccxt_id: str,
    exchange: str,
    mode: Any,
    url: str | None,
    credentials: str | None,
    options: dict[str, Any],
    live_clock: bool,
) -> None:
    import psycopg
    from rich.console import Console

    from trader.account import add_account, add_exchange, connect_account, load_accounts, merged, read_balances
    from trader.db import first_line
    from trader.market import sync_markets

    venue_options: dict[str, Any] = {}
    if url is not None:
        from trader.simulator.client_options import ccxt_options

        venue_options = ccxt_options(url)
    async with session() as (settings, connection), connection.transaction():
        try:
            replay = url is not None and not live_clock
            exchange_id = await add_exchange(connection, exchange, ccxt_id, replay=replay, options=venue_options)
            account = await add_account(connection, name, exchange_id, mode, credentials=credentials, options=options)
        except psycopg.errors.UniqueViolation:
            raise InputError(f"account {name}: there is one of this name already") from None
        except psycopg.IntegrityError as error:
            raise InputError(f"account {name}: {first_line(error)}") from None
        _same_venue(account, exchange, ccxt_id, merged(venue_options, options), await load_accounts(connection))
        client = connect_account(account, settings)
        try:
            synced = await sync_markets(connection, exchange_id, await client.markets())
            read = await read_balances(connection, client, account)
        except Retry as error:
            if url is None:
                raise
            port = urlsplit(url).port or 8700
            raise Retry(f"{error}; is it running? scripts/tallydesk simulator --port {port}") from None
        finally:
            await client.close()
    Console().print(
        f"account {name} at {exchange} ({mode}): {synced.added} markets added, {synced.changed} changed, "
        f"{read.stored} assets found"
    )


def _same_venue(account: Any, exchange: str, ccxt_id: str, wanted: dict[str, Any], others: list[Any]) -> None:
    """An exchange that is there already must be the one that was meant: its candles and prices serve all accounts."""
    if account.ccxt_id != ccxt_id:
        raise InputError(f"exchange {exchange} is {account.ccxt_id}, not {ccxt_id}: choose another name for it")
    simulated = account.mode == "simulator"
    for other in others:
        if other.exchange_id == account.exchange_id and (other.mode == "simulator") != simulated:
            raise InputError(
                f"exchange {exchange} is where account {other.name} is, in mode {other.mode}: "
                f"the markets are not the same; choose another name: --exchange {ccxt_id}=OTHER"
            )
    if simulated and account.options != wanted:
        raise InputError(f"exchange {exchange} is at another address: choose another name: --exchange {ccxt_id}=OTHER")


@app.command(name="list")
def list_() -> None:
    """Show the accounts.

    Example: tallydesk account list
    """
    asyncio.run(_list())


async def _list() -> None:
    from trader.db import fetch_all

    async with session() as (_, connection):
        rows = await fetch_all(connection, LIST)
    columns = ["name", "exchange", "ccxt", "mode", "state", "credentials", "value", "unit", "balances read", ""]
    print_rows("accounts", columns, [*map(list, rows)])


@app.command()
def total(
    assets: Annotated[bool, typer.Option(help="Each asset of each account as well.")] = False,
) -> None:
    """Show what the accounts own, in the unit of the desk: of each account, and of all of a mode together.

    What could not be read lately is shown as it was last known, with its age. What nobody knows the rate of is left out
    of the value and named. Another unit: UPDATE setting SET unit = 'EUR'.

    Example: tallydesk account total --assets
    """
    asyncio.run(_total(assets))


async def _total(assets: bool) -> None:
    from trader.db import fetch_all

    async with session() as (_, connection):
        rows = await fetch_all(connection, TOTAL)
        each = await fetch_all(connection, ASSETS) if assets else []
    columns = ["mode", "account", "exchange", "value", "unit", "unpriced", "old rates", "age", "note"]
    print_rows("totals", columns, [[*row] for row in rows])
    if assets:
        columns = ["account", "asset", "total", "used", "value", "unit", "rate", "rate age", "age", ""]
        print_rows("assets", columns, [[*row] for row in each])
