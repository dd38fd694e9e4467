"""The state of a strategy of the second style: JSON values, which a database keeps from candle to candle."""

import json
import math
from typing import Any

from trader.strategy.error import SignalError

LONGEST = 100_000
"""Characters of JSON that a state may have."""


def dump_state(state: object) -> str:
    """A state as JSON. SignalError: it is none, names what cannot be kept, or it is too long."""
    if not isinstance(state, dict):
        raise SignalError(f"context.state is {type(state).__name__}: a dict is needed")
    problem = _problem("context.state", state)
    if problem:
        raise SignalError(problem)
    text = json.dumps(state, allow_nan=False)
    if len(text) > LONGEST:
        raise SignalError(f"context.state has {len(text)} characters as JSON: at most {LONGEST} are allowed")
    return text


def _problem(where: str, value: Any) -> str | None:
    """What of a value a database would not give back as it was; None: nothing."""
    if isinstance(value, dict):
        wrong = next((key for key in value if type(key) is not str), None)
        if wrong is not None:
            return f"{where} has the key {wrong!r}: keys are texts"
        return next(filter(None, (_problem(f'{where}["{key}"]', part) for key, part in value.items())), None)
    if type(value) is list:
        return next(filter(None, (_problem(f"{where}[{place}]", part) for place, part in enumerate(value))), None)
    if value is None or type(value) in (bool, int) or (type(value) is str and "\x00" not in value):
        return None
    if isinstance(value, float):  # numpy's, too
        return None if math.isfinite(value) else f"{where} is {value}: a finite number is needed"
    return f"{where} is {type(value).__name__}: only None, numbers, texts, lists and dicts are kept"
