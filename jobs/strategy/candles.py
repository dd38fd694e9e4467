"""What a run of a strategy looks at: its candles and those of its inputs, and what is missing among them."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from jobs.strategy.errors import Missing, NotThere, TooFew, Unsure
from jobs.strategy.guard import Loaded, guarded
from trader.bucket import read_buckets
from trader.db import Connection, fetch_all, fetch_one
from trader.strategy import Gap, GapPolicy, Input, Schedule, Series, accepts, first_candle, scheduled

if TYPE_CHECKING:
    from pandas import DataFrame

    from trader.backtest.data import Bars

# Before that, candles are still to be fetched. Those from before the hole are no part of a window.
WHOLE_FROM = """
SELECT max(lower(r)) AS moment FROM bucket_feed f, unnest(f.covered) r
 WHERE lower(r) < %(newest)s AND f.market_id = %(market_id)s AND f.timeframe_id = %(timeframe_id)s
"""

# A larger candle that lacks smaller ones in which nobody traded hides a gap of its own.
GAPS = """
SELECT gap_from AS start, gap_to AS end, missing, verdict::text FROM gap
 WHERE market_id = %(market_id)s AND timeframe_id = %(timeframe_id)s AND gap_from >= %(first)s AND gap_from < %(last)s
UNION ALL
SELECT candle_time(b.time_close, -1, t.span), b.time_close, 1, 'no_trades' FROM bucket b
  JOIN timeframe t ON t.id = b.timeframe_id
 WHERE b.market_id = %(market_id)s AND b.timeframe_id = %(timeframe_id)s AND b.time_close BETWEEN %(first)s AND %(last)s
   AND b.partial
 ORDER BY 1
"""

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
        """The one of the moment before. None: it belongs to the warm-up, or a gap came after it: no cross is fresh."""
        if len(self.decided) < 2 or self.broken_since(self.decided[-2], self.at):
            return None
        return self.decided[-2]

    def broken_since(self, position: int, until: int) -> bool:
        """Whether candles are missing after a candle, up to another."""
        breaks = self.bars.breaks
        return bool(((breaks > position) & (breaks <= until)).any())

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
    return Window(own, bars, tuple(inputs), tuple(decided))


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
    series = {"market_id": market_id, "timeframe_id": timeframe_id, "newest": until}
    whole_from = (await fetch_one(connection, WHOLE_FROM, series)).moment
    return candles if whole_from is None else candles[candles.index > whole_from]


async def find_gaps(connection: Connection, window: Window, loaded: Loaded) -> tuple[Gap, ...]:
    """What is missing in the warm-up of its own candles; Unsure or Missing if it does not decide across a gap there.

    Or across one in the warm-up of an input.
    """
    gaps = await _gaps(connection, window.own, window.at + 1 - loaded.warm_up, loaded.gaps)
    for source in window.inputs:
        first = len(source.candles) - loaded.inputs[source.name].warm_up
        await _gaps(connection, source, first, loaded.gaps)
    return gaps


async def _gaps(connection: Connection, source: Source, position: int, policy: GapPolicy) -> tuple[Gap, ...]:
    first, last = source.candles.index[position], source.candles.index[-1]
    series = {"market_id": source.market_id, "timeframe_id": source.timeframe_id, "first": first, "last": last}
    gaps = tuple(Gap(*found) for found in await fetch_all(connection, GAPS, series))
    refused = [gap for gap in gaps if not accepts(policy, gap)]
    if not refused:
        return gaps
    reason = f"makes no decision: {f'{source}: ' if source.name else ''}{refused[-1]}"
    if len(refused) > 1:
        reason += f"; and so in {len(refused) - 1} other places"
    if policy == "no_trades" and all(gap.verdict is None for gap in refused):
        raise Unsure(reason)
    raise Missing(reason)
