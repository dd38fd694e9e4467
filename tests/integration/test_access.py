"""What the two roles may do, and what they may not."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.plugins.books import Books

DENIED = psycopg.errors.InsufficientPrivilege
QUEUE = "INSERT INTO orders (strategy, type, side, market) VALUES ('s', 'market', 'buy', 'sim:BTC/USDT')"
DEPOSIT = "INSERT INTO orders (strategy, type, asset, quantity) VALUES ('s', 'deposit', 'USDT', 100)"

MAY_USER = [
    QUEUE + " RETURNING id, client_order_id",
    DEPOSIT,
    "INSERT INTO orders (strategy, type, asset, quantity) VALUES ('s', 'withdrawal', 'USDT', 5)",
    "INSERT INTO \"order\" (strategy_id, type, side, market_id, quantity) VALUES (1, 'market', 'buy', 1, 1)",
    "UPDATE orders SET cancel_requested_at = now() WHERE status = 'queued'",
    'INSERT INTO "order" (strategy_id, type, side, market_id, limit_price, time_in_force, trigger_price, trigger_when)'
    " VALUES (1, 'limit', 'buy', 1, 9, 'IOC', 9, 'rises')",
    "INSERT INTO \"order\" (strategy_id, type, side, market_id, trail) VALUES (1, 'market', 'sell', 1, 0.05)",
    "INSERT INTO orders (strategy, type, side, market, after_id, parent_id)"
    " SELECT 's', 'market', 'sell', 'sim:BTC/USDT', id, id FROM orders WHERE type = 'market'",
    "UPDATE \"order\" SET cancel_requested_at = now() WHERE status = 'queued'",
    "INSERT INTO orders (strategy, type, side, market, quantity, replaces_id)"
    " SELECT 's', 'market', 'buy', 'sim:BTC/USDT', 1, id FROM orders WHERE type = 'market'",
    "UPDATE account SET halted = true, halt_reason = 'lunch' WHERE name = 'main'",
    "UPDATE strategy SET enabled = false, stake = 10, stake_unit = '%', params = '{}', order_ttl = '1 h'",
    "UPDATE bucket_feed SET enabled = false, collect_since = '2021-01-01Z', keep = '1 year'",
    "UPDATE bucket_feed SET collect_since = NULL",
    "UPDATE incident SET resolved_at = now()",
    "UPDATE setting SET unit = 'BTC', rate_fresh = '1 min', balance_fresh = '1 min'",
    "INSERT INTO rates (asset, unit, rate) VALUES ('USDT', 'BTC', 1) RETURNING rate",
    "INSERT INTO asset_rate (asset_id, unit_id, rate) VALUES (1, 2, 1)",
    "UPDATE rates SET rate = 2",
    "DELETE FROM rates",
]

MAY_NOT_USER = [
    "UPDATE \"order\" SET status = 'filled'",
    'UPDATE "order" SET quantity = 1',
    'DELETE FROM "order"',
    'UPDATE "order" SET triggered_at = now()',
    'UPDATE "order" SET trail = 0.1',
    "INSERT INTO \"order\" (strategy_id, type, side, market_id, triggered_at) VALUES (1, 'market', 'buy', 1, now())",
    "INSERT INTO \"order\" (strategy_id, type, side, market_id, status) VALUES (1, 'market', 'buy', 1, 'queued')",
    "INSERT INTO \"order\" (strategy_id, type, side, market_id, account_id) VALUES (1, 'market', 'buy', 1, 2)",
    "INSERT INTO fill (order_id, traded_at, quantity, price, fee, trade_id, source)"
    " VALUES (2, now(), 1, 1, 0, 't', 'poll')",
    "UPDATE balance SET total = 9",
    "INSERT INTO ledger (kind, from_id, to_id, asset_id, quantity, order_id) VALUES ('deposit', 1, 2, 1, 1, 1)",
    "INSERT INTO adjustment (account_id, asset_id, kind, quantity, reason) VALUES (1, 1, 'opening', 1, 'x')",
    "UPDATE strategy SET class = 'os:System'",
    "INSERT INTO strategy (name, account_id, unit_id) VALUES ('x', 1, 1)",
    "UPDATE account SET options = '{}'",
    "UPDATE account SET mode = 'live'",
    "INSERT INTO account (name, exchange_id, mode) VALUES ('x', 1, 'live')",
    "UPDATE market SET taker_fee = 0",
    "UPDATE market SET active = true",
    "DELETE FROM market",
    "INSERT INTO asset_rate (asset_id, unit_id, rate, priced_at) VALUES (1, 2, 1, now())",
    "INSERT INTO asset_rate_point VALUES (1, 2, now(), 1)",
    "INSERT INTO ticker VALUES (1, 1, 1, 1, now())",
    "UPDATE price_read SET error = NULL",
    "INSERT INTO account_read VALUES (1, now())",
    "DELETE FROM setting",
    "UPDATE lane SET fence = 9",
    "UPDATE role SET beat_at = now()",
    "DELETE FROM bucket",
    "INSERT INTO incident (severity, kind, message) VALUES ('notice', 'x', 'x')",
    "DELETE FROM procrastinate_jobs",
    "SELECT nextval('fence')",
    "TRUNCATE asset CASCADE",
    "CREATE TABLE mine (id int)",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
]


@pytest.fixture
def desk(books: Books) -> Iterator[Books]:
    books.strategy(deposit=100)
    books.queue()
    yield books
    books.execute("RESET ROLE")


@pytest.mark.parametrize("statement", MAY_USER)
def test_a_user_may(desk: Books, statement: str) -> None:
    desk.execute("SET LOCAL ROLE tallydesk_user")
    desk.execute(statement)


@pytest.mark.parametrize("statement", MAY_NOT_USER)
def test_a_user_may_not(desk: Books, statement: str) -> None:
    desk.execute("SET LOCAL ROLE tallydesk_user")
    for process in ("", "trader"):  # saying that one is a trader does not help
        desk.execute("SELECT set_config('tallydesk.process', %s, true)", process)
        with pytest.raises(DENIED):
            desk.execute(statement)
    desk.execute("SET LOCAL tallydesk.process = ''")


@pytest.mark.parametrize("statement", [*MAY_USER, *MAY_NOT_USER])
def test_a_reader_writes_nothing(desk: Books, statement: str) -> None:
    desk.execute("SET LOCAL ROLE tallydesk_reader")
    with pytest.raises(DENIED):
        desk.execute(statement)


@pytest.mark.parametrize("role", ["tallydesk_user", "tallydesk_reader"])
def test_both_read_every_table_and_view(desk: Books, role: str) -> None:
    names = [
        row.relname
        for row in desk.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
        )
    ]
    assert len(names) > 30
    desk.execute(f"SET LOCAL ROLE {role}")
    for name in names:
        if name != "alembic_version":
            desk.execute(f'SELECT count(whole) FROM "{name}" whole')


def test_a_user_is_held_to_the_same_rules(desk: Books) -> None:
    desk.execute("SET LOCAL ROLE tallydesk_user")
    assert "can withdraw at most 100 USDT" in desk.refused(
        "INSERT INTO orders (strategy, type, asset, quantity) VALUES ('s', 'withdrawal', 'USDT', 101)"
    )
    assert "cannot be changed" in desk.refused("UPDATE orders SET quantity = 5")


def test_our_triggers_on_a_table_of_ones_own_are_no_way_in(desk: Books) -> None:
    functions = [
        row.name
        for row in desk.execute(
            "SELECT oid::regproc::text AS name FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace AND prosecdef AND prorettype = 'trigger'::regtype"
        )
    ]
    assert len(functions) > 10
    desk.execute("SET LOCAL ROLE tallydesk_user")
    desk.execute("CREATE TEMP TABLE new_ledger (LIKE ledger)")
    for name in functions:
        with pytest.raises(DENIED, match=f"permission denied for function {name}"):
            desk.execute(
                "CREATE TRIGGER mine AFTER INSERT ON new_ledger REFERENCING NEW TABLE AS new_rows"
                f" FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
            )
    desk.execute("DROP TABLE new_ledger")


def test_a_users_temporary_table_does_not_answer_for_ours(desk: Books) -> None:
    desk.execute("SET LOCAL ROLE tallydesk_user")
    desk.execute("CREATE TEMP TABLE strategy AS SELECT * FROM public.strategy")
    desk.execute("UPDATE pg_temp.strategy SET account_id = 2")
    desk.execute(QUEUE)
    assert desk.value('SELECT array_agg(DISTINCT account_id) FROM "order"') == [1]
    desk.execute("DROP TABLE pg_temp.strategy")
