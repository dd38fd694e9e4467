"""A sweep that is there: its row and its folds, and the candles that its trials run on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from trader.backtest.missing import read_missing
from trader.backtest.run import Frames
from trader.backtest.search import Search
from trader.backtest.settings import parse_settings
from trader.backtest.space import parse_space
from trader.backtest.trial import Task, candle_digest, code_digest
from trader.bucket import CandleCache, read_buckets, timeframe_named
from trader.config import Settings
from trader.db import Connection, fetch_all, fetch_one
from trader.errors import InputError
from trader.market import find_market
from trader.strategy import Missing, Strategy, find_class, gap_policy, inputs_of
from trader.strategy.schedule import milliseconds

if TYPE_CHECKING:
    from pandas import DataFrame

LOAD = """
SELECT s.id, s.class AS path, s.code_digest, s.market_id, s.timeframe_id, s.since, s.until, s.candle_digest, s.params,
       s.space, s.settings, s.schedule, s.method::text AS method, s.seed, s.trials, s.skipped, s.generation_size,
       s.generation, s.chunk_size, s.objective, s.folds, s.embargo, s.state::text AS state, s.error, s.out_of_sample,
       e.name || ':' || m.symbol AS market, t.name AS timeframe
  FROM sweep s JOIN market m ON m.id = s.market_id JOIN exchange e ON e.id = m.exchange_id
  JOIN timeframe t ON t.id = s.timeframe_id
 WHERE s.id = %s
"""
NEWEST = "SELECT id FROM sweep ORDER BY id DESC LIMIT %s"
MOST_NAMED = 10
NOTE_INPUT = """
INSERT INTO sweep_input (sweep_id, market_id, timeframe_id, digest) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
INPUT = "SELECT digest FROM sweep_input WHERE (sweep_id, market_id, timeframe_id) = (%s, %s, %s)"
PROOF = "SELECT digest FROM bucket_feed WHERE market_id = %s AND timeframe_id = %s"
FOLDS = "SELECT * FROM sweep_fold WHERE sweep_id = %s ORDER BY fold"


async def load_sweep(connection: Connection, number: int) -> Any:
    """The row of a sweep. InputError if there is none."""
    rows = await fetch_all(connection, LOAD, [number])
    if not rows:
        there = await fetch_all(connection, NEWEST, [MOST_NAMED + 1])
        names = ", ".join(str(row.id) for row in there[:MOST_NAMED]) or "none yet"
        older = " and older ones" if len(there) > MOST_NAMED else ""
        raise InputError(
            f"sweep {number}: there is none of this number; there is {names}{older} (tallydesk sweep list)"
        )
    return rows[0]


async def load_folds(connection: Connection, number: int) -> list[Any]:
    """Its folds, in order."""
    return await fetch_all(connection, FOLDS, [number])


def search_of(sweep: Any) -> Search:
    """What a sweep goes through."""
    return Search(find_class(sweep.path), sweep.params, parse_space(sweep.space))


def task_of(sweep: Any) -> Task:
    """What its trials have in common. InputError: the file of the class is another one by now."""
    strategy = find_class(sweep.path)
    if code_digest(strategy) != sweep.code_digest:
        raise InputError(
            f"{strategy.__module__} is not the file that it was when the sweep began: begin a new sweep, or start the "
            "worker anew if it was running before the file was changed"
        )
    return Task(strategy, sweep.params, parse_settings(sweep.settings), sweep.objective, sweep.schedule)


def positions(candles: "DataFrame", first: datetime, last: datetime) -> slice:
    """Where the candles are that close from `first` to `last`."""
    index = candles.index
    return slice(int(index.searchsorted(first)), int(index.searchsorted(last, side="right")))


async def read_candles(
    connection: Connection,
    settings: Settings,
    market_id: int,
    timeframe_id: int,
    since: datetime | None,
    until: datetime | None,
) -> "DataFrame":
    """Candles as `read_buckets` gives them, through the copy in files if there is one."""
    cache = CandleCache.of(settings)
    if cache is None:
        return await read_buckets(connection, market_id, timeframe_id, since=since, until=until)
    return await cache.read(connection, market_id, timeframe_id, since=since, until=until)


async def _proof(connection: Connection, market_id: int, timeframe_id: int) -> int | None:
    """The hash that the database keeps of a whole series; None: it has none."""
    rows = await fetch_all(connection, PROOF, [market_id, timeframe_id])
    return rows[0].digest if rows else None


