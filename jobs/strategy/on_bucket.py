"""The second style, live: a class is called at the close of a candle, and what it gives becomes a plan of orders.

Its context is that of a backtest, filled from rows: the same code, so that the same words mean the same.
"""

import asyncio
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg

from jobs.strategy.ask import MONEY, PERFORMANCE
from jobs.strategy.candles import Window
from jobs.strategy.decision import hash_inputs
from jobs.strategy.errors import Stopped
from jobs.strategy.guard import Loaded, guarded
from jobs.strategy.order import NOTHING, Open, Plan, plan_of
from jobs.strategy.state import Memory, recall
from trader.backtest.ticket import Context, Ticket
from trader.db import Connection, fetch_one
from trader.strategy import (
    Made,
    Minimums,
    Stake,
    Targets,
    as_target,
    decide,
    dump_state,
    indicators_of,
    telling,
)

PERFORMANCE_SECONDS = 60.0
"""How long a class waits for the database to tell its performance."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a class of the second style wants at a candle."""

    target: float | None
    """The one that it gave. None: no wish."""
    previous: float | None
    kept: float | None
    """The target that the next one is compared with."""
    state: str
    plan: Plan
    reason: str
    inputs_hash: bytes
    orders: tuple[Open, ...]
    """Its open orders, as it saw them."""


async def call(connection: Connection, row: Any, loaded: Loaded, window: Window, orders: tuple[Open, ...]) -> Wish:
    """Call `on_bucket` at the newest candle. Raises Stopped if it fails, and psycopg.Error."""
    memory = await recall(connection, row)
    money = await fetch_one(connection, MONEY, [row.id])
    failed: list[psycopg.Error] = []
    made = _performance(connection, row, failed)
    try:
        return await guarded(lambda: _called(loaded, window, memory, money, orders, made), loaded.module)
    except Stopped:
        if failed:  # the database's fault, not the class's
            raise failed[0] from None
        raise


def _performance(connection: Connection, row: Any, failed: list[psycopg.Error]) -> Callable[[], Made]:
    """What was made so far, for a class that runs in a thread: read on the connection, which is idle meanwhile."""
    loop = asyncio.get_running_loop()

    def made() -> Made:
        asked = asyncio.run_coroutine_threadsafe(fetch_one(connection, PERFORMANCE, [row.name]), loop)
        try:
            found = asked.result(PERFORMANCE_SECONDS)
        except psycopg.Error as error:
            failed.append(error)
            raise
        columns = (found.equity, found.deposits, found.withdrawals, found.profit, found.return_percent)
        return Made(*map(float, columns))

    return made


def _called(
    loaded: Loaded, window: Window, memory: Memory, money: Any, orders: tuple[Open, ...], made: Callable[[], Made]
) -> Wish:
    strategy = loaded.strategy
    inputs_hash = hash_inputs(strategy, memory.state, window)
    context, tickets = _context(loaded, window, memory, money, orders, made)
    with telling("on_bucket", loaded.module):
        target = as_target(strategy.on_bucket(context))
    state, previous = dump_state(context.state), memory.previous(window)
    reason = _follow(context, target, previous, money, window.price)
    plan = plan_of(context.orders, tickets, money, window.price)
    kept = previous if target is None else target
    said = target is not None or str(plan) != NOTHING
    return Wish(
        target, previous, kept, state, plan, f"{reason}{plan}" if said else _silent(orders), inputs_hash, orders
    )


def _silent(waiting: Sequence[Open]) -> str:
    """The reason of a decision to do nothing, which says that the class was asked."""
    many = f"; {len(waiting)} order{'s wait' if len(waiting) != 1 else ' waits'} as before" if waiting else ""
    return f"on_bucket gave no order and no target{many}"


def _context(
    loaded: Loaded, window: Window, memory: Memory, money: Any, orders: tuple[Open, ...], made: Callable[[], Made]
) -> tuple[Context, dict[Ticket, Open]]:
    """What it sees, and which of the tickets in it are which order."""
    bars, table = window.bars, indicators_of(loaded.strategy, window.own.candles, window.frames)
    columns = {str(name): table[name].to_numpy() for name in table.columns}
    context = Context(bars, columns, loaded.warm_up, made)
    context.index, context.milliseconds = len(bars) - 1, int(bars.time[-1])
    for name in ("open", "high", "low", "close", "volume"):
        setattr(context, name, float(getattr(bars, name)[-1]))
    row: Any = namedtuple("Now", columns)  # type: ignore[misc]  # its fields are the strategy's
    context.now = row._make(float(column[-1]) for column in columns.values())
    context.allowance, context.quantity = float(money.free), float(_minimums(money).held(money.holding))
    cost = money.average_cost if context.quantity else None
    context.average_cost = None if cost is None else float(cost)
    context.state = memory.state
    tickets = {order.ticket(): order for order in orders}
    context.orders = list(tickets)
    return context, tickets


def _minimums(money: Any) -> Minimums:
    return Minimums(money.quantity_min, money.quantity_step, money.cost_min)


def _follow(context: Context, target: float | None, previous: float | None, money: Any, price: Decimal) -> str:
    """Turn a target into orders of the context, as the engine of a backtest does; why so, in words."""
    if target is None:
        return ""
    stake = Stake(money.stake, money.in_percent)
    decision = decide(Targets(target, previous, price), money.holding, money.free, 0, stake, _minimums(money))
    if target <= 0 and (decision.order or context.orders):
        context.cancel()
    if decision.order == "sell":
        context.sell()
    elif decision.order == "buy":
        if any(ticket.alive and ticket.side == "buy" for ticket in context.orders):
            return f"target {target:g}: a buy waits already; "
        context.buy()
    return f"{decision.reason}; "
