"""Each fault that can be switched on: what the client sees, what the venue has done, what the log says."""

import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.request import Request, urlopen

import ccxt
import pytest

SYMBOL = "BTC/USDT"
LOOKUP = "GET /api/v3/order"


@pytest.fixture(scope="module")
def shared(simulator_for_module: Callable[..., Any]) -> Any:
    venue = simulator_for_module("--balance", "USDT=100000")
    venue.price("20000")
    return venue


@pytest.fixture
def venue(shared: Any) -> Any:
    shared.clear_faults()
    return shared


@pytest.fixture
def client(venue: Any) -> Any:
    exchange = ccxt.binance(venue.options(timeout=3000))
    exchange.load_markets()
    return exchange


def buy(client: Any, name: str, **parameters: Any) -> Any:
    return client.create_order(SYMBOL, "market", "buy", 0.001, params={"clientOrderId": name, **parameters})


def times_placed(venue: Any, name: str) -> int:
    return sum(order["client_order_id"] == name for order in venue.orders())


def logged(venue: Any, name: str) -> list[tuple[str, str | None]]:
    return [(e["outcome"], e["fault"]) for e in venue.log() if e["client_order_id"] == name and e["method"] == "POST"]


@pytest.mark.parametrize(
    ("fault", "fields", "error", "placed", "outcome"),
    [
        ("drop_request", {}, ccxt.NetworkError, 0, "dropped"),
        ("drop_answer", {}, ccxt.NetworkError, 1, "answer_lost"),
        ("hang", {"seconds": 0.1}, ccxt.NetworkError, 1, "answer_lost"),
        ("hang", {"seconds": 0.1, "act": False}, ccxt.NetworkError, 0, "dropped"),
        ("status", {"status": 502}, ccxt.ExchangeNotAvailable, 0, "dropped"),
        ("status", {"status": 504, "act": True}, ccxt.RequestTimeout, 1, "answer_lost"),
        ("unknown_1007", {}, ccxt.RequestTimeout, 0, "dropped"),
        ("unknown_1007", {"act": True}, ccxt.RequestTimeout, 1, "answer_lost"),
        ("too_many_requests", {"seconds": 7}, ccxt.DDoSProtection, 0, "dropped"),
        ("reject", {}, ccxt.ExchangeError, 0, "refused"),
        (
            "reject",
            {"message": "Account has insufficient balance for requested action."},
            ccxt.InsufficientFunds,
            0,
            "refused",
        ),
    ],
)
def test_a_fault_of_an_order(
    venue: Any, client: Any, fault: str, fields: dict[str, Any], error: type[Exception], placed: int, outcome: str
) -> None:
    name = f"{fault}-{len(venue.log())}"
    venue.fault(fault, **fields)
    with pytest.raises(error):
        buy(client, name)
    assert times_placed(venue, name) == placed
    assert logged(venue, name) == [(outcome, fault)]
    again = f"{name}-2"
    assert buy(client, again)["status"] == "closed"  # once means once


@pytest.mark.parametrize("fault", ["truncate", "garbage"])
def test_a_spoilt_answer_leaves_an_order_without_an_id(venue: Any, client: Any, fault: str) -> None:
    venue.fault(fault)
    assert buy(client, fault)["id"] is None
    assert times_placed(venue, fault) == 1
    assert logged(venue, fault) == [("answer_lost", fault)]


def test_a_request_on_its_way_longer_than_its_window_is_refused_on_arrival(venue: Any, client: Any) -> None:
    venue.fault("delay", seconds=0.3)
    with pytest.raises(ccxt.InvalidNonce):
        buy(client, "late", recvWindow=200)
    assert times_placed(venue, "late") == 0
    venue.fault("delay", seconds=0.3)
    began = time.monotonic()
    assert buy(client, "late")["status"] == "closed"
    assert time.monotonic() - began >= 0.3


def test_an_order_lands_after_its_client_gave_up(venue: Any, client: Any) -> None:
    impatient = ccxt.binance(venue.options(timeout=100))
    impatient.load_markets()
    venue.fault("delay", seconds=0.5)
    with pytest.raises(ccxt.RequestTimeout):
        buy(impatient, "straggler")
    with pytest.raises(ccxt.OrderNotFound):
        client.fetch_order(None, SYMBOL, {"clientOrderId": "straggler"})
    venue.wait_for_log(
        lambda e: e["client_order_id"] == "straggler" and e["outcome"] == "accepted" and e["method"] == "POST"
    )
    assert client.fetch_order(None, SYMBOL, {"clientOrderId": "straggler"})["status"] == "closed"


