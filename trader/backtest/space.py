"""What a search goes through: the values of each parameter, as people write them and as samplers need them."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

from trader.errors import InputError
from trader.strategy import Range

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = int | float | str | bool
Point = dict[str, Value]
"""A value for each parameter that is searched."""

HOW = "write name=low..high:step (fast=2..50:2), name=low..high, or values with commas (price=close,ohlc4)"
MOST_VALUES = 100_000
"""Of one parameter."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?::(?P<step>{_NUMBER}))?(?P<log>:log)?")


@dataclass(frozen=True)
class Dimension:
    """A parameter and what it may be. Make one with `parse_dimension`."""

    name: str
    text: str
    """As a person writes it, after the name."""
    values: tuple[Value, ...] = ()
    """All of them; none: any number from low to high."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Whether a share counts, not a difference: from 1 to 10 is as far as from 10 to 100."""
    whole: bool = False

    def at(self, share: float) -> Value:
        """The value at a share of the way, from 0 to below 1."""
        if self.values and not self.log:
            return self.values[int(share * len(self.values))]
        if self.log:
            found = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
            return min(int(self.high), max(int(self.low), round(found))) if self.whole else found
        return self.low + share * (self.high - self.low)

    def distribution(self) -> "BaseDistribution":
        """The same for Optuna. Of listed numbers, their place in the list: steps of a float would add up to noise."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.log and self.whole:
            return IntDistribution(int(self.low), int(self.high), log=True)
        if not self.values:
            return FloatDistribution(self.low, self.high, log=self.log)
        if self.ordered:
            return IntDistribution(0, len(self.values) - 1)
        return CategoricalDistribution(self.values)

    @property
    def ordered(self) -> bool:
        """Whether its values are numbers, the smaller before the larger."""
        numbers = [value for value in self.values if isinstance(value, int | float) and not isinstance(value, bool)]
        return len(numbers) == len(self.values) and numbers == sorted(numbers)

    def encode(self, value: Value) -> Value:
        """What its distribution calls a value."""
        return self.values.index(value) if self._by_place else value

    def decode(self, proposed: Value) -> Value:
        """The value that its distribution means."""
        return self.values[int(proposed)] if self._by_place else proposed

    @property
    def _by_place(self) -> bool:
        return bool(self.values) and self.ordered and not self.log


def parse_space(texts: Mapping[str, str]) -> tuple[Dimension, ...]:
    """The dimensions that texts such as {"fast": "2..50:2"} mean. InputError names the one that means nothing."""
    return tuple(parse_dimension(name, text) for name, text in texts.items())


def parse_dimension(name: str, text: str) -> Dimension:
    """What `text` says of a parameter; InputError if it says nothing."""
    found = _RANGE.fullmatch(text.strip())
    if found:
        return _range(name, text.strip(), found)
    if ".." in text:
        raise InputError(f"{name}={text}: this is no range; {HOW}")
    values = tuple(_value(one.strip()) for one in text.split(","))
    if "" in values:
        raise InputError(f"{name}={text}: a value is empty; {HOW}")
    if len(set(map(_key, values))) < len(values):
        raise InputError(f"{name}={text}: a value is there twice")
    return Dimension(name, text, values)


def text_of(declared: Range) -> str:
    """A search range of a class, as a person would write it."""
    if declared.kind == "choice":
        return ",".join(
            one if isinstance(one, str) and _value(one) == one else json.dumps(one) for one in declared.choices
        )
    ends = [int(one) if declared.kind == "int" else one for one in (declared.low, declared.high)]
    step = "" if declared.step is None else f":{int(declared.step) if declared.kind == 'int' else declared.step}"
    return f"{ends[0]}..{ends[1]}{step}{':log' if declared.log else ''}"


def _range(name: str, text: str, found: re.Match[str]) -> Dimension:
    low, high = Decimal(found["low"]), Decimal(found["high"])
    whole = all(re.fullmatch(r"[+-]?\d+", found[part] or "1") for part in ("low", "high", "step"))
    step = Decimal(found["step"]) if found["step"] else Decimal(1) if whole else None
    log = bool(found["log"])
    if low >= high:
        raise InputError(f"{name}={text}: {low} is not below {high}")
    if step is not None and step <= 0:
        raise InputError(f"{name}={text}: the step is {step}: above 0 is allowed")
    if log and (low <= 0 or found["step"]):
        raise InputError(f"{name}={text}: a range with :log begins above 0 and has no step")
    if step is None or log:
        values: tuple[Value, ...] = tuple(range(int(low), int(high) + 1)) if whole and high - low < MOST_VALUES else ()
        return Dimension(name, text, values, float(low), float(high), log, whole)
    count = int((high - low) / step) + 1
    if count > MOST_VALUES:
        raise InputError(f"{name}={text}: {count} values; at most {MOST_VALUES} are allowed: make the step larger")
    steps = [low + number * step for number in range(count)]
    return Dimension(name, text, tuple(int(one) if whole else float(one) for one in steps), float(low), float(high))


def _value(text: str) -> Value:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, int | float | bool | str) else text


def _key(value: Value) -> str:
    return json.dumps(value)


def key(point: Mapping[str, Value]) -> str:
    """The same for equal points, another for any other."""
    return json.dumps(point, sort_keys=True)


def grid_size(space: Sequence[Dimension]) -> int:
    """How many points all values make. InputError if a dimension has no step."""
    for dimension in space:
        if not dimension.values:
            raise InputError(
                f"{dimension.name}={dimension.text}: a grid needs a step, as in {dimension.name}={dimension.text}:0.1"
            )
    return math.prod(len(dimension.values) for dimension in space)


def grid(space: Sequence[Dimension]) -> Any:
    """Every point, one after the other: the last parameter goes round fastest."""
    names = [dimension.name for dimension in space]
    return (dict(zip(names, values, strict=True)) for values in product(*(one.values for one in space)))


def draw(space: Sequence[Dimension], random: Random) -> Point:
    """A point by chance."""
    return {dimension.name: dimension.at(random.random()) for dimension in space}
