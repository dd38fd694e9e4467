"""The how-to's own strategy does what it says."""

import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from trader.errors import InputError
from trader.strategy import evaluate, load

DOCS = Path(__file__).resolve().parents[2] / "docs" / "strategies.md"


@pytest.fixture
def breakout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's code, saved as the page says."""
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "breakout.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "breakout", raising=False)


def frame(closes: list[float]) -> pd.DataFrame:
    index = pd.date_range("2024-01-01", periods=len(closes), freq="1h", tz="UTC", name="time_close")
    columns = dict.fromkeys(("open", "high", "low", "close"), closes)
    return pd.DataFrame({**columns, "volume": 1.0}, index=index, dtype="float64")


@pytest.mark.usefixtures("breakout")
def test_it_is_in_from_a_breakout_to_a_breakdown() -> None:
    strategy = load("breakout:Breakout", {"period": 2})
    assert evaluate(strategy, frame([10, 11, 12, 12, 11, 10, 12.5, 12])).tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


@pytest.mark.usefixtures("breakout")
def test_it_does_not_look_ahead() -> None:
    closes = (100 + np.random.default_rng(1).normal(0, 1, 200).cumsum()).tolist()
    strategy = load("breakout:Breakout", {"period": 5})
    whole = evaluate(strategy, frame(closes))
    assert (whole.diff().abs() > 0).sum() > 5
    assert [evaluate(strategy, frame(closes[:n])).iloc[-1] for n in range(1, 201)] == whole.tolist()


@pytest.mark.usefixtures("breakout")
def test_its_bounds_hold() -> None:
    assert load("breakout:Breakout", {"period": 50}).warm_up == 51
    with pytest.raises(InputError, match="period is 1: a whole number, at least 2, at most 1000"):
        load("breakout:Breakout", {"period": 1})


@pytest.mark.usefixtures("breakout")
def test_a_module_that_is_not_found_says_where_to_put_it() -> None:
    with pytest.raises(InputError, match=r'there is no module "brekout"; a file in the checkout'):
        load("brekout:Breakout")
    with pytest.raises(InputError, match=r"on PYTHONPATH"):
        load("brekout:Breakout")


@pytest.mark.usefixtures("breakout")
def test_the_page_s_check_passes_its_own_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```py\n(.*?)```", DOCS.read_text(), re.DOTALL)
    closes = (100 + np.random.default_rng(1).normal(0, 0.3, 3_000).cumsum()).tolist()
    exec(code, {"strategy": load("breakout:Breakout"), "candles": frame(closes)})
    assert capsys.readouterr().out.startswith("nothing found\n")


def test_the_page_names_every_shipped_strategy() -> None:
    named = set(re.findall(r"`(strategies\.\w+):(\w+)`", DOCS.read_text()))
    files = {f"strategies.{path.stem}" for path in (DOCS.parents[1] / "strategies").glob("[!_]*.py")}
    assert {module for module, _ in named} == files
    for module, name in named:
        assert isinstance(sys.modules[type(load(f"{module}:{name}")).__module__], ModuleType)
