"""A run of a strategy: a look at its newest candle, which queues at most one set of orders and says why in a row.

It reads candles, asks the class for its targets, then decides and writes in one transaction under the lock of the
strategy's row. It never calls an exchange. A class that fails stops itself only: the reason goes into its row, and it
is tried again at the next candle.
"""

import logging
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

from jobs.strategy import on_bucket, order
from jobs.strategy.ask import MONEY, Wanted, ask
from jobs.strategy.candles import Window, find_gaps, read_window
from jobs.strategy.decision import Verdict, is_decided, write
from jobs.strategy.errors import Missing, NotThere, Stopped, TooFew, Unsure
from jobs.strategy.guard import STRATEGY, Loaded, load_strategy
from jobs.strategy.resting import told_resting
from jobs.strategy.state import remember
from trader.db import Connection, fetch_one, retrying
from trader.strategy import Decision, Minimums, Stake, Targets, decide, style_of

CALLS = 5
"""How often a class is called at one candle whose orders change meanwhile."""
INPUT_WAIT = timedelta(minutes=5)
"""How long a candle waits for one of an input."""

log = logging.getLogger(__name__)

# stale: a newer candle should be there by now, so the price is elsewhere. Replayed ones run on a clock of their own.
READ = """
SELECT s.id, s.name, s.class AS path, s.params, s.params::text AS params_text, s.market_id, s.timeframe_id, s.schedule,
       s.last_bucket,
       e.name || ':' || m.symbol AS market, t.name AS timeframe, t.span, b.time_close AS newest,
       NOT e.replay AND b.time_close + 2 * t.span <= clock_timestamp() AS stale,
       decision_due(s.schedule, s.last_bucket, b.time_close) AS due,
       d.reason AS waited_for, clock_timestamp() - d.decided_at AS waited
  FROM strategy s
  JOIN market m ON m.id = s.market_id
  JOIN exchange e ON e.id = m.exchange_id
  JOIN timeframe t ON t.id = s.timeframe_id
  LEFT JOIN LATERAL (SELECT time_close FROM bucket WHERE market_id = s.market_id AND timeframe_id = s.timeframe_id
                      ORDER BY time_close DESC LIMIT 1) b ON true
  LEFT JOIN decision d ON d.strategy_id = s.id AND d.bucket_time = b.time_close AND d.action = 'waits'
 WHERE s.id = %s AND s.enabled AND s.class IS NOT NULL
"""

# Deposits of a strategy take the same lock, so what is free stands still until the order is written.
LOCK = """
SELECT FROM strategy
 WHERE id = %(id)s AND enabled AND last_bucket IS NOT DISTINCT FROM %(last_bucket)s
   AND (class, params, market_id, timeframe_id, schedule)
     = (%(path)s, %(params_text)s::jsonb, %(market_id)s, %(timeframe_id)s, %(schedule)s)
   FOR NO KEY UPDATE
"""

ORDER = """
INSERT INTO "order" (strategy_id, type, side, market_id, bucket_time)
VALUES (%(id)s, 'market', %(side)s, %(market_id)s, %(newest)s)
ON CONFLICT (strategy_id, bucket_time, bucket_part) WHERE bucket_time IS NOT NULL DO NOTHING
"""

DECIDED = """
UPDATE strategy SET signal = %(signal)s, last_bucket = %(newest)s, error = %(error)s WHERE id = %(id)s
"""
# The candle stays undecided.
WAITING = """
UPDATE strategy SET signal = %(signal)s, error = %(error)s
 WHERE id = %(id)s AND (signal IS DISTINCT FROM %(signal)s OR error IS DISTINCT FROM %(error)s)
"""


async def run(connection: Connection, strategy_id: int) -> str:
    """Let a strategy decide on the newest candle, once. What came of it, in words.

    Raises psycopg.Error if the database does not serve: then nothing was decided, and the next run will.
    """
    STRATEGY.set(strategy_id)
    row = await (await connection.execute(READ, [strategy_id])).fetchone()
    if row is None:
        return "it is not enabled, or has no class"
    if row.newest is None or (row.last_bucket is not None and row.last_bucket >= row.newest):
        return "no new candle"
    if not row.due:
        return f"nothing is due: it decides each {row.schedule}"
    if row.stale:
        return await _let_go(connection, row)
    try:
        return await _decide_on(connection, row)
    except TooFew as error:
        return await _note(connection, row, Verdict("passed", str(error)))
    except Missing as error:
        return await _note(connection, row, Verdict("passed", str(error)), str(error))
    except Unsure as error:
        return await _note(connection, row, Verdict("waits", str(error)), str(error))
    except NotThere as error:
        return await _await(connection, row, error)
    except Stopped as error:
        await _note(connection, row, Verdict("stopped", str(error) or "it says nothing"), str(error))
        log.warning("strategy %s stopped at %s: %s", row.name, row.newest, error)
        return f"stopped: {error}"


async def _decide_on(connection: Connection, row: Any) -> str:
    loaded = await load_strategy(row)
    window = await read_window(connection, row, loaded)
    gaps = find_gaps(window, loaded)
    if style_of(loaded.strategy) == "on_bucket":
        return await _call(connection, row, loaded, window)
    wanted = await ask(connection, row, loaded, window, gaps)
    outcome = await retrying(lambda: _write(connection, row, wanted))
    log.info("strategy %s at %s: %s", row.name, row.newest, outcome)
    return outcome