@dataclass
class Kept:
    """The candles of the sweep that a process was at last, so that its next chunk need not read them all again."""

    digest: str = ""
    """The sweep's: what they are, with what is missing among them."""
    proof: int | None = None
    """The hash of the whole series when they were read: as long as the table has it, they are in there."""
    refused: bytes = b""
    """What is missing among them that the class does not decide across, in the table as in the digest."""
    candles: "DataFrame | None" = None


@dataclass
class Candles:
    """The candles of a sweep: its own, and those of inputs. Each is read once."""

    connection: Connection
    settings: Settings
    sweep: Any
    kept: Kept = field(default_factory=Kept)
    _inputs: "dict[tuple[str, str], DataFrame]" = field(default_factory=dict)
    _missing: dict[tuple[str, str], Missing] = field(default_factory=dict)

    async def own(self) -> "DataFrame":
        """Those that it decides on. InputError if they are not what they were when it began."""
        sweep, kept, policy = self.sweep, self.kept, gap_policy(find_class(self.sweep.path))
        series = (sweep.market_id, sweep.timeframe_id)
        proof = await _proof(self.connection, *series)
        found = (
            kept.candles if proof is not None and (kept.digest, kept.proof) == (sweep.candle_digest, proof) else None
        )
        if found is None:
            kept.digest = ""
            found = await read_candles(self.connection, self.settings, *series, sweep.since, sweep.until)
        missing = await read_missing(self.connection, *series, found, policy)
        self._missing[sweep.market, sweep.timeframe] = missing
        refused = missing.refused(policy)
        told = refused.told(milliseconds(cast(Any, found.index)))
        as_before = (kept.digest, kept.refused) == (sweep.candle_digest, told)
        if not as_before and candle_digest(found, refused) != sweep.candle_digest:
            raise InputError(
                f"the candles of {sweep.market} {sweep.timeframe} from {sweep.since:%Y-%m-%d %H:%M} to "
                f"{sweep.until:%Y-%m-%d %H:%M} are not what they were when the sweep began: begin a new one"
            )
        kept.digest, kept.proof, kept.refused, kept.candles = sweep.candle_digest, proof, told, found
        return found

    async def read_inputs(self, strategies: Iterable[Strategy[Any]]) -> None:
        """Read what the inputs of some strategies need. InputError: a market or timeframe that is none, or candles that
        are not those of the sweep's first trials.
        """
        for market, timeframe in sorted({name for one in strategies for name in self._names(one).values()}):
            if (market, timeframe) not in self._inputs:
                found = await find_market(self.connection, market)
                length, policy = timeframe_named(timeframe).id, gap_policy(find_class(self.sweep.path))
                read = await read_candles(self.connection, self.settings, found.id, length, None, self.sweep.until)
                missing = await read_missing(self.connection, found.id, length, read, policy)
                digest = candle_digest(read, missing.refused(policy))
                await self._check_input(f"{market} {timeframe}", found.id, length, digest)
                self._inputs[market, timeframe], self._missing[market, timeframe] = read, missing

    async def _check_input(self, name: str, market_id: int, timeframe_id: int, digest: str) -> None:
        """InputError if another worker, or another chunk, had other candles. The first one says what they are."""
        key = [self.sweep.id, market_id, timeframe_id]
        await self.connection.execute(NOTE_INPUT, [*key, digest])
        if (await fetch_one(self.connection, INPUT, key)).digest != digest:
            raise InputError(
                f"the candles of its input {name} are not what they were when its first trials ran: begin a new sweep"
            )

    def part(self, own: "DataFrame") -> Frames:
        """The frames for all runs over `own`, some of its candles: they are checked once."""
        return Frames(own, self.sweep.timeframe)

    def frames(self, strategy: Strategy[Any], part: Frames) -> Frames:
        """The frames for a run of a strategy over a part, once its inputs are read."""
        names = self._names(strategy)
        inputs: Mapping[str, DataFrame] = {name: self._inputs[one] for name, one in names.items()}
        series = names | {"": (self.sweep.market, self.sweep.timeframe)}
        return part.with_inputs(inputs, {name: self._missing[one] for name, one in series.items()})

    def _names(self, strategy: Strategy[Any]) -> dict[str, tuple[str, str]]:
        return {
            name: (one.market or self.sweep.market, one.timeframe or self.sweep.timeframe)
            for name, one in inputs_of(strategy).items()
        }
