"""The first style, live: what a class wants at the newest candle, by its signal."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.strategy.candles import Window
from jobs.strategy.decision import hash_inputs
from jobs.strategy.guard import Loaded, guarded
from trader.db import Connection, fetch_one
from trader.strategy import Context, Gap, Performance, Position, Strategy, Targets, adjusted, evaluate

if TYPE_CHECKING:
    import pandas as pd

MONEY = """
SELECT s.stake, s.stake_unit = '%%' AS in_percent, m.price_tick, m.quantity_min, m.quantity_step,
       m.cost_min, greatest(m.maker_fee, m.taker_fee) AS fee, a.price_margin,
       coalesce(q.total - q.held, 0) AS free, coalesce(b.total, 0) AS holding,
       p.cost / nullif(p.quantity, 0) AS average_cost,
       (SELECT count(*) FROM open_order o WHERE (o.strategy_id, o.account_id) = (s.id, s.account_id)) AS open_orders
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a class of the first style wants of the candles that it was given."""

    targets: Targets
    inputs_hash: bytes


async def ask(connection: Connection, row: Any, loaded: Loaded, window: Window, gaps: tuple[Gap, ...]) -> Wanted:
    """What a class of the first style wants now. Raises Stopped if it cannot say, and psycopg.Error."""
    strategy = loaded.strategy
    signal, inputs_hash = await guarded(lambda: _evaluate(strategy, window), loaded.module)
    now = float(signal.iloc[window.at])
    before = None if window.before is None else float(signal.iloc[window.before])
    if type(strategy).adjust is not Strategy.adjust:
        context = await _context(connection, row, gaps)
        target = now
        now = await guarded(lambda: adjusted(strategy, target, context), loaded.module)
    return Wanted(Targets(now, before, window.price), inputs_hash)


def _evaluate(strategy: Strategy[Any], window: Window) -> "tuple[pd.Series[float], bytes]":
    signal = evaluate(strategy, window.own.candles, window.frames)
    return signal, hash_inputs(strategy, None, window)


async def _context(connection: Connection, row: Any, gaps: tuple[Gap, ...]) -> Context:
    """What the strategy sees of its money."""
    money = await fetch_one(connection, MONEY, [row.id])
    made = await fetch_one(connection, PERFORMANCE, [row.name])
    return Context(money.free, Position(money.holding, money.average_cost), Performance(**made._asdict()), gaps)
