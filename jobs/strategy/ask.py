"""Asking a class what it wants. It may be slow, and it is not our code: it runs in a thread, and fails alone."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.strategy.candles import Window, find_gaps, read_window
from jobs.strategy.decision import hash_inputs
from jobs.strategy.errors import Stopped
from trader.db import Connection, fetch_one
from trader.errors import TallydeskError
from trader.strategy import (
    Context,
    Gap,
    Performance,
    Position,
    Strategy,
    Targets,
    adjusted,
    describe,
    evaluate,
    gap_policy,
    inputs_of,
    load,
    needed,
)

if TYPE_CHECKING:
    import pandas as pd

LONGEST_ERROR = 1_000

MONEY = """
SELECT s.stake, s.stake_unit = '%%' AS in_percent, m.quantity_min, m.quantity_step, m.cost_min,
       greatest(m.maker_fee, m.taker_fee) AS fee, a.price_margin,
       coalesce(q.total - q.held, 0) AS free, coalesce(b.total, 0) AS holding,
       p.cost / nullif(p.quantity, 0) AS average_cost,
       (SELECT count(*) FROM "order" o WHERE o.strategy_id = s.id AND NOT order_is_final(o.status)) AS open_orders
  FROM strategy s
  JOIN account a ON a.id = s.account_id
  JOIN market m ON m.id = s.market_id
  JOIN ledger_account l ON l.strategy_id = s.id
  LEFT JOIN balance q ON q.ledger_account_id = l.id AND q.asset_id = m.quote_id
  LEFT JOIN balance b ON b.ledger_account_id = l.id AND b.asset_id = m.base_id
  LEFT JOIN position p ON p.strategy_id = s.id AND p.market_id = m.id
 WHERE s.id = %s
"""

PERFORMANCE = """
SELECT deposits, withdrawals, equity, profit, realised, unrealised, fees, return_percent, max_drawdown_percent,
       trades, win_percent
  FROM performance WHERE strategy = %s
"""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A strategy and all that it decides on, before it was asked."""

    strategy: Strategy[Any]
    window: Window
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a class of the first style wants of the candles that it was given."""

    targets: Targets
    inputs_hash: bytes


async def prepare(connection: Connection, row: Any) -> Prepared:
    """Load the class of a strategy and read its candles.

    Raises Stopped if it cannot be loaded; TooFew, Missing, Unsure and NotThere for its candles; psycopg.Error.
    """
    module = module_of(row)
    strategy = await guarded(lambda: _load(row.path, row.params), module)
    window = await read_window(connection, row, strategy)
    return Prepared(strategy, window, await find_gaps(connection, window, strategy, gap_policy(strategy)))


async def ask(connection: Connection, row: Any, prepared: Prepared) -> Wanted:
    """What a class of the first style wants now. Raises Stopped if it cannot say, and psycopg.Error."""
    strategy, window, module = prepared.strategy, prepared.window, module_of(row)
    signal, inputs_hash = await guarded(lambda: _evaluate(strategy, window), module)
    now = float(signal.iloc[window.at])
    before = None if window.before is None else float(signal.iloc[window.before])
    if type(strategy).adjust is not Strategy.adjust:
        context = await _context(connection, row, prepared.gaps)
        target = now
        now = await guarded(lambda: adjusted(strategy, target, context), module)
    return Wanted(Targets(now, before, window.price), inputs_hash)


def module_of(row: Any) -> str:
    """Where the class of a strategy is written."""
    return str(row.path).partition(":")[0]


async def guarded(work: Callable[[], Result], module: str) -> Result:
    """Run what is not our code in a thread; whatever it raises becomes Stopped, with type, message and line."""

    def attempt() -> Result:
        # Caught in the thread itself: a StopIteration cannot be handed over to a coroutine.
        try:
            return work()
        except TallydeskError as error:
            raise Stopped(_storable(str(error))) from error
        except (Exception, SystemExit) as error:
            raise Stopped(_storable(describe(error, module))) from error

    return await asyncio.to_thread(attempt)


def _storable(text: str) -> str:
    """What PostgreSQL can keep of a text that somebody else wrote."""
    return text.replace("\x00", "")[:LONGEST_ERROR]


def _load(path: str, params: dict[str, Any]) -> Strategy[Any]:
    """The strategy, with all that it declares checked here: properties are its code, too."""
    strategy = load(path, params)
    needed(strategy), gap_policy(strategy), inputs_of(strategy)
    return strategy


def _evaluate(strategy: Strategy[Any], window: Window) -> "tuple[pd.Series[float], bytes]":
    signal = evaluate(strategy, window.own.candles, window.frames)
    return signal, hash_inputs(strategy, None, window)


async def _context(connection: Connection, row: Any, gaps: tuple[Gap, ...]) -> Context:
    """What the strategy sees of its money."""
    money = await fetch_one(connection, MONEY, [row.id])
    made = await fetch_one(connection, PERFORMANCE, [row.name])
    return Context(money.free, Position(money.holding, money.average_cost), Performance(**made._asdict()), gaps)
