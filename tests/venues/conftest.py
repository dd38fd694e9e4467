"""One desk at each venue: `desk` runs a test three times, `make_venue_desk` makes one at a venue that a test names."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.simulator import Simulator
from tests.venues._desk import VenueDesk
from tests.venues._server import ScriptedVenue
from tests.venues.binance import Binance
from tests.venues.bybit import Bybit
from tests.venues.kraken import Kraken
from trader import config

VENUES = ("binance", "kraken", "bybit")


class BybitByAnotherName(Bybit):
    """A venue of ccxt with this dialect of which the product knows nothing."""

    ccxt_id = "bybiteu"


SCRIPTED: dict[str, type[ScriptedVenue]] = {"kraken": Kraken, "bybit": Bybit, "bybiteu": BybitByAnotherName}


@pytest.fixture
def make_venue_desk(
    database: str, simulator: Callable[..., Simulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., VenueDesk]]:
    """A factory: the venue's name, what one strategy `s` gets, and arguments for the simulator."""
    ends: list[Callable[[], Any]] = []

    def make(name: str, *arguments: str, deposit: int = 100) -> VenueDesk:
        venue: Any
        if name in SCRIPTED:
            venue = SCRIPTED[name]()
            venue.start()
            ends.append(venue.stop)
        else:
            venue = Binance(simulator, *arguments)
        monkeypatch.setenv("TEST_API_KEY", venue.key)
        monkeypatch.setenv("TEST_SECRET", venue.secret)
        settings = config.load({"TALLYDESK_HOME": str(tmp_path), "DATABASE_URL": database}, project=tmp_path)
        desk = VenueDesk(database, venue, settings)
        ends.append(desk.close)
        desk.strategy("s", deposit=deposit)
        return desk

    yield make
    for end in reversed(ends):
        end()


@pytest.fixture(params=VENUES)
def desk(request: pytest.FixtureRequest, make_venue_desk: Callable[..., VenueDesk]) -> VenueDesk:
    """A desk at each venue in turn."""
    return make_venue_desk(request.param)
