"""The strategy kit: what a strategy is, how its class is found, and how its signal becomes an order or none.

A strategy sees candles, its own allowance, position and performance. It never sees the account, the exchange or
another strategy. Everything here is plain computation; `jobs.strategy` brings the rows.
"""

import importlib
import inspect
import json
import pkgutil
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeGuard, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from trader.errors import InputError, TallydeskError
from trader.exchange.protocol import Side
from trader.sizing import floor_to, plain

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MOST_CANDLES = 100_000
"""The longest warm-up that a strategy may ask for."""


class SignalError(TallydeskError):
    """A strategy gave a signal that is none: not one finite number from -1 to 1 for each candle."""


class Params(BaseModel):
    """What can be set of a strategy: fields with types, defaults and bounds. Values are checked as they are written."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


P = TypeVar("P", bound=Params)


@dataclass(frozen=True, slots=True)
class Position:
    """What a strategy holds on its market."""

    quantity: Decimal
    """Base that is there, whether bought or deposited."""
    average_cost: Decimal | None
    """Quote paid for one of it, fees included; None: nothing was paid, or nothing is held."""


@dataclass(frozen=True, slots=True)
class Performance:
    """What a strategy made so far, in its unit: its row of the view `performance`."""

    deposits: Decimal
    withdrawals: Decimal
    equity: Decimal
    profit: Decimal
    realised: Decimal
    unrealised: Decimal
    fees: Decimal
    return_percent: Decimal
    max_drawdown_percent: Decimal | None
    """None: its equity was never recorded."""
    trades: int
    win_percent: Decimal | None
    """None: nothing was sold yet."""


GapPolicy = Literal["none", "no_trades", "any"]
"""Across which missing candles a strategy decides: none at all; those of which the venue's trades, or a person, say
that nobody traded; any, whatever the reason."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Candles that are missing between two that are there: those that open in [start, end)."""

    start: datetime
    end: datetime
    missing: int
    verdict: Literal["no_trades", "outage"] | None
    """None: nobody knows yet."""

    def __str__(self) -> str:
        why = {"no_trades": "nobody traded", "outage": "the venue has lost them", None: "nobody knows yet why"}
        many = f"{self.missing} candles are" if self.missing != 1 else "1 candle is"
        return f"{many} missing from {self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M}: {why[self.verdict]}"


def accepts(policy: GapPolicy, gap: Gap) -> bool:
    """Whether a strategy of this policy decides across this gap."""
    return policy == "any" or (policy == "no_trades" and gap.verdict == "no_trades")


@dataclass(frozen=True, slots=True)
class Context:
    """All that a strategy sees beside candles."""

    allowance: Decimal
    """Quote that it may still spend."""
    position: Position
    performance: Performance
    gaps: tuple[Gap, ...] = ()
    """What is missing among the candles of its warm-up, oldest first; all of it is what its `gaps` accepts."""


class Strategy(ABC, Generic[P]):
    """A strategy: `class Mine(Strategy[MyParams])`, or `class Mine(Strategy)` if nothing can be set.

    One object serves live (the last row of its signal) and in a backtest (all rows), so a signal may depend on nothing
    but the candles up to its own row, and on the parameters.
    """

    params_model: ClassVar[type[Params]] = Params
    gaps: ClassVar[GapPolicy] = "no_trades"
    """Which gaps within the candles of its warm-up it decides across."""
    params: P

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            arguments = get_args(base) if get_origin(base) is Strategy else ()
            if arguments and isinstance(arguments[0], type):
                cls.params_model = arguments[0]

    def __init__(self, params: P | None = None) -> None:
        self.params = params if params is not None else self.params_model()  # type: ignore[assignment]

    @property
    @abstractmethod
    def warm_up(self) -> int:
        """How many candles the first meaningful value of the signal needs, its own candle included: at least 1."""

    @abstractmethod
    def signal(self, candles: "DataFrame") -> "Series":
        """The target exposure at the close of each candle, from -1 (short) over 0 (out) to 1 (in).

        `candles` has float columns open, high, low, close, volume and a UTC index, the times of close, oldest first.
        The result has the same index. Values before the warm-up do not count: the kit makes them 0.
        """

    def adjust(self, target: float, context: Context) -> float:
        """The last word on the newest target, for a strategy that looks at its money. As it is, unless overridden."""
        return target


# Finding a class


def load(path: str, params: Mapping[str, Any] | None = None) -> Strategy[Any]:
    """The strategy that `module:Class` names, with `params` over its defaults.

    Raises InputError: no such module or class, a module that cannot be imported, an unknown parameter or a value out of
    bounds. The message lists what there is. What the class's own constructor raises is passed on.
    """
    found = find_class(path)
    return found(parse_params(found, params or {}))


