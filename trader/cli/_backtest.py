"""What `tallydesk backtest run` and `check` do: everything that is asked for, read, computed, stored."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trader import config
from trader.backtest.load import Loaded, Named, load_candles, load_files, market_settings, named_strategy
from trader.backtest.memory import keep_freed_memory
from trader.backtest.record import Run, began, compute
from trader.backtest.settings import FEE, Settings, parse_settings
from trader.cli._json import parse_object
from trader.cli._session import session
from trader.errors import InputError, TallydeskError
from trader.market import find_market
from trader.strategy import SignalError, Strategy, describe, load, parse_schedule

if TYPE_CHECKING:
    from trader.backtest.result import Result
    from trader.bucket.formats import Stamp
    from trader.db import Connection


@dataclass(frozen=True)
class Wanted:
    """What was typed."""

    what: str
    """module:Class, or the name of a row of `strategy`."""
    market: str | None = None
    timeframe: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    params: str = "{}"
    schedule: str | None = None
    files: tuple[Path, ...] = ()
    inputs: tuple[str, ...] = ()
    stamp: str = "auto"
    gaps: str = ""
    settings: str = "{}"
    options: tuple[tuple[str, Any], ...] = ()
    """Settings that have options of their own; None: not given."""
    seed: int = 0
    store: bool = True


@dataclass(frozen=True)
class Ready:
    """All that is needed to compute."""

    strategy: Strategy[Any]
    path: str
    name: str | None
    loaded: Loaded
    settings: Settings
    schedule: str


@asynccontextmanager
async def _maybe(needed: bool) -> "AsyncIterator[Connection | None]":
    """A connection, where one is needed: candles of a file can be tried without any database."""
    if not needed:
        config.load()  # it says where strategies of one's own are
        yield None
        return
    async with session() as (_, connection):
        yield connection


async def run(wanted: Wanted) -> "tuple[Run, Result | None, int]":
    """Compute a backtest, and store it; the run, the whole result if there is one, the bar of its first decision."""
    started = datetime.now(UTC)
    async with _maybe(wanted.store or _reads(wanted)) as connection:
        ready = await prepare(wanted, connection)
        record = began(
            ready.strategy, ready.loaded, ready.settings, ready.schedule, started,
            path=ready.path, name=ready.name, seed=wanted.seed,
        )  # fmt: skip
        made, result, since = compute(ready.strategy, ready.loaded, ready.settings, record)
        if not wanted.store or connection is None:
            return made, result, since
        from trader.backtest.store import save

        row = await save(connection, made)
        return replace(made, id=row.id, finished_at=row.finished_at), result, since


async def ready(wanted: Wanted) -> Ready:
    """What is needed to compute, without anything stored."""
    async with _maybe(_reads(wanted)) as connection:
        return await prepare(wanted, connection)


def _reads(wanted: Wanted) -> bool:
    """Whether the database has something that is needed: candles, a market's terms, a strategy's row."""
    return not wanted.files or wanted.market is not None or ":" not in wanted.what


@contextmanager
def sentences(path: str) -> Iterator[None]:
    """Turn what the code of a class raises into a sentence with file and line; ours are sentences already."""
    try:
        yield
    except TallydeskError:
        raise
    except (Exception, SystemExit) as error:
        raise SignalError(f"{path}: {describe(error, path.partition(':')[0])}") from error


async def prepare(wanted: Wanted, connection: "Connection | None") -> Ready:
    """Find class, candles and terms. InputError: see `load`, and for options that do not fit together."""
    keep_freed_memory()  # all that comes is computing
    named = None
    if connection is not None and ":" not in wanted.what:
        named = await named_strategy(connection, wanted.what)
    market, timeframe = _where(wanted, named)
    assumed = _gaps(wanted)
    params = {**(named.params if named else {}), **parse_object("--params", wanted.params)}
    path = named.path if named else wanted.what
    with sentences(path):
        strategy = load(path, params)
    schedule = parse_schedule(wanted.schedule or (named.schedule if named else "bucket"), timeframe)
    loaded = await _load(wanted, connection, strategy, market, timeframe)
    given = {name: value for name, value in wanted.options if value is not None}
    own = {**assumed, **parse_object("--settings", wanted.settings)}
    terms = await market_settings(connection, loaded.market, own) if connection and loaded.market else {}
    settings = parse_settings({**terms, **(named.stake if named else {}), **given, **own})
    return Ready(strategy, path, named.name if named else None, loaded, settings, schedule)


def _where(wanted: Wanted, named: Named | None) -> tuple[str | None, str]:
    """Market and timeframe, as typed, else as in the strategy's row."""
    market = wanted.market or (named.market if named else None)
    timeframe = wanted.timeframe or (named.timeframe if named else None)
    if market is None and not wanted.files:
        raise InputError("say on which candles: --market binance:BTC/USDT, or --file FILE")
    if timeframe is None:
        raise InputError("say how long its candles are: --timeframe 1h")
    if wanted.inputs and not wanted.files:
        raise InputError("--input belongs to --file: stored candles of inputs are found by what the class declares")
    return market, timeframe


