"""JSON objects, as people type them on the command line."""

import json
from typing import Any

from trader.errors import InputError


def parse_object(option: str, text: str) -> dict[str, Any]:
    """The JSON object that an option gives. InputError if it is none."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"{option} is {text!r}: no JSON ({error}); write it as '{{\"name\": 5}}'") from None
    except RecursionError:
        raise InputError(f"{option} has too many brackets in each other: parameters are plain values") from None
    if not _storable(text):
        raise InputError(f"{option} is {text!r}: \\u0000 and halves of characters can be in no row")
    if not isinstance(found, dict):
        raise InputError(f"{option} is {text!r}: a JSON object is needed, such as '{{\"name\": 5}}'")
    return found


def _storable(text: str) -> bool:
    """Whether PostgreSQL can keep what this JSON says."""
    said = json.dumps(json.loads(text), ensure_ascii=False)
    return "\\u0000" not in said and said.encode(errors="replace").decode() == said
