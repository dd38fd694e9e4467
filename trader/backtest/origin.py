"""What a run was made of: hashes of its candles and of its code, so that two runs can be told to be of the same."""

import hashlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from trader import __version__
from trader.bucket.read import COLUMNS
from trader.bucket.timeframe import Times
from trader.strategy import Missing
from trader.strategy.schedule import milliseconds

if TYPE_CHECKING:
    from pandas import DataFrame, DatetimeIndex

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("backtest", "strategy", "sizing.py")
"""What decides and fills, within the package `trader`."""


def digest_of(
    candles: "DataFrame",
    inputs: "Mapping[str, DataFrame] | None" = None,
    refused: Mapping[str, Missing] | None = None,
) -> str:
    """SHA-256 in hex of candles: of each its time of close in milliseconds and its five numbers, by columns.

    `refused` has, by the names of the inputs (empty: of `candles`), which gaps among them were not decided across.
    """
    found = hashlib.sha256()
    for name, frame in [("", candles), *sorted((inputs or {}).items())]:
        found.update(f"{name}:{len(frame)}\n".encode())
        found.update(closes_of(frame).astype("<i8").tobytes())
        for column in COLUMNS:
            found.update(frame[column].to_numpy().astype("<f8").tobytes())
        if refused and name in refused:
            found.update(refused[name].told(closes_of(frame)))
    return found.hexdigest()


def closes_of(frame: "DataFrame") -> Times:
    """When candles closed, in milliseconds since the epoch."""
    return milliseconds(cast("DatetimeIndex", frame.index))


def code_of(strategy: type) -> str:
    """SHA-256 in hex of the module of a class and of those of its bases that are neither Python's nor Tallydesk's.

    What these modules import is not part of it.
    """
    modules = {one.__module__ for one in strategy.__mro__}
    files = sorted(_file(name) for name in modules if not name.startswith("trader.") and _is_own(name))
    return _hash(files)


def _is_own(name: str) -> bool:
    return name.partition(".")[0] not in sys.stdlib_module_names and bool(_file(name))


def _file(name: str) -> str:
    return getattr(sys.modules.get(name), "__file__", None) or ""


@cache
def version() -> str:
    """Tallydesk's version, and the beginning of the hash of all that decides and fills: 0.1.0+3f2a9c01b7de."""
    found = [ROOT / name for name in ENGINES]
    files = [file for path in found for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    return f"{__version__}+{_hash(map(str, files))[:12]}"


def _hash(files: Iterable[str]) -> str:
    """Of what is in files, whatever their directories are called."""
    found = hashlib.sha256()
    for file in files:
        found.update(f"{Path(file).name}\n".encode())
        found.update(Path(file).read_bytes())
    return found.hexdigest()


def place_of(method: object) -> str:
    """file:line of a method, for people; empty if it has no source."""
    try:
        return f"{inspect.getsourcefile(method)}:{inspect.getsourcelines(method)[1]}"  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""
