"""A picture of a run: candles with its trades, equity beside buying and holding, and how far it fell. 1600 x 1000.

Times are UTC. Candles are put together until a picture can show them; trades, peaks and falls are those of all bars.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trader.backtest.chart import WIDE
from trader.backtest.data import Bars, Floats, Indices
from trader.backtest.measures import unit_values
from trader.backtest.record import Run, drawdowns, held_units, longest_gaps
from trader.backtest.result import BUY, Result
from trader.backtest.thin import parts_of, thinned
from trader.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
MOST_CANDLES = 320
"""In one picture: each is about four pixels wide."""
UP, DOWN, LINE, BESIDE, GRAY = "#1b8a5a", "#c8423b", "#1f5fa8", "#b0752b", "#6b7280"


def check_path(path: Path) -> None:
    """InputError: the name says no format that can be drawn, or there is no such directory."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"--plot is {path}: its name must end in {', '.join(FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--plot is {path}: there is no directory {path.absolute().parent}")


def plot(result: Result, run: Run, path: Path, since: int = 0) -> None:
    """Draw a run into a file; `since` is the bar at whose close it could decide first. InputError: see `check_path`."""
    check_path(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 10), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, 1, sharex=True, height_ratios=[5, 3, 1.6])
    time, units = _days(result.bars.time), unit_values(result.equity, result.flows)
    _candles(axes[0], result.bars)
    _trades(axes[0], result, time)
    _equity(axes[1], result, time, units, since)
    _falls(axes[2], result, time, units)
    _heads(figure, axes, run)
    _times(axes, result.bars, time)
    try:
        figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise InputError(f"--plot is {path}: cannot be written: {error.strerror or error}") from None


def _days(time: Indices) -> Floats:
    """Matplotlib's dates: days since 1970."""
    return np.asarray(time / 86_400_000)


# Price


def _candles(axes: "Axes", bars: Bars) -> None:
    """Candles, put together by equal numbers where there are more than a picture can show."""
    from matplotlib.collections import LineCollection, PolyCollection

    starts = np.union1d(parts_of(len(bars), MOST_CANDLES), longest_gaps(bars))
    ends = np.append(starts[1:], len(bars)) - 1
    opened, closed = _days(bars.timeframe.opens(bars.time[starts])), _days(bars.time[ends])
    low, high = np.minimum.reduceat(bars.low, starts), np.maximum.reduceat(bars.high, starts)
    first, last = bars.open[starts], bars.close[ends]
    middle, half = (opened + closed) / 2, 0.38 * float(np.median(closed - opened))
    colours = np.where(last >= first, UP, DOWN).tolist()
    wicks = np.stack([np.column_stack([middle, low]), np.column_stack([middle, high])], axis=1)
    axes.add_collection(LineCollection(list(wicks), colors=colours, linewidths=0.8, alpha=0.75))
    corners = [(middle - half, first), (middle + half, first), (middle + half, last), (middle - half, last)]
    bodies = np.stack([np.column_stack(corner) for corner in corners], axis=1)
    axes.add_collection(
        PolyCollection(list(bodies), facecolors=colours, edgecolors=colours, linewidths=0.6, alpha=0.75)
    )
    room = 0.06 * float(high.max() - low.min()) or 1.0
    axes.set_ylim(max(0.0, float(low.min()) - room), float(high.max()) + room)
    if float(high.max()) > WIDE * float(low.min()):
        axes.set_yscale("log")
        axes.set_ylim(float(low.min()) * 0.9, float(high.max()) * 1.1)
    _plain_numbers(axes)
    together = int(np.median(ends + 1 - starts))
    text = (
        f"one candle is {together:,} of {bars.timeframe.name}" if together > 1 else f"candles of {bars.timeframe.name}"
    )
    axes.text(0.995, 0.02, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=10, color=GRAY)


def _trades(axes: "Axes", result: Result, time: Floats) -> None:
    """Where it bought and sold. With many trades they get smaller, so that prices can be seen."""
    from matplotlib.transforms import ScaledTranslation

    fills = result.fills
    size = float(np.clip(6_000 / max(len(fills), 1), 9, 70))
    opened = _days(result.bars.timeframe.opens(result.bars.time))
    at = (time if result.settings.fill == "close" else opened)[fills.bar]
    for name, bought, marker, colour in (("bought", True, "^", "#0b3d91"), ("sold", False, "v", "#7a1fa2")):
        chosen = (fills.side == BUY) == bought
        beside = ScaledTranslation(0, (-1 if bought else 1) * (4 + size**0.5 / 2) / 72, axes.figure.dpi_scale_trans)
        axes.scatter(
            at[chosen], fills.price[chosen], s=size, marker=marker, c=colour, edgecolors="white", linewidths=0.5,
            zorder=5, label=f"{name} ({int(chosen.sum()):,})", transform=axes.transData + beside,
        )  # fmt: skip
    axes.legend(loc="upper left", frameon=True, framealpha=0.85, fontsize=11, markerscale=max(1.0, (40 / size) ** 0.5))
    axes.set_ylabel("price")


# Money


def _equity(axes: "Axes", result: Result, time: Floats, units: Floats, since: int) -> None:
    """What a unit of the money is worth beside what it would be worth in the market, in percent."""
    held = held_units(result, since)
    both = units if held is None else np.concatenate((units, held))
    wide = float(both.min()) > 0 and float(both.max()) > WIDE * float(both.min())
    base = 0 if wide else 1
    label = f"this run: {100 * (units[-1] - 1):+,.1f} %"
    _line(axes, result.bars, time, 100 * (units - base), color=LINE, linewidth=1.7, label=label, zorder=4)
    if held is not None:
        label = f"bought and held: {100 * (held[-1] - 1):+,.1f} %"
        _line(
            axes, result.bars, time, 100 * (held - base), color=BESIDE, linewidth=1.2, alpha=0.85, label=label, zorder=3
        )
    if wide:
        axes.set_yscale("log")
    axes.axhline(100 if wide else 0, color=GRAY, linewidth=0.8)
    axes.legend(loc="upper left", frameon=True, framealpha=0.85, fontsize=11)
    axes.set_ylabel("worth of 100" if wide else "return, %")
    _plain_numbers(axes)


def _line(axes: "Axes", bars: Bars, time: Floats, values: Floats, **style: Any) -> None:
    """A line through the closes that matter, broken where candles are missing for long."""
    kept, broken = _kept(bars, values)
    axes.plot(np.insert(time[kept], broken, np.nan), np.insert(values[kept], broken, np.nan), **style)


def _kept(bars: Bars, values: Floats) -> tuple[Indices, Indices]:
    """The bars to draw, and before which of these the line is broken."""
    gaps = _wide_gaps(bars)
    kept = thinned(bars.time, (values,), [*gaps.tolist(), *(gaps - 1).tolist()])
    return kept, np.searchsorted(kept, gaps)


def _wide_gaps(bars: Bars) -> Indices:
    """The bars after the gaps that are wide enough to be seen."""
    after = longest_gaps(bars)
    wide = bars.time[after] - bars.time[after - 1] > 0.003 * (bars.time[-1] - bars.time[0])
    return np.asarray(after[wide])


def _falls(axes: "Axes", result: Result, time: Floats, units: Floats) -> None:
    falls = -drawdowns(units)
    kept, broken = _kept(result.bars, falls)
    places, depths = np.insert(time[kept], broken, np.nan), np.insert(falls[kept], broken, np.nan)
    axes.fill_between(places, depths, 0, color=DOWN, alpha=0.3, linewidth=0)
    axes.plot(places, depths, color=DOWN, linewidth=0.9)
    deepest = int(falls.argmin())
    if falls[deepest] < 0:
        late = time[deepest] > time[0] + 0.85 * (time[-1] - time[0])
        axes.annotate(
            f"{falls[deepest]:,.1f} %", (time[deepest], falls[deepest]), xytext=(-8 if late else 8, 0),
            textcoords="offset points", ha="right" if late else "left", va="center", fontsize=11, color=DOWN,
            fontweight="bold", bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )  # fmt: skip
    axes.set_ylim(float(falls.min()) * 1.15 or -1.0, 0)
    axes.set_ylabel("below peak, %")
    _plain_numbers(axes)


# Around


def _heads(figure: "Figure", axes: "NDArray[Any]", run: Run) -> None:
    params = ", ".join(f"{name} {value}" for name, value in sorted(run.params.items()))
    where = f"{run.market or run.source} {run.timeframe}"
    figure.suptitle(
        f"{run.name}   {where}" + (f"   {params}" if len(params) < 110 else ""),
        fontsize=17, x=0.01, ha="left", parse_math=False,  # a $ in a parameter is no formula
    )  # fmt: skip
    measures = run.made.measures if run.made else {}
    parts = [
        f"{label} {value:,.{digits}f}{unit}"
        for name, label, digits, unit in (
            ("return_percent", "return", 1, " %"),
            ("max_drawdown_percent", "deepest fall", 1, " %"),
            ("sharpe", "Sharpe", 2, ""),
            ("trades", "trades", 0, ""),
            ("win_percent", "won", 0, " %"),
            ("fees", "fees", 2, ""),
        )
        if (value := measures.get(name)) is not None
    ]
    gaps = measures.get("gaps")
    parts.append(
        f"over {gaps} gap{'s' * (gaps != 1)} ({measures['missing_bars']:,} candles missing)" if gaps else "no gaps"
    )
    axes[0].set_title("   ·   ".join(parts), fontsize=12, color="#374151", loc="left")


def _times(axes: "NDArray[Any]", bars: Bars, time: Floats) -> None:
    """One axis of time, in UTC, for all; where candles are missing for long, it is shaded."""
    from datetime import UTC

    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    begin, end = float(_days(bars.timeframe.opens(bars.time[:1]))[0]), float(time[-1])
    room = 0.01 * (end - begin)
    axes[-1].set_xlim(begin - room, end + room)
    locator = AutoDateLocator(tz=UTC, minticks=6, maxticks=12)  # type: ignore[no-untyped-call]
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=UTC))  # type: ignore[no-untyped-call]
    axes[-1].set_xlabel("UTC")
    after = _wide_gaps(bars)
    starts, ends = time[after - 1].tolist(), _days(bars.timeframe.opens(bars.time[after])).tolist()
    for number, one in enumerate(axes):
        one.grid(True, color="#e5e7eb", linewidth=0.7)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=11)
        one.yaxis.label.set_size(12)
        for place, (start, stop) in enumerate(zip(starts, ends, strict=True)):
            one.axvspan(start, stop, color="#9ca3af", alpha=0.25, linewidth=0, zorder=0)
            if not place and not number:
                one.text((start + stop) / 2, 0.98, "candles missing", transform=one.get_xaxis_transform(), rotation=90,
                         ha="center", va="top", fontsize=9, color=GRAY)  # fmt: skip


def _plain_numbers(axes: "Axes") -> None:
    """10,000 and not 1e4, also where the axis is logarithmic."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
