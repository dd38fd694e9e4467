"""Time: the one seam through which the rest of the code learns what time it is."""

from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Clock(Protocol):
    """A source of wall time. Tests pass their own."""

    def now(self) -> datetime:
        """The present moment, aware, in UTC."""


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)


def from_milliseconds(value: int) -> datetime:
    """The moment `value` milliseconds after the Unix epoch, exact, in UTC."""
    return _EPOCH + timedelta(milliseconds=value)


def to_milliseconds(moment: datetime) -> int:
    """Whole milliseconds since the Unix epoch; `moment` must be aware (ValueError if naive)."""
    if moment.tzinfo is None:
        raise ValueError(f"a time zone is needed: {moment!r}")
    return (moment - _EPOCH) // _MILLISECOND
