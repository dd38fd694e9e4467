"""The emergency stop in a burst of a thousand orders, and an account's limits under four traders: real processes."""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import ccxt
import pytest

from tests.plugins.desk import WAITING, Desk

MakeDesk = Callable[..., Desk]
Record = Callable[[str, object], None]
ORDERS, STRATEGIES = 1000, 40
SENDS_AT_ONCE = 32
"""A trader's: its calls in flight, and so the orders that may have passed its last look when a halt commits."""
BURST = f"""INSERT INTO orders (strategy, market, side, type, quote_quantity, expires_at)
  SELECT 's' || n % {STRATEGIES}, 'binance:BTC/USDT', 'buy', 'market', 10, now() + interval '1 h'
    FROM generate_series(0, {ORDERS} - 1) n"""
# Those of the named orders that were claimed after a moment, in milliseconds.
CLAIMED_LATER = """
SELECT count(*) FROM order_event e JOIN "order" o ON o.id = e.order_id
 WHERE e.from_status = 'queued' AND e.to_status = 'submitted' AND o.client_order_id = ANY(%s::uuid[])
   AND extract(epoch FROM e.at) * 1000 > %s"""
UNFINISHED = """SELECT NOT EXISTS (SELECT FROM "order" WHERE NOT order_is_final(status))"""
REASONS = {
    "account main is halted",
    "the account was halted before it was sent",
    "it never reached the venue, and the account is halted",
}


def burst(desk: Desk) -> None:
    """Two traders in the middle of a thousand orders over many strategies."""
    for number in range(STRATEGIES):
        desk.strategy(f"s{number}", deposit=1000)
    desk.trader(), desk.trader()
    desk.venue.fault("delay_answer", seconds=0.05, times=None)
    desk.execute(BURST)
    desk.wait_for("SELECT count(*) > 100 FROM \"order\" WHERE status = 'filled'")


def after(desk: Desk, committed: float) -> list[dict[str, Any]]:
    """Requests for new orders that the venue received after a moment, in milliseconds."""
    return [one for one in desk.posts() if one["time"] > committed]


def denied(desk: Desk) -> int:
    return int(desk.value("SELECT count(*) FROM orders WHERE status = 'denied'"))


@pytest.mark.timeout(240)
def test_s47_one_update_in_a_burst_of_a_thousand(make_desk: MakeDesk, record_property: Record) -> None:
    """halt one account in the middle of a burst -> no new send after the commit but the calls already in flight."""
    desk = make_desk("--balance", "USDT=100000")
    burst(desk)
    with desk.sql.transaction():
        desk.execute("UPDATE account SET halted = true WHERE name = 'main'")
    committed = time.time() * 1000
    desk.settled()

    late = after(desk, committed)
    record_property("in flight at the halt", len(late))
    print(f"\nhalt by UPDATE: {len(late)} of {ORDERS} creates were in flight when it committed, none came later")
    assert len(late) <= 2 * SENDS_AT_ONCE
    assert desk.value(CLAIMED_LATER, [one["client_order_id"] for one in late], committed) == 0
    assert {row.reason for row in desk.execute("SELECT DISTINCT reason FROM orders WHERE status = 'denied'")} <= REASONS
    assert denied(desk) > ORDERS / 4
    assert denied(desk) + desk.value("SELECT count(*) FROM orders WHERE status = 'filled'") == ORDERS
    desk.check()


@pytest.mark.timeout(240)
def test_s47_halt_cancels_ours_and_leaves_the_orders_of_others(make_desk: MakeDesk, record_property: Record) -> None:
    """tallydesk halt --cancel-open in the middle of a burst -> sends stop, cancels pass, all of ours ends."""
    desk = make_desk("--balance", "USDT=100000")
    human = ccxt.binance(desk.venue.options())
    theirs = human.create_limit_buy_order("BTC/USDT", 0.001, 30000)["id"]
    desk.strategy("resting", deposit=1000)
    first = desk.order("resting", type="limit", quantity="0.001", limit_price="40000", expires_at="9000-01-01")
    waiting = desk.order("resting", quantity="0.001", trigger_price="60000", trigger_when="rises")
    burst(desk)
    desk.wait_for_status(first, "accepted")
    halt = desk.process("halt", "main", "--cancel-open", "--reason", "a drill")
    assert halt.wait() == 0, halt.output

    at, told = re.search(r"at (\S+ \S+) UTC", halt.output), re.search(r"(\d+) orders were on their way", halt.output)
    assert at, halt.output
    assert told, halt.output
    committed = datetime.fromisoformat(at[1]).replace(tzinfo=UTC).timestamp() * 1000
    desk.wait_for(UNFINISHED)
    late = after(desk, committed)
    record_property("in flight at the halt", len(late))
    print(f"\n{halt.output.strip()}\nby the venue's log: {len(late)} creates came after that")
    assert len(late) <= min(int(told[1]), 2 * SENDS_AT_ONCE)
    assert [desk.state(order).status for order in (first, waiting)] == ["canceled", "canceled"]
    assert denied(desk) + desk.value("SELECT count(*) FROM orders WHERE status = 'canceled'") > ORDERS / 4
    assert desk.value("SELECT sum(held) FROM allowance") == 0
    assert human.fetch_order(theirs, "BTC/USDT")["status"] == "open"
    assert tuple(desk.execute("SELECT state, halt_reason FROM account")[0]) == ("halted", "a drill")
    assert desk.execute("SELECT * FROM invariant_violation") == []

    resume = desk.process("resume", "main")
    assert (resume.wait(), resume.output) == (0, "account main: active again\n")
    desk.wait_for_status(desk.order("resting", quote_quantity="10"), "filled")


