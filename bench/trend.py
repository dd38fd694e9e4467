"""How the defaults of strategies.regime_trend were chosen: walk-forward with an embargo, over one small family.

    scripts/bench trend

Every market's candles are cut into 8 parts. Four times, the candles before one of the last four parts choose (all but
the last 50, the embargo), and that part is traded by what was chosen. What is chosen is one setting for all markets:
the one with the highest mean, over the markets, of the t-statistic of the returns of its candles. The last choice is
what is shipped. Nothing is random, so it prints the same each time.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from strategies.regime_trend import RegimeTrend, RegimeTrendParams
from strategies.sma_cross import SmaCross
from trader.backtest.array import run
from trader.backtest.bootstrap import confidence
from trader.backtest.data import Floats, bars_from_frame
from trader.backtest.deflated import Moments, deflated_sharpe, moments_of, variance_of
from trader.backtest.measures import measure, periods_per_year, returns_of, unit_values
from trader.backtest.result import Result
from trader.backtest.settings import Settings, parse_settings
from trader.bucket import read_file, timeframe_named
from trader.strategy import Strategy, evaluate

SHARED = Path(__file__).resolve().parents[1] / "../shared/data"
PARTS, TRAINING = 8, 4
"""The first four parts only ever choose."""
EMBARGO = 50
"""Candles before a part that is traded that do not choose: what is held there would hang together with it."""
FASTS, SLOWS, STRENGTHS = (5, 10, 20, 40), (50, 100, 200), (0.0, 20.0, 25.0, 30.0)
FAMILY = [
    RegimeTrendParams(fast=fast, slow=slow, adx_least=least) for fast, slow, least in product(FASTS, SLOWS, STRENGTHS)
]
FIRST = max(RegimeTrend(params).warm_up for params in FAMILY)
"""Every setting is judged from the same candle on."""
COIN = {"taker": "0.001", "spread": "0.0005"}
EXCHANGE = {"taker": "0.0001", "spread": "0.0002"}
"""Of currencies and shares."""


@dataclass(frozen=True)
class Market:
    """One file of candles, and what trading on it costs."""

    name: str
    timeframe: str
    terms: Settings
    frame: pd.DataFrame

    def cut(self, part: int) -> int:
        """Where a part begins."""
        return len(self.frame) * part // PARTS


FILES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("bitfinex_BTC-USD_1h_2016_derived", "1h", COIN),
    ("freqtrade_ETH-BTC_5m", "5m", COIN),
    ("freqtrade_LTC-BTC_5m", "5m", COIN),
    ("freqtrade_XLM-BTC_5m", "5m", COIN),
    ("freqtrade_ADA-BTC_5m", "5m", COIN),
    ("fx_EUR-USD_1h_2017-2018", "1h", EXCHANGE),
    ("nasdaq_GOOG_1d_2004-2013", "1d", EXCHANGE),
)


def read_market(name: str, timeframe: str, terms: dict[str, Any]) -> Market:
    """A market of FILES."""
    span = timeframe_named(timeframe)
    candles = read_file(SHARED / f"{name}.csv.gz", span)
    index = pd.DatetimeIndex(span.closes(candles.time_open).view("datetime64[ms]"), tz="UTC", name="time_close")
    columns = ("open", "high", "low", "close", "volume")
    frame = pd.DataFrame({column: getattr(candles, column) for column in columns}, index=index)
    return Market(name.split("_")[1], timeframe, parse_settings(terms), frame)


# Choosing


def before(market: Market, params: RegimeTrendParams, part: int) -> Result:
    """A setting on what is before a part and its embargo, from FIRST on."""
    frame = market.frame.iloc[: market.cut(part) - EMBARGO]  # no more is shown to it
    targets = evaluate(RegimeTrend(params), frame).to_numpy()
    return run(bars_from_frame(frame, market.timeframe)[FIRST:], targets[FIRST:], market.terms)


def t_statistic(result: Result) -> float:
    """How many standard errors the mean return of a candle lies above 0: 0 where nothing was traded."""
    steps = np.diff(np.log(result.equity))
    spread = float(steps.std(ddof=1))
    return float(steps.mean()) / spread * len(steps) ** 0.5 if spread > 0 else 0.0


def scores(markets: Sequence[Market], part: int) -> Floats:
    """The mean score of each setting of FAMILY on what is before a part and its embargo."""
    each = [[t_statistic(before(market, params, part)) for market in markets] for params in FAMILY]
    return np.asarray(np.mean(each, axis=1), dtype=np.float64)


@dataclass(frozen=True)
class Choice:
    """What was chosen for one part."""

    part: int
    params: RegimeTrendParams
    score: float
    median: float
    """Of the scores of the family."""


def choose(markets: Sequence[Market]) -> list[Choice]:
    """One setting for each of the last parts, by what is before it."""
    found = []
    for part in range(TRAINING, PARTS):
        made = scores(markets, part)
        best = int(made.argmax())  # of equals the first
        found.append(Choice(part, FAMILY[best], float(made[best]), float(np.median(made))))
    return found


# Trading what was chosen


def forward(market: Market, choices: Sequence[Choice]) -> Result:
    """The last parts in one run, each by the targets of its own choice, so that what is held is held on."""
    targets = np.zeros(len(market.frame))
    for choice in choices:
        start, end = market.cut(choice.part), market.cut(choice.part + 1)
        targets[start:end] = evaluate(RegimeTrend(choice.params), market.frame.iloc[:end]).to_numpy()[start:end]
    return _traded(market, targets)


def constant(market: Market, strategy: Strategy[Any]) -> Result:
    """The last parts in one run, by one strategy."""
    return _traded(market, evaluate(strategy, market.frame).to_numpy())


def _traded(market: Market, targets: Floats) -> Result:
    first = market.cut(TRAINING)
    return run(bars_from_frame(market.frame, market.timeframe)[first:], targets[first:], market.terms)


def unfiltered(choices: Sequence[Choice]) -> list[Choice]:
    """The same choices without their filter."""
    return [replace(choice, params=choice.params.model_copy(update={"adx_least": 0.0})) for choice in choices]


# How much of it is luck


def pooled(results: Sequence[Result]) -> Moments:
    """The returns of all candles of all markets, each market's in units of their own standard deviation."""
    each = [np.diff(np.log(result.equity)) for result in results]
    return moments_of(np.concatenate([steps / steps.std() for steps in each if steps.std() > 0] or [np.zeros(0)]))


