"""What venues say of their limits, as it is understood."""

import pytest

from trader.exchange.limiter import LONGEST_SHUT_SECONDS, Said, heard, stated

URL = "https://api.binance.com/api/v3/klines"
DATE = "Fri, 20 Nov 2026 10:00:42 GMT"


def test_binances_weight_becomes_units_of_ccxt() -> None:
    said = heard("binance", 200, URL, {"X-MBX-USED-WEIGHT-1M": "1200", "Date": DATE})
    assert said == Said(used=240.0, minute_left=18.0)


@pytest.mark.parametrize(
    ("ccxt_id", "url", "value"),
    [
        ("binance", "https://api.binance.com/sapi/v1/x", "5"),
        ("kraken", URL, "5"),
        ("binance", URL, "-5"),
        ("binance", URL, ""),
    ],
)
def test_what_is_no_count_of_its_minute_is_left_alone(ccxt_id: str, url: str, value: str) -> None:
    assert heard(ccxt_id, 200, url, {"X-MBX-USED-WEIGHT-1M": value, "Date": DATE}) is None


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (418, {"retry-after": "120"}, 120.0),
        (429, {"Retry-After": "Fri, 20 Nov 2026 10:01:00 GMT", "Date": DATE}, 19.0),
        (429, {"Retry-After": "Fri, 20 Nov 2026 09:00:00 GMT", "Date": DATE}, 1.0),
        (429, {"Retry-After": "99999999999999999999"}, LONGEST_SHUT_SECONDS),
        (429, {"Retry-After": "soon"}, 10.0),
        (429, {}, 10.0),
        (418, None, 120.0),
    ],
)
def test_who_says_too_many_requests_is_left_in_peace(
    status: int, headers: dict[str, str] | None, seconds: float
) -> None:
    said = heard("kraken", status, "https://api.kraken.com/0/public/OHLC", headers)
    assert said is not None
    assert said.shut == seconds
    assert said.why == f"HTTP {status}"


def test_any_other_answer_shuts_nothing() -> None:
    assert heard("binance", 503, URL, {"Retry-After": "7"}) is None


def test_the_limit_that_exchange_info_states() -> None:
    rules = [
        {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 100},
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 1200},
    ]
    assert stated("binance", {"rateLimits": rules}) == Said(stated=240.0)
    for odd in ([], {"rateLimits": None}, {"rateLimits": rules[:1]}, {"rateLimits": ["x", {}]}, "text", None):
        assert stated("binance", odd) is None
    assert stated("kraken", {"rateLimits": rules}) is None
    assert stated("binance", {"rateLimits": [{**rules[1], "limit": 0}]}) is None
