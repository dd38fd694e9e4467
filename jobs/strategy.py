"""Running strategies: one job per strategy and new candle, which queues at most one order.

A run reads candles, asks the class for its targets (in a thread: it may be slow, and it is not our code), then decides
and writes in one transaction under the lock of the strategy's row. It never calls an exchange. A class that fails
stops itself only: the reason goes into its row, and it is tried again at the next candle.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from procrastinate import App, JobContext
from psycopg.types.json import Jsonb

from jobs.app import Job, context_of, defer_in
from trader.bucket import read_buckets
from trader.db import Connection, fetch_all, fetch_one, retrying
from trader.errors import TallydeskError
from trader.strategy import (
    Context,
    Decision,
    Gap,
    Minimums,
    Performance,
    Position,
    Stake,
    Strategy,
    Targets,
    accepts,
    adjusted,
    decide,
    describe,
    evaluate,
    gap_policy,
    load,
    needed,
)

if TYPE_CHECKING:
    from pandas import DataFrame

RUN = "strategy.run"
SWEEP = "strategy.sweep"
SWEEP_JOB = Job(SWEEP, queueing_lock=SWEEP)
EXTRA = 1_000
"""Candles read beyond the warm-up, so that a signal which carries something forward has it in sight."""
LONGEST_ERROR = 1_000

Result = TypeVar("Result")
log = logging.getLogger(__name__)

# stale: a newer candle should be there by now, so the price is elsewhere. Replayed ones run on a clock of their own.
# whole_from: before that, candles are still to be fetched. Those from before the hole are no part of a window.
READ = """
SELECT s.id, s.name, s.class AS path, s.params, s.market_id, s.timeframe_id, s.last_bucket, b.time_close AS newest,
       NOT e.replay AND b.time_close + 2 * t.span <= clock_timestamp() AS stale,
       (SELECT max(lower(r)) FROM bucket_feed f, unnest(f.covered) r WHERE lower(r) < b.time_close
           AND f.market_id = s.market_id AND f.timeframe_id = s.timeframe_id) AS whole_from
  FROM strategy s
  JOIN market m ON m.id = s.market_id
  JOIN exchange e ON e.id = m.exchange_id
  JOIN timeframe t ON t.id = s.timeframe_id
  LEFT JOIN LATERAL (SELECT time_close FROM bucket WHERE market_id = s.market_id AND timeframe_id = s.timeframe_id
                      ORDER BY time_close DESC LIMIT 1) b ON true
 WHERE s.id = %s AND s.enabled AND s.class IS NOT NULL
"""

# Deposits of a strategy take the same lock, so what is free stands still until the order is written.
LOCK = """
SELECT FROM strategy
 WHERE id = %(id)s AND enabled AND last_bucket IS NOT DISTINCT FROM %(last_bucket)s
   AND (class, params, market_id, timeframe_id) = (%(path)s, %(params)s::jsonb, %(market_id)s, %(timeframe_id)s)
   FOR NO KEY UPDATE
"""

MONEY = """
SELECT s.stake, s.stake_unit = '%%' AS in_percent, m.quantity_min, m.quantity_step, m.cost_min,
       coalesce(q.total - q.held, 0) AS free, coalesce(b.total, 0) AS holding,
       p.cost / nullif(p.quantity, 0) AS average_cost,
       (SELECT count(*) FROM "order" o WHERE o.strategy_id = s.id AND NOT order_is_final(o.status)) AS open_orders
  FROM strategy s
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

ADJACENT = "SELECT %(newest)s::timestamptz - span <= %(before)s AS adjacent FROM timeframe WHERE id = %(timeframe)s"

# A larger candle that lacks smaller ones in which nobody traded hides a gap of its own.
GAPS = """
SELECT gap_from AS start, gap_to AS end, missing, verdict::text FROM gap
 WHERE market_id = %(market_id)s AND timeframe_id = %(timeframe_id)s AND gap_from >= %(first)s AND gap_from < %(last)s
UNION ALL
SELECT candle_time(b.time_close, -1, t.span), b.time_close, 1, 'no_trades' FROM bucket b
  JOIN timeframe t ON t.id = b.timeframe_id
 WHERE b.market_id = %(market_id)s AND b.timeframe_id = %(timeframe_id)s AND b.time_close BETWEEN %(first)s AND %(last)s
   AND b.partial
 ORDER BY 1
"""

ORDER = """
INSERT INTO "order" (strategy_id, type, side, market_id, bucket_time)
VALUES (%(id)s, 'market', %(side)s, %(market_id)s, %(time_close)s)
ON CONFLICT (strategy_id, bucket_time) WHERE bucket_time IS NOT NULL DO NOTHING
"""

