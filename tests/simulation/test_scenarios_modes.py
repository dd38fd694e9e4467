"""Scenario 50: the hardest scenarios again in mode live, and what sets the venue's own test systems apart from it.

TALLYDESK_TEST_MODE=live runs every test of this directory so.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.plugins.desk import Desk
from tests.simulation import test_scenarios_fills as fills
from tests.simulation import test_scenarios_sending as sending
from tests.simulation import test_scenarios_traders as traders
from trader.exchange.live import connect

SCENARIOS: list[Callable[[Desk], None]] = [
    sending.test_s01_killed_before_the_claim_commits,
    sending.test_s04_accepted_and_filled_and_the_answer_lost,
    sending.test_s05_the_answer_is_lost_three_times_in_a_row,
    sending.test_s06_the_connection_is_refused,
    fills.test_s11_the_ack_and_the_fill_come_after_the_order_was_closed,
    fills.test_s14_the_fill_wins_against_the_cancel,
    traders.test_s20_a_trader_that_was_paused_past_its_lease_sends_nothing,
    traders.test_s22_the_transaction_that_stores_a_fill_loses_a_race,
    traders.test_s25_the_venue_says_duplicate_client_id,
]
OURS = {"urls", "options", "origin", "logger", "asyncio_loop"}
"""What two clients may differ in; `options` is looked into."""


@pytest.fixture
def live_desk(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Desk]:
    """The desk of the other scenarios, its account in mode live: only its URL is the simulator's."""
    monkeypatch.setenv("TALLYDESK_TEST_MODE", "live")
    desk: Desk = request.getfixturevalue("desk")
    yield desk
    assert desk.value("SELECT mode::text FROM account") == "live"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.__name__[5:8] for scenario in SCENARIOS])
def test_s50_the_hardest_scenarios_pass_in_mode_live(live_desk: Desk, scenario: Callable[[Desk], None]) -> None:
    """paper mode passes 1-38 unchanged: and so does live."""
    scenario(live_desk)


async def differences(mode: Any) -> tuple[set[str], set[str]]:
    """What of ccxt's client differs from that of mode live: its attributes, and its options by name."""
    made = [connect("binance", options={}, credentials=None, mode=one, allow_live=True) for one in ("live", mode)]
    live, other = (vars(one)["_client"] for one in made)
    attributes = {
        name
        for name in vars(live).keys() | vars(other).keys()
        if not callable(getattr(live, name, None)) and vars(live).get(name) != vars(other).get(name)
    }
    options = {name for name in live.options | other.options if live.options.get(name) != other.options.get(name)}
    await asyncio.gather(*(one.close() for one in made))
    assert live.urls["api"] != other.urls["api"]
    return attributes - OURS, options


@pytest.mark.parametrize(("mode", "mark"), [("paper", "enableDemoTrading"), ("sandbox", "sandboxMode")])
async def test_s50_paper_and_sandbox_differ_from_live_in_their_addresses(mode: str, mark: str) -> None:
    """paper mode passes 1-38 unchanged: the venue's own systems are other addresses and a mark in ccxt, no more."""
    attributes, options = await differences(mode)
    assert attributes <= {"isSandboxModeEnabled"}
    assert options == {mark}
