"""The rule of a trailing stop: where its trigger price stands, and that it never comes back."""

import random
from collections import namedtuple
from decimal import Decimal
from typing import Any

import pytest

from trader.exchange.protocol import Side
from trader.sizing import LEAST
from trader.trail import MOST, moves, trigger_at
from trader.trigger import Direction, follow, has_come

TICK = Decimal("0.01")
Row = namedtuple("Row", "side trail trigger_price price_tick begins")


@pytest.mark.parametrize(
    ("side", "trail", "price", "tick", "expected"),
    [
        ("sell", "0.05", "100", "0.01", "95"),
        ("sell", "0.05", "100.03", "0.01", "95.02"),  # 95.0285
        ("buy", "0.05", "100.03", "0.01", "105.04"),  # 105.0315
        ("buy", "0.05", "100", "0.01", "105"),
        ("sell", "0.05", "100.03", None, "95.0285"),
        ("sell", "0.333333333333333333", "1e-17", None, "6e-18"),
        ("sell", "0.5", "0.01", "0.01", "0.005"),  # less than a tick is not rounded to 0
        ("sell", "0.999999999999999999", "0.5", "0.01", "1e-18"),
        ("buy", "0.9", "99999999999999999999", None, str(MOST)),
        ("sell", "0.1", "12345678901234567890.12", "0.01", "11111111011111111101.1"),
    ],
)
def test_where_the_trigger_price_stands(side: Side, trail: str, price: str, tick: str | None, expected: str) -> None:
    found = trigger_at(side, Decimal(trail), Decimal(price), None if tick is None else Decimal(tick))
    assert found == Decimal(expected)
    assert found >= LEAST


@pytest.mark.parametrize("side", ["sell", "buy"])
def test_rounded_to_the_tick_it_is_met_by_the_same_prices_as_the_exact_share(side: Side) -> None:
    dice = random.Random(7)
    when: Direction = "falls" if side == "sell" else "rises"
    for _ in range(2000):
        trail, best = Decimal(dice.randrange(1, 10**6)) / 10**6, dice.randrange(1, 10**5) * TICK
        exact = best * (1 - trail if side == "sell" else 1 + trail)
        stands = trigger_at(side, trail, best, TICK)
        for price in ((exact // TICK + near) * TICK for near in (-1, 0, 1, 2)):
            if price > 0:
                assert has_come(stands, when, price) is has_come(exact, when, price), (trail, best, price)


@pytest.mark.parametrize(
    ("side", "stands", "new", "expected"),
    [
        ("sell", None, "5", True),
        ("sell", "5", "5.01", True),
        ("sell", "5", "5.00", False),
        ("sell", "5", "4.99", False),
        ("buy", None, "5", True),
        ("buy", "5", "4.99", True),
        ("buy", "5", "5.00", False),
        ("buy", "5", "5.01", False),
    ],
)
def test_it_never_comes_back(side: Side, stands: str | None, new: str, expected: bool) -> None:
    assert moves(side, None if stands is None else Decimal(stands), Decimal(new)) is expected


def walked(side: Side, prices: list[int], begins: int | None = None) -> list[Any]:
    """Where it goes at each price; None: it stays."""
    stands, made = None, []
    start = None if begins is None else Decimal(begins)
    for price in prices:
        found = follow(Row(side, Decimal("0.1"), stands, TICK, start), Decimal(price))
        stands, start = found or stands, None  # the fills are asked only while nothing is in the row
        made.append(found)
    return made


def test_it_follows_up_and_stays_on_the_way_down() -> None:
    assert walked("sell", [100, 110, 110, 105, 100, 120, 90]) == [90, 99, None, None, None, 108, None]
    assert walked("buy", [100, 90, 95, 80]) == [110, 99, None, 88]


def test_after_an_entry_it_begins_at_what_that_was_filled_at_or_at_a_better_price() -> None:
    assert walked("sell", [95, 101], begins=100) == [90, Decimal("90.9")]
    assert walked("sell", [105], begins=100) == [Decimal("94.5")]
    assert walked("buy", [105], begins=100) == [110]


def test_a_price_that_moves_it_does_not_meet_it() -> None:
    dice = random.Random(3)
    for _ in range(2000):
        price, trail = dice.randrange(1, 10**4) * TICK, Decimal(dice.randrange(1, 10**4)) / 10**4
        assert not has_come(trigger_at("sell", trail, price, TICK), "falls", price)
        assert not has_come(trigger_at("buy", trail, price, TICK), "rises", price)
