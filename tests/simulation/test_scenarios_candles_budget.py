"""Scenario 44, and what the processes of one installation ask of a venue together: scheduler, workers and trader."""

import os
import time
from collections.abc import Callable
from typing import Any
from urllib.request import urlopen

import pytest

from tests.plugins.desk import Desk

KLINES, ORDER = "/api/v3/klines", "/api/v3/order"
COINS = ("BTC", *(f"C{number}" for number in range(1, 16)))
SHUT_SECONDS = 6
ALLOWANCE = 1.0
"""Seconds for what is on its way when a venue says "too many requests", and for the word to go round."""
MARKETS = """
INSERT INTO asset (code) SELECT unnest(%s::text[]) ON CONFLICT DO NOTHING;
"""
MARKET = """
INSERT INTO market (exchange_id, symbol, base_id, quote_id, price_tick, quantity_step, quantity_min, cost_min,
  maker_fee, taker_fee)
SELECT 1, code || '/USDT', id, 1, 0.01, 0.00001, 0.00001, 5, 0.001, 0.001 FROM asset
 WHERE code = ANY(%s) ON CONFLICT DO NOTHING
"""
FEEDS = """
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) SELECT id, 1, now() - interval '55 days' FROM market
"""
WORKING = """
SELECT count(DISTINCT application_name) = 2 FROM pg_stat_activity
 WHERE application_name ~ '^worker-[0-9]+ budget$' AND datname = current_database()
"""
"""Both workers have a connection to the venue: they open the budget's with it."""


@pytest.fixture
def busy_desk(make_desk: Callable[..., Desk]) -> Desk:
    """Two workers with hours of candles to fetch within 1,200 weight a minute, a scheduler and a trader."""
    markets = [word for coin in COINS for word in ("--market", f"{coin}/USDT")]
    desk = make_desk("--weight-limit", "1200", "--balance", "USDT=1000", *markets)
    desk.execute("UPDATE exchange SET options = options - 'enableRateLimit'")
    desk.execute(MARKETS, list(COINS))
    desk.execute(MARKET, list(COINS))
    desk.strategy("s", deposit=100)
    desk.ready_trader()
    for role in ("worker", "worker", "scheduler"):
        desk.process("run", role)
    desk.execute(FEEDS)
    desk.wait_for(WORKING)
    desk.venue.wait_for_log(lambda one: one["path"] == KLINES and one["outcome"] == "accepted", 60)
    return desk


def since(desk: Desk, moment: float) -> list[dict[str, Any]]:
    return [one for one in desk.venue.log() if one["time"] > moment]


@pytest.mark.parametrize(("fault", "status"), [("too_many_requests", 429), ("banned", 418)])
def test_s44_one_process_is_told_to_wait_and_all_of_them_do(busy_desk: Desk, fault: str, status: int) -> None:
    desk = busy_desk
    desk.venue.fault(fault, f"GET {KLINES}", seconds=SHUT_SECONDS)
    told = desk.venue.wait_for_log(lambda one: one["status"] == status, 30)["time"]
    desk.wait_for("SELECT blocked_until IS NOT NULL AND why LIKE %s FROM budget", f"HTTP {status}%")
    order = desk.order("s", type="limit", quantity="0.001", limit_price="51000")
    desk.wait_for('SELECT reason LIKE %s FROM "order" WHERE id = %s', "not placed, will be sent again%", order)
    desk.wait_for_status(order, "filled")
    opens = told + 1000 * SHUT_SECONDS
    desk.venue.wait_for_log(lambda one: one["path"] == KLINES and one["time"] > opens, 30)
    after = since(desk, told)
    early = [one for one in after if told + 1000 * ALLOWANCE < one["time"] < opens]
    assert early == [], f"told at {told}, open at {opens}"
    first_order = next(one["time"] for one in after if (one["method"], one["path"]) == ("POST", ORDER))
    first_candles = next(one["time"] for one in after if one["path"] == KLINES and one["time"] > opens)
    assert opens <= first_order < first_candles
    assert [one["status"] for one in desk.venue.log() if one["status"] in (418, 429)] == [status]
    desk.wait_for(WORKING)
    desk.settled()
    desk.check()


def test_workers_keep_to_the_limit_that_the_venue_states(busy_desk: Desk) -> None:
    """In ten seconds; ccxt's own pace of each process knows nothing of it."""
    desk = busy_desk
    began = time.time()
    desk.wait_for("SELECT capacity = 240 FROM budget")
    desk.wait_for("SELECT clock_timestamp() > to_timestamp(%s)", began + 10)
    log = since(desk, began * 1000)
    assert [one for one in log if one["status"] in (418, 429)] == []
    weight = sum(one["weight"] for one in log)
    assert weight > 60, "they had nothing to do"
    assert weight < 10 * 1200 / 60 + 80
    assert desk.value("SELECT used <= capacity FROM budget")


def ask_as_another_program(desk: Desk) -> int:
    """A dear request from this address; what the venue has counted in its minute."""
    with urlopen(f"{desk.venue.url}/api/v3/exchangeInfo", timeout=10) as answer:
        return int(answer.headers["X-MBX-USED-WEIGHT-1M"])


@pytest.mark.skipif(os.environ.get("TALLYDESK_SLOW") != "1", reason="takes two minutes: TALLYDESK_SLOW=1 runs it")
def test_another_program_at_the_same_address_makes_the_candles_wait_and_not_the_orders(busy_desk: Desk) -> None:
    desk = busy_desk
    desk.wait_for("SELECT capacity = 240 AND extract(second FROM clock_timestamp()) BETWEEN 1 AND 10 FROM budget")
    minute = desk.venue.clock()["wall"] // 60_000
    while ask_as_another_program(desk) < 900:
        pass
    desk.wait_for("SELECT used >= 215 FROM budget")
    order = desk.order("s", type="limit", quantity="0.001", limit_price="51000")
    desk.wait_for_status(order, "filled", patience=10)
    desk.wait_for("SELECT used < 100 FROM budget", patience=90)
    log = [one for one in desk.venue.log() if one["time"] // 60_000 == minute]
    assert [one for one in log if one["status"] in (418, 429)] == []
    assert 1040 < sum(one["weight"] for one in log) <= 1200
    candles = [one["time"] for one in log if one["path"] == KLINES]
    assert candles[-1] < (minute + 1) * 60_000 - 10_000, "they did not wait for the next minute"
