"""Which bars of a run are worth keeping: few enough to draw and to store, and no peak is lost."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trader.backtest.data import Floats, Indices
from trader.bucket.timeframe import Times

PARTS = 400
"""Equal parts of the bars, of each of which a few bars are kept: a picture has hardly more columns."""


def parts_of(length: int, parts: int = PARTS) -> Indices:
    """Where each of at most `parts` equal parts of `length` bars begins."""
    return np.unique(np.linspace(0, length, min(parts, length), endpoint=False).astype(np.int64))


def thinned(time: Times, columns: Sequence[Floats], always: Sequence[int] = (), parts: int = PARTS) -> Indices:
    """The bars to keep, in order: of each part the first and the last, and where each column is highest and lowest.

    Beside them `always`, and the last bar of every month (UTC; one that closes at midnight is of the month before).
    """
    length = len(time)
    starts = parts_of(length, parts)
    ends = np.append(starts[1:], length)
    kept = [starts, ends - 1, np.asarray(always, dtype=np.int64), np.flatnonzero(month_ends(time))]
    for column in columns:
        kept += [_places(column, starts, ends, highest=True), _places(column, starts, ends, highest=False)]
    return np.unique(np.concatenate(kept))


def month_ends(time: Times) -> NDArray[np.bool_]:
    """Which bars are the last ones of their month."""
    months = months_of(time)
    return np.append(months[1:] != months[:-1], True)


def months_of(time: Times) -> Indices:
    """The month of each bar, counted from January 1970."""
    return (time - 1).astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)


def _places(column: Floats, starts: Indices, ends: Indices, *, highest: bool) -> Indices:
    """Where each part has its highest or lowest value, the first of several."""
    extremes = (np.maximum if highest else np.minimum).reduceat(column, starts)
    hits = np.flatnonzero(column == np.repeat(extremes, ends - starts))
    return hits[np.searchsorted(hits, starts)]
