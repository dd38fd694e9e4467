"""Scenarios 19-27: several traders, traders that hang, databases and clocks that fail, rows that people touch."""

import random
import time
from collections.abc import Callable

import psycopg
import pytest

from tests.plugins.desk import Desk, OwnDesk

SUBMITTED = "SELECT count(*) = %s FROM \"order\" WHERE status = 'submitted'"
FULL_DISK = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON fill FOR EACH STATEMENT EXECUTE FUNCTION full_disk();
"""
# The database's clock for its processes, as an operator's hand or a bad time server moves it.
OTHER_CLOCK = """
CREATE SCHEMA other;
CREATE TABLE other.jump (by interval NOT NULL);
INSERT INTO other.jump VALUES ('0');
CREATE FUNCTION other.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
  AS $$ SELECT pg_catalog.clock_timestamp() + by FROM other.jump $$;
"""


@pytest.mark.timeout(240)
def test_s19_a_trader_is_killed_each_second_among_a_thousand_orders(make_desk: Callable[..., Desk]) -> None:
    """4 traders, 1,000 queued rows, a random one killed every second -> each sent exactly once."""
    desk = make_desk("--balance", "USDT=100000")
    dice = random.Random(7)
    for number in range(20):
        desk.strategy(f"s{number}", deposit=1000)
    desk.venue.fault("delay_answer", seconds=0.03, times=None)
    desk.execute("""INSERT INTO orders (strategy, market, side, type, quote_quantity, expires_at)
      SELECT 's' || n % 20, 'binance:BTC/USDT', 'buy', 'market', 10, now() + interval '1 h'
        FROM generate_series(1, 1000) n""")
    traders = [desk.trader() for _ in range(4)]
    unfinished, kills = "SELECT count(*) FROM \"order\" WHERE status IN ('queued', 'submitted')", 0
    while left := desk.value(unfinished):
        second = time.monotonic() + 1
        desk.wait_for(f"SELECT ({unfinished}) < {left}")  # on a slow machine, traders need more than a second to start
        while time.monotonic() < second and desk.value(unfinished):
            time.sleep(0.05)  # the rhythm of the kills is the test itself
        victim = dice.randrange(4)
        traders[victim].kill()
        kills += 1
        traders[victim] = desk.trader()

    assert kills >= 3
    assert desk.value("SELECT count(*) FROM orders WHERE status = 'filled'") == 1000
    at_venue = desk.venue.orders()
    assert len(at_venue) == len({one["client_order_id"] for one in at_venue}) == 1000
    desk.check()


def test_s20_a_trader_that_was_paused_past_its_lease_sends_nothing(desk: Desk) -> None:
    """SIGSTOP a trader past its lease, another takes over, the first wakes -> its writes are refused (fenced); one
    venue order.

    It is paused between its claim and its second send: the venue is slow with the first. The lease ends in the row.
    """
    slow = desk.ready_trader()
    desk.venue.fault("delay_answer", seconds=1)
    with desk.sql.transaction():  # both into one claim
        first, second = desk.order("s", quote_quantity="30"), desk.order("s", quote_quantity="20")
    desk.wait_for(SUBMITTED, 2)
    desk.sent()
    slow.pause()
    desk.end_leases()
    desk.trader()
    desk.wait_for_status(first, "filled")
    desk.wait_for_status(second, "filled")
    fences = desk.value('SELECT array_agg(fence ORDER BY id) FROM "order" WHERE id = ANY(%s)', [first, second])
    events = desk.value("SELECT count(*) FROM order_event")
    slow.wake()
    desk.wait_for("SELECT NOT EXISTS (SELECT FROM lane WHERE owner IS NOT NULL)")

    assert desk.value('SELECT array_agg(fence ORDER BY id) FROM "order" WHERE id = ANY(%s)', [first, second]) == fences
    assert desk.value("SELECT count(*) FROM order_event") == events
    assert len(desk.posts()) == 2
    if slow.alive:  # after a long pause it may have ended by itself, its role lost
        assert "taken over by another trader" in slow.output
    desk.wait_for_status(desk.order("s", quote_quantity="10"), "filled")
    desk.check()


def test_s20_a_request_that_wakes_up_after_the_takeover_is_refused_by_the_venue(desk: Desk) -> None:
    """SIGSTOP a trader past its lease, another takes over, the first wakes -> one venue order.

    The request had left already and was held up on its way: past its receive window the venue refuses it.
    """
    trader = desk.ready_trader()
    desk.venue.fault("delay", seconds=8)
    order = desk.order("s", quote_quantity="60")
    desk.venue.wait_for_log(lambda one: one["method"] == "POST" and one["fault"] == "delay")
    trader.kill()
    desk.trader()
    desk.wait_for_status(order, "filled")
    late = desk.venue.wait_for_log(lambda one: one["fault"] == "delay" and one["outcome"] != "pending")
    assert (late["outcome"], late["code"]) == ("refused", -1021)
    assert len(desk.posts()) == 2
    desk.known_once(order)


def test_s21_postgresql_is_killed_after_the_send(make_own_desk: Callable[..., OwnDesk]) -> None:
    """PostgreSQL killed (immediate) after the send -> resolved on reconnect."""
    desk = make_own_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    desk.execute("UPDATE account SET receive_window = '1 s'")
    trader = desk.ready_trader()
    desk.venue.fault("delay_answer", seconds=1)
    order = desk.order("s", quote_quantity="60")
    desk.sent()
    desk.crash_postgresql()
    assert desk.state(order).status == "submitted"

    assert trader.wait() == 1  # its role is gone with its session; whoever starts next goes on
    assert "Traceback" not in trader.output
    desk.trader()
    desk.known_once(order)
    assert len(desk.posts()) == 1


def test_s22_the_transaction_that_stores_a_fill_loses_a_race(desk: Desk) -> None:
    """a serialization failure while storing a fill -> retried; no loss, no double.

    Here by a real deadlock, the other way to lose a race: we hold the balance that settling wants next, and then want
    the order that it holds.
    """
    trader = desk.ready_trader()
    desk.venue.fault("delay_answer", seconds=1)
    order = desk.order("s", quote_quantity="60")
    desk.sent()
    before = desk.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    with psycopg.connect(desk.url) as other:
        other.execute("SET deadlock_timeout = '1 min'")  # so that it is not us who find the deadlock and lose
        other.execute("SELECT FROM balance FOR UPDATE")
        desk.wait_until_blocked()
        other.execute('SELECT FROM "order" WHERE id = %s FOR UPDATE', [order])
        other.rollback()
    desk.known_once(order)
    desk.wait_for(f"SELECT deadlocks > {before} FROM pg_stat_database WHERE datname = current_database()")
    assert trader.alive
    assert len(desk.posts()) == 1


def test_s22_the_disk_is_full_when_a_fill_is_stored(desk: Desk) -> None:
    """a full disk while storing a fill -> retried; no loss, no double."""
    trader = desk.ready_trader()
    desk.execute(FULL_DISK)
    order = desk.order("s", quote_quantity="60")
    assert trader.wait() == 1  # it tries for a while, then leaves it to whoever starts next
    assert "settling failed, it is tried again: could not extend file: No space left on device" in trader.output
    assert "Traceback" not in trader.output
    assert desk.state(order).status == "submitted"
    assert desk.value("SELECT held FROM allowance WHERE asset = 'USDT'") == 60

    desk.execute("DROP TRIGGER full_disk ON fill")
    desk.trader()
    desk.known_once(order)
    assert len(desk.posts()) == 1


@pytest.mark.parametrize("by", ["1 h", "-1 h"])
def test_s23_the_clock_jumps_by_an_hour_and_back(desk: Desk, by: str) -> None:
    """a clock jump of +-1 h -> ids unique, leases safe, nonce errors are definite refusals."""
    desk.execute(OTHER_CLOCK)
    name = desk.value("SELECT current_database()")
    desk.execute(f'ALTER DATABASE "{name}" SET search_path = public, other, pg_catalog')
    desk.ready_trader()
    desk.strategy("t", deposit=100)
    far = desk.value("SELECT now() + interval '1 day'")
    desk.execute("UPDATE other.jump SET by = %s", by)
    orders = [desk.order(name, quote_quantity="20", expires_at=far) for name in ("s", "s", "t")]
    refused = desk.venue.wait_for_log(lambda one: one["method"] == "POST" and one["code"] == -1021)
    assert refused["outcome"] == "refused"
    desk.wait_for("SELECT EXISTS (SELECT FROM order_in_doubt WHERE reason LIKE 'not placed, will be sent again%%')")
    assert desk.venue.orders() == []

    desk.execute("UPDATE other.jump SET by = '0'")
    for order in orders:
        assert desk.wait_for_status(order, "filled", "denied", "rejected").status == "filled"
    assert len({one["client_order_id"] for one in desk.venue.orders()}) == len(desk.venue.orders()) == 3
    desk.wait_for_status(desk.order("s", quote_quantity="10"), "filled")  # its lane is free
    desk.check()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"quantity": "0.00000999"}, "quantity 0.00000999 BTC is below one step (0.00001)"),
        ({"quantity": "0.00001"}, "is below the minimum of 5"),
        ({"quote_quantity": "4.99"}, "a value of 4.99 USDT is below the minimum of 5"),
    ],
)
def test_s24_the_amount_rounds_to_nothing_or_is_too_small(desk: Desk, fields: dict[str, str], reason: str) -> None:
    """amount rounds to 0 or below the minimum -> denied with the reason before sending."""
    desk.trader()
    order = desk.wait_for_status(desk.order("s", **fields), "denied", "filled", "rejected")
    assert order.status == "denied"
    assert reason in order.reason
    assert desk.posts() == []
    assert desk.value("SELECT free FROM allowance") == 100
    desk.check()


def test_s25_the_venue_says_duplicate_client_id(desk: Desk) -> None:
    """the venue answers "duplicate client id" -> proof of existence: look it up.

    The answer is lost and the look-ups lie for as long as absence takes to be proved: the order is sent again.
    """
    desk.venue.fault("drop_answer")
    desk.venue.hide_orders()
    order = desk.order("s", type="limit", quantity="0.001", limit_price="40000")
    desk.trader()
    duplicate = desk.venue.wait_for_log(lambda one: one["method"] == "POST" and one["code"] == -2010)
    assert duplicate["outcome"] == "refused"
    desk.venue.clear_faults()
    desk.wait_for_status(order, "accepted", "rejected", "denied")
    assert desk.state(order).status == "accepted"
    assert desk.value("SELECT held FROM allowance WHERE asset = 'USDT'") == 40
    assert len(desk.venue.orders()) == 1
    desk.check()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE \"order\" SET status = 'filled' WHERE id = {0}", "only a trader moves it on"),
        ('UPDATE "order" SET quantity = 5 WHERE id = {0}', "what was asked is fixed once queued"),
        ('UPDATE "order" SET fence = fence + 1 WHERE id = {0}', "only a trader moves it on"),
        ('DELETE FROM "order" WHERE id = {0}', "orders are kept"),
        ("UPDATE orders SET status = 'canceled' WHERE id = {0}", "status cannot be changed"),
        ("DELETE FROM orders WHERE id = {0}", "orders are kept"),
        ("DELETE FROM hold WHERE order_id = {0}", "it follows the orders"),
        ("UPDATE balance SET held = 0", "it follows the ledger and the holds"),
    ],
)
def test_s26_a_person_edits_an_order_in_flight(desk: Desk, statement: str, message: str) -> None:
    """someone edits or deletes an order row in psql mid-flight -> an illegal transition is refused by the database,
    with a clear error."""
    desk.venue.fault("delay_answer", seconds=1)
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.sent()
    with pytest.raises(psycopg.errors.RestrictViolation, match=message):
        desk.execute(statement.format(order))
    desk.known_once(order)


def test_s27_an_order_that_is_too_old_when_a_trader_sees_it(desk: Desk) -> None:
    """an order that is too old when a trader first sees it (outage) -> denied as stale by its `expires_at`, never
    executed late."""
    desk.execute("UPDATE strategy SET order_ttl = '0.1 s'")
    given = desk.order("s", quote_quantity="10", expires_at=desk.value("SELECT now() + interval '0.1 s'"))
    by_default = desk.order("s", quote_quantity="10")
    desk.wait_for('SELECT bool_and(expires_at < now()) FROM "order" WHERE id = ANY(%s)', [given, by_default])
    desk.trader()
    for order in (given, by_default):
        state = desk.wait_for_status(order, "denied", "filled")
        assert state.status == "denied"
        assert state.reason.startswith("stale: it expired at ")
    assert desk.posts() == []
    assert desk.value("SELECT free FROM allowance") == 100
    desk.check()
