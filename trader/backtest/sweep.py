"""Making a sweep: what a person asks for, checked, and its rows: the folds, and the sets that are known beforehand."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from trader.backtest.across import check_stored
from trader.backtest.data import bars_from_frame
from trader.backtest.missing import read_missing
from trader.backtest.search import Search, check_sampler, grid_points, random_points
from trader.backtest.settings import parse_settings
from trader.backtest.space import Point, grid_size, parse_space, text_of
from trader.backtest.sweep_row import read_candles
from trader.backtest.trial import Task, candle_digest, code_digest
from trader.backtest.walk_forward import Fold, check_settings, check_tests, folds
from trader.bucket import Timeframe, timeframe_named
from trader.clock import from_milliseconds, to_milliseconds
from trader.config import Settings
from trader.db import Connection, fetch_all, fetch_one
from trader.errors import InputError
from trader.market import find_market
from trader.strategy import Missing, find_class, gap_policy, parse_schedule, search_space

if TYPE_CHECKING:
    from pandas import DataFrame

WORK = 4_000_000
"""Candles that the trials of a chunk go over together, about."""
LARGEST_CHUNK = 100
LEAST_CHUNKS = 8
"""What can be done at a time is cut into so many, so that several workers end together."""
GENERATION = 16
"""Sets that a sampler proposes at a time: enough for several workers, few enough that it learns."""
TRAIN = 3

INSERT = """
INSERT INTO sweep (class, code_digest, market_id, timeframe_id, since, until, candles, candle_digest, params, space,
                   settings, schedule, method, seed, trials, generation_size, chunk_size, objective, folds, train,
                   embargo, anchored)
VALUES (%(class)s, %(code_digest)s, %(market_id)s, %(timeframe_id)s, %(since)s, %(until)s, %(candles)s,
        %(candle_digest)s, %(params)s, %(space)s, %(settings)s, %(schedule)s, %(method)s, %(seed)s, %(trials)s,
        %(generation_size)s, %(chunk_size)s, %(objective)s, %(folds)s, %(train)s, %(embargo)s, %(anchored)s)
RETURNING id
"""
FOLD = """
INSERT INTO sweep_fold (sweep_id, fold, train_first, train_last, test_first, test_last) VALUES (%s, %s, %s, %s, %s, %s)
"""
COPY = "COPY sweep_trial (sweep_id, fold, number, generation, chunk, params) FROM STDIN"
OTHER_FOLDS = """
INSERT INTO sweep_trial (sweep_id, fold, number, chunk, params)
SELECT t.sweep_id, f.fold, t.number, t.chunk + (f.fold - 1) * %(chunks)s::int, t.params
  FROM sweep_trial t JOIN sweep_fold f ON f.sweep_id = t.sweep_id AND f.fold > 1
 WHERE t.sweep_id = %(sweep)s AND t.fold = 1
"""
COUNTED = "UPDATE sweep SET trials = %s, skipped = %s WHERE id = %s"
STORED = """
SELECT t.name, x.first, x.last
  FROM bucket_feed f JOIN timeframe t ON t.id = f.timeframe_id
 CROSS JOIN LATERAL (SELECT min(b.time_close) AS first, max(b.time_close) AS last FROM bucket b
                      WHERE b.market_id = f.market_id AND b.timeframe_id = f.timeframe_id) x
 WHERE f.market_id = %s AND x.first IS NOT NULL ORDER BY t.id
"""


@dataclass(frozen=True)
class Plan:
    """What a person asks for."""

    path: str
    """module:Class."""
    market: str
    timeframe: str
    since: datetime | None = None
    until: datetime | None = None
    space: Mapping[str, str] = field(default_factory=dict)
    """Such as {"fast": "2..50:2"}. Empty: the class's own search ranges."""
    params: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "bucket"
    random: int | None = None
    """So many sets by chance."""
    sampler: str | None = None
    """So many (`trials`) that Optuna's sampler proposes. Neither: all of the grid."""
    trials: int = 0
    seed: int = 0
    generation_size: int = GENERATION
    chunk_size: int | None = None
    objective: str = "sharpe"
    folds: int = 0
    train: int = TRAIN
    embargo: int = 0
    anchored: bool = False


