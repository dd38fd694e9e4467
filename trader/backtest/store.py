"""Runs in the database: written as a whole by COPY in one transaction, read, listed."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from decimal import Decimal
from operator import attrgetter
from typing import Any, LiteralString

from psycopg.types.json import Jsonb

from trader.backtest.record import MEASURES, Made, Point, Run, Trade
from trader.bucket.timeframe import timeframe_named
from trader.db import Connection, fetch_all
from trader.errors import InputError

STORE = """
INSERT INTO backtest_run (
  strategy, class, params, schedule, market_id, timeframe_id, source, inputs, asked_from, asked_to, used_from, used_to,
  candles, warm_up, digest, settings, engine, seed, version, code, started_at, error, longest_gaps,
  held, confidence, refused,
  deposits, withdrawals, equity, profit, realised, unrealised, fees, return_percent, max_drawdown_percent, trades,
  win_percent, annual_return_percent, sharpe, sortino, calmar, drawdown_days, exposure_percent, turnover, profit_factor,
  expectancy, buy_and_hold_percent, gaps, missing_bars, fills_after_gaps)
VALUES (
  %(strategy)s, %(path)s, %(params)s, %(schedule)s, %(market_id)s, %(timeframe_id)s, %(source)s, %(inputs)s,
  %(asked_from)s, %(asked_to)s, %(used_from)s, %(used_to)s, %(candles)s, %(warm_up)s, %(digest)s, %(settings)s,
  %(engine)s, %(seed)s, %(version)s, %(code)s, %(started_at)s, %(error)s, %(longest_gaps)s,
  %(held)s, %(confidence)s, %(refused)s,
  %(deposits)s, %(withdrawals)s, %(equity)s, %(profit)s, %(realised)s, %(unrealised)s, %(fees)s, %(return_percent)s,
  %(max_drawdown_percent)s, %(trades)s, %(win_percent)s, %(annual_return_percent)s, %(sharpe)s, %(sortino)s, %(calmar)s,
  %(drawdown_days)s, %(exposure_percent)s, %(turnover)s, %(profit_factor)s, %(expectancy)s, %(buy_and_hold_percent)s,
  %(gaps)s, %(missing_bars)s, %(fills_after_gaps)s)
RETURNING id, finished_at
"""
COPY_TRADES = """
COPY backtest_trade (run_id, number, decided_at, time_close, side, price, quantity, quote, fee, fee_in, liquidity,
                     order_number, realised, after_gap) FROM STDIN
"""
COPY_POINTS = """
COPY backtest_equity (run_id, time, equity, cash, holding, price, unit_value, held_value, drawdown_percent) FROM STDIN
"""

TRADES = """
COPY backtest_trade (run_id, number, decided_at, time_close, side, price, quantity, quote, fee, fee_in, liquidity,
                     order_number, realised, after_gap) FROM STDIN
"""
COPY_POINTS = """
COPY backtest_equity (run_id, time, equity, cash, holding, price, unit_value, held_value, drawdown_percent) FROM STDIN
"""

READ: LiteralString = """
SELECT r.*, r.class AS path, t.name AS timeframe, e.name || ':' || m.symbol AS market
  FROM backtest_run r
  JOIN timeframe t ON t.id = r.timeframe_id
  LEFT JOIN market m ON m.id = r.market_id
  LEFT JOIN exchange e ON e.id = m.exchange_id
"""
TRADES = """
SELECT number, decided_at, time_close, side::text, price, quantity, quote, fee, fee_in, liquidity::text, order_number,
       realised, after_gap
  FROM backtest_trade WHERE run_id = %s ORDER BY number
"""
POINTS = """
SELECT time, equity, cash, holding, price, unit_value, held_value, drawdown_percent
  FROM backtest_equity WHERE run_id = %s ORDER BY time
