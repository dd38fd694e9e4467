"""What a venue's report makes of an order: forward only, and final only when every fill is booked."""

from decimal import Decimal

import pytest

from trader.exchange.protocol import OrderReport, VenueStatus
from trader.settle import next_status


@pytest.mark.parametrize(
    ("now", "reported", "venue_filled", "booked", "then"),
    [
        ("submitted", "accepted", "0", "0", "accepted"),
        ("submitted", None, None, "0", "accepted"),
        ("submitted", None, None, "0.5", "partially_filled"),
        ("submitted", "filled", "1", "1", "filled"),
        ("submitted", "filled", "1", "0.4", "partially_filled"),
        ("accepted", "filled", "1", "0", "accepted"),
        ("accepted", "canceled", "0.4", "0.4", "canceled"),
        ("accepted", "canceled", "0.4", "0", "accepted"),
        ("pending_cancel", "accepted", "0", "0", "pending_cancel"),
        ("pending_cancel", "partially_filled", "0.4", "0.4", "pending_cancel"),
        ("pending_cancel", "canceled", "0", "0", "canceled"),
        ("pending_cancel", "filled", "1", "1", "filled"),
        ("submitted", "expired", "0", "0", "expired"),
        ("submitted", "rejected", "0", "0", "rejected"),
    ],
)
def test_next_status(now: str, reported: VenueStatus | None, venue_filled: str | None, booked: str, then: str) -> None:
    filled = None if venue_filled is None else Decimal(venue_filled)
    report = OrderReport("v1", None, "BTC/USDT", reported, filled, ())
    assert next_status(now, report, Decimal(booked)) == then
