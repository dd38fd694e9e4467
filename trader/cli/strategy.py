"""`tallydesk strategy`: make, add, list and switch strategies."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, LiteralString, TypeVar

import typer

from trader import config
from trader.cli._json import parse_object
from trader.errors import InputError

if TYPE_CHECKING:
    from trader.cli._unfed import Unfed
    from trader.db import Connection
    from trader.strategy import Series

app = typer.Typer(no_args_is_help=True, add_completion=False)
Result = TypeVar("Result")
MOST_SHOWN = 20

ACCOUNTS = "SELECT id, name FROM account ORDER BY name"
ASSETS = "SELECT id, code AS name FROM asset ORDER BY code"
TIMEFRAMES = "SELECT id, name FROM timeframe ORDER BY span"
STRATEGIES = "SELECT id, name FROM strategy ORDER BY name"
MARKETS = """
SELECT m.id, e.name || ':' || m.symbol AS name FROM market m JOIN exchange e ON e.id = m.exchange_id ORDER BY name
"""

ADD = """
INSERT INTO strategy (name, account_id, unit_id, allowance_unit, stake, stake_unit, class, market_id, timeframe_id,
                      params, schedule)
VALUES (%(name)s, %(account)s, %(unit)s, %(allowance_unit)s, %(stake)s, %(stake_unit)s, %(class)s, %(market)s,
        %(timeframe)s, %(params)s, %(schedule)s)
RETURNING name, (SELECT code FROM asset WHERE asset.id = unit_id) AS unit
"""

UNWATCHED = """
SELECT o.id FROM "order" o JOIN strategy s ON s.id = o.strategy_id
 WHERE s.name = %s AND o.status = 'waiting' AND num_nonnulls(o.trigger_price, o.trail) > 0 ORDER BY o.id
"""
LIST = """
SELECT s.name, a.name AS account, coalesce(s.class, 'by hand') AS path, e.name || ':' || m.symbol AS market,
       t.name || CASE WHEN s.schedule <> 'bucket' THEN ' every ' || s.schedule ELSE '' END AS timeframe,
       s.params, trim_scale(s.stake) || ' ' || s.stake_unit AS stake, s.enabled, s.signal,
       s.last_bucket, s.error
  FROM strategy s
  JOIN account a ON a.id = s.account_id
  LEFT JOIN market m ON m.id = s.market_id
  LEFT JOIN exchange e ON e.id = m.exchange_id
  LEFT JOIN timeframe t ON t.id = s.timeframe_id
 ORDER BY s.name
