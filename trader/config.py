"""Settings: what the environment and the `.env` files ask of this installation.

The environment wins over `.env` beside the project, which wins over `.env` in TALLYDESK_HOME. Every command
imports this module, so it imports nothing slow.
"""

import math
import os
import re
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from trader.errors import ConfigError

PROJECT = Path(__file__).resolve().parent.parent
KINDS = ("scheduler", "worker", "trader")
DEFAULT_ROLES = "scheduler worker trader"
DEFAULT_TICK = 1.0
DEFAULT_CACHE_MB = 2000
DEFAULT_ADDRESS = "shared"
MAX_OF_A_KIND = 64

_BROKEN_PASSWORD = re.compile(r"postgres(ql)?://[^:/?#@]*:(?!\d*[/?])[^@]*[/?#@].*@")

_MACHINE = re.compile(r"[a-z0-9]{1,20}")

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}


class WantedRole(NamedTuple):
    """A process that the watchdog keeps alive: `kind` is what it does, `name` is unique among all processes."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Settings:
    """How this installation is set up. Nothing here changes while a process lives."""

    home: Path
    """Where state is kept: logs, locks, the embedded database."""
    project: Path
    """The directory that holds the code, `migrations` and perhaps a `.env`."""
    database_url: str | None = field(default=None, repr=False)
    """A PostgreSQL of one's own; None: the embedded one. Hidden from repr: it may hold a password."""
    pg_bin: Path | None = None
    """Directory of the PostgreSQL programs for the embedded server; None: those of the wheel."""
    allow_live: bool = False
    """True only if a person has said that real money may be traded from here."""
    tick: float = DEFAULT_TICK
    """Seconds between two looks of the roles for work that nobody announced."""
    address: str = DEFAULT_ADDRESS
    """A name for the public address that this machine's requests come from: machines behind one share its budgets."""
    roles: tuple[WantedRole, ...] = (
        WantedRole("scheduler", "scheduler"),
        WantedRole("worker", "worker-1"),
        WantedRole("trader", "trader-1"),
    )
    """The processes that the watchdog keeps alive."""
    cache_mb: int = DEFAULT_CACHE_MB
    """Megabytes that copies of candles may take under `home`; 0: no copies are kept."""
    strategies: Path | None = None
    """A directory with strategies of one's own; None: those of the project, and what Python finds by itself."""


def load(environ: MutableMapping[str, str] | None = None, project: Path = PROJECT) -> Settings:
    """Read the settings; ConfigError names the variable, its value and what is allowed.

    Values found in `.env` files are put into `environ` (the process's own if not given), so that credentials are found
    there by name and child processes inherit them. The process's own settings put their directory of strategies on the
    import path, behind all else: no file there takes the place of a library.
    """
    own = environ is None
    environ = os.environ if environ is None else environ
    _add_missing(environ, project / ".env")
    home = _home(environ)
    _add_missing(environ, home / ".env")
    strategies = strategies_folder(environ)
    if own and strategies is not None and str(strategies) not in sys.path:
        sys.path.append(str(strategies))
    return Settings(
        home=home,
        project=project,
        database_url=_database_url(environ),
        pg_bin=_pg_bin(environ),
        allow_live=_flag(environ, "TALLYDESK_ALLOW_LIVE"),
        tick=_tick(environ),
        cache_mb=_cache_mb(environ),
        strategies=strategies,
        address=environ.get("TALLYDESK_ADDRESS", "").strip() or DEFAULT_ADDRESS,
        roles=tuple(parse_roles(environ.get("TALLYDESK_ROLES", DEFAULT_ROLES), _machine(environ))),
    )


def parse_roles(text: str, machine: str = "") -> Iterator[WantedRole]:
    """The roles that `text` asks for, such as "scheduler worker:2 trader"; ConfigError for what it cannot mean.

    The names of workers and traders hold that of the `machine`, if it has one. There is one scheduler wherever it runs.
    """
    seen: set[str] = set()
    for word in text.split():
        kind, colon, digits = word.partition(":")
        number = int(digits) if digits.isascii() and digits.isdigit() else 0 if colon else 1
        if (
            kind not in KINDS
            or kind in seen
            or not 1 <= number <= MAX_OF_A_KIND
            or (kind == "scheduler" and number > 1)
        ):
            raise ConfigError(
                f"TALLYDESK_ROLES is {text!r}: {word!r} is not allowed; name scheduler, worker, trader at most once, "
                f"the last two with a number from 1 to {MAX_OF_A_KIND} if wanted, such as 'scheduler worker:2 trader'"
            )
        seen.add(kind)
        if kind == "scheduler":
            yield WantedRole(kind, kind)
        else:
            place = f"{kind}-{machine}" if machine else kind
            yield from (WantedRole(kind, f"{place}-{i}") for i in range(1, number + 1))


