"""Walk-forward: parameters are chosen on the past, and judged on what came after, again and again.

The candles are cut into equal tests and what comes before the first one. The training of a test ends `embargo` candles
before it, so that what is decided at the end of a training and earned later is in none of them. A test begins with
nothing in hand and ends with all sold; a run over it sees the candles before it as its warm-up, and trades only inside.
"""

from collections.abc import Sequence
from dataclasses import replace
from decimal import ROUND_DOWN, Decimal
from typing import NamedTuple

import numpy as np

from trader.backtest.data import Bars
from trader.backtest.deflated import Moments, moments_of
from trader.backtest.fill import taker_prices
from trader.backtest.measures import Measures, count_returns, hold, measure_all, returns_of, sellable, unit_values
from trader.backtest.result import SELL, Fills, Refusal, Result, States, equity_of
from trader.backtest.settings import UNIT, Settings
from trader.bucket.timeframe import DAY, Timeframe, Times
from trader.errors import InputError

FEW = 30
"""Returns of a test below which its Sharpe ratio is said to mean little."""


class Fold(NamedTuple):
    """A training and the test that follows, as positions of candles."""

    train: range
    test: range


def folds(candles: int, tests: int, train: int = 3, embargo: int = 0, *, anchored: bool = False) -> list[Fold]:
    """The folds of so many candles: `tests` of equal length, the trainings `train` times as long, or from the start on.

    The last test ends with the last candle. InputError: a number that is none, or too few candles.
    """
    for name, value, least in (("tests", tests, 1), ("train", train, 1), ("embargo", embargo, 0)):
        if value < least:
            raise InputError(f"walk-forward: {name} is {value}: at least {least} is allowed")
    length = (candles - embargo) // (tests + train)
    if length < 2:
        raise InputError(
            f"walk-forward: {candles} candles are too few for {tests} tests, a training of {train} times their length "
            f"and an embargo of {embargo}: at least {2 * (tests + train) + embargo} are needed"
        )
    found = []
    for number in range(tests):
        start = candles - (tests - number) * length
        end = start - embargo
        found.append(Fold(range(0 if anchored else end - train * length, end), range(start, start + length)))
    return found


def check_tests(time: Times, found: Sequence[Fold]) -> None:
    """InputError: a test has fewer than two returns, so no Sharpe ratio. `time` is when the candles close."""
    for number, fold in enumerate(found, 1):
        if count_returns(time[fold.test.start : fold.test.stop]) < 2:
            raise InputError(
                f"walk-forward: the {len(fold.test)} candles of test {number} lie within one day (UTC): a Sharpe ratio "
                "needs at least 2 daily returns, so fewer tests or more candles are needed"
            )


def short_tests(returns: int, timeframe: Timeframe) -> str:
    """What is to be said of tests with so few returns; empty: nothing."""
    if returns >= FEW:
        return ""
    unit = "candles" if timeframe.span is None or timeframe.span > DAY else "days"
    return f"tests of {returns} {unit} are short: a Sharpe ratio of so few {unit} means little"


def with_warm_up(test: slice, warm_up: int, settings: Settings) -> slice:
    """The candles to run a test over: `warm_up` more before it, so that a fresh cross at its first candle is one.
    What is decided one candle earlier is filled at the open of the first; where fills are at the close, that candle is
    left out.
    """
    return slice(max(0, test.start - warm_up + (settings.fill == "close")), test.stop)


def cut(result: Result, start: int) -> Result:
    """What a run made from bar `start` on. It must not have traded before: the bars there were its warm-up."""
    if len(result.fills) and int(result.fills.bar[0]) < start:
        raise InputError(f"a run traded at {result.bars.moment(int(result.fills.bar[0]))}, before its test began")
    columns = {name: getattr(result.fills, name) for name in Fills.__dataclass_fields__}
    fills = Fills(**columns | {"bar": result.fills.bar - start, "decided": result.fills.decided - start})
    states = States(np.maximum(0, result.states.bar - start), result.states.cash, result.states.holding)
    # What is decided at the close right before is filled at the first open: it is the test's, as its fill would be.
    refused = tuple(Refusal(max(0, one.bar - start), one.reason) for one in result.refused if one.bar >= start - 1)
    flows = tuple((max(0, bar - start), amount) for bar, amount in result.flows)
    return Result(result.bars[start:], result.settings, fills, states, flows, result.equity[start:], refused)


def closed(result: Result) -> Result:
    """The same with what is held at the end sold at the last close, as a test ends: a trade like any other. Where
    nothing can be sold (dust is held, or nothing), the result as it is.
    """
    if not sellable(result)[-1]:
        return result
    fills, last, held = result.fills, len(result.bars) - 1, float(result.holding[-1])
    price = float(taker_prices(result.settings, "sell", result.bars.close[-1:])[0])
    quote, fee = held * price, held * price * float(result.settings.taker)
    sale = (last, last, SELL, price, held, quote, fee, False, 1 + int(fills.order.max(initial=-1)))
    names = Fills.__dataclass_fields__
    columns = {name: np.append(getattr(fills, name), one) for name, one in zip(names, sale, strict=True)}
    columns |= {"side": columns["side"].astype(np.int8), "maker": columns["maker"].astype(np.bool_)}
    states = (result.states.bar, result.states.cash, result.states.holding)
    after = (last, float(result.cash[-1]) + quote - fee, 0.0)
    joined_states = States(*(np.append(column, one) for column, one in zip(states, after, strict=True)))
    equity = equity_of(result.bars, joined_states)
    return replace(result, fills=Fills(**columns), states=joined_states, equity=equity)


def left_over(result: Result) -> Decimal:
    """The quote that there is when all that is held at the end is sold at the last close, as an order would be."""
    settings, held = result.settings, float(result.holding[-1])
    price = float(taker_prices(settings, "sell", result.bars.close[-1:])[0])
    free = float(result.cash[-1]) + held * price * (1 - float(settings.taker))
    return Decimal(repr(max(0.0, free))).quantize(UNIT, ROUND_DOWN)


def joined(results: Sequence[Result]) -> tuple[Measures, Moments]:
    """All tests as one run, of which each began with what the one before left over: its measures, and the moments of
    its returns. Buying and holding: once, over all tests.
    """
    flows = ((0, float(results[0].settings.deposit)),)
    time = np.concatenate([result.bars.time for result in results])
    equity = np.concatenate([result.equity for result in results])
    held = hold(replace(results[0], bars=_bars(results)))
    measures = measure_all(time, equity, flows, results, held)
    return measures, moments_of(returns_of(time, unit_values(equity, flows)))


def _bars(results: Sequence[Result]) -> Bars:
    parts = [result.bars for result in results]
    names = ("time", "open", "high", "low", "close", "volume")
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in names]
    return Bars(parts[0].timeframe, *columns)


def check_settings(settings: Settings) -> None:
    """InputError if a walk-forward cannot have these settings."""
    if settings.flows:
        raise InputError("walk-forward: each test begins with one sum, so later deposits and withdrawals cannot be")
