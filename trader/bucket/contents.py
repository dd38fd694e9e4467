"""What is inside a file, whatever it is called: text, gzip, zip, Parquet or Feather, told by its first bytes."""

import gzip
import io
import os
import select
import stat
import zipfile
import zlib
from pathlib import Path

from trader.bucket.arrow import read_arrow
from trader.bucket.raw import LARGEST, Raw
from trader.bucket.text import decode, read_csv, read_json
from trader.errors import InputError

SUFFIXES = (".csv", ".csv.gz", ".zip", ".json", ".json.gz", ".parquet", ".feather")
"""What is taken from a directory."""
TOO_LARGE = f"is larger than {LARGEST} bytes; split it"
WRITER_SECONDS = 5
"""How long a pipe may have no writer: it is often opened before whoever writes into it."""


def read_contents(path: Path) -> list[Raw]:
    """What the file holds: one, or one for each file in a zip. Raises InputError naming the file."""
    data = _bytes(path)
    if data[:4] == b"PK\3\4":
        return [_read(inner, f"{path}, {name}", "zip of ") for name, inner in _unzip(path, data)]
    if data[:2] == b"\x1f\x8b":
        return [_read(_gunzip(path, data), str(path), "gzip of ")]
    if path.suffix in (".gz", ".zip"):
        raise InputError(f"{path}: cannot be unpacked: it does not begin as {path.suffix} files do")
    return [_read(data, str(path), "")]


def _bytes(path: Path) -> bytes:
    """All of a file or a pipe. Devices are not read: most of them never end."""
    try:
        found = path.stat()
        if stat.S_ISFIFO(found.st_mode):
            data = _piped(path)
        elif not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: is a {_kind(found.st_mode)}: a regular file, a directory or a pipe is needed")
        elif found.st_size > LARGEST:
            raise InputError(f"{path}: {TOO_LARGE}")
        else:
            with path.open("rb") as file:
                data = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > LARGEST:
        raise InputError(f"{path}: {TOO_LARGE}")
    return data


def _kind(mode: int) -> str:
    return "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "socket" if stat.S_ISSOCK(mode) else "no file"


def _piped(path: Path) -> bytes:
    """What is written into a pipe until its writers are gone; InputError if there are none.

    A named pipe is opened without waiting: else that would last until a writer comes, maybe for ever.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        waiting = select.poll()
        waiting.register(file, select.POLLIN)
        # None: there are writers, and they take their time.
        head = b"" if waiting.poll(WRITER_SECONDS * 1_000) else file.read(1)
        if head == b"" and not waiting.poll(0):
            raise InputError(f"{path}: is a pipe that nobody writes into")
        os.set_blocking(file.fileno(), True)
        return (head or b"") + io.BufferedReader(file).read(LARGEST + 1)


def _read(data: bytes, where: str, wrapped: str) -> Raw:
    if len(data) > LARGEST:
        raise InputError(f"{where}: {TOO_LARGE}")
    if data[:4] == b"PAR1":
        return read_arrow(data, where, "Parquet")
    if data[:6] == b"ARROW1":
        return read_arrow(data, where, "Feather")
    if data[:4] == b"FEA1":  # a damaged one of these makes pyarrow read beyond its end
        raise InputError(
            f"{where}: is Feather of version 1, which is not read; write it again as version 2, or Parquet"
        )
    text = decode(data, where)
    if text.lstrip()[:1] in ("[", "{"):
        return read_json(text, where, f"{wrapped}JSON")
    return read_csv(text, where, f"{wrapped}CSV")


def _gunzip(path: Path, data: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            return file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be unpacked: {error}") from None


def _unzip(path: Path, data: bytes) -> list[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            found: list[tuple[str, bytes]] = []
            room = LARGEST + 1
            for member in members:
                with archive.open(member) as file:
                    found.append((member.filename, file.read(room)))
                room -= len(found[-1][1])
                if room <= 0:
                    break
    except Exception as error:  # a damaged archive makes zipfile raise whatever it trips over
        raise InputError(f"{path}: cannot be unpacked: {error or type(error).__name__}") from None
    if not found:
        raise InputError(f"{path}: holds no files")
    if room <= 0:
        raise InputError(f"{path}: is larger than {LARGEST} bytes, unpacked; split it")
    return found
