"""The trader as it runs, a process of its own, at each venue: kill -9 in the worst moment, then another one."""

from tests.venues._desk import VenueDesk

ENDED = ("filled", "canceled", "expired", "rejected", "denied")


def test_a_trader_is_killed_after_its_send(desk: VenueDesk) -> None:
    """Filled at the venue, and the answer has not come: kill -9. The next process finds it, by the venue's way."""
    desk.venue.hang()
    first = desk.trader()
    order = desk.buy(quote_quantity="60")
    desk.wait_until_filled_at_venue()
    first.kill()
    assert desk.state(order).status == "submitted"
    assert desk.held() >= 60

    desk.trader()
    state = desk.wait_for_status(order, *ENDED)
    assert state.status == "filled", state.reason
    assert desk.value("SELECT array_agg(DISTINCT source::text) FROM fill") == ["look-up"]
    assert len(desk.venue.creates()) == 1
    assert len(desk.venue.orders()) == 1
    assert 39 < desk.free() < 41
    desk.check()