"""
TRADE, POINT = (attrgetter(*(one.name for one in fields(kind))) for kind in (Trade, Point))
"""The columns of a row, in their order."""
PLAIN = tuple(one.name for one in fields(Run) if one.name not in ("made", "market", "timeframe", "path"))
"""Columns that are fields as they are."""
READ = f"""
SELECT {", ".join(f"r.{name}" for name in (*PLAIN, *MEASURES, "longest_gaps", "held", "confidence", "refused"))},
       r.class AS path, t.name AS timeframe, e.name || ':' || m.symbol AS market
  FROM backtest_run r
  JOIN timeframe t ON t.id = r.timeframe_id
  LEFT JOIN market m ON m.id = r.market_id
  LEFT JOIN exchange e ON e.id = m.exchange_id
 WHERE r.id = %s
"""  # noqa: S608 - made of our own names
NEWEST = "SELECT id FROM backtest_run ORDER BY id DESC LIMIT %s"
DELETE = "DELETE FROM backtest_run WHERE id = %s RETURNING id"


async def save(connection: Connection, run: Run) -> Any:
    """Store a run, its trades and its equity, all or nothing; the row's id and finished_at."""
    made = run.made
    values: dict[str, Any] = {name: getattr(run, name) for name in (*PLAIN, "path")}
    values |= {name: Jsonb(dict(values[name])) for name in ("params", "inputs", "settings")}
    values["timeframe_id"] = timeframe_named(run.timeframe).id
    values |= dict.fromkeys(MEASURES) if made is None else made.measures
    for name in ("held", "confidence"):
        told = None if made is None else getattr(made, name)
        values[name] = None if told is None else Jsonb(dict(told))
    values["longest_gaps"] = Jsonb([] if made is None else list(made.longest_gaps))
    values["refused"] = Jsonb({} if made is None else dict(made.refused))
    async with connection.transaction():
        row = await (await connection.execute(STORE, values)).fetchone()
        if row is not None and made is not None:
            await _copy(connection, COPY_TRADES, row.id, map(TRADE, made.trades))
            await _copy(connection, COPY_POINTS, row.id, map(POINT, made.points))
    return row


async def _copy(connection: Connection, statement: LiteralString, run_id: int, rows: Iterable[Sequence[Any]]) -> None:
    """Text is fastest for numeric: it is what both sides have anyway. None of the values needs quoting."""
    lines = ["\t".join([str(run_id), *map(_text, row)]) for row in rows]
    async with connection.cursor() as cursor, cursor.copy(statement) as copy:
        if lines:
            await copy.write("\n".join(lines) + "\n")


def _text(value: Any) -> str:
    return "\\N" if value is None else str(value)


async def load_run(connection: Connection, run_id: int) -> Run:
    """A run with all that came out. InputError, which lists some, if there is none of that number."""
    rows = await fetch_all(connection, READ, [run_id])
    if not rows:
        known = ", ".join(str(row.id) for row in await fetch_all(connection, NEWEST, [10]))
        raise InputError(
            f"there is no backtest {run_id}: the newest are {known or 'none yet (tallydesk backtest run)'}"
        )
    row = rows[0]
    plain = {name: getattr(row, name) for name in (*PLAIN, "path", "market", "timeframe")}
    if row.error is not None:
        return Run(**plain)
    trades = tuple(Trade(*one) for one in await fetch_all(connection, TRADES, [run_id]))
    points = tuple(Point(*one) for one in await fetch_all(connection, POINTS, [run_id]))
    measures: dict[str, Decimal | int | None] = {name: getattr(row, name) for name in MEASURES}
    made = Made(
        measures=measures,
        longest_gaps=tuple(row.longest_gaps),
        held=row.held,
        confidence=row.confidence,
        refused=row.refused,
        trades=trades,
        points=points,
    )
    return Run(**plain, made=made)


async def delete_run(connection: Connection, run_id: int) -> bool:
    """Remove a run with all that came out; whether there was one."""
    return bool(await fetch_all(connection, DELETE, [run_id]))
