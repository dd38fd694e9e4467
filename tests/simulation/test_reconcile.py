"""Reconciliation with real processes: somebody else on the account, money that comes and goes, an older database."""

import os
import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import ccxt
import psycopg
import pytest
from psycopg.rows import namedtuple_row

from tests.plugins.desk import Desk
from trader.programs import wheel_programs

MakeDesk = Callable[..., Desk]
SYMBOL = "BTC/USDT"


@pytest.fixture
def desk(make_desk: MakeDesk) -> Desk:
    """An account with 1000 USDT that is open in the books, and a strategy that has 100 of them."""
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    assert reconcile(desk)[0] == 0
    return desk


@pytest.fixture
def human(desk: Desk) -> Any:
    """Somebody with the same keys and plain ccxt."""
    exchange = ccxt.binance(desk.venue.options())
    exchange.load_markets()
    return exchange


def reconcile(desk: Desk) -> tuple[int, str]:
    """`tallydesk reconcile main`: its exit code, and what it printed."""
    process = desk.process("reconcile", "main")
    return process.wait(), process.output


def view(desk: Desk, asset: str = "USDT") -> Any:
    return desk.execute("SELECT * FROM reconciliation WHERE asset = %s", asset)[0]


def incidents(desk: Desk) -> list[str]:
    return [f"{row.severity} {row.kind}" for row in desk.execute("SELECT * FROM incident ORDER BY id")]


def sound(desk: Desk) -> None:
    """The books agree with themselves and, to the last unit, with the venue."""
    assert desk.execute("SELECT * FROM invariant_violation") == []
    desk.check_balances()
    at_venue = {asset: quantity for asset, quantity in desk.balances().items() if quantity}
    rows = desk.execute(
        "SELECT a.code, sum(total) AS total FROM balance b JOIN asset a ON a.id = b.asset_id GROUP BY 1"
    )
    assert {row.code: row.total for row in rows if row.total} == at_venue


def test_s35_money_that_comes_in_without_a_row_is_unallocated(desk: Desk) -> None:
    before = desk.execute("SELECT * FROM allowance")
    desk.venue.credit("USDT", "250")
    code, output = reconcile(desk)
    assert (code, view(desk).unallocated) == (0, 1150)
    assert "250 USDT came in at the venue without a row: unallocated" in output
    assert desk.execute("SELECT * FROM allowance") == before
    assert incidents(desk) == ["notice venue transfer"]
    sound(desk)
    desk.deposit("s", 250)
    assert (view(desk).unallocated, view(desk).strategies) == (900, 350)


def test_s36_a_human_trades_on_the_same_account_and_is_left_alone(desk: Desk, human: Any) -> None:
    resting = human.create_order(SYMBOL, "limit", "buy", 0.001, 30000)["id"]
    paid = Decimal(str(human.create_order(SYMBOL, "market", "buy", 0.002)["cost"]))
    trader = desk.trader()
    ours = desk.order("s", quote_quantity="60")
    desk.wait_for_status(ours, "filled")
    had = desk.execute("SELECT * FROM allowance ORDER BY asset")
    assert reconcile(desk)[0] == 0

    usdt, btc = view(desk), view(desk, "BTC")
    assert (usdt.external, usdt.unallocated, usdt.verdict) == (-paid, 900, "agrees")
    assert (btc.external, btc.suspense) == (Decimal("0.001998"), 0)
    assert desk.execute("SELECT * FROM allowance ORDER BY asset") == had
    theirs = desk.execute("SELECT what, market, side, quantity, price, venue_order_id FROM external ORDER BY what")
    assert [tuple(row)[:5] for row in theirs] == [
        ("fill", "binance:BTC/USDT", "buy", Decimal("0.002"), paid / Decimal("0.002")),
        ("open order", "binance:BTC/USDT", "buy", Decimal("0.001"), 30000),
    ]
    assert theirs[1].venue_order_id == resting
    status = desk.process("status")
    assert status.wait() == 0
    assert "open order" in status.output

    desk.execute("UPDATE account SET halted = true, halt_reason = 'lunch'")
    denied = desk.order("s", quote_quantity="10")
    assert desk.wait_for_status(denied, "denied").status == "denied"
    trader.kill()
    assert reconcile(desk)[0] == 0
    assert human.fetch_order(resting, SYMBOL)["status"] == "open"

    desk.venue.price("29000")  # their order fills
    assert reconcile(desk)[0] == 0
    assert (view(desk).external, desk.value("SELECT count(*) FROM external_order")) == (-paid - 30, 0)
    assert desk.execute("SELECT * FROM allowance ORDER BY asset") == had
    assert incidents(desk) == []
    assert not [entry for entry in desk.venue.log() if entry["method"] == "DELETE"]
    sound(desk)


