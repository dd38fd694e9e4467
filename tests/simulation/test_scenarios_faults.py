"""Scenarios 9, 22, 23, 45 and 50 once more: venues that hide an order, disks, clocks and process ids that are real."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import ccxt
import pytest

from tests.plugins.desk import Desk, Process

LOOK_UP = "GET /api/v3/order"
SYMBOL = "BTC/USDT"
ASKED = """SELECT EXISTS (SELECT FROM incident WHERE order_id = %s AND kind = 'unexplained execution'
  AND severity = 'critical' AND resolved_at IS NULL)"""
RESOLVE = "UPDATE incident SET resolved_at = clock_timestamp()"


@pytest.fixture
def human(desk: Desk) -> Any:
    """Somebody with the same keys and plain ccxt."""
    exchange = ccxt.binance(desk.venue.options())
    exchange.load_markets()
    return exchange


class OtherClock:
    """Traders whose own wall clock is not that of the others; where there is no C compiler, tests of it are skipped."""

    def __init__(self, place: Path) -> None:
        self._offset, self._library = place / "offset", place / "other_clock.so"
        compiler = shutil.which("cc")
        if compiler is None or sys.platform != "linux":
            pytest.skip("a moved clock needs Linux and a C compiler (cc)")
        source = Path(__file__).parents[1] / "plugins" / "other_clock.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", self._library, source], check=True, timeout=60)
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """From now on their clocks are so many seconds ahead of everybody's."""
        with open(self._offset, "r+b" if self._offset.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))

    def trader(self, desk: Desk) -> Process:
        moved = {"LD_PRELOAD": str(self._library), "OTHER_CLOCK": str(self._offset)}
        process = Process(["run", "trader"], desk.environment | moved, desk.home / "moved-clock.log")
        desk.processes.append(process)
        return process


@pytest.fixture
def other_clock(tmp_path: Path) -> OtherClock:
    return OtherClock(tmp_path)


def hide(desk: Desk) -> None:
    """From now on no look-up finds anything. On a slow machine a request, too, needs more than a second."""
    desk.execute("UPDATE account SET receive_window = '3 s'")
    desk.venue.fault("lookup_miss", endpoint=LOOK_UP, times=None)


def test_s09_a_market_order_that_the_look_up_hides_for_good_is_not_sent_again(desk: Desk) -> None:
    """look-up says not-found, then found -> never marked rejected meanwhile: however long it says so.

    The answer is lost, the order has traded, every look-up denies it: the list of executions shows it.
    """
    desk.venue.fault("drop_answer")
    hide(desk)
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.wait_for(ASKED, order)
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt WHERE reason LIKE 'not found, but the venue''s order%%')")
    last = max(one["id"] for one in desk.venue.log())
    desk.venue.wait_for_log(lambda one: one["id"] > last and one["path"] == "/api/v3/myTrades")  # it goes on looking
    assert (desk.state(order).status, len(desk.posts())) == ("submitted", 1)
    assert desk.value("SELECT held FROM allowance WHERE asset = 'USDT'") == 60
    assert desk.value("SELECT count(*) FROM incident") == 1

    desk.venue.clear_faults()
    desk.known_once(order)
    assert len(desk.posts()) == 1


def test_s09_an_order_that_rests_and_the_look_up_hides_is_found_in_the_list(desk: Desk) -> None:
    """look-up says not-found -> the list of open orders has it by our name: accepted, and looked after."""
    desk.venue.fault("drop_answer")
    hide(desk)
    order = desk.order("s", type="limit", quantity="0.001", limit_price="40000")
    desk.trader()
    desk.wait_for_status(order, "accepted")
    desk.venue.clear_faults()
    desk.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", order)
    desk.wait_for_status(order, "canceled")
    assert len(desk.posts()) == 1
    desk.check()


def test_s09_a_trade_that_could_be_ours_waits_for_a_persons_word(desk: Desk, human: Any) -> None:
    """look-up says not-found and it is true, but somebody bought as much -> asked; with the answer it is sent once."""
    desk.venue.fault("drop_request")
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt)")
    hide(desk)  # else its name would tell whose it is
    human.create_order(SYMBOL, "market", "buy", 0.001)
    desk.wait_for(ASKED, order)
    assert [one["client_order_id"] for one in desk.venue.orders() if len(one["client_order_id"]) == 36] == []
    told = desk.value("SELECT message FROM incident WHERE order_id = %s", order)
    assert "buy 0.001 BTC/USDT" in told

    desk.venue.clear_faults()
    desk.execute(RESOLVE)
    assert desk.wait_for_status(order, "filled", "denied").status == "filled"
    ours = [one for one in desk.venue.orders() if len(one["client_order_id"]) == 36]
    assert len(ours) == 1


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_s09_a_venue_that_hides_the_execution_too_is_told_by_its_balances(desk: Desk, done: bool) -> None:
    """look-up, open orders and executions say nothing -> what the account has more and less decides."""
    assert desk.process("reconcile", "main").wait() == 0  # opens the account: the books are the venue's balances
    desk.venue.fault("drop_answer" if done else "drop_request")
    desk.venue.hide_orders()
    desk.execute("UPDATE account SET receive_window = '3 s'")
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    if done:
        desk.wait_for(ASKED, order)
        told = desk.value("SELECT message FROM incident")
        assert "BTC more and 59." in told, told
        desk.venue.clear_faults()
    desk.known_once(order)
    assert len(desk.posts()) == (1 if done else 2)


