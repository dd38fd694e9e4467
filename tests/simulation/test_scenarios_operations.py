"""Scenarios 46-48 and 50: power cuts, the emergency stop, migrations with live data, and every mode the same.

Scenario 45 is tested where its fixtures are: tests/acceptance/test_cron.py and tests/integration/test_watchdog.py.
"""

import random
import time
from collections.abc import Callable

import pytest

from tests.plugins.desk import BROKEN_CHAIN, MARKET, Desk, OwnDesk
from trader import migrate

MakeDesk = Callable[..., Desk]
OPEN = "('accepted', 'partially_filled', 'pending_cancel')"
CANCEL_ALL = f'UPDATE "order" SET cancel_requested_at = now() WHERE status IN {OPEN} AND cancel_requested_at IS NULL'
UNFINISHED = f"SELECT count(*) FROM \"order\" WHERE status IN ('queued', 'submitted') OR status IN {OPEN}"
BURST = """INSERT INTO orders (strategy, market, side, type, quote_quantity, expires_at)
  SELECT 's' || n %% 10, 'binance:BTC/USDT', 'buy', 'market', 10, now() + interval '1 h'
    FROM generate_series(0, %s - 1) n"""
# Everything that the books are made of, to the last digit.
LATER = ["external_fill_id", "time_in_force", "trigger_price", "trigger_when", "triggered_at", "after_id", "parent_id"]
LATER += ["replaces_id", "due_quantity", "replaced_quantity", "looked_up_by", "bucket_part", "trail"]
"""Columns that steps after the one below added: they come and go with their steps."""
HASHES = """
SELECT name, md5(string_agg((line - %s::text[])::text, E'\\n' ORDER BY (line - %s::text[])::text)) FROM (
  SELECT 'order' AS name, to_jsonb(o) AS line FROM "order" o UNION ALL SELECT 'event', to_jsonb(e) FROM order_event e
  UNION ALL SELECT 'ledger', to_jsonb(l) FROM ledger l UNION ALL SELECT 'fill', to_jsonb(f) FROM fill f
  UNION ALL SELECT 'balance', to_jsonb(b) FROM balance b UNION ALL SELECT 'hold', to_jsonb(h) FROM hold h
  UNION ALL SELECT 'position', to_jsonb(p) FROM position p UNION ALL SELECT 'flow', to_jsonb(w) FROM flow w
  UNION ALL SELECT 'lane', to_jsonb(n) FROM lane n) x
 GROUP BY name ORDER BY name
"""


def queue_some(desk: Desk, dice: random.Random) -> None:
    """What strategies want: some of it now, some at a price."""
    for _ in range(12):
        fields = {"strategy": f"s{dice.randrange(4)}", "market": MARKET, "side": dice.choice(("buy", "buy", "sell"))}
        if dice.random() < 0.6:
            desk.order(**fields, quote_quantity=dice.choice(("4", "10", "25")))
        else:
            price = dice.choice(("48000", "50100", "52000"))
            desk.order(**fields, type="limit", quantity="0.0004", limit_price=price)


def finish(desk: Desk) -> None:
    """Until nothing is queued, in flight, in doubt or open."""
    deadline = time.monotonic() + 60
    while desk.value(UNFINISHED) and time.monotonic() < deadline:
        desk.execute(CANCEL_ALL)
        time.sleep(0.1)
    assert desk.value(UNFINISHED) == 0


@pytest.mark.timeout(240)
def test_s46_the_power_is_cut_again_and_again(make_own_desk: Callable[..., OwnDesk]) -> None:
    """power cut (kill -9 everything, PostgreSQL too) at random moments, many times -> A-F hold."""
    desk, dice = make_own_desk("--balance", "USDT=100000"), random.Random(46)
    desk.execute("UPDATE account SET receive_window = '1 s'")
    for number in range(4):
        desk.strategy(f"s{number}", deposit=1000)
    for cut in range(6):
        desk.trader(), desk.trader()
        queue_some(desk, dice)
        desk.wait_for("SELECT EXISTS (SELECT FROM \"order\" WHERE status <> 'queued' AND type IN ('market', 'limit'))")
        if dice.random() < 0.5:
            desk.venue.fault(dice.choice(("drop_answer", "delay_answer")), times=3)
        queue_some(desk, dice)
        time.sleep(dice.uniform(0, 1.5))  # when the power goes is drawn
        desk.cut_power()
        if cut % 2:
            desk.venue.kill()
            desk.venue.start()
        desk.venue.price(dice.choice(("49000", "50000", "51000")))
        assert desk.execute("SELECT * FROM invariant_violation") == []
        assert desk.execute(BROKEN_CHAIN) == []
    desk.venue.clear_faults()
    desk.trader(), desk.trader()
    finish(desk)
    assert desk.value("SELECT count(*) FROM orders WHERE status = 'filled'") > 20
    desk.check()


