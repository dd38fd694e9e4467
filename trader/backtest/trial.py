"""One set of parameters on some candles: a run, what it is worth, and why it could not be had."""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from trader.backtest.deflated import moments_of
from trader.backtest.measures import Measures, measure, returns_of, unit_values
from trader.backtest.result import Result
from trader.backtest.run import Frames, backtest, first_decision
from trader.backtest.settings import Settings
from trader.errors import InputError, TallydeskError
from trader.strategy import Missing, Strategy, describe, parse_params
from trader.strategy.schedule import milliseconds

if TYPE_CHECKING:
    from pandas import DataFrame

Told = dict[str, float | int | None]
"""Measures by name, as JSON has them."""
OBJECTIVES = (
    "sharpe",
    "sortino",
    "calmar",
    "return_percent",
    "annual_return_percent",
    "profit",
    "profit_factor",
    "expectancy",
    "win_percent",
)

_DIGESTS: "WeakKeyDictionary[ModuleType, str]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Task:
    """What is the same for all trials of a search."""

    strategy: type[Strategy[Any]]
    fixed: Mapping[str, Any]
    settings: Settings
    objective: str
    schedule: str = "bucket"

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise InputError(f"objective is {self.objective!r}: allowed are {', '.join(OBJECTIVES)}")

    def made(self, point: Mapping[str, Any]) -> Strategy[Any]:
        """The strategy with a set. What its constructor raises is passed on."""
        return self.strategy(parse_params(self.strategy, {**self.fixed, **point}))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial gave: measures, or an error."""

    value: float | None = None
    measures: Told | None = None
    error: str | None = None


def try_set(task: Task, point: Mapping[str, Any], frames_for: Callable[[Strategy[Any]], Frames]) -> Outcome:
    """Run a set on the frames of its strategy. An error of the strategy is an outcome, too: others go on."""
    try:
        strategy = task.made(point)
        frames = frames_for(strategy)
        result = backtest(strategy, frames, task.settings, task.schedule)
        told = told_of(result, measure(result, first_decision(strategy, frames)))
    except TallydeskError as error:  # a sentence, which says where if that is in the class
        return Outcome(error=str(error))
    except Exception as error:
        return Outcome(error=describe(error, task.strategy.__module__))
    return Outcome(told[task.objective], told)


def told_of(result: Result, measures: Measures) -> Told:
    """Measures, and the moments of the returns, as plain JSON: what is no finite number is None."""
    returns = returns_of(result.bars.time, unit_values(result.equity, result.flows))
    return plain(measures) | plain(moments_of(returns))


def plain(numbers: Any) -> Told:
    """The fields of a dataclass as plain JSON: what is no finite number is None."""
    return {name: value if value is None or math.isfinite(value) else None for name, value in asdict(numbers).items()}


def measure_names() -> tuple[str, ...]:
    """Every measure."""
    return tuple(field.name for field in fields(Measures))


def candle_digest(frame: "DataFrame", refused: Missing | None = None) -> str:
    """A hash of candles: another if one number or time is another, or what is not decided across among them."""
    import pandas as pd  # slow to import

    found = hashlib.blake2b(digest_size=16)
    times = pd.DatetimeIndex(frame.index).tz_convert("UTC").tz_localize(None)
    found.update(times.to_numpy().astype("datetime64[ms]").tobytes())
    for name in ("open", "high", "low", "close", "volume"):
        found.update(frame[name].to_numpy(dtype="float64").tobytes())
    if refused is not None:
        found.update(refused.told(milliseconds(times)))
    return found.hexdigest()


def code_digest(strategy: type[Strategy[Any]]) -> str:
    """A hash of the file of a class, as it was when this process first asked: about then it was loaded."""
    module = sys.modules[strategy.__module__]
    if module not in _DIGESTS:
        path = getattr(module, "__file__", None)
        text = Path(path).read_bytes() if path else json.dumps(strategy.__qualname__).encode()
        _DIGESTS[module] = hashlib.blake2b(text, digest_size=16).hexdigest()
    return _DIGESTS[module]
