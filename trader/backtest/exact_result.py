"""The result of an exact run, made of the ledger's rows, and its comparison with another result."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from trader.backtest.data import Bars, Floats, Indices
from trader.backtest.result import BUY, SELL, Fills, Refusal, Result, States, equity_of
from trader.backtest.settings import Settings
from trader.clock import to_milliseconds
from trader.errors import DatabaseError

CENT = 0.01
"""Of the quote: two results agree if no amount is half of it apart."""


def ledger_result(
    bars: Bars,
    settings: Settings,
    fills: Sequence[Any],
    posted: Sequence[Any],
    flows: Mapping[int, tuple[int, float]],
    refused: tuple[Refusal, ...],
) -> Result:
    """A result out of rows: `fills` as they were booked, `posted` as they moved money. `flows` by number of order."""
    bar = _bars_at(bars.opened, [row.traded_at for row in fills])
    columns = Fills(
        bar,
        _bars_at(bars.time, [row.bucket_time for row in fills]),
        np.array([BUY if row.side == "buy" else SELL for row in fills], dtype=np.int8),
        _floats(row.price for row in fills),
        _floats(row.quantity for row in fills),
        _floats(row.quote for row in fills),
        _floats(row.fee for row in fills),
        np.array([row.liquidity == "maker" for row in fills], dtype=np.bool_),
        _in_turn([row.order_id for row in fills]),
    )
    bar_of = {row.id: int(at) for row, at in zip(fills, bar, strict=True)}
    states = _states(posted, bar_of, flows)
    equity = equity_of(bars, states)
    return Result(bars, settings, columns, states, tuple(flows.values()), equity, refused)


def _bars_at(moments: Any, wanted: Sequence[Any]) -> Any:
    """The bars that open or close at just those moments."""
    milliseconds = np.array([to_milliseconds(moment) for moment in wanted], dtype=np.int64)
    found = np.searchsorted(moments, milliseconds)
    if len(found) and not np.array_equal(moments[np.minimum(found, len(moments) - 1)], milliseconds):
        raise DatabaseError("a fill of the exact backtest has a time that no bar has")
    return found.astype(np.int64)


def _in_turn(numbers: Sequence[int]) -> Indices:
    """The same numbers counted from 0, in the order in which they come first."""
    places: dict[int, int] = {}
    return np.array([places.setdefault(number, len(places)) for number in numbers], dtype=np.int64)


def _floats(values: Any) -> Floats:
    return np.array([float(value) for value in values], dtype=np.float64)


def _states(posted: Sequence[Any], bar_of: Mapping[int, int], flows: Mapping[int, tuple[int, float]]) -> States:
    cash = holding = Decimal(0)
    rows: list[tuple[int, float, float]] = []
    for row in posted:
        cash += row.quote
        holding += row.base
        bar = flows[row.order_id][0] if row.fill_id is None else bar_of[row.fill_id]
        rows.append((bar, float(cash), float(holding)))
    columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
    return States(np.array(columns[0], dtype=np.int64), _floats(columns[1]), _floats(columns[2]))


def compare(result: Result, exact: Result, cent: float = CENT) -> str | None:
    """The first difference between two results over the same bars, in words; None: there is none.

    Fills must be the same in bar, bar of the decision, side and price; amounts, fees, cash and equity at each close
    must be less than half a `cent` apart.
    """
    if len(result.bars) != len(exact.bars):
        return f"{len(result.bars)} bars against {len(exact.bars)}"
    return _fills_differ(result, exact, cent) or _closes_differ(result, exact, cent)


def _fills_differ(result: Result, exact: Result, cent: float) -> str | None:
    ours, theirs = result.fills, exact.fills
    for place in range(min(len(ours), len(theirs))):
        for name, apart in _ALLOWED.items():
            one, other = float(getattr(ours, name)[place]), float(getattr(theirs, name)[place])
            worth = float(ours.price[place]) if name == "quantity" or _in_base(result, place, name) else 1.0
            if abs(one - other) * worth > (apart * cent if apart else 1e-9 * worth * max(1.0, abs(one))):
                when = result.bars.moment(int(ours.decided[place]))
                return f"fill {place + 1}, decided at {when}: {name} {one:.12g} against {other:.12g}"
    if len(ours) == len(theirs):
        return None
    more, name = (ours, "the first") if len(ours) > len(theirs) else (theirs, "the second")
    place = min(len(ours), len(theirs))
    when = result.bars.moment(int(more.decided[place]))
    return f"{len(ours)} fills against {len(theirs)}; only {name} has fill {place + 1}, decided at {when}"


_ALLOWED = {
    "bar": 0.0,
    "decided": 0.0,
    "side": 0.0,
    "maker": 0.0,
    "price": 0.0,
    "quantity": 0.5,
    "quote": 0.5,
    "fee": 0.5,
}
"""By column of a fill: by how many cents it may differ; 0: not at all."""


def _in_base(result: Result, place: int, name: str) -> bool:
    return name == "fee" and result.settings.fee_side == "get" and result.fills.side[place] == BUY


def _closes_differ(result: Result, exact: Result, cent: float) -> str | None:
    for name, one, other in (
        ("cash", result.cash, exact.cash),
        ("worth of the holding", result.holding * result.bars.close, exact.holding * exact.bars.close),
        ("equity", result.equity, exact.equity),
    ):
        wrong = np.flatnonzero(np.abs(one - other) >= cent / 2)
        if len(wrong):
            bar = int(wrong[0])
            return f"{name} at {result.bars.moment(bar)}: {one[bar]:.8f} against {other[bar]:.8f}"
    return None
