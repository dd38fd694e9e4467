"""What a strategy places in `on_bucket`, sent by a real trader to a venue: brackets, moved orders, the way out."""

import asyncio
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from jobs.strategy import run
from tests.plugins.desk import Desk
from trader.db import Identity, connect

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "strategies.md"
BASE = "SELECT coalesce((SELECT total FROM allowance WHERE strategy = 's' AND asset = 'BTC'), 0)"
ENDS = ("filled", "canceled", "denied", "rejected", "expired")
CLASSES = '''
from trader.strategy import Params, Strategy


class Told(Params):
    what: list[list] = []


class Script(Strategy[Told]):
    """Does at its n-th candle what its parameters say."""
    warm_up = 1

    def on_bucket(self, context):
        at = context.state.get("at", 0)
        context.state["at"] = at + 1
        for name, values in self.params.what[at] if at < len(self.params.what) else []:
            if name == "target":
                return values
            getattr(context, name)(**values)
        return None
'''


class Scripted:
    """A strategy that does what it is told, candle by candle."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.candles = 0

    def add(self, *what: list[Any], stake: int = 50) -> None:
        self.add_class("classes_of_orders:Script", {"what": list(what)}, stake)

    def add_class(self, path: str, params: dict[str, Any], stake: int = 100) -> None:
        self.desk.execute(
            """INSERT INTO strategy (name, account_id, class, market_id, timeframe_id, params, stake, stake_unit)
               VALUES ('s', 1, %s, 1, 60, %s, %s, '%%')""",
            path,
            Jsonb(params),
            stake,
        )
        self.desk.deposit("s", 100)

    def step(self, price: int) -> list[Any]:
        """The next candle; the orders that its decision placed."""
        self.desk.venue.price(str(price))
        self.desk.execute(
            """INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
               VALUES (1, 60, %s, %s, %s, %s, %s, 1, 'imported')""",
            START + self.candles * HOUR,
            *[price] * 4,
        )
        self.candles += 1
        asyncio.run(self._run())
        [made] = self.desk.execute("SELECT action, reason, orders FROM decisions ORDER BY bucket_time DESC LIMIT 1")
        assert made.action not in ("waits", "stopped", "passed"), made.reason
        return [self.desk.state(order) for order in made.orders or []]

    async def _run(self) -> None:
        async with await connect(self.desk.url, Identity("worker", "worker-test")) as db:
            await run(db, 1)

    def fill(self, price: int) -> None:
        """Let the price stay beyond what rests at the venue: each look at it fills a part."""
        for more in range(60):
            self.desk.venue.price(str(price + more))
            if self.desk.venue.venue_state()["open_orders"] == 0:
                return
        raise AssertionError("it is not filled yet")

    def wait_until_flat(self) -> None:
        """Until nothing of it is open, and nothing is held that could be sold."""
        self.desk.wait_for('SELECT NOT EXISTS (SELECT FROM "order" WHERE NOT order_is_final(status))')
        assert self.desk.value(BASE) < Decimal("0.00001")
        self.desk.check()


@pytest.fixture
def scripted(make_desk: Callable[..., Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    (tmp_path / "classes_of_orders.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "classes_of_orders", raising=False)
    return Scripted(make_desk("--balance", "USDT=1000"))


BRACKET = [["buy", {}], ["sell", {"limit": 55_000}], ["sell", {"stop": 45_000}]]


def test_a_bracket_whose_stop_is_met(scripted: Scripted) -> None:
    scripted.add(BRACKET)
    scripted.desk.trader()
    entry, target, stop = scripted.step(50_000)
    scripted.desk.wait_for_status(target.id, "accepted")
    assert scripted.desk.state(entry.id).status == "filled"
    scripted.desk.venue.price("44000")
    assert scripted.desk.wait_for_status(stop.id, *ENDS).status == "filled"
    assert scripted.desk.state(target.id).status == "canceled"
    scripted.wait_until_flat()


def test_a_bracket_whose_target_is_met(scripted: Scripted) -> None:
    scripted.add(BRACKET)
    scripted.desk.trader()
    _, target, stop = scripted.step(50_000)
    scripted.desk.wait_for_status(target.id, "accepted")
    scripted.fill(56_000)
    assert scripted.desk.wait_for_status(target.id, *ENDS).status == "filled"
    assert scripted.desk.wait_for_status(stop.id, *ENDS).status == "canceled"
    scripted.wait_until_flat()


def test_the_way_out_takes_the_bracket_along(scripted: Scripted) -> None:
    scripted.add(BRACKET, [["target", 0]])
    scripted.desk.trader()
    _, target, stop = scripted.step(50_000)
    scripted.desk.wait_for_status(target.id, "accepted")
    [sale] = scripted.step(51_000)
    assert scripted.desk.wait_for_status(sale.id, *ENDS).status == "filled"
    assert {scripted.desk.state(order.id).status for order in (target, stop)} == {"canceled"}
    scripted.wait_until_flat()


def test_a_buy_with_all_the_money_is_moved(scripted: Scripted) -> None:
    scripted.add([["buy", {"limit": 40_000}]], [["cancel", {}], ["buy", {"limit": 48_000}]], [["target", 0]], stake=100)
    scripted.desk.trader()
    [first] = scripted.step(50_000)
    scripted.desk.wait_for_status(first.id, "accepted")
    [second] = scripted.step(49_000)
    assert scripted.desk.wait_for_status(second.id, "accepted", *ENDS).status == "accepted"
    assert scripted.desk.state(first.id).status == "canceled"
    scripted.fill(47_000)
    assert scripted.desk.wait_for_status(second.id, *ENDS).status == "filled"
    [sale] = scripted.step(47_000)
    assert scripted.desk.wait_for_status(sale.id, *ENDS).status == "filled"
    scripted.wait_until_flat()


def test_a_stop_that_rises_is_always_one(scripted: Scripted) -> None:
    scripted.add(
        [["buy", {}], ["sell", {"stop": 45_000}]],
        [["cancel", {}], ["sell", {"stop": 48_000}]],
        [["cancel", {}], ["sell", {"stop": 51_000}]],
    )
    scripted.desk.trader()
    entry, _ = scripted.step(50_000)
    scripted.desk.wait_for_status(entry.id, "filled")
    scripted.step(53_000)
    [stop] = scripted.step(56_000)
    assert scripted.desk.value("SELECT count(*) FROM orders WHERE status = 'waiting'") == 1
    scripted.desk.venue.price("50500")
    assert scripted.desk.wait_for_status(stop.id, *ENDS).status == "filled"
    scripted.wait_until_flat()


def test_a_trailing_stop_follows_while_its_class_looks_on(scripted: Scripted) -> None:
    """Its trigger price moves between candles and at them; the class sees one order that waits, and leaves it."""
    scripted.add([["buy", {}], ["sell", {"trail": 0.1}]], [], [])
    desk = scripted.desk
    desk.trader()
    entry, stop = scripted.step(50_000)
    desk.wait_for_status(entry.id, "filled")
    stands = "SELECT trigger_price = %s FROM orders WHERE id = %s"
    for price, at in ((55_000, 49_500), (60_000, 54_000)):
        assert scripted.step(price) == []
        desk.wait_for(stands, at, stop.id)
    desk.venue.price("53999")
    assert desk.wait_for_status(stop.id, *ENDS).status == "filled"
    scripted.wait_until_flat()


def test_the_dip_of_the_page(scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It moves its limit at each candle, with all its money; its stop waits for what the limit brings."""
    [code] = re.findall(r"```python\n(# strategies/dip\.py\n.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "dip.py").write_text(code)
    monkeypatch.delitem(sys.modules, "dip", raising=False)
    scripted.add_class("dip:Dip", {"period": 2, "dip": 0.02})
    desk = scripted.desk
    desk.trader()
    desk.execute(
        """INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
           VALUES (1, 60, %s, 50000, 50000, 50000, 50000, 1, 'imported')""",
        START - HOUR,
    )
    for price in (50_000, 50_500, 50_700):
        buy, stop = scripted.step(price)
        assert desk.wait_for_status(buy.id, "accepted", *ENDS).status == "accepted", desk.state(buy.id).reason
        assert (desk.state(stop.id).status, stop.after_id) == ("waiting", buy.id)
        assert desk.value("SELECT count(*) FROM orders WHERE status IN ('accepted', 'waiting')") == 2
    scripted.fill(49_400)
    desk.wait_for_status(buy.id, "filled")
    desk.wait_for(f"SELECT ({BASE}) > 0.0019")
    assert scripted.step(49_500) == []  # below the mean: it holds
    [sale] = scripted.step(51_500)
    assert desk.wait_for_status(sale.id, *ENDS).status == "filled"
    assert desk.state(stop.id).status == "canceled"
    scripted.wait_until_flat()
