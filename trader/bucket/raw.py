"""What a reader found in a file: columns as they are there, before anybody judges them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trader.bucket.candles import Column
from trader.bucket.formats import Layout
from trader.errors import InputError

LARGEST = 2_000_000_000
"""Bytes, unpacked."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Columns of one file. `times`: float64 or int64 numbers, text, or datetime64."""

    where: str
    container: str
    layout: Layout
    times: NDArray[Any]
    values: tuple[Column, ...]
    row: Callable[[int], str]
    """The name of a row, counted from 0, for people: `line 7`."""
    closes: Column | None = None
    """When the file says that each candle closes, in its own unit."""

    def bad(self, index: int, field: str, problem: str) -> InputError:
        """The error to raise for one value."""
        return InputError(f"{self.where}, {self.row(index)}: {field} {problem}")

    def __post_init__(self) -> None:
        if not len(self.times):
            raise InputError(f"{self.where}: holds no candles")


def first(bad: NDArray[np.bool_]) -> int | None:
    """The first index that is bad."""
    return int(np.argmax(bad)) if bad.any() else None