async def _call(connection: Connection, row: Any, loaded: Loaded, window: Window) -> str:
    """Let a class of the second style decide. If its orders change meanwhile, it is called again with what they are."""
    for _ in range(CALLS):
        orders = await order.read_orders(connection, row.id, row.market_id)
        unsettled = [one.id for one in orders if one.on_its_way]
        if unsettled:
            numbers = ", ".join(map(str, unsettled))
            return await _note(connection, row, Verdict("waits", f"order {numbers} of it is on its way"))
        wish = await on_bucket.call(connection, row, loaded, window, orders)
        outcome = await retrying(partial(_carry_out, connection, row, wish))
        if outcome is not None:
            log.info("strategy %s at %s: %s", row.name, row.newest, outcome)
            return outcome
    return await _note(connection, row, Verdict("waits", "its orders changed while it decided"))


async def _carry_out(connection: Connection, row: Any, wish: on_bucket.Wish) -> str | None:
    """Write the orders, the state and the decision of a call, in one transaction. None: its orders are others now."""
    async with connection.transaction():
        if not await _lock(connection, row):
            return "decided or changed by somebody else meanwhile"
        values = {"id": row.id, "signal": wish.target, "newest": row.newest, "error": None}
        if await is_decided(connection, row):
            await connection.execute(DECIDED, values)
            return "this candle was decided before"
        if await order.lock_orders(connection, row.id, row.market_id) != wish.orders:
            return None
        if wish.plan.first:
            await order.carry_out(connection, row, wish.plan)
            verdict = Verdict("waits", f"{wish.plan}: decides when that is done")
            await write(connection, row, verdict)
            return verdict.reason
        verdict = Verdict(wish.plan.action, wish.reason, wish.target, wish.previous, wish.inputs_hash)
        if not await order.is_answered(connection, row):
            await order.carry_out(connection, row, wish.plan)
        elif wish.plan.action != "none":
            verdict = replace(verdict, action="none", reason=f"{wish.reason}; but this candle has its order already")
        await remember(connection, row, wish.kept, wish.state)
        await write(connection, row, verdict)
        await connection.execute(DECIDED, values)
        return verdict.reason


async def _await(connection: Connection, row: Any, error: NotThere) -> str:
    """Wait for a candle of an input, which closed at the same moment and comes a little later. Not for ever."""
    reason = str(error)
    if row.waited_for == reason and row.waited >= INPUT_WAIT:
        reason = f"makes no decision: {reason}, and was waited for {INPUT_WAIT.seconds // 60} minutes"
        return await _note(connection, row, Verdict("passed", reason), reason)
    return await _note(connection, row, Verdict("waits", reason, awaited=error.awaited), reason)


async def _let_go(connection: Connection, row: Any) -> str:
    """An old candle is no reason to trade. A scheduled moment is not spent on it: newer candles make up for it."""
    reason = "its newest candle is old: waits for the next"
    return await _note(connection, row, Verdict("passed" if row.schedule == "bucket" else "waits", reason))


async def _note(connection: Connection, row: Any, verdict: Verdict, error: str | None = None) -> str:
    """Write why nothing was decided, unless another run was first. The next candle is the next chance."""

    async def note() -> None:
        async with connection.transaction():
            if await _lock(connection, row) and not await is_decided(connection, row):
                await write(connection, row, verdict)
                await connection.execute(
                    WAITING if verdict.action == "waits" else DECIDED,
                    {"id": row.id, "signal": None, "newest": row.newest, "error": error},
                )

    await retrying(note)
    log.info("strategy %s at %s: %s", row.name, row.newest, verdict.reason)
    return verdict.reason


async def _write(connection: Connection, row: Any, wanted: Wanted) -> str:
    """Decide and write, in one transaction, unless another run was first."""
    async with connection.transaction():
        if not await _lock(connection, row):
            return "decided or changed by somebody else meanwhile"
        values = {"id": row.id, "signal": wanted.targets.now, "newest": row.newest, "error": None}
        if await is_decided(connection, row):
            await connection.execute(DECIDED, values)
            return "this candle was decided before"
        money = await fetch_one(connection, MONEY, [row.id])
        verdict = await _order(connection, row, _decide(wanted.targets, money), money.open_orders)
        await write(connection, row, _with(verdict, wanted))
        waits = verdict.action == "waits"
        await connection.execute(WAITING if waits else DECIDED, values | {"error": verdict.error})
        return verdict.reason


async def _order(connection: Connection, row: Any, decision: Decision, open_orders: int) -> Verdict:
    """Queue the order of a decision, if it wants one."""
    if open_orders:
        resting = await told_resting(connection, row.id)
        return Verdict("waits", resting or decision.reason, error=resting)
    if decision.order is None:
        return Verdict("none", decision.reason)
    values = {"id": row.id, "side": decision.order, "market_id": row.market_id, "newest": row.newest}
    if (await connection.execute(ORDER, values)).rowcount == 0:
        return Verdict("none", f"{decision.reason}; but this candle has its order already")
    return Verdict(decision.order, decision.reason)


def _with(verdict: Verdict, wanted: Wanted) -> Verdict:
    targets = wanted.targets
    return replace(verdict, signal=targets.now, previous=targets.previous, inputs_hash=wanted.inputs_hash)


async def _lock(connection: Connection, row: Any) -> bool:
    """Lock the strategy's row; False if it is no longer as it was read."""
    parameters = {name: value for name, value in row._asdict().items() if name != "params"}
    return (await connection.execute(LOCK, parameters)).rowcount == 1


def _decide(targets: Targets, money: Any) -> Decision:
    stake = Stake(money.stake, money.in_percent)
    minimums = Minimums(money.quantity_min, money.quantity_step, money.cost_min)
    return decide(targets, money.holding, money.free, money.open_orders, stake, minimums)
