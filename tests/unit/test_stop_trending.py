"""The SMA cross with its stop: the stop as a function on drawn paths, then the whole class through a backtest."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.shipped import hours_of
from bench.trend import COIN, SHARED, read_market
from strategies.sma_cross import Followed, SmaCross, StopTrending, StopTrendingParams, follow
from trader.backtest.check import check
from trader.backtest.result import Result
from trader.backtest.run import Frames, backtest
from trader.backtest.settings import parse_settings
from trader.errors import InputError
from trader.strategy import OnBucketContext, at, evaluate, first_candle, load, reach_of

needs_files = pytest.mark.skipif(not SHARED.is_dir(), reason="NOT RUN: ../shared/data is not here")

PARAMS = StopTrendingParams()
RISEN = [100.0] * 40 + [112.0] * 10
"""112 is above 1.06 x 100: at the fourth of them (place 43) the target rises to 106, and 1.06 x 106 is 112.36."""


def followed(*prices: float, target: float = 100.0) -> Followed:
    return follow(np.array(prices, dtype=float), target, PARAMS)


# The stop


@pytest.mark.parametrize(
    ("price", "place"),
    [
        (104.0, 69),  # at most 0.99 x 106 = 104.94: the twentieth of them
        (100.0, 52),  # at most 0.95 x 106 = 100.7: the third of them
    ],
)
def test_the_paths_of_the_rules(price: float, place: int) -> None:
    prices = [*RISEN, *[price] * 30]
    assert followed(*prices) == Followed(106.0, 43, place)
    assert followed(*prices[:place]) == Followed(106.0, 43, None)


def test_it_sells_at_the_third_of_ten_deep_prices() -> None:
    # 0.95 x 100 = 95 is deep; 95.01 is not, but shallow
    assert followed(95, 95, 95).stopped_at == 2
    assert followed(95, 95, *[100] * 7, 95).stopped_at == 9
    assert followed(95, 95, *[100] * 8, 95).stopped_at is None  # the first is no more among the last ten
    assert followed(*[95.01] * 19).stopped_at is None


def test_it_sells_at_the_twentieth_of_fifty_shallow_prices() -> None:
    assert followed(*[99] * 20).stopped_at == 19
    assert followed(*[99] * 19, *[100] * 30, 99).stopped_at == 49
    assert followed(*[99] * 19, *[100] * 31, 99).stopped_at is None
    assert followed(*[99.01] * 60).stopped_at is None


def test_the_target_rises_at_the_fourth_of_ten_high_prices() -> None:
    assert followed(106, 106, 106) == Followed(100, None, None)
    assert followed(106, 106, 106, 106) == Followed(106, 3, None)
    assert followed(106, 106, 106, *[100] * 6, 106) == Followed(106, 9, None)
    assert followed(106, 106, 106, *[100] * 7, 106) == Followed(100, None, None)
    assert followed(*[105.99] * 60) == Followed(100, None, None)


def test_only_prices_since_the_last_rise_count() -> None:
    # 125 is above 1.06 x 106 = 112.36 as well: the next rise takes four more of them, at 7, the third at 11.
    assert followed(*[125] * 7) == Followed(106, 3, None)
    assert followed(*[125] * 8) == Followed(106 * 1.06, 7, None)
    # 100 and 101 were not low for 100. For 106 they would be deep and shallow, but they came before it rose.
    assert followed(*[100] * 45, *[106] * 4, 100, 100, 106) == Followed(106, 48, None)
    assert followed(*[100] * 45, *[106] * 4, 100, 100, 100) == Followed(106, 48, 51)


def test_the_target_never_falls() -> None:
    assert followed(*RISEN, *[105] * 500) == Followed(106, 43, None)


def test_prices_that_were_judged_before_are_only_counted() -> None:
    prices = np.array([95.0, 95.0, 100.0, 95.0])
    assert follow(prices, 100, PARAMS, unseen=1) == Followed(100, None, 3)
    assert follow(prices[:3], 100, PARAMS, unseen=0) == Followed(100, None, None)


@pytest.mark.parametrize("seed", range(5))
def test_one_by_one_it_says_what_it_says_at_once(seed: int) -> None:
    prices = 100 * np.exp(np.random.default_rng(seed).normal(0.0005, 0.012, 400).cumsum())
    whole, target, since = follow(prices, 100, PARAMS), 100.0, 0
    for end in range(1, len(prices) + 1):
        step = follow(prices[max(since, end - 50) : end], target, PARAMS, unseen=1)
        if step.stopped_at is not None:
            break
        if step.rose_at is not None:
            target, since = step.target, end
    assert whole.stopped_at == end - 1
    assert whole.target == target


# The whole class

TERMS = parse_settings({"taker": "0.001"})
HOURS = 27
"""Of quiet before the cross: more than the warm-up of 1,490 minutes."""
CROSS = (HOURS + 1) * 60 - 1
"""The minute that closes with the hour that crosses."""


def minutes(*prices: float) -> pd.DataFrame:
    """Candles of a minute that are a line each."""
    index = pd.date_range("2024-01-01 00:01", periods=len(prices), freq="1min", tz="UTC", name="time_close")
    columns = dict.fromkeys(("open", "high", "low", "close"), np.array(prices, dtype=float))
    return pd.DataFrame({**columns, "volume": 1.0}, index=index)


def hours(candles: pd.DataFrame) -> pd.DataFrame:
    """The full hours of minutes."""
    rules = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    made = candles.resample("1h", closed="right", label="right").agg(rules)  # type: ignore[call-overload]
    return made[made.index <= candles.index[-1]]


# SMA(2) and SMA(4) of the hours: 99 and 99, then (99 + 100) / 2 = 99.5 above 99.25. It is bought at that close, for the
# next minute's open; the first price that counts is that minute's.
BEFORE = [99.0] * 60 * HOURS + [100.0] * 60


def traded(
    *path: float, kind: type[StopTrending] = StopTrending, terms: Any = TERMS, gap: slice | None = None
) -> Result:
    candles = minutes(*BEFORE, *path)
    frames = Frames(candles if gap is None else candles.drop(candles.index[gap]), "1m", {"trend": hours(candles)})
    return backtest(kind(StopTrendingParams(fast=2, slow=4)), frames, terms)


def orders(result: Result) -> list[tuple[int, int]]:
    """The orders that were filled: +1 or -1, and at which minute since the entry they were decided (-1: its own)."""
    return [
        (int(side), int(bar) - CROSS - 1) for side, bar in zip(result.fills.side, result.fills.decided, strict=True)
    ]


@pytest.mark.parametrize(("price", "minute"), [(104.0, 69), (100.0, 52)])
def test_the_class_sells_where_the_stop_says(price: float, minute: int) -> None:
    result = traded(*RISEN, *[price] * 60)
    assert orders(result) == [(1, -1), (-1, minute)]
    assert result.fills.bar.tolist() == [CROSS + 1, CROSS + 1 + minute + 1]
    assert result.fills.price.tolist() == [100, price]


def test_without_a_stop_it_sells_where_the_trend_ends() -> None:
    # The next hours are 100 and 100, then SMA(2) = 100 is above SMA(4) = 99.75, then all are equal.
    assert orders(traded(*[100.0] * 300)) == [(1, -1), (-1, 179)]


def test_what_a_stop_could_not_sell_is_sold_on() -> None:
    candles = minutes(*BEFORE, *RISEN, *[100.0] * 60)
    candles.loc[candles.index[CROSS + 54] :, "volume"] = 40.0  # of about 99.9 that are held
    candles.loc[candles.index[: CROSS + 54], "volume"] = 1_000.0
    frames = Frames(candles, "1m", {"trend": hours(candles)})
    share = parse_settings({"volume_share": 1})
    result = backtest(StopTrending(StopTrendingParams(fast=2, slow=4)), frames, share)
    assert orders(result) == [(1, -1), (-1, 52), (-1, 53), (-1, 54)]
    assert result.fills.quantity[1:].tolist() == pytest.approx([40, 40, 19.9])


def test_after_a_stop_it_waits_for_a_fresh_cross() -> None:
    # Stopped at 52. Hours since the entry: 103 (its ohlc4), 100, 112, four of 90 and one of 120. SMA(2) and SMA(4) at
    # the third: 106 and 103.75, so the trend goes on; at the fourth: 101 and 101.25; at the eighth: 105 and 97.5.
    path = [*RISEN, *[100.0] * 70, *[112.0] * 60, *[90.0] * 240, *[120.0] * 70]
    made = orders(traded(*path))
    assert made == [(1, -1), (-1, 52), (1, 8 * 60 - 1)]


def test_one_cross_is_one_entry() -> None:
    # A crash in the minutes after the entry stops it within the hour of the cross.
    assert orders(traded(*[90.0] * 3, *[100.0] * 56)) == [(1, -1), (-1, 2)]


class Restarted(StopTrending):
    """A new process at every minute: what is kept is JSON."""

    def on_bucket(self, context: OnBucketContext) -> float | None:
        kept = json.loads(json.dumps(context.state))
        context.state.clear()
        context.state.update(kept)
        return StopTrending(self.params).on_bucket(context)


@pytest.mark.parametrize(("price", "minute"), [(104.0, 69), (100.0, 52)])
def test_its_state_survives_restarts(price: float, minute: int) -> None:
    assert orders(traded(*RISEN, *[price] * 60, kind=Restarted)) == [(1, -1), (-1, minute)]


def away(first: int, last: int) -> type[StopTrending]:
    """One that does not see these minutes after the entry."""

    class Away(StopTrending):
        def on_bucket(self, context: OnBucketContext) -> float | None:
            minute = (context.milliseconds - START) // 60_000
            return None if first <= minute <= last else super().on_bucket(context)

    return Away


START = int(minutes(*BEFORE, 100).index[-1].timestamp() * 1000)
"""When the first minute after the entry closes."""


@pytest.mark.parametrize(
    ("price", "first", "last", "minute"),
    [
        (104.0, 30, 60, 69),  # the rise was missed; the stop is where it would have been
        (104.0, 60, 68, 69),
        (104.0, 45, 75, 76),  # the stop was missed: made up for at once
        (100.0, 0, 51, 52),
        (100.0, 0, 90, 91),
    ],
)
def test_missed_minutes_are_made_up_for(price: float, first: int, last: int, minute: int) -> None:
    assert orders(traded(*RISEN, *[price] * 60, kind=away(first, last))) == [(1, -1), (-1, minute)]


def test_a_day_of_missed_minutes_is_within_reach() -> None:
    # Prices that stand still end a trend, so they rise: a bit each hour, in all by less than 6 %.
    rising = [100 + 0.1 * (minute // 60) for minute in range(1_500)]
    assert orders(traded(*rising, kind=away(10, 1_440))) == [(1, -1)]
    deep = [*rising[:12], 94.0, 94.0, 94.0, *rising[15:]]
    assert orders(traded(*deep, kind=away(10, 1_440))) == [(1, -1), (-1, 1_441)]


class Forgetful(StopTrending):
    """Its state is lost ten minutes after the entry."""

    def on_bucket(self, context: OnBucketContext) -> float | None:
        if context.milliseconds == START + 10 * 60_000:
            context.state.clear()
        return super().on_bucket(context)


def test_without_its_state_it_follows_what_is_held_from_here_on() -> None:
    # At minute 10 the price is 103: that is the target then, and 97.85 is deep. Before it was 100, and 95.
    path = [*[100.0] * 5, *[103.0] * 20, *[97.8] * 5, *[103.0] * 20]
    assert orders(traded(*path, kind=Forgetful)) == [(1, -1), (-1, 27)]
    assert orders(traded(*path)) == [(1, -1)]


def test_a_cross_whose_minute_is_missing_is_taken_at_the_next() -> None:
    path = [*[100.0] * 30, *[95.0] * 25]
    result = traded(*path, gap=slice(CROSS, CROSS + 4))  # the minute of the cross, and three after it
    assert result.fills.side.tolist() == [1, -1]
    assert result.fills.decided.tolist() == [CROSS, CROSS + 29]  # places move up by four: minutes 3 and 32
    assert result.gaps == 1


def test_an_entry_that_cannot_be_paid_is_not_tried_again() -> None:
    result = traded(*[100.0] * 100, terms=parse_settings({"deposit": 0}))
    assert len(result.fills) == 0
    assert [refusal.bar for refusal in result.refused] == [CROSS]


def test_what_a_live_run_reads_holds_a_day() -> None:
    strategy = StopTrending()
    assert strategy.warm_up == 1_490
    reach = reach_of(strategy, "1m")
    assert reach.candles >= 1_490
    assert reach.inputs["trend"] >= 101


# Parameters


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"fast": 100}, "fast is 100 and slow is 100: fast must be smaller than slow"),
        ({"trend": "1m"}, "parameter trend is '1m': one of 5m, 15m, 30m, 1h, 2h, 4h, 6h, 8h, 12h, 1d"),
        ({"deep": 1.0}, "parameter deep is 1.0: a number, above 0, below 1"),
        ({"rise": 1}, "parameter rise is 1: a number, above 1, at most 10"),
        ({"deep_of": 1441}, "parameter deep_of is 1441: a whole number, at least 1, at most 1440"),
        ({"deep_count": 11}, "deep_count is 11 and deep_of is 10: so many of so few there cannot be"),
        ({"shallow_count": 51}, "shallow_count is 51 and shallow_of is 50: so many of so few there cannot be"),
        ({"rise_of": 3}, "rise_count is 4 and rise_of is 3: so many of so few there cannot be"),
        ({"shallow": 0.9}, "deep is 0.95 and shallow is 0.9: deep must not be above shallow"),
    ],
)
def test_bad_parameters_are_refused_in_one_sentence(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        load("strategies.sma_cross:StopTrending", params)
    assert str(refused.value) == f"StopTrending: {sentence}"


# Real candles


@pytest.fixture(scope="module")
def real() -> Frames:
    """Six weeks of BTC/USD."""
    candles = read_market("bitfinex_BTC-USD_1m_2016", "1m", COIN).frame["2016-01-01":"2016-02-14"]
    return Frames(candles, "1m", {"trend": hours_of(candles)})


@needs_files
def test_it_does_not_look_ahead_on_real_candles(real: Frames) -> None:
    whole = backtest(StopTrending(), real, TERMS)
    assert len(whole.fills) > 15
    moments = real.candles.index
    for end in np.linspace(6_000, len(moments), 8, endpoint=False).astype(int).tolist():
        known = {"trend": real.inputs["trend"]}  # the kit cuts off what had not closed
        part = backtest(StopTrending(), Frames(real.candles.iloc[:end], "1m", known), TERMS)
        before = whole.fills.bar < end
        for name in ("bar", "decided", "side", "price", "quantity"):
            assert getattr(part.fills, name).tolist() == getattr(whole.fills, name)[before].tolist(), end


@needs_files
def test_the_check_proves_it_on_real_candles(real: Frames) -> None:
    report = check(StopTrending(), real)
    assert report.proved, report
    assert report.changes > 20


@needs_files
def test_restarts_change_nothing_on_real_candles(real: Frames) -> None:
    whole, restarted = (backtest(kind(), real, TERMS) for kind in (StopTrending, Restarted))
    assert restarted.fills.decided.tolist() == whole.fills.decided.tolist()


@needs_files
def test_without_a_stop_it_trades_the_hours_crosses(real: Frames) -> None:
    """Where no stop can be met, what it does is the signal of `SmaCross` on the hours."""
    result = backtest(StopTrending(StopTrendingParams(deep=1e-9, shallow=1e-9)), real, TERMS)
    rising = at(evaluate(SmaCross(), real.inputs["trend"]), pd.DatetimeIndex(real.candles.index)).to_numpy()
    decided = result.fills.decided.tolist()
    ups, downs = ((np.flatnonzero(np.diff(rising) == step) + 1).tolist() for step in (1, -1))
    known = first_candle(StopTrending(), real.candles, real.inputs)
    assert decided[0::2] == [up for up in ups if up >= known]
    assert decided[1::2] == [down for down in downs if down > decided[0]]