def test_s47_halted_in_the_middle_of_a_burst(make_desk: MakeDesk) -> None:
    """halt one account in the middle of a burst -> no new send after the commit, cancels still pass."""
    desk = make_desk("--balance", "USDT=100000")
    for number in range(10):
        desk.strategy(f"s{number}", deposit=1000)
    desk.trader(), desk.trader()
    resting = desk.order("s0", type="limit", quantity="0.001", limit_price="40000")
    desk.wait_for_status(resting, "accepted")
    desk.venue.fault("delay_answer", seconds=0.05, times=None)
    desk.execute(BURST, 400)
    desk.wait_for("SELECT count(*) > 20 FROM \"order\" WHERE status = 'filled'")
    with desk.sql.transaction():  # nobody passes the last look before the send; what had passed it arrives
        desk.execute("LOCK TABLE account IN ACCESS EXCLUSIVE MODE")
        arrived = None
        while arrived != (now := len(desk.posts())):
            arrived = now
            time.sleep(0.5)  # nothing more on its way
        desk.execute("UPDATE account SET halted = true, halt_reason = 'a test' WHERE name = 'main'")
    desk.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", resting)
    assert desk.wait_for_status(resting, "canceled", "filled").status == "canceled"
    desk.settled()

    assert len(desk.posts()) == arrived
    reasons = desk.execute("SELECT DISTINCT reason FROM orders WHERE status = 'denied' ORDER BY 1")
    assert {row.reason for row in reasons} <= {
        "account main is halted",
        "the account was halted before it was sent",
        "it never reached the venue, and the account is halted",
    }
    assert desk.value("SELECT count(*) FROM orders WHERE status = 'denied'") > 100
    assert desk.value("SELECT sum(held) FROM allowance") == 0
    desk.check()


def test_s47_how_much_is_on_its_way_when_the_halt_commits(
    make_desk: MakeDesk, record_property: Callable[[str, object], None]
) -> None:
    """halt one account in the middle of a burst -> no new send after the commit: by the venue's own request log."""
    desk = make_desk("--balance", "USDT=100000")
    for number in range(10):
        desk.strategy(f"s{number}", deposit=1000)
    desk.trader(), desk.trader()
    desk.venue.fault("delay_answer", seconds=0.05, times=None)
    desk.execute(BURST, 400)
    desk.wait_for("SELECT count(*) > 20 FROM \"order\" WHERE status = 'filled'")
    desk.execute("UPDATE account SET halted = true WHERE name = 'main'")
    committed = time.time() * 1000
    desk.settled()

    under_way = [one for one in desk.posts() if one["time"] > committed]
    record_property("on its way at the halt", len(under_way))
    print(f"halt: {len(under_way)} requests were on their way when it committed")
    assert len(under_way) <= 10  # one for each lane: a lane sends one after the other
    assert desk.value("SELECT count(*) FROM orders WHERE status = 'denied'") > 100
    desk.check()


def test_s48_down_and_up_again_with_live_data(desk: Desk) -> None:
    """migrate up, down, up with live data -> ledger and orders hash the same.

    Down to the step that made the ledger: the step before it would drop the ledger itself.
    """
    trader = desk.trader()
    desk.wait_for_status(desk.order("s", quote_quantity="40"), "filled")
    desk.wait_for_status(desk.order("s", side="sell", quantity="0.0005"), "filled")
    resting = desk.order("s", type="limit", quantity="0.001", limit_price="20000")
    desk.wait_for_status(resting, "accepted")
    desk.wait_for_status(desk.order("s", quote_quantity="500"), "denied")
    trader.kill()
    before = desk.execute(HASHES, LATER, LATER)
    assert len(before) == 9
    migrate.downgrade(desk.url, "0005_ledger")
    assert desk.value("SELECT to_regclass('incident') IS NULL AND to_regclass('allowance') IS NULL")
    assert desk.execute(HASHES, LATER, LATER) == before
    migrate.upgrade(desk.url)
    assert desk.execute(HASHES, LATER, LATER) == before

    desk.trader()
    desk.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", resting)
    desk.wait_for_status(resting, "canceled")
    desk.wait_for_status(desk.order("s", quote_quantity="10"), "filled")
    desk.check()


@pytest.mark.parametrize("mode", ["simulator", "live"])
def test_s50_every_mode_goes_the_same_way(make_desk: MakeDesk, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """paper mode passes 1-38 unchanged.

    Every scenario here runs in mode simulator. The hardest of them run again, in one desk, in mode live against the
    same venue: the same must come of them, since nothing but the connection knows the mode.
    """
    monkeypatch.setenv("TALLYDESK_ALLOW_LIVE", "1")
    desk = make_desk("--balance", "USDT=1000")
    desk.execute(
        """INSERT INTO account (name, exchange_id, mode, credentials, receive_window)
        VALUES ('other', 1, %s, 'TEST', '1 s')""",
        mode,
    )
    desk.execute("INSERT INTO strategy (name, account_id, unit_id) VALUES ('s', 2, 1)")
    desk.deposit("s", 100)
    desk.venue.fault("drop_answer")
    lost = desk.order("s", quote_quantity="20")
    first = desk.trader()
    came_of = [desk.wait_for_status(lost, "filled", "denied", "rejected")]
    desk.venue.fault("drop_request")
    came_of += [desk.wait_for_status(desk.order("s", quote_quantity="20"), "filled", "denied", "rejected")]
    desk.venue.fault("partial")
    rest = desk.order("s", type="limit", quantity="0.0008", limit_price="50100")
    desk.wait_for_status(rest, "partially_filled")
    first.kill()
    desk.trader()
    desk.venue.fault("drop_answer", endpoint="DELETE /api/v3/order")
    desk.execute("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", rest)
    came_of += [desk.wait_for_status(rest, "canceled", "filled")]
    came_of += [desk.wait_for_status(desk.order("s", quote_quantity="60"), "denied", "filled")]
    came_of += [desk.wait_for_status(desk.order("s", side="sell"), "filled", "denied")]

    assert [one.status for one in came_of] == ["filled", "filled", "canceled", "denied", "filled"]
    assert {one.account for one in came_of} == {"other"}
    assert [one.filled_quantity > 0 for one in came_of] == [True, True, True, False, True]
    assert len(desk.venue.orders()) == 4
    desk.check()
