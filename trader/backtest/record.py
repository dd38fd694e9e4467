"""A run as it is stored, shown and told: what it was of, what came out, its trades and its equity.

Money is Decimal here. The engines count in floats that hold fifteen digits; what comes after those is noise and is cut.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from trader.backtest.bootstrap import Confidence, confidence
from trader.backtest.data import Bars, Floats, Indices
from trader.backtest.measures import (
    Measures,
    annual_return,
    drawdown,
    hold,
    measure,
    periods_per_year,
    ratios_of,
    returns_of,
    sales_of,
    unit_values,
)
from trader.backtest.result import BUY, Result
from trader.backtest.thin import thinned
from trader.bucket.timeframe import DAY, Timeframe, Times, timeframe_named
from trader.clock import from_milliseconds, to_milliseconds

if TYPE_CHECKING:
    from trader.backtest.load import Loaded
    from trader.backtest.settings import Settings
    from trader.strategy import Strategy

LONGEST_ERROR = 2_000
MOST_GAPS = 20
"""Gaps that are told one by one, the longest."""
MOST_REASONS = 20
"""Reasons of orders not filled, entries not taken and candles not decided on, of which each is counted; the rest are
counted together."""
HELD = (
    "return_percent",
    "annual_return_percent",
    "max_drawdown_percent",
    "drawdown_days",
    "sharpe",
    "sortino",
    "calmar",
)
"""Measures that buying and holding has, too."""
MEASURES = tuple(one.name for one in fields(Measures))
COUNTS = ("trades", "gaps", "missing_bars", "fills_after_gaps")


@dataclass(frozen=True, slots=True)
class Trade:
    """A fill: a row of backtest_trade."""

    number: int
    decided_at: datetime
    time_close: datetime
    side: str
    price: Decimal
    quantity: Decimal
    quote: Decimal
    fee: Decimal
    fee_in: str
    liquidity: str
    order_number: int
    realised: Decimal | None
    after_gap: bool


@dataclass(frozen=True, slots=True)
class Point:
    """What there was at a close: a row of backtest_equity."""

    time: datetime
    equity: Decimal
    cash: Decimal
    holding: Decimal
    price: Decimal
    unit_value: Decimal
    held_value: Decimal | None
    drawdown_percent: Decimal


@dataclass(frozen=True, slots=True)
class Made:
    """What came out of a run."""

    measures: Mapping[str, Decimal | int | None]
    """By their names in `Measures`."""
    longest_gaps: tuple[Mapping[str, Any], ...]
    """At most MOST_GAPS, by time: `from`, `to` (ISO), `missing` candles."""
    held: Mapping[str, float | None] | None
    """Those of HELD of buying everything once, at the first chance, and holding; None: there was no bar to buy at."""
    confidence: Mapping[str, Any] | None
    """level, draws, block, loss_percent, and [low, high] of return_percent, sharpe and max_drawdown_percent."""
    refused: Mapping[str, int]
    """Orders not filled, entries not taken and stretches of candles not decided on: how many, by reason."""
    trades: tuple[Trade, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """A row of backtest_run, with the names that it stands for and with what came out; its comments say the rest."""

    strategy: str | None
    path: str
    params: Mapping[str, Any]
    schedule: str
    market: str | None
    timeframe: str
    source: str
    inputs: Mapping[str, Any]
    asked_from: datetime | None
    asked_to: datetime | None
    used_from: datetime
    used_to: datetime
    candles: int
    warm_up: int | None
    digest: str
    settings: Mapping[str, Any]
    engine: str
    seed: int
    version: str
    code: str
    started_at: datetime
    finished_at: datetime | None = None
    """None: not stored."""
    error: str | None = None
    made: Made | None = None
    """None: it failed."""
    id: int | None = None
    market_id: int | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """What it is called: the strategy's row, else the class."""
        return self.strategy or self.path.partition(":")[2]


def shortage(run: Run) -> str:
    """What of the range that was asked for has no candles, in a sentence; empty: it is all there."""
    length, parts = timeframe_named(run.timeframe), []
    if run.asked_from is not None and _later(run.used_from, run.asked_from, length):
        parts.append(f"begin only at {run.used_from:%Y-%m-%d %H:%M}, not at {run.asked_from:%Y-%m-%d %H:%M}")
    if run.asked_to is not None and _later(run.asked_to, run.used_to, length):
        parts.append(f"end at {run.used_to:%Y-%m-%d %H:%M} already, not at {run.asked_to:%Y-%m-%d %H:%M}")
    return f"Not all that was asked for is there: the candles {', and '.join(parts)}." if parts else ""


