"""The adapter against the product's own simulator: a whole order life, and every way an answer is lost."""

import itertools
import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from trader.errors import ExchangeError, Fatal, Refused, Retry, Unknown
from trader.exchange.credentials import Credentials
from trader.exchange.live import LiveExchange, connect
from trader.exchange.protocol import OrderRequest
from trader.simulator.client_options import ccxt_options

SYMBOL = "BTC/USDT"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    state = tmp_path_factory.mktemp("simulator") / "state.sqlite"
    command = [sys.executable, "-m", "trader.simulator", "--port", "0", "--state", str(state), "--market", SYMBOL]
    command += ["--weight-limit", "0"]
    command += ["--key", "sim-key", "--secret", "sim-secret", "--balance", "USDT=100000", "--balance", "BTC=1"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        ready = next(line for line in process.stdout if "ready on" in line)
        yield ready.split()[-1]
        process.terminate()


@pytest.fixture
async def live(simulator: str) -> AsyncIterator[LiveExchange]:
    options = ccxt_options(simulator) | {"rateLimit": 1, "timeout": 1500}
    exchange = connect(
        "binance", options=options, credentials=Credentials("SIM", "sim-key", "sim-secret"), mode="simulator"
    )
    yield exchange
    await exchange.close()


def break_next(simulator: str, fault: str, endpoint: str = "POST /api/v3/order", **more: Any) -> None:
    body = json.dumps({"fault": fault, "match": {"endpoint": endpoint}, **more}).encode()
    request = urllib.request.Request(f"{simulator}/simulator/faults", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=5).close()


def market_buy(**changes: Any) -> OrderRequest:
    usual: dict[str, Any] = {
        "client_order_id": str(uuid4()),
        "symbol": SYMBOL,
        "side": "buy",
        "type": "market",
        "quantity": Decimal("0.001"),
        "quote_quantity": None,
        "limit_price": None,
        "submitted_at": datetime.now(UTC),
        "receive_window": timedelta(seconds=5),
    }
    return OrderRequest(**(usual | changes))


async def held(live: LiveExchange) -> dict[str, Decimal]:
    return {balance.asset: balance.total for balance in await live.balances()}


async def test_a_market_order_its_fills_and_the_balances_agree(live: LiveExchange) -> None:
    before = await held(live)
    request = market_buy()
    report = await live.create(request)
    assert (report.client_order_id, report.status, report.filled_quantity) == (
        request.client_order_id,
        "filled",
        request.quantity,
    )
    assert await live.fills(SYMBOL, venue_order_id=report.venue_order_id) == list(report.fills)
    after = await held(live)
    fees = {asset: sum(f.fee for f in report.fills if f.fee_asset == asset) for asset in ("BTC", "USDT")}
    assert after["BTC"] - before["BTC"] == Decimal("0.001") - fees["BTC"]
    assert before["USDT"] - after["USDT"] == sum(f.quantity * f.price for f in report.fills) + fees["USDT"]


async def test_a_resting_order_is_open_until_it_is_canceled(live: LiveExchange) -> None:
    (market,) = await live.markets()
    assert market.price_tick is not None
    last = (await live.ticker(SYMBOL)).last
    assert last is not None
    price = (last * Decimal("0.8") // market.price_tick) * market.price_tick
    request = market_buy(type="limit", limit_price=price, quantity=Decimal("0.01"))
    report = await live.create(request)
    assert report.status == "accepted"
    assert request.client_order_id in [r.client_order_id for r in await live.open_orders(SYMBOL)]
    await live.cancel(SYMBOL, report.venue_order_id)
    found = await live.find(SYMBOL, request.client_order_id)
    assert found is not None
    assert found.status == "canceled"
    with pytest.raises(Refused):
        await live.cancel(SYMBOL, report.venue_order_id)


async def test_quote_sized_buys_spend_no_more_than_asked(live: LiveExchange) -> None:
    report = await live.create(market_buy(quantity=None, quote_quantity=Decimal(50)))
    spent = sum(fill.quantity * fill.price for fill in report.fills)
    assert Decimal(45) < spent <= Decimal(50)


@pytest.mark.parametrize(
    ("fault", "placed"),
    [
        ({"fault": "drop_request"}, False),
        ({"fault": "drop_answer"}, True),
        ({"fault": "delay_answer", "seconds": 4}, True),
        ({"fault": "truncate"}, True),
        ({"fault": "garbage"}, True),
        ({"fault": "status", "status": 503, "act": True}, True),
        ({"fault": "status", "status": 502}, False),
        ({"fault": "unknown_1007", "act": True}, True),
    ],
    ids=lambda value: value["fault"] if isinstance(value, dict) else "",
)
async def test_a_lost_answer_is_in_doubt_and_find_says_what_became_of_it(
    live: LiveExchange, simulator: str, fault: dict[str, Any], placed: bool
) -> None:
    request = market_buy()
    break_next(simulator, **fault)
    with pytest.raises(Unknown):
        await live.create(request)
    found = await live.find(SYMBOL, request.client_order_id)
    assert (found is not None) is placed
    if found is not None:
        fills = await live.fills(SYMBOL, venue_order_id=found.venue_order_id)
        assert sum(fill.quantity for fill in fills) == request.quantity


async def test_what_is_known_not_placed(live: LiveExchange, simulator: str) -> None:
    cases: list[tuple[type[ExchangeError], dict[str, Any]]] = [
        (Refused, {"quantity": Decimal(50)}),
        (Retry, {"submitted_at": datetime.now(UTC) - timedelta(seconds=6)}),
    ]
    for kind, change in cases:
        request = market_buy(**change)
        with pytest.raises(kind):
            await live.create(request)
        assert await live.find(SYMBOL, request.client_order_id) is None


async def test_too_many_requests_say_how_long_to_wait(live: LiveExchange, simulator: str) -> None:
    break_next(simulator, "too_many_requests", seconds=3)
    with pytest.raises(Retry) as caught:
        await live.create(market_buy())
    assert caught.value.after == 3.0


async def test_an_open_orders_id_cannot_be_used_twice(live: LiveExchange) -> None:
    (market,) = await live.markets()
    request = market_buy(
        type="limit", limit_price=market.price_tick and market.price_tick * 100_000, quantity=Decimal("0.01")
    )
    report = await live.create(request)
    with pytest.raises(Unknown) as caught:
        await live.create(request)
    assert caught.value.exists
    await live.cancel(SYMBOL, report.venue_order_id)


async def test_a_look_up_that_fails_raises(live: LiveExchange, simulator: str) -> None:
    break_next(simulator, "lookup_error", "GET /api/v3/order")
    with pytest.raises(Unknown):
        await live.find(SYMBOL, str(uuid4()))


async def test_a_wrong_secret_is_fatal(simulator: str) -> None:
    stranger = Credentials("SIM", "sim-key", "wrong")
    async_exchange = connect("binance", options=ccxt_options(simulator), credentials=stranger, mode="simulator")
    with pytest.raises(Fatal):
        await async_exchange.balances()
    await async_exchange.close()


async def test_candles_have_the_markets_history(live: LiveExchange) -> None:
    candles = await live.candles(SYMBOL, "1m", None, 50)
    assert len(candles) == 50
    steps = {b.time_open - a.time_open for a, b in itertools.pairwise(candles)}
    assert steps == {timedelta(minutes=1)}
    since = candles[-10].time_open
    assert (await live.candles(SYMBOL, "1m", since, 5)) == candles[-10:-5]


async def test_the_clock_is_wall_time(live: LiveExchange) -> None:
    assert abs(await live.time() - datetime.now(UTC)) < timedelta(seconds=5)
