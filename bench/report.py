"""What a benchmark prints: ours, the floor, the ratio, the goal, and whether it is met."""

import os
import platform
from collections.abc import Sequence
from statistics import median

WIDTH = 50
HEADER = f"{'what':<{WIDTH}} {'ours':>12} {'floor':>12} {'ratio':>8}   goal"


def header(title: str, server: str) -> None:
    """Say what runs, and where: figures of another machine or another hour are not comparable, ratios are."""
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"{title}\n{server}; Python {platform.python_version()}; {os.cpu_count()} cores, load {load}\n{HEADER}")


def compare(
    what: str,
    ours: Sequence[float],
    floor: Sequence[float],
    *,
    least: float | None = None,
    most: float | None = None,
    unit: str = "",
) -> None:
    """One comparison of figures measured in turn: both medians, and the median of the rounds' ratios.

    `least` and `most` are goals for the ratio. Each round's own ratio follows, so that nobody has to trust a median.
    """
    ratios = [a / b for a, b in zip(ours, floor, strict=True)]
    ratio = median(ratios)
    met = (least is None or ratio >= least) and (most is None or ratio <= most)
    goal = f">= {least:g}" if least is not None else f"<= {most:g}" if most is not None else ""
    _line(what, median(ours), median(floor), ratio, unit, goal and f"{goal}: {'met' if met else 'NOT met'}")
    few = len(ratios) <= 10
    each = ", ".join(f"{one:.2f}" for one in ratios) if few else f"from {min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{'  ratio of each round':<{WIDTH}} {each}", flush=True)


def bound(what: str, ours: float, floor: float, unit: str, goal: float) -> None:
    """One comparison whose goal is an upper bound on ours itself; the floor is there to judge it by."""
    verdict = f"<= {_number(goal, unit)}: {'met' if ours <= goal else 'NOT met'}"
    _line(what, ours, floor, ours / floor, unit, verdict)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _line(what: str, ours: float, floor: float, ratio: float, unit: str, verdict: str) -> None:
    print(f"{what:<{WIDTH}} {_number(ours, unit):>12} {_number(floor, unit):>12} {ratio:>8.2f}   {verdict}", flush=True)


def _number(value: float, unit: str) -> str:
    return f"{value:,.0f}{unit}" if value >= 100 else f"{value:,.2f}{unit}"
