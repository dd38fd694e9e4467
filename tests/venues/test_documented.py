"""docs/reliability.md names every test of this directory, and only tests that are there."""

import re
from pathlib import Path

HERE = Path(__file__).parent
SECTION = (HERE.parents[1] / "docs" / "reliability.md").read_text().partition("## Venues")[2].partition("\n## ")[0]


def test_the_table_names_each_test() -> None:
    files = [file for file in HERE.glob("test_*.py") if file.name != Path(__file__).name]
    there = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)}
    assert set(re.findall(r"`(test_\w+)`", SECTION)) == there