def _later(one: datetime, other: datetime, length: Timeframe) -> bool:
    """Whether there is room for a candle between two moments."""
    return int(length.closes(np.array([to_milliseconds(other)]))[0]) <= to_milliseconds(one)


def decimal(value: float) -> Decimal:
    """The fifteen digits of a float that mean something."""
    return Decimal(f"{value:.15g}")


def made_of(result: Result, since: int, seed: int) -> Made:
    """What came out. `since` is the bar at whose close it could decide first."""
    units = unit_values(result.equity, result.flows)
    time = result.bars.time
    held = held_units(result, since)
    sure = confidence(returns_of(time, units), periods_per_year(time), seed=seed)
    return Made(
        _measures(measure(result, since)),
        tuple(_told_gap(result.bars, bar) for bar in longest_gaps(result.bars).tolist()),
        None if held is None else held_measures(time, held),
        None if sure is None else _confidence(sure),
        _reasons(result),
        trades_of(result),
        points_of(result, units, held),
    )


def _measures(made: Measures) -> dict[str, Decimal | int | None]:
    values: dict[str, Decimal | int | None] = {}
    for name, value in asdict(made).items():
        values[name] = value if value is None or name in COUNTS else decimal(value)
    return values


def longest_gaps(bars: Bars) -> Indices:
    """The bars after the longest gaps, at most MOST_GAPS, by time."""
    lengths = bars.time[bars.breaks] - bars.time[bars.breaks - 1]
    longest = np.argsort(-lengths, kind="stable")[:MOST_GAPS]
    return np.sort(bars.breaks[longest])


def _told_gap(bars: Bars, bar: int) -> dict[str, Any]:
    """The gap before a bar."""
    start, end = int(bars.time[bar - 1]), int(bars.timeframe.opens(bars.time[bar : bar + 1])[0])
    return {
        "from": from_milliseconds(start).isoformat(),
        "to": from_milliseconds(end).isoformat(),
        "missing": bars[bar - 1 : bar + 1].missing,
    }


def held_measures(time: Times, units: Floats) -> dict[str, float | None]:
    """The measures of HELD of what `held_units` gave."""
    depth, longest = drawdown(time, units)
    ratios = ratios_of(returns_of(time, units), periods_per_year(time))
    annual = annual_return(units, time)
    values = {
        "return_percent": 100 * (float(units[-1]) - 1),
        "annual_return_percent": None if annual is None else 100 * annual,
        "max_drawdown_percent": 100 * depth,
        "drawdown_days": longest / DAY,
        "sharpe": ratios.sharpe,
        "sortino": ratios.sortino,
        "calmar": annual / depth if annual is not None and depth > 0 else None,
    }
    return {name: None if value is None else float(f"{value:.6g}") for name, value in values.items()}


def _confidence(sure: Confidence) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in asdict(sure).items():
        values[name] = [float(f"{one:.6g}") for one in value.values()] if isinstance(value, dict) else value
    return values


def _reasons(result: Result) -> dict[str, int]:
    """How many orders were not filled and entries not taken, by reason."""
    counts = Counter(refusal.reason for refusal in result.refused).most_common()
    found = dict(counts[:MOST_REASONS])
    if rest := sum(count for _, count in counts[MOST_REASONS:]):
        found["other reasons"] = rest
    return found


def trades_of(result: Result) -> tuple[Trade, ...]:
    """The fills, in the order in which they happened."""
    fills, time = result.fills, result.bars.time
    gains = _realised(result)
    after = np.isin(fills.bar, result.bars.breaks).tolist()
    in_base = result.settings.fee_side == "get"
    columns = (fills.decided, fills.bar, fills.side, fills.price, fills.quantity, fills.quote, fills.fee, fills.maker)
    rows = zip(*(column.tolist() for column in columns), fills.order.tolist(), strict=True)
    made = []
    for at, (decided, bar, side, price, quantity, quote, fee, maker, order) in enumerate(rows):
        gain = gains.get(at)
        made.append(
            Trade(
                number=at + 1,
                decided_at=from_milliseconds(int(time[decided])),
                time_close=from_milliseconds(int(time[bar])),
                side="buy" if side == BUY else "sell",
                price=decimal(price),
                quantity=decimal(quantity),
                quote=decimal(quote),
                fee=decimal(fee),
                fee_in="base" if side == BUY and in_base else "quote",
                liquidity="maker" if maker else "taker",
                order_number=order + 1,
                realised=None if gain is None else decimal(gain),
                after_gap=after[at],
            )
        )
    return tuple(made)


