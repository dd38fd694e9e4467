"""Reading costs the same however long the history is: the views people read never walk through fills or postings."""

from collections.abc import Iterator

import pytest

from tests.plugins.books import SETUP, Books, open_session

FILLS = 20_000

# History straight into the tables, triggers asleep: what matters here is only how much there is to not read.
HISTORY = f"""
INSERT INTO "order" (strategy_id, status, type, side, market_id, quantity, account_id)
  SELECT 1, 'filled', 'market', 'buy', 1, 1, 1 FROM generate_series(1, {FILLS} / 10);
INSERT INTO fill (order_id, traded_at, side, quantity, price, quote, fee, account_id, market_id, trade_id, source)
  SELECT 1 + n % ({FILLS} / 10), now(), 'buy', 0.001, 50000, 50, 0, 1, 1 + n % 2, n::text, 'poll'
    FROM generate_series(1, {FILLS}) n;
INSERT INTO ledger (kind, from_id, to_id, asset_id, quantity, order_id, fill_id)
  SELECT 'trade', 1, 2, 1, 50, order_id, id FROM fill;
INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
  SELECT 1, 60, '2020-01-01Z'::timestamptz + n * interval '1 h', 1, 1, 1, 1, 1, 'imported'
    FROM generate_series(1, 5000) n;
"""

READ = """
SELECT relname, coalesce(seq_tup_read, 0) AS walked, coalesce(idx_tup_fetch, 0) AS fetched
  FROM pg_stat_xact_user_tables WHERE relname IN ('fill', 'ledger', 'order', 'order_event', 'bucket')
"""

BIG = {"fill", "ledger", "order", "order_event", "bucket"}


@pytest.fixture
def long_history(database: str) -> Iterator[Books]:
    with open_session(database) as person, open_session(database) as process:
        person.execute(SETUP)
        books = Books(person, process)
        for name in ("s", "t"):
            books.strategy(name, deposit=1000)
            books.trade("buy", "0.001", 50000, strategy=name)
        with person.transaction():
            person.execute("SET LOCAL session_replication_role = replica")
            person.execute(HISTORY)
        person.execute("ANALYZE")
        yield books


def test_what_people_read_does_not_walk_through_history(long_history: Books) -> None:
    assert read_by(long_history, "SELECT count(*) FROM fill WHERE fee = 1")["fill"][0] >= FILLS
    by_a_fill = "(SELECT market_price(2))"  # there are no candles of this market
    assert long_history.value("SELECT market_price(2)") == 50000
    for view in (
        "allowance",
        "holding",
        "performance",
        "equity",
        "order_in_doubt",
        "account_value",
        "account_total",
        by_a_fill,
    ):
        read = read_by(long_history, f"SELECT * FROM {view} shown")
        assert set(read) == BIG
        for table, (walked, fetched) in read.items():
            assert walked == 0, f"{view} walks through {table}"
            assert fetched < 50, f"{view} fetches {fetched} rows of {table}"


def read_by(books: Books, query: str) -> dict[str, tuple[int, int]]:
    """How many rows of each big table a query reads: by walking through it, and by an index."""
    with books.person.transaction():
        before = {row.relname: row for row in books.execute(READ)}
        books.execute(query)
        after = books.execute(READ)
    return {
        row.relname: (row.walked - before[row.relname].walked, row.fetched - before[row.relname].fetched)
        for row in after
    }
