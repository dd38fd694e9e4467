"""What the database writes down of attempts, look-ups and alerts. No trader runs here; its statements do."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.books import Books, open_session
from trader import gate, order, recovery

TRADER = "00000000-0000-0000-0000-000000000001"
OUTCOMES = "SELECT attempt, outcome, look_ups, absences, answer FROM order_attempt WHERE order_id = %s ORDER BY attempt"
INCIDENTS = "SELECT severity::text, kind, message, resolved_at FROM incident ORDER BY id"


@pytest.fixture
def desk(books: Books) -> Books:
    books.strategy(deposit=100_000)
    return books


def run(books: Books, statement: str, **parameters: Any) -> list[Any]:
    """One of the traders' own statements."""
    return books._trader(statement, parameters)


def sent(books: Books) -> int:
    return books.submit(books.queue(quantity=1), 100)


def left_in_doubt(books: Books, number: int, reason: str, never_sent: bool = False) -> None:
    """What settling does with an answer that proves nothing."""
    run(
        books,
        order.LEAVE_IN_DOUBT,
        ids=[number],
        reasons=[reason],
        pauses=[0.0],
        never_sent=[never_sent],
        proof=order.ABSENCES_NEEDED,
    )


def taken(books: Books, fence: int) -> None:
    """What a trader does when it takes up what is due."""
    run(books, recovery.TAKE, accounts=[1], limit=50, fence=fence, taken_for=30.0, trader=TRADER)


def looked(books: Books, number: int, fence: int, answer: str, after: bool | None, absences: int = 0) -> None:
    plan = {"id": number, "fence": fence, "reason": answer, "absences": absences, "pause": 0.0}
    run(books, recovery.LOOK_AGAIN, trader=TRADER, answer=answer, after=after, detail=None, **plan)


def sent_again(books: Books, number: int, fence: int) -> None:
    run(books, gate.RESTAMP, ids=[number], fences=[fence])


def outcomes(books: Books, number: int) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in books.execute(OUTCOMES, number)]


def overdue(books: Books, number: int, age: str = "1 h") -> None:
    books.trader(
        'UPDATE "order" SET in_doubt_since = in_doubt_since - %s::interval, updated_at = now() WHERE id = %s',
        age,
        number,
    )


def test_an_order_that_is_answered_has_one_attempt_and_leaves_no_other_row(desk: Books) -> None:
    number = sent(desk)
    assert outcomes(desk, number) == [(1, "in flight", 0, 0, None)]
    desk.move(number, "accepted")
    assert outcomes(desk, number) == [(1, "accepted", 0, 0, None)]
    assert desk.value("SELECT count(*) FROM attempt_in_doubt") == 0


def test_an_order_that_is_answered_pays_for_none_of_it(desk: Books) -> None:
    """Each of these triggers has a condition that keeps it off the way of an order without trouble."""
    ours = {"order_doubt", "order_doubt_ends", "order_replaces_follow", "order_replaces_fixed"}
    number = desk.queue(quantity=1)
    claim = """status = 'submitted', attempt = 1, fence = 1, submitted_at = now(), sent_quantity = 1, hold_asset_id = 1,
      receive_deadline = now() + interval '5 s', hold_quantity = 100"""
    fired: set[str] = set()
    for step in (claim, "status = 'accepted'", "status = 'partially_filled'", "status = 'filled'"):
        plan = desk.trader(f'EXPLAIN (ANALYZE, FORMAT JSON) UPDATE "order" SET {step} WHERE id = {number}')[0][0][0]
        fired |= {one["Trigger Name"] for one in plan["Triggers"] if one["Calls"] > 0}
    assert "order_update" in fired
    assert fired & ours == set()


def test_one_that_was_never_sent_or_refused(desk: Books) -> None:
    refused, denied = sent(desk), sent(desk)
    desk.move(refused, "rejected")
    desk.move(denied, "denied")
    assert outcomes(desk, refused) == [(1, "rejected", 0, 0, None)]
    assert outcomes(desk, denied) == [(1, "never sent", 0, 0, None)]
    assert outcomes(desk, desk.queue()) == []


