"""The end of a sweep: the best set of each fold, how likely its Sharpe ratio is real, what it made out of sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg.types.json import Jsonb

from trader.backtest.array import run
from trader.backtest.data import bars_from_frame
from trader.backtest.deflated import Moments, deflated_sharpe, variance_of
from trader.backtest.measures import measure
from trader.backtest.result import Result
from trader.backtest.run import backtest
from trader.backtest.settings import Settings
from trader.backtest.sweep_row import Candles, positions
from trader.backtest.trial import Task, Told, plain, told_of
from trader.backtest.walk_forward import closed, cut, joined, left_over, with_warm_up
from trader.db import Connection, fetch_all, fetch_one
from trader.errors import InputError
from trader.strategy import needed

if TYPE_CHECKING:
    from pandas import DataFrame

BEST = """
SELECT number, params, in_sample FROM sweep_trial
 WHERE sweep_id = %s AND fold = %s AND value IS NOT NULL ORDER BY value DESC, number LIMIT 1
"""
# In the order of their numbers: sums of floats depend on theirs.
SHARPES = """
SELECT array_agg((in_sample->>'sharpe_period')::float8 ORDER BY number) AS sharpes, count(*) AS tries
  FROM sweep_trial WHERE sweep_id = %s AND fold = %s AND state = 'done'
"""
FIRST_ERROR = """
SELECT count(*) AS trials, count(*) FILTER (WHERE state = 'failed') AS failed, (array_agg(error ORDER BY fold, number)
         FILTER (WHERE error IS NOT NULL))[1] AS error FROM sweep_trial WHERE sweep_id = %s
"""
WRITE_FOLD = "UPDATE sweep_fold SET best = %s, deflated_sharpe = %s WHERE sweep_id = %s AND fold = %s"
WRITE_TEST = "UPDATE sweep_trial SET out_of_sample = %s WHERE sweep_id = %s AND fold = %s AND number = %s"
DONE = """
UPDATE sweep SET state = 'done', finished_at = clock_timestamp(), out_of_sample = %s
 WHERE id = %s AND state = 'running'
"""


@dataclass(frozen=True)
class Chosen:
    """The best set of a fold; None: none has a value."""

    fold: Any
    """Its row."""
    number: int | None = None
    params: Mapping[str, Any] | None = None
    deflated: float | None = None


@dataclass(frozen=True)
class Tested:
    """What came of the tests."""

    each: tuple[Told | None, ...]
    """Of each fold; None: there was no set to run."""
    joined: Told


async def choose(connection: Connection, sweep: Any, fold: Any) -> Chosen:
    """The best set of a fold: of equal ones, the first."""
    rows = await fetch_all(connection, BEST, [sweep.id, fold.fold])
    if not rows:
        return Chosen(fold)
    all_of_it, best = await fetch_one(connection, SHARPES, [sweep.id, fold.fold]), rows[0]
    moments = Moments(*(best.in_sample[name] for name in ("periods", "sharpe_period", "skew", "kurtosis")))
    deflated = deflated_sharpe(moments, all_of_it.tries, variance_of(all_of_it.sharpes))
    return Chosen(fold, best.number, best.params, deflated)


async def check_outcome(connection: Connection, sweep: Any) -> None:
    """InputError if not one trial could be run: then the class is broken, not its parameters."""
    row = await fetch_one(connection, FIRST_ERROR, [sweep.id])
    if not row.trials:
        raise InputError("no set is one that the class takes")
    if row.trials == row.failed:
        raise InputError(f"all {row.trials} trials failed, the first one: {row.error}")


def run_tests(task: Task, chosen: list[Chosen], candles: Candles, own: "DataFrame") -> Tested:
    """Run the best set of each fold on its test, each with what the one before left over."""
    results: list[Result] = []
    each: list[Told | None] = []
    settings = task.settings
    for one in chosen:
        result = closed(_test(task, one, candles, own, settings))
        results.append(result)
        each.append(None if one.params is None else told_of(result, measure(result)))
        settings = settings.model_copy(update={"deposit": left_over(result)})
    measures, moments = joined(results)
    told = plain(measures) | plain(moments) | {"sharpe_probability": deflated_sharpe(moments, 1, 0.0)}
    return Tested(tuple(each), told)


def _test(task: Task, one: Chosen, candles: Candles, own: "DataFrame", settings: Settings) -> Result:
    where = positions(own, one.fold.test_first, one.fold.test_last)
    if one.params is None:  # nothing was worth a choice: it stays out
        bars = bars_from_frame(own.iloc[where], candles.sweep.timeframe)
        return run(bars, np.zeros(len(bars)), settings)
    strategy = task.made(one.params)
    wide = with_warm_up(where, needed(strategy), settings)
    frames = candles.frames(strategy, candles.part(own.iloc[wide]))
    return cut(backtest(strategy, frames, settings, task.schedule), where.start - wide.start)


async def write_end(connection: Connection, sweep: Any, chosen: list[Chosen], tested: Tested | None) -> bool:
    """Write all of it in one transaction; False: the sweep was stopped, or another did it."""
    async with connection.transaction():
        together = Jsonb(tested.joined) if tested else None
        if not (await connection.execute(DONE, [together, sweep.id])).rowcount:
            return False
        for place, one in enumerate(chosen):
            await connection.execute(WRITE_FOLD, [one.number, one.deflated, sweep.id, one.fold.fold])
            if tested and one.number is not None:
                keys = [sweep.id, one.fold.fold, one.number]
                await connection.execute(WRITE_TEST, [Jsonb(tested.each[place]), *keys])
    return True
