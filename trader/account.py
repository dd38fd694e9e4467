"""Accounts: our credentials and mode at an exchange, and what the venue says we own there."""

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from trader.config import Settings
from trader.db import Connection, fetch_all, fetch_one, first_line, retrying
from trader.errors import ExchangeError
from trader.exchange.credentials import read_credentials, refuse_secrets
from trader.exchange.protocol import AssetBalance, Exchange
from trader.execution import all_booked

log = logging.getLogger("account")

Mode = Literal["simulator", "paper", "sandbox", "live"]

ACCOUNTS = """
SELECT a.id, a.name, a.exchange_id, e.name AS exchange_name, e.ccxt_id, a.mode::text AS mode, e.replay,
       e.options AS exchange_options, a.options, a.credentials, a.receive_window, a.price_margin
  FROM account a JOIN exchange e ON e.id = a.exchange_id
 ORDER BY a.id
"""

ADD_EXCHANGE = """
INSERT INTO exchange (name, ccxt_id, replay, options) VALUES (%(name)s, %(ccxt_id)s, %(replay)s, %(options)s)
ON CONFLICT (name) DO NOTHING
"""

EXCHANGE = "SELECT id, ccxt_id, replay, options FROM exchange WHERE name = %s"

ADD_ACCOUNT = """
INSERT INTO account (name, exchange_id, mode, credentials, options)
VALUES (%(name)s, %(exchange_id)s, %(mode)s::account_mode, %(credentials)s, %(options)s)
"""

# An order in flight: what the venue shows and what the ledger has may differ for a moment.
_BUSY = """EXISTS (SELECT FROM "order" WHERE account_id = %(account)s AND status = 'submitted')"""

_RESTING = """SELECT DISTINCT market_id FROM "order" WHERE account_id = %(account)s
    AND status IN ('accepted', 'partially_filled', 'pending_cancel')"""

RESTING = f"{_RESTING} ORDER BY market_id"

_LEDGER = """SELECT b.asset_id, sum(b.total) AS total FROM balance b JOIN ledger_account l ON l.id = b.ledger_account_id
    WHERE l.account_id = %(account)s GROUP BY b.asset_id"""

BEFORE_READ = f"""
SELECT clock_timestamp() AS now, {_BUSY} AS busy, (SELECT coalesce(max(id), 0) FROM fill) AS last_fill,
       (SELECT coalesce(jsonb_object_agg(asset_id, total), '{{}}') FROM ({_LEDGER}) l)::text AS ledger
"""  # noqa: S608 - made of this file's own constants

ADD_ASSETS = """
INSERT INTO asset (code) SELECT code FROM unnest(%(codes)s::text[]) code
 WHERE NOT EXISTS (SELECT FROM asset a WHERE a.code = code.code) ORDER BY code
ON CONFLICT (code) DO NOTHING
"""

# Two workers may read one account at once: one after the other here, so that only one of them opens it.
LOCK_ACCOUNT = "SELECT FROM account WHERE id = %(account)s FOR NO KEY UPDATE"

