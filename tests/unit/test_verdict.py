"""The error table: every row, and above all every class that is not in it."""

import subprocess
import sys
from typing import Any

import pytest
from ccxt.base import errors

from trader.errors import Fatal, Refused, Retry, Unknown
from trader.exchange.verdict import Failure, judge

REFUSED = (
    "InsufficientFunds",
    "BadSymbol",
    "BadRequest",
    "ArgumentsRequired",
    "NotSupported",
    "MarketClosed",
    "OrderImmediatelyFillable",
    "OrderNotFillable",
    "InvalidOrder",
)
FATAL = ("AuthenticationError", "PermissionDenied", "AccountSuspended")
RETRY = ("DDoSProtection", "RateLimitExceeded", "OnMaintenance", "InvalidNonce")
NOT_PLACED = {name: kind for names, kind in ((REFUSED, Refused), (FATAL, Fatal), (RETRY, Retry)) for name in names}
EVERY_CLASS = sorted(
    name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.BaseError)
)


def failure(name: str, text: str = "some words", **evidence: Any) -> Failure:
    return Failure(**({"venue": "binance", "action": "create", "sent": True, "name": name, "text": text} | evidence))


def test_ccxt_has_the_classes_of_the_table() -> None:
    assert set(NOT_PLACED) < set(EVERY_CLASS)
    assert len(EVERY_CLASS) > 35


@pytest.mark.parametrize("name", EVERY_CLASS)
def test_what_is_not_known_to_be_refused_is_in_doubt(name: str) -> None:
    assert type(judge(failure(name))) is NOT_PLACED.get(name, Unknown)


@pytest.mark.parametrize("name", ["", "KeyError", "TypeError", "InsufficientFunds2"])
def test_what_is_not_ccxts_is_in_doubt(name: str) -> None:
    assert type(judge(failure(name))) is Unknown


@pytest.mark.parametrize("name", EVERY_CLASS)
def test_unsent_and_the_network_is_to_blame_means_not_placed(name: str) -> None:
    network = name in ("ExchangeNotAvailable", "RequestTimeout", "NetworkError")
    expected = Retry if network else NOT_PLACED.get(name, Unknown)
    assert type(judge(failure(name, sent=False))) is expected


@pytest.mark.parametrize("name", [*REFUSED, *FATAL])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_broken_server_refuses_nothing(name: str, status: int) -> None:
    assert type(judge(failure(name, status=status))) is Unknown


@pytest.mark.parametrize("name", RETRY)
def test_the_wait_is_handed_on(name: str) -> None:
    error = judge(failure(name, after=3.5, status=503))
    assert isinstance(error, Retry)
    assert error.after == 3.5


@pytest.mark.parametrize(
    ("venue", "name", "text"),
    [
        ("binance", "InvalidOrder", 'binance {"code":-2010,"msg":"Duplicate order sent."}'),
        ("bybit", "InvalidOrder", 'bybit {"retCode":110072,"retMsg":"OrderLinkedID is duplicate"}'),
        ("bybit", "InvalidOrder", 'bybit {"retCode": 170141, "retMsg": "Duplicate clientOrderId."}'),
        ("bybit", "BadRequest", 'bybit {"retCode":"10014","retMsg":"Request is duplicate"}'),
        ("bybit", "BadRequest", 'bybit {"retCode":12141,"retMsg":"Duplicate clientOrderId."}'),
        ("kraken", "ExchangeError", 'kraken {"error":["EOrder:cl_ord_id is a duplicate"]}'),
        ("krakenfutures", "DuplicateOrderId", "krakenfutures clientOrderIdAlreadyExist"),
        ("anywhere", "DuplicateOrderId", "x"),
    ],
)
def test_a_duplicate_id_proves_that_the_order_exists(venue: str, name: str, text: str) -> None:
    error = judge(failure(name, text, venue=venue))
    assert isinstance(error, Unknown)
    assert error.exists


@pytest.mark.parametrize(
    ("venue", "name", "text"),
    [
        ("kraken", "InvalidOrder", "Duplicate order sent."),
        ("bybit", "InvalidOrder", '{"retCode":1100721}'),
        ("bybit", "InvalidOrder", '{"retCode":170140,"qty":"170141"}'),
        ("binance", "InvalidOrder", "Filter failure: LOT_SIZE"),
    ],
)
def test_other_refusals_are_no_duplicates(venue: str, name: str, text: str) -> None:
    assert type(judge(failure(name, text, venue=venue))) is Refused


def test_bybits_creation_timeout_is_in_doubt_though_ccxt_calls_it_invalid() -> None:
    error = judge(failure("InvalidOrder", '{"retCode":170146,"retMsg":"Order creation timeout."}', venue="bybit"))
    assert isinstance(error, Unknown)
    assert not error.exists


def test_only_a_cancel_takes_not_found_for_a_refusal() -> None:
    kinds = {action: type(judge(failure("OrderNotFound", action=action))) for action in ("create", "cancel", "read")}
    assert kinds == {"create": Unknown, "cancel": Refused, "read": Unknown}


def test_the_protocol_and_the_table_do_without_ccxt() -> None:
    code = (
        "import sys, trader.exchange.protocol, trader.exchange.verdict, trader.exchange.convert, trader.exchange.venue;"
        "sys.exit('ccxt' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("EOrder:Post only order", Refused),
        ("EOrder:Cost minimum not met", Refused),
        ("EGeneral:Invalid arguments:timeinforce", Refused),
        ("EGeneral:Invalid arguments:cl_ord_id", Unknown),
        ("EGeneral:Invalid arguments:deadline", Unknown),
        ("EService:Deadline elapsed", Unknown),
        ("EAPI:Invalid signature", Fatal),
        ("EOrder:Domain rate limit exceeded", Retry),
        ("EOrder:Something else", Unknown),
    ],
)
def test_kraken_says_some_refusals_in_words_alone(words: str, expected: Any) -> None:
    text = f'ExchangeError: kraken {{"error":["{words}"]}}'
    assert type(judge(failure("ExchangeError", text, venue="kraken"))) is expected
    assert type(judge(failure("ExchangeError", text, venue="binance"))) is Unknown
    assert type(judge(failure("NetworkError", text, venue="kraken"))) is Unknown
    assert type(judge(failure("ExchangeError", text, venue="kraken", status=502))) in (Unknown, Retry)