def luck(ours: Sequence[Result], family: Sequence[Sequence[Result]]) -> str:
    """The Sharpe ratio of a candle, and how likely there is one above 0, and above that of the best by luck."""
    made, others = pooled(ours), [pooled(results).sharpe_period for results in family]
    alone, best = (deflated_sharpe(made, *tries) for tries in ((1, 0.0), (len(family), variance_of(others))))
    return (
        f"Sharpe ratio of a candle {made.sharpe_period:.4f}, probabilistic {alone:.2f}, "
        f"deflated by {len(family)} tries {best:.2f}"
    )


def better(ours: Sequence[Result], family: Sequence[Sequence[Result]]) -> tuple[int, float]:
    """How many of the family, held fixed, have a higher mean score; and our own."""
    mean = float(np.mean([t_statistic(result) for result in ours]))
    others = [float(np.mean([t_statistic(result) for result in results])) for results in family]
    return sum(other > mean + 1e-12 for other in others), mean


# The report

HEADER = (
    "market   candles  return %  95 % of it          hold %  no filter %  SMA 3/100 %  max drawdown %  Sharpe  "
    "trades  won %  held %"
)


def line(market: Market, result: Result, plain: Result) -> str:
    """A row of the table: what was chosen, buying and holding, the same without its filter, and the SMA cross."""
    made, cross = measure(result), measure(constant(market, SmaCross()))
    sure = confidence(
        returns_of(result.bars.time, unit_values(result.equity, result.flows)), periods_per_year(result.bars.time)
    )
    between = f"{sure.return_percent.low:.0f} to {sure.return_percent.high:.0f}" if sure else "-"
    return (
        f"{market.name:<9}{len(result.bars):>7}{made.return_percent:10.1f}  {between:<16}"
        f"{made.buy_and_hold_percent:10.1f}{measure(plain).return_percent:13.1f}{cross.return_percent:13.1f}"
        f"{made.max_drawdown_percent:16.1f}{_number(made.sharpe, 8, 2)}{made.trades:8d}"
        f"{_number(made.win_percent, 7, 0)}{made.exposure_percent:8.0f}"
    )


def _number(value: float | None, width: int, places: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{places}f}"


def report(markets: Sequence[Market]) -> Iterator[str]:
    """The whole report, line by line."""
    yield f"{len(FAMILY)} settings: fast {FASTS}, slow {SLOWS}, adx_least {STRENGTHS}"
    choices = choose(markets)
    for choice in choices:
        made = choice.params
        yield (
            f"part {choice.part + 1} of {PARTS} by fast {made.fast}, slow {made.slow}, adx_least {made.adx_least:g}: "
            f"score in sample {choice.score:.2f}, median of the family {choice.median:.2f}"
        )
    results = [forward(market, choices) for market in markets]
    plain = [forward(market, unfiltered(choices)) for market in markets]
    yield f"\nout of sample, parts {TRAINING + 1} to {PARTS}\n{HEADER}"
    for entry in zip(markets, results, plain, strict=True):
        yield line(*entry)
    family = [[constant(market, RegimeTrend(params)) for market in markets] for params in FAMILY]
    number, mean = better(results, family)
    yield f"mean score {mean:.2f}; {number} of the {len(FAMILY)} settings, held fixed, did better there"
    yield f"out of sample: {luck(results, family)}"
    tried = [[before(market, params, choices[-1].part) for market in markets] for params in FAMILY]
    yield f"in sample, last choice: {luck(tried[FAMILY.index(choices[-1].params)], tried)}"


def main() -> None:
    if not SHARED.is_dir():
        sys.exit("the candle files are not here: ../shared/data is needed beside the checkout")
    for text in report([read_market(*entry) for entry in FILES]):
        print(text, flush=True)


if __name__ == "__main__":
    main()