# One statement, so one snapshot: the opening, and the rows that already count it. Rows of account_balance are the mark
# that an account was opened, so nothing is written before the first settled read.
STORE_READ = f"""
WITH ledger AS ({_LEDGER}),
state AS (
  SELECT NOT (%(busy)s OR {_BUSY} OR EXISTS ({_RESTING} AND market_id <> ALL(%(proved)s::int[]))
              OR EXISTS (SELECT FROM fill WHERE id > %(last_fill)s AND account_id = %(account)s)
              OR (SELECT coalesce(jsonb_object_agg(asset_id, total), '{{}}') FROM ledger) <> %(ledger)s::jsonb
             ) AS settled,
         EXISTS (SELECT FROM account_balance WHERE account_id = %(account)s)
           OR EXISTS (SELECT FROM adjustment WHERE account_id = %(account)s AND kind = 'opening') AS opened
), venue AS (
  SELECT a.id AS asset_id, v.total, v.free, v.used
    FROM unnest(%(codes)s::text[], %(totals)s::numeric[], %(free)s::numeric[], %(used)s::numeric[])
      v (code, total, free, used)
    JOIN asset a USING (code)
), seen AS (
  SELECT asset_id, coalesce(v.total, 0) AS total, coalesce(v.free, 0) AS free, coalesce(v.used, 0) AS used,
         coalesce(l.total, 0) AS ledger
    FROM (SELECT asset_id FROM venue UNION SELECT asset_id FROM ledger
          UNION SELECT asset_id FROM account_balance WHERE account_id = %(account)s) every
    LEFT JOIN venue v USING (asset_id) LEFT JOIN ledger l USING (asset_id)
), opening AS (
  INSERT INTO adjustment (account_id, asset_id, kind, quantity, reason)
  SELECT %(account)s, asset_id, 'opening', round(total - ledger, 18), 'found at the venue when it was first read'
    FROM seen, state WHERE settled AND NOT opened AND round(total - ledger, 18) <> 0 ORDER BY asset_id
  RETURNING asset_id, quantity
), stored AS (
  INSERT INTO account_balance AS b (account_id, asset_id, total, free, used, ledger, settled, read_at)
  SELECT %(account)s, s.asset_id, s.total, s.free, s.used, s.ledger + coalesce(o.quantity, 0), settled,
         clock_timestamp()
    FROM state, seen s LEFT JOIN opening o USING (asset_id)
   WHERE settled OR opened ORDER BY s.asset_id
  ON CONFLICT (account_id, asset_id) DO UPDATE SET total = EXCLUDED.total, free = EXCLUDED.free, used = EXCLUDED.used,
    ledger = EXCLUDED.ledger, settled = EXCLUDED.settled, read_at = EXCLUDED.read_at
  RETURNING asset_id
)
SELECT settled, settled AND NOT opened AS opened_now, settled OR opened AS known,
       (SELECT count(*) FROM stored) AS stored
  FROM state
"""  # noqa: S608 - made of this file's own constants

# A reading that may not be stored yet (nothing is opened while an order is in flight) is no failure either.
READ = """
INSERT INTO account_read AS r (account_id, read_at)
VALUES (%(account)s, CASE WHEN %(known)s THEN clock_timestamp() END)
ON CONFLICT (account_id) DO UPDATE SET read_at = coalesce(EXCLUDED.read_at, r.read_at), failed_at = NULL, error = NULL
"""
FAILED = """
INSERT INTO account_read (account_id, failed_at, error) VALUES (%(account)s, clock_timestamp(), %(error)s)
ON CONFLICT (account_id) DO UPDATE SET failed_at = EXCLUDED.failed_at, error = EXCLUDED.error
"""
LONGEST_ERROR = 1000

OPENED = "UPDATE account SET opened_at = %(now)s WHERE id = %(account)s AND opened_at IS NULL"


@dataclass(frozen=True, slots=True)
class Account:
    """An account and the exchange that it is at, as the rows say."""

    id: int
    name: str
    exchange_id: int
    exchange_name: str
    ccxt_id: str
    mode: Mode
    replay: bool
    """True when the exchange's candles run on another clock than its requests."""
    options: dict[str, Any]
    """ccxt's constructor config: the exchange's options with the account's merged over them."""
    credentials: str | None
    """Prefix of the environment variables that hold the keys."""
    receive_window: timedelta
    price_margin: Decimal


@dataclass(frozen=True, slots=True)
class BalanceRead:
    """What came of reading an account's balances."""

    settled: bool
    """False: an order was in flight meanwhile, or one that rests may have traded: a difference says nothing yet."""
    opened: bool
    """True for the first settled read: what was there is booked as the account's opening."""
    stored: int
    """Rows of account_balance written; 0 when the account is not opened yet and the read was not settled."""


Then = Callable[[Connection, BalanceRead], Awaitable[None]]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, objects inside objects too."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


async def load_accounts(connection: Connection) -> list[Account]:
    """Every account, by id."""
    return [_account(row) for row in await fetch_all(connection, ACCOUNTS)]


def _account(row: Any) -> Account:
    return Account(
        id=row.id,
        name=row.name,
        exchange_id=row.exchange_id,
        exchange_name=row.exchange_name,
        ccxt_id=row.ccxt_id,
        mode=row.mode,
        replay=row.replay,
        options=merged(row.exchange_options, row.options),
        credentials=row.credentials,
        receive_window=row.receive_window,
        price_margin=row.price_margin,
    )


def connect_account(account: Account, settings: Settings) -> Exchange:
    """A connection to the venue on behalf of `account`; must be closed.

    Raises ConfigError if its credentials are not in the environment, or its options or mode are not allowed.
    """
    from trader.exchange.live import connect  # ccxt takes a second to import

    credentials = read_credentials(account.credentials) if account.credentials else None
    return connect(
        account.ccxt_id,
        options=account.options,
        credentials=credentials,
        mode=account.mode,
        allow_live=settings.allow_live,
    )


