"""Scenarios 1-10: what became of a request when the trader, the venue or the line between them fails."""

from contextlib import ExitStack

import pytest

from tests.plugins.desk import Desk

LOOK_UP = "GET /api/v3/order"
EVENTS = "SELECT array_agg(to_status::text ORDER BY id) FROM order_event WHERE order_id = %s"


def test_s01_killed_before_the_claim_commits(desk: Desk) -> None:
    """queued -> kill -9 before the claim commits -> still queued, sent once after restart."""
    order = desk.order("s", quote_quantity="60")
    with desk.locking("LOCK TABLE order_event IN SHARE MODE"):  # the last thing that a claim writes is its event
        trader = desk.trader()
        desk.wait_until_blocked()
        trader.kill()
    assert desk.state(order).status == "queued"
    assert desk.posts() == []

    desk.trader()
    desk.known_once(order)
    assert desk.value('SELECT attempt FROM "order" WHERE id = %s', order) == 1
    assert len(desk.posts()) == 1


@pytest.mark.parametrize("too_old", [False, True], ids=["sent", "denied by its age"])
def test_s02_killed_between_the_claim_and_the_send(desk: Desk, too_old: bool) -> None:
    """claim committed (submitted, reserved), killed before the socket write -> after restart looked up, proved absent,
    then sent once, or denied by its age."""
    trader = desk.ready_trader()
    with ExitStack() as claim:
        claim.enter_context(desk.locking("SELECT FROM balance FOR UPDATE"))  # waited for after the account was read
        expires_at = desk.value("SELECT now() + make_interval(secs => %s)", 3 if too_old else 600)
        order = desk.order("s", quote_quantity="60", expires_at=expires_at)
        desk.wait_until_blocked()
        with desk.locking_next("LOCK TABLE account IN ACCESS EXCLUSIVE MODE") as lock:  # read again before the send
            claim.close()
            lock.join()
            desk.wait_for("SELECT status = 'submitted' FROM \"order\" WHERE id = %s", order)
            trader.kill()
    assert desk.posts() == []
    assert desk.state(order).status == "submitted"
    assert desk.value("SELECT held FROM allowance WHERE asset = 'USDT'") == 60
    if too_old:
        desk.wait_for('SELECT expires_at < now() FROM "order" WHERE id = %s', order)

    desk.trader()
    if too_old:
        assert desk.wait_for_status(order, "denied", "filled").status == "denied"
        assert desk.state(order).reason == "it never reached the venue, and it is too old to send again"
        assert desk.value("SELECT free FROM allowance") == 100
        assert desk.posts() == []
        desk.check()
    else:
        desk.known_once(order)
        assert desk.value('SELECT attempt FROM "order" WHERE id = %s', order) == 2
        assert len(desk.posts()) == 1
    looks = [one for one in desk.venue.log() if one["method"] == "GET" and one["path"] == "/api/v3/order"]
    assert [one["code"] for one in looks][:2] == [-2013, -2013]


@pytest.mark.parametrize("stored_next", [False, True], ids=["answer under way", "answer being stored"])
def test_s03_killed_before_the_ack_is_stored(desk: Desk, stored_next: bool) -> None:
    """venue accepts, killed before the ack is stored -> found by look-up; one venue order; allowance used once."""
    desk.venue.fault("delay_answer", seconds=1)
    order = desk.order("s", quote_quantity="60")
    trader = desk.trader()
    desk.sent()
    if stored_next:
        with desk.locking('SELECT FROM "order" WHERE id = %s FOR UPDATE', order):
            desk.wait_until_blocked()
            trader.kill()
    else:
        trader.kill()
    assert desk.state(order).status == "submitted"
    assert desk.value("SELECT count(*) FROM fill") == 0

    desk.trader()
    desk.known_once(order)
    assert desk.value("SELECT array_agg(DISTINCT source::text) FROM fill") == ["look-up"]
    assert len(desk.posts()) == 1


def test_s04_accepted_and_filled_and_the_answer_lost(desk: Desk) -> None:
    """venue accepts AND fills, answer lost -> never resent; the fill is booked from the venue's trades."""
    desk.venue.fault("drop_answer")
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.known_once(order)
    assert desk.value("SELECT array_agg(DISTINCT source::text) FROM fill") == ["look-up"]
    assert len(desk.posts()) == 1


def test_s05_the_answer_is_lost_three_times_in_a_row(desk: Desk) -> None:
    """the same three times in a row -> one order."""
    desk.venue.fault("drop_answer", times=3)
    desk.venue.fault("drop_answer", endpoint=LOOK_UP, times=3)
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt WHERE reason LIKE 'the look-up failed%%')")
    assert desk.value("SELECT held FROM order_in_doubt") == 60
    desk.known_once(order)
    assert len(desk.posts()) == 1


