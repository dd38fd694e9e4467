"""A limiter is asked before each request of ccxt, and told what the answers say; what it forbids never leaves."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from trader.errors import Retry, Unknown
from trader.exchange.limiter import WORDED_SHUT_SECONDS, Limited, Said
from trader.exchange.protocol import OrderRequest

DATE = "Fri, 20 Nov 2026 10:00:42 GMT"
STATED = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 1200}


class Recorder:
    """Lets so many requests through; checks as often as it is told to."""

    def __init__(self, asks: int = 1000, checks: int = 1000) -> None:
        self.asked: list[float] = []
        self.said: list[Said] = []
        self._asks = asks
        self._checks = checks

    async def ask(self, cost: float) -> None:
        if len(self.asked) >= self._asks:
            raise Retry("shut", after=3.0)
        self.asked.append(cost)

    def check(self) -> None:
        self._checks -= 1
        if self._checks < 0:
            raise Retry("shut just now", after=2.0)

    def told(self, said: Said) -> None:
        self.said.append(said)


def order() -> OrderRequest:
    return OrderRequest(
        client_order_id="4c7e9f0a-6a0a-4c9e-9d6f-2f8f0b1c2d3e",
        symbol="BTC/USDT",
        side="buy",
        type="market",
        quantity=Decimal("0.001"),
        quote_quantity=None,
        limit_price=None,
        submitted_at=datetime.now(UTC),
        receive_window=timedelta(seconds=5),
    )


async def test_every_request_asks_with_its_cost_and_tells_what_the_venue_counted(
    scripted: Any, open_live: Callable[..., Any], reply: Any
) -> None:
    live, limiter = open_live(), Recorder()
    assert isinstance(live, Limited)
    assert (live.units, live.is_signed) == (60_000, True)
    live.limit(limiter)
    used = {"X-MBX-USED-WEIGHT-1M": "21", "Date": DATE}
    scripted.on("GET", "/api/v3/time", reply({"serverTime": 1_700_000_000_000}, headers=used))
    await live.markets()
    await live.time()
    assert limiter.asked == [4, 0.2]
    assert limiter.said[-1] == Said(used=pytest.approx(4.2), minute_left=18.0)


async def test_the_limit_that_the_venue_states_is_passed_on(
    scripted: Any, open_live: Callable[..., Any], reply: Any
) -> None:
    live, limiter = open_live(), Recorder()
    live.limit(limiter)
    scripted.on("GET", "/api/v3/exchangeInfo", {"rateLimits": [STATED], "symbols": []})
    with pytest.raises(Unknown):
        await live.markets()
    assert Said(stated=240.0) in limiter.said


async def test_a_connection_told_to_keep_to_no_limit_says_so(open_live: Callable[..., Any]) -> None:
    assert open_live(enableRateLimit=False).units is None


@pytest.mark.parametrize(("status", "seconds"), [(429, 7.0), (418, 180.0)])
async def test_too_many_requests_are_told_at_once(
    scripted: Any, open_live: Callable[..., Any], reply: Any, status: int, seconds: float
) -> None:
    live, limiter = open_live(), Recorder()
    live.limit(limiter)
    body = {"code": -1003, "msg": "Too many requests."}
    scripted.on("GET", "/api/v3/time", reply(body, status=status, headers={"Retry-After": str(int(seconds))}))
    with pytest.raises(Retry) as caught:
        await live.time()
    assert caught.value.after == seconds
    assert limiter.said[-1].shut == seconds
    assert limiter.said[-1].why.startswith(f"HTTP {status}")


@pytest.mark.parametrize(
    ("ccxt_id", "path", "body"),
    [
        ("kraken", "/0/public/Time", {"error": ["EGeneral:Too many requests"]}),
        ("kraken", "/0/public/Time", {"error": ["EAPI:Rate limit exceeded"]}),
        ("bybit", "/v5/market/time", {"retCode": 10006, "retMsg": "Too many visits!", "result": {}}),
    ],
)
async def test_too_many_requests_in_the_words_of_a_good_answer_are_told_too(
    scripted: Any, open_live: Callable[..., Any], ccxt_id: str, path: str, body: dict[str, Any]
) -> None:
    live, limiter = open_live(ccxt_id), Recorder()
    live.limit(limiter)
    scripted.on("GET", path, body)
    with pytest.raises(Retry):
        await live.time()
    assert limiter.said[-1].shut == WORDED_SHUT_SECONDS
    assert "oo many" in limiter.said[-1].why or "Rate limit" in limiter.said[-1].why


@pytest.mark.parametrize(("asks", "checks", "after"), [(1, 1000, 3.0), (2, 1, 2.0)])
async def test_an_order_that_is_held_back_is_known_not_to_have_been_sent(
    scripted: Any, open_live: Callable[..., Any], asks: int, checks: int, after: float
) -> None:
    live = open_live()
    live.limit(Recorder(asks, checks))
    await live.markets()
    with pytest.raises(Retry) as caught:
        await live.create(order())
    assert caught.value.after == after
    assert scripted.seen("POST", "/api/v3/order") == []


async def test_what_is_held_back_behind_a_request_that_went_is_in_doubt(
    scripted: Any, open_live: Callable[..., Any]
) -> None:
    """Kraken's markets take two requests: a call of which a part was sent is not known to have done nothing."""
    live, limiter = open_live("kraken"), Recorder()
    live.limit(limiter)
    await live.markets()
    assert len(limiter.asked) == 2
    live.limit(Recorder(asks=1))
    with pytest.raises(Unknown, match="the rest of the call was not sent: shut"):
        await live.markets()