def connect_public(ccxt_id: str, options: Mapping[str, Any]) -> Exchange:
    """A connection to what a venue shows everybody, without credentials: it can place nothing. Must be closed."""
    from trader.exchange.live import connect

    return connect(ccxt_id, options=options, credentials=None, mode="live", allow_live=True)


async def add_exchange(
    connection: Connection, name: str, ccxt_id: str, *, replay: bool = False, options: Mapping[str, Any]
) -> int:
    """The id of the exchange `name`, made if it is not there; one that is there stays as it is."""
    refuse_secrets(options)
    await connection.execute(
        ADD_EXCHANGE, {"name": name, "ccxt_id": ccxt_id, "replay": replay, "options": Jsonb(dict(options))}
    )
    return int((await fetch_one(connection, EXCHANGE, [name])).id)


async def add_account(
    connection: Connection,
    name: str,
    exchange_id: int,
    mode: Mode,
    *,
    credentials: str | None = None,
    options: Mapping[str, Any],
) -> Account:
    """A new account. Raises ConfigError for a secret in `options`, psycopg.errors.IntegrityError for bad values."""
    refuse_secrets(options)
    row = {"name": name, "exchange_id": exchange_id, "mode": mode, "credentials": credentials}
    await connection.execute(ADD_ACCOUNT, row | {"options": Jsonb(dict(options))})
    return next(account for account in await load_accounts(connection) if account.name == name)


async def read_balances(
    connection: Connection, exchange: Exchange, account: Account, then: Then | None = None
) -> BalanceRead:
    """Read what the venue says `account` owns and store it beside what the ledger says.

    The first settled read opens the account: what no ledger row explains becomes unallocated. `then` is run in the
    transaction that stores. Raises ExchangeError if the venue could not be read: then nothing changes.
    """
    before = await fetch_one(connection, BEFORE_READ, {"account": account.id})
    found = [balance for balance in await exchange.balances() if (balance.total, balance.free, balance.used) != _ZERO]
    await connection.execute(ADD_ASSETS, {"codes": [balance.asset for balance in found]})
    parameters = _parameters(account, before, found) | {"proved": await _unmoved(connection, exchange, account)}

    async def store() -> BalanceRead:
        async with connection.transaction():
            await connection.execute(LOCK_ACCOUNT, parameters)
            row = await fetch_one(connection, STORE_READ, parameters)
            if row.opened_now:
                await connection.execute(OPENED, parameters)
            await connection.execute(READ, {"account": account.id, "known": row.known})
            read = BalanceRead(settled=row.settled, opened=row.opened_now, stored=row.stored)
            if then is not None:
                await then(connection, read)
            return read

    return await retrying(store)


@contextlib.asynccontextmanager
async def noting_failure(connection: Connection, account_id: int) -> AsyncIterator[None]:
    """Write to account_read why the block could not read the account, and raise that again."""
    try:
        yield
    except Exception as error:
        text = f"{type(error).__name__}: {first_line(error)}"[:LONGEST_ERROR]
        with contextlib.suppress(psycopg.Error):  # the error that counts is the first one
            await connection.execute(FAILED, {"account": account_id, "error": text})
        raise


async def _unmoved(connection: Connection, exchange: Exchange, account: Account) -> list[int]:
    """Markets on which an order rests and every execution until now is booked.

    A fill before the balances were read would be among the executions read after them, and would be new.
    """
    proved = []
    for row in await fetch_all(connection, RESTING, {"account": account.id}):
        try:
            if await all_booked(connection, exchange, account.id, row.market_id):
                proved.append(row.market_id)
        except ExchangeError as error:
            log.warning("account %s: executions cannot be read, so its balances prove nothing: %s", account.name, error)
    return proved


_ZERO = (Decimal(0), Decimal(0), Decimal(0))


def _parameters(account: Account, before: Any, found: list[AssetBalance]) -> dict[str, Any]:
    return {
        "account": account.id,
        "now": before.now,
        "busy": before.busy,
        "last_fill": before.last_fill,
        "ledger": before.ledger,
        "codes": [balance.asset for balance in found],
        "totals": [balance.total for balance in found],
        "free": [balance.free for balance in found],
        "used": [balance.used for balance in found],
    }
