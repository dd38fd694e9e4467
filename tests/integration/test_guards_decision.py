"""What the database keeps of decisions, states and schedules by itself."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.plugins.books import SETUP, Books, open_session
from trader import migrate
from trader.strategy import Schedule, is_due

DECIDE = """
INSERT INTO decision (strategy_id, bucket_time, market_id, timeframe_id, action, signal, inputs_hash, reason)
VALUES (1, %s, 1, 60, %s, %s, %s, %s)
"""
HASH = b"0123456789abcdef"
AT = "2024-01-01 00:00Z"
FRAMES = {"1m": 1, "1h": 60, "4h": 240, "1d": 1440, "1w": 10080}


def decide(books: Books, action: str = "none", at: str = AT) -> None:
    books.trader(DECIDE, at, action, 1.0, HASH, "because")


def scheduled(books: Books, frame: str, schedule: str) -> tuple[str, int, str]:
    return (
        "INSERT INTO strategy (name, account_id, class, market_id, timeframe_id, schedule)"
        " VALUES ('x', 1, 'a:B', 1, %s, %s)",
        FRAMES[frame],
        schedule,
    )


@pytest.mark.parametrize(
    ("frame", "schedule", "allowed"),
    [
        ("1h", "minute", "bucket, hour, day"),
        ("4h", "hour", "bucket, day"),
        ("1d", "hour", "bucket, day"),
        ("1w", "day", "bucket"),
    ],
)
def test_a_schedule_finer_than_the_candles_is_refused(books: Books, frame: str, schedule: str, allowed: str) -> None:
    message = f'strategy x: schedule "{schedule}" is finer than its timeframe {frame}; allowed are {allowed}'
    assert books.refused(*scheduled(books, frame, schedule)) == message
    books.execute(*scheduled(books, frame, "bucket"))
    assert books.refused("UPDATE strategy SET schedule = %s", schedule) == message


@pytest.mark.parametrize(("frame", "schedule"), [("1m", "minute"), ("1m", "day"), ("1h", "hour"), ("1d", "day")])
def test_one_that_is_not_is_taken_and_holds_the_timeframe(books: Books, frame: str, schedule: str) -> None:
    books.execute(*scheduled(books, frame, schedule))
    assert "is finer than its timeframe 1w" in books.refused("UPDATE strategy SET timeframe_id = 10080")
    books.execute("UPDATE strategy SET timeframe_id = 10080, schedule = 'bucket'")


def test_an_unknown_schedule_is_refused(books: Books) -> None:
    books.strategy()
    assert "schedule_is_bucket_minute_hour_or_day" in books.refused("UPDATE strategy SET schedule = 'week'")
    books.execute("UPDATE strategy SET schedule = 'hour'")  # by hand, it has no candles


def test_what_is_due_is_the_same_in_the_database_and_in_the_kit(books: Books) -> None:
    start = datetime(2024, 1, 1, 22, 58, tzinfo=UTC)
    moments = [start + timedelta(minutes=step) for step in (0, 1, 2, 3, 61, 62, 63, 122, 1502, 1503)]
    schedules: list[Schedule] = ["bucket", "minute", "hour", "day"]
    pairs = [(schedule, last, newest) for schedule in schedules for last in (None, *moments) for newest in moments]
    books.execute("CREATE TEMP TABLE pairs (schedule text, last timestamptz, newest timestamptz) ON COMMIT DROP")
    for pair in pairs:
        books.person.execute("INSERT INTO pairs VALUES (%s, %s, %s)", pair)
    told = books.execute("SELECT schedule, last, newest, decision_due(schedule, last, newest) AS due FROM pairs")
    assert len(told) == len(pairs)
    due = {(row.schedule, row.last, row.newest): row.due for row in told}
    for (schedule, last, newest), said in due.items():
        expected = is_due(schedule, last, newest) if last is None or newest > last else False
        assert said is expected, (schedule, last, newest)
    assert {schedule for (schedule, *_), said in due.items() if said} == set(schedules)


def test_only_processes_write_decisions_and_states(books: Books) -> None:
    books.strategy()
    assert "it is what a run of the strategy decided" in books.refused(DECIDE, AT, "none", 1.0, HASH, "x")
    decide(books)
    assert "it is what a run" in books.refused("UPDATE decision SET reason = 'x'")
    assert "it is what a run" in books.refused("DELETE FROM decision")
    state = "INSERT INTO strategy_state (strategy_id, class, bucket_time, state) VALUES (1, 'a:B', now(), '{}')"
    assert "to begin anew: DELETE it" in books.refused(state)
    books.trader(state)
    assert "to begin anew: DELETE it" in books.refused("UPDATE strategy_state SET state = '{}'")
    books.execute("DELETE FROM strategy_state")


def test_one_that_waits_may_change_and_nothing_else(books: Books) -> None:
    books.strategy()
    decide(books, "waits")
    books.trader("UPDATE decision SET reason = 'still'")
    change = "UPDATE decision SET bucket_time = bucket_time + interval '1 h'"
    assert "a candle is decided once" in books.refused(change, trader=True)
    books.trader("UPDATE decision SET action = 'none'")
    assert "a candle is decided once" in books.refused("UPDATE decision SET reason = 'x'", trader=True)
    assert books.refused(DECIDE, AT, "buy", 1.0, HASH, "x", trader=True).startswith("duplicate key value")


def test_one_with_an_order_stays(books: Books) -> None:
    books.strategy()
    books.strategy("t")
    decide(books, "buy")
    decide(books, "none", "2024-01-01 01:00Z")
    books.queue(bucket_time=AT)
    books.queue(strategy="t", bucket_time="2024-01-01 01:00Z")  # another strategy's is no reason
    assert "the orders of strategy 1" in books.refused("DELETE FROM decision", trader=True)
    books.trader("DELETE FROM decision WHERE action = 'none'")
    assert "orders come from here" in books.refused("TRUNCATE decision", trader=True)
    assert books.value("SELECT count(*) FROM decision") == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((AT, "none", 1.1, HASH, "x"), "signal_is_from_minus_1_to_1"),
        ((AT, "none", float("nan"), HASH, "x"), "signal_is_from_minus_1_to_1"),
        ((AT, "none", 1.0, b"short", "x"), "inputs_hash_has_16_bytes"),
        ((AT, "none", 1.0, None, "x"), "what_was_decided_has_an_inputs_hash"),
        ((AT, "sell", None, None, "x"), "what_was_decided_has_an_inputs_hash"),
        ((AT, "passed", None, None, ""), "reason_has_1_to_2000_characters"),
        ((AT, "passed", None, None, "x" * 2001), "reason_has_1_to_2000_characters"),
    ],
)
def test_a_decision_that_cannot_be_is_refused(
    books: Books, values: tuple[str, str, float | None, bytes | None, str], words: str
) -> None:
    books.strategy()
    assert words in books.refused(DECIDE, *values, trader=True)
    books.trader(DECIDE, AT, "passed", None, None, "x" * 2000)
    books.trader(DECIDE, "2024-01-01 01:00Z", "orders", -1.0, HASH, "x")


@pytest.mark.parametrize(
    ("state", "target", "words"),
    [
        ("[]", None, "state_is_an_object"),
        ('{"a": "' + "x" * 99_993 + '"}', None, "state_has_at_most_100000_bytes"),
        ("{}", 2, "target_is_from_minus_1_to_1"),
    ],
)
def test_a_state_is_an_object_of_bounded_size(books: Books, state: str, target: float | None, words: str) -> None:
    books.strategy()
    statement = (
        "INSERT INTO strategy_state (strategy_id, class, bucket_time, state, target) VALUES (1, 'a:B', now(), %s, %s)"
    )
    assert words in books.refused(statement, state, target, trader=True)
    books.trader(statement, '{"a": "' + "x" * 99_991 + '"}', 1)


def test_a_state_comes_back_as_it_was_left(books: Books) -> None:
    books.strategy()
    text = '{"z": 1e16, "a": [-0.0, 1.0, 1e-300, "\\u0000"]}'
    books.trader("INSERT INTO strategy_state VALUES (1, 'a:B', now(), NULL, %s)", text)
    assert books.value("SELECT state::text FROM strategy_state") == text


def test_the_age_of_decisions_is_bounded(books: Books) -> None:
    for keep in ("1 min", "2000 years"):
        words = "decision_keep_is_between_an_hour_and_1000_years"
        assert words in books.refused("UPDATE setting SET decision_keep = %s", keep)
    books.execute("UPDATE setting SET decision_keep = '7 days'")


def test_several_orders_of_a_candle_have_parts(books: Books) -> None:
    books.strategy()
    books.queue(bucket_time=AT)
    part = """INSERT INTO "order" (strategy_id, market_id, type, side, bucket_time, bucket_part)
              VALUES (1, 1, 'market', 'buy', %s, %s)"""
    assert "one_order_per_strategy_and_candle" in books.refused(part, AT, 1)
    books.execute(part, AT, 2)
    assert "one_order_per_strategy_and_candle" in books.refused(part, AT, 2)
    for wrong in (0, 101):
        assert "bucket_part_is_between_1_and_100" in books.refused(part, AT, wrong)
    assert "is fixed once it is queued" in books.refused('UPDATE "order" SET bucket_part = 3 WHERE bucket_part = 2')


def test_a_user_reads_decisions_and_sets_schedules_but_writes_none(books: Books) -> None:
    books.strategy()
    decide(books)
    with books.person.transaction():
        books.person.execute("SET LOCAL ROLE tallydesk_user")
        assert books.value("SELECT count(*) FROM decisions") == 1
        books.execute("SELECT * FROM order_origin")
        books.execute("UPDATE strategy SET schedule = 'day'")
        books.execute("UPDATE setting SET decision_keep = '60 days'")
        books.execute("DELETE FROM strategy_state")
        for statement in (
            "DELETE FROM decision",
            "UPDATE decision SET reason = 'x'",
            "UPDATE strategy_state SET state = '{}'",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                books.execute(statement)
        books.person.execute("RESET ROLE")


@pytest.fixture
def kept(database: str) -> Iterator[Books]:
    with psycopg.connect(database, autocommit=True) as session:
        session.execute(SETUP)
    with open_session(database) as session:
        yield Books(session, url=database)


def test_the_step_goes_back_with_orders_of_several_parts(kept: Books) -> None:
    kept.strategy(deposit=100)
    decide(kept, "orders")
    first = kept.queue(bucket_time=AT)
    second = kept.value(
        """INSERT INTO "order" (strategy_id, market_id, type, side, bucket_time, bucket_part)
           VALUES (1, 1, 'market', 'sell', %s, 2) RETURNING id""",
        AT,
    )
    revisions = migrate.revisions()
    migrate.downgrade(kept.url, revisions[revisions.index("0023_decision") - 1])
    kept.person.execute("DISCARD ALL")
    rows = kept.execute('SELECT id, bucket_time IS NULL AS bare FROM "order" WHERE id >= %s ORDER BY id', first)
    assert [tuple(row) for row in rows] == [(first, False), (second, True)]
    assert "one_order_per_strategy_and_candle" in kept.refused(
        'INSERT INTO "order" (strategy_id, market_id, type, side, bucket_time) VALUES (1, 1, %s, %s, %s)',
        "market",
        "buy",
        AT,
    )
    kept.check()
    migrate.upgrade(kept.url)
    kept.person.execute("DISCARD ALL")
    assert kept.value('SELECT bucket_part FROM "order" WHERE id = %s', second) == 1
    assert kept.refused('UPDATE "order" SET quantity = 1 WHERE id = %s', first)  # its triggers are on again
    kept.check()
