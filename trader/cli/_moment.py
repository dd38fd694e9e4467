"""Moments as people type them."""

from datetime import UTC, datetime

from trader.errors import InputError


def moment(option: str, text: str) -> datetime:
    """The moment that an option names, UTC unless it says a zone. InputError if it is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{option} is {text!r}: write 2024-01-01 or 2024-01-01T12:00") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
