"""What a check found, and on how much that rests."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

AGAIN = "{what} was {first}, and became {second} when the same candles were given once more"
ENDED = "{what} was {first} while candles up to %s were there, and became {second} once later ones were"
ENDED_ALTERED = ENDED + " (%s)"
"""Of those, what was done with the later ones."""
WHOLE_ENDED = "{what} was {second} while candles up to %s were there, and became {first} once all were"
WHOLE_ALTERED = "{what} was {first} with all candles, and became {second} when those after %s were %s"
FEWER = "{what} was {first} with all candles and {second} %s"

Kind = Literal["future", "warm-up", "unsteady", "stopped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, at the earliest bar at which it was seen."""

    kind: Kind
    """future: what comes later changes it. warm-up: it needs more candles than it declares. unsteady: twice the same
    candles, two answers. stopped: it raised, or gave what is none, on a part of the candles."""
    time: datetime
    """When the bar closed, UTC."""
    index: int
    """The bar's place in the candles, from 0."""
    target: float | None
    """What it said first; None: no target, but see the text."""
    instead: float | None
    """What it said on the other candles; None: it stopped, or said no target."""
    text: str
    """What was compared, and by how much it differs."""
    input: str | None = None
    """Of which input the candles make the difference; None: its own do, or it is not one's alone."""

    def __str__(self) -> str:
        where = "" if self.input is None else f" (input {self.input})"
        return f"{self.kind} at {self.time:%Y-%m-%d %H:%M}{where}: {self.text}"


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found, and on how much that rests."""

    findings: tuple[Finding, ...]
    bars: int
    """Candles that were given."""
    changes: int
    """Bars at which the target changes, or an order is given or taken back. With none, nothing is proved."""
    tried: int
    """Bars at which it was computed again."""
    live: int
    """Of those, how many have more candles before them than a live run sees. Only there the past could be changed."""

    @property
    def proved(self) -> bool:
        """Whether nothing was found, and there was something to find it in."""
        return not self.findings and self.changes > 0 and self.live > 0

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings] or ["nothing found"]
        if any(finding.kind != "warm-up" for finding in self.findings):
            lines.append("the warm-up was not judged: mend this first")
        if not self.changes:
            lines.append("the target never changes on these candles, so nothing is proved")
        elif not self.live:
            lines.append("no bar has more candles before it than a live run sees, so the past could not be changed")
        lines.append(f"{self.tried:,} of {self.bars:,} bars tried; the target changes at {self.changes:,}")
        return "\n".join(lines)
