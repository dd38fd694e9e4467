"""`tallydesk feed watch`: feeds as they fill."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from trader.cli._session import session
from trader.cli.feed import short

if TYPE_CHECKING:
    from trader.db import Connection

PAUSE = 1.0
"""Seconds between two looks."""

WINDOW = 60.0
"""Seconds that the estimate of what is left looks back on."""

LOOK = """
SELECT f.market, f.timeframe, f.status, f.progress::float8 AS progress, f.newest, f.lag, f.last_error
  FROM feeds f JOIN timeframe t ON t.name = f.timeframe WHERE f.enabled
 ORDER BY f.status = 'full', f.market, t.id
"""


@dataclass
class Pace:
    """How fast each feed went lately, which tells how long it will still take."""

    seen: dict[str, deque[tuple[float, float]]] = field(default_factory=dict)

    def left(self, name: str, progress: float, now: float) -> timedelta | None:
        """How long `name` needs from `progress` percent at `now` (in seconds); None: nothing to tell it by yet."""
        past = self.seen.setdefault(name, deque())
        past.append((now, progress))
        while len(past) > 2 and now - past[1][0] >= WINDOW:
            past.popleft()
        then, before = past[0]
        if progress >= 100 or progress <= before or now <= then:
            return None
        return timedelta(seconds=(100 - progress) * (now - then) / (progress - before))


async def watch_feeds(glob: str, *, once: bool) -> None:
    """Show the feeds that are on, again and again; lines instead of bars where nobody sees bars."""
    console = Console()
    pace = Pace()
    async with session() as (_, connection):
        rows = await _look(connection, glob)
        if once or not console.is_terminal:
            await _lines(connection, glob, rows, pace, once=once)
            return
        with Live(_screen(rows, pace, console), console=console, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(PAUSE)
                live.update(_screen(await _look(connection, glob), pace, console), refresh=True)


async def _look(connection: "Connection", glob: str) -> list[Any]:
    from trader.db import fetch_all

    return [row for row in await fetch_all(connection, LOOK) if fnmatchcase(row.market, glob)]


async def _lines(connection: "Connection", glob: str, rows: list[Any], pace: Pace, *, once: bool) -> None:
    """A line for each feed, and then for each that has come a percent further, or has another status."""
    if not rows:
        print("no feed is on", flush=True)
    shown: dict[str, tuple[str, int]] = {}
    while True:
        for row in rows:
            name = f"{row.market} {row.timeframe}"
            left = pace.left(name, row.progress, time.monotonic())
            if shown.get(name) != (state := (row.status, int(row.progress))):
                shown[name] = state
                print(" ".join([name, *_words(row, left)]), flush=True)
        if once:
            return
        await asyncio.sleep(PAUSE)
        rows = await _look(connection, glob)


def _words(row: Any, left: timedelta | None) -> list[str]:
    """What is to be said of a feed beside its bar."""
    words = [row.status, f"{row.progress:.1f} %"]
    if left is not None:
        words.append(f"{short(left)} left")
    if row.lag is not None and row.status == "full":
        words.append(f"lag {short(row.lag)}")
    if row.last_error:
        words.append(row.last_error.splitlines()[0][:100])
    return words


def _screen(rows: list[Any], pace: Pace, console: Console) -> Any:
    """A bar for each feed, as many as there is room for: those that fill come first."""
    room = max(1, console.height - 3)
    grid = Table.grid(padding=(0, 2))
    for place, row in enumerate(rows):
        name = f"{row.market} {row.timeframe}"
        left = pace.left(name, row.progress, time.monotonic())
        if place < room:
            bar = ProgressBar(total=100, completed=row.progress, width=30)
            grid.add_row(escape(name), bar, escape(", ".join(_words(row, left))))
    full = sum(row.status == "full" for row in rows)
    more = f", {len(rows) - room} not shown" if len(rows) > room else ""
    return Group(grid, f"{full} of {len(rows)} feeds are full{more}; Ctrl-C ends this, nothing else")
