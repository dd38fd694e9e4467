"""When a trigger has come, and from which side."""

from decimal import Decimal

import pytest

from trader.exchange.protocol import Ticker
from trader.trigger import Direction, direction, has_come, last_price


@pytest.mark.parametrize(
    ("price", "trigger", "expected"),
    [("50000", "51000", "rises"), ("50000", "49000", "falls"), ("50000", "50000", "rises")],
)
def test_the_side_that_the_price_comes_from(price: str, trigger: str, expected: Direction) -> None:
    assert direction(Decimal(trigger), Decimal(price)) == expected


@pytest.mark.parametrize(
    ("when", "price", "expected"),
    [
        ("rises", "99.99", False),
        ("rises", "100", True),
        ("rises", "101", True),
        ("falls", "100.01", False),
        ("falls", "100.00", True),
        ("falls", "1", True),
    ],
)
def test_at_the_trigger_or_beyond_it(when: Direction, price: str, expected: bool) -> None:
    assert has_come(Decimal(100), when, Decimal(price)) is expected


@pytest.mark.parametrize(
    ("bid", "ask", "last", "expected"),
    [(9, 11, 10, 10), (9, 11, None, 9), (None, 11, None, 11), (None, None, None, None)],
)
def test_the_price_that_triggers_go_by(bid: int | None, ask: int | None, last: int | None, expected: int) -> None:
    prices = [None if value is None else Decimal(value) for value in (bid, ask, last)]
    assert last_price(Ticker("BTC/USDT", *prices)) == expected
