"""Reconciliation at each venue: its lists of trades and open orders, page by page, against the books."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from tests.venues._desk import VenueDesk
from trader.exchange.protocol import OrderRequest

EXTERNAL = "SELECT what, side, trim_scale(quantity) AS quantity FROM external ORDER BY what"


def human(desk: VenueDesk, quantity: str, limit: str | None = None) -> None:
    """Somebody with the same keys buys."""
    request = OrderRequest(
        str(uuid.uuid4()),
        "BTC/USDT",
        "buy",
        "limit" if limit else "market",
        Decimal(quantity),
        None,
        Decimal(limit) if limit else None,
        datetime.now(UTC),
        timedelta(seconds=5),
    )
    assert asyncio.run(desk.place_behind_its_back(request)) is None


def test_what_others_do_is_external_and_what_we_missed_is_booked(desk: VenueDesk) -> None:
    """A human trades on the account, and our order fills while no trader runs: each finds its own place."""
    asyncio.run(desk.reconcile())
    trader = desk.start()
    human(desk, "0.002")
    human(desk, "0.001", "30000")
    ours = desk.buy(type="limit", quantity="0.001", limit_price="49000")
    desk.wait_for_status(ours, "accepted")
    trader.kill()
    filled = len(desk.filled_at_venue())
    desk.venue.price("48900")
    desk.wait_until_filled_at_venue(filled + 1)

    asyncio.run(desk.reconcile())
    state = desk.state(ours)
    assert (state.status, state.filled_quantity) == ("filled", Decimal("0.001"))
    assert desk.value("SELECT array_agg(DISTINCT source::text) FROM fill") == ["reconciliation"]
    theirs = desk.execute(EXTERNAL)
    assert sum(row.quantity for row in theirs if row.what == "fill") == Decimal("0.002")
    assert [(row.side, row.quantity) for row in theirs if row.what == "open order"] == [("buy", Decimal("0.001"))]
    assert 50 <= desk.free() < 52
    assert desk.execute("SELECT asset, verdict FROM reconciliation WHERE verdict <> 'agrees'") == []
    assert desk.execute("SELECT * FROM invariant_violation") == []
