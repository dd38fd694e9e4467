"""Candles that are missing, and across which of them a strategy decides: the same live and in a backtest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from trader.clock import to_milliseconds

GapPolicy = Literal["none", "no_trades", "any"]
"""Across which missing candles a strategy decides: none at all; those of which the venue's trades, or a person, say
that nobody traded; any, whatever the reason."""
Verdict = Literal["no_trades", "outage"]
Places = NDArray[np.int64]


def nowhere() -> Places:
    """No place at all."""
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Gap:
    """Candles that are missing between two that are there: those that open in [start, end)."""

    start: datetime
    end: datetime
    missing: int
    verdict: Verdict | None
    """None: nobody knows yet."""
    partial: bool = False
    """Smaller ones are missing, within the candle that closes at `end`."""

    def is_since(self, close: datetime) -> bool:
        """Whether it comes after the candle that closed then, or hides in it."""
        return (self.end if self.partial else self.start) >= close

    def __str__(self) -> str:
        why = {"no_trades": "nobody traded", "outage": "the venue has lost them", None: "nobody knows yet why"}
        many = f"{self.missing} candles are" if self.missing != 1 else "1 candle is"
        return f"{many} missing from {self.start:%Y-%m-%d %H:%M} to {self.end:%Y-%m-%d %H:%M}: {why[self.verdict]}"


def accepts(policy: GapPolicy, verdict: Verdict | None) -> bool:
    """Whether a strategy of this policy decides across a gap of this verdict."""
    return policy == "any" or (policy == "no_trades" and verdict == "no_trades")


@dataclass(frozen=True)
class Missing:
    """What is known of the gaps of a series of candles. All times are milliseconds since the epoch, oldest first."""

    gaps: Mapping[Verdict | None, Places] = field(default_factory=dict)
    """By verdict, where each begins: when the candle before it closed."""
    partial: Places = field(default_factory=nowhere)
    """When candles close that lack smaller ones, in all of which nobody traded."""
    unseen: Places = field(default_factory=nowhere)
    """Where candles that are still to be fetched end: a live run sees none from before it beside one from after it."""

    def refused(self, policy: GapPolicy) -> "Missing":
        """What of it a strategy of this policy does not decide across."""
        gaps = {verdict: starts for verdict, starts in self.gaps.items() if not accepts(policy, verdict)}
        return Missing(gaps, nowhere() if accepts(policy, "no_trades") else self.partial, self.unseen)

    def told(self, closes: Places) -> bytes:
        """What of it lies among candles that close at `closes`, for a hash: empty if nothing does, so that candles
        without a gap have the hash that they had before gaps were in it.
        """
        named = [(str(verdict), times) for verdict, times in self.gaps.items()]
        parts = []
        for name, times in sorted([*named, ("partial", self.partial), ("unseen", self.unseen)]):
            here = times[(times >= closes[0]) & (times <= closes[-1])] if len(closes) else times[:0]
            if len(here):
                parts.append(name.encode() + np.sort(here).astype("<i8").tobytes())
        return b"".join(parts)


def missing_of(gaps: Iterable[Gap]) -> Missing:
    """Gaps that were read one by one, put together."""
    whole: dict[Verdict | None, list[int]] = {verdict: [] for verdict in (None, *get_args(Verdict))}
    partial = []
    for gap in gaps:
        if gap.partial:
            partial.append(to_milliseconds(gap.end))
        else:
            whole[gap.verdict].append(to_milliseconds(gap.start))
    return Missing({verdict: _sorted(starts) for verdict, starts in whole.items()}, _sorted(partial))


def _sorted(times: list[int]) -> Places:
    return np.array(sorted(times), dtype=np.int64)


@dataclass(frozen=True)
class Holes:
    """Gaps that a strategy does not decide across, as places among the candles that are there, oldest first."""

    before: Places
    """The last candle before each; of a partial candle, itself."""
    after: Places
    """The first candle after each; of a partial candle, itself."""
    walls: Places
    """The first candles after which nothing from before is seen; they are among `after`, too."""

    def __len__(self) -> int:
        return len(self.after)

    def within(self, first: int | Places, last: int | Places) -> NDArray[np.bool_]:
        """Whether one lies within the candles from `first` to `last`: the one before it and the one after it are there.

        With the warm-up of a decision, this is whether it is not made.
        """
        return np.asarray(
            np.searchsorted(self.after, last, "right") - np.searchsorted(self.before, first, "left") > 0, dtype=np.bool_
        )

    def between(self, one: int | Places, other: int | Places) -> NDArray[np.bool_]:
        """Whether candles are missing between two candles: then the first is not "the candle before" the other."""
        breaks = self.after[self.before < self.after]
        return np.asarray(
            np.searchsorted(breaks, other, "right") - np.searchsorted(breaks, one, "right") > 0, dtype=np.bool_
        )

    def hidden(self, first: int | Places, last: int | Places) -> NDArray[np.bool_]:
        """Whether a live run would not see all candles from `first` to `last`, because some were to be fetched."""
        return np.asarray(
            np.searchsorted(self.walls, last, "right") - np.searchsorted(self.walls, first, "right") > 0, dtype=np.bool_
        )


def holes_of(closes: Places, missing: Missing, policy: GapPolicy) -> Holes:
    """Where, among candles that close at `closes`, something is missing that a strategy does not decide across."""
    refused = missing.refused(policy)
    walls = np.searchsorted(closes, refused.unseen, "right").astype(np.int64)
    starts = [np.searchsorted(closes, one, "right") for one in refused.gaps.values()]
    after = np.unique(np.concatenate([walls, *starts]))
    partial = np.searchsorted(closes, refused.partial, "left")
    # By the candle after; a gap before that of a partial candle, so that `before` is in order as well.
    return Holes(
        np.sort(np.concatenate((after - 1, partial))).astype(np.int64),
        np.sort(np.concatenate((after, partial))).astype(np.int64),
        walls,
    )
