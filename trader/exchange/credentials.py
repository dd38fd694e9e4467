"""API keys: where they come from, and how they are kept out of every message."""

import base64
import binascii
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from trader.errors import ConfigError

# ccxt's own names for what signs a request; in the options they would end up in a database row.
_SECRET_KEYS = frozenset(
    {"apikey", "secret", "password", "privatekey", "passphrase", "token", "twofa", "accesstoken", "login"}
)
# A second send behind our back, a request log with keys in it, a way round the tap: never from a row.
_FORBIDDEN = frozenset(
    ["maxRetriesOnFailure", "verbose", "session", "socksProxy", "socks_proxy", "number", "logger", "pin_clock"]
)
_QUERY = re.compile(r"(\b\w+://[^\s?\"']+)\?[^\s\"']*")
_PAIR = re.compile(
    r"(?i)\b((?:x-[a-z]+-)?(?:signature|sign|api[-_]?key|api[-_]sign|secret|password|passphrase|token)[\"']?\s*[=:]\s*[\"']?)"
    r"[^\s&\"',}]+"
)
_LONGEST = 400
_READ = 10 * _LONGEST
"""Characters of a text in which signatures are looked for: a venue's error may be a whole page."""
SHORTEST_SECRET = 8
"""Characters. A shorter one is no secret, and hiding it would tear words and numbers apart."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What signs our requests at a venue. Its repr shows the prefix only."""

    prefix: str
    api_key: str = field(repr=False)
    secret: str = field(repr=False)
    password: str | None = field(repr=False, default=None)

    def __str__(self) -> str:
        return repr(self)


def read_credentials(prefix: str, environ: Mapping[str, str] | None = None) -> Credentials:
    """The credentials in `PREFIX_API_KEY`, `PREFIX_SECRET` and (where the venue wants one) `PREFIX_PASSWORD`.

    Raises ConfigError naming the variable that is missing or empty.
    """
    source = os.environ if environ is None else environ
    return Credentials(
        prefix=prefix,
        api_key=_required(source, f"{prefix}_API_KEY"),
        secret=_required(source, f"{prefix}_SECRET"),
        password=source.get(f"{prefix}_PASSWORD") or None,
    )


def refuse_secrets(options: Mapping[str, Any]) -> None:
    """Raise ConfigError if a key anywhere in `options` names a secret: options are rows that people read."""
    for path in _keys(options, ""):
        name = re.sub(r"[^a-z0-9]", "", path.rsplit(".", 1)[-1].lower())
        if name in _SECRET_KEYS or "secret" in name or "password" in name or "privatekey" in name:
            raise ConfigError(
                f"options: {path}: a secret does not belong in the database; "
                "set the variables PREFIX_API_KEY and PREFIX_SECRET in the environment instead"
            )


def refuse_forbidden(options: Any, path: str = "options") -> None:
    """Raise ConfigError if `options` hold, at any depth, what Tallydesk sets itself."""
    if not isinstance(options, Mapping):
        return
    for key, value in options.items():
        if key in _FORBIDDEN:
            raise ConfigError(f"{path}.{key} is not allowed: Tallydesk sets it itself")
        refuse_forbidden(value, f"{path}.{key}")


def check_keys(ccxt_id: str, credentials: Credentials, *, wants_password: bool, secret_is_base64: bool) -> None:
    """Raise ConfigError if the venue could not sign with these."""
    if wants_password and not credentials.password:
        raise ConfigError(f"{credentials.prefix}_PASSWORD is not set: {ccxt_id} signs with a password as well")
    if secret_is_base64:
        try:
            base64.b64decode(credentials.secret, validate=True)
        except (binascii.Error, ValueError):
            raise ConfigError(f"{credentials.prefix}_SECRET: {ccxt_id} gives secrets in base64, this is not") from None


def scrub(text: str, credentials: Credentials | None = None) -> str:
    """`text` without URL queries, signatures and our own secrets, at most a few lines long."""
    clean = text
    for secret in _secrets(credentials):  # before it is cut, which could leave half a secret
        clean = clean.replace(secret, "***")
    clean = _PAIR.sub(r"\1***", _QUERY.sub(r"\1?***", clean[:_READ]))
    return clean if len(clean) <= _LONGEST else clean[:_LONGEST] + "..."


def _secrets(credentials: Credentials | None) -> Iterator[str]:
    if credentials is None:
        return
    for value in (credentials.api_key, credentials.secret, credentials.password):
        if value and len(value) >= SHORTEST_SECRET:
            yield value
            yield quote(value, safe="")


def _required(source: Mapping[str, str], name: str) -> str:
    value = source.get(name, "").strip()
    if not value:
        raise ConfigError(f"{name} is not set: it must hold the account's credentials")
    return value


def _keys(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield f"{path}{key}"
            yield from _keys(value, f"{path}{key}.")
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _keys(value, path)