def _add_missing(environ: MutableMapping[str, str], path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        ) from error
    for name, value in _parse(path, text):
        environ.setdefault(name, value)


def _parse(path: Path, text: str) -> Iterator[tuple[str, str]]:
    import io

    from dotenv.parser import parse_stream  # slow to import, and most runs have no file

    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            # The line itself may be a secret: only its number is shown.
            line = binding.original.line + binding.original.string[: -len(binding.original.string.lstrip())].count("\n")
            raise ConfigError(f"{path}, line {line}: not of the form NAME=value")
        if binding.key is not None and binding.value is not None:
            yield binding.key, binding.value


def _home(environ: MutableMapping[str, str]) -> Path:
    given = environ.get("TALLYDESK_HOME", "").strip()
    if not given:
        base = environ.get("HOME", "").strip()
        return (Path(base) if base else Path.home()) / ".local" / "state" / "tallydesk"
    path = Path(given).expanduser()
    if not path.is_absolute():
        raise ConfigError(
            f"TALLYDESK_HOME is {given!r}: an absolute path is needed, such as /srv/tallydesk or ~/tallydesk"
        )
    return path


def strategies_folder(environ: MutableMapping[str, str]) -> Path | None:
    """The directory that TALLYDESK_STRATEGIES names, there or not: what trades can do without it."""
    given = environ.get("TALLYDESK_STRATEGIES", "").strip()
    if not given:
        return None
    path = Path(given).expanduser()
    if not path.is_absolute():
        raise ConfigError(
            f"TALLYDESK_STRATEGIES is {given!r}: an absolute path is needed, such as /srv/strategies or ~/strategies"
        )
    return path


def _database_url(environ: MutableMapping[str, str]) -> str | None:
    url = environ.get("DATABASE_URL", "").strip()
    if not url:
        return None
    if not url.startswith(("postgresql://", "postgres://")):
        scheme = url.partition("://")[0] if "://" in url else "no scheme"  # never the whole: it may hold a password
        raise ConfigError(f"DATABASE_URL has {scheme!r}: write postgresql://user:password@host:port/database")
    if _BROKEN_PASSWORD.match(url):  # libpq would cut it elsewhere, and show a part of the password as a host or port
        raise ConfigError("DATABASE_URL: in a password write / as %2F, ? as %3F, # as %23 and @ as %40")
    return url


def _pg_bin(environ: MutableMapping[str, str]) -> Path | None:
    given = environ.get("TALLYDESK_PG_BIN", "").strip()
    if not given:
        return None
    path = Path(given).expanduser()
    if not (path / "postgres").is_file() or not path.is_absolute():
        raise ConfigError(
            f"TALLYDESK_PG_BIN is {given!r}: it must be the absolute path of a directory that holds the program "
            "postgres, such as /usr/lib/postgresql/15/bin"
        )
    return path


def _flag(environ: MutableMapping[str, str], name: str) -> bool:
    given = environ.get(name, "").strip().lower()
    if given not in _TRUE | _FALSE:
        raise ConfigError(f"{name} is {given!r}: allowed are 1, true, yes, on and 0, false, no, off")
    return given in _TRUE


def _machine(environ: MutableMapping[str, str]) -> str:
    given = environ.get("TALLYDESK_MACHINE", "").strip()
    if given and not _MACHINE.fullmatch(given):
        raise ConfigError(f"TALLYDESK_MACHINE is {given!r}: up to 20 small letters and digits are allowed, such as b")
    return given


def _tick(environ: MutableMapping[str, str]) -> float:
    given = environ.get("TALLYDESK_TICK", "").strip() or str(DEFAULT_TICK)
    try:
        tick = float(given)
    except ValueError:
        tick = math.nan
    if not 0.05 <= tick <= 60:
        raise ConfigError(f"TALLYDESK_TICK is {given!r}: a number of seconds from 0.05 to 60 is needed")
    return tick


def _cache_mb(environ: MutableMapping[str, str]) -> int:
    given = environ.get("TALLYDESK_CACHE_MB", "").strip() or str(DEFAULT_CACHE_MB)
    if not (given.isascii() and given.isdigit() and len(given) <= 9):
        raise ConfigError(
            f"TALLYDESK_CACHE_MB is {given!r}: a whole number of megabytes is needed, or 0 to keep no copies of candles"
        )
    return int(given)
