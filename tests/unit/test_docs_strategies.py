"""The how-to's own strategies do what it says: its code is saved and run as it stands on the page."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trader.backtest.check import check
from trader.backtest.run import Frames, backtest
from trader.backtest.settings import parse_settings
from trader.cli import _new_strategy
from trader.errors import InputError
from trader.strategy import OnBucketContext, SignalError, evaluate, find_class, load, search_space

DOCS = Path(__file__).resolve().parents[2] / "docs" / "strategies.md"
CODE = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
FILES = {found[1]: code for code in CODE if (found := re.match(r"# strategies/(\w+)\.py\n", code))}
USES = [code for code in CODE if code not in FILES.values()]


@pytest.fixture(autouse=True)
def _saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's strategies, saved as the page says."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, code in FILES.items():
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in FILES:
        sys.modules.pop(name, None)


def frame(closes: list[float], freq: str = "1h") -> pd.DataFrame:
    index = pd.date_range("2024-01-01", periods=len(closes), freq=freq, tz="UTC", name="time_close")
    columns = dict.fromkeys(("open", "high", "low", "close"), closes)
    return pd.DataFrame({**columns, "volume": 1.0}, index=index, dtype="float64")


def walk(length: int, seed: int = 1, freq: str = "1h") -> pd.DataFrame:
    return frame((100 * np.exp(np.random.default_rng(seed).normal(0, 0.005, length).cumsum())).tolist(), freq)


def regime_frames() -> Frames:
    hours = walk(3_000)
    days = hours[hours.index.hour == 0]
    return Frames(hours, "1h", {"day": days, "eth": walk(3_000, 2)})


def test_the_page_has_the_three() -> None:
    assert list(FILES) == ["breakout", "dip", "regime"]
    assert len(USES) == 3


def test_it_is_in_from_a_breakout_to_a_breakdown() -> None:
    strategy = load("breakout:Breakout", {"period": 2})
    assert evaluate(strategy, frame([10, 11, 12, 12, 11, 10, 12.5, 12])).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_it_does_not_look_ahead() -> None:
    closes = (100 + np.random.default_rng(1).normal(0, 1, 200).cumsum()).tolist()
    strategy = load("breakout:Breakout", {"period": 5})
    whole = evaluate(strategy, frame(closes))
    assert (whole.diff().abs() > 0).sum() > 5
    assert [evaluate(strategy, frame(closes[:n])).iloc[-1] for n in range(1, 201)] == whole.tolist()


def test_its_bounds_hold_and_it_has_ranges() -> None:
    assert load("breakout:Breakout", {"period": 50}).warm_up == 51
    with pytest.raises(InputError, match="period is 1: a whole number, at least 2, at most 1000"):
        load("breakout:Breakout", {"period": 1})
    assert list(search_space(find_class("breakout:Breakout"))) == ["period"]
    assert list(search_space(find_class("dip:Dip"))) == ["period", "dip", "stop"]


def test_a_module_that_is_not_found_says_where_to_put_it() -> None:
    with pytest.raises(InputError, match=r'there is no module "brekout"; a file in the checkout'):
        load("brekout:Breakout")
    with pytest.raises(InputError, match=r"TALLYDESK_STRATEGIES .* PYTHONPATH"):
        load("brekout:Breakout")


def test_the_page_s_own_uses_run(capsys: pytest.CaptureFixture[str]) -> None:
    frames = regime_frames()
    names: dict[str, Any] = {"frame": frames.candles, "hours": frames.candles}
    names |= {"days": frames.inputs["day"], "eth_hours": frames.inputs["eth"]}
    for code in USES:
        exec(code, names)
    said = capsys.readouterr().out
    assert re.search(r"^\d\d+ fills, return -?\d+\.\d %$", said, re.MULTILINE)
    assert said.count("nothing found\n") == 2
    assert len(names["result"].fills) > 20
    assert (
        0
        < len(names["daily"].fills)
        < len(backtest(names["strategy"], Frames(frames.candles, "1h"), parse_settings({})).fills)
    )


def test_a_dip_is_bought_and_sold_at_the_mean_or_at_the_stop() -> None:
    flat, rules = [100.0] * 10, {"period": 5, "dip": 0.03, "stop": 0.05}
    terms = parse_settings({"deposit": 1000, "maker": 0, "taker": 0})

    def fills(*closes: float) -> list[tuple[int, float]]:
        found = backtest(load("dip:Dip", rules), Frames(frame([*flat, *closes]), "1h"), terms).fills
        return [(side, round(price, 2)) for side, price in zip(found.side.tolist(), found.price.tolist(), strict=True)]

    assert fills(97.5, 98, 99) == []
    assert fills(96, 98, 101, 103) == [
        (1, 96.0),
        (-1, 103.0),
    ]  # at the open below the limit; at the open after the mean was reached
    assert fills(96, 91, 91, 91) == [(1, 96.0), (-1, 91.0)]  # the stop at 92.15 is passed at the open
    # In the five candles of rest after that nothing is bought.
    assert len(fills(96, 91, 80, 80, 70, 70, 60)) == 2


def test_a_dip_is_honest() -> None:
    report = check(load("dip:Dip", {"period": 20, "dip": 0.01}), walk(2_500))
    assert report.proved, report


def test_a_regime_needs_all_three() -> None:
    frames = regime_frames()
    found = evaluate(load("regime:Regime"), frames.candles, frames.inputs)
    assert found.iloc[: 50 * 24 - 24].eq(0).all()
    assert 0.05 < found.iloc[50 * 24 :].mean() < 0.5
    for name, given in frames.inputs.items():
        falling = given.assign(close=np.arange(len(given), 0, -1.0))
        assert not evaluate(load("regime:Regime"), frames.candles, {**frames.inputs, name: falling}).any()


def test_what_the_page_says_of_the_context_is_what_there_is() -> None:
    table = DOCS.read_text().partition("| `context.` | |")[2].partition("\n\n")[0]
    first = " ".join(line.split("|")[1] for line in table.splitlines() if "|" in line)
    named = set(re.findall(r"`(\w+)", first))
    there = {name for name in vars(OnBucketContext) if not name.startswith("_")}
    assert named == there


@pytest.mark.parametrize(
    "sentence",
    re.findall(
        r"^(?:signal|on_bucket|window|context).*$",
        DOCS.read_text().partition("## What goes wrong")[2].partition("## Where")[0],
        re.MULTILINE,
    ),
)
def test_the_errors_on_the_page_are_ours(sentence: str) -> None:
    def told(work: Any) -> str:
        with pytest.raises(SignalError) as caught:
            work()
        return str(caught.value)

    from strategies.moving_average import MovingAverage

    class Odd(MovingAverage):
        given: Any = None

        def signal(self, candles: pd.DataFrame) -> pd.Series:
            return Odd.given(candles)

    class Called(load("dip:Dip").__class__):  # type: ignore[misc]
        def on_bucket(self, context: OnBucketContext) -> float | None:
            return Odd.given(context)

    def at_moment(candles: pd.DataFrame) -> pd.Series:
        return pd.Series(1.0, index=candles.index).where(candles.index != candles.index[26])

    hours = walk(60)
    cases: dict[str, tuple[Any, Any]] = {
        "signal at": (Odd, at_moment),
        "signal has": (Odd, lambda candles: candles["close"].reset_index(drop=True)),
        "on_bucket at": (Called, lambda context: context.state["held"]),
        "window of": (Called, lambda context: context.window("close", 60)),
        "context.state": (Called, lambda context: context.state.update(since=context.time)),
    }
    [(made, given)] = [case for start, case in cases.items() if sentence.startswith(start)]
    Odd.given = staticmethod(given)
    said = told(lambda: backtest(made(), Frames(hours, "1h"), parse_settings({})))
    wanted = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", re.sub(r" \(.*\)$", "", sentence))
    assert wanted in re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", said)


def test_the_page_knows_the_styles_of_strategy_new() -> None:
    assert "--style on_bucket" in DOCS.read_text()
    assert set(_new_strategy.STYLES) == {"signal", "on_bucket"}


def test_the_page_names_every_shipped_strategy() -> None:
    named = set(re.findall(r"`(strategies\.\w+):(\w+)`", DOCS.read_text()))
    files = {f"strategies.{path.stem}" for path in (DOCS.parents[1] / "strategies").glob("[!_]*.py")}
    assert {module for module, _ in named} == files
    for module, name in named:
        assert isinstance(sys.modules[type(load(f"{module}:{name}")).__module__], ModuleType)
