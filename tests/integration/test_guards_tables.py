"""No statement of a person, not even of the tables' owner, makes a balance wrong: each way in is shut, and says why."""

from decimal import Decimal

import psycopg
import pytest

from tests.plugins.books import Books

LEDGER = "the ledger is append-only; a contrary deposit, withdrawal or adjustment corrects it"
KEPT_ORDERS = "orders are kept; to cancel one: UPDATE orders SET cancel_requested_at = now() WHERE id = ..."
FOLLOWS = {
    "balance": "it follows the ledger and the holds",
    "hold": "it follows the orders",
    "position": "it follows the fills",
    "lane": "it follows strategies",
    "drawdown": "it follows equity_point",
    "equity_point": "a job writes how equity went",
    "account_balance": "it is what the venue said; a job reads it again",
}
FLOW = "INSERT INTO orders (strategy, type, asset, quantity) VALUES "
APPEND_ONLY = {
    "ledger": LEDGER,
    "fill": "a fill is a fact of the venue",
    "adjustment": "insert a contrary adjustment",
    "flow": "it follows deposits and withdrawals",
    "order_event": "it is append-only",
}
COLUMN = {"lane": "fence", "drawdown": "peak", "equity_point": "equity", "order_event": "attempt", "fill": "fee"}


@pytest.fixture
def used(books: Books) -> Books:
    """Books in which every table has rows."""
    books.candle(50000)
    books.strategy(deposit=1000)
    books.trade("buy", "0.001", 50000, fee="0.05")
    books.trade("sell", "0.0005", 60000, fee="0.03")
    books.submit(books.queue(), 50)
    books.execute(
        "INSERT INTO adjustment (account_id, asset_id, kind, quantity, reason) VALUES (1, 1, 'opening', 5, 'x')"
    )
    books.trader("INSERT INTO equity_point (strategy_id, equity, unit_value) VALUES (1, 1000, 1)")
    books.trader("INSERT INTO account_balance VALUES (1, 1, 5, 5, 0, 5, true, now())")
    return books


def everything(books: Books) -> list[object]:
    """All that money is read from."""
    queries = ("allowance", "holding", "performance", "reconciliation", "ledger", "fill", "hold", "position", "flow")
    rows: list[object] = []
    for name in queries:
        rows += [(name, str(row)) for row in books.execute(f"SELECT * FROM {name} ORDER BY 1, 2, 3")]
    return rows


@pytest.mark.parametrize(("table", "instead"), APPEND_ONLY.items())
def test_facts_are_written_once(used: Books, table: str, instead: str) -> None:
    column = COLUMN.get(table, "quantity" if table != "flow" else "units")
    for trader in (False, True):
        for verb, statement in {
            "UPDATE": f"UPDATE {table} SET {column} = 1",
            "DELETE": f"DELETE FROM {table}",
            "TRUNCATE": f"TRUNCATE {table} CASCADE",
        }.items():
            refusal = used.refused(statement, trader=trader)
            assert refusal == f'{verb} on "{table}" is refused: {instead}'


@pytest.mark.parametrize(("table", "instead"), FOLLOWS.items())
def test_what_follows_is_not_written_by_hand(used: Books, table: str, instead: str) -> None:
    column = COLUMN.get(table, "quantity" if table in ("hold", "position") else "total")
    updated = (
        instead
        if table != "lane"
        else "traders lend it; to hold orders back: UPDATE strategy SET enabled = false WHERE name = ..."
    )
    assert used.refused(f"UPDATE {table} SET {column} = 1") == f'UPDATE on "{table}" is refused: {updated}'
    assert used.refused(f"UPDATE {table} SET {column} = 1 WHERE false") == f'UPDATE on "{table}" is refused: {updated}'
    assert used.refused(f"DELETE FROM {table}") == f'DELETE on "{table}" is refused: {instead}'
    assert used.refused(f"INSERT INTO {table} SELECT * FROM {table}") == f'INSERT on "{table}" is refused: {instead}'
    assert used.refused(f"TRUNCATE {table} CASCADE") == f'TRUNCATE on "{table}" is refused: {instead}'


@pytest.mark.parametrize("table", ["balance", "hold", "position", "ledger_account"])
def test_not_even_a_trader_writes_what_is_kept(used: Books, table: str) -> None:
    assert f'DELETE on "{table}" is refused: it follows ' in used.refused(f"DELETE FROM {table}", trader=True)