@pytest.mark.parametrize(
    ("quantity", "exit_code", "verdict", "raised"),
    [
        ("-0.00000001", 0, "tolerated", []),
        ("-1", 0, "agrees", ["warning unexplained difference"]),
        ("-100", 1, "halted", ["critical large difference"]),
    ],
)
def test_s37_a_loss_is_tolerated_put_in_suspense_or_halts(
    desk: Desk, quantity: str, exit_code: int, verdict: str, raised: list[str]
) -> None:
    desk.deposit("s", 900)
    desk.venue.credit("USDT", quantity)
    code, output = reconcile(desk)
    row = view(desk)
    assert (code, row.verdict.partition(":")[0], incidents(desk)) == (exit_code, verdict, raised), output
    assert (row.strategies, row.unallocated) == (1000, 0)
    assert row.suspense == (-1 if verdict == "agrees" else 0)
    halted, reason = desk.execute("SELECT halted, halt_reason FROM account")[0]
    assert halted == (verdict == "halted")
    if halted:
        assert "the venue has 900 USDT, the books have 1000" in reason
        desk.execute("UPDATE account SET halted = false")
        assert reconcile(desk)[0] == 0
        assert view(desk).suspense == -100
    if verdict != "tolerated":
        sound(desk)


def test_s38_balances_read_while_a_fill_is_in_flight_raise_no_alarm(desk: Desk) -> None:
    desk.venue.fault("delay_answer", seconds=9)
    order = desk.order("s", quote_quantity="60")
    desk.trader()
    desk.venue.wait_for_log(lambda _entry: bool(desk.venue.orders()))
    code, output = reconcile(desk)  # the venue has filled it, and nobody here knows yet
    assert code == 0, output
    assert "orders are in flight: the balances prove nothing yet" in output
    assert desk.wait_for_status(order, "filled").status == "filled"
    assert (incidents(desk), desk.value("SELECT count(*) FROM external_fill")) == ([], 0)
    sound(desk)


def test_a_venue_that_does_not_answer_is_not_empty(desk: Desk) -> None:
    desk.venue.fault("drop_answer", endpoint="GET /api/v3/account", times=50)
    code, output = reconcile(desk)
    assert code == 1
    assert "could not read" in output
    assert (view(desk).venue, incidents(desk)) == (1000, [])


def test_the_scheduler_has_it_done_also_after_a_restart(desk: Desk) -> None:
    desk.process("run", "worker")
    for quantity, total in (("5", 905), ("7", 912)):
        desk.venue.credit("USDT", quantity)
        seen = "SELECT count(*) > 0 FROM account_drift WHERE drift = %s"
        first = desk.process("run", "scheduler")
        desk.wait_for(seen, Decimal(quantity))
        first.kill()  # it queues a round as soon as it starts, so the second reading comes with the next one
        with desk.sql.transaction():
            desk.execute("SET LOCAL tallydesk.process = 'test'")
            desk.execute("UPDATE account_drift SET first_seen_at = first_seen_at - interval '1 min'")
        second = desk.process("run", "scheduler")
        desk.wait_for("SELECT unallocated = %s FROM reconciliation WHERE asset = 'USDT'", total)
        second.kill()
    sound(desk)


def programs() -> Path:
    return Path(os.environ.get("TEST_PG_BIN") or wheel_programs())


def dump(desk: Desk) -> str:
    command = [programs() / "pg_dump", "--clean", "--if-exists", "--dbname", desk.url]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    return "\n".join(line for line in lines if not line.startswith("SET transaction_timeout"))


def restore(desk: Desk, text: str) -> None:
    """Put the whole database back to what it was."""
    desk.sql.close()
    command = [programs() / "psql", "--no-psqlrc", "-1", "-v", "ON_ERROR_STOP=1", "--dbname", desk.url]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    desk.sql = psycopg.connect(desk.url, autocommit=True, row_factory=namedtuple_row)


def test_s49_an_older_database_gets_the_missing_fills_from_the_venue(desk: Desk) -> None:
    """An order that the older database knows is ours again; one that it does not know can only be external."""
    trader = desk.trader()
    known = desk.order("s", type="limit", quantity="0.001", limit_price="40000")
    desk.wait_for_status(known, "accepted")
    older = dump(desk)
    later = desk.order("s", quote_quantity="20")
    spent = desk.wait_for_status(later, "filled").filled_quote
    desk.venue.price("39000")
    desk.wait_for_status(known, "filled")
    assert trader.stop() == 0

    restore(desk, older)
    assert desk.state(known).status == "accepted"
    code, output = reconcile(desk)
    assert code == 0, output
    assert desk.state(known).status == "filled"
    assert desk.execute("SELECT order_id, source::text FROM fill") == [(known, "reconciliation")]
    assert desk.value("SELECT venue_order_id FROM external_fill") is not None
    assert (view(desk).external, view(desk).strategies) == (-spent, 60)
    assert incidents(desk) == ["notice missing fill booked"]
    sound(desk)


def test_s49_an_order_that_an_older_database_would_send_again_halts_the_account(desk: Desk) -> None:
    order = desk.order("s", quote_quantity="20")
    older = dump(desk)
    trader = desk.trader()
    desk.wait_for_status(order, "filled")
    assert trader.stop() == 0

    restore(desk, older)
    assert desk.state(order).status == "queued"
    reconcile(desk)
    assert incidents(desk) == ["critical order forgotten"]
    desk.trader()
    assert "halted" in desk.wait_for_status(order, "denied", "filled").reason
    assert len(desk.venue.orders()) == 1
    sound(desk)
