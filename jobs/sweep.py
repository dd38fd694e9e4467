"""Sweeps: trials in chunks, each a job; and the job that goes on from there when all of a generation are done.

What is to be done is in the rows of `sweep_trial`; a job only says who does it. Whatever becomes of a job (its worker
killed, the queue pruned), the next tick queues another for what is pending. A chunk writes all of its results, or none,
and only where nothing was written: run twice, it is the same. Nothing depends on which worker was done first.

These jobs compute for seconds, or for ever, so they have a queue of their own, which only processes serve that do
nothing else (`jobs.worker.run_sweeps`): one chunk at a time, in a thread, so that the process beats and can be stopped.
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from procrastinate import App, JobContext
from psycopg.types.json import Jsonb

from jobs.app import Context, context_of
from jobs.thread import beside
from trader.backtest.search import Tried, propose
from trader.backtest.space import Point
from trader.backtest.sweep import write_generation
from trader.backtest.sweep_end import Tested, check_outcome, choose, run_tests, write_end
from trader.backtest.sweep_row import Candles, Kept, load_folds, load_sweep, positions, search_of, task_of
from trader.backtest.trial import Outcome, Task, try_set
from trader.db import LOST_CONNECTION, Connection, fetch_all
from trader.errors import InputError, TallydeskError
from trader.strategy import describe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pandas import DataFrame

QUEUE = "sweep"
CHUNK_TASK = "sweep.chunk"
ADVANCE_TASK = "sweep.advance"
MOST_QUEUED = 64
"""Chunks of one sweep that wait in the queue: it costs more with each job in it."""
MOST_ATTEMPTS = 5
"""Workers that one chunk may kill before the sweep is given up."""

# Below all other jobs. A chunk that runs already is left alone; of what waits already there is no second one.
DEFER_DUE = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, queueing_lock, args, scheduled_at)
SELECT %(queue)s, d.task, -5, d.key, d.key, d.args, NULL
  FROM sweep s CROSS JOIN LATERAL (
    SELECT %(chunk)s::text AS task, format('sweep:%%s:%%s', s.id, c.chunk) AS key,
           jsonb_build_object('sweep_id', s.id, 'chunk', c.chunk) AS args
      FROM (SELECT DISTINCT chunk FROM sweep_trial t
             WHERE t.sweep_id = s.id AND t.state = 'pending' AND t.chunk > %(after)s
             ORDER BY chunk LIMIT %(most)s) c
    UNION ALL
    SELECT %(advance)s, format('sweep:%%s', s.id), jsonb_build_object('sweep_id', s.id)
     WHERE NOT EXISTS (SELECT FROM sweep_trial t WHERE t.sweep_id = s.id AND t.state = 'pending')) d
 WHERE s.state = 'running' AND s.id = coalesce(%(sweep)s, s.id)
   AND NOT EXISTS (SELECT FROM procrastinate_jobs j WHERE j.lock = d.key AND j.status = 'doing')
ON CONFLICT (queueing_lock) WHERE status = 'todo' DO NOTHING
"""
DUE = {
    "queue": QUEUE, "chunk": CHUNK_TASK, "advance": ADVANCE_TASK, "most": MOST_QUEUED, "after": 0, "sweep": None,
}  # fmt: skip
KEPT = Kept()
"""Of this process, which runs one chunk at a time."""
NEXT = 2
"""Chunks that are queued at the end of one, from the far end of those that wait: looking at all is for the ticks."""

TRIALS = """
SELECT fold, number, params FROM sweep_trial
 WHERE sweep_id = %s AND chunk = %s AND state = 'pending' ORDER BY fold, number
"""
WRITE = """
UPDATE sweep_trial t SET state = r.state::sweep_trial_state, value = r.value, in_sample = r.measures, error = r.error
  FROM jsonb_to_recordset(%s) r (fold smallint, number int, state text, value float8, measures jsonb, error text)
 WHERE t.sweep_id = %s AND t.fold = r.fold AND t.number = r.number AND t.state = 'pending'
"""
FAIL = """
UPDATE sweep SET state = 'failed', error = %s, finished_at = clock_timestamp() WHERE id = %s AND state = 'running'
"""
PAST = "SELECT generation, params, value FROM sweep_trial WHERE sweep_id = %s AND fold = %s ORDER BY number"
PROPOSED = """
UPDATE sweep SET generation = generation + 1, skipped = %s WHERE id = %s AND generation = %s AND state = 'running'
"""

log = logging.getLogger("sweep")
Result = TypeVar("Result")


async def run_chunk(job: JobContext, sweep_id: int, chunk: int) -> None:
    """Run the trials of a chunk that are not run yet, and write what they made in one transaction."""
    context = context_of(job)
    async with context.pool.connection() as connection, _blaming(connection, sweep_id):
        sweep = await load_sweep(connection, sweep_id)
        trials = await fetch_all(connection, TRIALS, [sweep_id, chunk])
        if sweep.state != "running" or not trials:
            return
        if job.job.attempts >= MOST_ATTEMPTS:
            raise InputError(f"chunk {chunk} was begun {job.job.attempts} times, and each time its worker died")
        task, candles = task_of(sweep), Candles(connection, context.settings, sweep, KEPT)
        own = await candles.own()
        folds = {fold.fold: fold for fold in await load_folds(connection, sweep_id)}
        await candles.read_inputs(await beside(lambda _: list(_those_made(task, trials)), "sweep"))
        outcomes = await beside(lambda stop: _run(task, candles, own, folds, trials, stop), "sweep")
        await _write(connection, sweep_id, trials, outcomes)
        following = {"sweep": sweep_id, "after": chunk + MOST_QUEUED - NEXT, "most": NEXT}
        await connection.execute(DEFER_DUE, DUE | following)


