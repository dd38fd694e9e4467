"""What a backtest runs over: candles of the database or of files, those of its inputs, and what its market demands.

What cannot be had is said in one sentence that lists what there is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trader.backtest.missing import read_missing
from trader.backtest.origin import closes_of
from trader.backtest.run import Frames
from trader.backtest.settings import UNIT
from trader.bucket import read_buckets, read_files, timeframe_named
from trader.bucket.read import Columns
from trader.clock import from_milliseconds, to_milliseconds
from trader.db import Connection, fetch_all, fetch_one
from trader.errors import InputError
from trader.market import Market, find_market
from trader.strategy import Missing, Strategy, gap_policy, inputs_of, needed, reach_of, telling

if TYPE_CHECKING:
    from pandas import DataFrame

    from trader.bucket.formats import Stamp
    from trader.bucket.timeframe import Timeframe

STORED = """
SELECT t.name, r.first, r.newest
  FROM bucket_feed f
  JOIN timeframe t ON t.id = f.timeframe_id
 CROSS JOIN LATERAL (
   SELECT candle_time(min(b.time_close), -1, t.span) AS first, max(b.time_close) AS newest
     FROM bucket b WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id) r
 WHERE f.market_id = %s AND r.newest IS NOT NULL
 ORDER BY t.id
"""
OTHERS = """
SELECT e.name || ':' || m.symbol AS name
  FROM market m JOIN exchange e ON e.id = m.exchange_id
 WHERE EXISTS (SELECT FROM bucket b WHERE b.market_id = m.id) ORDER BY name LIMIT 6
"""
TERMS = """
SELECT m.price_tick, m.quantity_step, m.quantity_min, m.cost_min, m.maker_fee, m.taker_fee, m.fee_side::text,
       e.offline AND m.maker_fee = 0 AND m.taker_fee = 0 AS unknown_fees
  FROM market m JOIN exchange e ON e.id = m.exchange_id WHERE m.id = %s
"""
# A step that comes later adds the column schedule: without it, every candle is decided on.
ROW = """
SELECT s.name, s.class AS path, s.params, e.name || ':' || m.symbol AS market, t.name AS timeframe, s.stake,
       s.stake_unit, coalesce(to_jsonb(s)->>'schedule', 'bucket') AS schedule
  FROM strategy s
  LEFT JOIN market m ON m.id = s.market_id
  LEFT JOIN exchange e ON e.id = m.exchange_id
  LEFT JOIN timeframe t ON t.id = s.timeframe_id
 WHERE s.name = %s
"""
NAMES = "SELECT name FROM strategy WHERE class IS NOT NULL ORDER BY name LIMIT 20"


@dataclass(frozen=True, slots=True)
class Named:
    """What a row of `strategy` says."""

    name: str
    path: str
    params: Mapping[str, Any]
    market: str
    timeframe: str
    schedule: str
    stake: Mapping[str, Any]
    """`stake` and `stake_in_percent` of the settings."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a backtest runs over, and where it is from."""

    frames: Frames
    market: Market | None
    """None: candles of a file, of no market that was named."""
    source: str
    """`database`, or the names of the files."""
    input_markets: Mapping[str, str]
    """Of each input, where its candles are from: a market, or a file."""
    asked_from: datetime | None
    asked_to: datetime | None

    @property
    def used_from(self) -> datetime:
        """When the first candle opened."""
        return _first_open(self.frames.candles, self.frames.timeframe)

    @property
    def used_to(self) -> datetime:
        """When the last one closed."""
        return _last_close(self.frames.candles)

    def told_inputs(self) -> dict[str, Any]:
        """The inputs as `backtest_run` keeps them."""
        return {
            name: {
                "from": self.input_markets[name],
                "candles": len(frame),
                "first_close": frame.index[0].isoformat() if len(frame) else None,
                "last_close": frame.index[-1].isoformat() if len(frame) else None,
            }
            for name, frame in self.frames.inputs.items()
        }


async def named_strategy(connection: Connection, name: str) -> Named:
    """What the strategy's row says. InputError if there is none, or one without a class."""
    rows = await fetch_all(connection, ROW, [name])
    if not rows or rows[0].path is None:
        known = ", ".join(row.name for row in await fetch_all(connection, NAMES)) or "none yet (tallydesk strategy add)"
        what = "no strategy" if not rows else "a strategy without a class"
        raise InputError(
            f'there is {what} "{name}": with a class there is {known}; a class is written module:Class, such as '
            "strategies.sma_cross:SmaCross"
        )
    row = rows[0]
    stake = {"stake": _plain(row.stake), "stake_in_percent": row.stake_unit == "%"}
    return Named(row.name, row.path, row.params, row.market, row.timeframe, row.schedule, stake)


