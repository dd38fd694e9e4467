"""Proof on given candles that a strategy uses no future, and that its warm-up is enough.

Nothing is read from its code: it is computed again on other candles and must say the same. That proves something only
where it says something, so most bars that are tried are those at which its target changes (there an order is made).

**The future.** What it says where the candles end at a bar is compared with what it says where they go on: as they did,
shuffled, doubled or halved; and what it says over all candles with what it says over the first so many of them. The
candles before are the same, so any difference is the future's doing. The candles of its inputs end, go on and are
altered with its own: one that is still open when a bar closes is never among those before.

**The warm-up.** Some strategies carry something forward: a last vote, a level that nobody broke. No number of candles
is sure to show it, so other rules hold instead. Where a target changes, exactly `warm_up` candles must say the new
one: what makes an order must be in sight. Where a history that began with exactly `warm_up` candles comes in or goes
out, all of history must be in or out, too: an average that has not settled shows there, though it is right wherever
one candle crosses it. And everywhere the candles that a live run sees, `warm_up` + EXTRA, must say at their last two
bars what all of history says, also where other candles are put before them. So with each input.

**on_bucket.** Its indicators are computed again as a signal is. Each call that is tried is made again by a new object,
as in a live run: on the candles up to its bar, with the state, the money and the orders that it had; it must do the
same, and leave the same state. With exactly the warm-up one that did nothing may not do more.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from trader.backtest.across import across
from trader.backtest.check_buckets import BucketsCheck
from trader.backtest.check_signal import SignalCheck
from trader.backtest.choice import Choice
from trader.backtest.data import bars_from_frame
from trader.backtest.finding import Finding, Report
from trader.backtest.run import Frames, check_inputs, first_decision
from trader.backtest.settings import Settings, parse_settings
from trader.backtest.view import view_of
from trader.bucket.timeframe import TIMEFRAMES
from trader.errors import InputError
from trader.strategy import Strategy, inputs_of, needed, style_of

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Finding", "Report", "check"]


def check(
    strategy: Strategy[Any], frames: "Frames | DataFrame", seed: int = 0, settings: Settings | None = None
) -> Report:
    """Compute `strategy` again on parts of its candles, and beside altered ones, and say where it differs.

    `frames` are closed candles with those of the inputs, as for `backtest`; a frame will do for a strategy without
    inputs. `settings` are the rules by which `on_bucket` trades meanwhile. The same `seed` tries the same bars. There
    is one finding at most: the warm-up is judged only of a strategy that uses no future. Raises InputError: too few
    candles, or none for an input; SignalError: on all of them the strategy raises, or gives what is none.
    """
    warm_up, length = needed(strategy), len(frames.candles if isinstance(frames, Frames) else frames)
    if length <= warm_up:
        raise InputError(f"{length} candles are too few to check a warm-up of {warm_up}: give at least {warm_up + 1}")
    given = frames if isinstance(frames, Frames) else Frames(frames, _timeframe(strategy, frames))
    check_inputs(strategy, given)
    first = first_decision(strategy, given)
    if first + 1 >= len(given.candles):
        raise InputError("only the last candle is past all warm-ups: give more, to have something to compare")
    warm_ups: dict[str | None, int] = {None: warm_up}
    warm_ups |= {name: wanted.warm_up for name, wanted in inputs_of(strategy).items()}
    whole = view_of(given.candles, given.inputs)
    choice = Choice(strategy, whole, given.timeframe, first, warm_ups, np.random.default_rng(seed))
    if style_of(strategy) == "signal":
        return SignalCheck(choice).run()
    bars = bars_from_frame(given.candles, given.timeframe)
    terms = settings or parse_settings({})
    return BucketsCheck(choice, bars, terms, across(strategy, given, bars, terms, "bucket", first)).run()


def _timeframe(strategy: Strategy[Any], candles: "DataFrame") -> str:
    """The timeframe whose candles lie as close together as the closest two; of a signal alone it does not matter."""
    steps = candles.index.to_series().diff().min()
    for name, timeframe in TIMEFRAMES.items():
        if timeframe.span is not None and steps.total_seconds() * 1_000 == timeframe.span:
            return name
    if style_of(strategy) == "signal" and not inputs_of(strategy):
        return "1m"
    raise InputError(f"the closest candles are {steps} apart, which is no timeframe: give Frames, which name it")
