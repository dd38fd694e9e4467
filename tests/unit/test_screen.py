"""Tables fit the screen, and no number is ever folded in two."""

import io
import re
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console

from trader.cli import bucket
from trader.cli._screen import Rows, more

COLUMNS = ["strategy", "enabled", "unit", "equity", "profit", "return_percent", "trades", "error"]
ROWS: list[list[Any]] = [
    ["momentum", True, "USDT", Decimal("10123456.78901234"), Decimal("-0.12345678"), Decimal("12.34"), 1234567, None],
    ["sma_cross", False, "USDT", Decimal("99.5"), Decimal("-0.5"), None, 3, "no module of this name [there is none]"],
]


def shown(width: int, rows: list[list[Any]] = ROWS) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(Rows("Strategies", COLUMNS, rows))
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_every_value_is_whole_and_every_line_fits(width: int) -> None:
    text = shown(width)
    for value in ("10123456.78901234", "-0.12345678", "1234567", "99.5", "momentum", "sma_cross", "return_percent"):
        assert re.search(rf"(?<!\S){value}(?!\S)", text), (width, text)
    assert text.startswith("Strategies")
    assert max(map(len, text.splitlines())) <= width


def test_a_wide_screen_has_a_line_for_each_row_and_a_narrow_one_for_each_column() -> None:
    assert re.search(r"^momentum +yes +USDT +10123456.78901234 ", shown(200), re.MULTILINE)
    assert re.search(r"^equity +10123456.78901234 +99.5$", shown(80), re.MULTILINE)


def test_more_rows_than_fit_side_by_side_go_below_each_other() -> None:
    text = shown(50, ROWS * 3)
    assert len(re.findall(r"^equity ", text, re.MULTILINE)) > 1
    assert text.count("10123456.78901234") == 3


def test_a_long_text_may_be_folded_between_its_words() -> None:
    reason = "the class raised KeyError: there is no column of this name in the candles that it was given " * 2
    text = shown(200, [[*ROWS[0][:-1], reason]])
    assert re.search(r"^momentum +yes ", text, re.MULTILINE)
    assert " ".join(text.split()).count("KeyError") == 2


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seconds, said in ((3600.0, ""), (0.0, "1h candles made: 7\n1h candles made: 9 of 12\n")):
        monkeypatch.setattr(bucket, "LINE_SECONDS", seconds)
        with bucket._bar() as bar:
            show = bar("1h candles made")
            show(7, None)
            show(9, 12)
        assert capsys.readouterr().err == said


def test_a_list_says_how_many_more_there_are() -> None:
    assert [more(count, 5) for count in (0, 5, 6, 400)] == ["", "", " and 1 more", " and 395 more"]
