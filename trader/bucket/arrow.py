"""Candles in Parquet and Feather, through pyarrow, which is only needed for these."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trader.bucket.candles import Column
from trader.bucket.formats import Layout, by_names
from trader.bucket.raw import Raw
from trader.errors import InputError

MOST = 200_000_000
"""Rows in one file."""


def pyarrow(purpose: str) -> Any:
    """The library. InputError that says what to install if it is not there."""
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{purpose}: Parquet and Feather need pyarrow, which is not installed: pip install 'tallydesk[files]'"
        ) from None
    return pyarrow


def read_arrow(data: bytes, where: str, container: str) -> Raw:
    """The columns of a Parquet or Feather file. InputError naming the row and the field of what is no number."""
    library = pyarrow(where)
    try:
        table = _open(library, data, container)
        table.validate(full=True)
    except InputError:
        raise
    except Exception as error:  # what a damaged file makes pyarrow raise has no common base
        lines = str(error).splitlines() or [type(error).__name__]
        raise InputError(f"{where}: cannot be read as {container}: {lines[0][:200]}") from None
    layout = by_names(table.column_names, where)
    columns = [table.column(position) for position in layout.positions]
    times = _times(library, columns[0], layout, where)
    values = tuple(_numbers(library, c, n, where) for c, n in zip(columns[1:], layout.names[1:], strict=True))
    return Raw(where, container, layout, times, values, lambda index: f"row {index + 1}")


def _open(library: Any, data: bytes, container: str) -> Any:
    source = library.BufferReader(data)
    if container == "Feather":
        return library.ipc.open_file(source).read_all()
    file = library.parquet.ParquetFile(source, page_checksum_verification=True)
    if file.metadata.num_rows > MOST:
        raise InputError(f"holds {file.metadata.num_rows} rows; {MOST} are allowed: split it")
    return file.read()


def _times(library: Any, column: Any, layout: Layout, where: str) -> NDArray[Any]:
    kind, types = column.type, library.types
    if column.null_count:
        raise _missing(column, layout.time, where)
    if types.is_timestamp(kind) or types.is_date(kind):
        unit = kind.unit if types.is_timestamp(kind) else "ms"
        plain = column.cast(library.timestamp(unit))  # a zone is only how it is shown: the number is UTC
        return np.asarray(plain.combine_chunks().to_numpy(zero_copy_only=False)).astype(f"datetime64[{unit}]")
    if types.is_integer(kind) or types.is_floating(kind):
        return _numbers(library, column, layout.time, where)
    if types.is_string(kind) or types.is_large_string(kind):
        return np.array([text[:60] for text in column.to_pylist()], dtype=str)
    raise InputError(f"{where}: {layout.time} is of type {kind}; it must be a timestamp, a date, a number or text")


def _numbers(library: Any, column: Any, field: str, where: str) -> Column:
    kind, types = column.type, library.types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)):
        raise InputError(f"{where}: {field} is of type {kind}; it must be a number")
    if column.null_count:
        raise _missing(column, field, where)
    try:
        floats = column.cast(library.float64())
    except library.ArrowInvalid as error:
        raise InputError(f"{where}: {field} cannot be read as a number: {str(error)[:200]}") from None
    return np.array(floats.to_numpy(), dtype=np.float64)


def _missing(column: Any, field: str, where: str) -> InputError:
    row = column.is_null().to_pylist().index(True) + 1
    return InputError(f"{where}, row {row}: {field} is missing; it must be there in each row")