def test_attempts_and_look_ups_are_rows(desk: Books) -> None:
    number = sent(desk)
    first = desk.state(number)
    left_in_doubt(desk, number, "the line broke")
    assert outcomes(desk, number) == [(1, "in doubt", 0, 0, "the line broke")]
    taken(desk, 2)
    looked(desk, number, 2, "failed", None)
    looked(desk, number, 2, "absent", False)
    looked(desk, number, 2, "absent", True, 1)
    looked(desk, number, 2, "absent", True, 2)
    sent_again(desk, number, 2)
    left_in_doubt(desk, number, "refused a connection", never_sent=True)
    sent_again(desk, number, 2)
    desk.move(number, "accepted")
    assert outcomes(desk, number) == [
        (1, "absent", 4, 2, "the line broke"),
        (2, "never sent", 0, 0, "refused a connection"),
        (3, "accepted", 0, 0, None),
    ]
    stamps = desk.execute("SELECT * FROM order_attempt WHERE order_id = %s ORDER BY attempt", number)
    assert (stamps[0].submitted_at, stamps[0].receive_deadline) == (first.submitted_at, first.receive_deadline)
    assert stamps[0].submitted_at <= stamps[1].submitted_at <= stamps[2].submitted_at
    assert all(stamp.sent_by for stamp in stamps)


def test_a_trader_that_is_gone_is_an_answer_of_its_kind(desk: Books) -> None:
    number = sent(desk)
    taken(desk, 2)
    looked(desk, number, 2, "absent", True, 2)
    sent_again(desk, number, 2)  # and that one dies, too, before it hears
    taken(desk, 3)
    answer = "the trader that sent it is gone"
    rows = outcomes(desk, number)
    assert [(row[0], row[1]) for row in rows] == [(1, "absent"), (2, "in doubt")]
    assert [row[4] for row in rows] == [answer, answer]


def test_a_request_that_grew_too_old_was_never_sent(desk: Books) -> None:
    number = sent(desk)
    sent_again(desk, number, 1)
    rows = outcomes(desk, number)
    assert [row[:2] for row in rows] == [(1, "never sent"), (2, "in flight")]
    assert "stamped anew" in rows[0][4]


def test_an_older_trader_writes_no_evidence(desk: Books) -> None:
    number = sent(desk)
    taken(desk, 2)
    looked(desk, number, 1, "absent", True, 1)
    assert desk.value("SELECT count(*) FROM look_up") == 0
    assert desk.state(number).absences == 0


def test_the_view_says_the_evidence_in_words(desk: Books) -> None:
    number = sent(desk)
    left_in_doubt(desk, number, "Duplicate order sent.")
    evidence = "SELECT evidence FROM order_in_doubt WHERE id = %s"
    assert desk.value(evidence, number) == "attempt 1: Duplicate order sent.; not looked up yet"
    taken(desk, 2)
    looked(desk, number, 2, "failed", None)
    looked(desk, number, 2, "absent", False)
    looked(desk, number, 2, "absent", True, 1)
    said = desk.value(evidence, number)
    assert "looked up 3 times: 1 failed, 1 absent before the receive deadline, 1 after it (2 are proof)" in said
    assert said.endswith("UTC: absent")
    row = desk.row("SELECT * FROM order_in_doubt")
    assert row.in_doubt_since is not None
    assert row.next_look_at is not None


