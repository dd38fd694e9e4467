"""What a run of a strategy looks at: its candles and those of its inputs, and what is missing among them."""

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

from jobs.strategy.errors import Missing, NotThere, TooFew, Unsure
from jobs.strategy.guard import Loaded, guarded
from trader.bucket import read_buckets
from trader.bucket.gap import FOUND, WHOLE_FROM
from trader.db import Connection, fetch_all, fetch_one
from trader.strategy import (
    Gap,
    GapPolicy,
    Input,
    Schedule,
    Series,
    accepts,
    first_candle,
    holes_of,
    missing_of,
    scheduled,
)
from trader.strategy.gap import Holes
from trader.strategy.schedule import milliseconds

if TYPE_CHECKING:
    from pandas import DataFrame, DatetimeIndex

    from trader.backtest.data import Bars

# Before that, candles are still to be fetched. Those from before the hole are no part of a window.
NEWEST_WHOLE_FROM = f"SELECT max(moment) AS moment FROM ({WHOLE_FROM}) w"  # noqa: S608 - of our own statement
GAPS = f"{FOUND} ORDER BY 1"

# pending: a candle of it has closed, and nobody can say yet that the venue has none.
SOURCE = """
SELECT m.id AS market_id, t.id AS timeframe_id, e.name AS exchange, e.offline, e.name || ':' || m.symbol AS market,
       t.name AS timeframe, f.enabled, n.newest, x.expected,
       x.expected > n.newest AND NOT coalesce(f.covered @> tstzrange(n.newest, x.expected), false) AS pending
  FROM market m
  JOIN exchange e ON e.id = m.exchange_id
  JOIN timeframe t ON t.name = %(timeframe)s
  LEFT JOIN bucket_feed f ON f.market_id = m.id AND f.timeframe_id = t.id
  LEFT JOIN LATERAL (SELECT max(time_close) AS newest FROM bucket
                      WHERE market_id = m.id AND timeframe_id = t.id AND time_close <= %(newest)s) n ON true
 CROSS JOIN LATERAL (SELECT candle_time(n.newest, candles_between(n.newest, %(newest)s, t.span), t.span) AS expected) x
 WHERE e.name || ':' || m.symbol = %(market)s
"""


@dataclass(frozen=True, slots=True)
class Source:
    """Candles of one kind, and whose they are."""

    name: str
    """That of the input; empty: the strategy's own."""
    market_id: int
    timeframe_id: int
    market: str
    timeframe: str
    candles: "DataFrame"
    gaps: tuple[Gap, ...] = ()
    """What is missing among those of them that a decision depends on, oldest first."""

    def holes(self, policy: GapPolicy) -> Holes:
        """Those of its gaps that a policy does not accept, as places among the candles."""
        closes = milliseconds(cast("DatetimeIndex", self.candles.index))
        return holes_of(closes, missing_of(self.gaps), policy)

    def __str__(self) -> str:
        return f'its input "{self.name}" ({self.market} {self.timeframe})' if self.name else "it"


@dataclass(frozen=True, slots=True)
class Window:
    """Candles that a strategy decides on, oldest first; the newest is the last."""

    own: Source
    bars: "Bars"
    inputs: tuple[Source, ...]
    decided: tuple[int, ...]
    """The positions of the candles that its schedule decides on, beginning with the first whole warm-up."""
    holes: Holes
    """The gaps of its own candles that it does not decide across."""

    @property
    def frames(self) -> "dict[str, DataFrame]":
        """Those of its inputs."""
        return {source.name: source.candles for source in self.inputs}

    @property
    def at(self) -> int:
        """The candle whose target counts: the newest one, or the one of the last scheduled moment."""
        return self.decided[-1]

    @property
    def before(self) -> int | None:
        """The one of the moment before. None: it belongs to the warm-up, or a gap that is not accepted came after it:
        no cross is fresh.
        """
        if len(self.decided) < 2 or self.holes.between(self.decided[-2], self.at):
            return None
        return self.decided[-2]

    @property
    def price(self) -> Decimal:
        """The close of the newest candle."""
        return Decimal(repr(float(self.bars.close[-1])))


