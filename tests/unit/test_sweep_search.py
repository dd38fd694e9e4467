"""What a search goes through: values as people write them, sets by chance, and what samplers propose."""

from random import Random
from typing import Any

import pytest
from pandas import DataFrame, Series, date_range

from strategies.sma_cross import SmaCross
from trader.backtest.search import SAMPLERS, Sampler, Search, Tried, check_sampler, grid_points, propose, random_points
from trader.backtest.space import Point, draw, grid_size, key, parse_dimension, parse_space, text_of
from trader.backtest.trial import Task, candle_digest, plain
from trader.errors import InputError
from trader.strategy import Params, Range, Strategy, param, search_space


class ThreeParams(Params):
    fast: int = param(3, ge=1, le=500, search=(2, 50, 2))
    share: float = param(0.5, gt=0, lt=1, search=(0.1, 0.3, 0.1))
    price: str = param("close", search=("open", "close"))


class Three(Strategy[ThreeParams]):
    @property
    def warm_up(self) -> int:
        return 1

    def signal(self, candles: DataFrame) -> Series:
        return Series(0.0, index=candles.index)


def search(**texts: str) -> Search:
    return Search(SmaCross, {}, parse_space(texts))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("2..50:2", tuple(range(2, 51, 2))),
        ("2..5", (2, 3, 4, 5)),
        ("0.1..0.4:0.1", (0.1, 0.2, 0.3, 0.4)),
        ("-1..1:0.5", (-1.0, -0.5, 0.0, 0.5, 1.0)),
        ("1..2:0.4", (1.0, 1.4, 1.8)),
        ("close,ohlc4", ("close", "ohlc4")),
        ("2,3.5,true", (2, 3.5, True)),
        ('"3",4', ("3", 4)),
    ],
)
def test_values_are_exactly_those_that_are_written(text: str, values: tuple[Any, ...]) -> None:
    found = parse_dimension("x", text).values
    assert found == values
    assert [type(one) for one in found] == [type(one) for one in values]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("5..2", "5 is not below 2"),
        ("2..2", "2 is not below 2"),
        ("2..9:0", "the step is 0"),
        ("2..9:-1", "the step is -1"),
        ("2..", "this is no range"),
        ("a..b", "this is no range"),
        ("1,,2", "a value is empty"),
        ("1,1", "a value is there twice"),
        ("0..9:log", "begins above 0"),
        ("1..9:2:log", "has no step"),
        ("0..1:0.000001", "at most 100000 are allowed"),
    ],
)
def test_what_is_no_range_is_refused_with_what_is_allowed(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        parse_dimension("x", text)


def test_a_grid_needs_steps_and_a_draw_does_not() -> None:
    space = parse_space({"x": "0.0..1.0", "y": "1..1000:log", "z": "0.001..1:log"})
    with pytest.raises(InputError, match="a grid needs a step"):
        grid_size(space)
    random = Random(1)
    points = [draw(space, random) for _ in range(300)]
    assert all(0 <= point["x"] < 1 and 1 <= point["y"] <= 1000 and 0.001 <= point["z"] <= 1 for point in points)
    assert {type(point["y"]) for point in points} == {int}
    low = sum(point["y"] < 32 for point in points)  # 31.6 is half the way from 1 to 1000 by factors
    assert 100 < low < 200


def test_the_ranges_of_a_class_are_those_that_it_declares() -> None:
    texts = {name: text_of(one) for name, one in search_space(Three).items()}
    assert texts == {"fast": "2..50:2", "share": "0.1..0.3:0.1", "price": "open,close"}
    assert len(list(grid_points(Search(Three, {}, parse_space(texts))))) == 25 * 3 * 2
    assert text_of(Range("float", 0.5, 2.0, log=True)) == "0.5..2.0:log"
    assert text_of(Range("choice", choices=("3", True))) == '"3",true'


def test_sets_that_the_class_does_not_take_are_skipped_and_counted() -> None:
    wanted = search(fast="2..4", slow="3..5")
    points = list(grid_points(wanted))
    assert [(point["fast"], point["slow"]) for point in points] == [(2, 3), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5)]
    assert wanted.skipped == 3
    assert wanted.reason == "SmaCross: fast is 3 and slow is 3: fast must be smaller than slow"
    with pytest.raises(InputError, match='unknown parameter "fats": there is price, fast, slow'):
        search(fats="1..2")
    with pytest.raises(InputError, match="it is searched and given"):
        Search(SmaCross, {"fast": 2}, parse_space({"fast": "1..2"}))
    with pytest.raises(InputError, match=r"at most 200,000 are allowed"):
        grid_points(search(fast="1..1000", slow="1..1000"))