def find_class(path: str) -> type[Strategy[Any]]:
    """The class that `module:Class` names; InputError, which lists what there is, if there is none."""
    module_name, colon, class_name = path.partition(":")
    if not colon or not module_name or not class_name:
        raise InputError(f'strategy class "{path}": write module:Class, such as strategies.sma_cross:SmaCross')
    module = _import(path, module_name)
    found = getattr(module, class_name, None)
    if not _is_strategy(found):
        what = "no class" if found is None else "no strategy, but something else,"
        known = ", ".join(sorted(_strategies_of(module))) or "no strategy at all"
        raise InputError(f'strategy class "{path}": there is {what} "{class_name}" in {module_name}; it has {known}')
    return found


def _import(path: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise InputError(f'strategy class "{path}": {name} cannot be imported: {describe(error)}') from error
        raise InputError(f'strategy class "{path}": there is no module "{error.name}"; {_remedy(error.name)}') from None
    except (Exception, SystemExit) as error:
        raise InputError(f'strategy class "{path}": {name} cannot be imported: {describe(error)}') from error


def _remedy(name: str) -> str:
    """What the package of a missing module does have, or where a module must be to be found."""
    parent = sys.modules.get(name.rpartition(".")[0])
    names = sorted(module.name for module in pkgutil.iter_modules(getattr(parent, "__path__", [])))
    if parent and names:
        return f"{parent.__name__} has {', '.join(names)}"
    return (
        f"a file in the checkout's strategies/ is named as strategies.{name}:Class, one elsewhere needs its directory "
        "on PYTHONPATH, in the environment of this command and of the workers"
    )


def _is_strategy(candidate: object) -> TypeGuard[type[Strategy[Any]]]:
    return isinstance(candidate, type) and issubclass(candidate, Strategy) and not inspect.isabstract(candidate)


def _strategies_of(module: ModuleType) -> list[str]:
    return [name for name, found in vars(module).items() if _is_strategy(found) and found.__module__ == module.__name__]


def parse_params(strategy: type[Strategy[Any]], params: Mapping[str, Any]) -> Params:
    """`params` as the class declares them; InputError names each wrong one, its value and what is allowed."""
    try:
        return strategy.params_model.model_validate_json(json.dumps(dict(params)), strict=True)
    except TypeError as error:
        raise InputError(f"{strategy.__name__}: its parameters must be plain JSON values: {error}") from None
    except ValidationError as error:
        problems = "; ".join(_problem(strategy, problem) for problem in error.errors(include_url=False))
        raise InputError(f"{strategy.__name__}: {problems}") from None


def _problem(strategy: type[Strategy[Any]], problem: Any) -> str:
    """One sentence for one error of pydantic."""
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f'unknown parameter "{name}": there is {", ".join(describe_params(strategy)) or "none"}'
    if problem["type"] == "value_error":
        text = str(problem["ctx"]["error"])
        return f"parameter {name}: {text}" if name else text
    allowed = describe_params(strategy).get(str(problem["loc"][0]) if problem["loc"] else "", "")
    return f"parameter {name} is {problem['input']!r}: {allowed or problem['msg']}"


def describe_params(strategy: type[Strategy[Any]]) -> dict[str, str]:
    """What each parameter may be, in words: `{"fast": "a whole number, at least 1, at most 5000"}`."""
    schema = strategy.params_model.model_json_schema()
    return {name: _allowed(field) for name, field in schema.get("properties", {}).items()}


_KINDS = {"integer": "a whole number", "number": "a number", "string": "a text", "boolean": "true or false"}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def _allowed(field: Mapping[str, Any]) -> str:
    if "enum" in field:
        return f"one of {', '.join(str(value) for value in field['enum'])}"
    bounds = [f"{word} {field[key]}" for key, word in _BOUNDS.items() if key in field]
    kind = _KINDS.get(str(field.get("type")))
    return ", ".join([kind, *bounds]) if kind else ""


# Running one


def evaluate(strategy: Strategy[Any], candles: "DataFrame") -> "Series":
    """The signal of `strategy` over `candles`, checked, as floats, with 0 before the warm-up.

    Raises SignalError if it is none. What the strategy itself raises is passed on.
    """
    import pandas as pd

    warm_up = needed(strategy)
    given = strategy.signal(candles.copy(deep=False))
    if not isinstance(given, pd.Series):
        raise SignalError(f"signal gave {type(given).__name__}, not a pandas Series")
    if len(given) != len(candles):
        raise SignalError(f"signal has {len(given)} values for {len(candles)} candles")
    if not given.index.equals(candles.index):
        raise SignalError("signal has another index than its candles")
    if not (pd.api.types.is_numeric_dtype(given) or pd.api.types.is_bool_dtype(given)):
        raise SignalError(f"signal holds {given.dtype}, not numbers")
    checked = given.astype("float64").copy()
    checked.iloc[: warm_up - 1] = 0.0
    wrong = checked[~checked.between(-1.0, 1.0)]  # NaN is between nothing
    if len(wrong):
        raise SignalError(f"signal at {wrong.index[0]:%Y-%m-%d %H:%M:%S} is {wrong.iloc[0]}: from -1 to 1 is allowed")
    return checked


def needed(strategy: Strategy[Any]) -> int:
    """Its warm-up; SignalError if that is no number of candles."""
    warm_up = strategy.warm_up
    if isinstance(warm_up, bool) or not isinstance(warm_up, int) or not 1 <= warm_up <= MOST_CANDLES:
        raise SignalError(f"warm_up is {warm_up!r}: a whole number from 1 to {MOST_CANDLES} is needed")
    return warm_up


def gap_policy(strategy: Strategy[Any]) -> GapPolicy:
    """What it declares about gaps; SignalError if that is none of the three."""
    if strategy.gaps not in get_args(GapPolicy):
        raise SignalError(f"gaps is {strategy.gaps!r}: allowed are {', '.join(get_args(GapPolicy))}")
    return strategy.gaps


def adjusted(strategy: Strategy[Any], target: float, context: Context) -> float:
    """What `strategy.adjust` makes of a target, checked; SignalError if it is no target."""
    given = float(strategy.adjust(target, context))
    if not -1.0 <= given <= 1.0:
        raise SignalError(f"adjust gave {given}: from -1 to 1 is allowed")
    return given


def describe(error: BaseException, module: str | None = None) -> str:
    """Type, message and file:line of an error, for people.

    The line is the innermost one in `module` (where it called a library that raised), else the innermost one.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = getattr(sys.modules.get(module or ""), "__file__", None)
    frame = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1] if frames else None)
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename}:{error.lineno})"
    else:
        where = f" ({frame.filename}:{frame.lineno})" if frame else ""
    return f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}{where}"


# Deciding


@dataclass(frozen=True, slots=True)
class Targets:
    """What a strategy wants at the newest candle, and what it wanted one candle before."""

    now: float
    previous: float | None
    """None: unknown, because the candle before is missing or still belongs to the warm-up."""
    price: Decimal
    """The close of the newest candle, in quote."""


@dataclass(frozen=True, slots=True)
class Stake:
    """What an entry spends: an amount of quote, or a share of the free allowance in percent."""

    amount: Decimal
    in_percent: bool


@dataclass(frozen=True, slots=True)
class Minimums:
    """What the venue trades at least. None: it states no such rule."""

    quantity_min: Decimal | None = None
    quantity_step: Decimal | None = None
    cost_min: Decimal | None = None

    def sellable(self, quantity: Decimal, price: Decimal) -> bool:
        """Whether so much base can be sold at all; less is dust."""
        rounded = floor_to(quantity, self.quantity_step)
        return rounded > 0 and rounded >= (self.quantity_min or 0) and rounded * price >= (self.cost_min or 0)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do at a candle. An order is a market order without quantities: the trader sizes it.

    A buy spends the stake, a sell sells all that the strategy holds.
    """

    order: Side | None
    reason: str


def decide(
    targets: Targets, holding: Decimal, free: Decimal, open_orders: int, stake: Stake, minimums: Minimums
) -> Decision:
    """Turn targets into an order or none, with the reason.

    `holding` is base, `free` the quote that may be spent. A spot market cannot be short: a target of 0 or less means
    out. Above 0 means in; how much is the stake's matter. An entry needs a fresh cross: the target rises above 0 at
    this very candle. A strategy that is simply long when it starts, or after a gap, waits for the next one.
    """
    if open_orders:
        return Decision(None, f"{open_orders} order{'s' * (open_orders > 1)} of it still open")
    held = minimums.sellable(holding, targets.price)
    if targets.now <= 0:
        if held:
            return Decision("sell", f"target {targets.now:g}: sell all of {plain(holding)}")
        return Decision(None, f"target {targets.now:g}: {'only dust' if holding > 0 else 'nothing'} is held")
    if held:
        return Decision(None, f"target {targets.now:g}: in already, with {plain(holding)}")
    if targets.previous is None:
        return Decision(None, f"target {targets.now:g}, but the one before is unknown: waits for a fresh cross")
    if targets.previous > 0:
        return Decision(None, f"target {targets.now:g} as before: waits for a fresh cross")
    return _enter(targets, free, stake, minimums)


def _enter(targets: Targets, free: Decimal, stake: Stake, minimums: Minimums) -> Decision:
    spend = free * stake.amount / 100 if stake.in_percent else stake.amount
    if free <= 0 or spend <= 0:
        return Decision(None, f"fresh cross, but the allowance is used up: {plain(free)} free")
    if spend > free:
        return Decision(None, f"fresh cross, but a stake of {plain(spend)} exceeds the allowance of {plain(free)}")
    if spend < (minimums.cost_min or 0):
        return Decision(
            None, f"fresh cross, but a stake of {plain(spend)} is below the minimum of {plain(minimums.cost_min)}"
        )
    return Decision("buy", f"fresh cross to {targets.now:g}: buy for {plain(spend)}")