def test_ledger_rows_and_fills_come_from_their_causes_alone(used: Books) -> None:
    assert used.refused(
        "INSERT INTO ledger (kind, from_id, to_id, asset_id, quantity, order_id) VALUES ('deposit', 1, 8, 1, 9, 1)"
    ) == (
        'INSERT on "ledger" is refused: it follows fills, deposits, withdrawals and adjustments; '
        "INSERT INTO orders instead"
    )
    assert (
        used.refused(
            "INSERT INTO fill (order_id, traded_at, quantity, price, fee, trade_id, source)"
            " VALUES (2, now(), 1, 1, 0, 'mine', 'answer')"
        )
        == 'INSERT on "fill" is refused: fills come from the venue'
    )
    assert "it follows deposits and withdrawals" in used.refused("INSERT INTO flow VALUES (1, 1, 1, 1, 1, 1)")
    assert "it follows the orders" in used.refused(
        "INSERT INTO order_event (order_id, to_status, attempt, written_by) VALUES (1, 'filled', 1, 'me')"
    )


@pytest.mark.parametrize("verb", ["DELETE FROM", "TRUNCATE"])
def test_orders_are_kept(used: Books, verb: str) -> None:
    refusal = used.refused(f'{verb} "order"{" CASCADE" if verb == "TRUNCATE" else ""}')
    assert refusal == f'{verb.split()[0]} on "order" is refused: {KEPT_ORDERS}'