def _those_made(task: Task, trials: Sequence[Any]) -> Any:
    """The strategies of trials, to ask for their inputs; of one that cannot be made, its trial tells why."""
    for trial in trials:
        try:
            made = task.made(trial.params)
        except BaseException as error:
            log.debug("trial %s: %s", trial.number, describe(error))
            continue
        yield made


def _run(
    task: Task,
    candles: Candles,
    own: "DataFrame",
    folds: Mapping[int, Any],
    trials: Sequence[Any],
    stop: threading.Event,
) -> list[Outcome]:
    """In a thread: all trials, one after the other; fewer, if it is told to stop."""
    outcomes: list[Outcome] = []
    named = {trial.fold: folds[trial.fold] for trial in trials}
    parts = {
        number: candles.part(own.iloc[positions(own, fold.train_first, fold.train_last)])
        for number, fold in named.items()
    }
    for trial in trials:
        if stop.is_set():
            break
        try:
            outcomes.append(try_set(task, trial.params, partial(candles.frames, part=parts[trial.fold])))
        except BaseException as error:  # no signal comes to a thread: an exit or Ctrl-C is the strategy's own
            outcomes.append(Outcome(error=describe(error, task.strategy.__module__)))
    return outcomes


async def _write(connection: Connection, sweep_id: int, trials: Sequence[Any], outcomes: Sequence[Outcome]) -> None:
    rows = [
        {
            "fold": trial.fold,
            "number": trial.number,
            "state": "failed" if outcome.error else "done",
            "value": outcome.value,
            "measures": outcome.measures,
            "error": outcome.error and _storable(outcome.error),
        }
        for trial, outcome in zip(trials, outcomes, strict=True)
    ]
    await connection.execute(WRITE, [Jsonb(rows), sweep_id])


@asynccontextmanager
async def _blaming(connection: Connection, sweep_id: int) -> "AsyncIterator[None]":
    """What cannot be mended by another try ends the sweep, with the reason in its row."""
    try:
        yield
    except LOST_CONNECTION:
        raise  # the next tick tries again
    except Exception as error:
        text = str(error) if isinstance(error, TallydeskError) else describe(error)
        await connection.execute(FAIL, [_storable(text), sweep_id])
        raise


def _storable(text: str) -> str:
    """What a strategy raised may hold what no text of PostgreSQL can."""
    return text.replace("\0", "\\0").encode(errors="replace").decode()


async def advance(job: JobContext, sweep_id: int) -> None:
    """All trials that are there are done: propose the next generation, or end the sweep."""
    context = context_of(job)
    async with context.pool.connection() as connection, _blaming(connection, sweep_id):
        sweep = await load_sweep(connection, sweep_id)
        pending = await fetch_all(
            connection, "SELECT FROM sweep_trial WHERE sweep_id = %s AND state = 'pending' LIMIT 1", [sweep_id]
        )
        if sweep.state != "running" or pending:
            return
        if not (sweep.generation_size and await _propose(connection, sweep)):
            await _end(connection, context, sweep)
        await connection.execute(DEFER_DUE, DUE)


async def _propose(connection: Connection, sweep: Any) -> bool:
    """Write the next generation; False: there is none, because all trials are there or nothing new is proposed."""
    search, folds = search_of(sweep), [fold.fold for fold in await load_folds(connection, sweep.id)]
    past = {fold: await fetch_all(connection, PAST, [sweep.id, fold]) for fold in folds}
    left = {fold: min(sweep.generation_size, sweep.trials - len(past[fold])) for fold in folds}
    task_of(sweep)  # the class is as it was

    def work(stop: threading.Event) -> dict[int, list[Point]]:
        found: dict[int, list[Point]] = {}
        for fold in folds:
            if left[fold] > 0 and not stop.is_set():
                generations = _generations(past[fold], sweep.generation)
                found[fold] = propose(search, sweep.method, sweep.seed * 1_009 + fold, left[fold], generations)
        return found

    proposed = await beside(work, "sweep")
    if not any(proposed.values()):
        return False
    async with connection.transaction():
        keys = [sweep.skipped + search.skipped, sweep.id, sweep.generation]
        if (await connection.execute(PROPOSED, keys)).rowcount:
            await write_generation(connection, sweep, proposed, {fold: len(rows) for fold, rows in past.items()})
    return True


def _generations(rows: Sequence[Any], count: int) -> list[list[Tried]]:
    found: list[list[Tried]] = [[] for _ in range(count)]
    for row in rows:
        found[row.generation].append(Tried(row.params, row.value))
    return found


async def _end(connection: Connection, context: Context, sweep: Any) -> None:
    """Choose, test, and write what came of it."""
    await check_outcome(connection, sweep)
    chosen = [await choose(connection, sweep, fold) for fold in await load_folds(connection, sweep.id)]
    tested: Tested | None = None
    if sweep.folds:
        task, candles = task_of(sweep), Candles(connection, context.settings, sweep)
        own = await candles.own()
        made = [one.params for one in chosen if one.params is not None]
        await candles.read_inputs(await beside(lambda _: [task.made(params) for params in made], "sweep"))
        tested = await beside(lambda _: run_tests(task, chosen, candles, own), "sweep")
    await write_end(connection, sweep, chosen, tested)


def register(app: App) -> None:
    """Add the tasks of this module."""
    app.task(name=CHUNK_TASK, pass_context=True)(run_chunk)
    app.task(name=ADVANCE_TASK, pass_context=True)(advance)
