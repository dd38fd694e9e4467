"""Running what is not our code: in a thread, since it may be slow, and so that it fails alone."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from jobs.strategy.errors import Stopped
from jobs.thread import beside
from trader.errors import TallydeskError
from trader.strategy import (
    GapPolicy,
    Input,
    Reach,
    Strategy,
    describe,
    gap_policy,
    inputs_of,
    load,
    needed,
    reach_of,
)

LONGEST_ERROR = 1_000
PATIENCE_SECONDS = 60.0
"""For one call. Its candle is old by then where candles are minutes."""
STRATEGY: ContextVar[int] = ContextVar("strategy", default=0)
"""Whose code it is that runs: the number of its row."""
_hanging: defaultdict[int, threading.Event] = defaultdict(threading.Event)
"""By strategy, whether a call has not come back in time, and still has not."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A strategy, and what it declares: asked once, for these are its code, too."""

    strategy: Strategy[Any]
    warm_up: int
    inputs: dict[str, Input]
    gaps: GapPolicy
    reach: Reach

    @property
    def module(self) -> str:
        """Where it is written."""
        return type(self.strategy).__module__


async def load_strategy(row: Any) -> Loaded:
    """The strategy of a row. Stopped: it cannot be loaded, or declares what cannot be."""

    def work() -> Loaded:
        strategy = load(row.path, row.params)
        reach = reach_of(strategy, row.timeframe, row.schedule)
        return Loaded(strategy, needed(strategy), inputs_of(strategy), gap_policy(strategy), reach)

    return await guarded(work, row.path.partition(":")[0])


async def guarded(work: Callable[[], Result], module: str) -> Result:
    """Run what is not our code in a thread; whatever it raises becomes Stopped, with type, message and line.

    Stopped as well: it does not return within `PATIENCE_SECONDS`. That strategy is not called again before it does, so
    that one that hangs takes one thread, and no other strategy's.
    """
    hangs = _hanging[STRATEGY.get()]
    if hangs.is_set():
        raise Stopped("an earlier call has not returned yet: restart the worker if it never will")
    returned = threading.Event()

    def attempt(_: threading.Event) -> Result:
        # Caught in the thread itself: a StopIteration cannot be handed over to a coroutine.
        try:
            return work()
        except TallydeskError as error:
            raise Stopped(_storable(str(error))) from error
        except BaseException as error:  # no signal comes to a thread: Ctrl-C and cancelling, too, are the class's own
            raise Stopped(_storable(describe(error, module))) from error
        finally:
            returned.set()
            hangs.clear()

    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await beside(attempt, f"strategy {module}")
    except TimeoutError:
        hangs.set()
        if returned.is_set():  # just now
            hangs.clear()
        raise Stopped(f"it did not answer within {PATIENCE_SECONDS:g} s") from None


def _storable(text: str) -> str:
    """What PostgreSQL can keep of a text that somebody else wrote."""
    return text.replace("\x00", "").encode(errors="replace").decode()[:LONGEST_ERROR]
