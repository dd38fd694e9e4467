"""One backtest of a strategy of either style: candles in, a result out, nothing read and nothing written."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trader.backtest import array
from trader.backtest.across import Across, across
from trader.backtest.bars import run_bars
from trader.backtest.data import Bars, bars_from_frame
from trader.backtest.result import Result
from trader.backtest.settings import Settings
from trader.backtest.ticket import Context, OnBucket
from trader.errors import InputError
from trader.strategy import (
    Missing,
    Schedule,
    Strategy,
    evaluate,
    first_candle,
    indicators_of,
    inputs_of,
    needed,
    parse_schedule,
    scheduled,
    style_of,
    telling,
)

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Frames:
    """The candles of a backtest, as `read_buckets` gives them: columns of floats, and UTC times of close as index."""

    candles: "DataFrame"
    """Those that are decided on and traded on."""
    timeframe: str
    """How long one of them is."""
    inputs: Mapping[str, "DataFrame"] = field(default_factory=dict)
    """Those of the strategy's inputs, by their names. What is after the last of `candles` is not looked at."""
    missing: Mapping[str, Missing] = field(default_factory=dict)
    """What the database has of the gaps of `candles` (under an empty name), and of those of the inputs. Of candles
    that are not here, nobody knows: `file_gaps` of the settings says what is assumed."""

    @cached_property
    def bars(self) -> Bars:
        """Its candles as bars, checked once. InputError: they are none."""
        return bars_from_frame(self.candles, self.timeframe)

    def with_inputs(self, inputs: Mapping[str, "DataFrame"], missing: Mapping[str, Missing]) -> "Frames":
        """The same candles, whose check counts, with those of inputs."""
        made = replace(self, inputs=inputs, missing=missing)
        vars(made)["bars"] = self.bars
        return made


def backtest(strategy: Strategy[Any], frames: Frames, settings: Settings, schedule: str = "bucket") -> Result:
    """Trade `strategy` over `frames`, deciding at the candles that `schedule` names.

    A signal at every candle goes through the array engine, all else through that of bars. The same call gives the same
    result. Raises InputError: candles that are none, too few of them or of an input, an unknown or too fine schedule, a
    withdrawal of more than is free; SignalError: the strategy raised (with file and line), or gave what is none.
    """
    bars, when = frames.bars, parse_schedule(schedule, frames.timeframe)
    check_inputs(strategy, frames)
    first = first_decision(strategy, frames)
    gaps = across(strategy, frames, bars, settings, when, first)
    if style_of(strategy) == "signal":
        return _signal(strategy, frames, bars, settings, when, first, gaps)
    table = indicators_of(strategy, frames.candles, frames.inputs)
    columns = {str(name): table[name].to_numpy() for name in table.columns}
    decides = None if when == "bucket" else scheduled(bars.time, when)
    on_bucket = told(strategy.on_bucket, type(strategy).__module__)
    return run_bars(bars, on_bucket, settings, first + 1, columns, decides, needed(strategy), gaps)


def _signal(
    strategy: Strategy[Any], frames: Frames, bars: Bars, settings: Settings, when: Schedule, first: int, gaps: Across
) -> Result:
    with telling("signal", type(strategy).__module__):
        targets = evaluate(strategy, frames.candles, frames.inputs).to_numpy()
    if when == "bucket":
        return array.run(bars, targets, settings, first + 1, gaps)
    wanted = targets.tolist()

    # Between two decisions nothing is done, not even what the market left undone of the first.
    def follow(context: Context) -> float:
        return float(wanted[context.index])

    decides = scheduled(bars.time, when)
    return run_bars(bars, follow, settings, first + 1, decides=decides, across=gaps, asks_silent=True)


def told(on_bucket: OnBucket, module: str) -> OnBucket:
    """An on_bucket of `module`; what it raises becomes a SignalError that names the candle, the file and the line."""

    def telling_on_bucket(context: Context) -> float | None:
        try:
            return on_bucket(context)
        except (Exception, SystemExit):
            with telling(f"on_bucket at {context.time:%Y-%m-%d %H:%M:%S}", module):
                raise

    return telling_on_bucket


def check_inputs(strategy: Strategy[Any], frames: Frames) -> None:
    """InputError: candles of an input are missing, are none, or are those of no input."""
    wanted = inputs_of(strategy)
    for name in frames.inputs:
        if name not in wanted:
            raise InputError(f'candles of "{name}", which is no input of it: there is {", ".join(wanted) or "none"}')
    for name, given in wanted.items():
        if name not in frames.inputs:
            raise InputError(f'no candles of its input "{name}": {given}')
        try:
            bars_from_frame(frames.inputs[name], given.timeframe or frames.timeframe)
        except InputError as error:
            raise InputError(f'input "{name}": {error}') from None


def first_decision(strategy: Strategy[Any], frames: Frames) -> int:
    """The place of the first candle that is decided on. InputError: there are too few candles for one."""
    warm_up, candles = needed(strategy), frames.candles
    if len(candles) < warm_up:
        raise InputError(f"{len(candles)} candles are too few: its warm-up needs {warm_up}")
    first = first_candle(strategy, candles, frames.inputs)
    if first < len(candles):
        return first
    for name, given in inputs_of(strategy).items():
        there = int(frames.inputs[name].index.searchsorted(candles.index[-1], side="right"))
        if there < given.warm_up:
            raise InputError(f'{there} candles of its input "{name}" are too few: its warm-up needs {given.warm_up}')
    raise InputError("there is no candle at which all warm-ups are over")
