"""The clock of a venue that has no call for it: the date of its answers."""

from datetime import UTC, datetime
from typing import Any

import pytest

from trader.errors import Retry, Unknown

MARKETS = [
    {
        "name": name, "market_symbol": name.replace("/", "").lower(), "base_currency": name.split("/")[0],
        "base_decimals": 8, "counter_currency": "USD", "counter_decimals": 0, "minimum_order_value": "10",
        "trading": trading, "instant_order_counter_decimals": 2, "instant_and_market_orders": "Enabled",
        "description": name.replace("/", " / "), "market_type": "SPOT",
    }
    for name, trading in (("ETH/USD", "Disabled"), ("BTC/USD", "Enabled"))
]  # fmt: skip
TICKER = {"timestamp": "1686068944", "last": "26216", "bid": "26208", "ask": "26211", "open": "25730", "volume": "1"}


@pytest.fixture
async def venue(scripted: Any, open_live: Any) -> Any:
    scripted.on("GET", "/v2/markets/", MARKETS)
    scripted.on("GET", "/v2/currencies/", [])
    return open_live("bitstamp")


async def test_the_date_of_an_answer_is_the_clock(venue: Any, scripted: Any, reply: Any) -> None:
    dates = ("Sat, 21 Nov 2026 11:20:59 GMT", "Sat, 21 Nov 2026 12:21:03 +0100")
    scripted.on("GET", "/v2/ticker/btcusd/", *(reply(TICKER, headers={"Date": date}) for date in dates))
    assert await venue.time() == datetime(2026, 11, 21, 11, 20, 59, tzinfo=UTC)
    assert await venue.time() == datetime(2026, 11, 21, 11, 21, 3, tzinfo=UTC)
    assert len(scripted.seen("GET", "/v2/markets/")) == 1


@pytest.mark.parametrize("date", ["yesterday", "Sat, 99 Nov 2026 11:20:59 GMT", "1686068944"])
async def test_a_date_that_is_none_is_no_clock(venue: Any, scripted: Any, reply: Any, date: str) -> None:
    scripted.on("GET", "/v2/ticker/btcusd/", reply(TICKER, headers={"Date": date}))
    with pytest.raises(Unknown, match=f"the Date of its answer is '{date}'"):
        await venue.time()


async def test_a_venue_that_does_not_answer_has_no_clock(venue: Any, scripted: Any, reply: Any) -> None:
    scripted.on("GET", "/v2/ticker/btcusd/", reply(fault="drop"))
    with pytest.raises((Retry, Unknown)):
        await venue.time()
