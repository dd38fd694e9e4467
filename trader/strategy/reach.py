"""Reach: how many candles a live run reads, and so how many a check may show."""

from dataclasses import dataclass
from typing import Any

from trader.bucket.timeframe import timeframe_named
from trader.strategy.evaluate import inputs_of, needed
from trader.strategy.kit import Strategy
from trader.strategy.schedule import SPANS, Schedule

EXTRA = 1_000
"""Candles read beyond the warm-up, so that a signal which carries something forward has it in sight."""
MONTH = 31 * 24 * 3_600_000
"""The longest, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How many candles are read, at most."""

    candles: int
    """Of its own."""
    inputs: dict[str, int]
    """Of each input, by its name."""


def reach_of(strategy: Strategy[Any], timeframe: str, schedule: Schedule = "bucket") -> Reach:
    """How many candles a live run on candles of `timeframe` reads.

    The warm-up and EXTRA more; where that is not enough to tell the target at the scheduled moment before, so many more
    that it is. Raises SignalError: inputs or a warm-up that are none; InputError: an unknown timeframe.
    """
    own = timeframe_named(timeframe).span or MONTH
    back = own if schedule == "bucket" else max(own, SPANS[schedule])
    inputs = {}
    for name, given in inputs_of(strategy).items():
        span = timeframe_named(given.timeframe or timeframe).span or MONTH
        inputs[name] = given.warm_up + max(EXTRA, -(-2 * back // span))
    return Reach(needed(strategy) + max(EXTRA, -(-2 * back // own)), inputs)
