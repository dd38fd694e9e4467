"""The page of the shipped strategies says what the code does and what the commands print."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bench.shipped import SHIPPED, read_shown, table
from bench.trend import EMBARGO, FILES, SHARED, TRAINING, Market, read_market, report, scores
from strategies.regime_trend import RegimeTrend
from trader.strategy import Strategy, load, parse_params, search_space

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "shipped.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))

needs_files = pytest.mark.skipif(not SHARED.is_dir(), reason="NOT RUN: ../shared/data is not here")


@pytest.fixture(scope="module")
def shown() -> list[Market]:
    return read_shown()


def test_every_shipped_class_has_a_section_and_a_table() -> None:
    classes = {
        name
        for path in (ROOT / "strategies").glob("[!_]*.py")
        for name in re.findall(r"^class (\w+)\(Strategy\[", path.read_text(), re.MULTILINE)
    }
    assert set(SECTIONS) == classes == {type(strategy).__name__ for strategy in SHIPPED}


@pytest.mark.parametrize("strategy", SHIPPED, ids=lambda strategy: type(strategy).__name__)
def test_a_section_names_the_class_and_every_parameter_with_its_default(strategy: Strategy[Any]) -> None:
    section = SECTIONS[type(strategy).__name__]
    path = re.findall(r"`(strategies\.\w+:\w+)`", section)[0]
    assert type(load(path)) is type(strategy)
    given = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", section, re.MULTILINE))
    assert given == {name: _text(value) for name, value in strategy.params.model_dump().items()}


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@needs_files
@pytest.mark.parametrize("strategy", SHIPPED, ids=lambda strategy: type(strategy).__name__)
def test_a_table_is_what_the_command_prints(strategy: Strategy[Any], shown: list[Market]) -> None:
    assert "\n".join(table(strategy, shown)) in SECTIONS[type(strategy).__name__]


@needs_files
def test_the_choice_is_what_the_command_prints_and_what_is_shipped() -> None:
    text, chosen = "\n".join(report([read_market(*entry) for entry in FILES])), RegimeTrend().params
    assert text in SECTIONS["RegimeTrend"]
    assert f"part 8 of 8 by fast {chosen.fast}, slow {chosen.slow}, adx_least {chosen.adx_least:g}: score" in text


@needs_files
def test_the_choice_does_not_see_the_part_that_it_is_for() -> None:
    """Candles from the embargo on may say anything."""
    market, part = read_market(*FILES[0]), TRAINING
    end = market.cut(part) - EMBARGO
    blind = []
    for first in (end, end - 500):
        frame = market.frame.copy()
        frame.iloc[first:] = frame.iloc[first:].to_numpy()[::-1] * 3
        blind.append(scores([Market(market.name, market.timeframe, market.terms, frame)], part).tolist())
    wanted = scores([market], part).tolist()
    assert blind[0] == wanted
    assert blind[1] != wanted  # it does look at those before


@pytest.mark.parametrize("strategy", SHIPPED, ids=lambda strategy: type(strategy).__name__)
def test_every_corner_of_a_search_is_allowed(strategy: Strategy[Any]) -> None:
    ranges = {name: found.choices or (found.low, found.high) for name, found in search_space(type(strategy)).items()}
    assert ranges
    for corner in product(*ranges.values()):
        parse_params(type(strategy), dict(zip(ranges, corner, strict=True)))
