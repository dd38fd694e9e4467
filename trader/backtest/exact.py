"""The exact engine: the same bars through rows, trader, the simulator's venue and the ledger, in a throw-away database.

A backtest is only worth something if live trading does the same. Here every order is a row that the trader's own code
claims, sizes, holds, sends and settles, and fills, fees and equity are read from the ledger. docs/backtests.md says
what that proves, and what not.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from trader import config
from trader.backtest.across import EVERY, Across, across
from trader.backtest.array import check
from trader.backtest.array import run as run_array
from trader.backtest.data import Bars, Floats
from trader.backtest.exact_database import throw_away
from trader.backtest.exact_desk import exact_desk
from trader.backtest.exact_part import Part, meet, parts_of
from trader.backtest.exact_replay import Replay, Stepped, Targeted
from trader.backtest.exact_result import compare, ledger_result
from trader.backtest.exact_targets import Wanted
from trader.backtest.exact_venue import minimums_of
from trader.backtest.result import Result
from trader.backtest.run import Frames, backtest, check_inputs, first_decision, told
from trader.backtest.settings import UNIT, Settings
from trader.embedded import database_url
from trader.errors import DatabaseError, InputError
from trader.strategy import (
    Schedule,
    Strategy,
    evaluate,
    indicators_of,
    needed,
    parse_schedule,
    scheduled,
    style_of,
    telling,
)

Make = Callable[[Part], Replay]
"""What is to be replayed of a part of the bars."""


@dataclass(frozen=True)
class ExactRun:
    """What the real path made of the bars."""

    result: Result
    """Fills, money and equity, read from the ledger."""
    performance: Any
    """The strategy's row of the view `performance`, at the last close; None if it was replayed in parts."""
    orders: int
    """How many orders became rows."""
    parts: int
    """How many strategies shared the bars, each a part; where one ended the next began, to the last digit."""
    seconds: float
    """From the first row to the last one read; without making and dropping the database."""


@dataclass(frozen=True)
class ExactResult:
    """What the real path made of the bars, beside what the engine for backtests makes of them."""

    exact: ExactRun
    expected: Result
    """Of `trader.backtest.run.backtest`, with the same settings."""
    difference: str | None
    """The first difference between the two, in words; None: they are the same to the cent."""

    @property
    def result(self) -> Result:
        """The real path's."""
        return self.exact.result


def run_exact(
    strategy: Strategy[Any], frames: Frames, settings: Settings, schedule: str = "bucket", *, server: str | None = None
) -> ExactResult:
    """Trade `strategy` over `frames` as `backtest` does, through the real path as well, and compare.

    It makes a database on `server` (a URL; the installation's own server if not given) and drops it again. Where
    `settings` have no steps, both sides count in the finest that there are, 1e-8. Raises what `backtest` raises;
    InputError: settings or orders that it cannot replay; DatabaseError: no database can be made there, or its books
    are wrong in the end. Not to be called where an event loop runs.
    """
    settings = completed(settings)
    expected = backtest(strategy, frames, settings, schedule)
    bars = expected.bars
    made, cuts = _plan(strategy, frames, bars, settings, parse_schedule(schedule, frames.timeframe))
    parts = parts_of(expected) if cuts else None
    run = run_replay(server or database_url(config.load()), bars, settings, made, parts)
    return ExactResult(run, expected, compare(expected, run.result))


def run_targets(
    server: str,
    bars: Bars,
    targets: Floats,
    settings: Settings,
    warm_up: int = 1,
    gaps: Across = EVERY,
    *,
    every: bool = False,
    parts: Sequence[Part] | None = None,
) -> ExactRun:
    """Trade `targets` as `trader.backtest.array.run` does, through the real path. Errors as for `run_exact`.

    `every`: ask at each bar what is to be done, also where that can only be nothing. `parts`: how the bars are cut; by
    default as `parts_of` cuts what the array engine makes of them.
    """
    check(bars, targets)
    settings = completed(settings)
    wanted = Wanted(bars, targets, warm_up, minimums_of(settings), gaps, every=every)
    cut = parts_of(run_array(bars, targets, settings, warm_up, gaps)) if parts is None else parts
    return run_replay(server, bars, settings, lambda part: Targeted(bars, settings, part, wanted), cut)


