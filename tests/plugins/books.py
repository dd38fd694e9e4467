"""Fixture `books`: a small desk written in SQL alone, for the rules that the database keeps by itself.

One exchange `sim` with BTC/USDT, ETH/USDT, BNB/USDT and ETH/BTC, an account `main`, strategies by name. What a person
writes goes through `execute`; what a trader writes goes through `trader`, which says that it is one.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from tests.plugins import postgres

BTC_USDT = "sim:BTC/USDT"
Amount = str | int | Decimal
Session = psycopg.Connection[Any]

SETUP = """
INSERT INTO asset (code) VALUES ('USDT'), ('BTC'), ('ETH'), ('BNB'), ('DOGE');
INSERT INTO exchange (name, ccxt_id) VALUES ('sim', 'binance'), ('other', 'kraken');
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'simulator'), ('elsewhere', 2, 'simulator');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES
  (1, 'BTC/USDT', 2, 1), (1, 'ETH/USDT', 3, 1), (1, 'BNB/USDT', 4, 1), (1, 'ETH/BTC', 3, 2), (2, 'BTC/USDT', 2, 1);
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) SELECT id, 60, '2020-01-01Z' FROM market WHERE id < 4;
"""

CANDLE = """
INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
SELECT m.id, 60, coalesce((SELECT max(time_close) FROM bucket WHERE market_id = m.id), '2024-01-01Z') + interval '1 h',
       %(price)s, %(price)s, %(price)s, %(price)s, 1, 'imported'
  FROM market m WHERE m.exchange_id = 1 AND m.symbol = %(symbol)s
"""

SUBMIT = """
UPDATE "order" SET status = 'submitted', attempt = 1, fence = 1, submitted_at = now(),
       receive_deadline = now() + interval '5 s', sent_quantity = coalesce(quantity, 1),
       hold_asset_id = (SELECT id FROM asset WHERE code = %(asset)s), hold_quantity = %(held)s
 WHERE id = %(id)s
"""

FILL = """
INSERT INTO fill (order_id, traded_at, quantity, price, fee, fee_asset_id, trade_id, source)
VALUES (%(id)s, now(), %(quantity)s, %(price)s, %(fee)s, (SELECT id FROM asset WHERE code = %(fee_asset)s), %(trade)s,
        'answer')
"""


FILLS = """
INSERT INTO fill (order_id, traded_at, quantity, price, fee, fee_asset_id, trade_id, source)
SELECT x.id, now(), x.quantity, x.price, x.fee, a.id, x.trade, 'poll'
  FROM unnest(%s::bigint[], %s::numeric[], %s::numeric[], %s::numeric[], %s::text[], %s::text[])
         WITH ORDINALITY x (id, quantity, price, fee, asset, trade, place)
  JOIN asset a ON a.code = x.asset ORDER BY x.place
"""

# What is kept at the venue against what came from outside it: every asset sums to zero.
UNBALANCED = """
SELECT asset_id, kept, outside
  FROM (SELECT asset_id, sum(total) AS kept FROM balance GROUP BY 1) b
  FULL JOIN (SELECT asset_id, sum(delta) AS outside
               FROM (SELECT from_id AS id, asset_id, -quantity AS delta FROM ledger
                     UNION ALL SELECT to_id, asset_id, quantity FROM ledger) x
               JOIN ledger_account l ON l.id = x.id AND l.kind IN ('funding', 'venue', 'fees') GROUP BY 1) o
 USING (asset_id)
 WHERE coalesce(kept, 0) + coalesce(outside, 0) <> 0
