"""Following a sweep to its end: workers of its own if wanted, a bar with what is left, a stop that loses nothing."""

import asyncio
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trader.cli._sweep_screen import number
from trader.errors import InputError, TallydeskError

if TYPE_CHECKING:
    from trader.children import Children
    from trader.config import Settings
    from trader.db import Connection

PAUSE = 0.25
"""Seconds between two looks; ten times as long as one takes, where there are very many trials."""
LINE_SECONDS = 3.0
"""How often progress is said where there is no terminal to draw a bar on."""
RESCUE_SECONDS = 5.0
NOBODY_YET = "nobody works on sweeps yet: start tallydesk sweep worker, or {command}"
NOBODY = (
    "nobody works on sweeps: start tallydesk sweep worker, or give this sweep workers of its own (--workers-here 2)"
)

LOOK = """
SELECT s.state::text AS state, s.error, s.trials * greatest(s.folds, 1) AS total,
       (SELECT count(*) FROM sweep_trial t WHERE t.sweep_id = s.id AND t.state <> 'pending') AS done,
       (SELECT max(t.value) FROM sweep_trial t WHERE t.sweep_id = s.id) AS best
  FROM sweep s WHERE s.id = %s
"""
# Workers of sweeps alone: the desk's own do none, so that nothing that trades waits for a set.
WORKERS = """
SELECT count(DISTINCT application_name) AS alive FROM pg_stat_activity
 WHERE datname = current_database() AND application_name LIKE 'sweep %'
"""
STOP = "UPDATE sweep SET state = 'stopped' WHERE id = %s AND state = 'running'"
RESUME = "UPDATE sweep SET state = 'running' WHERE id = %s AND state = 'stopped'"


async def workers_alive(connection: "Connection") -> int:
    """How many workers could take its jobs."""
    from trader.db import fetch_one

    return int((await fetch_one(connection, WORKERS)).alive)


async def need_workers(connection: "Connection", here: int) -> None:
    """InputError if nobody would do it."""
    if here < 0 or here > 64:
        raise InputError(f"--workers-here is {here}: from 0 to 64 is allowed")
    if not here and not await workers_alive(connection):
        raise InputError(NOBODY)


async def resume(connection: "Connection", sweep: Any) -> None:
    """Let a sweep that was stopped go on. InputError: it has ended."""
    if sweep.state in ("done", "failed"):
        raise InputError(f"sweep {sweep.id} is {sweep.state}: there is nothing to resume")
    await connection.execute(RESUME, [sweep.id])


async def stop(connection: "Connection", sweep_id: int) -> bool:
    """Stop a sweep: chunks that run end, no others begin. False: it was not running."""
    return bool((await connection.execute(STOP, [sweep_id])).rowcount)


def resume_command(sweep_id: int, here: int) -> str:
    """What to type to go on."""
    return f"tallydesk sweep resume {sweep_id}" + (f" --workers-here {here}" if here else "")


async def stopped(connection: "Connection", sweep_id: int, here: int = 0) -> str:
    """That a sweep is stopped, how far it is, and how it goes on."""
    from trader.db import fetch_one

    look = await fetch_one(connection, LOOK, [sweep_id])
    done = f"{look.done:,} of {look.total:,} are done"
    return f"sweep {sweep_id} is stopped, {done}: {resume_command(sweep_id, here)} goes on"


async def left(connection: "Connection", sweep_id: int) -> str:
    """That a sweep goes on without whoever followed it, how far it is, and how it is followed or stopped."""
    from trader.db import fetch_one

    look = await fetch_one(connection, LOOK, [sweep_id])
    done = f"{look.done:,} of {look.total:,} are done"
    if look.state != "running":
        return f"sweep {sweep_id} is {look.state}, {done}: tallydesk sweep show {sweep_id} shows it"
    others = await workers_alive(connection)
    goes_on = "goes on by its other workers" if others else "waits for workers (tallydesk sweep worker)"
    how = f"{resume_command(sweep_id, 0)} follows it, tallydesk sweep stop {sweep_id} stops it"
    return f"sweep {sweep_id} {goes_on}, {done}: {how}"


async def follow(connection: "Connection", settings: "Settings", sweep_id: int, here: int) -> Any:
    """Follow a sweep to its end; its last look. TallydeskError: its own workers cannot work.

    To be told to stop stops a sweep that has workers `here`, which end; without, others go on with it.
    """
    from trader.children import Children

    children = Children(settings)
    with ExitStack() as stack:
        stack.callback(children.end)
        for place in range(1, here + 1):
            name = f"sweep-{sweep_id}-{place}"
            children.start(
                name, "-m", "trader.cli.main", "sweep", "worker", "--name", name, "--parent", str(os.getpid())
            )
        bar = stack.enter_context(Bar(sweep_id))
        try:
            return await _watch(connection, sweep_id, children, bar)
        except asyncio.CancelledError:
            bar.end()
            ours = here and await stop(connection, sweep_id)
            told = await stopped(connection, sweep_id, here) if ours else await left(connection, sweep_id)
            print(told, file=sys.stderr)
            raise


async def _watch(connection: "Connection", sweep_id: int, children: "Children", bar: "Bar") -> Any:
    from jobs.maintenance import rescue_stalled
    from jobs.sweep import DEFER_DUE, DUE
    from trader.db import fetch_one

    here, rescued, warned = bool(children.running), time.monotonic(), False
    while True:
        begun = time.monotonic()
        await connection.execute(DEFER_DUE, DUE)
        look = await fetch_one(connection, LOOK, [sweep_id])
        took = time.monotonic() - begun
        bar.show(look)
        if look.state != "running":
            return look
        if here and len(children.dead()) == len(children.running):
            await stop(connection, sweep_id)
            log = f"{children.settings.home}/log/{next(iter(children.running))}.log"
            again = resume_command(sweep_id, len(children.running))
            raise TallydeskError(
                f"sweep {sweep_id} is stopped: its workers ended by themselves; {log} says why; {again} goes on"
            )
        if time.monotonic() - rescued >= RESCUE_SECONDS:
            await rescue_stalled(connection)
            rescued = time.monotonic()
            if not here and not await workers_alive(connection) and not warned:
                print(NOBODY.replace("this sweep", f"it (Ctrl-C, tallydesk sweep resume {sweep_id})"), file=sys.stderr)
                warned = True
        await asyncio.sleep(max(PAUSE, 10 * took))


@dataclass
class Bar:
    """How far a sweep is, on stderr: a bar with what is left on a terminal, else a line every few seconds."""

    sweep_id: int

    def __post_init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (TextColumn("sweep {task.fields[name]}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        rest = (TimeRemainingColumn(), TextColumn("best {task.fields[best]}"))
        self._shown = Progress(*columns, *rest, transient=True, console=Console(stderr=True))
        self._task: Any = None
        self._said = time.monotonic()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Take the bar away: what stays is the outcome."""
        if self._shown.live.is_started:
            self._shown.stop()

    def show(self, look: Any) -> None:
        """Say how far it is."""
        best = "-" if look.best is None else str(number(look.best))
        if not self._shown.console.is_terminal:
            if time.monotonic() - self._said >= LINE_SECONDS:
                self._said = time.monotonic()
                print(f"sweep {self.sweep_id}: {look.done} of {look.total}, best {best}", file=sys.stderr, flush=True)
            return
        if self._task is None:
            self._shown.start()
            self._task = self._shown.add_task("", total=look.total, completed=look.done, name=self.sweep_id, best=best)
        self._shown.update(self._task, completed=look.done, total=look.total, best=best)
