"""docs/reliability.md names every scenario test, and only those; no number is missing."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "reliability.md").read_text()
ROWS = re.findall(r"^\| (\d+) \| `(test_\w+)` \| (.+) \|$", TEXT, re.MULTILINE)
ASKED = {*range(1, 44), *range(45, 51)}


def scenario_tests() -> list[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return [name for file in files for name in re.findall(r"^(?:async )?def (test_s\d\d_\w+)", file.read_text(), re.M)]


def test_the_table_and_the_tests_are_the_same() -> None:
    assert sorted(name for _, name, _ in ROWS) == sorted(scenario_tests())


def test_each_row_has_the_number_of_its_test() -> None:
    assert [name for number, name, _ in ROWS if not name.startswith(f"test_s{int(number):02}_")] == []


def test_every_number_is_in_the_table() -> None:
    assert {int(number) for number, _, _ in ROWS} == ASKED
