"""The committed state. An answer is sent only after its commit, so a kill at any moment loses nothing acknowledged."""

import json
import sqlite3
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from trader.errors import ConfigError
from trader.simulator.decimals import plain
from trader.simulator.matching import Balance, Change, Fill, Order
from trader.simulator.rules import OrderType, Side, TimeInForce

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS balance (account TEXT, asset TEXT, free TEXT NOT NULL, locked TEXT NOT NULL,
    PRIMARY KEY (account, asset)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS venue_order (id INTEGER PRIMARY KEY, account TEXT NOT NULL, market TEXT NOT NULL,
    client_order_id TEXT NOT NULL, side TEXT NOT NULL, type TEXT NOT NULL, time_in_force TEXT NOT NULL,
    quantity TEXT NOT NULL, quote_quantity TEXT NOT NULL, price TEXT NOT NULL, status TEXT NOT NULL,
    filled TEXT NOT NULL, cost TEXT NOT NULL, locked TEXT NOT NULL, created INTEGER NOT NULL,
    updated INTEGER NOT NULL, market_time INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS venue_order_client ON venue_order (client_order_id);
CREATE INDEX IF NOT EXISTS venue_order_market ON venue_order (account, market, id);
CREATE INDEX IF NOT EXISTS venue_order_open ON venue_order (id) WHERE status IN ('NEW', 'PARTIALLY_FILLED');
CREATE TABLE IF NOT EXISTS trade (market TEXT, id INTEGER, order_id INTEGER NOT NULL, account TEXT NOT NULL,
    side TEXT NOT NULL, price TEXT NOT NULL, quantity TEXT NOT NULL, cost TEXT NOT NULL, fee TEXT NOT NULL,
    fee_asset TEXT NOT NULL, maker INTEGER NOT NULL, time INTEGER NOT NULL, PRIMARY KEY (market, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS trade_order ON trade (order_id);
"""
_OPEN = "status IN ('NEW', 'PARTIALLY_FILLED')"
_PUT_ORDER = "INSERT OR REPLACE INTO venue_order VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_PUT_TRADE = "INSERT INTO trade VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"
_PUT_BALANCE = "INSERT OR REPLACE INTO balance VALUES (?,?,?,?)"
_PUT_META = "INSERT OR REPLACE INTO meta VALUES (?,?)"


class Store:
    """The state file. One process at a time: a second one is refused."""

    def __init__(self, path: Path | str) -> None:
        """Open or create the file (ConfigError if it is in use, or is not a simulator's)."""
        self.path = str(path)
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=2.0)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
        except sqlite3.Error as error:
            raise ConfigError(f"state file {self.path}: {error}; is another simulator using it?") from None

    def meta(self, name: str) -> Any:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def set_meta(self, name: str, value: Any) -> None:
        self._db.execute(_PUT_META, (name, json.dumps(value)))

    def save(self, changes: Iterable[Change], balances: dict[str, dict[str, Balance]]) -> None:
        """Commit what some acts did, together with the balances they moved."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for change in changes:
                account = change.order.account
                self._db.execute(_PUT_ORDER, _order_row(change.order))
                self._db.executemany(_PUT_TRADE, [_trade_row(fill) for fill in change.fills])
                owned = balances[account]
                self._put_balances(account, {asset: owned[asset] for asset in change.assets if asset in owned})
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def save_balances(self, account: str, balances: dict[str, Balance]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._put_balances(account, balances)
        self._db.execute("COMMIT")

    def _put_balances(self, account: str, balances: dict[str, Balance]) -> None:
        rows = [(account, asset, plain(b.free), plain(b.locked)) for asset, b in balances.items()]
        self._db.executemany(_PUT_BALANCE, rows)

    def balances(self) -> dict[str, dict[str, Balance]]:
        result: dict[str, dict[str, Balance]] = {}
        for account, asset, free, locked in self._db.execute("SELECT * FROM balance"):
            result.setdefault(account, {})[asset] = Balance(Decimal(free), Decimal(locked))
        return result

    def open_orders(self) -> list[Order]:
        return self._orders(f"WHERE {_OPEN} ORDER BY id", ())

    def order(self, account: str, order_id: int) -> Order | None:
        found = self._orders("WHERE id = ? AND account = ?", (order_id, account))
        return found[0] if found else None

    def order_named(self, account: str, market: str, client_order_id: str) -> Order | None:
        """The newest order of that name: names come back into use once the order is closed."""
        where = "WHERE client_order_id = ? AND account = ? AND market = ? ORDER BY id DESC LIMIT 1"
        found = self._orders(where, (client_order_id, account, market))
        return found[0] if found else None

    def orders(self, account: str, market: str, first: int | None, span: tuple[int, int], limit: int) -> list[Order]:
        """Orders made within `span`: from id `first` on if given, else the newest `limit`; oldest first."""
        where = "WHERE account = ? AND market = ? AND id >= ? AND created BETWEEN ? AND ?"
        where += f" ORDER BY id {_way(first)} LIMIT ?"
        return sorted(self._orders(where, (account, market, first or 0, *span, limit)), key=lambda order: order.id)

    def every_order(self) -> list[Order]:
        return self._orders("ORDER BY id", ())

    def trades(
        self, account: str, market: str, order_id: int | None, first: int | None, span: tuple[int, int], limit: int
    ) -> list[Fill]:
        """Executions within `span`: from id `first` on if given, else the newest `limit`; oldest first."""
        where = (
            "WHERE market = ? AND account = ? AND id >= ? AND time BETWEEN ? AND ?"
            f"{'' if order_id is None else ' AND order_id = ?'} ORDER BY id {_way(first)} LIMIT ?"
        )
        ids = () if order_id is None else (order_id,)
        found = self._trades(where, (market, account, first or 0, *span, *ids, limit))
        return sorted(found, key=lambda fill: fill.id)

    def trade_counts(self) -> dict[str, int]:
        """The highest trade id of each market."""
        return dict(self._db.execute("SELECT market, max(id) FROM trade GROUP BY market"))

    def last_order_id(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(id), 0) FROM venue_order").fetchone()[0])

    def summary(self) -> list[tuple[str, str, int, int]]:
        """Account, client order id, how often it was used, how many of those filled something."""
        query = "SELECT account, client_order_id, count(*), sum(filled <> '0') FROM venue_order GROUP BY 1, 2"
        return self._db.execute(query).fetchall()

    def count(self, table: str) -> int:
        return int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - our own names

    def close(self) -> None:
        self._db.close()

    def _orders(self, where: str, values: tuple[Any, ...]) -> list[Order]:
        rows = self._db.execute(f"SELECT * FROM venue_order {where}", values)  # noqa: S608 - our own text
        return [_order(row) for row in rows]

    def _trades(self, where: str, values: tuple[Any, ...]) -> list[Fill]:
        rows = self._db.execute(f"SELECT * FROM trade {where}", values)  # noqa: S608 - our own text
        return [_trade(row) for row in rows]


def _way(first: int | None) -> str:
    return "DESC" if first is None else "ASC"


def _order_row(o: Order) -> tuple[Any, ...]:
    amounts = tuple(plain(x) for x in (o.quantity, o.quote_quantity, o.price))
    progress = (o.status, plain(o.filled), plain(o.cost), plain(o.locked), o.created, o.updated, o.market_time)
    return (o.id, o.account, o.market, o.client_order_id, o.side, o.type, o.time_in_force, *amounts, *progress)


def _order(row: tuple[Any, ...]) -> Order:
    side, kind, force = cast(tuple[Side, OrderType, TimeInForce], row[4:7])
    quantity, quote, price = (Decimal(x) for x in row[7:10])
    filled, cost, locked = (Decimal(x) for x in row[11:14])
    number, account, market, name = row[:4]
    intent = (number, account, market, name, side, kind, force, quantity, quote, price)
    return Order(*intent, row[10], filled, cost, locked, row[14], row[15], row[16])


def _trade_row(f: Fill) -> tuple[Any, ...]:
    amounts = tuple(plain(x) for x in (f.price, f.quantity, f.cost, f.fee))
    return (f.market, f.id, f.order_id, f.account, f.side, *amounts, f.fee_asset, int(f.maker), f.time)


def _trade(row: tuple[Any, ...]) -> Fill:
    price, quantity, cost, fee = (Decimal(x) for x in row[5:9])
    market, number, order_id, account, side = row[:5]
    return Fill(number, order_id, account, market, side, price, quantity, cost, fee, row[9], bool(row[10]), row[11])