DECIDED = "UPDATE strategy SET signal = %(signal)s, last_bucket = %(time_close)s, error = NULL WHERE id = %(id)s"
WAITING = """
UPDATE strategy SET signal = %(signal)s, error = NULL
 WHERE id = %(id)s AND (signal IS DISTINCT FROM %(signal)s OR error IS NOT NULL)
"""
# Without a decision: the next candle is the next chance. Not if another run was first.
PASSED = """
UPDATE strategy SET signal = NULL, last_bucket = %(time_close)s, error = %(error)s
 WHERE id = %(id)s AND last_bucket IS NOT DISTINCT FROM %(last_bucket)s
"""

# The candle stays undecided: as soon as it is known why others are missing, this is run again.
UNSURE = """
UPDATE strategy SET signal = NULL, error = %(error)s
 WHERE id = %(id)s AND last_bucket IS NOT DISTINCT FROM %(last_bucket)s
   AND (signal IS NOT NULL OR error IS DISTINCT FROM %(error)s)
"""

# The candles of a feed that is not full may be old. One whose order is open is left alone: it decides on the newest
# candle as soon as that order is done.
DUE = """
SELECT s.id FROM strategy s
  JOIN bucket_feed f ON f.market_id = s.market_id AND f.timeframe_id = s.timeframe_id
 WHERE f.enabled AND f.status = 'full' AND s.enabled AND s.class IS NOT NULL
   AND (s.last_bucket IS NULL OR s.last_bucket < f.newest)
   AND NOT EXISTS (SELECT FROM "order" o WHERE o.strategy_id = s.id AND NOT order_is_final(o.status))
 ORDER BY s.id
"""


DECIDING = """
SELECT id FROM strategy WHERE market_id = %s AND timeframe_id = %s AND enabled AND class IS NOT NULL ORDER BY id
"""


class Stopped(TallydeskError):
    """The class of a strategy could not be loaded, raised, or gave no signal. The message is for its row."""


class TooFew(TallydeskError):
    """There are fewer candles than the warm-up: nothing can be said yet."""


class Missing(TallydeskError):
    """Candles are missing that the strategy does not decide across, and it is known why."""


class Unsure(TallydeskError):
    """Candles are missing, and nobody knows yet why."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a class wants of the candles that it was given."""

    strategy: Strategy[Any]
    now: float
    previous: float | None
    closes: tuple[datetime, ...]
    """The close of the newest candle, and of the one before it if there is one."""
    price: Decimal


def register(app: App) -> None:
    """Add the tasks of this module."""

    # No retry: the next sweep is one, and a retried job would collide with the next one's lock.
    @app.task(name=RUN, pass_context=True)
    async def strategy_run(job: JobContext, strategy_id: int) -> None:
        async with context_of(job).pool.connection() as connection:
            await run(connection, strategy_id)

    @app.task(name=SWEEP, pass_context=True)
    async def strategy_sweep(job: JobContext) -> None:
        async with context_of(job).pool.connection() as connection:
            await sweep(connection)


async def sweep(connection: Connection) -> int:
    """Queue a run of every strategy that has a candle to decide on; how many were queued."""
    due = await fetch_all(connection, DUE)
    return sum([await defer_run(connection, row.id) for row in due])


async def defer_runs(connection: Connection, market_id: int, timeframe_id: int) -> None:
    """Queue a run of every strategy that decides on the candles of a market and timeframe."""
    for row in await fetch_all(connection, DECIDING, [market_id, timeframe_id]):
        await defer_run(connection, row.id)


async def defer_run(connection: Connection, strategy_id: int) -> bool:
    """Queue a run of one strategy; False if one waits already."""
    lock = f"strategy:{strategy_id}"
    return await defer_in(connection, RUN, queueing_lock=lock, lock=lock, strategy_id=strategy_id)


async def run(connection: Connection, strategy_id: int) -> str:
    """Let a strategy decide on the newest candle, once. What came of it, in words.

    Raises psycopg.Error if the database does not serve: then nothing was decided, and the next run will.
    """
    row = await (await connection.execute(READ, [strategy_id])).fetchone()
    if row is None:
        return "it is not enabled, or has no class"
    if row.newest is None or (row.last_bucket is not None and row.last_bucket >= row.newest):
        return "no new candle"
    try:
        if row.stale:
            return await _pass(connection, row, "its newest candle is old: waits for the next")
        wanted = await _ask(connection, row)
    except TooFew as error:
        return await _pass(connection, row, str(error))
    except Missing as error:
        return await _pass(connection, row, str(error), str(error))
    except Unsure as error:
        await connection.execute(UNSURE, {"id": row.id, "error": str(error), "last_bucket": row.last_bucket})
        return str(error)
    except Stopped as error:
        await _pass(connection, row, "stopped", str(error))
        log.warning("strategy %s stopped at %s: %s", row.name, row.newest, error)
        return f"stopped: {error}"
    outcome = await retrying(lambda: _write(connection, row, wanted))
    log.info("strategy %s at %s: %s", row.name, wanted.closes[0], outcome)
    return outcome


async def _pass(connection: Connection, row: Any, reason: str, error: str | None = None) -> str:
    """Let a candle go by without a decision."""
    values = {"id": row.id, "error": error, "time_close": row.newest, "last_bucket": row.last_bucket}
    await connection.execute(PASSED, values)
    log.info("strategy %s at %s: %s", row.name, row.newest, reason)
    return reason


