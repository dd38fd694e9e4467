"""Candles that are missing, and across which of them a strategy decides."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

GapPolicy = Literal["none", "no_trades", "any"]
"""Across which missing candles a strategy decides: none at all; those of which the venue's trades, or a person, say
that nobody traded; any, whatever the reason."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Candles that are missing between two that are there: those that open in [start, end)."""

    start: datetime
    end: datetime
    missing: int
    verdict: Literal["no_trades", "outage"] | None
    """None: nobody knows yet."""

    def __str__(self) -> str:
        why = {"no_trades": "nobody traded", "outage": "the venue has lost them", None: "nobody knows yet why"}
        many = f"{self.missing} candles are" if self.missing != 1 else "1 candle is"
        return f"{many} missing from {self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M}: {why[self.verdict]}"


def accepts(policy: GapPolicy, gap: Gap) -> bool:
    """Whether a strategy of this policy decides across this gap."""
    return policy == "any" or (policy == "no_trades" and gap.verdict == "no_trades")
