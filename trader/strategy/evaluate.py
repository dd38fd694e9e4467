"""Running a strategy's methods, and checking what they give: it is code that is not ours."""

import inspect
import keyword
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from trader.bucket.timeframe import TIMEFRAMES
from trader.strategy.context import Context
from trader.strategy.error import SignalError, telling
from trader.strategy.gap import GapPolicy
from trader.strategy.input import Input, cut
from trader.strategy.kit import Strategy, styles_of

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MOST_CANDLES = 100_000
"""The longest warm-up that a strategy may ask for."""
COLUMNS = ("open", "high", "low", "close", "volume")


def needed(strategy: Strategy[Any]) -> int:
    """Its warm-up; SignalError if that is no number of candles."""
    with telling("warm_up", type(strategy).__module__):
        given = strategy.warm_up
    return _number_of_candles("warm_up", given)


def _number_of_candles(what: str, given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= MOST_CANDLES:
        raise SignalError(f"{what} is {given!r}: a whole number from 1 to {MOST_CANDLES} is needed")
    return given


def gap_policy(strategy: Strategy[Any] | type[Strategy[Any]]) -> GapPolicy:
    """What it, or a class, declares about gaps; SignalError if that is none of the three."""
    if strategy.gaps not in get_args(GapPolicy):
        raise SignalError(f"gaps is {strategy.gaps!r}: allowed are {', '.join(get_args(GapPolicy))}")
    return strategy.gaps


def inputs_of(strategy: Strategy[Any]) -> dict[str, Input]:
    """Its inputs, checked; SignalError says what is wrong with them."""
    with telling("inputs", type(strategy).__module__):
        given = strategy.inputs
    if not isinstance(given, Mapping):
        raise SignalError(f"inputs is {given!r}: a dict of names and Input is needed")
    for name, wanted in given.items():
        _check_input(name, wanted)
    return dict(given)


def _check_input(name: object, wanted: object) -> None:
    if not isinstance(name, str) or not _is_name(name) or name in ("self", "candles"):
        raise SignalError(f"inputs: {name!r} is no name for one: it is passed as an argument beside `candles`")
    if not isinstance(wanted, Input):
        raise SignalError(f"input {name} is {wanted!r}: write Input(timeframe=..., market=..., warm_up=...)")
    if wanted.timeframe is None and wanted.market is None:
        raise SignalError(f"input {name} has neither a timeframe nor a market: these are the strategy's own candles")
    if wanted.timeframe is not None and wanted.timeframe not in TIMEFRAMES:
        raise SignalError(f"input {name}: timeframe {wanted.timeframe!r}: allowed are {', '.join(TIMEFRAMES)}")
    if wanted.market is not None and not all(str(wanted.market).partition(":")):
        raise SignalError(f"input {name}: market {wanted.market!r}: write exchange:symbol, as in binance:ETH/USDT")
    _number_of_candles(f"input {name}: warm_up", wanted.warm_up)


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text) and not text.startswith("_")


def seen(strategy: Strategy[Any], candles: "DataFrame", frames: Mapping[str, "DataFrame"]) -> dict[str, "DataFrame"]:
    """What a strategy gets of its inputs' candles: those that had closed with the newest of `candles`.

    Raises SignalError: one of its inputs is not among `frames`.
    """
    wanted = inputs_of(strategy)
    missing = [name for name in wanted if name not in frames]
    if missing:
        raise SignalError(f"no candles are given for its input {', '.join(missing)}")
    if not len(candles):
        return {name: frames[name].iloc[:0] for name in wanted}
    return {name: cut(frames[name], candles.index[-1]) for name in wanted}


def first_candle(strategy: Strategy[Any], candles: "DataFrame", frames: Mapping[str, "DataFrame"] | None = None) -> int:
    """The place of the first candle that is decided on: its own warm-up is there, and that of each input.

    It is `len(candles)` or more if there is none.
    """
    first = needed(strategy) - 1
    given = frames or {}
    for name, wanted in inputs_of(strategy).items():
        frame = given.get(name)
        if frame is None or len(frame) < wanted.warm_up:
            return max(first, len(candles))
        first = max(first, int(candles.index.searchsorted(frame.index[wanted.warm_up - 1], side="left")))
    return first