def test_evidence_is_kept_as_it_is(desk: Books) -> None:
    number = sent(desk)
    left_in_doubt(desk, number, "lost")
    taken(desk, 2)
    looked(desk, number, 2, "absent", False)
    for table in ("look_up", "attempt_in_doubt"):
        for statement in (f"UPDATE {table} SET attempt = 9", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            for trader in (False, True):
                assert "is refused" in desk.refused(statement, trader=trader)
    columns = "(order_id, attempt, trader, answer, after_deadline)"
    insert = f"INSERT INTO look_up {columns} VALUES ({number}, 1, gen_random_uuid(), 'found', true)"
    assert "a trader writes what the venue said" in desk.refused(insert)
    columns = "(order_id, attempt, submitted_at, receive_deadline, never_sent)"
    insert = f"INSERT INTO attempt_in_doubt {columns} VALUES ({number}, 2, now(), now(), false)"
    assert "it follows the orders" in desk.refused(insert, trader=True)


def test_an_alert_is_raised_once_and_ends_with_the_doubt(desk: Books) -> None:
    number, other = sent(desk), sent(desk)
    for one in (number, other):
        left_in_doubt(desk, one, "lost")
    overdue(desk, number, "4 min")
    assert run(desk, recovery.ALERT) == []
    overdue(desk, number, "2 min")
    assert [row.order_id for row in run(desk, recovery.ALERT)] == [number]
    assert run(desk, recovery.ALERT) == []
    (incident,) = desk.execute(INCIDENTS)
    assert (incident.severity, incident.kind, incident.resolved_at) == ("critical", "in doubt", None)
    assert incident.message.endswith("attempt 1: lost; not looked up yet")
    desk.move(number, "accepted")
    desk.move(other, "accepted")
    (incident,) = desk.execute(INCIDENTS)
    assert incident.resolved_at is not None


def test_the_time_until_an_alert_is_the_accounts(desk: Books) -> None:
    number = sent(desk)
    left_in_doubt(desk, number, "lost")
    overdue(desk, number, "2 min")
    desk.execute("UPDATE account SET doubt_alert = '1 min'")
    assert len(run(desk, recovery.ALERT)) == 1
    refusal = desk.refused("UPDATE account SET doubt_alert = '0 s'")
    assert "doubt_alert_is_above_zero" in refusal


def test_an_order_that_nobody_has_looked_at_is_an_alert_too(desk: Books) -> None:
    """Its account cannot be connected, say: no trader takes it up, but each one sees it."""
    number = sent(desk)
    desk.trader("UPDATE \"order\" SET receive_deadline = now() - interval '1 h' WHERE id = %s", number)
    assert [row.order_id for row in run(desk, recovery.ALERT)] == [number]
    desk.move(number, "rejected")  # its answer, late
    assert desk.value("SELECT resolved_at IS NOT NULL FROM incident")


def test_a_person_who_has_dealt_with_it_is_not_told_again(desk: Books) -> None:
    number = sent(desk)
    left_in_doubt(desk, number, "lost")
    overdue(desk, number)
    run(desk, recovery.ALERT)
    desk.execute("UPDATE incident SET resolved_at = '2026-01-01Z'")
    assert run(desk, recovery.ALERT) == []
    desk.move(number, "accepted")
    assert desk.value("SELECT resolved_at = '2026-01-01Z' FROM incident")


def test_whoever_listens_is_told(committed_books: Books) -> None:
    books = committed_books
    books.strategy(deposit=1000)
    with open_session(books.url) as listener:
        listener.execute("LISTEN incident")
        books.execute(
            "INSERT INTO incident (severity, kind, message) VALUES ('notice', 'x', 'y'), ('notice', 'x', 'z')"
        )
        notes = list(listener.notifies(timeout=10, stop_after=1))
        assert [(note.channel, note.payload) for note in notes] == [("incident", "")]


def test_the_listener_of_the_documentation_tells_what_is_open_and_what_comes(committed_books: Books) -> None:
    books = committed_books
    text = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    insert = "INSERT INTO incident (severity, kind, message) VALUES ('notice', 'drill', %s)"
    books.execute(insert, "before")
    program = program.replace('"postgresql://..."', repr(books.url))
    with subprocess.Popen([sys.executable, "-u", "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "drill: before\n"
            books.execute(insert, "after")
            assert process.stdout.readline() == "drill: after\n"
        finally:
            process.kill()


def test_an_alert_and_the_end_of_the_doubt_do_not_miss_each_other(committed_books: Books) -> None:
    """The end is written, and not committed, when the alert is judged: that order is left out, and no alert stays."""
    books = committed_books
    books.strategy(deposit=1000)
    number = sent(books)
    left_in_doubt(books, number, "lost")
    overdue(books, number)
    with open_session(books.url) as trader, trader.transaction():
        trader.execute("SET LOCAL tallydesk.process = 'trader'")
        trader.execute("UPDATE \"order\" SET status = 'accepted' WHERE id = %s", [number])
        assert run(books, recovery.ALERT) == []
    assert run(books, recovery.ALERT) == []
    assert books.execute(INCIDENTS) == []
