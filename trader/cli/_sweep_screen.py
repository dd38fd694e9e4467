"""What `tallydesk sweep` shows: its sets from the best on, the folds of a walk-forward, and what they say."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trader.cli._screen import more, print_rows
from trader.errors import InputError

if TYPE_CHECKING:
    from trader.db import Connection

LIST = """
SELECT id, class AS path, market, timeframe, method, objective, state, trials, done, best, deflated_sharpe,
       test_sharpe, error
  FROM sweeps ORDER BY id DESC LIMIT %s
"""
TOTAL = "SELECT trials, done, failed, skipped FROM sweeps WHERE id = %s"
BEST = """
SELECT number, params, value, in_sample FROM sweep_trial
 WHERE sweep_id = %s AND fold = 0 AND value IS NOT NULL ORDER BY value DESC, number LIMIT %s
"""
FOLDS = """
SELECT f.fold, f.train_first, f.train_last, f.test_first, f.test_last, f.deflated_sharpe, t.params, t.value,
       t.out_of_sample
  FROM sweep_fold f LEFT JOIN sweep_trial t ON (t.sweep_id, t.fold, t.number) = (f.sweep_id, f.fold, f.best)
 WHERE f.sweep_id = %s ORDER BY f.fold
"""
ERRORS = """
SELECT error, count(*) AS many, min(number) AS number FROM sweep_trial
 WHERE sweep_id = %s AND state = 'failed' GROUP BY error ORDER BY many DESC, error LIMIT 3
"""
VALUES = "SELECT params, value FROM sweep_trial WHERE sweep_id = %s AND state = 'done' ORDER BY fold, number"
SHOWN = {"sharpe": "Sharpe", "return_percent": "return %", "max_drawdown_percent": "drawdown %", "trades": "trades"}
"""Measures of each set, and how their columns are called."""


def words(params: Any) -> str:
    """Parameters for people."""
    return " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in params.items()
    )


def number(value: float | None, places: int = 3) -> float | int | None:
    """A number as it is shown."""
    return value if value is None or isinstance(value, int) else round(value, places)


async def print_list(connection: "Connection", last: int) -> None:
    """The newest sweeps."""
    from trader.db import fetch_all

    rows = []
    for row in await fetch_all(connection, LIST, [last]):
        where, done = f"{row.market} {row.timeframe}", f"{row.done}/{row.trials}"
        results = map(number, (row.best, row.deflated_sharpe, row.test_sharpe))
        rows.append([row.id, row.path, where, row.method, row.objective, row.state, done, *results, row.error])
    columns = ["sweep", "class", "market", "method", "objective", "state", "done", "best", "deflated", "test Sharpe"]
    print_rows("sweeps", [*columns, "error"], rows)


async def print_sweep(connection: "Connection", sweep: Any, best: int) -> None:
    """What came of a sweep."""
    from trader.db import fetch_all, fetch_one

    row = await fetch_one(connection, TOTAL, [sweep.id])
    print(
        f"sweep {sweep.id}: {sweep.path} on {sweep.market} {sweep.timeframe}, {sweep.since:%Y-%m-%d %H:%M} to "
        f"{sweep.until:%Y-%m-%d %H:%M} UTC: {sweep.state}, {row.done} of {row.trials} trials done, "
        f"{row.failed} failed, {row.skipped} sets skipped"
    )
    if sweep.error:
        print(f"it failed: {sweep.error}")
    for error in await fetch_all(connection, ERRORS, [sweep.id]):
        print(f"{error.many} failed so, trial {error.number} first: {error.error}")
    await (_print_folds(connection, sweep) if sweep.folds else _print_best(connection, sweep, best))


async def _print_best(connection: "Connection", sweep: Any, best: int) -> None:
    from trader.db import fetch_all

    rows = await fetch_all(connection, BEST, [sweep.id, best])
    shown = [
        [row.number, words(row.params), *(number(row.in_sample[name]) for name in _measures(sweep.objective))]
        for row in rows
    ]
    columns = [SHOWN.get(name, name) for name in _measures(sweep.objective)]
    print_rows(f"the best by {sweep.objective}", ["trial", "parameters", *columns], shown)
    (fold,) = await fetch_all(connection, FOLDS, [sweep.id])
    if fold.deflated_sharpe is not None:
        print(
            f"deflated Sharpe of the best: {fold.deflated_sharpe:.3f}, how likely it is more than the luck of the best "
            "of so many tries; below 0.95, take it for luck"
        )


async def _print_folds(connection: "Connection", sweep: Any) -> None:
    from trader.backtest.walk_forward import short_tests
    from trader.bucket.timeframe import timeframe_named
    from trader.db import fetch_all

    rows, counts = [], []
    for row in await fetch_all(connection, FOLDS, [sweep.id]):
        told = row.out_of_sample or {}
        counts += [told["periods"]] if told else []
        span = f"{row.test_first:%Y-%m-%d} to {row.test_last:%Y-%m-%d}"
        chosen = None if row.params is None else words(row.params)
        made = (number(told.get(name)) for name in _measures(sweep.objective))
        rows.append([row.fold, span, chosen, number(row.value), number(row.deflated_sharpe), *made])
    columns = [f"test {SHOWN.get(name, name)}" for name in _measures(sweep.objective)]
    chosen_by = f"trained {SHOWN.get(sweep.objective, sweep.objective)}"
    print_rows("walk-forward", ["fold", "test", "chosen", chosen_by, "deflated", *columns], rows)
    if counts and (short := short_tests(min(counts), timeframe_named(sweep.timeframe))):
        print(short)
    if sweep.out_of_sample:
        told = sweep.out_of_sample
        shown = ", ".join(f"{title} {number(told[name])}" for name, title in SHOWN.items())
        held, likely = number(told["buy_and_hold_percent"]), number(told["sharpe_probability"])
        print(f"all tests as one run: {shown}; buying and holding {held} %; Sharpe above 0 with probability {likely}")


def _measures(objective: str) -> list[str]:
    return list(dict.fromkeys([objective, *SHOWN]))


async def draw(connection: "Connection", sweep: Any, path: Path, names: list[str]) -> str:
    """Draw how stable parameters are, and say it. InputError: it is no PNG, no such parameter, or nothing to draw."""
    from trader.backtest.stability import most_varied, plot, said, surface
    from trader.db import fetch_all

    if path.suffix != ".png":
        raise InputError(f"--plot is {path}: a name that ends in .png is needed")
    rows = [(row.params, row.value) for row in await fetch_all(connection, VALUES, [sweep.id])]
    found = surface(rows, names or most_varied(rows))
    where = f"{sweep.path.partition(':')[2]} on {sweep.market} {sweep.timeframe}"
    plot(path, found, sweep.objective, f"{where}, sweep {sweep.id}: {len(rows)} trials")
    rest = [name for name in sweep.space if name not in {axis.name for axis in found.axes}]
    beside = f"; median over {', '.join(rest[:3])}{more(len(rest), 3)}" if rest else ""
    return f"{path}: {said(found, sweep.objective)}{beside}"
