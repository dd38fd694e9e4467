"""What was asked and what became of it: kept in memory, newest 200,000 requests, for tests and for people."""

from collections import deque
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

KEPT = 200_000


@dataclass(slots=True)
class Entry:
    """One request. `outcome`: accepted, refused, dropped (nothing done) or answer_lost (done, not answered)."""

    id: int
    time: int
    method: str
    path: str
    key: str | None = None
    client_order_id: str | None = None
    symbol: str | None = None
    outcome: str = "pending"
    status: int | None = None
    code: int | None = None
    fault: str | None = None
    acted: bool = False
    address: str | None = None
    weight: int = 0
    """What it cost of the minute's request weight."""


class RequestLog:
    """Entries by rising id; `pending` ones are still being served."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._last = 0

    def begin(self, time: int, method: str, path: str) -> Entry:
        self._last += 1
        entry = Entry(self._last, time, method, path)
        self._entries.append(entry)
        return entry

    def since(self, after: int, limit: int) -> list[dict[str, Any]]:
        """Entries with an id above `after`, oldest first."""
        return [asdict(entry) for entry in islice((e for e in self._entries if e.id > after), limit)]
