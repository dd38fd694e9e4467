"""Scenario 49: the commands of docs/operations.md, as they stand there, with an older database as what they lead to."""

import re
import stat
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from tests.plugins.desk import OwnDesk
from tests.plugins.simulator import ROOT
from trader.embedded import EmbeddedServer

TEXT = (ROOT / "docs" / "operations.md").read_text()
pytestmark = pytest.mark.timeout(300)
PLACES = ("restored", "archive", "base", "then")
# All that the database says of time, as it would be if the dump had been made so much earlier.
OLDER = """
DO $$ DECLARE it record; BEGIN
  SET LOCAL session_replication_role = replica;
  FOR it IN SELECT c.table_name,
                   string_agg(format('%I = %I - interval ''10 min''', column_name, column_name), ', ') AS s
              FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
             WHERE table_schema = 'public' AND data_type = 'timestamp with time zone' AND table_type = 'BASE TABLE'
               AND is_generated = 'NEVER'
             GROUP BY 1
  LOOP EXECUTE format('UPDATE %I SET %s', it.table_name, it.s); END LOOP;
END $$
"""


def block(heading: str, word: str) -> str:
    """The commands below a heading that have a word in them."""
    part = TEXT.partition(f"\n{heading}\n")[2]
    return next(text for text in re.findall(r"^```sh\n(.*?)^```", part, re.MULTILINE | re.DOTALL) if word in text)


class Shell:
    """Runs commands of the document in a directory that looks like a checkout, with other places than its."""

    def __init__(self, desk: OwnDesk, place: Path) -> None:
        self._desk, self._place = desk, place
        program = place / "scripts" / "tallydesk"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m trader.cli.main "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def run(self, text: str, **instead: str) -> str:
        """What they print. They must all end well."""
        for name in PLACES:
            text = text.replace(f"/srv/tallydesk-{name}", str(self._desk.home / name))
        for old, new in instead.items():
            assert old in text, old
            text = text.replace(old, new)
        environment = self._desk.environment | {"TALLYDESK_HOME": str(self._desk.server.home)}
        del environment["DATABASE_URL"]
        done = subprocess.run(
            ["sh", "-euc", text],
            check=False,
            cwd=self._place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        return done.stdout

    def move_to(self, home: str) -> None:
        """From now on the desk is the one in another home."""
        self._desk.server.stop("immediate")
        self._desk.server = EmbeddedServer(self._desk.home / home)
        self._desk.url = self._desk.server.url()
        self._desk.sql = psycopg.connect(self._desk.url, autocommit=True, row_factory=namedtuple_row)


@pytest.fixture
def desk(make_own_desk: Callable[..., OwnDesk]) -> OwnDesk:
    """A strategy with 100 USDT; the account is open in the books."""
    desk = make_own_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    assert desk.process("reconcile", "main").wait() == 0
    return desk


def test_s49_a_ten_minutes_old_dump_by_the_commands_of_the_document(desk: OwnDesk, tmp_path: Path) -> None:
    """restore a 10 minute old backup -> the missing minutes come back from the venue, marked as such."""
    shell = Shell(desk, tmp_path)
    trader = desk.trader()
    fills, ends = (desk.order("s", type="limit", quantity="0.001", limit_price=price) for price in ("40000", "30000"))
    for order in (fills, ends):
        desk.wait_for_status(order, "accepted")
    shell.run(block("## Backup", '"$programs/pg_dump"'))

    desk.deposit("s", 50)  # of what the dump does not know: a deposit, a cancel, three orders
    spent = desk.wait_for_status(desk.order("s", quote_quantity="20"), "filled").filled_quote
    rests = desk.order("s", type="limit", quantity="0.0005", limit_price="20000")
    desk.wait_for_status(rests, "accepted")
    desk.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", ends)
    desk.wait_for_status(ends, "canceled")
    desk.venue.price("39000")
    desk.wait_for_status(fills, "filled")
    assert trader.stop() == 0
    desk.sql.close()

    shell.run(block("## Backup", "pg_restore"))
    shell.move_to("restored")
    desk.execute(OLDER)
    assert desk.value("SELECT max(at) < now() - interval '10 min' FROM order_event")
    told = shell.run(block("### After a restore", "tallydesk reconcile"))
    assert "booked 1 missed fills of ours" in told
    assert "1 of others; 1 open orders of others" in told
    assert desk.execute("SELECT order_id, source::text FROM fill") == [(fills, "reconciliation")]
    assert desk.state(fills).status == "filled"
    assert [row.cost for row in desk.execute("SELECT quantity * price AS cost FROM external_fill")] == [spent]
    assert [row.price for row in desk.execute("SELECT price FROM external_order")] == [Decimal(20000)]
    assert desk.value("SELECT array_agg(kind) FROM incident") == ["missing fill booked"]
    assert not desk.value("SELECT halted FROM account")
    assert desk.value("SELECT total FROM allowance WHERE asset = 'USDT'") == 60  # 100 - 40: the 50 are unallocated
    desk.deposit("s", 50)

    desk.trader()
    assert desk.wait_for_status(ends, "canceled", "filled").status == "canceled"
    assert desk.wait_for_status(desk.order("s", quote_quantity="30"), "filled", "denied").status == "filled"
    assert [one["status"] for one in desk.venue.orders()].count("NEW") == 1  # the one that nobody here knows
    assert desk.execute("SELECT * FROM invariant_violation") == []
    desk.check_balances()


def test_s49_the_database_as_it_was_at_a_moment_by_the_commands_of_the_document(desk: OwnDesk, tmp_path: Path) -> None:
    """restore an older state -> to a moment between two backups, from the archived write-ahead log."""
    shell = Shell(desk, tmp_path)
    shell.run(block("### To a moment between two backups", "pg_basebackup"))
    desk.sql.close()
    desk.sql = psycopg.connect(desk.url, autocommit=True, row_factory=namedtuple_row)
    trader = desk.trader()
    first = desk.order("s", quote_quantity="20")
    desk.wait_for_status(first, "filled")
    moment = desk.value("SELECT to_char(clock_timestamp(), 'YYYY-MM-DD HH24:MI:SS.US+00')")
    second = desk.order("s", quote_quantity="30")
    desk.wait_for_status(second, "filled")
    assert trader.stop() == 0
    desk.execute("SELECT pg_switch_wal()")
    desk.wait_for("SELECT last_archived_time > %s::timestamptz FROM pg_stat_archiver", moment)
    desk.sql.close()

    shell.run(block("### To a moment between two backups", "recovery.signal"), **{"2026-11-21 12:00:00+00": moment})
    shell.move_to("then")
    assert desk.state(first).status == "filled"
    assert desk.execute("SELECT id FROM orders WHERE id = %s", second) == []
    told = shell.run(block("### After a restore", "tallydesk reconcile"))
    assert "booked 0 missed fills of ours and 1 of others" in told
    assert desk.execute("SELECT * FROM invariant_violation") == []
    desk.check_balances()
