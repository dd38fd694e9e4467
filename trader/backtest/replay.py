"""One call of on_bucket, written down so that it can be made again on other candles."""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trader.backtest.data import bars_from_frame
from trader.backtest.ticket import Context, Ticket
from trader.backtest.view import View
from trader.strategy import Made, Strategy, as_target, dump_state, indicators_of, needed, telling

Order = tuple[str, float | None, float | None, float | None, float | None]


@dataclass(frozen=True)
class Action:
    """What a call did."""

    target: float | None
    orders: tuple[Order, ...]
    """Those that it gave: side, quantity, limit, stop and trail."""
    taken_back: tuple[int, ...]
    """The numbers of those that it took back."""
    state: dict[str, Any]
    """What it left."""


@dataclass(frozen=True)
class Moment:
    """What a call saw beside candles, and what it did."""

    allowance: float
    quantity: float
    average_cost: float | None
    orders: tuple[Ticket, ...]
    made: Made
    given: int
    """How many orders were given before."""
    state: str
    """As JSON."""
    action: Action


def call(on_bucket: Any, context: Context) -> Action:
    """Call it, and tell what it did."""
    before, alive = context.given, [ticket for ticket in context.orders if ticket.alive]
    target = as_target(on_bucket(context))
    new = [ticket for ticket in context.orders if ticket.number >= before and ticket.alive]
    taken = tuple(ticket.number for ticket in alive if not ticket.alive)
    orders = tuple((ticket.side, ticket.quantity, ticket.limit, ticket.stop, ticket.trail) for ticket in new)
    return Action(target, orders, taken, json.loads(dump_state(context.state)))


def record(on_bucket: Any, context: Context) -> Moment:
    """Call it, and write down what it saw and what it did."""
    seen = (context.allowance, context.quantity, context.average_cost, tuple(map(copy.copy, context.orders)))
    made, given, state = context.performance, context.given, dump_state(context.state)
    return Moment(*seen, made, given, state, call(on_bucket, context))


def replay(strategy: Strategy[Any], view: View, timeframe: str, moment: Moment, place: int = -1) -> Action:
    """Make a call again, by a new object, as if `view` were all that there is; `place` is its bar, the last if -1.

    Raises SignalError: it raised, or gave what is none.
    """
    fresh = copy.deepcopy(strategy)
    table = indicators_of(fresh, view.candles, view.inputs)
    bars = bars_from_frame(view.candles, timeframe)
    columns = {str(name): table[name].to_numpy() for name in table.columns}
    context = Context(bars, columns, needed(strategy), lambda: moment.made)
    context.index = place if place >= 0 else len(bars) - 1
    context.show(bars, columns)
    context.allowance, context.quantity, context.average_cost = moment.allowance, moment.quantity, moment.average_cost
    context.orders, context.given = [copy.copy(ticket) for ticket in moment.orders], moment.given
    context.state = json.loads(moment.state)
    with telling(f"on_bucket at {context.time:%Y-%m-%d %H:%M:%S}", type(strategy).__module__):
        return call(fresh.on_bucket, context)


def difference(one: Action, other: Action, tolerance: float) -> dict[str, str] | None:
    """What the second did otherwise: `what`, `first` and `second` in words; None: the same.

    Numbers may differ by a share of `tolerance`.
    """
    for what, first, second in (
        ("its target", one.target, other.target),
        ("what it ordered", one.orders, other.orders),
        ("what it took back", one.taken_back, other.taken_back),
        ("its state", one.state, other.state),
    ):
        if not _same(first, second, tolerance):
            return {"what": what, "first": _told(first), "second": _told(second)}
    return None


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key], tolerance) for key in one)
    if isinstance(one, Sequence) and isinstance(other, Sequence) and not isinstance(one, str):
        return len(one) == len(other) and all(map(_same, one, other, [tolerance] * len(one)))
    if isinstance(one, float | int) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=1e-12)
    return bool(one == other)


def _told(value: Any) -> str:
    """A part of an action, for people."""
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return "; ".join(_order(order) for order in value)
    return "none" if value is None or value == () else str(value)


def _order(order: Order) -> str:
    side, *rest = order
    terms = zip(("quantity", "limit", "stop", "trail"), rest, strict=True)
    return " ".join([side, *(f"{name} {value:g}" for name, value in terms if value is not None)])