def test_a_late_answer_comes_after_the_fact(venue: Any, client: Any) -> None:
    venue.fault("delay_answer", seconds=0.4)
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(buy(client, "slow-answer")))
    thread.start()
    venue.wait_for_log(lambda e: e["client_order_id"] == "slow-answer")
    assert times_placed(venue, "slow-answer") == 1
    assert answers == []
    thread.join(10)
    assert answers[0]["status"] == "closed"


def test_lookups_fail_or_lie(venue: Any, client: Any) -> None:
    buy(client, "there")
    venue.fault("lookup_error", LOOKUP)
    with pytest.raises(ccxt.OperationFailed):
        client.fetch_order(None, SYMBOL, {"clientOrderId": "there"})
    venue.fault("lookup_miss", LOOKUP)
    with pytest.raises(ccxt.OrderNotFound):
        client.fetch_order(None, SYMBOL, {"clientOrderId": "there"})
    assert client.fetch_order(None, SYMBOL, {"clientOrderId": "there"})["status"] == "closed"


def test_a_partial_fill(venue: Any, client: Any) -> None:
    venue.fault("partial", fraction="0.25")
    order = client.create_order(SYMBOL, "market", "buy", 0.004)
    assert (order["status"], order["filled"]) == ("expired", 0.001)
    venue.fault("partial", fraction="0.5")
    resting = client.create_order(SYMBOL, "limit", "buy", 0.004, 21000)
    assert (resting["status"], resting["filled"]) == ("open", 0.002)
    assert client.cancel_order(resting["id"], SYMBOL)["filled"] == 0.002


def test_rules_match_count_and_are_drawn_from_their_seed(venue: Any, client: Any) -> None:
    venue.fault("reject", match={"client_order_id": "only-me"}, times=None)
    assert buy(client, "not-me")["status"] == "closed"
    for _ in range(2):
        with pytest.raises(ccxt.ExchangeError):
            buy(client, "only-me")
    (rule,) = venue.admin("GET", "faults")["faults"]
    assert (rule["seen"], rule["fired"]) == (2, 2)
    venue.clear_faults()
    venue.fault("reject", after=1)
    assert buy(client, "first")["status"] == "closed"
    with pytest.raises(ccxt.ExchangeError):
        buy(client, "second")
    outcomes = []
    for _ in range(2):
        venue.clear_faults()
        venue.fault("lookup_miss", "GET /api/v3/time", probability=0.5, seed=3, times=None)
        outcomes.append([_works(client) for _ in range(12)])
    assert outcomes[0] == outcomes[1]
    assert len(set(outcomes[0])) == 2


def _works(client: Any) -> bool:
    try:
        client.fetch_time()
    except ccxt.ExchangeError:
        return False
    return True


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"fault": "explode"}, "fault is 'explode'; allowed: drop_request"),
        ({"fault": "delay", "second": 1}, "unknown field 'second'"),
        ({"fault": "delay", "seconds": -1}, "seconds is -1"),
        ({"fault": "delay", "match": {"path": "/"}}, "its fields are: endpoint"),
        ({"fault": "partial", "fraction": "half"}, "fraction is 'half'"),
        ({"fault": "reject", "times": 0}, "times is 0"),
        ("delay", "a rule must be an object"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(venue: Any, body: object, message: str) -> None:
    with pytest.raises(AssertionError, match="400") as refused:
        venue.admin("POST", "faults", [body])
    assert message in str(refused.value)
    assert venue.admin("GET", "faults")["faults"] == []


@pytest.mark.parametrize(
    ("what", "body", "message"),
    [
        ("clock", {"speed": -1}, "speed is -1"),
        ("clock", {"advance_seconds": "x"}, "advance_seconds is 'x'"),
        ("price", {"price": "0"}, "price is 0"),
        ("price", {"market": "X/Y", "price": "1"}, "it must be one of BTC/USDT"),
        ("balance", {"asset": "USDT", "quantity": "NaN"}, "quantity is 'NaN'"),
        ("balance", {"asset": "USDT", "quantity": "-1e9"}, "insufficient balance"),
        ("balance", {"key": "stranger", "asset": "USDT", "quantity": "1"}, "no account has it"),
        ("price", [1], "the body must be an object"),
    ],
)
def test_an_admin_request_that_makes_no_sense_is_refused(venue: Any, what: str, body: Any, message: str) -> None:
    with pytest.raises(AssertionError, match="400") as refused:
        venue.admin("POST", what, body)
    assert message in str(refused.value)


def test_an_answer_of_429_says_when_to_come_back(venue: Any) -> None:
    venue.fault("too_many_requests", "GET /api/v3/time", seconds=7)
    with pytest.raises(Exception, match="429") as refused:
        urlopen(Request(f"{venue.url}/api/v3/time"), timeout=5)
    assert refused.value.headers["Retry-After"] == "7"  # type: ignore[attr-defined]
