"""Inputs: candles of another timeframe or market, cut to what had closed at a moment."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame, DatetimeIndex, Series, Timestamp

Frame = TypeVar("Frame", "DataFrame", "Series")


@dataclass(frozen=True, slots=True)
class Input:
    """Candles that a strategy sees beside those that it decides on."""

    timeframe: str | None = None
    """None: the strategy's own."""
    market: str | None = None
    """As in "binance:ETH/USDT"; None: the strategy's own."""
    warm_up: int = 1
    """How many of them must have closed before anything is decided."""


def at(values: "Frame", index: "DatetimeIndex") -> "Frame":
    """For each moment of `index` the latest of `values` known then: that of the last candle closed at or before it.

    `values` are indexed by times of close, oldest first. NaN where none has closed yet. This is how a column of one
    timeframe is put beside another: `at(daily["close"], candles.index)`.
    """
    if len(values) == 0:
        return values.reindex(index)
    places = values.index.searchsorted(index, side="right") - 1
    found = values.iloc[np.maximum(places, 0)].set_axis(index)
    if (places < 0).any():
        found = found.astype("float64")
        found.loc[places < 0] = np.nan
    return found


def cut(frame: "DataFrame", moment: "Timestamp") -> "DataFrame":
    """The candles of an input that had closed at a moment: one that is still open is not to be seen."""
    return frame.iloc[: int(frame.index.searchsorted(moment, side="right"))]
