"""The venue accepts and fills, and the answer is lost: one order, known, filled, the allowance used once."""

from collections.abc import Callable

import pytest

from tests.plugins.desk import Desk

MakeDesk = Callable[..., Desk]


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    desk.execute("UPDATE account SET receive_window = '1 s'")
    return desk


def known_once(desk: Desk, order: int) -> None:
    assert desk.wait_for_status(order, "filled", "denied", "rejected").status == "filled"
    assert len(desk.venue.orders()) == 1
    assert 59 < desk.value("SELECT 100 - total FROM allowance WHERE asset = 'USDT'") <= 60
    assert desk.value("SELECT held FROM allowance WHERE asset = 'USDT'") == 0
    desk.check()


def test_the_answer_is_lost_once(desk: Desk) -> None:
    desk.venue.fault("drop_answer")
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    known_once(desk, order)


def test_the_answer_is_lost_three_times_and_the_look_up_fails_too(desk: Desk) -> None:
    desk.venue.fault("drop_answer", times=3)
    desk.venue.fault("drop_answer", endpoint="GET /api/v3/order", times=3)
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt WHERE reason LIKE 'the look-up failed%%')")
    assert desk.value("SELECT held FROM order_in_doubt") == 60
    known_once(desk, order)


def test_the_trader_is_killed_before_the_answer(desk: Desk) -> None:
    desk.venue.fault("delay_answer", seconds=5)
    order = desk.order("s", quote_quantity="60")
    first = desk.trader()
    desk.venue.wait_for_log(lambda entry: entry["method"] == "POST" and entry["outcome"] == "accepted")
    first.kill()
    assert desk.state(order).status == "submitted"
    desk.trader()
    known_once(desk, order)


def test_the_request_never_arrives(desk: Desk) -> None:
    desk.venue.fault("drop_request")
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    known_once(desk, order)
    assert desk.value('SELECT attempt FROM "order" WHERE id = %s', order) == 2


def test_the_venue_is_down_and_comes_back(desk: Desk) -> None:
    order = desk.order("s", quote_quantity="60")
    desk.venue.kill()
    desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt)")
    desk.venue.start()
    desk.venue.price("50000")
    known_once(desk, order)


def test_in_doubt_and_too_old_to_send_again_is_denied_and_frees_the_funds(desk: Desk) -> None:
    desk.venue.fault("drop_request")
    desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM role_status WHERE alive)")
    order = desk.order("s", quote_quantity="60", expires_at=desk.value("SELECT now() + interval '2 s'"))
    state = desk.wait_for_status(order, "denied", "filled")
    assert (state.status, state.reason) == ("denied", "it never reached the venue, and it is too old to send again")
    assert desk.value("SELECT free FROM allowance") == 100
    assert desk.venue.orders() == []
    desk.check()
