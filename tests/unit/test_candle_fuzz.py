"""Damaged files: what comes out of a reader is an InputError, or what an independent reader finds in those very bytes.

Where a checksum guards the bytes (gzip, zip, Parquet as it is exported here), it is an InputError or the file's rows.
"""

import csv
import gzip
import io
import json
import random
import re
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from trader.bucket import Candles, check, read_file, timeframe_named
from trader.errors import InputError

MINUTE = timeframe_named("1m")
START = 1704067200000
NAMES = ("time_open", "open", "high", "low", "close", "volume")
ROUNDS = 300
Rows = list[list[float]]


def given() -> Rows:
    source = random.Random(7)
    rows = []
    for index in range(40):
        low, one, two, high = sorted(source.uniform(0.001, 90000) for _ in range(4))
        rows.append([START + index * 60_000, one, high, low, two, source.expovariate(0.01)])
    return rows


ROWS = given()
HEADER = "time_open_ms,open,high,low,close,volume\n"
TEXT = HEADER + "".join(",".join(map(repr, row)) + "\n" for row in ROWS)
ISO = "date,open,high,low,close,volume\n" + "".join(
    f"{np.datetime64(int(row[0]), 'ms')}Z," + ",".join(map(repr, row[1:])) + "\n" for row in ROWS
)
LISTS = json.dumps(ROWS)


def table() -> pa.Table:
    columns = [np.array(column) for column in zip(*ROWS, strict=True)]
    times = pa.array(columns[0].astype(np.int64)).cast(pa.timestamp("ms", tz="UTC"))
    return pa.table([times, *columns[1:]], names=["date", *NAMES[1:]])


def feather(compression: str | None) -> bytes:
    buffer = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(buffer, table().schema, options=options) as writer:
        writer.write_table(table())
    return buffer.getvalue()


def parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table(), buffer, write_page_checksum=True)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("candles.csv", TEXT)
    return buffer.getvalue()


def text_rows(data: bytes) -> Rows:
    """The numbers of a CSV file by way of the standard library."""
    text = data.decode().removeprefix("\ufeff").replace("\r\n", "\n")
    lines = text.rstrip("\n").split("\n")[1:]
    return [[_time(row[0]), *map(float, row[1:])] for row in (next(csv.reader([line])) for line in lines)]


def _time(text: str) -> float:
    """Milliseconds, also of an ISO time with milliseconds at most."""
    if not re.match(r"\s*[0-9]{4}-", text):
        return float(text)
    moment = datetime.fromisoformat(text.strip())
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def json_rows(data: bytes) -> Rows:
    return [list(map(float, row)) for row in json.loads(data)]


def the_rows(data: bytes) -> Rows:
    return ROWS


KINDS: dict[str, tuple[bytes, Callable[[bytes], Rows] | None]] = {
    "csv": (TEXT.encode(), text_rows),
    "iso.csv": (ISO.encode(), text_rows),
    "json": (LISTS.encode(), json_rows),
    "csv.gz": (gzip.compress(TEXT.encode(), mtime=0), the_rows),
    "json.gz": (gzip.compress(LISTS.encode(), mtime=0), the_rows),
    "zip": (zipped(), the_rows),
    "parquet": (parquet(), the_rows),
    "feather": (feather("lz4"), None),  # nothing guards its bytes: what is read must be candles, that is all
    "plain.feather": (feather(None), None),
}
PIECES = [
    b"0",
    b"9",
    b"-",
    b".",
    b",",
    b"\n",
    b"\r",
    b"e",
    b'"',
    b" ",
    b"nan",
    b"inf",
    b"[",
    b"]",
    b"null",
    b"\0",
    b"\xff",
]


def damaged(data: bytes, source: random.Random) -> bytes:
    """The same with one to four injuries."""
    made = bytearray(data)
    for _ in range(source.choice([1, 1, 1, 2, 4])):
        at = source.randrange(len(made) or 1)
        match source.randrange(7):
            case 0:
                made[at : at + 1] = bytes([source.randrange(256)])
            case 1:
                made[at : at + 1] = source.choice(PIECES)
            case 2:
                del made[at : at + source.randrange(1, 30)]
            case 3:
                made[at:at] = source.choice(PIECES)
            case 4:
                made[at:at] = made[at : at + source.randrange(1, 80)]
            case 5:
                made[at:at] = source.randbytes(source.randrange(1, 6))
            case 6 if source.random() < 0.3:
                del made[at:]
    return bytes(made)


def cases(name: str) -> Iterator[bytes]:
    source = random.Random(name)
    data = KINDS[name][0]
    yield data
    for _ in range(ROUNDS):
        yield damaged(data, source)


def rows_of(candles: Candles) -> Rows:
    return [list(row) for row in zip(*(getattr(candles, name).tolist() for name in NAMES), strict=True)]


def read_or_refused(path: Path) -> Candles | str:
    try:
        return read_file(path, MINUTE)
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_refused_or_read_exactly(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"candles.{name}"
    oracle = KINDS[name][1]
    read = refused = 0
    for content in cases(name):
        path.write_bytes(content)
        candles = read_or_refused(path)
        if isinstance(candles, str):
            assert candles.startswith(str(path))
            refused += 1
            continue
        read += 1
        check(candles, MINUTE)
        if oracle is not None:
            assert rows_of(candles) == oracle(content)
    assert read > 0
    assert refused > ROUNDS / 4