def test_s06_the_connection_is_refused(desk: Desk) -> None:
    """connection refused (venue never got it) -> definite; may be resent; exactly one order."""
    desk.ready_trader()
    desk.venue.kill()
    order = desk.order("s", quote_quantity="60")
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt WHERE reason LIKE 'not placed, will be sent again%%')")
    assert desk.value("SELECT held FROM order_in_doubt") == 60
    desk.venue.start()
    desk.venue.price("50000")
    desk.known_once(order)
    assert desk.value('SELECT attempt > 1 FROM "order" WHERE id = %s', order)
    before = [one["method"] for one in desk.venue.log() if one["path"] == "/api/v3/order"]
    assert before == ["POST"], "what never left needs no look-up"


@pytest.mark.parametrize("act", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize("fault", [{"fault": "status", "status": 503}, {"fault": "unknown_1007"}], ids=["503", "-1007"])
def test_s07_the_venue_says_that_it_does_not_know(desk: Desk, fault: dict[str, object], act: bool) -> None:
    """5xx / -1007 -> in doubt; funds stay reserved; other strategies unaffected."""
    desk.strategy("other", deposit=50)
    desk.venue.fault(**fault, act=act)
    desk.venue.fault("lookup_error", endpoint=LOOK_UP, times=None)
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt)")
    desk.wait_for_status(desk.order("other", quote_quantity="20"), "filled")
    assert desk.state(order).status == "submitted"
    assert desk.value("SELECT held FROM allowance WHERE strategy = 's'") == 60

    desk.venue.clear_faults()
    assert desk.wait_for_status(order, "filled", "denied", "rejected").status == "filled"
    assert len(desk.venue.orders()) == 2
    assert len(desk.posts()) == (2 if act else 3)
    assert desk.value("SELECT sum(held) FROM allowance") == 0
    desk.check()


def test_s09_not_found_for_long_and_then_found(desk: Desk) -> None:
    """look-up says not-found for 30 s, then found -> never marked rejected meanwhile.

    Here for 5 s: the client gives up after one, the request is under way for five, the venue takes it for ten.
    """
    desk.execute("UPDATE account SET receive_window = '10 s', options = '{\"timeout\": 1000}'")
    desk.ready_trader()
    desk.venue.fault("delay", seconds=5)
    order = desk.order("s", quote_quantity="60")
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt WHERE reason = 'not found yet; it may still arrive')")
    desk.known_once(order)
    assert desk.value(EVENTS, order) == ["queued", "submitted", "filled"]
    assert len(desk.posts()) == 1


def test_s10_the_look_up_is_impossible_for_an_hour(desk: Desk) -> None:
    """look-up impossible (venue down 1 h) -> stays in doubt, visible in a view; no time-out to rejected; an alert.

    The hour passes in the row.
    """
    desk.venue.fault("drop_answer")
    desk.venue.fault("lookup_error", endpoint=LOOK_UP, times=None)
    order = desk.order("s", quote_quantity="60", expires_at=desk.value("SELECT now() + interval '1 min'"))
    desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM look_up)")
    assert desk.value("SELECT count(*) FROM incident") == 0
    desk.venue.kill()
    with desk.second_session() as listener:
        listener.execute("LISTEN incident")
        desk.as_trader("""UPDATE "order" SET submitted_at = submitted_at - interval '1 h',
          receive_deadline = receive_deadline - interval '1 h', in_doubt_since = in_doubt_since - interval '1 h',
          next_look_at = clock_timestamp() WHERE status = 'submitted'""")
        assert [note.channel for note in listener.notifies(timeout=30, stop_after=1)] == ["incident"]
    looks = desk.value("SELECT count(*) FROM look_up")
    desk.wait_for("SELECT count(*) > %s FROM look_up", looks)
    desk.wait_for("SELECT next_look_at > clock_timestamp() + interval '20 s' FROM order_in_doubt")  # pauses have grown
    doubt = desk.execute("SELECT * FROM order_in_doubt")[0]
    assert (doubt.id, doubt.held, doubt.absences) == (order, 60, 0)
    assert doubt.age.total_seconds() > 3600
    assert "0 absent before the receive deadline, 0 after it" in doubt.evidence
    assert desk.state(order).status == "submitted"
    incident = desk.execute("SELECT * FROM incident")[0]
    assert (incident.severity, incident.kind, incident.order_id) == ("critical", "in doubt", order)
    assert "looked up" in incident.message
    assert incident.resolved_at is None

    desk.venue.start()
    desk.venue.price("50000")
    desk.as_trader('UPDATE "order" SET next_look_at = clock_timestamp() WHERE id = %s', order)
    desk.known_once(order)
    assert desk.value("SELECT array_agg(resolved_at IS NOT NULL) FROM incident") == [True]
    assert desk.value("SELECT outcome FROM order_attempt WHERE order_id = %s", order) == "accepted"
