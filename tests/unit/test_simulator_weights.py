"""What the simulator counts, and whom it refuses."""

import pytest

from trader.simulator.weights import PATIENCE, Weights, weight
from trader.simulator.wire import Params


class Wall:
    """A clock that a test sets: milliseconds."""

    def __init__(self) -> None:
        self.now = 1_700_000_040_000  # a whole minute

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.mark.parametrize(
    ("route", "params", "cost"),
    [
        ("GET /api/v3/ping", {}, 1),
        ("GET /api/v3/time", {}, 1),
        ("GET /api/v3/exchangeInfo", {}, 20),
        ("GET /api/v3/klines", {"symbol": "BTCUSDT", "limit": "1000"}, 2),
        ("GET /api/v3/depth", {"symbol": "BTCUSDT"}, 5),
        ("GET /api/v3/depth", {"limit": "101"}, 25),
        ("GET /api/v3/depth", {"limit": "1000"}, 50),
        ("GET /api/v3/depth", {"limit": "5000"}, 250),
        ("GET /api/v3/depth", {"limit": "many"}, 5),
        ("GET /api/v3/account", {}, 20),
        ("POST /api/v3/order", {}, 1),
        ("DELETE /api/v3/order", {}, 1),
        ("GET /api/v3/order", {}, 4),
        ("GET /api/v3/openOrders", {"symbol": "BTCUSDT"}, 6),
        ("GET /api/v3/openOrders", {}, 80),
        ("GET /api/v3/myTrades", {}, 20),
        ("GET /api/v3/myTrades", {"orderId": "1"}, 5),
        ("GET /api/v3/ticker/24hr", {"symbol": "BTCUSDT"}, 2),
        ("GET /api/v3/ticker/24hr", {}, 80),
        ("GET /sapi/v1/system/status", {}, 0),
    ],
)
def test_what_requests_cost(route: str, params: dict[str, str], cost: int) -> None:
    assert weight(route, Params(params)) == cost


def test_every_minute_is_counted_anew_and_every_address_for_itself(wall: Wall) -> None:
    weights = Weights(100, wall)
    assert weights.charge("a", 60) is None
    assert weights.charge("b", 100) is None
    assert (weights.used("a"), weights.used("b"), weights.used("c")) == (60, 100, 0)
    assert weights.headers("a")["X-MBX-USED-WEIGHT-1M"] == "60"
    wall.now += 59_999
    refusal = weights.charge("a", 41)
    assert refusal is not None
    assert (refusal.status, refusal.seconds) == (429, 1)
    wall.now += 1
    assert weights.used("a") == 0
    assert weights.charge("a", 100) is None


def test_how_long_to_wait_is_told_and_who_goes_on_is_banned(wall: Wall) -> None:
    weights = Weights(10, wall, ban_seconds=120)
    weights.charge("a", 10)
    wall.now += 17_500
    refusals = [weights.charge("a", 1) for _ in range(PATIENCE + 1)]
    assert [(one.status, one.seconds) for one in refusals if one] == [(429, 43)] * PATIENCE + [(418, 120)]
    wall.now += 60_000
    still = weights.charge("a", 1)
    assert still is not None
    assert (still.status, still.seconds) == (418, 60)
    assert weights.charge("b", 1) is None
    wall.now += 60_000
    assert weights.charge("a", 1) is None


def test_without_a_limit_it_counts_and_refuses_nobody(wall: Wall) -> None:
    weights = Weights(0, wall)
    assert weights.charge("a", 10**6) is None
    assert weights.used("a") == 10**6
    assert [rule["rateLimitType"] for rule in weights.rules()] == ["ORDERS", "ORDERS"]
    assert Weights(1200, wall).rules()[0]["limit"] == 1200


def test_orders_are_counted_by_account(wall: Wall) -> None:
    weights = Weights(0, wall)
    weights.count_order("k")
    assert weights.count_order("k") == {"X-MBX-ORDER-COUNT-10S": "2", "X-MBX-ORDER-COUNT-1D": "2"}
    wall.now += 10_000
    assert weights.count_order("k") == {"X-MBX-ORDER-COUNT-10S": "1", "X-MBX-ORDER-COUNT-1D": "3"}
    assert weights.count_order("other")["X-MBX-ORDER-COUNT-1D"] == "1"