def test_what_is_drawn_follows_from_the_seed_and_is_never_twice_the_same() -> None:
    texts = {"fast": "2..20", "slow": "10..60"}
    first, again, other = (list(random_points(search(**texts), 100, seed)) for seed in (7, 7, 8))
    assert first == again != other
    assert len({key(point) for point in first}) == 100
    assert all(point["fast"] < point["slow"] for point in first)
    few = search(fast="2..4", slow="3..5")
    assert len(list(random_points(few, 50, 1))) == 6  # there are no more
    assert few.skipped > 6


def far(point: Point) -> float:
    """The best is fast 10, slow 40."""
    return -abs(float(point["fast"]) - 10) - abs(float(point["slow"]) - 40) / 4


def climb(sampler: Sampler, generations: int, size: int = 8) -> list[list[Tried]]:
    past: list[list[Tried]] = []
    for _ in range(generations):
        points = propose(search(fast="2..50", slow="10..200"), sampler, 3, size, past)
        past.append([Tried(point, far(point) if point["fast"] != 11 else None) for point in points])
    return past


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_generation_follows_from_those_before_it_alone(sampler: Sampler) -> None:
    if sampler != "tpe":
        pytest.importorskip("scipy" if sampler == "qmc" else "cmaes")
    once, again = climb(sampler, 5), climb(sampler, 5)
    assert once == again
    points = [one.point for generation in once for one in generation]
    assert len({key(point) for point in points}) == 40
    assert all(point["fast"] < point["slow"] for point in points)
    if sampler == "tpe":  # and it learns
        means = [sum(far(one.point) for one in generation) / 8 for generation in once]
        assert means[4] > means[0]
        changed = [[one._replace(value=-(one.value or 0)) for one in generation] for generation in once[:2]]
        same = (search(fast="2..50", slow="10..200"), sampler, 3, 8)
        assert propose(*same, once[:2]) != propose(*same, changed)


def test_a_sampler_that_is_none_or_lacks_a_package_is_refused() -> None:
    assert check_sampler("tpe", 10) == "tpe"
    with pytest.raises(InputError, match="allowed are tpe, qmc, cmaes"):
        check_sampler("annealing", 10)
    with pytest.raises(InputError, match=r"from 1 to 5,000 is allowed"):
        check_sampler("tpe", 0)


def test_a_space_that_is_used_up_gives_fewer_sets() -> None:
    small = search(fast="2..4", slow="3..5")
    found = propose(small, "tpe", 1, 20, [])
    assert len(found) == 6
    assert propose(small, "tpe", 1, 20, [[Tried(point, 1.0) for point in found]]) == []


def test_an_objective_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="objective is 'luck': allowed are sharpe"):
        Task(SmaCross, {}, None, "luck")  # type: ignore[arg-type]


def test_other_candles_have_another_digest() -> None:
    index = date_range("2024-01-01", periods=2, freq="1h", tz="UTC")
    frame = DataFrame({name: [1.0, 2.0] for name in ("open", "high", "low", "close", "volume")}, index=index)
    first = candle_digest(frame)
    assert candle_digest(frame.copy()) == first
    changed = frame.copy()
    changed.iloc[1, 3] = 2.0000000001
    assert len({first, candle_digest(changed), candle_digest(frame.shift(freq="1min"))}) == 3


def test_what_is_no_finite_number_is_told_as_none() -> None:
    from dataclasses import make_dataclass

    told = make_dataclass("Told", ["a", "b", "c"])(float("inf"), None, 2)
    assert plain(told) == {"a": None, "b": None, "c": 2}