def evaluate(
    strategy: Strategy[Any], candles: "DataFrame", frames: Mapping[str, "DataFrame"] | None = None
) -> "Series":
    """The signal of `strategy` over `candles`, checked, as floats, with 0 before the warm-up.

    `frames` has the candles of its inputs, by name; what closed after the newest of `candles` is cut off. Raises
    SignalError if it gives none. What the strategy itself raises is passed on.
    """
    if styles_of(type(strategy)) == ["on_bucket"]:
        raise SignalError(f"{type(strategy).__name__} has no signal: it decides in on_bucket")
    inputs = seen(strategy, candles, frames or {})
    _accepts(strategy.signal, inputs)
    given = strategy.signal(candles.copy(deep=False), **_copies(inputs))
    checked = _on_candles("signal", given, candles).astype("float64").copy()
    checked.iloc[: first_candle(strategy, candles, inputs)] = 0.0
    wrong = checked[~checked.between(-1.0, 1.0)]  # NaN is between nothing
    if len(wrong):
        raise SignalError(f"signal at {wrong.index[0]:%Y-%m-%d %H:%M:%S} is {wrong.iloc[0]}: from -1 to 1 is allowed")
    return checked


def indicators_of(
    strategy: Strategy[Any], candles: "DataFrame", frames: Mapping[str, "DataFrame"] | None = None
) -> "DataFrame":
    """The indicators of `strategy` over `candles`, checked, as floats.

    SignalError: it raised (the sentence names file and line), or they are no columns of numbers over the candles.
    """
    import pandas as pd

    inputs = seen(strategy, candles, frames or {})
    _accepts(strategy.indicators, inputs)
    with telling("indicators", type(strategy).__module__):
        given = strategy.indicators(candles.copy(deep=False), **_copies(inputs))
    if not isinstance(given, pd.DataFrame):
        raise SignalError(f"indicators gave {type(given).__name__}, not a pandas DataFrame")
    for name in given.columns:
        if not isinstance(name, str) or not _is_name(name) or name in COLUMNS:
            raise SignalError(f"indicators has a column {name!r}: a name such as sma is needed, and none of a candle's")
    if given.columns.has_duplicates:
        raise SignalError(f"indicators has two columns {given.columns[given.columns.duplicated()][0]}")
    for name in given.columns:
        _on_candles(f"indicators' {name}", given[name], candles)
    if not len(given.columns):
        return pd.DataFrame(index=candles.index)
    return given.astype("float64")


def _copies(inputs: Mapping[str, "DataFrame"]) -> dict[str, "DataFrame"]:
    """Frames that a strategy may change without changing ours."""
    return {name: frame.copy(deep=False) for name, frame in inputs.items()}


def _accepts(method: Any, inputs: Mapping[str, "DataFrame"]) -> None:
    """SignalError: a method that does not take the inputs that its class declares."""
    try:
        inspect.signature(method).bind(None, **inputs)
    except TypeError as error:
        wanted = ", ".join(["self", "candles", *inputs])
        name = method.__name__
        raise SignalError(f"{name}: {error}; with its inputs it is def {name}({wanted})") from None


def _on_candles(what: str, given: object, candles: "DataFrame") -> "Series":
    """A column of numbers over the candles; SignalError if it is none."""
    import pandas as pd

    if not isinstance(given, pd.Series):
        raise SignalError(f"{what} gave {type(given).__name__}, not a pandas Series")
    if len(given) != len(candles):
        raise SignalError(f"{what} has {len(given)} values for {len(candles)} candles")
    if not given.index.equals(candles.index):
        raise SignalError(f"{what} has another index than its candles")
    if not (pd.api.types.is_numeric_dtype(given) or pd.api.types.is_bool_dtype(given)):
        raise SignalError(f"{what} holds {given.dtype}, not numbers")
    return given


def adjusted(strategy: Strategy[Any], target: float, context: Context) -> float:
    """What `strategy.adjust` makes of a target, checked; SignalError if it is no target."""
    given = float(strategy.adjust(target, context))
    if not -1.0 <= given <= 1.0:
        raise SignalError(f"adjust gave {given}: from -1 to 1 is allowed")
    return given


def as_target(given: object, what: str = "on_bucket") -> float | None:
    """What `on_bucket` returned, as a target; SignalError, which begins with `what`, if it is none."""
    if given is None:
        return None
    if not isinstance(given, bool | int | float | np.bool_ | np.integer | np.floating):
        raise SignalError(f"{what} gave {given!r}: a number from -1 to 1, or None, is allowed")
    target = float(given)
    if not -1.0 <= target <= 1.0:
        raise SignalError(f"{what} gave {target}: from -1 to 1 is allowed")
    return target
