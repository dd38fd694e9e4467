"""A view: some of the candles of a check, its own and those of each input, as one run sees them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

BESIDE = 64
"""How many candles of another future, or of another past, are put beside a window."""
How = Literal["shuffled", "doubled", "halved"]
ALTERED: tuple[How, ...] = ("shuffled", "doubled", "halved")


@dataclass(frozen=True)
class View:
    """Candles by the name of their input; those of the strategy itself have none."""

    frames: Mapping[str | None, "DataFrame"]

    @property
    def candles(self) -> "DataFrame":
        """Those that are decided on."""
        return self.frames[None]

    @property
    def inputs(self) -> dict[str, "DataFrame"]:
        """Those of the inputs."""
        return {name: frame for name, frame in self.frames.items() if name is not None}

    def __len__(self) -> int:
        return len(self.candles)

    def until(self, bar: int) -> "View":
        """What had closed when a bar closed."""
        return self._cut(bar, after=False)

    def after(self, bar: int) -> "View":
        """The rest."""
        return self._cut(bar, after=True)

    def _cut(self, bar: int, *, after: bool) -> "View":
        close = self.candles.index[bar]
        parts = {}
        for name, frame in self.frames.items():
            end = bar + 1 if name is None else int(frame.index.searchsorted(close, side="right"))
            parts[name] = frame.iloc[end:] if after else frame.iloc[:end]
        return View(parts)

    def last(self, lengths: Mapping[str | None, int]) -> "View":
        """So many of the newest of each; all of one that is not named."""
        return View({n: f.iloc[max(0, len(f) - lengths[n]) :] if n in lengths else f for n, f in self.frames.items()})

    def before(self, view: "View", most: int = BESIDE) -> "View":
        """Of each, at most so many that lie before the first of `view`."""
        parts = {}
        for name, frame in self.frames.items():
            there = view.frames[name]
            end = int(frame.index.searchsorted(there.index[0])) if len(there) else len(frame)
            parts[name] = frame.iloc[max(0, end - most) : end]
        return View(parts)

    def first(self, candles: int) -> "View":
        """The oldest so many of its own candles, and of the inputs what had closed with them."""
        return self if len(self) <= candles else self.until(candles - 1)

    def then(self, later: "View") -> "View":
        """Both, one after the other."""
        import pandas as pd  # slow to import

        return View({name: pd.concat([frame, later.frames[name]]) for name, frame in self.frames.items()})

    def altered(self, how: How, rng: np.random.Generator, only: "tuple[str | None, ...] | None" = None) -> "View":
        """Other candles at the same times; with `only`, of these frames alone."""
        chosen = self.frames if only is None else only
        return replace(self, frames={n: _other(f, how, rng) if n in chosen else f for n, f in self.frames.items()})


def view_of(candles: "DataFrame", inputs: Mapping[str, "DataFrame"]) -> View:
    """All candles that are given."""
    frames: dict[str | None, DataFrame] = {None: candles}
    return View(frames | dict(inputs.items()))


def _other(frame: "DataFrame", how: How, rng: np.random.Generator) -> "DataFrame":
    if how == "shuffled":
        return frame.iloc[rng.permutation(len(frame))].set_axis(frame.index)
    return frame * (2.0 if how == "doubled" else 0.5)
