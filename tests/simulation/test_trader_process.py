"""The trader as a process: how it ends, what it says, what it leaves for the next one."""

from collections.abc import Callable
from decimal import Decimal

import pytest

from tests.plugins.desk import Desk

MakeDesk = Callable[..., Desk]
# Other tests' traders live on the same server.
ALL_SESSIONS = """SELECT count(*) >= 4 FROM pg_stat_activity
  WHERE application_name = 'trader-1' AND datname = current_database()"""
END_SESSIONS = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE application_name = 'trader-1' AND datname = current_database()"""


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    return desk


def test_told_to_stop_it_finishes_what_is_in_flight(desk: Desk) -> None:
    desk.venue.fault("delay_answer", seconds=1)
    order = desk.order("s", quote_quantity="60")
    trader = desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM \"order\" WHERE status = 'submitted')")

    assert trader.stop() == 0
    assert desk.state(order).status == "filled"
    desk.check()


def test_losing_its_session_it_ends_with_one_sentence(desk: Desk) -> None:
    trader = desk.trader()
    desk.wait_for(ALL_SESSIONS)
    desk.execute(END_SESSIONS)

    assert trader.wait() == 1
    assert "Traceback" not in trader.output
    assert trader.output.strip().splitlines()[-1].startswith("tallydesk: ")


def test_an_account_without_credentials_waits_and_the_other_trades_on(desk: Desk) -> None:
    desk.execute(
        """INSERT INTO account (name, exchange_id, mode, credentials) VALUES ('other', 1, 'simulator', 'NOBODY')"""
    )
    desk.execute("INSERT INTO strategy (name, account_id, unit_id) VALUES ('waiting', 2, 1)")
    desk.deposit("waiting", 100)
    stuck = desk.order("waiting", quote_quantity="10")
    trader = desk.trader()
    desk.wait_for_status(desk.order("s", quote_quantity="10"), "filled")

    assert desk.state(stuck).status == "queued"
    assert "account other: its orders wait: " in trader.output
    assert "NOBODY_API_KEY" in trader.output


def test_a_disabled_strategys_orders_wait(desk: Desk) -> None:
    desk.strategy("resting", deposit=100)
    desk.execute("UPDATE strategy SET enabled = false WHERE name = 'resting'")
    waiting = desk.order("resting", quote_quantity="10")
    desk.trader()
    desk.wait_for_status(desk.order("s", quote_quantity="10"), "filled")
    assert desk.state(waiting).status == "queued"

    desk.execute("UPDATE strategy SET enabled = true WHERE name = 'resting'")
    desk.wait_for_status(waiting, "filled")


def test_a_refused_key_halts_the_account_and_raises_an_incident(desk: Desk) -> None:
    desk.venue.fault("reject", code=-2015, message="Invalid API-key, IP, or permissions for action.", status=401)
    desk.trader()
    order = desk.wait_for_status(desk.order("s", quote_quantity="10"), "rejected", "filled")

    assert order.status == "rejected"
    assert desk.value("SELECT halted FROM account WHERE name = 'main'")
    assert desk.value("SELECT kind FROM incident WHERE severity = 'critical'") == "account refused"
    assert desk.value("SELECT free FROM allowance") == Decimal(100)


def test_a_venue_that_gives_a_number_twice_stops_its_account_and_not_the_trader(desk: Desk) -> None:
    """A venue that was reset counts anew: its word contradicts the books, and only a person can settle that."""
    desk.execute("UPDATE account SET receive_window = '1 s'")
    trader = desk.trader()
    desk.wait_for_status(desk.order("s", quote_quantity="10"), "filled")
    desk.venue.kill()
    desk.venue.state.unlink()
    desk.venue.start()
    desk.venue.price("50000")
    second = desk.order("s", quote_quantity="20")
    desk.wait_for("SELECT halted FROM account WHERE name = 'main'")

    state = desk.state(second)
    assert state.status == "submitted"
    assert "was the venue reset?" in state.reason
    assert desk.value("SELECT count(*) FROM incident WHERE kind = 'contradiction' AND order_id = %s", second) == 1
    assert desk.value("SELECT held FROM order_in_doubt WHERE id = %s", second) == 20
    desk.end_leases()  # the lane is kept for half a minute after an error
    denied = desk.wait_for_status(desk.order("s", quote_quantity="10"), "denied", "filled")
    assert denied.reason == "account main is halted"
    assert trader.alive
    assert desk.execute("SELECT * FROM invariant_violation") == []


def test_a_role_that_is_asked_to_stop_in_the_database_finishes_and_ends(desk: Desk) -> None:
    desk.venue.fault("delay_answer", seconds=1)
    order = desk.order("s", quote_quantity="60")
    trader = desk.trader()
    desk.wait_for("SELECT EXISTS (SELECT FROM \"order\" WHERE status = 'submitted')")
    stopping = desk.process("stop")

    assert stopping.wait() == 0
    assert trader.wait() == 0
    assert "asked to stop: trader-1" in stopping.output
    assert desk.state(order).status == "filled"
