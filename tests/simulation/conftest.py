"""What the scenarios have in common."""

from collections.abc import Callable

import pytest

from tests.plugins.desk import Desk


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    """One strategy `s` with 100 USDT, the price at 50,000, a venue that takes a request for one second."""
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    desk.execute("UPDATE account SET receive_window = '1 s'")
    return desk
