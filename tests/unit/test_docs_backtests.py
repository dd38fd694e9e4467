"""docs/backtests.md: its code runs, and it names every setting's word and every measure."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from strategies.sma_cross import SmaCross, SmaCrossParams
from trader.backtest.bars import run_bars
from trader.backtest.data import bars_from_frame
from trader.backtest.measures import Measures
from trader.backtest.settings import Settings, parse_settings

PAGE = Path(__file__).parents[2] / "docs" / "backtests.md"
TEXT = PAGE.read_text(encoding="utf-8")
FIRST, SECOND = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def frame() -> pd.DataFrame:
    close = 100 + 10 * np.sin(np.arange(600) / 20)
    index = pd.date_range("2024-01-01", periods=600, freq="1h", tz="UTC", name="time_close")
    opens = np.concatenate(([100.0], close[:-1]))
    high, low = np.maximum(opens, close) + 1, np.minimum(opens, close) - 1
    return pd.DataFrame({"open": opens, "high": high, "low": low, "close": close, "volume": 1.0}, index=index)


def test_the_example_runs() -> None:
    names: dict[str, Any] = {"frame": frame(), "strategy": SmaCross(SmaCrossParams(fast=3, slow=20))}
    exec(FIRST, names)
    assert len(names["result"].fills) > 4
    assert names["result"].equity[-1] != 10_000


def test_the_example_with_stops_runs() -> None:
    names: dict[str, Any] = {}
    exec(SECOND, names)
    terms = parse_settings({"quantity_step": "0.001", "price_tick": "0.01"})
    fills = run_bars(bars_from_frame(frame(), "1h"), names["on_bucket"], terms).fills
    assert fills.side.tolist()[:2] == [1, -1]
    assert fills.maker.any()


def test_every_measure_and_setting_is_told() -> None:
    missing = [field.name for field in dataclasses.fields(Measures) if field.name not in TEXT]
    missing += [name for name in Settings.model_fields if f"`{name}" not in TEXT and name not in ("stake_in_percent",)]
    assert missing == []