"""


class Books:
    """What people and traders write, over one session or over two."""

    def __init__(self, person: Session, process: Session | None = None, url: str = "") -> None:
        self.url = url
        self.person = person
        self.process = process or person
        self._trades = 0

    def execute(self, statement: Any, *parameters: Any) -> list[Any]:
        """As a person at psql, who owns the tables."""
        with self.person.transaction():
            return _rows(self.person.execute(statement, parameters or None))

    def trader(self, statement: Any, *parameters: Any) -> list[Any]:
        """As one of the desk's processes."""
        return self._trader(statement, parameters or None)

    def _trader(self, statement: Any, parameters: Any) -> list[Any]:
        with self.process.transaction():
            self.process.execute("SET LOCAL tallydesk.process = 'trader'")
            rows = _rows(self.process.execute(statement, parameters))
            self.process.execute("SET LOCAL tallydesk.process = ''")
        return rows

    def value(self, statement: Any, *parameters: Any) -> Any:
        return self.execute(statement, *parameters)[0][0]

    def row(self, statement: Any, *parameters: Any) -> Any:
        (only,) = self.execute(statement, *parameters)
        return only

    def strategy(self, name: str = "s", deposit: Amount | None = None, unit: str = "USDT") -> int:
        """Add a strategy on account main; its id."""
        number = self.value(
            "INSERT INTO strategy (name, account_id, unit_id) SELECT %s, 1, id FROM asset WHERE code = %s RETURNING id",
            name,
            unit,
        )
        if deposit is not None:
            self.deposit(deposit, strategy=name)
        return int(number)

    def deposit(self, quantity: Amount, asset: str = "USDT", strategy: str = "s") -> int:
        return self._flow("deposit", quantity, asset, strategy)

    def withdraw(self, quantity: Amount, asset: str = "USDT", strategy: str = "s") -> int:
        return self._flow("withdrawal", quantity, asset, strategy)

    def _flow(self, kind: str, quantity: Amount, asset: str, strategy: str) -> int:
        return int(
            self.value(
                "INSERT INTO orders (strategy, type, asset, quantity) VALUES (%s, %s, %s, %s) RETURNING id",
                strategy,
                kind,
                asset,
                quantity,
            )
        )

    def queue(self, side: str = "buy", strategy: str = "s", **fields: Any) -> int:
        """Queue an order; its id."""
        row = {"strategy": strategy, "side": side, "type": "market", "market": BTC_USDT} | fields
        marks = ", ".join(["%s"] * len(row))
        return int(self.value(f"INSERT INTO orders ({', '.join(row)}) VALUES ({marks}) RETURNING id", *row.values()))

    def submit(self, order: int, held: Amount, asset: str = "USDT") -> int:
        """What a trader does when it claims: the order with its hold."""
        self._trader(SUBMIT, {"id": order, "held": held, "asset": asset})
        return order

    def move(self, order: int, *statuses: str) -> None:
        for status in statuses:
            self.trader('UPDATE "order" SET status = %s WHERE id = %s', status, order)

    def fill(
        self,
        order: int,
        quantity: Amount,
        price: Amount,
        fee: Amount = 0,
        fee_asset: str | None = "USDT",
        trade: str | None = None,
    ) -> None:
        self._trades += 1
        fields = {"id": order, "quantity": quantity, "price": price, "fee": fee, "fee_asset": fee_asset}
        self._trader(FILL, fields | {"trade": trade or f"t{self._trades}"})

    def fills(self, *rows: tuple[int, Amount, Amount, Amount, str]) -> None:
        """Many fills in one statement: (order, quantity, price, fee, asset of the fee)."""
        first = self._trades + 1
        self._trades += len(rows)
        orders, quantities, prices, fees, assets = (list(column) for column in zip(*rows, strict=True))
        trades = [f"t{first + number}" for number in range(len(rows))]
        numbers = [[Decimal(value) for value in column] for column in (quantities, prices, fees)]
        self.trader(FILLS, orders, *numbers, assets, trades)

    def trade(self, side: str, quantity: Amount, price: Amount, strategy: str = "s", **fee: Any) -> int:
        """A whole life: queued, held, filled at once; the order's id."""
        held = Decimal(quantity) * (Decimal(price) if side == "buy" else 1)
        order = self.queue(side, strategy, quantity=quantity)
        self.submit(order, held, "USDT" if side == "buy" else "BTC")
        self.fill(order, quantity, price, **fee)
        self.move(order, "filled")
        return order

    def candle(self, price: Amount, symbol: str = "BTC/USDT") -> None:
        """The next hourly candle closes at this price."""
        self.person.execute(CANDLE, {"price": float(price), "symbol": symbol})

    def state(self, order: int) -> Any:
        return self.row('SELECT * FROM "order" WHERE id = %s', order)

    def balance(self, asset: str = "USDT", strategy: str = "s") -> tuple[Decimal, Decimal]:
        """(total, held) as the view allowance shows them."""
        rows = self.execute("SELECT total, held FROM allowance WHERE strategy = %s AND asset = %s", strategy, asset)
        return (rows[0].total, rows[0].held) if rows else (Decimal(0), Decimal(0))

    def performance(self, strategy: str = "s") -> Any:
        return self.row("SELECT * FROM performance WHERE strategy = %s", strategy)

    def check(self) -> None:
        """What is kept is what the facts say; what is at the venue came from somewhere, to the last digit."""
        assert self.execute("SELECT * FROM invariant_violation") == []
        assert self.execute(UNBALANCED) == []

    def refused(self, statement: Any, *parameters: Any, trader: bool = False) -> str:
        """Run what must be refused; the error's own words."""
        with pytest.raises(psycopg.Error) as caught:
            (self.trader if trader else self.execute)(statement, *parameters)
        assert caught.value.diag.message_primary
        assert (caught.value.sqlstate or "")[:2] != "42", f"a slip of the test: {caught.value}"
        return caught.value.diag.message_primary


def _rows(cursor: psycopg.Cursor[Any]) -> list[Any]:
    return cursor.fetchall() if cursor.description else []


def open_session(url: str) -> Session:
    """A session as a person's."""
    return psycopg.connect(url, autocommit=True, row_factory=namedtuple_row)


@pytest.fixture(scope="session")
def _books_session(
    pytestconfig: pytest.Config, server: str, admin: psycopg.Connection, template: str
) -> Iterator[Session]:
    with postgres._database(pytestconfig, server, admin, template) as url, open_session(url) as session:
        session.execute(SETUP)
        yield session


@pytest.fixture
def books(_books_session: Session) -> Iterator[Books]:
    """A desk in SQL, in a transaction that is rolled back; before that, its books must be right."""
    with _books_session.transaction(force_rollback=True):
        _books_session.execute("SELECT setval('strategy_id_seq', 1, false) AS s, setval('order_id_seq', 1, false) AS o")
        opened = Books(_books_session)
        yield opened
        opened.check()


@pytest.fixture
def committed_books(database: str) -> Iterator[Books]:
    """A desk in SQL in a database of its own, with a person's session and a trader's: for what needs two."""
    with open_session(database) as person, open_session(database) as process:
        person.execute(SETUP)
        opened = Books(person, process, database)
        yield opened
        opened.check()
