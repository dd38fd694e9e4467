"""Line charts as inline SVG: no script and no request; colours are the page's, so that they suit light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 1120, 74, 12, 10, 26
"""Units of the picture: its width, and the room around what is drawn."""
WIDE = 8
"""Where the highest is so many times the lowest, an axis is logarithmic."""
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
HOURS = (1, 2, 3, 6, 12, 24, 48, 96, 168, 336)
"""Steps of a short axis of time."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its style (a class of the page), its name, and a value for each time; None: none there."""

    style: str
    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Mark:
    """A triangle at a moment and a value: up or down, with a text that shows when it is pointed at."""

    at: float
    value: float
    up: bool
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.logarithmic else (self.low, self.high)
        place = math.log(max(value, 1e-300)) if self.logarithmic else value
        return self.start + (self.end - self.start) * (place - low) / ((high - low) or 1.0)


def chart(
    title: str,
    times: Sequence[float],
    lines: Sequence[Line],
    height: int,
    *,
    marks: Sequence[Mark] = (),
    unit: str = "",
    filled: bool = False,
    missing: Sequence[tuple[float, float]] = (),
) -> str:
    """A picture of lines over times (seconds since 1970). `filled`: down from 0; `missing`: stretches to shade."""
    known = [value for line in lines for value in line.values if value is not None] + [mark.value for mark in marks]
    low, high = min(known), max(known)
    if filled:
        low, high = min(low * 1.12, -0.1), 0.0
    logarithmic = not unit and low > 0 and high > WIDE * low
    room = 0.05 * (high - low) or abs(high) * 0.05 or 1.0
    if not filled:
        low, high = (low * 0.93, high * 1.07) if logarithmic else (low - room, high + room)
    x = Scale(times[0], times[-1], LEFT, WIDTH - RIGHT)
    y = Scale(low, high, height - BOTTOM, TOP, logarithmic)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        *(
            f'<rect class="missing" x="{x(start):.1f}" y="{TOP}" width="{max(x(end) - x(start), 1):.1f}" '
            f'height="{height - TOP - BOTTOM}"><title>candles missing</title></rect>'
            for start, end in missing
        ),
        *_grid(x, y, height, unit),
        *(_path(line, times, x, y, [end for _, end in missing], filled) for line in lines),
        *_marks(marks, x, y),
        "</svg>",
    ]
    return "\n".join(parts)


def _path(line: Line, times: Sequence[float], x: Scale, y: Scale, breaks: Sequence[float], filled: bool) -> str:
    """One line for each stretch between gaps: what happened in a gap, nobody knows."""
    pieces: list[list[str]] = [[]]
    waiting = sorted(breaks, reverse=True)
    for at, value in zip(times, line.values, strict=True):
        while waiting and waiting[-1] <= at:
            waiting.pop()
            pieces.append([])
        if value is not None:
            pieces[-1].append(f"{x(at):.1f},{y(value):.1f}")
    return "".join(_piece(line, places, y(0) if filled else None) for places in pieces if places)


def _piece(line: Line, places: Sequence[str], floor: float | None) -> str:
    area = ""
    if floor is not None:
        begin, end = (f"{place.partition(',')[0]},{floor:.1f}" for place in (places[0], places[-1]))
        area = f'<polygon class="{line.style} area" points="{begin} {" ".join(places)} {end}"/>'
    title = f"<title>{escape(line.name)}</title>"
    return f'{area}<polyline class="{line.style}" points="{" ".join(places)}">{title}</polyline>'


def _marks(marks: Sequence[Mark], x: Scale, y: Scale) -> list[str]:
    size = min(6.0, max(2.5, 700 / max(len(marks), 1)))
    found = []
    for mark in marks:
        left, top = x(mark.at), y(mark.value)
        tip, base = (top, top + 1.7 * size) if mark.up else (top, top - 1.7 * size)
        points = f"{left:.1f},{tip:.1f} {left - size:.1f},{base:.1f} {left + size:.1f},{base:.1f}"
        style = "bought" if mark.up else "sold"
        found.append(f'<polygon class="{style}" points="{points}"><title>{escape(mark.text)}</title></polygon>')
    return found


# Axes


def _grid(x: Scale, y: Scale, height: int, unit: str) -> list[str]:
    parts = []
    for value in ticks(y.low, y.high, max(3, height // 55), logarithmic=y.logarithmic):
        top = y(value)
        style = "zero" if value == 0 else "grid"
        parts.append(f'<line class="{style}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{top:.1f}" y2="{top:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{LEFT - 8}" y="{top + 4:.1f}" text-anchor="end">{number(value)}{unit}</text>'
        )
    for at, text in moments(x.low, x.high):
        left = x(at)
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{left:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        anchor = "end" if left > WIDTH - RIGHT - 22 else "middle"
        parts.append(f'<text class="tick" x="{left:.1f}" y="{height - 8}" text-anchor="{anchor}">{text}</text>')
    return parts


def ticks(low: float, high: float, count: int, *, logarithmic: bool = False) -> list[float]:
    """Round values from low to high, about `count` of them."""
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        return [value for value in found if low <= value <= high]
    rough = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * digit for digit in (1, 2, 2.5, 5, 10) if power * digit >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """With commas and without needless digits."""
    return f"{value:,.10g}"


def moments(start: float, end: float) -> list[tuple[float, str]]:
    """Round moments from start to end (seconds), about nine of them, with what to write there; UTC."""
    days = (end - start) / 86_400
    if days > 75:
        return _months(start, end, max(1, round(days / 30.4 / 9)))
    hours = next((step for step in HOURS if days * 24 / step <= 10), HOURS[-1])
    step = hours * 3_600
    found: list[tuple[float, str]] = []
    for count in range(math.ceil(start / step), math.floor(end / step) + 1):
        moment = datetime.fromtimestamp(count * step, UTC)
        day = f"{moment.day} {MONTHS[moment.month - 1]}"
        found.append((count * step, day if hours >= 24 or moment.hour == 0 else f"{moment:%H:%M}"))
    return found


def _months(start: float, end: float, rough: int) -> list[tuple[float, str]]:
    step = next((step for step in (1, 2, 3, 4, 6, 12, 24, 60, 120) if step >= rough), 240)
    first = datetime.fromtimestamp(start, UTC)
    found: list[tuple[float, str]] = []
    count = -(-(first.year * 12 + first.month - 1) // step) * step
    while (moment := datetime(count // 12, count % 12 + 1, 1, tzinfo=UTC)).timestamp() <= end:
        if moment.timestamp() >= start:
            name = MONTHS[moment.month - 1]
            text = name if found else f"{name} {moment.year}"
            found.append((moment.timestamp(), str(moment.year) if moment.month == 1 else text))
        count += step
    return found
