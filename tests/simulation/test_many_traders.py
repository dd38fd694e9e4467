"""Several traders at once: allowances are never overspent, every order is sent exactly once."""

import random
import time
from collections.abc import Callable

from tests.plugins.desk import Desk

MakeDesk = Callable[..., Desk]


def test_ten_buys_of_60_on_an_allowance_of_100_with_four_traders_place_one(make_desk: MakeDesk) -> None:
    desk = make_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    for _ in range(10):
        desk.order("s", quote_quantity="60")
    for _ in range(4):
        desk.trader()
    desk.settled()

    orders = desk.execute("SELECT status, reason FROM orders WHERE type = 'market'")
    assert sorted(order.status for order in orders) == ["denied"] * 9 + ["filled"]
    assert {order.reason for order in orders if order.status == "denied"} == {
        "the allowance is 40 USDT, the order needs 60"
    } or all("the allowance is" in order.reason for order in orders if order.status == "denied")
    assert len(desk.venue.orders()) == 1
    desk.check()


def test_a_thousand_orders_while_a_trader_is_killed_each_second_are_each_sent_once(make_desk: MakeDesk) -> None:
    desk = make_desk("--balance", "USDT=100000")
    dice = random.Random(7)
    for number in range(20):
        desk.strategy(f"s{number}", deposit=1000)
    desk.venue.fault("delay_answer", seconds=0.03, times=None)
    desk.execute("""INSERT INTO orders (strategy, market, side, type, quote_quantity)
        SELECT 's' || n % 20, 'binance:BTC/USDT', 'buy', 'market', 10 FROM generate_series(1, 1000) n""")
    traders = [desk.trader() for _ in range(4)]
    unfinished = "SELECT count(*) FROM \"order\" WHERE status IN ('queued', 'submitted')"
    desk.wait_for("SELECT EXISTS (SELECT FROM \"order\" WHERE status = 'filled')")
    kills = 0
    end = time.monotonic() + 60
    while desk.value(unfinished) and time.monotonic() < end:
        victim = dice.randrange(4)
        traders[victim].kill()
        kills += 1
        traders[victim] = desk.trader()
        second = time.monotonic() + 1
        while time.monotonic() < second and desk.value(unfinished):
            time.sleep(0.05)  # the rhythm of the kills is the test itself
    desk.settled()

    assert kills >= 3
    assert desk.value("SELECT count(*) FROM orders WHERE status = 'filled'") == 1000
    at_venue = desk.venue.orders()
    assert len(at_venue) == 1000
    assert len({one["client_order_id"] for one in at_venue}) == 1000
    desk.check()