@pytest.mark.timeout(240)
@pytest.mark.parametrize("rule", ["max_open_orders", "max_orders_per_minute", "max_position"])
def test_four_traders_keep_to_the_limits_of_an_account(make_desk: MakeDesk, rule: str) -> None:
    """More lanes than one claim takes, so that they claim beside one another: exactly as many as are allowed."""
    desk = make_desk("--balance", "USDT=100000")
    for number in range(120):
        desk.strategy(f"s{number}", deposit=500)
    for _ in range(4):
        desk.trader()
    desk.wait_for("SELECT count(*) = 4 FROM role_status WHERE alive AND kind = 'trader'")
    desk.wait_for_status(desk.order("s0", side="sell", quantity="0.001"), "denied")  # the venue's rules are known
    allowed, value = 50, Decimal(40)  # each is 0.001 BTC at 40,000
    amount = allowed * value if rule == "max_position" else allowed
    desk.execute(f"INSERT INTO limits (account, {rule}) VALUES ('main', {amount})")
    with desk.locking("SELECT FROM risk_limit FOR UPDATE"):  # until two have claimed, and stand in the queue for it
        desk.execute(
            """INSERT INTO orders (strategy, market, side, type, quantity, limit_price)
            SELECT 's' || n % 120, 'binance:BTC/USDT', 'buy', 'limit', 0.001, 40000 FROM generate_series(0, 239) n"""
        )
        desk.wait_for(f"SELECT ({WAITING}) >= 2")
    desk.settled()

    assert len(desk.venue.orders()) == allowed
    reasons = desk.execute("SELECT reason FROM orders WHERE status = 'denied' AND type = 'limit'")
    assert len(reasons) == 240 - allowed
    assert all(rule in row.reason and "account main" in row.reason for row in reasons)
    assert desk.value("SELECT used FROM risk_usage WHERE rule = %s LIMIT 1", rule) == amount
    claims = desk.value("SELECT count(DISTINCT written_by) FROM order_event WHERE to_status IN ('submitted', 'denied')")
    assert claims > 1  # more than one trader had a part in it
    desk.check()


def test_a_reducing_account_sells_what_it_has_and_buys_nothing(make_desk: MakeDesk) -> None:
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    desk.execute("UPDATE account SET receive_window = '1 s'")
    desk.trader()
    desk.wait_for_status(desk.order("s", quantity="0.001"), "filled")
    resting = desk.order("s", type="limit", quantity="0.0005", limit_price="40000")
    desk.wait_for_status(resting, "accepted")
    desk.venue.fault("drop_request")
    lost = desk.order("s", quote_quantity="10")
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt)")
    reducing = desk.process("halt", "main", "--reducing")
    assert reducing.wait() == 0
    assert "account main: reducing, only sells are sent" in reducing.output

    state = desk.wait_for_status(lost, "denied", "filled")
    assert state.reason == "it never reached the venue, and the account is reducing: only sells are sent"
    state = desk.wait_for_status(desk.order("s", quote_quantity="10"), "denied", "filled")
    assert state.reason == "account main is reducing: only sells are sent"
    assert desk.wait_for_status(desk.order("s", side="sell"), "filled", "denied").status == "filled"
    desk.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", resting)
    assert desk.wait_for_status(resting, "canceled", "filled").status == "canceled"
    assert desk.process("resume").wait() == 0
    assert desk.wait_for_status(desk.order("s", quote_quantity="10"), "filled", "denied").status == "filled"
    desk.check()
