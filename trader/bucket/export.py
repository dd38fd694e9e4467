"""Writing stored candles to a file, in formats that can be imported again, exactly."""

import contextlib
import gzip
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trader.bucket.arrow import pyarrow
from trader.bucket.candles import Candles
from trader.bucket.formats import HEADER, VALUES, Format
from trader.bucket.scan import scan
from trader.bucket.timeframe import Timeframe
from trader.db import Connection
from trader.errors import InputError

CONTAINERS: dict[str, tuple[Format, ...]] = {
    ".csv": ("tallydesk", "freqtrade", "ccxt", "backtesting"),
    ".csv.gz": ("tallydesk", "freqtrade", "ccxt", "backtesting"),
    ".json": ("ccxt", "freqtrade"),
    ".json.gz": ("ccxt", "freqtrade"),
    ".feather": ("freqtrade", "tallydesk", "backtesting"),
    ".parquet": ("freqtrade", "tallydesk", "backtesting"),
}
"""What can be written under which ending; the first one is meant if none is asked for."""

TIMES = {"tallydesk": "time_open_ms", "freqtrade": "date", "backtesting": "Date"}


class Writer(Protocol):
    """Takes candles in order of time."""

    def write(self, candles: Candles) -> None:
        """Add some."""

    def close(self) -> None:
        """What belongs at the end."""


async def export_file(
    connection: Connection,
    path: Path,
    market_id: int,
    timeframe: Timeframe,
    since: datetime | None = None,
    until: datetime | None = None,
    kind: Format = "auto",
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Write the candles that open and close between `since` and `until`, and return how many.

    The file is there as a whole, or not at all; one of that name is replaced. `progress` is told how many are
    written. Raises InputError if the name or the format says nothing that can be written, or if there are no candles.
    """
    suffix, kind = choose(path, kind)
    done = 0
    with _atomic(path) as file, _writer(file, suffix, kind) as writer:
        async for part in scan(connection, market_id, timeframe, since, until):
            writer.write(part)
            done += len(part)
            progress(done)
        if not done:
            raise InputError(f"{path}: there are no {timeframe.name} candles to write; nothing was written")
    return done


def choose(path: Path, kind: Format = "auto") -> tuple[str, Format]:
    """The ending and the format to write. InputError that lists what there is if that cannot be done."""
    suffix = next((ending for ending in sorted(CONTAINERS, key=len, reverse=True) if path.name.endswith(ending)), None)
    if suffix is None:
        raise InputError(f"{path}: the name must end in {', '.join(CONTAINERS)}")
    if kind == "binance":
        raise InputError(
            "--format binance cannot be written: it has columns that are not stored (quote volume, trades)"
        )
    if kind == "auto":
        return suffix, CONTAINERS[suffix][0]
    if kind not in CONTAINERS[suffix]:
        raise InputError(f"--format is {kind}: a {suffix} file can be {', '.join(CONTAINERS[suffix])}")
    return suffix, kind


@contextlib.contextmanager
def _atomic(path: Path) -> Iterator[io.BufferedIOBase]:
    """A file beside `path` that takes its name at the end, when all of it is on the disk; none is left otherwise."""
    handle, name = -1, ""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def _writer(file: io.BufferedIOBase, suffix: str, kind: Format) -> Iterator[Writer]:
    if suffix in (".feather", ".parquet"):
        writer: Writer = _Arrow(file, suffix, kind)
        yield writer
        writer.close()
        return
    with gzip.GzipFile("", "wb", 6, file, mtime=0) if suffix.endswith(".gz") else contextlib.nullcontext(file) as text:
        writer = _Json(text) if ".json" in suffix else _Csv(text, kind)
        yield writer
        writer.close()


def _rows(candles: Candles) -> Iterator[tuple[Any, ...]]:
    columns = [getattr(candles, name).tolist() for name in ("time_open", *VALUES)]
    return zip(*columns, strict=True)


class _Csv:
    """Floats are written in the fewest digits that mean exactly them."""

    def __init__(self, file: Any, kind: Format) -> None:
        self.file, self.kind = file, kind
        head = {"tallydesk": HEADER, "freqtrade": f"date,{','.join(VALUES)}", "ccxt": ""}
        header = head.get(kind, f"Date,{','.join(name.capitalize() for name in VALUES)}")
        file.write(f"{header}\n".encode() if header else b"")

    def write(self, candles: Candles) -> None:
        values = [list(map(repr, getattr(candles, name).tolist())) for name in VALUES]
        times = candles.time_open.astype(str) if self.kind in ("tallydesk", "ccxt") else _iso(candles)
        lines = "\n".join(map(",".join, zip(times.tolist(), *values, strict=True)))
        self.file.write(f"{lines}\n".encode())

    def close(self) -> None:
        pass


def _iso(candles: Candles) -> Any:
    """As pandas writes times with a zone: that is what reads them."""
    text = np.char.replace(np.datetime_as_string(candles.time_open.astype("datetime64[ms]"), unit="s"), "T", " ")
    return np.char.add(text, "+00:00")


class _Json:
    """A list of lists, one candle a line."""

    def __init__(self, file: Any) -> None:
        self.file, self.before = file, "["

    def write(self, candles: Candles) -> None:
        lines = ",\n".join(f"[{', '.join(map(repr, row))}]" for row in _rows(candles))
        self.file.write(f"{self.before}{lines}".encode())
        self.before = ",\n"

    def close(self) -> None:
        self.file.write(b"]\n")


class _Arrow:
    """Feather is Arrow's own file with buffers compressed; Parquet has a row group for each part, and checksums."""

    def __init__(self, file: Any, suffix: str, kind: Format) -> None:
        self.library = library = pyarrow(f"a {suffix} file")
        names = [name.capitalize() for name in VALUES] if kind == "backtesting" else VALUES
        time = library.int64() if kind == "tallydesk" else library.timestamp("ms", tz="UTC")
        self.schema = library.schema([(TIMES[kind], time), *((name, library.float64()) for name in names)])
        if suffix == ".feather":
            options = library.ipc.IpcWriteOptions(compression="lz4")
            self.writer = library.ipc.new_file(file, self.schema, options=options)
        else:
            self.writer = library.parquet.ParquetWriter(file, self.schema, write_page_checksum=True)

    def write(self, candles: Candles) -> None:
        times = self.library.array(candles.time_open).cast(self.schema.field(0).type)
        columns = [times, *(self.library.array(getattr(candles, name)) for name in VALUES)]
        self.writer.write_batch(self.library.record_batch(columns, schema=self.schema))

    def close(self) -> None:
        self.writer.close()