ATTACKS = {
    "another number for a strategy": "UPDATE strategy SET id = DEFAULT",
    "a strategy goes": "DELETE FROM strategy",
    "a strategy goes with all that hangs on it": "TRUNCATE strategy CASCADE",
    "another account for a strategy": "UPDATE strategy SET account_id = 2",
    "another unit for a strategy": "UPDATE strategy SET unit_id = 2",
    "an account goes": "DELETE FROM account",
    "accounts go with all that hangs on them": "TRUNCATE account CASCADE",
    "another number for an account": "UPDATE account SET id = DEFAULT WHERE id = 1",
    "another exchange for an account": "UPDATE account SET exchange_id = 2 WHERE id = 1",
    "play money becomes real": "UPDATE account SET mode = 'live' WHERE id = 1",
    "an exchange goes": "DELETE FROM exchange",
    "an asset goes": "DELETE FROM asset WHERE code = 'USDT'",
    "assets go with all that hangs on them": "TRUNCATE asset CASCADE",
    "an asset becomes another": "UPDATE asset SET code = 'EUR' WHERE code = 'USDT'",
    "assets change places by number": "UPDATE asset SET id = DEFAULT",
    "another base": "UPDATE market SET base_id = 3 WHERE id = 1",
    "another quote": "UPDATE market SET quote_id = 4 WHERE id = 1",
    "another symbol": "UPDATE market SET symbol = 'ETH/USDT2' WHERE id = 1",
    "another exchange for a market": "UPDATE market SET exchange_id = 2 WHERE id = 2",
    "a market goes": "DELETE FROM market WHERE id = 1",
    "markets go with all that hangs on them": "TRUNCATE market CASCADE",
    "a ledger account moves": "UPDATE ledger_account SET kind = 'external' WHERE kind = 'unallocated'",
    "ledger accounts go": "TRUNCATE ledger_account CASCADE",
    "another length for a candle": "UPDATE timeframe SET span = '2 h' WHERE id = 60",
    "a lane's fence goes back": "UPDATE lane SET fence = 0",
    "a balance by upsert": "INSERT INTO balance VALUES (1, 1, 9, 0)"
    " ON CONFLICT (ledger_account_id, asset_id) DO UPDATE SET total = 9",
    "a balance by merge": "MERGE INTO balance USING (SELECT 1) x ON true WHEN MATCHED THEN UPDATE SET total = 9",
    "a position by its function": "SELECT position_deposit(1, 2, 1, 1, 1, 1)",
    "an order by upsert": 'INSERT INTO "order" (strategy_id, type, asset_id, quantity, client_order_id)'
    " SELECT 1, 'deposit', 1, 9, client_order_id FROM \"order\" WHERE id = 1"
    " ON CONFLICT (client_order_id) DO UPDATE SET quantity = 9999",
    "a deposit that is born filled": 'INSERT INTO "order" (strategy_id, type, asset_id, quantity, status)'
    " VALUES (1, 'deposit', 1, 9, 'posted')",
    "a hold by hand": "UPDATE \"order\" SET hold_quantity = 1 WHERE status = 'submitted'",
    "an order set free": "UPDATE \"order\" SET status = 'canceled' WHERE status = 'submitted'",
    "a deposit twice by its number": 'INSERT INTO "order" (id, strategy_id, type, asset_id, quantity)'
    " OVERRIDING SYSTEM VALUE VALUES (1, 1, 'deposit', 1, 9)",
    "a deposit of nothing at all": FLOW + "('s', 'deposit', 'USDT', 'NaN')",
    "a withdrawal that gives": FLOW + "('s', 'withdrawal', 'USDT', -5)",
    "a withdrawal of what is held": FLOW + "('s', 'withdrawal', 'USDT', 930)",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_no_statement_of_a_person_changes_the_books(used: Books, attack: str) -> None:
    before = everything(used)
    used.refused(attack)
    assert everything(used) == before


HARMLESS = (
    "UPDATE account SET halted = true, halt_reason = 'lunch', name = name || '2'",
    "UPDATE strategy SET enabled = false, stake = 5, stake_unit = '%', params = '{\"a\": 1}'",
    "UPDATE market SET active = false, taker_fee = 0.5, quantity_step = 1",
    'INSERT INTO "order" (strategy_id, type, asset_id, quantity, client_order_id)'
    " SELECT 1, 'deposit', 1, 9, client_order_id"
    ' FROM "order" WHERE id = 1 ON CONFLICT (client_order_id) DO NOTHING',
    "UPDATE incident SET resolved_at = now()",
    "UPDATE bucket_feed SET enabled = false",
)


@pytest.mark.parametrize("statement", HARMLESS)
def test_what_people_may_do_leaves_the_books_alone(used: Books, statement: str) -> None:
    before = [(row.asset, row.total, row.held) for row in used.execute("SELECT * FROM allowance ORDER BY asset")]
    used.execute(statement)
    assert [
        (row.asset, row.total, row.held) for row in used.execute("SELECT * FROM allowance ORDER BY asset")
    ] == before


def _copy(books: Books, target: str, line: str) -> None:
    with books.person.cursor() as cursor, cursor.copy(f"COPY {target} FROM STDIN") as copy:  # type: ignore[arg-type]
        copy.write(line)


def test_copy_goes_through_the_same_guards(used: Books) -> None:
    for target, line, words in [
        ("balance (ledger_account_id, asset_id, total)", "1\t2\t9\n", 'INSERT on "balance" is refused'),
        ("orders (strategy, type, asset, quantity)", "s\tdeposit\tUSDT\tNaN\n", "quantity is NaN"),
        ('"order" (strategy_id, type, asset_id, quantity, status)', "1\tdeposit\t1\t9\tposted\n", "a new order starts"),
    ]:
        with pytest.raises(psycopg.Error, match=words), used.person.transaction():
            _copy(used, target, line)
    _copy(used, "orders (strategy, type, asset, quantity)", "s\tdeposit\tUSDT\t7\n")
    assert used.value("SELECT deposits FROM performance") == 1007


def test_a_temporary_table_does_not_answer_for_ours(used: Books) -> None:
    used.execute("CREATE TEMP TABLE strategy (LIKE strategy)")
    used.execute("INSERT INTO pg_temp.strategy SELECT * FROM public.strategy")
    used.execute("UPDATE pg_temp.strategy SET account_id = 2")
    used.execute(
        "CREATE TEMP TABLE market AS SELECT id, 2::smallint AS exchange_id, symbol, base_id, quote_id"
        " FROM public.market"
    )
    used.execute(
        "CREATE TEMP TABLE balance AS SELECT ledger_account_id, asset_id, 99999.0 AS total, 0.0 AS held"
        " FROM public.balance"
    )
    order = used.queue()
    assert used.value('SELECT account_id FROM "order" WHERE id = %s', order) == 1
    assert "whose exchange does not have this market" in used.refused(
        "INSERT INTO \"order\" (strategy_id, type, side, market_id) VALUES (1, 'market', 'buy', 5)"
    )
    assert "can withdraw at most" in used.refused(FLOW + "('s', 'withdrawal', 'USDT', 9999)")
    used.execute("DROP TABLE pg_temp.strategy, pg_temp.market, pg_temp.balance")


def test_deposit_and_withdrawal_in_one_statement(used: Books) -> None:
    free = used.value("SELECT free FROM allowance WHERE asset = 'USDT'")
    used.execute(FLOW + "('s', 'deposit', 'USDT', 10), ('s', 'withdrawal', 'USDT', 4)")
    assert used.value("SELECT free FROM allowance WHERE asset = 'USDT'") == free + 6
    refusal = used.refused(
        "INSERT INTO orders (strategy, type, asset, quantity)"
        " SELECT 's', 'withdrawal', 'USDT', %s FROM generate_series(1, 2)",
        free + Decimal(1),
    )
    assert refusal.startswith("strategy s can withdraw at most 5 USDT, not ")
