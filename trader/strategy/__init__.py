"""The strategy kit: what a strategy is, how its class is found, and how what it says becomes an order or none.

A strategy sees candles, its own allowance, position and performance. It never sees the account, the exchange or
another strategy. Everything here is plain computation; `jobs.strategy` brings the rows, `trader.backtest` files.
"""

from trader.strategy.context import (
    Context,
    Made,
    OnBucketContext,
    Performance,
    Position,
    WaitingOrder,
)
from trader.strategy.decide import Decision, Minimums, Stake, Targets, decide
from trader.strategy.error import SignalError, describe, telling
from trader.strategy.evaluate import (
    MOST_CANDLES,
    adjusted,
    as_target,
    evaluate,
    first_candle,
    gap_policy,
    indicators_of,
    inputs_of,
    needed,
)
from trader.strategy.find import find_class, load
from trader.strategy.gap import Gap, GapPolicy, Missing, accepts, holes_of, missing_of
from trader.strategy.input import Input, at, cut
from trader.strategy.kit import P, Strategy, Style, style_of, styles_of
from trader.strategy.params import Params, Range, describe_params, param, parse_params, search_space
from trader.strategy.reach import EXTRA, Reach, reach_of
from trader.strategy.schedule import Schedule, is_due, parse_schedule, scheduled
from trader.strategy.series import Series, series_of
from trader.strategy.state import dump_state

__all__ = [
    "EXTRA",
    "MOST_CANDLES",
    "Context",
    "Decision",
    "Gap",
    "GapPolicy",
    "Input",
    "Made",
    "Minimums",
    "Missing",
    "OnBucketContext",
    "P",
    "Params",
    "Performance",
    "Position",
    "Range",
    "Reach",
    "Schedule",
    "Series",
    "SignalError",
    "Stake",
    "Strategy",
    "Style",
    "Targets",
    "WaitingOrder",
    "accepts",
    "adjusted",
    "as_target",
    "at",
    "cut",
    "decide",
    "describe",
    "describe_params",
    "dump_state",
    "evaluate",
    "find_class",
    "first_candle",
    "gap_policy",
    "holes_of",
    "indicators_of",
    "inputs_of",
    "is_due",
    "load",
    "missing_of",
    "needed",
    "param",
    "parse_params",
    "parse_schedule",
    "reach_of",
    "scheduled",
    "search_space",
    "series_of",
    "style_of",
    "styles_of",
    "telling",
]
