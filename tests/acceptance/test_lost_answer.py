"""The scoreboard's own side, by the code that prints it: what it measures of Tallydesk, and that it can say no."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from bench.lost_answer_freqtrade import version
from bench.lost_answer_tallydesk import GOOD, Result, measure
from bench.lost_answer_venue import CONTROL, ROWS

RESULT = Result(1, 1, "filled", cost=Decimal("59.50595"), used=Decimal("59.50595"), held=Decimal(0))


@pytest.mark.parametrize("name", ["lost", "killed"])
def test_one_order_known_filled_allowance_used_once(database: str, tmp_path: Path, name: str) -> None:
    result = measure(ROWS[name], database, tmp_path, watched=1)
    assert result.verdict == GOOD
    assert result == RESULT


def test_there_are_five_rows_and_each_strikes_after_the_venue_has_filled() -> None:
    assert len(ROWS) == 5
    assert [name for name, row in ROWS.items() if row.killed] == ["killed"]
    created = [row.faults[0] for row in ROWS.values()]
    assert {fault["match"]["endpoint"] for fault in created} == {"POST /api/v3/order"}
    assert {fault["fault"] for fault in created if not fault.get("act")} == {"drop_answer", "delay_answer", "garbage"}
    assert not CONTROL["control"].faults


@pytest.mark.parametrize(
    ("different", "said"),
    [
        ({"at_venue": 2, "known": 2}, "2 orders, known, filled"),
        ({"at_venue": 2}, "2 orders, 1 known, filled"),
        ({"at_venue": 0, "known": 0, "status": "denied"}, "0 orders, 0 known, denied"),
        ({"held": Decimal(60)}, "allowance used 59.50595 of 60, 60 held, the venue took 59.50595"),
        ({"cost": Decimal("119.0119")}, "allowance used 59.50595 of 60, 0 held, the venue took 119.0119"),
        ({"cost": Decimal(30), "used": Decimal(30)}, "allowance used 30 of 60"),
        ({"wrong": ("position 0, but 1 BTC at the venue",)}, GOOD + ", position 0"),
    ],
)
def test_whatever_is_not_so_is_said(different: dict[str, object], said: str) -> None:
    assert RESULT.verdict == GOOD
    verdict = replace(RESULT, **different).verdict  # type: ignore[arg-type]
    assert said in verdict
    assert verdict != GOOD


def test_an_environment_without_freqtrade_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"--freqtrade is {tmp_path}: it must be a virtual environment"):
        version(tmp_path)