async def _ask(connection: Connection, row: Any) -> Wanted:
    """What the class wants now; Stopped if it cannot say."""
    module = row.path.partition(":")[0]
    strategy, warm_up = await _guarded(lambda: _load(row.path, row.params), module)
    candles = await read_buckets(connection, row.market_id, row.timeframe_id, last=warm_up + EXTRA)
    if row.whole_from is not None:
        candles = candles[candles.index > row.whole_from]
    if len(candles) < warm_up:
        raise TooFew(f"it has {len(candles)} of the {warm_up} candles that its warm-up needs")
    gaps = await _gaps(connection, row, strategy, candles.index[-warm_up], candles.index[-1])
    wanted = await _guarded(lambda: _evaluate(strategy, candles, warm_up), module)
    if type(strategy).adjust is Strategy.adjust:
        return wanted
    context = await _context(connection, row, gaps)
    now = await _guarded(lambda: adjusted(strategy, wanted.now, context), module)
    return Wanted(strategy, now, wanted.previous, wanted.closes, wanted.price)


async def _guarded(work: Callable[[], Result], module: str) -> Result:
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


def _load(path: str, params: dict[str, Any]) -> tuple[Strategy[Any], int]:
    strategy = load(path, params)
    return strategy, needed(strategy)


def _evaluate(strategy: Strategy[Any], candles: "DataFrame", warm_up: int) -> Wanted:
    signal = evaluate(strategy, candles)
    return Wanted(
        strategy,
        now=float(signal.iloc[-1]),
        previous=float(signal.iloc[-2]) if len(signal) > warm_up else None,
        closes=tuple(time.to_pydatetime() for time in candles.index[:-3:-1]),
        price=Decimal(repr(float(candles["close"].iloc[-1]))),
    )


async def _gaps(connection: Connection, row: Any, strategy: Strategy[Any], first: Any, last: Any) -> tuple[Gap, ...]:
    """What is missing in the warm-up; Unsure or Missing if the strategy does not decide across it."""
    policy = await _guarded(lambda: gap_policy(strategy), row.path.partition(":")[0])
    window = {"market_id": row.market_id, "timeframe_id": row.timeframe_id, "first": first, "last": last}
    gaps = tuple(Gap(*found) for found in await fetch_all(connection, GAPS, window))
    refused = [gap for gap in gaps if not accepts(policy, gap)]
    if not refused:
        return gaps
    reason = f"makes no decision: {refused[-1]}"
    if len(refused) > 1:
        reason += f"; and so in {len(refused) - 1} other places"
    if policy == "no_trades" and all(gap.verdict is None for gap in refused):
        raise Unsure(reason)
    raise Missing(reason)


async def _context(connection: Connection, row: Any, gaps: tuple[Gap, ...]) -> Context:
    """What the strategy sees of its money."""
    money = await fetch_one(connection, MONEY, [row.id])
    made = await fetch_one(connection, PERFORMANCE, [row.name])
    return Context(money.free, Position(money.holding, money.average_cost), Performance(**made._asdict()), gaps)


async def _write(connection: Connection, row: Any, wanted: Wanted) -> str:
    """Decide and write, in one transaction, unless another run was first."""
    async with connection.transaction():
        if not await _lock(connection, row):
            return "decided or changed by somebody else meanwhile"
        money = await fetch_one(connection, MONEY, [row.id])
        decision = _decide(await _targets(connection, row, wanted), money)
        values = {"id": row.id, "signal": wanted.now, "time_close": wanted.closes[0], "market_id": row.market_id}
        if money.open_orders:
            await connection.execute(WAITING, values)
            return decision.reason
        await connection.execute(DECIDED, values)
        if decision.order is None:
            return decision.reason
        if (await connection.execute(ORDER, values | {"side": decision.order})).rowcount == 0:
            return f"{decision.reason}; but this candle has its order already"
        return decision.reason


async def _lock(connection: Connection, row: Any) -> bool:
    """Lock the strategy's row; False if it is no longer as it was read."""
    parameters = {**row._asdict(), "params": Jsonb(row.params)}
    return (await connection.execute(LOCK, parameters)).rowcount == 1


async def _targets(connection: Connection, row: Any, wanted: Wanted) -> Targets:
    """The targets, the previous one only if its candle is the one right before."""
    newest, *before = wanted.closes
    previous = None
    if before:
        found = await fetch_one(
            connection, ADJACENT, {"newest": newest, "before": before[0], "timeframe": row.timeframe_id}
        )
        previous = wanted.previous if found.adjacent else None
    return Targets(wanted.now, previous, wanted.price)


def _decide(targets: Targets, money: Any) -> Decision:
    stake = Stake(money.stake, money.in_percent)
    minimums = Minimums(money.quantity_min, money.quantity_step, money.cost_min)
    return decide(targets, money.holding, money.free, money.open_orders, stake, minimums)
