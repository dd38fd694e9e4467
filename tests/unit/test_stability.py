"""The stability of parameters: what lies beside the best set, and a drawing of it."""

import numpy as np
import pytest

from trader.backtest.stability import Row, most_varied, plot, said, surface
from trader.errors import InputError

ROWS: list[Row] = [
    ({"fast": fast, "slow": slow, "price": price}, None if fast == 4 and slow == 10 else fast * 10 - slow + bonus)
    for fast in (2, 3, 4)
    for slow in (10, 20)
    for price, bonus in (("open", 0.0), ("close", 2.0))
]


def test_two_parameters_are_a_map_of_medians() -> None:
    found = surface(ROWS, ["fast", "slow"])
    assert [axis.labels for axis in found.axes] == [("2", "3", "4"), ("10", "20")]
    np.testing.assert_array_equal(found.median, [[11.0, 1.0], [21.0, 11.0], [np.nan, 21.0]])
    assert found.best == (1, 0)
    assert found.neighbours == 11.0  # of 11, 1, 11 and 21
    assert said(found, "sharpe") == "best sharpe: 21 at fast 3, slow 10; 11 in the median of its neighbours"


def test_one_parameter_is_a_line_with_its_spread() -> None:
    found = surface(ROWS, ["price"])
    assert found.axes[0].labels == ("open", "close")
    np.testing.assert_array_equal(found.median, [10.0, 12.0])
    np.testing.assert_array_equal([found.low, found.high], [[0.0, 2.0], [20.0, 22.0]])


def test_many_values_are_put_together_and_said_to_be() -> None:
    rows: list[Row] = [({"x": number, "y": number % 7}, -abs(number - 300)) for number in range(1000)]
    found = surface(rows, ["x", "y"])
    assert len(found.axes[0].labels) == 20
    assert "x about 275, y" in said(found, "sharpe") or "x about 325, y" in said(found, "sharpe")


def test_the_most_varied_parameters_are_drawn_unless_others_are_named() -> None:
    assert most_varied(ROWS) == ["fast", "slow"]
    assert most_varied([({"a": 1, "b": 2}, 1.0), ({"a": 1, "b": 3}, 2.0)]) == ["b"]


@pytest.mark.parametrize("names", [["fats"], [], ["fast", "fast"], ["fast", "slow", "price"]])
def test_what_was_not_searched_is_refused(names: list[str]) -> None:
    with pytest.raises(InputError, match="name one or two of those that were searched: fast, slow, price"):
        surface(ROWS, names)
    with pytest.raises(InputError, match="no trial has a value yet"):
        surface([({"fast": 1}, None)], ["fast"])


@pytest.mark.parametrize("names", [["fast", "slow"], ["fast"], ["price"]])
def test_a_picture_is_drawn(tmp_path, names: list[str]) -> None:
    path = tmp_path / "out.png"
    plot(path, surface(ROWS, names), "sharpe", "SmaCross")
    head = path.read_bytes()
    assert head.startswith(b"\x89PNG")
    assert len(head) > 10_000
    with pytest.raises(InputError, match="cannot be written: No such file"):
        plot(tmp_path / "none" / "out.png", surface(ROWS, names), "sharpe", "SmaCross")
