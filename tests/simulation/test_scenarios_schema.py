"""Scenario 48: a process and a database that do not fit."""

from collections.abc import Callable

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
