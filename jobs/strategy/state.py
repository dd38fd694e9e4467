"""What a strategy of the second style remembers from candle to candle."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jobs.strategy.candles import Window
from trader.db import Connection

READ = "SELECT bucket_time, target, state FROM strategy_state WHERE strategy_id = %(id)s AND class = %(path)s"
WRITE = """
INSERT INTO strategy_state (strategy_id, class, bucket_time, target, state)
VALUES (%(id)s, %(path)s, %(newest)s, %(target)s, %(state)s::json)
ON CONFLICT (strategy_id) DO UPDATE SET class = EXCLUDED.class, bucket_time = EXCLUDED.bucket_time,
  target = EXCLUDED.target, state = EXCLUDED.state
"""


@dataclass(frozen=True, slots=True)
class Memory:
    """What it left at its last candle."""

    bucket_time: datetime | None = None
    target: float | None = None
    state: dict[str, Any] = field(default_factory=dict)

    def previous(self, window: Window) -> float | None:
        """Its last target, if that was given at the scheduled candle right before: else no cross is fresh."""
        if self.bucket_time is None or self.target is None:
            return None
        index = window.own.candles.index
        position = int(index.searchsorted(self.bucket_time))
        newest = len(index) - 1
        if position > newest or index[position] != self.bucket_time or window.holes.between(position, newest):
            return None
        return self.target if sum(at > position for at in window.decided) == 1 else None


async def recall(connection: Connection, row: Any) -> Memory:
    """What it remembers; nothing, if it is another class now."""
    found = await (await connection.execute(READ, {"id": row.id, "path": row.path})).fetchone()
    return Memory() if found is None else Memory(found.bucket_time, found.target, found.state)


async def remember(connection: Connection, row: Any, target: float | None, state: str) -> None:
    """Keep what it left at the newest candle. `state` is JSON."""
    values = {"id": row.id, "path": row.path, "newest": row.newest, "target": target, "state": state}
    await connection.execute(WRITE, values)
