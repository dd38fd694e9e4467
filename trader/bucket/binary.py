"""Columns in PostgreSQL's own byte order, made by numpy at once: as arrays, as rows for COPY, and back."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

from trader.bucket.timeframe import Times

_EPOCH_2000 = 946_684_800_000
"""PostgreSQL counts from 2000, in microseconds."""


def timestamps(milliseconds: Times) -> NDArray[Any]:
    """As PostgreSQL's timestamptz."""
    return ((milliseconds - _EPOCH_2000) * 1000).astype(">i8")


def milliseconds(timestamps: NDArray[Any]) -> Times:
    """Of PostgreSQL's timestamptz."""
    return timestamps.astype(np.int64) // 1000 + _EPOCH_2000


def copy_rows(length: int, columns: dict[str, Any]) -> bytes:
    """What COPY ... FROM STDIN (FORMAT binary) reads.

    `columns` are arrays of fixed-width values in PostgreSQL's byte order, or one such value for all rows.
    """
    layout: list[tuple[str, Any]] = [("fields", ">i2")]
    for name, values in columns.items():
        layout += [(f"{name}_width", ">i4"), (name, np.asarray(values).dtype)]
    rows = np.empty(length, dtype=layout)
    rows["fields"] = len(columns)
    for name, values in columns.items():
        rows[f"{name}_width"] = rows.dtype[name].itemsize
        rows[name] = values
    return b"PGCOPY\n\xff\r\n\x00" + bytes(8) + rows.tobytes() + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class BinaryArray:
    """A column of fixed-width values in PostgreSQL's byte order, sent as an array as it is."""

    values: NDArray[Any]


class FloatArray(BinaryArray):
    """float8[]"""


class TimestampArray(BinaryArray):
    """timestamptz[]: microseconds since 2000."""


class UuidArray(BinaryArray):
    """uuid[]"""


class BoolArray(BinaryArray):
    """bool[]"""


class _ArrayDumper(Dumper):
    """PostgreSQL's binary form of an array with one dimension and no NULL: a header, then length and value of each."""

    format = Format.BINARY
    element: ClassVar[int]

    def dump(self, obj: BinaryArray) -> Buffer:
        values = obj.values
        width = values.dtype.itemsize
        body = np.empty(len(values), dtype=[("width", ">i4"), ("value", values.dtype)])
        body["width"] = width
        body["value"] = values
        return np.array([1, 0, self.element, len(values), 1], dtype=">i4").tobytes() + body.tobytes()


class _FloatArrayDumper(_ArrayDumper):
    oid, element = 1022, 701


class _TimestampArrayDumper(_ArrayDumper):
    oid, element = 1185, 1184


class _UuidArrayDumper(_ArrayDumper):
    oid, element = 2951, 2950


class _BoolArrayDumper(_ArrayDumper):
    oid, element = 1000, 16


DUMPERS: tuple[tuple[type[BinaryArray], type[_ArrayDumper]], ...] = (
    (FloatArray, _FloatArrayDumper),
    (TimestampArray, _TimestampArrayDumper),
    (UuidArray, _UuidArrayDumper),
    (BoolArray, _BoolArrayDumper),
)
