"""What every shipped strategy did with its defaults on real candles: the tables of docs/shipped.md.

    scripts/bench shipped

All of each file is traded by 100 % of 10,000, from the warm-up on, with 0.1 % for fees and 0.05 % of spread (currencies
and shares: 0.01 % and 0.02 %). Nothing is random, so it prints the same each time. The defaults were not fitted to
these files, but for those of regime_trend: docs/shipped.md has its result out of sample.
"""

import sys
from collections.abc import Iterator
from typing import Any

import pandas as pd

from bench.trend import COIN, FILES, SHARED, Market, read_market
from strategies.momentum import Momentum
from strategies.moving_average import MovingAverage
from strategies.regime_trend import RegimeTrend
from strategies.sma_cross import SmaCross, StopTrending
from strategies.support_resistance import SupportResistance
from trader.backtest.measures import Measures, measure
from trader.backtest.run import Frames, backtest, first_decision
from trader.strategy import Strategy, inputs_of

SHIPPED: tuple[Strategy[Any], ...] = (
    SmaCross(),
    StopTrending(),
    Momentum(),
    SupportResistance(),
    MovingAverage(),
    RegimeTrend(),
)
SHOWN = ("BTC-USD", "ETH-BTC", "EUR-USD", "GOOG")
MINUTES = ("bitfinex_BTC-USD_1m_2016", "bitfinex_LTC-USD_1m_2016")
"""For those that look at minutes and hours."""
HEADER = "| market | candles | return % | holding % | max drawdown % | Sharpe | trades | won % | held % |"
RULE = "|---|" + "---:|" * 8


def traded(strategy: Strategy[Any], market: Market) -> Measures:
    """One strategy on all of one file."""
    hours = {name: hours_of(market.frame) for name in inputs_of(strategy)}
    frames = Frames(market.frame, market.timeframe, hours)
    return measure(backtest(strategy, frames, market.terms), first_decision(strategy, frames))


def hours_of(minutes: pd.DataFrame) -> pd.DataFrame:
    """The hours of minutes, by the time of close; those in which nobody traded are not there."""
    made = minutes.resample("1h", closed="right", label="right")
    rules = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    return made.agg(rules).dropna()


def row(name: str, candles: int, made: Measures) -> str:
    """A row of a table."""
    held = _number(made.buy_and_hold_percent, 1)
    return (
        f"| {name} | {candles:,} | {made.return_percent:.1f} | {held} | {made.max_drawdown_percent:.1f} | "
        f"{_number(made.sharpe, 2)} | {made.trades:,} | {_number(made.win_percent, 0)} | {made.exposure_percent:.0f} |"
    )


def _number(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def table(strategy: Strategy[Any], markets: list[Market]) -> Iterator[str]:
    """The table of one strategy, line by line."""
    yield from (HEADER, RULE)
    in_minutes = bool(inputs_of(strategy))
    for market in markets:
        if (market.timeframe == "1m") == in_minutes:
            yield row(f"{market.name} {market.timeframe}", len(market.frame), traded(strategy, market))


def read_shown() -> list[Market]:
    """The files that the tables show."""
    entries = [entry for entry in FILES if entry[0].split("_")[1] in SHOWN]
    return [read_market(*entry) for entry in (*entries, *((name, "1m", COIN) for name in MINUTES))]


def main() -> None:
    if not SHARED.is_dir():
        sys.exit("the candle files are not here: ../shared/data is needed beside the checkout")
    markets = read_shown()
    for strategy in SHIPPED:
        print(f"\n{type(strategy).__name__}\n", *table(strategy, markets), sep="\n", flush=True)


if __name__ == "__main__":
    main()