def completed(settings: Settings) -> Settings:
    """The settings with the steps that any venue has. InputError names what live trading cannot do."""
    if settings.fill != "next_open":
        raise InputError(f"fill is {settings.fill}: an exact backtest fills at the next open, as live trading does")
    if settings.fee_side != "get":
        raise InputError(f"fee_side is {settings.fee_side}: the simulator takes its fee from what a fill brings (get)")
    steps = {"quantity_step": settings.quantity_step or UNIT, "price_tick": settings.price_tick or UNIT}
    return settings.model_copy(update=steps)


def _plan(strategy: Strategy[Any], frames: Frames, bars: Bars, settings: Settings, when: Schedule) -> tuple[Make, bool]:
    """How the strategy is replayed: by its targets from cross to cross, or bar by bar; and whether bars may be cut.

    Only targets can: what a function of every bar remembers at a bar, nobody knows before it was there.
    """
    check_inputs(strategy, frames)
    warm_up = first_decision(strategy, frames) + 1
    gaps = across(strategy, frames, bars, settings, when, warm_up - 1)
    module, decides = type(strategy).__module__, None if when == "bucket" else scheduled(bars.time, when)
    if style_of(strategy) == "signal":
        with telling("signal", module):
            targets = evaluate(strategy, frames.candles, frames.inputs).to_numpy()
        if decides is None:
            wanted = Wanted(bars, targets, warm_up, minimums_of(settings), gaps)
            return lambda part: Targeted(bars, settings, part, wanted), True
        column = targets.tolist()
        return lambda part: Stepped(
            bars, settings, part, lambda context: float(column[context.index]), warm_up, {}, decides, warm_up, gaps,
            asks_silent=True,
        ), False  # fmt: skip
    table = indicators_of(strategy, frames.candles, frames.inputs)
    columns = {str(name): table[name].to_numpy() for name in table.columns}
    told_on_bucket = told(strategy.on_bucket, module)
    return lambda part: Stepped(
        bars, settings, part, told_on_bucket, warm_up, columns, decides, needed(strategy), gaps
    ), False


def run_replay(
    server: str, bars: Bars, settings: Settings, make: Make, parts: Sequence[Part] | None = None
) -> ExactRun:
    """Replay what `make` makes in a database on `server`, which is dropped in any case.

    `parts`: side by side, and once more in one piece if one of them does not end with what the next began with.
    """
    whole = [Part(0, len(bars))]
    for cut in (parts or whole, whole):
        with throw_away(server) as url:
            run = asyncio.run(replay_in(url, bars, settings, make, cut))
        if run is not None:
            return run
    raise AssertionError("bars in one piece have no seams")


async def replay_in(url: str, bars: Bars, settings: Settings, make: Make, parts: Sequence[Part]) -> ExactRun | None:
    """Replay in the empty database of `url`. None: a part did not end with what the next one began with, or failed."""
    started = time.perf_counter()
    async with exact_desk(url, bars, settings, parts) as desk:
        replays = [make(part) for part in parts]
        gc.freeze()  # as a trader does: looking for garbage in modules and bars would only cost time
        try:
            await desk.play(replays)
        except InputError:
            if len(parts) == 1:
                raise
            return None  # it may be that only this part lacked the money that was withdrawn
        finally:
            gc.unfreeze()
        fills, posted = await desk.fills(), await desk.posted()
        if not meet(parts, [replay.money for replay in replays]):
            return None
        flows = {order: flow for seat in desk.seats for order, flow in seat.flows.items()}
        refused = sorted((refusal for replay in replays for refusal in replay.refused), key=itemgetter(0))
        result = ledger_result(bars, settings, fills, posted, flows, tuple(refused))
        performance = await desk.performance()
        if problems := await desk.problems(len(fills)):
            raise DatabaseError(f"the books of the exact backtest are wrong: {'; '.join(problems)}")
        return ExactRun(result, performance, desk.orders, len(parts), time.perf_counter() - started)
