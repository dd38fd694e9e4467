"""What a search tries of a strategy's parameters."""

from typing import Any, Literal

import pytest
from pandas import DataFrame, Series

from trader.errors import InputError
from trader.strategy import Params, Range, Strategy, describe_params, param, parse_params, search_space


def strategy_with(field: Any, annotation: Any = int) -> type[Strategy[Any]]:
    fields = type("Given", (Params,), {"__annotations__": {"x": annotation}, "x": field})

    class Mine(Strategy[Any]):
        params_model = fields

        @property
        def warm_up(self) -> int:
            return 1

        def signal(self, candles: DataFrame) -> Series:
            return candles["close"] * 0

    return Mine


@pytest.mark.parametrize(
    ("field", "annotation", "wanted"),
    [
        (param(3, ge=1, le=99, search=(2, 50)), int, Range("int", 2, 50)),
        (param(3, ge=1, search=(2, 50, 4)), int, Range("int", 2, 50, 4)),
        (param(0.5, gt=0, lt=1, search=(0.1, 0.9, 0.1)), float, Range("float", 0.1, 0.9, 0.1)),
        (param(3.0, gt=0, search=(1, 100), log=True), float, Range("float", 1.0, 100.0, log=True)),
        (param("a", search=["a", "b"]), Literal["a", "b"], Range("choice", choices=("a", "b"))),
        (param(True, search=[True, False]), bool, Range("choice", choices=(True, False))),
    ],
)
def test_ranges(field: Any, annotation: Any, wanted: Range) -> None:
    assert search_space(strategy_with(field, annotation)) == {"x": wanted}


def test_what_has_no_range_is_not_searched() -> None:
    assert search_space(strategy_with(param(3, ge=1))) == {}


def test_a_field_of_pydantic_s_own_may_have_one() -> None:
    from pydantic import Field

    assert search_space(strategy_with(Field(3, ge=1, json_schema_extra={"search": [2, 50]}))) == {
        "x": Range("int", 2, 50)
    }


def test_bounds_are_told_and_kept_as_before() -> None:
    made = strategy_with(param(3, ge=1, le=99, search=(2, 50)))
    assert describe_params(made) == {"x": "a whole number, at least 1, at most 99"}
    with pytest.raises(InputError, match="x is 100: a whole number, at least 1, at most 99"):
        parse_params(made, {"x": 100})


def test_a_default_that_is_out_of_bounds_is_refused() -> None:
    with pytest.raises(InputError, match="x is 0: a whole number, at least 1"):
        parse_params(strategy_with(param(0, ge=1)), {})


@pytest.mark.parametrize(
    ("field", "annotation", "message"),
    [
        (param(3, search=(50, 2)), int, "Mine: parameter x: search goes from 50 to 2"),
        (param(3, search=(2,)), int, "is \\(2,\\): \\(low, high\\)"),
        (param(3, search=()), int, "is \\[\\]: \\(low, high\\)"),
        (param(3, ge=1, search=(0, 5)), int, "has 0: Input should be greater than or equal to 1"),
        (param(3, le=4, search=(1, 5)), int, "has 5: Input should be less than or equal to 4"),
        (param(3, search=(1.5, 5)), int, "has 1.5: "),
        (param(3, search=(1, 5, 0.5)), int, "has a step of 0.5"),
        (param(3, search=(1, 5, 0)), int, "has a step of 0"),
        (param(3.0, search=(0.0, 5.0), log=True), float, "by factors"),
        (param(3.0, search=(0.0, float("inf"))), float, "has inf"),
        (param("a", search=["a", "c"]), Literal["a", "b"], "has 'c'"),
    ],
)
def test_a_range_that_is_none_is_named(field: Any, annotation: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        search_space(strategy_with(field, annotation))