"""

SWITCH = "UPDATE strategy SET enabled = %s WHERE name = %s"


@app.callback()
def strategy() -> None:
    """Strategies: what trades, on what, with how much.

    Example: tallydesk strategy list
    """


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it; no spaces.")],
    account: Annotated[str, typer.Option(help="The account that it trades on.")],
    class_: Annotated[str | None, typer.Option("--class", help="module:Class; without it, orders are by hand.")] = None,
    market: Annotated[str | None, typer.Option(help="exchange:symbol, as in binance:BTC/USDT.")] = None,
    timeframe: Annotated[str | None, typer.Option(help="The length of its candles, as in 1h.")] = None,
    params: Annotated[str, typer.Option(help="Values for the class's parameters, as a JSON object.")] = "{}",
    schedule: Annotated[
        str, typer.Option(help="When it decides: bucket (every candle), minute, hour or day.")
    ] = "bucket",
    stake: Annotated[str, typer.Option(help="What an entry spends: see --stake-unit.")] = "100",
    stake_unit: Annotated[str, typer.Option(help="% of the free allowance, or the market's quote asset.")] = "%",
    unit: Annotated[str | None, typer.Option(help="Asset in which its profit is told; else the quote asset.")] = None,
    allowance_unit: Annotated[str | None, typer.Option(help="% of its equity, or an asset; else --unit.")] = None,
) -> None:
    """Add a strategy. It is enabled, and spends what is deposited to it.

    Example: tallydesk strategy add sma --account main --class strategies.sma_cross:SmaCross
    --market binance:BTC/USDT --timeframe 1h --params '{"fast": 5, "slow": 20}' --stake 50 --stake-unit % --unit USDT
    """
    given, series = _check_class(class_, params, market, timeframe, schedule)
    values = {
        "name": name,
        "schedule": schedule,
        "allowance_unit": allowance_unit,
        "stake": _amount(stake),
        "stake_unit": stake_unit,
        "class": class_,
    }
    row = _run(lambda connection: _add(connection, values, given, account, market, timeframe, unit))
    print(f'added {row.name}; deposit with: tallydesk psql -c "insert into orders (strategy, type, asset, quantity)')
    print(f"  values ('{row.name}', 'deposit', '{row.unit}', 100)\"")
    for one in _run(lambda connection: _unfed(connection, series)):
        print(f"it waits: {one.text} yet; {one.remedy}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of its file: small letters, digits and _.")],
    style: Annotated[
        str, typer.Option(help="signal: a target for each candle; on_bucket: called at each, with orders and memory.")
    ] = "signal",
) -> None:
    """Write a strategy that works, and a test that passes, to begin with. Nothing is written over.

    They go into the directory that TALLYDESK_STRATEGIES names, else into strategies/ and tests/unit/ of the checkout.

    Example: tallydesk strategy new my_cross --style on_bucket
    """
    from trader.cli._new_strategy import make

    made = make(name, style, config.load())
    print(f"wrote {made.strategy}, which is --class {made.class_}")
    how = "scripts/test" if made.class_.startswith("strategies.") else "scripts/python -m pytest"
    print(f"and its test; run it with: {how} {made.test}")


@app.command("list")
def list_() -> None:
    """Show the strategies with what they last wanted and why they last failed.

    Example: tallydesk strategy list
    """
    from trader.cli._screen import print_rows
    from trader.db import fetch_all

    shown = []
    for row in _run(lambda connection: fetch_all(connection, LIST)):
        where = f"{row.market or ''} {row.timeframe or ''}".strip()
        last = f"{row.last_bucket:%Y-%m-%d %H:%M}" if row.last_bucket else ""
        what = (row.name, row.account, row.path, where, json.dumps(row.params), row.stake)
        shown.append([*what, row.enabled, row.signal, last or None, row.error])
    columns = ["name", "account", "class", "market", "params", "stake", "enabled", "signal", "last candle", "error"]
    print_rows("strategies", columns, shown)


@app.command()
def enable(name: Annotated[str, typer.Argument(help="The strategy.")]) -> None:
    """Let a strategy run, and its queued orders be sent.

    Example: tallydesk strategy enable sma
    """
    _run(lambda connection: _switch(connection, name, to=True))
    print(f"{name} is enabled")


@app.command()
def disable(name: Annotated[str, typer.Argument(help="The strategy.")]) -> None:
    """Stop running a strategy; its queued orders wait, and its stops are not watched. What it holds stays, and open
    orders stay open.

    Example: tallydesk strategy disable sma
    """
    from trader.db import fetch_all

    _run(lambda connection: _switch(connection, name, to=False))
    print(f"{name} is disabled")
    waiting = [str(row.id) for row in _run(lambda connection: fetch_all(connection, UNWATCHED, [name]))]
    if waiting:
        print(
            f"nobody watches the price for it meanwhile: order {', '.join(waiting)} (cancel, sell, or enable it again)"
        )


def _check_class(
    class_: str | None, params: str, market: str | None, timeframe: str | None, schedule: str
) -> "tuple[dict[str, Any], list[Series]]":
    """The parameters, once they suit the class, and the candles that it reads; InputError if something does not fit."""
    given = parse_object("--params", params)
    if class_ is None:
        if given or schedule != "bucket":
            raise InputError("--params and --schedule say what a class does: name one with --class module:Class")
        return given, []
    if market is None or timeframe is None:
        raise InputError("a class decides on candles: name them with --market and --timeframe")

    from trader.strategy import load, parse_schedule, series_of

    config.load()  # it puts the directory of one's own strategies on the import path
    made = load(class_, given)
    return given, series_of(made, market, timeframe, parse_schedule(schedule, timeframe))


async def _unfed(connection: "Connection", series: "list[Series]") -> "list[Unfed]":
    """Those of the candles that it reads which no feed keeps."""
    from trader.cli._unfed import KEPT, asked, unfed
    from trader.clock import SystemClock
    from trader.db import fetch_all

    return unfed(series, await fetch_all(connection, KEPT, asked(series)), SystemClock().now())


def _amount(text: str) -> str:
    """A finite number above zero, as it was written."""
    from decimal import Decimal, InvalidOperation

    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or value <= 0:
        raise InputError(f"--stake is {text!r}: a number above zero is needed")
    return text


def _run(work: Callable[["Connection"], Coroutine[Any, Any, Result]]) -> Result:
    """Do something with a connection to the database."""
    from trader.db import Identity, connect
    from trader.embedded import existing_url

    async def connected() -> Result:
        connection = await connect(existing_url(config.load()), Identity("cli", "tallydesk strategy"))
        async with connection:
            return await work(connection)

    return asyncio.run(connected())


async def _add(
    connection: "Connection",
    values: dict[str, Any],
    params: dict[str, Any],
    account: str,
    market: str | None,
    timeframe: str | None,
    unit: str | None,
) -> Any:
    import psycopg
    from psycopg.types.json import Jsonb

    from trader.db import fetch_one, first_line

    if market is None and unit is None:
        raise InputError("without a market there is no quote asset to take: name its unit with --unit")
    named = {
        "account": await _find(connection, "account", account, ACCOUNTS, "tallydesk account add"),
        "market": market and await _find(connection, "market", market, MARKETS, "tallydesk market sync"),
        "timeframe": timeframe and await _find(connection, "timeframe", timeframe, TIMEFRAMES, "tallydesk migrate"),
        "unit": unit and await _find(connection, "unit", unit, ASSETS, "tallydesk market sync"),
        "params": Jsonb(params),
    }
    try:
        return await fetch_one(connection, ADD, values | named)
    except psycopg.errors.UniqueViolation:
        raise InputError(f'strategy "{values["name"]}" exists already') from None
    except (psycopg.IntegrityError, psycopg.DataError) as error:
        rule = (error.diag.constraint_name or "").replace("_", " ")
        raise InputError(f'strategy "{values["name"]}" is refused: {rule or first_line(error)}') from None


async def _find(connection: "Connection", what: str, name: str, statement: LiteralString, source: str) -> int:
    """The number of what is called `name`; InputError lists what there is."""
    from trader.cli._screen import more
    from trader.db import fetch_all

    known = {row.name: row.id for row in await fetch_all(connection, statement)}
    if name in known:
        return int(known[name])
    shown = ", ".join(list(known)[:MOST_SHOWN]) + more(len(known), MOST_SHOWN)
    raise InputError(f'unknown {what} "{name}": there is {shown or f"none yet ({source})"}')


async def _switch(connection: "Connection", name: str, *, to: bool) -> None:
    await _find(connection, "strategy", name, STRATEGIES, "tallydesk strategy add")
    await connection.execute(SWITCH, [to, name])
