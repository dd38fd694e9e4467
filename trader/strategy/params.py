"""What can be set of a strategy: typed fields with defaults, bounds and the ranges that a search goes through."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from trader.errors import InputError

if TYPE_CHECKING:
    from trader.strategy.kit import Strategy


class Params(BaseModel):
    """What can be set of a strategy: fields with types, defaults and bounds.

    Values are checked as they are written, and defaults as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


SEARCH = "search"
"""Under this name a field's schema has the range that a search goes through."""


@dataclass(frozen=True, slots=True)
class Range:
    """What a search tries of one parameter: numbers from `low` to `high`, both included, or `choices`."""

    kind: Literal["int", "float", "choice"]
    low: float = 0
    high: float = 0
    step: float | None = None
    """None: whole numbers go by 1, others have no steps."""
    log: bool = False
    """Whether what counts is how many times larger a value is, not by how much."""
    choices: tuple[Any, ...] = ()


def param(
    default: Any,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    search: Sequence[Any] | None = None,
    log: bool = False,
    description: str | None = None,
) -> Any:
    """A field of Params: its default, its bounds, and what a search tries of it.

    `search` is (low, high) or (low, high, step) of a number, and the values to try of anything else. `log` searches by
    factors. Without `search` the parameter stays as it is given. `search_space` checks all of it.
    """
    bounds: dict[str, Any] = {
        name: value for name, value in (("ge", ge), ("gt", gt), ("le", le), ("lt", lt)) if value is not None
    }
    extra: Any = None if search is None else {SEARCH: {"range": list(search), "log": log}}
    return Field(default, description=description, json_schema_extra=extra, **bounds)


def search_space(strategy: "type[Strategy[Any]]") -> dict[str, Range]:
    """What a search tries, by the names of the parameters. InputError: a range that is none, or out of bounds."""
    space = {}
    for name, field in strategy.params_model.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and SEARCH in extra:
            try:
                space[name] = _range(field, extra[SEARCH])
            except ValueError as error:
                raise InputError(f"{strategy.__name__}: parameter {name}: search {error}") from None
    return space


def _range(field: FieldInfo, declared: Any) -> Range:
    """One parameter's range; ValueError says what is wrong with it."""
    values = declared["range"] if isinstance(declared, dict) else declared
    log = bool(declared.get("log")) if isinstance(declared, dict) else False
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"is {values!r}: (low, high) or (low, high, step), or a list of values, is needed")
    if field.annotation not in (int, float):
        return Range("choice", choices=tuple(_allowed_by(field, value) for value in values))
    if len(values) not in (2, 3):
        raise ValueError(f"is {tuple(values)}: (low, high) or (low, high, step) is needed")
    low, high = (_allowed_by(field, value) for value in values[:2])
    step = values[2] if len(values) == 3 else None
    if low >= high:
        raise ValueError(f"goes from {low} to {high}: the first must be the smaller")
    if step is not None and not (0 < step <= high - low and (field.annotation is float or step == int(step))):
        raise ValueError(f"has a step of {step}: above 0, at most {high - low}, and whole for whole numbers")
    if log and (low <= 0 or step is not None):
        raise ValueError("by factors (log) needs a low above 0, and no step")
    return Range("int" if field.annotation is int else "float", low, high, step, log)


def _allowed_by(field: FieldInfo, value: Any) -> Any:
    """A value that the field itself would take."""
    annotation: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    try:
        return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False)).validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(f"has {value!r}: {error.errors()[0]['msg']}") from None


def parse_params(strategy: "type[Strategy[Any]]", params: Mapping[str, Any]) -> Params:
    """`params` as the class declares them; InputError names each wrong one, its value and what is allowed."""
    try:
        return strategy.params_model.model_validate_json(json.dumps(dict(params)), strict=True)
    except TypeError as error:
        raise InputError(f"{strategy.__name__}: its parameters must be plain JSON values: {error}") from None
    except ValidationError as error:
        problems = "; ".join(_problem(strategy, problem) for problem in error.errors(include_url=False))
        raise InputError(f"{strategy.__name__}: {problems}") from None


def _problem(strategy: "type[Strategy[Any]]", problem: Any) -> str:
    """One sentence for one error of pydantic."""
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f'unknown parameter "{name}": there is {", ".join(describe_params(strategy)) or "none"}'
    if problem["type"] == "value_error":
        text = str(problem["ctx"]["error"])
        return f"parameter {name}: {text}" if name else text
    allowed = describe_params(strategy).get(str(problem["loc"][0]) if problem["loc"] else "", "")
    return f"parameter {name} is {problem['input']!r}: {allowed or problem['msg']}"


def describe_params(strategy: "type[Strategy[Any]]") -> dict[str, str]:
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