async def _load(
    wanted: Wanted, connection: "Connection | None", strategy: Strategy[Any], market: str | None, timeframe: str
) -> Loaded:
    if not wanted.files:
        if connection is None or market is None:
            raise AssertionError("stored candles need a connection and a market")
        return await load_candles(connection, strategy, market, timeframe, wanted.since, wanted.until)
    found = await find_market(connection, market, from_file=True) if connection and market else None
    return load_files(
        wanted.files, strategy, timeframe, wanted.since, wanted.until,
        stamp=_stamp(wanted.stamp), inputs=_inputs(wanted.inputs), market=found,
    )  # fmt: skip


def _stamp(text: str) -> "Stamp | None":
    if text not in ("auto", "open", "close"):
        raise InputError(f"--stamp is {text!r}: allowed are open and close, and auto")
    return "open" if text == "open" else "close" if text == "close" else None


def _gaps(wanted: Wanted) -> dict[str, Any]:
    """What the gaps of files are taken for, as a setting. InputError: it is not known, or there is no file."""
    if wanted.gaps not in ("", "no-trades", "unknown"):
        raise InputError(f"--gaps is {wanted.gaps!r}: allowed are no-trades and unknown")
    if not wanted.files:
        if wanted.gaps:
            raise InputError(
                "--gaps belongs to --file: of stored candles the verdicts count (tallydesk bucket gaps shows them, "
                "tallydesk bucket import FILE --gaps no-trades declares them)"
            )
        return {}
    return {"file_gaps": (wanted.gaps or "no-trades").replace("-", "_")}


def _inputs(given: Sequence[str]) -> dict[str, Path]:
    found = {}
    for one in given:
        name, sign, path = one.partition("=")
        if not (name and sign and path):
            raise InputError(f"--input is {one!r}: write NAME=FILE")
        found[name] = Path(path)
    return found


def stake_of(text: str | None) -> tuple[tuple[str, Any], ...]:
    """`50%` and `1000` as settings. InputError: more than all that is free."""
    if text is None:
        return ()
    number, percent = text.strip().removesuffix("%").strip(), text.strip().endswith("%")
    value = _number(number)
    if percent and value is not None and value > 100:
        raise InputError(
            f"--stake is {text!r}: at most 100% of what is free can be spent; write --stake {number} for an amount of "
            "quote"
        )
    return (("stake", number), ("stake_in_percent", percent))


def fee_of(text: str | None) -> tuple[tuple[str, Any], ...]:
    """Maker's and taker's share as settings. InputError: it is no share."""
    if text is None:
        return ()
    value = _number(text)
    if value is None or not 0 <= value < Decimal("0.5"):
        raise InputError(f"--fee is {text!r}: {FEE}")
    return (("maker", text), ("taker", text))


def _number(text: str) -> Decimal | None:
    """A finite number; None: it is none."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None
