"""Candles as text: CSV with or without a header, and JSON lists of lists."""

import csv
import io
import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trader.bucket.formats import FIELDS, Layout, by_count, by_names
from trader.bucket.raw import Raw
from trader.errors import InputError

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)
BLANK = " \t"
SEPARATORS = {";": "semicolons (;)", "\t": "tabs", "|": "bars (|)"}
LONGEST = 40
"""Characters of a time."""


def decode(data: bytes, where: str) -> str:
    """The text in UTF-8, with lines that end in a line feed. InputError if it is none."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: is not text: byte {error.start} is not UTF-8") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def read_csv(text: str, where: str, container: str) -> Raw:
    """The columns of a CSV file. InputError naming the line and the field of what is no number."""
    if not text.strip():
        raise InputError(f"{where}: holds no candles")
    head, _, rest = text.partition("\n")
    fields = next(iter(csv.reader([head])), []) if "\r" not in head and "\0" not in head else [head]
    _check_separator(head, f"{where}, line 1")
    bare = bool(head.strip()) and all(map(_is_number, fields))
    layout = by_count(len(fields), f"{where}, line 1") if bare else by_names(fields, f"{where}, line 1")
    body = (text if bare else rest).rstrip("\n")
    if not body.strip():
        raise InputError(f"{where}: holds no candles")
    found = _fast(body, layout)
    first_line = 1 if bare else 2
    times, numbers = found if found is not None else _slow(body, layout, where, first_line)
    return Raw(
        where,
        container,
        layout,
        times,
        tuple(np.ascontiguousarray(numbers[:, column]) for column in range(5)),
        lambda index: f"line {index + first_line}",
        np.ascontiguousarray(numbers[:, 5]) if layout.close_position is not None else None,
    )


def _check_separator(head: str, place: str) -> None:
    for separator, name in SEPARATORS.items():
        if head.count(separator) >= len(FIELDS) - 1 > head.count(","):
            raise InputError(
                f"{place}: the fields are separated by {name}; they must be by commas, with decimal points"
            )


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text.strip(BLANK)) is not None


def _wanted(layout: Layout) -> tuple[int, ...]:
    """Positions of the numbers apart from the time: the five values, and the close where there is one."""
    return layout.positions[1:] + (() if layout.close_position is None else (layout.close_position,))


def _fast(body: str, layout: Layout) -> tuple[NDArray[Any], NDArray[np.float64]] | None:
    """All at once; None if anything is unusual: numpy names neither line nor field, skips empty lines and guesses."""
    rows = body.count("\n") + 1
    wanted = _wanted(layout)
    if '"' in body or not _even(body, rows, layout.columns):
        return None
    numeric = _is_number(body.partition("\n")[0].split(",")[layout.positions[0]])
    kind = np.float64 if numeric else f"U{LONGEST + 1}"
    columns = sorted({layout.positions[0], *wanted})
    fields = [(str(position), kind if position == layout.positions[0] else np.float64) for position in columns]
    try:
        table = np.loadtxt(io.StringIO(body), delimiter=",", dtype=fields, ndmin=1, comments=None, usecols=columns)
    except ValueError:
        return None
    times = table[str(layout.positions[0])]
    if len(table) != rows or (not numeric and (np.char.str_len(times) > LONGEST).any()):
        return None
    return np.ascontiguousarray(times), np.stack([table[str(position)] for position in wanted], axis=1)


def _even(body: str, rows: int, columns: int) -> bool:
    """Whether every line has as many fields as there are columns, in printable ASCII: numpy's blanks are many."""
    data = np.frombuffer(body.encode(), dtype=np.uint8)
    if (((data < ord(" ")) & (data != ord("\n"))) | (data > ord("~"))).any():
        return False
    ends = np.append(np.flatnonzero(data == ord("\n")), len(data))
    commas = np.searchsorted(np.flatnonzero(data == ord(",")), ends)
    return len(ends) == rows and bool((np.diff(commas, prepend=0) == columns - 1).all())


def _slow(body: str, layout: Layout, where: str, first_line: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Line by line, with an error that names the line and the field."""
    times: list[str] = []
    numbers: list[list[float]] = []
    wanted = _wanted(layout)
    names = [*layout.names[1:], "close_time"]
    for number, line in enumerate(body.split("\n"), start=first_line):
        row = _fields(line, f"{where}, line {number}", layout)
        times.append(row[layout.positions[0]].strip(BLANK))
        numbers.append([_float(row[p], f"{where}, line {number}: {n}") for p, n in zip(wanted, names, strict=False)])
    if _is_number(times[0]):
        place = f"{where}, line {{}}: {layout.time}"
        parsed = [_float(text, place.format(number)) for number, text in enumerate(times, start=first_line)]
        return np.array(parsed), np.array(numbers)
    return np.array(times), np.array(numbers)


def _fields(line: str, place: str, layout: Layout) -> list[str]:
    try:
        row = next(iter(csv.reader([line], strict=True)), [])
    except csv.Error as error:
        raise InputError(f"{place}: cannot be read: {error}") from None
    if len(row) != layout.columns:
        expected = f"{layout.columns}: {','.join(layout.names)}" if layout.columns == len(FIELDS) else layout.columns
        raise InputError(f"{place}: has {len(row)} fields; it must have {expected}")
    return row


def _float(text: str, place: str) -> float:
    if not _is_number(text):
        raise InputError(f"{place} is {text[:40]!r}; it must be a number")
    return float(text.strip(BLANK))


def read_json(text: str, where: str, container: str) -> Raw:
    """The columns of a JSON list of [milliseconds, open, high, low, close, volume]."""
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise InputError(f"{where}: must be a JSON list of [milliseconds, open, high, low, close, volume]")
    layout = Layout("ccxt", len(FIELDS), ("time", *FIELDS[1:]), tuple(range(len(FIELDS))), header=False)
    table = _table(rows, where)
    values = tuple(np.ascontiguousarray(table[:, column]) for column in range(1, len(FIELDS)))
    return Raw(where, container, layout, np.ascontiguousarray(table[:, 0]), values, lambda index: f"row {index + 1}")


def _table(rows: Sequence[Any], where: str) -> NDArray[np.float64]:
    """Rows as numbers; what is not right at once is looked at again, row by row."""
    if all(type(row) is list and len(row) == len(FIELDS) for row in rows) and (
        set(map(type, chain.from_iterable(rows))) <= {int, float}
    ):
        try:
            return np.array(rows, dtype=np.float64).reshape(-1, len(FIELDS))
        except OverflowError:
            pass
    for number, row in enumerate(rows, start=1):
        _check_row(row, f"{where}, row {number}")
    raise InputError(f"{where}: holds numbers that are too large")


def _check_row(row: Any, place: str) -> None:
    if type(row) is not list or len(row) != len(FIELDS):
        raise InputError(f"{place}: is {str(row)[:60]}; it must be [milliseconds, open, high, low, close, volume]")
    for field, value in zip(("time", *FIELDS[1:]), row, strict=True):
        if type(value) not in (int, float):
            raise InputError(f"{place}: {field} is {json.dumps(value)[:40]}; it must be a number")
        if abs(value) > 1e300:
            raise InputError(f"{place}: {field} is too large")