def test_s09_what_somebody_traded_is_taken_off_what_balances_tell(desk: Desk, human: Any) -> None:
    """look-up says not-found and it is true; somebody's trade is in the balances, and cannot be booked while the order
    is in doubt -> it is his by its name: sent once more, nobody is asked."""
    assert desk.process("reconcile", "main").wait() == 0
    desk.venue.fault("drop_request")
    desk.execute("UPDATE account SET receive_window = '3 s'")
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt)")
    human.create_order(SYMBOL, "market", "buy", 0.0011)
    assert desk.wait_for_status(order, "filled", "denied").status == "filled"
    assert desk.value("SELECT count(*) FROM incident") == 0
    assert len(desk.venue.orders()) == 2


def test_s09_an_order_that_only_its_number_finds_is_ours(desk: Desk) -> None:
    """look-up by our name says not-found -> found through its execution, by the venue's number for it."""
    desk.venue.fault("drop_answer")
    order = desk.order("s", quote_quantity="60")
    name = desk.value('SELECT client_order_id::text FROM "order" WHERE id = %s', order)
    desk.venue.fault("lookup_miss", endpoint=LOOK_UP, match={"client_order_id": name}, times=None)
    desk.trader()
    desk.known_once(order)
    assert (len(desk.posts()), desk.value("SELECT count(*) FROM incident")) == (1, 0)


def test_s09_whose_trade_it_is_is_told_by_its_name(desk: Desk, human: Any) -> None:
    """look-up says not-found and it is true; somebody bought exactly as much -> sent once more, nobody is asked."""
    desk.venue.fault("drop_request")
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt)")
    human.create_order(SYMBOL, "market", "buy", 0.0012)
    assert desk.wait_for_status(order, "filled", "denied").status == "filled"
    assert desk.value("SELECT count(*) FROM incident") == 0
    assert len(desk.venue.orders()) == 2


@pytest.mark.parametrize("by", [3600, -3600], ids=["an hour ahead", "an hour behind"])
def test_s23_the_traders_own_clock_jumps_by_an_hour_and_back(desk: Desk, other_clock: OtherClock, by: int) -> None:
    """a clock jump of +-1 h -> ids unique, leases safe, nonce errors are definite refusals."""
    desk.strategy("t", deposit=100)
    other_clock.trader(desk)
    orders = [desk.order("t", quote_quantity="10")]
    desk.wait_for_status(orders[0], "filled")
    other_clock.jump(by)
    desk.venue.fault("delay_answer", seconds=2)
    orders.append(desk.order("t", quote_quantity="10"))
    lease = "SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM lane WHERE owner IS NOT NULL"
    desk.wait_for("SELECT EXISTS (SELECT FROM lane WHERE owner IS NOT NULL)")
    assert 20 < desk.value(lease) <= 30
    assert desk.wait_for_status(orders[1], "filled", "rejected", "denied").status == "filled"  # the database's stamp

    desk.venue.fault("drop_answer")
    orders.append(desk.order("s", quote_quantity="60"))
    desk.venue.wait_for_log(lambda one: (one["method"], one["path"], one["code"]) == ("GET", "/api/v3/order", -1021))
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt WHERE reason LIKE 'the look-up failed%%-1021%%')")
    assert desk.value("SELECT held FROM allowance WHERE strategy = 's'") == 60
    other_clock.jump(0)
    assert desk.wait_for_status(orders[2], "filled", "rejected", "denied").status == "filled"

    assert len(desk.posts()) == len(desk.venue.orders()) == len({one["client_order_id"] for one in desk.venue.orders()})
    assert len(desk.posts()) == len(orders)
    late = "SELECT max(abs(extract(epoch FROM {0} - clock_timestamp()))) < 120 FROM {1}"
    for column, table in (
        ("submitted_at", '"order"'),
        ("traded_at", "fill"),
        ("at", "order_event"),
        ("beat_at", "role"),
    ):
        assert desk.value(late.format(column, table)), table
    desk.check()
