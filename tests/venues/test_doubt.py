"""Answers that never come, the same at each venue: one order there, known here, and nothing sent before proof."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from tests.venues._desk import VenueDesk
from trader.exchange.protocol import OrderRequest

MakeDesk = Callable[..., VenueDesk]
ENDED = ("filled", "canceled", "expired", "rejected", "denied")
SOURCES = "SELECT array_agg(DISTINCT source::text) FROM fill"
IN_DOUBT = "SELECT EXISTS (SELECT FROM order_in_doubt)"


def known_once(desk: VenueDesk, order: int) -> None:
    """One order at the venue, known and filled; the allowance was used once."""
    state = desk.wait_for_status(order, *ENDED)
    assert state.status == "filled", state.reason
    assert len(desk.venue.orders()) == 1
    assert 39 < desk.free() < 41
    assert desk.held() == 0
    desk.check()


@pytest.mark.parametrize("sized", ["quantity", "quote_quantity"])
def test_the_answer_is_lost(desk: VenueDesk, sized: str) -> None:
    """Accepted and filled, no answer: found by the venue's own way, sent once."""
    desk.venue.lose_answers()
    desk.start()
    known_once(desk, desk.buy(**{sized: "0.0012" if sized == "quantity" else "60"}))
    assert desk.value(SOURCES) == ["look-up"]
    assert len(desk.venue.creates()) == 1


def test_the_answer_is_lost_of_an_order_that_rests(desk: VenueDesk) -> None:
    desk.venue.lose_answers()
    desk.start()
    order = desk.buy(type="limit", quantity="0.001", limit_price="49000")
    state = desk.wait_for_status(order, "accepted", *ENDED)
    assert state.status == "accepted", state.reason
    assert state.venue_order_id is not None
    assert len(desk.venue.creates()) == 1
    desk.check()


def test_half_an_answer_is_no_answer(desk: VenueDesk) -> None:
    desk.venue.truncate()
    desk.start()
    known_once(desk, desk.buy(quote_quantity="60"))
    assert len(desk.venue.creates()) == 1


def test_a_machine_in_trouble_that_took_the_order(desk: VenueDesk) -> None:
    """A 502 with a page of HTML, and the order is there."""
    desk.venue.fail(502, act=True)
    desk.start()
    known_once(desk, desk.buy(quote_quantity="60"))
    assert len(desk.venue.creates()) == 1


def test_look_ups_that_fail_prove_nothing(desk: VenueDesk) -> None:
    """Answers of look-ups are lost as well: in doubt, funds held, one request."""
    desk.venue.lose_answers()
    desk.venue.lose_answers(times=3, kind="look-up")
    desk.start()
    order = desk.buy(quote_quantity="60")
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt WHERE reason LIKE 'the look-up failed%%')")
    assert desk.held() >= 60
    known_once(desk, order)
    assert len(desk.venue.creates()) == 1


def test_the_request_is_lost(desk: VenueDesk) -> None:
    """Absent, and past its deadline at the venue for certain: sent again once, as a second attempt."""
    desk.venue.lose_requests()
    desk.start()
    order = desk.buy(quote_quantity="60")
    desk.wait_for(IN_DOUBT)
    assert desk.held() >= 60
    assert len(desk.venue.creates()) == 1
    known_once(desk, order)
    assert len(desk.venue.creates()) == 2
    assert desk.value('SELECT attempt FROM "order" WHERE id = %s', order) == 2


def test_the_venues_own_clock_says_when_its_deadline_has_passed(make_venue_desk: MakeDesk) -> None:
    """Kraken's clock is behind: it would still take what is late by ours, so "not found" is no proof until later."""
    desk = make_venue_desk("kraken")
    desk.venue.behind = 5.0
    desk.venue.lose_requests()
    desk.start()
    order = desk.buy(quote_quantity="60")
    known_once(desk, order)
    first, second = desk.execute("SELECT * FROM order_attempt WHERE order_id = %s ORDER BY attempt", order)
    assert second.submitted_at - timedelta(seconds=desk.venue.behind) >= first.receive_deadline
    assert (first.outcome, first.absences) == ("absent", 2)


def test_a_trader_dies_while_nobody_knows(desk: VenueDesk) -> None:
    """The order is at the venue and nobody here knows: the next trader finds it."""
    first = desk.start()
    desk.venue.lose_answers()
    desk.venue.lose_answers(times=2, kind="look-up")
    order = desk.buy(quote_quantity="60")
    desk.wait_for(IN_DOUBT)
    first.kill()
    desk.start()
    known_once(desk, order)
    assert len(desk.venue.creates()) == 1


def test_a_request_that_comes_too_late_is_not_taken(desk: VenueDesk) -> None:
    """What proof of absence rests on: the venue itself refuses a request that is older than its window."""
    request = OrderRequest(
        "0b1a7bb5-6e4e-4d39-9c5c-6d4c5a1f0001",
        "BTC/USDT",
        "buy",
        "market",
        Decimal("0.001"),
        None,
        None,
        datetime.now(UTC) - timedelta(seconds=7),
        timedelta(seconds=5),
    )
    failure = asyncio.run(desk.place_behind_its_back(request))
    assert failure is not None
    assert desk.venue.orders() == []


def test_a_client_id_that_is_there_already_is_proof(desk: VenueDesk) -> None:
    """An earlier attempt arrived after all: the venue's refusal of the second is looked up, never taken for a no."""
    order = desk.buy(type="limit", quantity="0.001", limit_price="49000")
    client_id = str(desk.state(order).client_order_id)
    request = OrderRequest(
        client_id,
        "BTC/USDT",
        "buy",
        "limit",
        Decimal("0.001"),
        None,
        Decimal(49000),
        datetime.now(UTC).replace(microsecond=0),
        timedelta(seconds=5),
    )
    assert asyncio.run(desk.place_behind_its_back(request)) is None
    desk.start()
    state = desk.wait_for_status(order, "accepted", *ENDED)
    assert state.status == "accepted", state.reason
    assert len(desk.venue.orders()) == 1
    desk.venue.price("48900")
    desk.wait_for_status(order, "filled")
    desk.check()


def test_the_history_of_bybit_is_late(make_venue_desk: MakeDesk) -> None:
    """A filled order whose answer is lost is in the live list long before it is in the history."""
    desk = make_venue_desk("bybit")
    desk.venue.history_is_late = True
    desk.venue.lose_answers()
    desk.start()
    known_once(desk, desk.buy(quote_quantity="60"))
    assert len(desk.venue.creates()) == 1


def test_the_live_list_of_bybit_was_cleared(make_venue_desk: MakeDesk) -> None:
    """After a restart of the venue's service only the history has it."""
    desk = make_venue_desk("bybit")
    desk.venue.realtime_forgets = True
    desk.venue.lose_answers()
    desk.start()
    known_once(desk, desk.buy(quote_quantity="60"))
    assert len(desk.venue.creates()) == 1
