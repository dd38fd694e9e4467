"""Scenario 48: a process and a database that do not fit, and every step of the schema with live data."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.plugins.desk import Desk
from trader import migrate, schema
from trader.config import Settings, WantedRole
from trader.errors import DatabaseError
from trader.watchdog import watch

OLDER, NEWEST = schema.known()[-2:]
NEWER = "9999_later"
ROLES = ("trader", "worker", "scheduler")
SENTENCES = {
    "older": f"the database is at {OLDER}, this Tallydesk needs {NEWEST}: run `tallydesk migrate` first",
    "newer": f"a newer Tallydesk has migrated this database to {NEWER}, and this one knows nothing after {NEWEST}",
    "none": "the database has no tables yet: run `tallydesk migrate` first",
}

LEDGER = "0005_ledger"
BOOKS = ("order", "order_event", "ledger", "fill", "balance", "hold", "position", "flow", "lane")
COLUMNS = """
SELECT table_name, string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position) FROM information_schema.columns
 WHERE table_schema = 'public' AND table_name = ANY(%s) GROUP BY 1 ORDER BY 1
"""


def columns_of_the_oldest_books(url: str) -> dict[str, str]:
    """The columns that the books had when the ledger was made, from an empty database: later steps add others."""
    migrate.upgrade(url, LEDGER)
    with psycopg.connect(url) as connection:
        return dict(connection.execute(COLUMNS, [list(BOOKS)]).fetchall())


def hashes(desk: Desk, columns: dict[str, str]) -> dict[str, Any]:
    """Of everything that the books are made of, to the last digit; types as text, since steps may make them anew."""
    return {
        table: desk.value(
            f"""SELECT md5(string_agg(to_jsonb(x)::text, E'\\n' ORDER BY to_jsonb(x)::text))
            FROM (SELECT {names} FROM "{table}") x"""
        )
        for table, names in columns.items()
    }


def put(url: str, case: str) -> None:
    """Bring a database at the newest revision to where a program of this version does not fit."""
    if case == "newer":
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("UPDATE alembic_version SET version_num = %s", [NEWER])
    else:
        migrate.downgrade(url, "base" if case == "none" else OLDER)


def test_the_files_of_the_steps_are_the_revisions() -> None:
    assert schema.known() == migrate.revisions()


@pytest.mark.parametrize("case", SENTENCES)
def test_s48_a_role_on_another_schema_says_what_to_do(make_desk: Callable[..., Desk], case: str) -> None:
    """migrate up, down -> a process of another version ends in one sentence before it does anything."""
    desk = make_desk()
    put(desk.url, case)
    for kind in ROLES:
        process = desk.process("run", kind)
        assert process.wait() == 1
        assert SENTENCES[case] in process.output
        assert "Traceback" not in process.output
    settings = Settings(home=desk.home, project=desk.home, database_url=desk.url, roles=(WantedRole("trader", "t"),))
    with pytest.raises(DatabaseError) as told:
        list(watch(settings))
    assert SENTENCES[case] in str(told.value)


def test_s48_roles_that_run_while_the_database_is_migrated_end_in_order(make_desk: Callable[..., Desk]) -> None:
    """migrate up with live data -> whoever runs on ends within a few seconds, and says why."""
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    running = [desk.process("run", kind) for kind in ROLES]
    desk.wait_for("SELECT count(*) = 3 FROM role_status WHERE alive")
    put(desk.url, "newer")
    for process in running:
        assert process.wait() == 1
        assert SENTENCES["newer"] in process.output
        assert "Traceback" not in process.output

    desk.execute("UPDATE alembic_version SET version_num = %s", NEWEST)
    desk.trader()
    desk.wait_for_status(desk.order("s", quote_quantity="60"), "filled")
    desk.check()


def test_s48_every_step_down_to_the_ledger_and_up_again_with_live_data(
    make_desk: Callable[..., Desk], empty_database: str
) -> None:
    """migrate up, down, up with live data -> ledger and orders hash the same: for every step after the ledger's own."""
    columns = columns_of_the_oldest_books(empty_database)
    assert set(columns) == set(BOOKS)
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    trader = desk.trader()
    desk.wait_for_status(desk.order("s", quote_quantity="40"), "filled")
    desk.wait_for_status(desk.order("s", side="sell", quantity="0.0005"), "filled")
    resting = desk.order("s", type="limit", quantity="0.001", limit_price="20000")
    desk.wait_for_status(resting, "accepted")
    desk.wait_for_status(desk.order("s", quote_quantity="500"), "denied")
    trader.kill()
    before = hashes(desk, columns)
    steps = schema.known()
    lower = steps[steps.index(LEDGER) : -1]
    assert len(lower) >= 5
    for revision in reversed(lower):
        migrate.downgrade(desk.url, revision)
        assert hashes(desk, columns) == before, revision
        migrate.upgrade(desk.url)
        assert hashes(desk, columns) == before, revision

    desk.trader()
    desk.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", resting)
    desk.wait_for_status(resting, "canceled")
    desk.wait_for_status(desk.order("s", quote_quantity="10"), "filled")
    desk.check()


def test_s48_a_step_below_the_ledger_is_refused_without_a_word_for_it(make_desk: Callable[..., Desk]) -> None:
    """migrate down beyond the ledger -> it would drop the ledger itself: only with --yes."""
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    process = desk.process("migrate", "--to", "0004")
    assert process.wait() == 1
    assert f"going back from {NEWEST} to 0004_order deletes data" in process.output
    assert desk.value("SELECT count(*) FROM ledger") > 0
    assert desk.process("migrate", "--to", "0004", "--yes").wait() == 0
    assert desk.value("SELECT to_regclass('ledger') IS NULL AND to_regclass('fill') IS NULL")
