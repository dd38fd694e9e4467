"""`tallydesk halt` and `tallydesk resume`, as processes: what they say and write, with no trader about."""

import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg
import pytest

from tests.plugins import _nursery
from tests.plugins.books import Books

Tallydesk = Callable[..., subprocess.CompletedProcess[str]]
STATES = "SELECT name, state, halt_reason FROM account ORDER BY name"
DRIFT = "INSERT INTO account_drift (account_id, asset_id, drift, halted_at) VALUES (1, 2, -0.5, now())"


@pytest.fixture
def tallydesk(committed_books: Books, tmp_path: Path) -> Tallydesk:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TALLYDESK_")}
    environment = {**clean, "DATABASE_URL": committed_books.url, "TALLYDESK_HOME": str(tmp_path), "COLUMNS": "300"}
    return partial(_nursery.run, "trader.cli.main", environment=environment)


def states(books: Books) -> list[tuple[str, str, str | None]]:
    return [tuple(row) for row in books.execute(STATES)]


def test_one_account_or_all_and_back(committed_books: Books, tallydesk: Tallydesk) -> None:
    books = committed_books
    done = tallydesk("halt", "main", "--reason", "a drill")
    assert done.stdout.startswith("account main: halted, nothing more is sent; committed at "), done.stderr
    assert done.stdout.endswith(
        "0 orders were on their way when it committed: 0 reached the venue, 0 were stopped, 0 have no answer yet\n"
    )
    assert states(books) == [("elsewhere", "active", None), ("main", "halted", "a drill")]
    assert tallydesk("halt").stdout.startswith("accounts elsewhere, main: halted")
    assert states(books) == [("elsewhere", "halted", "tallydesk halt"), ("main", "halted", "a drill")]
    shown = tallydesk("status").stdout
    assert "halted" in shown
    assert "a drill" in shown
    assert tallydesk("resume").stdout == "account elsewhere: active again\naccount main: active again\n"
    assert tallydesk("resume", "main").stdout == "account main: active already\n"
    assert states(books) == [("elsewhere", "active", None), ("main", "active", None)]


def test_an_unknown_account_is_refused_with_those_there_are(tallydesk: Tallydesk) -> None:
    for command in ("halt", "resume"):
        done = tallydesk(command, "mian")
        assert (done.returncode, done.stderr) == (1, "tallydesk: unknown account 'mian': there is elsewhere, main\n")


def test_orders_in_every_state_are_canceled_and_only_once(committed_books: Books, tallydesk: Tallydesk) -> None:
    books = committed_books
    books.strategy(deposit=1000)
    filled = books.trade("buy", 1, 100)
    resting = books.submit(books.queue(quantity=1), 100)
    books.move(resting, "accepted")
    asked = books.submit(books.queue(quantity=1), 100)
    books.execute('UPDATE "order" SET cancel_requested_at = now() WHERE id = %s', asked)
    in_flight, in_doubt = (books.submit(books.queue(quantity=1), 100) for _ in range(2))
    books.trader('UPDATE "order" SET in_doubt_since = now() WHERE id = %s', in_doubt)
    queued, waiting = books.queue(), books.queue(trigger_price=90)
    after = books.queue("sell", after_id=waiting)
    untouched = {order: books.state(order) for order in (filled, asked)}

    done = tallydesk("halt", "main", "--cancel-open")
    assert "cancels asked for 3 orders in flight or open; 3 queued or waiting ones are canceled\n" in done.stdout
    assert "2 orders were on their way when it committed: 0 reached the venue, 0 were stopped, 2 have no" in done.stdout
    assert "1 more are in doubt" in done.stdout
    assert {order: books.state(order) for order in (filled, asked)} == untouched
    assert [books.state(order).status for order in (queued, waiting, after)] == ["canceled"] * 3
    for order in (resting, in_flight, in_doubt):
        assert books.state(order).cancel_requested_at is not None
        assert books.state(order).status in ("accepted", "submitted")
    assert "cancels asked for 0 orders" in tallydesk("halt", "--cancel-open").stdout
    for order in (resting, asked, in_flight, in_doubt):
        books.move(order, "canceled")


def test_a_large_difference_is_accepted_only_if_one_says_so(committed_books: Books, tallydesk: Tallydesk) -> None:
    books = committed_books
    books.execute("UPDATE account SET halted = true, halt_reason = 'BTC differs' WHERE name = 'main'")
    books.trader(DRIFT)
    for arguments in (("resume", "main"), ("resume",)):
        refused = tallydesk(*arguments)
        assert refused.returncode == 1
        assert "the venue differs from the books (account main: -0.5 BTC), and resuming books that" in refused.stderr
    assert states(books)[1] == ("main", "halted", "BTC differs")
    assert tallydesk("resume", "elsewhere").returncode == 0
    assert tallydesk("resume", "main", "--accept-drift").stdout == "account main: active again\n"
    assert states(books)[1] == ("main", "active", None)


@pytest.mark.parametrize("command", ["halt", "resume"])
def test_an_open_transaction_that_holds_the_account_is_named(
    committed_books: Books, tallydesk: Tallydesk, command: str
) -> None:
    with psycopg.connect(committed_books.url, application_name="forgotten") as other:
        other.execute("UPDATE account SET stream = false WHERE name = 'main'")
        statement = "SELECT user, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')"
        ((user, since),) = other.execute(statement).fetchall()
        pid = other.info.backend_pid
        done = tallydesk(command, "main")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "tallydesk: NOTHING WAS CHANGED: somebody's open transaction holds the account. End it, then try again: "
            f"pid {pid} (user {user}, forgotten, its transaction began {since} UTC): "
            f"SELECT pg_terminate_backend({pid});\n"
        )
        other.rollback()
    assert tallydesk(command, "main").returncode == 0
