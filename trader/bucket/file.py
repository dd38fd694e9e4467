"""Candle files, checked as a whole before one row of them is stored."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trader.bucket.candles import BadCandleError, Candles, check
from trader.bucket.contents import SUFFIXES, read_contents
from trader.bucket.formats import VALUES, Format, Stamp, must_be
from trader.bucket.raw import Raw, first
from trader.bucket.stamps import milliseconds, openings
from trader.bucket.timeframe import TIMEFRAMES, Timeframe, Times
from trader.clock import from_milliseconds, to_milliseconds
from trader.errors import InputError


@dataclass(frozen=True, slots=True)
class File:
    """What one file was found to hold. `says` is what it was taken for, for people."""

    where: str
    candles: Candles
    says: str


@dataclass(frozen=True, slots=True)
class Content:
    """The candles of one or more files, oldest first."""

    files: tuple[File, ...]
    candles: Candles


@dataclass(frozen=True, slots=True)
class Hole:
    """A stretch without candles: from `start`, when the one before closes, to `end`, when the next one opens."""

    start: int
    end: int
    missing: int


def read_file(path: Path, timeframe: Timeframe, stamp: Stamp | None = None, kind: Format = "auto") -> Candles:
    """The candles in a file of any format of `formats`; gzip and zip are unpacked.

    `stamp` says what the time column means: when a candle opens, or when it closes; None: what its name says. Raises
    InputError naming the file, the line (or row) and the field of the first thing that is wrong; the file is good as
    a whole, or not at all.
    """
    return read_files([path], timeframe, stamp, kind).candles


def read_files(
    paths: Sequence[Path],
    timeframe: Timeframe,
    stamp: Stamp | None = None,
    kind: Format = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
    now: datetime | None = None,
) -> Content:
    """The candles of several files, or of directories of them, in order of time; as `read_file`, all or none.

    Two files may overlap where they agree. `progress` is told how many of how many files are read. A candle
    that closes after `now`, if that is given, is wrong: only what has closed is a candle.
    """
    todo = [file for path in paths for file in _expand(path)]
    files: list[File] = []
    for done, path in enumerate(todo):
        progress(done, len(todo))
        files += [_read(raw, timeframe, stamp, kind, now) for raw in read_contents(path)]
    progress(len(todo), len(todo))
    files.sort(key=lambda file: int(file.candles.time_open[0]))
    candles = _joined(files, timeframe)
    _check_spacing(files, candles, timeframe)
    return Content(tuple(files), candles)


def holes(candles: Candles, timeframe: Timeframe) -> list[Hole]:
    """Where candles are missing between the first and the last of them."""
    closes = timeframe.closes(candles.time_open)
    found = np.flatnonzero(closes[:-1] < candles.time_open[1:])
    starts, ends = closes[:-1][found], candles.time_open[1:][found]
    if timeframe.span is None:
        missing = (ends.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)) - (
            starts.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
        )
    else:
        missing = -((starts - ends) // timeframe.span)
    return [Hole(*map(int, row)) for row in zip(starts, ends, missing, strict=True)]


def _expand(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.name.endswith(SUFFIXES) and not file.name.startswith("."))
    if not found:
        raise InputError(f"{path}: holds no candle files; their names end in {', '.join(SUFFIXES)}")
    return found


def _read(raw: Raw, timeframe: Timeframe, stamp: Stamp | None, kind: Format, now: datetime | None) -> File:
    must_be(raw.layout, kind, raw.where)
    stamps, unit = milliseconds(raw)
    meaning = stamp or raw.layout.stamp
    candles = Candles(openings(raw, stamps, timeframe, meaning), *raw.values)
    try:
        check(candles, timeframe)
    except BadCandleError as error:
        names = dict(zip(("time_open", *VALUES), raw.layout.names, strict=True))
        names["time_open"] = raw.layout.time
        hint = _hint(raw, stamps, candles, timeframe, meaning) if error.field == "time_open" else ""
        raise raw.bad(error.index, names[error.field], error.problem + hint) from None
    _check_overlap(raw, candles, timeframe)
    _check_length(raw, candles, timeframe)
    _check_closed(raw, candles, timeframe, now)
    known = raw.layout.format or f"columns {','.join(raw.layout.names)}"
    return File(raw.where, candles, f"{raw.container}, {known}, times {unit} at the {meaning}")


def _hint(raw: Raw, stamps: Times, candles: Candles, timeframe: Timeframe, meaning: Stamp) -> str:
    """What to do about times that cannot be, where it is plain what they are."""
    steps = np.diff(stamps)
    if len(steps) and (steps < 0).all():
        return (
            "; the file goes from new to old, and must go from old to new: turn its lines around, as "
            "`tail -n +2 FILE | tac` does after a header"
        )
    if meaning == "open" and not timeframe.aligned(candles.time_open).all():
        with contextlib.suppress(InputError):
            openings(raw, stamps, timeframe, "close")
            return "; they all fit as times at which candles close: --stamp close"
    return ""


def _check_overlap(raw: Raw, candles: Candles, timeframe: Timeframe) -> None:
    """Hours given as four hours would pass otherwise: they, too, open at whole hours."""
    early = np.append(False, timeframe.closes(candles.time_open)[:-1] > candles.time_open[1:])
    if (index := first(early)) is not None:
        moment = f"{from_milliseconds(int(candles.time_open[index])):%Y-%m-%d %H:%M} UTC"
        problem = f"{moment} is before the {timeframe.name} candle above it has closed; is the timeframe right?"
        raise raw.bad(index, raw.layout.time, problem)


def _check_length(raw: Raw, candles: Candles, timeframe: Timeframe) -> None:
    """What the file says of when its candles close; of most of them, because venues cut some short in an outage."""
    if raw.closes is None or raw.times.dtype.kind not in "fi":
        return
    scale = 1e-3 if raw.times[0] >= 1e14 else 1
    with np.errstate(invalid="ignore"):
        right = np.ceil(raw.closes * scale) == timeframe.closes(candles.time_open) - (0 if scale < 1 else 1)
    if right.sum() * 2 < len(right):
        index = int(np.argmin(right))
        problem = f"{raw.closes[index]:.17g} is not the end of a {timeframe.name} candle; is the timeframe right?"
        raise raw.bad(index, "close_time", problem)


def _check_closed(raw: Raw, candles: Candles, timeframe: Timeframe, now: datetime | None) -> None:
    """One of the future would be the newest of its feed, which then waits for what comes after it."""
    closes = timeframe.closes(candles.time_open)
    if now is not None and (index := first(closes > to_milliseconds(now))) is not None:
        opens, end = (from_milliseconds(int(moment)) for moment in (candles.time_open[index], closes[index]))
        problem = (
            f"{opens:%Y-%m-%d %H:%M} UTC is of a {timeframe.name} candle that has not closed: it does so at "
            f"{end:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} UTC; leave it out"
        )
        raise raw.bad(index, raw.layout.time, problem)


def _joined(files: list[File], timeframe: Timeframe) -> Candles:
    """The candles of all files; where two have the same candle, it must be the same."""
    if len(files) == 1:
        return files[0].candles
    candles, owner = _in_order(files)
    again = np.append(False, np.diff(candles.time_open) == 0)
    before = np.append(0, np.arange(len(candles) - 1))
    for name in VALUES:
        column = getattr(candles, name)
        if (index := first(again & (column != column[before]))) is not None:
            one, other = (f"{float(column[at])!r}" for at in (index, index - 1))
            moment = f"{from_milliseconds(int(candles.time_open[index])):%Y-%m-%d %H:%M} UTC"
            raise InputError(
                f"{files[owner[index]].where}: {name} of the candle that opens at {moment} is {one}, but {other} in "
                f"{files[owner[index - 1]].where}"
            )
    candles, owner = candles[~again], owner[~again]
    early = np.append(False, timeframe.closes(candles.time_open)[:-1] > candles.time_open[1:])
    if (index := first(early)) is not None:
        one, two = files[owner[index]].where, files[owner[index - 1]].where
        raise InputError(f"{one} and {two}: their {timeframe.name} candles overlap, and open at different moments")
    return candles


def _in_order(files: list[File]) -> tuple[Candles, NDArray[np.int64]]:
    """All candles in order of time, and in which of the files each one is."""
    names = ("time_open", *VALUES)
    columns = [np.concatenate([getattr(file.candles, name) for file in files]) for name in names]
    order = np.argsort(columns[0], kind="stable")
    owner = np.repeat(np.arange(len(files)), [len(file.candles) for file in files])
    return Candles(*(column[order] for column in columns)), owner[order]


def _check_spacing(files: list[File], candles: Candles, timeframe: Timeframe) -> None:
    """A file of hours given as minutes would pass as minutes with many gaps."""
    for where, part in [(file.where, file.candles) for file in files] + [("the files together", candles)]:
        closes = timeframe.closes(part.time_open)
        if len(part) >= 3 and not (closes[:-1] >= part.time_open[1:]).any():
            raise InputError(
                f"{where}: no two candles are {timeframe.name} apart, the closest are {_least(part.time_open)} apart; "
                "is the timeframe right?"
            )


def _least(opens: Times) -> str:
    """The shortest step, as a timeframe if it is one."""
    least = int(np.diff(opens).min())
    named = [timeframe.name for timeframe in TIMEFRAMES.values() if timeframe.span == least]
    return named[0] if named else f"{least // 60_000} minutes"