@dataclass(frozen=True)
class Made:
    """A sweep that is there now."""

    id: int
    trials: int
    """Sets that are to be tried in each fold."""
    skipped: int
    reason: str | None
    """Why the first of the skipped ones was not taken."""


@dataclass
class Draft:
    """A plan that was checked, with its candles."""

    plan: Plan
    search: Search
    task: Task
    market_id: int
    timeframe: Timeframe
    candles: "DataFrame"
    refused: Missing
    """What is missing among them that the class does not decide across."""
    folds: list[Fold]

    @property
    def chunk_size(self) -> int:
        """How many trials a job runs: about the same work whatever the candles, fewer where few workers would share."""
        plan = self.plan
        if plan.chunk_size:
            return plan.chunk_size
        longest = max((len(one.train) for one in self.folds), default=len(self.candles))
        sets = plan.generation_size if plan.sampler else plan.random or grid_size(self.search.space)
        shares = -(-sets * max(1, len(self.folds)) // LEAST_CHUNKS)
        return max(1, min(LARGEST_CHUNK, WORK // longest, shares))


async def make_sweep(connection: Connection, settings: Settings, plan: Plan) -> Made:
    """Write the rows of a sweep, all or none. InputError names what of the plan is wrong, and what there is."""
    draft = await check_plan(connection, settings, plan)
    if not plan.sampler:
        _check_takes(draft)
    async with connection.transaction():
        number = (await fetch_one(connection, INSERT, _values(draft))).id
        for row in _folds(draft):
            await connection.execute(FOLD, [number, *row])
        trials = plan.trials if plan.sampler else await _write_sets(connection, number, draft)
        await connection.execute(COUNTED, [trials, draft.search.skipped, number])
    return Made(number, trials, draft.search.skipped, draft.search.reason)


async def check_plan(connection: Connection, settings: Settings, plan: Plan) -> Draft:
    """What is wrong with a plan is said before anything is written: InputError."""
    strategy = find_class(plan.path)
    declared = {name: text_of(one) for name, one in search_space(strategy).items() if name not in plan.params}
    search = Search(strategy, plan.params, parse_space(plan.space or declared))
    task = Task(strategy, plan.params, parse_settings(plan.settings), plan.objective, plan.schedule)
    check_stored(task.settings)
    length = timeframe_named(plan.timeframe)
    parse_schedule(plan.schedule, plan.timeframe)
    if plan.chunk_size is not None and plan.chunk_size < 1:
        raise InputError(f"chunk is {plan.chunk_size}: at least 1 is allowed")
    if plan.random is not None and plan.sampler:
        raise InputError("--random and --optuna: only one of the two can be")
    if plan.sampler:
        check_sampler(plan.sampler, plan.trials)
        if plan.generation_size < 1:
            raise InputError(f"generation is {plan.generation_size}: at least 1 is allowed")
    market = await find_market(connection, plan.market)
    candles = await read_candles(connection, settings, market.id, length.id, plan.since, plan.until)
    if len(candles) < 2:
        raise InputError(await _without_candles(connection, plan, market.id))
    cut, policy = _cut(candles, plan, task), gap_policy(strategy)
    refused = (await read_missing(connection, market.id, length.id, candles, policy)).refused(policy)
    return Draft(plan, search, task, market.id, length, candles, refused, cut)


def _cut(candles: "DataFrame", plan: Plan, task: Task) -> list[Fold]:
    if not plan.folds:
        if plan.embargo or plan.anchored:
            raise InputError("--embargo and --anchored belong to --walk-forward")
        return []
    check_settings(task.settings)
    found = folds(len(candles), plan.folds, plan.train, plan.embargo, anchored=plan.anchored)
    check_tests(bars_from_frame(candles, plan.timeframe).time, found)
    return found


async def _without_candles(connection: Connection, plan: Plan, market_id: int) -> str:
    """What to say where there are no candles: what there is."""
    rows = await fetch_all(connection, STORED, [market_id])
    ends = [f"{one:%Y-%m-%d %H:%M}" if one else None for one in (plan.since, plan.until)]
    asked = f" from {ends[0] or 'the first'} to {ends[1] or 'the last'}" if any(ends) else ""
    there = "; ".join(f"{row.name} from {row.first:%Y-%m-%d %H:%M} to {row.last:%Y-%m-%d %H:%M}" for row in rows)
    what = f"{plan.market} {plan.timeframe}: fewer than two candles are stored{asked}"
    return f"{what}; there is {there or 'nothing yet (tallydesk bucket import, tallydesk feed add)'}"


def _values(draft: Draft) -> dict[str, Any]:
    plan = draft.plan
    closes = [to_milliseconds(one.to_pydatetime()) for one in (draft.candles.index[0], draft.candles.index[-1])]
    return {
        "class": plan.path,
        "code_digest": code_digest(draft.task.strategy),
        "market_id": draft.market_id,
        "timeframe_id": draft.timeframe.id,
        "since": from_milliseconds(draft.timeframe.earlier(closes[0], 1)),
        "until": from_milliseconds(closes[1]),
        "candles": len(draft.candles),
        "candle_digest": candle_digest(draft.candles, draft.refused),
        "params": Jsonb(dict(plan.params)),
        "space": Jsonb({one.name: one.text for one in draft.search.space}),
        "settings": Jsonb(json.loads(draft.task.settings.model_dump_json(exclude_defaults=True))),
        "schedule": plan.schedule,
        "method": plan.sampler or ("grid" if plan.random is None else "random"),
        "seed": plan.seed,
        "trials": max(1, plan.trials),
        "generation_size": plan.generation_size if plan.sampler else None,
        "chunk_size": draft.chunk_size,
        "objective": plan.objective,
        "folds": plan.folds,
        "train": plan.train if plan.folds else None,
        "embargo": plan.embargo,
        "anchored": plan.anchored,
    }


def _folds(draft: Draft) -> Iterator[tuple[Any, ...]]:
    """Number and times of close of each fold; without a walk-forward, fold 0 is all of it."""
    closes = draft.candles.index
    if not draft.folds:
        yield 0, closes[0].to_pydatetime(), closes[-1].to_pydatetime(), None, None
    for number, (train, test) in enumerate(draft.folds, 1):
        ends = (train[0], train[-1], test[0], test[-1])
        yield number, *(closes[place].to_pydatetime() for place in ends)


def _points(plan: Plan, search: Search) -> Iterator[Point]:
    """The sets of a grid, or those drawn."""
    return grid_points(search) if plan.random is None else random_points(search, plan.random, plan.seed)


def _check_takes(draft: Draft) -> None:
    """InputError if the class takes none of the sets; before a row is written, so that no number is used up."""
    search = replace(draft.search)  # what is counted here is counted again
    if next(_points(draft.plan, search), None) is None:
        raise InputError(f"none of {search.skipped} sets is one that the class takes: {search.reason}")


async def _write_sets(connection: Connection, number: int, draft: Draft) -> int:
    """All sets of a grid, or those drawn: for the first fold as they come, then for the others. How many there are."""
    size, points = draft.chunk_size, _points(draft.plan, draft.search)
    fold, count = (1 if draft.folds else 0), 0
    async with connection.cursor() as cursor, cursor.copy(COPY) as copy:
        for count, point in enumerate(points, 1):
            await copy.write_row((number, fold, count, 0, 1 + (count - 1) // size, Jsonb(point)))
    await connection.execute(OTHER_FOLDS, {"sweep": number, "chunks": 1 + (count - 1) // size})
    return count


async def write_generation(
    connection: Connection, sweep: Any, proposed: Mapping[int, list[Point]], numbers: Mapping[int, int]
) -> None:
    """Write what a sampler proposes for each fold, after the trials that `numbers` counts. Within a transaction."""
    row = await fetch_one(
        connection, "SELECT coalesce(max(chunk), 0) AS last FROM sweep_trial WHERE sweep_id = %s", [sweep.id]
    )
    chunk = row.last
    async with connection.cursor() as cursor, cursor.copy(COPY) as copy:
        for fold, points in proposed.items():
            for place, point in enumerate(points):
                chunk += place % sweep.chunk_size == 0
                values = (sweep.id, fold, numbers[fold] + place + 1, sweep.generation, chunk, Jsonb(point))
                await copy.write_row(values)