async def read_window(connection: Connection, row: Any, loaded: Loaded) -> Window:
    """The candles of a run.

    Raises TooFew: not even the warm-up is there; NotThere and Missing: an input has no candle yet, or no feed.
    """
    from trader.backtest.data import bars_from_frame

    reach, warm_up = loaded.reach, loaded.warm_up
    candles = await _read(connection, row.market_id, row.timeframe_id, row.newest, reach.candles)
    if len(candles) < warm_up:
        raise TooFew(f"it has {len(candles)} of the {warm_up} candles that its warm-up needs")
    own = Source("", row.market_id, row.timeframe_id, row.market, row.timeframe, candles)
    inputs = [await _input(connection, row, name, given, reach.inputs[name]) for name, given in loaded.inputs.items()]
    bars = bars_from_frame(candles, row.timeframe)
    frames = {source.name: source.candles for source in inputs}
    first = await guarded(lambda: first_candle(loaded.strategy, candles, frames), loaded.module)
    decided = [int(at) for at in scheduled(bars.time, _schedule(row)).nonzero()[0] if at >= first]
    if not decided:
        raise TooFew(f"at its last scheduled candle it had less than the {warm_up} candles that its warm-up needs")
    # What on_bucket gave last may be from before its first whole warm-up, if it had a shorter one then.
    known = min(decided[-1] + 1 - warm_up, decided[-2] if len(decided) > 1 else 0)
    own = await _with_gaps(connection, own, known)
    inputs = [
        await _with_gaps(connection, source, len(source.candles) - loaded.inputs[source.name].warm_up)
        for source in inputs
    ]
    return Window(own, bars, tuple(inputs), tuple(decided), own.holes(loaded.gaps))


def _schedule(row: Any) -> Schedule:
    schedule: Schedule = row.schedule
    return schedule


def _how_to_keep(found: Any, series: Series, newest: datetime) -> str:
    """What to type so that the candles of an input are kept; at an offline exchange, where they come from."""
    if found.offline:
        return f"{found.exchange} is offline: its candles come from files (tallydesk bucket import)"
    return series.command(newest, there=found.enabled is not None)


async def _input(connection: Connection, row: Any, name: str, given: Input, reach: int) -> Source:
    """The candles of an input, all that had closed with the newest of the strategy's own."""
    values = {
        "market": given.market or row.market,
        "timeframe": given.timeframe or row.timeframe,
        "newest": row.newest,
    }
    found = await (await connection.execute(SOURCE, values)).fetchone()
    if found is None:
        raise Missing(
            f'input "{name}": there is no market {values["market"]}; tallydesk market sync, or check its name'
        )
    what = f'input "{name}"'
    if not found.enabled:
        series = Series(name, found.market, found.timeframe, reach)
        raise Missing(
            f"{what}: nothing keeps the {found.timeframe} candles of {found.market} up to date: "
            f"{_how_to_keep(found, series, row.newest)}"
        )
    if found.pending:
        raise NotThere(
            f"{what}: the {found.timeframe} candle of {found.market} that closes at {found.expected:%Y-%m-%d %H:%M} is "
            "not there yet",
            (found.market_id, found.timeframe_id),
        )
    candles = await _read(connection, found.market_id, found.timeframe_id, row.newest, reach)
    source = Source(name, found.market_id, found.timeframe_id, found.market, found.timeframe, candles)
    if len(candles) < given.warm_up:
        raise TooFew(f"{source} has {len(candles)} of the {given.warm_up} candles that its warm-up needs")
    return source


async def _read(connection: Connection, market_id: int, timeframe_id: int, until: datetime, last: int) -> "DataFrame":
    """The newest candles that close by then, as far back as nothing is still to be fetched."""
    candles = await read_buckets(connection, market_id, timeframe_id, last=last, until=until)
    series = {"market_id": market_id, "timeframe_id": timeframe_id, "last": until}
    whole_from = (await fetch_one(connection, NEWEST_WHOLE_FROM, series)).moment
    return candles if whole_from is None else candles[candles.index > whole_from]


async def _with_gaps(connection: Connection, source: Source, position: int) -> Source:
    """A source, with what is missing among its candles from a position on."""
    first, last = source.candles.index[position], source.candles.index[-1]
    series = {"market_id": source.market_id, "timeframe_id": source.timeframe_id, "first": first, "last": last}
    rows = await fetch_all(connection, GAPS, series | {"partial": True})
    return replace(source, gaps=tuple(Gap(*row) for row in rows))


def find_gaps(window: Window, loaded: Loaded) -> tuple[Gap, ...]:
    """What is missing in the warm-up of its own candles; Unsure or Missing if it does not decide across a gap there.

    Or across one in the warm-up of an input.
    """
    gaps = _accepted(window.own, window.at + 1 - loaded.warm_up, loaded.gaps)
    for source in window.inputs:
        _accepted(source, len(source.candles) - loaded.inputs[source.name].warm_up, loaded.gaps)
    return gaps


def _accepted(source: Source, first: int, policy: GapPolicy) -> tuple[Gap, ...]:
    """The gaps from a candle on, if all of them are accepted."""
    gaps = tuple(gap for gap in source.gaps if gap.is_since(source.candles.index[first]))
    if not source.holes(policy).within(first, len(source.candles) - 1):
        return gaps
    refused = [gap for gap in gaps if not accepts(policy, gap.verdict)]
    reason = f"makes no decision: {f'{source}: ' if source.name else ''}{refused[-1]}"
    if len(refused) > 1:
        reason += f"; and so in {len(refused) - 1} other places"
    if policy == "no_trades" and all(gap.verdict is None for gap in refused):
        raise Unsure(reason)
    raise Missing(reason)
