"""Arrays that we write for PostgreSQL come out as they went in."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from trader.db import numbers, texts

TEXTS = ["plain", "", "NULL", "null", 'a "quoted" word', "a\\backslash", "{braces, commas}", "two\nlines", "é€", None]
NUMBERS = [Decimal("0.000000000000000001"), Decimal("1E+5"), Decimal("-3.50"), Decimal(0), None]


Read = Callable[[str, str], Any]


@pytest.fixture
def read(database: str) -> Iterator[Read]:
    with psycopg.connect(database, autocommit=True) as connection:

        def cast(kind: str, value: str) -> Any:
            row = connection.execute(f"SELECT %s::{kind}[]".encode(), [value]).fetchone()
            assert row is not None
            return row[0]

        yield cast


def test_texts(read: Read) -> None:
    assert read("text", texts(TEXTS)) == TEXTS
    assert read("text", texts([])) == []


def test_moments_with_their_zone(read: Read) -> None:
    moments = [datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), datetime(1970, 1, 1, tzinfo=UTC)]
    assert read("timestamptz", texts(moments)) == moments


def test_numbers(read: Read) -> None:
    assert read("numeric", numbers(NUMBERS)) == NUMBERS
    assert read("bigint", numbers([1, -(2**62), None])) == [1, -(2**62), None]
    assert read("int", numbers([])) == []
