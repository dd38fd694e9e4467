"""Doubt as rows: every attempt, every look-up, and what outweighs what, with real traders and a venue."""

from tests.plugins.desk import Desk

LOOK_UP = "GET /api/v3/order"
ATTEMPTS = "SELECT attempt, outcome, absences FROM order_attempt WHERE order_id = %s ORDER BY attempt"
ANSWERS = "SELECT array_agg(answer::text ORDER BY id) FROM look_up WHERE order_id = %s AND attempt = %s"


def attempts(desk: Desk, order: int) -> list[tuple[int, str, int]]:
    return [(row.attempt, row.outcome, row.absences) for row in desk.execute(ATTEMPTS, order)]


def test_an_order_that_is_answered_leaves_no_evidence(desk: Desk) -> None:
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.known_once(order)
    assert attempts(desk, order) == [(1, "accepted", 0)]
    assert desk.value("SELECT count(*) FROM look_up") == 0
    assert desk.value("SELECT count(*) FROM attempt_in_doubt") == 0


def test_a_request_that_never_arrived_is_two_attempts(desk: Desk) -> None:
    desk.venue.fault("drop_request")
    order = desk.order("s", quote_quantity="60")
    trader = desk.trader()
    desk.known_once(order)
    assert attempts(desk, order) == [(1, "absent", 2), (2, "accepted", 0)]
    rows = desk.execute("SELECT * FROM look_up WHERE order_id = %s ORDER BY id", order)
    assert {row.answer for row in rows} == {"absent"}
    assert [row.after_deadline for row in rows][-2:] == [True, True]
    assert not any(row.after_deadline for row in rows[:-2])
    assert {str(row.trader) for row in rows} == {str(desk.value("SELECT instance FROM role WHERE kind = 'trader'"))}
    assert trader.alive


def test_what_a_dead_trader_has_sent_is_found(desk: Desk) -> None:
    desk.venue.fault("delay_answer", seconds=5)
    order = desk.order("s", quote_quantity="60")
    first = desk.trader()
    desk.sent()
    first.kill()
    desk.trader()
    desk.known_once(order)
    row = desk.execute("SELECT * FROM order_attempt WHERE order_id = %s", order)[0]
    assert (row.outcome, row.answer) == ("accepted", "the trader that sent it is gone")
    assert desk.value(ANSWERS, order, 1) == ["found"]


def test_that_it_was_found_is_evidence_though_its_fills_cannot_be_read(desk: Desk) -> None:
    desk.venue.fault("drop_answer")
    desk.venue.fault("lookup_error", endpoint="GET /api/v3/myTrades", times=None)
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.wait_for(f"SELECT ({ANSWERS}) @> ARRAY['failed']", order, 1)
    desk.venue.clear_faults()
    desk.venue.fault("lookup_miss", endpoint=LOOK_UP, times=None)
    desk.wait_for(f"SELECT ({ANSWERS}) @> ARRAY['absent']", order, 1)
    assert desk.value(ANSWERS, order, 1)[0] == "found"
    desk.venue.clear_faults()
    desk.known_once(order)
    assert len(desk.posts()) == 1


def test_the_evidence_of_a_dead_trader_counts_for_the_next(desk: Desk) -> None:
    desk.venue.fault("drop_request")
    order = desk.order("s", quote_quantity="60")
    first = desk.trader()
    desk.wait_for("SELECT count(*) > 0 FROM look_up WHERE after_deadline")
    first.kill()
    desk.trader()
    desk.known_once(order)
    assert attempts(desk, order) == [(1, "absent", 2), (2, "accepted", 0)]


def test_what_the_venue_once_said_that_it_has_is_never_sent_again(desk: Desk) -> None:
    """The answer is lost, look-ups and lists lie until a second attempt is a duplicate; and they go on lying."""
    desk.venue.fault("drop_answer")
    desk.venue.hide_orders()
    order = desk.order("s", type="limit", quantity="0.001", limit_price="40000")
    desk.trader()
    desk.wait_for(f"SELECT 3 <= array_length(({ANSWERS}), 1)", order, 2)
    assert desk.value(ANSWERS, order, 2)[:3] == ["found", "absent", "absent"]
    said = desk.value("SELECT detail FROM look_up WHERE order_id = %s AND answer = 'found'", order)
    assert "Duplicate order sent" in said
    desk.wait_for("SELECT bool_or(after_deadline) FROM look_up WHERE order_id = %s AND attempt = 2", order)
    desk.wait_for(f"SELECT 5 <= array_length(({ANSWERS}), 1)", order, 2)
    assert desk.state(order).status == "submitted"
    assert desk.value("SELECT absences FROM order_in_doubt") == 0
    assert len(desk.posts()) == 2

    desk.venue.clear_faults()
    assert desk.wait_for_status(order, "accepted", "rejected", "denied").status == "accepted"
    assert [row[:2] for row in attempts(desk, order)] == [(1, "absent"), (2, "accepted")]
    assert len(desk.venue.orders()) == 1
    desk.check()


def test_a_look_up_that_dies_with_its_trader_is_made_again_at_once(desk: Desk) -> None:
    """Else the order would wait until the dead one's look-up had run out of time."""
    desk.venue.fault("drop_answer")
    desk.venue.fault("hang", endpoint=LOOK_UP, seconds=60)
    order = desk.order("s", quote_quantity="60")
    first = desk.trader()
    taken = desk.wait_for('SELECT looked_up_by FROM "order" WHERE id = %s', order)
    assert desk.value("SELECT instance FROM role WHERE kind = 'trader'") == taken
    desk.venue.wait_for_log(lambda one: (one["method"], one["path"]) == ("GET", "/api/v3/order"))
    first.kill()
    desk.trader()
    desk.known_once(order)
    began = "(SELECT max(started_at) FROM role WHERE kind = 'trader')"
    waits = [row.wait.total_seconds() for row in desk.execute(f"SELECT at - {began} AS wait FROM look_up")]
    assert len(waits) == 1
    assert waits[0] < 15  # the first one's look had 30 s


def test_an_order_is_found_although_the_venues_clock_cannot_be_read(desk: Desk) -> None:
    desk.venue.fault("drop_answer")
    desk.venue.fault("status", endpoint="GET /api/v3/time", times=None)
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.known_once(order)
    assert desk.value(ANSWERS, order, 1) == ["found"]


def test_without_the_venues_clock_nothing_is_proved_absent(desk: Desk) -> None:
    desk.venue.fault("drop_request")
    desk.venue.fault("status", endpoint="GET /api/v3/time", times=None)
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.wait_for("SELECT count(*) >= 5 FROM look_up")
    assert desk.value("SELECT bool_or(after_deadline) FROM look_up") is False
    assert desk.state(order).status == "submitted"
    desk.venue.clear_faults()
    desk.known_once(order)
    assert attempts(desk, order) == [(1, "absent", 2), (2, "accepted", 0)]