async def market_settings(connection: Connection, market: Market, over: Iterable[str] = ()) -> dict[str, Any]:
    """Fees, steps and minimums of the market's row, as settings of a backtest. A fee below 0, a rebate, counts as 0.

    Of a market that no venue stands behind nobody said what it takes: then fees are left out, and are the default. What
    `over` names is set otherwise. Raises InputError: a step that is finer than a backtest counts.
    """
    row = await fetch_one(connection, TERMS, [market.id])
    found = {name: getattr(row, name) for name in ("price_tick", "quantity_step", "quantity_min", "cost_min")}
    terms = {name: _plain(value) for name, value in found.items() if value and name not in over}
    for name, value in terms.items():
        if Decimal(value) % UNIT:
            raise InputError(
                f"{market.name}: its {name} is {value}, and a backtest counts in 1e-8; leave it out with "
                f"--settings '{{\"{name}\": null}}'"
            )
    if not row.unknown_fees:
        terms |= {"maker": _plain(max(row.maker_fee, 0)), "taker": _plain(max(row.taker_fee, 0))}
    return terms | {"fee_side": row.fee_side}


def _plain(value: Any) -> str:
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


# Candles


async def load_candles(
    connection: Connection,
    strategy: Strategy[Any],
    market: str,
    timeframe: str,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Loaded:
    """The stored candles that open at or after `since` and close at or before `until`, and those of the inputs.

    Of inputs, as many are read from before `since` as a live run would see. Raises InputError: an unknown market or
    timeframe, one that is not stored, a range without candles, too few for the warm-up.
    """
    length = timeframe_named(timeframe)
    _check_range(since, until)
    found = await find_market(connection, market, from_file=True)
    candles = await _stored(connection, found, length, since, until)
    where = f"{found.name} {length.name}"
    _check_enough(strategy, candles, where, since, until, await _span(connection, found, length))
    missing = {"": await read_missing(connection, found.id, length.id, candles, gap_policy(strategy))}
    frames, markets = await _inputs(connection, strategy, found, length, candles, missing)
    return Loaded(Frames(candles, timeframe, frames, missing), found, "database", markets, since, until)


async def _inputs(
    connection: Connection,
    strategy: Strategy[Any],
    market: Market,
    timeframe: "Timeframe",
    candles: "DataFrame",
    missing: dict[str, Missing],
) -> "tuple[dict[str, DataFrame], dict[str, str]]":
    """The candles of the inputs, and where they are from; their gaps are put into `missing`."""
    wanted = inputs_of(strategy)
    if not wanted:
        return {}, {}
    back = reach_of(strategy, timeframe.name).inputs
    frames, markets = {}, {}
    first = to_milliseconds(_first_open(candles, timeframe.name))
    for name, given in wanted.items():
        other = market if given.market is None else await find_market(connection, given.market, from_file=True)
        length = timeframe_named(given.timeframe or timeframe.name)
        since = from_milliseconds(max(0, length.earlier(first, back[name])))
        try:
            frames[name] = await _stored(connection, other, length, since, _last_close(candles))
        except InputError as error:
            raise InputError(f"input {name}: {error}") from None
        missing[name] = await read_missing(connection, other.id, length.id, frames[name], gap_policy(strategy))
        markets[name] = f"{other.name} {length.name}"
    return frames, markets


async def _stored(
    connection: Connection, market: Market, timeframe: "Timeframe", since: datetime | None, until: datetime | None
) -> "DataFrame":
    """Candles; InputError that says what there is if there is none."""
    frame = await read_buckets(connection, market.id, timeframe.id, since=since, until=until)
    if len(frame):
        return frame
    stored = {row.name: row for row in await fetch_all(connection, STORED, [market.id])}
    if not stored:
        others = [row.name for row in await fetch_all(connection, OTHERS)]
        known = f"there are candles of {', '.join(others)}" if others else "there are none of any market"
        raise InputError(
            f"{market.name} has no candles yet: {known}; tallydesk bucket import and tallydesk feed add bring some"
        )
    if timeframe.name not in stored:
        lengths = ", ".join(f"{name} ({_days(row.first, row.newest)})" for name, row in stored.items())
        raise InputError(
            f"{market.name} has no {timeframe.name} candles: it has {lengths}; "
            "tallydesk bucket derive makes larger ones"
        )
    row = stored[timeframe.name]
    raise InputError(
        f"{market.name} has no {timeframe.name} candles{_asked(since, until)}: it has those "
        f"{_days(row.first, row.newest)}"
    )


async def _span(connection: Connection, market: Market, timeframe: "Timeframe") -> tuple[datetime, datetime] | None:
    rows = [row for row in await fetch_all(connection, STORED, [market.id]) if row.name == timeframe.name]
    return (rows[0].first, rows[0].newest) if rows else None


def load_files(
    paths: Sequence[Path],
    strategy: Strategy[Any],
    timeframe: str,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    stamp: "Stamp | None" = None,
    inputs: Mapping[str, Path] | None = None,
    market: Market | None = None,
) -> Loaded:
    """The candles of files in any format that `bucket import` reads, of one market; `inputs` names a file for each.

    Raises InputError as `load_candles`, and for what is wrong in a file.
    """
    length = timeframe_named(timeframe)
    _check_range(since, until)
    whole = _file_frame(paths, length, stamp)
    candles = _between(whole, length, since, until)
    where = ", ".join(path.name for path in paths)
    span = (_first_open(whole, timeframe), _last_close(whole))
    if not len(candles):
        raise InputError(f"{where} has no {timeframe} candles{_asked(since, until)}: it has those {_days(*span)}")
    _check_enough(strategy, candles, where, since, until, span)
    frames = _input_files(strategy, timeframe, inputs or {}, stamp, _last_close(candles))
    names = {name: path.name for name, path in (inputs or {}).items()}
    return Loaded(Frames(candles, timeframe, frames), market, where, names, since, until)


def _input_files(
    strategy: Strategy[Any], timeframe: str, given: Mapping[str, Path], stamp: "Stamp | None", until: datetime
) -> "dict[str, DataFrame]":
    wanted = inputs_of(strategy)
    unknown = sorted(given.keys() - wanted.keys())
    if unknown:
        known = ", ".join(wanted) or "none"
        raise InputError(f"--input {unknown[0]}: {type(strategy).__name__} has no such input; it has {known}")
    frames = {}
    for name, one in wanted.items():
        length = timeframe_named(one.timeframe or timeframe)
        if name not in given:
            raise InputError(
                f"{type(strategy).__name__} needs candles of its input {name} ({length.name}, "
                f"{one.market or 'the same market'}): say where they are with --input {name}=FILE, or run on stored "
                "candles with --market"
            )
        frames[name] = _between(_file_frame([given[name]], length, stamp), length, None, until)
    return frames


def _file_frame(paths: Sequence[Path], timeframe: "Timeframe", stamp: "Stamp | None") -> "DataFrame":
    import numpy as np

    candles = read_files(paths, timeframe, stamp).candles
    numbers = np.array([candles.open, candles.high, candles.low, candles.close, candles.volume])
    return Columns(timeframe.closes(candles.time_open), numbers).frame()


def _between(frame: "DataFrame", timeframe: "Timeframe", since: datetime | None, until: datetime | None) -> "DataFrame":
    first = 0
    if since is not None:
        opens = timeframe.opens(closes_of(frame))
        first = int(opens.searchsorted(to_milliseconds(since)))
    last = len(frame) if until is None else int(frame.index.searchsorted(until, side="right"))
    return frame.iloc[first:last]


# What is said of them


def _check_range(since: datetime | None, until: datetime | None) -> None:
    if since is not None and until is not None and since >= until:
        raise InputError(f"--from is {since:%Y-%m-%d %H:%M} and --to {until:%Y-%m-%d %H:%M}: from must be before to")


def _check_enough(
    strategy: Strategy[Any],
    candles: "DataFrame",
    where: str,
    since: datetime | None,
    until: datetime | None,
    span: tuple[datetime, datetime] | None,
) -> None:
    """One candle more than the warm-up: an entry needs a candle before it that is known, and one after it to fill."""
    with telling("warm_up", type(strategy).__module__):
        least = needed(strategy) + 1
    if len(candles) < least:
        there = f"; it has those {_days(*span)}" if span else ""
        raise InputError(
            f"{where} has {len(candles)} candles{_asked(since, until)}: {type(strategy).__name__} needs "
            f"{least - 1} for its warm-up, and at least one more{there}"
        )


def _asked(since: datetime | None, until: datetime | None) -> str:
    begin = f" from {since:%Y-%m-%d %H:%M}" if since else ""
    end = f" to {until:%Y-%m-%d %H:%M}" if until else ""
    return begin + end


def _days(first: datetime, last: datetime) -> str:
    return f"from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"


def _first_open(frame: "DataFrame", timeframe: str) -> datetime:
    closes = closes_of(frame.iloc[:1])
    return from_milliseconds(int(timeframe_named(timeframe).opens(closes)[0]))


def _last_close(frame: "DataFrame") -> datetime:
    moment: datetime = frame.index[-1].to_pydatetime()
    return moment
