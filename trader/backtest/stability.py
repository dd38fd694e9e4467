"""How stable a parameter is: what the sets beside the best one made. A lone peak is chance, a plateau may be more."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trader.backtest.data import Floats
from trader.backtest.space import Value, key
from trader.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_TICKS = 40
"""Values of a parameter that are drawn one by one; more are put together in so many parts."""
LABELS = 12
"""Values that are written at an axis."""
Row = tuple[Mapping[str, Value], float | None]
"""A set, and its value."""


@dataclass(frozen=True)
class Axis:
    """A parameter: the values or parts that are drawn, and which one each set belongs to."""

    name: str
    labels: tuple[str, ...]
    places: NDArray[np.int64]
    at: Floats
    """Where each is on a scale."""
    parts: bool = False
    """Whether a label stands for all values around it: there are too many, or they are not evenly apart."""


@dataclass(frozen=True)
class Surface:
    """The median value of all sets at each place; NaN: none has a value there."""

    axes: tuple[Axis, ...]
    median: Floats
    low: Floats
    high: Floats
    best: tuple[int, ...]
    """Where the largest median is."""

    @property
    def neighbours(self) -> float | None:
        """The median of the places around the best one; None: nothing is there."""
        around = tuple(slice(max(0, place - 1), place + 2) for place in self.best)
        near = self.median[around].copy()
        near[tuple(place - part.start for place, part in zip(self.best, around, strict=True))] = np.nan
        known = near[~np.isnan(near)]
        return float(np.median(known)) if len(known) else None


def surface(rows: Sequence[Row], names: Sequence[str]) -> Surface:
    """What the sets made by one or two of their parameters. InputError: no such parameter, or no set has a value."""
    told = [(point, value) for point, value in rows if value is not None]
    if not told:
        raise InputError("there is nothing to draw: no trial has a value yet")
    unknown = [name for name in names if name not in told[0][0]]
    if unknown or not 1 <= len(names) <= 2 or len(set(names)) < len(names):
        raise InputError(
            f"parameters {', '.join(names) or 'none'}: name one or two of those that were searched: "
            f"{', '.join(told[0][0])}"
        )
    axes = tuple(_axis(name, [point[name] for point, _ in told], alone=len(names) == 1) for name in names)
    shape = tuple(len(axis.labels) for axis in axes)
    flat = np.ravel_multi_index(tuple(axis.places for axis in axes), shape)
    values = np.array([value for _, value in told])
    median, low, high = (np.full(math.prod(shape), np.nan) for _ in range(3))
    order = np.argsort(flat, kind="stable")
    cells, starts = np.unique(flat[order], return_index=True)
    for cell, part in zip(cells, np.split(values[order], starts[1:]), strict=True):
        median[cell], low[cell], high[cell] = np.median(part), part.min(), part.max()
    best = tuple(int(one) for one in np.unravel_index(int(np.nanargmax(median)), shape))
    return Surface(axes, median.reshape(shape), low.reshape(shape), high.reshape(shape), best)


def most_varied(rows: Sequence[Row]) -> list[str]:
    """The parameter or the two that took the most values, in the order in which they are searched."""
    names = list(rows[0][0]) if rows else []
    counts = {name: len({key({name: point[name]}) for point, _ in rows}) for name in names}
    chosen = sorted(names, key=lambda name: -counts[name])[:2]
    return [name for name in names if name in chosen and (counts[name] > 1 or len(chosen) == 1)] or names[:1]


def _axis(name: str, values: Sequence[Value], *, alone: bool) -> Axis:
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        known = list(dict.fromkeys(map(str, values)))
        places = np.array([known.index(str(value)) for value in values])
        return Axis(name, tuple(known), places, np.arange(len(known), dtype=np.float64))
    numbers = np.array(values, dtype=np.float64)
    levels = np.unique(numbers)
    steps = np.diff(levels)
    if len(levels) <= MOST_TICKS and (alone or len(levels) < 3 or np.allclose(steps, steps[0])):
        return Axis(name, tuple(f"{level:g}" for level in levels), np.searchsorted(levels, numbers), levels)
    count = int(np.clip(1.5 * math.sqrt(len(numbers)), 4, MOST_TICKS // 2))  # so that most parts hold a set
    edges = np.linspace(levels[0], levels[-1], count + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    places = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, count - 1)
    whole = bool((levels == np.round(levels)).all())
    labels = tuple(f"{middle:.0f}" if whole else f"{middle:.3g}" for middle in middles)
    return Axis(name, labels, places, middles, parts=True)


def plot(path: Path, found: Surface, objective: str, title: str) -> None:
    """Draw a PNG: a heat map of two parameters, a line with its spread of one. InputError: it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    (_draw_line if len(found.axes) == 1 else _draw_map)(figure, axes, found, objective)
    axes.set_title(f"{title}\n{said(found, objective)}", loc="left", fontsize=10)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def said(found: Surface, objective: str) -> str:
    """The best place and what is around it, in a sentence."""
    where = ", ".join(
        f"{axis.name} {'about ' * axis.parts}{axis.labels[place]}"
        for axis, place in zip(found.axes, found.best, strict=True)
    )
    near = found.neighbours
    beside = "nothing beside it" if near is None else f"{near:.3g} in the median of its neighbours"
    return f"best {objective}: {found.median[found.best]:.3g} at {where}; {beside}"


def _draw_map(figure: "Figure", axes: "Axes", found: Surface, objective: str) -> None:
    across, up = found.axes
    axes.set_facecolor("#e8e8e8")
    shown: Any = np.ma.masked_invalid(found.median.T)
    image = axes.imshow(shown, origin="lower", aspect="auto", cmap="viridis", interpolation="nearest")
    axes.plot(*found.best, marker="o", markersize=13, markerfacecolor="none", markeredgecolor="red", markeredgewidth=2)
    axes.set_xlabel(across.name)
    axes.set_xticks(*_ticks(across))
    axes.set_ylabel(up.name)
    axes.set_yticks(*_ticks(up))
    figure.colorbar(image, ax=axes, label=f"{objective} (median; grey: no set with a value)")


def _draw_line(figure: "Figure", axes: "Axes", found: Surface, objective: str) -> None:
    (across,) = found.axes
    there = ~np.isnan(found.median)
    at, best = across.at[there], across.at[found.best[0]]
    if (found.high[there] > found.low[there]).any():
        spread = (found.low[there], found.high[there])
        axes.fill_between(at, *spread, color="#9ecae1", alpha=0.6, linewidth=0, label="lowest to highest")
    axes.plot(at, found.median[there], color="#08519c", marker="o", markersize=4, label="median")
    axes.plot(best, found.median[found.best], marker="o", markersize=13, markerfacecolor="none",
              markeredgecolor="red", markeredgewidth=2, linestyle="none", label="best")  # fmt: skip
    axes.grid(visible=True, alpha=0.3)
    axes.set_ylabel(objective)
    axes.legend(loc="best", frameon=False)
    axes.set_xlabel(across.name)
    if across.at[0] == 0 and across.labels[0] != "0":  # words
        axes.set_xticks(across.at, across.labels)


def _ticks(axis: Axis) -> tuple[list[int], list[str]]:
    step = max(1, math.ceil(len(axis.labels) / LABELS))
    places = list(range(0, len(axis.labels), step))
    return places, [axis.labels[place] for place in places]
