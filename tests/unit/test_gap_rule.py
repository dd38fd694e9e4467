"""The rule of gaps by itself: of one window, as live, and of all bars at once, as in a backtest."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trader.backtest.across import EVERY, Watched, across_of
from trader.backtest.check import check
from trader.backtest.result import AFTER_A_GAP, UNDECIDED
from trader.backtest.run import Frames, backtest
from trader.backtest.settings import parse_settings
from trader.clock import from_milliseconds
from trader.errors import InputError
from trader.strategy import (
    Gap,
    GapPolicy,
    Input,
    Missing,
    OnBucketContext,
    SignalError,
    Strategy,
    accepts,
    holes_of,
    missing_of,
)
from trader.strategy.gap import Verdict

MINUTE = 60_000
VERDICTS: list[Verdict | None] = [None, "no_trades", "outage"]


@pytest.mark.parametrize(
    ("policy", "accepted"), [("none", []), ("no_trades", ["no_trades"]), ("any", [None, "no_trades", "outage"])]
)
def test_which_gaps_a_policy_accepts(policy: GapPolicy, accepted: list[Verdict | None]) -> None:
    assert [verdict for verdict in VERDICTS if accepts(policy, verdict)] == accepted


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), policy=st.sampled_from(["none", "no_trades", "any"]), warm_up=st.integers(1, 6))
def test_one_window_and_all_bars_at_once_say_the_same(seed: int, policy: GapPolicy, warm_up: int) -> None:
    """Each window is looked at by its gaps as rows, as a live run reads them: counted by hand, and by the rule."""
    rng = np.random.default_rng(seed)
    closes = np.cumsum(1 + rng.integers(1, 5, 60) * (rng.random(60) < 0.15)) * MINUTE
    gaps = drawn_gaps(closes, rng)
    decided = np.arange(warm_up - 1, 60)
    found = across_of(decided, Watched(holes_of(closes, missing_of(gaps), policy), warm_up, decided))
    silent, broken = set(found.silent.tolist()), set(found.broken.tolist())
    for bar in decided.tolist():
        first, newest = int(closes[bar + 1 - warm_up]), int(closes[bar])
        rows = [gap for gap in gaps if reads(gap, first, newest)]
        by_hand = any(not accepts(policy, gap.verdict) for gap in rows)
        window = holes_of(closes[bar + 1 - warm_up : bar + 1], missing_of(rows), policy)
        assert bool(window.within(0, warm_up - 1)) == by_hand == (bar in silent)
        ends = [milliseconds(gap.end) for gap in gaps if not gap.partial and not accepts(policy, gap.verdict)]
        assert (bar in broken) == (bar > warm_up - 1 and newest - MINUTE in ends)
    assert set(found.begins.tolist()) == {bar for bar in silent if bar - 1 not in silent}


def reads(gap: Gap, first: int, newest: int) -> bool:
    """Whether a live run reads a gap with the candles from one close to another."""
    return first <= milliseconds(gap.end) <= newest if gap.partial else first <= milliseconds(gap.start) < newest


def drawn_gaps(closes: np.ndarray, rng: np.random.Generator) -> list[Gap]:
    gaps = []
    for before, after in zip(closes[:-1].tolist(), closes[1:].tolist(), strict=True):
        if after - before > MINUTE:
            verdict = VERDICTS[int(rng.integers(0, 3))]
            missing = (after - before) // MINUTE - 1
            gaps.append(Gap(from_milliseconds(before), from_milliseconds(after - MINUTE), missing, verdict))
        if rng.random() < 0.05:
            times = (from_milliseconds(after - MINUTE), from_milliseconds(after))
            gaps.append(Gap(*times, 1, "no_trades", partial=True))
    return gaps


def milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def test_nothing_from_before_what_is_still_to_be_fetched_is_seen_whatever_the_policy() -> None:
    closes = np.array([1, 2, 3, 6, 7, 8, 9]) * MINUTE
    missing = Missing({None: np.array([3 * MINUTE])}, unseen=np.array([0, 5 * MINUTE]))
    decided = np.arange(2, 7)
    found = across_of(decided, Watched(holes_of(closes, missing, "any"), 3, decided))
    assert found.silent.tolist() == [3, 4]
    assert found.broken.tolist() == [3, 4, 5]  # at bar 5 the warm-up is whole for the first time


def test_without_a_gap_that_matters_there_is_nothing_to_look_at() -> None:
    closes = np.array([1, 2, 5, 6]) * MINUTE
    decided = np.arange(4)
    quiet = Missing({"no_trades": np.array([2 * MINUTE])})
    assert across_of(decided, Watched(holes_of(closes, quiet, "no_trades"), 2, decided)) is EVERY


def test_a_gap_is_told_in_words() -> None:
    gap = Gap(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, 2, tzinfo=UTC), 2, None)
    assert str(gap) == "2 candles are missing from 2024-01-01 00:00 to 2024-01-01 02:00: nobody knows yet why"
    assert gap.is_since(gap.start)
    assert not gap.is_since(gap.end)
    assert replace(gap, partial=True).is_since(gap.end)


# Daily shares


class Above(Strategy):
    """In while the close is above 100."""

    warm_up = 3

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        return (candles["close"] > 100).astype(float)


class Strict(Above):
    gaps = "none"


class Bold(Above):
    gaps = "any"


class Called(Strategy):
    warm_up = 3

    def on_bucket(self, context: OnBucketContext) -> float:
        return float(context.close > 100)


class Wrong(Above):
    gaps = "some"  # type: ignore[assignment]


def shares(*closes: float) -> Frames:
    """Days from Monday, 2024-01-01 on, without weekends."""
    days = pd.offsets.CustomBusinessDay(weekmask="Tue Wed Thu Fri Sat")  # when the days before them close
    index = pd.date_range("2024-01-02", periods=len(closes), freq=days, tz="UTC", name="time_close")
    column = pd.Series(closes, index=index, dtype=float)
    return Frames(pd.DataFrame(dict.fromkeys(("open", "high", "low", "close"), column) | {"volume": 1.0}), "1d")


WEEKS = (90, 90, 90, 90, 90, 110, 110, 110, 110, 110, 90, 90)
"""It rises above 100 on the second Monday, and falls on the third."""


@pytest.mark.parametrize("kind", [Above, Bold, Called])
@pytest.mark.parametrize("schedule", ["bucket", "day"])
def test_an_entry_on_a_monday_is_taken(kind: type[Strategy], schedule: str) -> None:
    frames = shares(*WEEKS)
    result = backtest(kind(), frames, parse_settings({}), schedule)
    decided = [f"{frames.candles.index[bar]:%a}" for bar in result.fills.decided.tolist()]
    assert decided == ["Tue", "Tue"]  # a day closes as the next one begins
    assert result.fills.decided.tolist() == [5, 10]
    assert (result.refused, result.gaps) == ((), 2)


@pytest.mark.parametrize(("kind", "taken_for"), [(Strict, "no_trades"), (Above, "unknown"), (Called, "unknown")])
@pytest.mark.parametrize("schedule", ["bucket", "day"])
def test_where_the_gap_is_not_accepted_nothing_is_decided_until_it_is_out_of_the_warm_up(
    kind: type[Strategy], taken_for: str, schedule: str
) -> None:
    result = backtest(kind(), shares(*WEEKS), parse_settings({"file_gaps": taken_for}), schedule)
    assert len(result.fills) == 0
    assert [(one.bar, one.reason) for one in result.refused] == [(5, UNDECIDED), (7, AFTER_A_GAP), (10, UNDECIDED)]


class Beside(Above):
    """It looks at shares, and trades what has no weekend."""

    @property
    def inputs(self) -> dict[str, Input]:
        return {"other": Input(timeframe="1d", market="files:O/USD", warm_up=2)}

    def signal(self, candles: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
        return super().signal(candles)


def test_the_gaps_of_an_input_stop_decisions_too() -> None:
    week = shares(*WEEKS).candles
    every = week.reindex(pd.date_range(week.index[0], week.index[-1], name="time_close")).ffill()
    result = backtest(Beside(), Frames(every, "1d", {"other": week}), parse_settings({"file_gaps": "unknown"}))
    silent = [every.index[one.bar] for one in result.refused if one.reason == UNDECIDED]
    assert silent == [week.index[5], week.index[10]]
    assert result.gaps == 0


def test_what_is_stored_has_verdicts() -> None:
    frames = shares(*WEEKS)
    closes = frames.candles.index.as_unit("ms").asi8
    stored = replace(frames, missing={"": Missing({"outage": closes[[4, 9]]})})
    result = backtest(Above(), stored, parse_settings({}))
    assert [one.reason for one in result.refused] == [UNDECIDED, AFTER_A_GAP, UNDECIDED]
    with pytest.raises(InputError, match="file_gaps is unknown: it is for files; of stored candles the verdicts count"):
        backtest(Above(), stored, parse_settings({"file_gaps": "unknown"}))
    with pytest.raises(InputError, match="file_gaps is 'outage': no_trades or unknown"):
        parse_settings({"file_gaps": "outage"})


def test_a_policy_that_is_none_is_refused() -> None:
    with pytest.raises(SignalError, match="gaps is 'some': allowed are none, no_trades, any"):
        backtest(Wrong(), shares(*WEEKS), parse_settings({}))


def test_the_check_calls_on_bucket_only_where_it_is_called_live() -> None:
    seen: list[datetime] = []

    class Watching(Called):
        gaps = "none"

        def on_bucket(self, context: OnBucketContext) -> float:
            seen.append(context.time)
            return super().on_bucket(context)

    frames = shares(*WEEKS)
    check(Watching(), frames)
    days = {pd.Timestamp(moment).strftime("%m-%d") for moment in seen}
    assert {"01-09", "01-10", "01-16"}.isdisjoint(days)  # Monday and Tuesday: the weekend lies within the warm-up
    assert "01-11" in days
