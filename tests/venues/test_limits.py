"""Where a venue gives no proof, or no safe way: Tallydesk refuses, or stays in doubt."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.venues._desk import VenueDesk
from trader.errors import ConfigError
from trader.exchange.credentials import Credentials
from trader.exchange.live import connect

MakeDesk = Callable[..., VenueDesk]
ENDED = ("filled", "canceled", "expired", "rejected", "denied")
TIME_PASSES = """
UPDATE "order" SET submitted_at = submitted_at - %s::interval, receive_deadline = receive_deadline - %s::interval,
       in_doubt_since = in_doubt_since - %s::interval, next_look_at = clock_timestamp()
 WHERE status = 'submitted'
"""


def test_a_venue_that_nobody_has_tried_proves_no_absence(make_venue_desk: MakeDesk) -> None:
    """The same dialect under a name of which nothing is known, and the request is lost.

    An hour after its deadline the order is in doubt, was sent once, and its funds are held.
    """
    desk = make_venue_desk("bybiteu")
    desk.venue.lose_requests()
    trader = desk.start()
    order = desk.buy(quote_quantity="60")
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt WHERE reason LIKE '%%no proof of absence%%')")
    for _look in range(3):
        desk.as_trader(TIME_PASSES, *["1 h"] * 3)
        desk.wait_for('SELECT next_look_at > clock_timestamp() FROM "order" WHERE id = %s', order)
        desk.wait_for("SELECT reason LIKE '%%no proof of absence%%' FROM order_in_doubt")
    state = desk.execute('SELECT status::text, absences, attempt FROM "order" WHERE id = %s', order)[0]
    assert state == ("submitted", 0, 1)
    assert desk.held() == 60
    assert len(desk.venue.creates()) == 1
    assert trader.is_alive()
    assert desk.execute("SELECT * FROM invariant_violation") == []


def test_what_bybit_may_have_forgotten_is_not_absent(make_venue_desk: MakeDesk) -> None:
    """An order that ended without a fill is gone from its lists after a day: two days later nothing is proved."""
    desk = make_venue_desk("bybit")
    desk.venue.lose_requests()
    first = desk.start()
    order = desk.buy(quote_quantity="60")
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt WHERE reason LIKE '%%not found yet%%')")
    first.kill()
    desk.as_trader(TIME_PASSES, *["2 d"] * 3)
    desk.start()
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt WHERE reason LIKE '%%remembers orders for%%')")
    state = desk.execute('SELECT status::text, absences, attempt FROM "order" WHERE id = %s', order)[0]
    assert state == ("submitted", 0, 1)
    assert desk.held() == 60
    assert len(desk.venue.creates()) == 1
    assert desk.execute("SELECT * FROM invariant_violation") == []


def test_what_such_a_venue_has_is_found(make_venue_desk: MakeDesk) -> None:
    desk = make_venue_desk("bybiteu")
    desk.venue.lose_answers()
    desk.start()
    order = desk.wait_for_status(desk.buy(quote_quantity="60"), *ENDED)
    assert order.status == "filled", order.reason
    assert len(desk.venue.creates()) == 1
    desk.check()


def test_a_window_too_short_for_krakens_deadline_is_refused(make_venue_desk: MakeDesk) -> None:
    """It takes no deadline that is less than two seconds ahead; nothing is sent."""
    desk = make_venue_desk("kraken")
    desk.execute("UPDATE account SET receive_window = '4 s'")
    desk.start()
    order = desk.wait_for_status(desk.buy(quote_quantity="60"), *ENDED)
    assert order.status == "rejected"
    assert "this venue needs 5 seconds at least" in order.reason
    assert desk.venue.creates() == []
    desk.check()


def test_an_order_of_kraken_that_names_too_few_trades_is_not_final(make_venue_desk: MakeDesk) -> None:
    """It says how much was executed: until its trades make that up, it is not filled here and its funds are held."""
    desk = make_venue_desk("kraken")
    desk.venue.names_few_trades = True
    desk.start()
    order = desk.buy(quote_quantity="60")
    desk.wait_for_status(order, "accepted", *ENDED)
    asked = len(desk.venue.requests)
    desk.venue.wait_for_requests(asked + 6)
    assert desk.state(order).status == "accepted"
    assert desk.held() > 0
    desk.venue.names_few_trades = False
    assert desk.wait_for_status(order, *ENDED).status == "filled"
    desk.check()


def test_an_account_of_bybit_whose_kind_cannot_be_read_places_nothing(make_venue_desk: MakeDesk) -> None:
    """ccxt asks for it before the first order: a failure there is no doubt, for no order was sent."""
    desk = make_venue_desk("bybit")
    desk.venue.fail(503, act=False, kind="account", times=2)
    desk.start()
    order = desk.wait_for_status(desk.buy(quote_quantity="60"), *ENDED)
    assert order.status == "filled", order.reason
    kinds = [one.kind for one in desk.venue.requests]
    assert kinds.count("create") == 1
    assert "look-up" not in kinds[: kinds.index("create")]
    desk.check()


@pytest.mark.parametrize("mode", ["sandbox", "paper"])
@pytest.mark.parametrize("options", ["none", "ours"])
def test_kraken_has_no_sandbox_and_is_not_asked_for_one(make_venue_desk: MakeDesk, mode: Any, options: str) -> None:
    """ccxt's switch fails and leaves the real address in place: refused before any request, wherever it points."""
    desk = make_venue_desk("kraken")
    before = len(desk.venue.requests)
    given = desk.venue.options() if options == "ours" else {}
    with pytest.raises(ConfigError, match="kraken"):
        connect("kraken", options=given, credentials=Credentials("T", "key", desk.venue.secret), mode=mode)
    assert len(desk.venue.requests) == before


@pytest.mark.parametrize("ccxt_id", ["binance", "bybit"])
def test_a_sandbox_that_leads_to_the_real_venue_is_refused(ccxt_id: str) -> None:
    real = {"binance": "https://api.binance.com/api/v3", "bybit": "https://api.bybit.com"}[ccxt_id]
    options = {"urls": {"test": {"private": real}}}
    with pytest.raises(ConfigError, match="allowed are"):
        connect(ccxt_id, options=options, credentials=Credentials("T", "key", "c2VjcmV0"), mode="sandbox")