def _realised(result: Result) -> dict[int, float]:
    """What each sell order realised, by the place of its last fill."""
    order, side = result.fills.order.tolist(), result.fills.side.tolist()
    last = {number: at for at, number in enumerate(order) if side[at] != BUY}
    first_sales = list(dict.fromkeys(number for at, number in enumerate(order) if side[at] != BUY))
    gains = sales_of(result).gains.tolist()
    return {last[number]: gain for number, gain in zip(first_sales, gains, strict=True)}


def drawdowns(units: Floats) -> Floats:
    """How far below the highest so far, in percent, at each close; the start is a peak."""
    peaks = np.maximum(np.maximum.accumulate(units), 1.0)
    return np.asarray(100 * (1 - units / peaks))


def held_units(result: Result, since: int) -> Floats | None:
    """What a unit is worth that was bought at the first chance and held, at each close; None: no bar to buy at."""
    whole = hold(result, since)
    if whole is None:
        return None
    close = result.bars.close
    worth = close * ((1 + whole / 100) / close[-1])
    worth[: since if result.settings.fill == "close" else since + 1] = 1.0
    return np.asarray(worth)


def points_of(result: Result, units: Floats, held: Floats | None) -> tuple[Point, ...]:
    """The closes that are kept (see `thin`), with what there was."""
    falls, bars = drawdowns(units), result.bars
    after = longest_gaps(bars)
    always = [*(bar for bar, _ in result.flows), *after.tolist(), *(after - 1).tolist()]
    kept = thinned(bars.time, (result.equity, bars.close, falls), always)
    columns = [column[kept].tolist() for column in (result.equity, result.cash, result.holding, bars.close, units)]
    columns += [[None] * len(kept) if held is None else held[kept].tolist(), falls[kept].tolist()]
    rows = zip(bars.time[kept].tolist(), *columns, strict=True)
    return tuple(
        Point(from_milliseconds(time), *[None if value is None else decimal(value) for value in values])  # type: ignore[arg-type]
        for time, *values in rows
    )


def began(
    strategy: "Strategy[Any]",
    loaded: "Loaded",
    settings: "Settings",
    schedule: str,
    started_at: datetime,
    *,
    path: str,
    name: str | None = None,
    seed: int = 0,
) -> Run:
    """A run that has not been computed yet: all that it is of. `path` names the class, `name` the strategy's row."""
    from trader.backtest.origin import code_of, digest_of, version
    from trader.strategy import gap_policy, style_of

    frames = loaded.frames
    refused = {name: missing.refused(gap_policy(strategy)) for name, missing in frames.missing.items()}
    by_array = style_of(strategy) == "signal" and schedule == "bucket"
    return Run(
        schedule=schedule,
        engine="array" if by_array else "bars",
        warm_up=None,
        params=strategy.params.model_dump(mode="json"),
        market=loaded.market.name if loaded.market else None,
        market_id=loaded.market.id if loaded.market else None,
        timeframe=frames.timeframe,
        source=loaded.source,
        inputs=loaded.told_inputs(),
        asked_from=loaded.asked_from,
        asked_to=loaded.asked_to,
        used_from=loaded.used_from,
        used_to=loaded.used_to,
        candles=len(frames.candles),
        digest=digest_of(frames.candles, frames.inputs, refused),
        settings=settings.model_dump(mode="json"),
        version=version(),
        code=code_of(type(strategy)),
        started_at=started_at,
        path=path,
        strategy=name,
        seed=seed,
    )


def compute(
    strategy: "Strategy[Any]", loaded: "Loaded", settings: "Settings", run: Run
) -> tuple[Run, Result | None, int]:
    """Run a backtest: what came out as it is to be stored, the whole result, and the bar of the first decision.

    A strategy that fails gives a run with the reason, which names file and line, and no result. Raises InputError as
    `backtest` does: that is no fault of the strategy's.
    """
    from trader.backtest.origin import place_of
    from trader.backtest.run import backtest, first_decision
    from trader.strategy import SignalError, style_of

    try:
        since = first_decision(strategy, loaded.frames)
        result = backtest(strategy, loaded.frames, settings, run.schedule)
    except SignalError as error:
        place = place_of(getattr(type(strategy), style_of(strategy)))
        said = str(error) if ".py:" in str(error) or not place else f"{error} ({place})"
        return replace(run, error=said.replace("\x00", "").encode(errors="replace").decode()[:LONGEST_ERROR]), None, 0
    return replace(run, warm_up=since + 1, made=made_of(result, since, run.seed)), result, since
