"""The second style, live: a class that is called at each candle, with a state, and orders that are rows."""

import asyncio
import os
import signal
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from jobs.strategy import guard, run, sweep
from jobs.thread import beside
from tests.plugins.live import START, WORKER, Live
from trader.backtest.result import BUY
from trader.backtest.run import Frames, backtest
from trader.backtest.settings import Settings
from trader.bucket import read_buckets
from trader.db import connect
from trader.strategy import load

HOUR = timedelta(hours=1)
NOTHING = "on_bucket gave no order and no target"
ROOT = Path(__file__).resolve().parents[2]
CLASSES = '''
import asyncio
import os

import psycopg
from pandas import DataFrame

from trader.strategy import Params, Strategy


class Calm(Strategy):
    """Counts its candles, and wants nothing."""
    warm_up = 2

    def on_bucket(self, context):
        context.state["calls"] = context.state.get("calls", 0) + 1


class Signal(Strategy):
    """In while the close is above 100."""
    warm_up = 2

    def signal(self, candles):
        return (candles["close"] > 100).astype(float)


class Other(Calm):
    pass


class Hangs(Calm):
    """Does not return before there is a file."""

    def on_bucket(self, context):
        import time
        from pathlib import Path
        while not Path(os.environ["RETURN"]).exists():
            time.sleep(0.01)
        return super().on_bucket(context)


class Cross(Strategy):
    """In while the close is above the mean of three."""
    warm_up = 3

    def indicators(self, candles):
        return DataFrame({"mean": candles["close"].rolling(3).mean()})

    def on_bucket(self, context):
        context.state["times"] = [*context.state.get("times", []), context.milliseconds]
        return float(context.close > context.now.mean)


class Told(Params):
    what: list[list] = []


class Script(Strategy[Told]):
    """Does at its n-th candle what its parameters say."""
    warm_up = 1

    def on_bucket(self, context):
        at = context.state.get("at", 0)
        context.state["at"] = at + 1
        context.state["seen"] = [[one.side, one.quantity, one.limit, one.stop] for one in context.orders]
        context.state["trails"] = [one.trail for one in context.orders]
        context.state["money"] = [context.allowance, context.quantity, context.average_cost]
        target = None
        for step in self.params.what[at] if at < len(self.params.what) else []:
            name, values = step[0], step[1] if len(step) > 1 else {}
            if name == "target":
                target = values
            elif name == "cancel":
                context.cancel(*[one for one in context.orders if values in (one.side, {})])
            else:
                getattr(context, name)(**values)
        return target


class Exact(Calm):
    def on_bucket(self, context):
        if context.state:
            assert list(context.state) == ["z", "a"], context.state
            assert type(context.state["z"]) is float and context.state["a"] == [0.1 + 0.2, -0.0, None, True, "é"]
        context.state = {"z": 1e16, "a": [0.1 + 0.2, -0.0, None, True, "é"]}


class Unkept(Calm):
    def on_bucket(self, context):
        context.state["when"] = context.time


class Greedy(Calm):
    def on_bucket(self, context):
        context.window("close", 3)


class Wrong(Calm):
    def on_bucket(self, context):
        return 2


class Making(Calm):
    def on_bucket(self, context):
        made = context.performance
        context.state["made"] = [made.equity, made.deposits, made.profit]
        context.state["window"] = list(context.window("close", 2))


class Cancelled(Calm):
    def on_bucket(self, context):
        raise asyncio.CancelledError


class CtrlC(Calm):
    def on_bucket(self, context):
        raise KeyboardInterrupt


class Surrogate(Calm):
    def on_bucket(self, context):
        raise ValueError("\\ud800")


class Fickle(Calm):
    """Its warm-up cannot be told."""

    @property
    def warm_up(self):
        raise KeyError("how many")


class Pushed(Calm):
    """While it decides, a trader moves the trigger price of its trailing stop; each call leaves a mark."""
    calls = 0

    def on_bucket(self, context):
        Pushed.calls += 1
        context.state["calls"] = Pushed.calls
        with psycopg.connect(os.environ["MEDDLED"], autocommit=True) as other:
            other.execute("SET tallydesk.process = 'trader'")
            other.execute('UPDATE "order" SET trigger_price = coalesce(trigger_price, 0) + 1 WHERE trail IS NOT NULL')


class Meddled(Calm):
    """While it decides, somebody takes its order back."""

    def on_bucket(self, context):
        if context.orders:
            with psycopg.connect(os.environ["MEDDLED"], autocommit=True) as other:
                other.execute("UPDATE orders SET cancel_requested_at = now() WHERE status = 'waiting'")
        context.state["orders"] = len(context.orders)
        context.buy(limit=50)
'''


async def state(live: Live, name: str) -> Any:
    [row] = await live.all(
        "SELECT state FROM strategy_state y JOIN strategy s ON s.id = y.strategy_id WHERE s.name = %s", name
    )
    return row.state


async def script(live: Live, *what: list[Any], deposit: int = 100, stake: int = 100) -> None:
    await live.add("Script", params={"what": list(what)}, deposit=deposit, stake=stake)
    await live.put(100)


async def step(live: Live, price: float = 100, name: str = "Script") -> str:
    """The next candle, and a look at it."""
    [newest] = await live.all("SELECT max(time_close) AS time FROM bucket")
    await live.put(price, first=newest.time + HOUR)
    return await live.run(name)


async def bought(live: Live, quantity: str = "0.5", price: float = 100) -> None:
    """What it has bought at its first candle is filled."""
    await live.run("Script")
    [order] = await live.orders("Script")
    await live.fill(order.id, quantity, price)


def shown(order: Any) -> tuple[Any, ...]:
    return order.side, order.type, order.status, order.quantity, order.limit_price, order.trigger_price


async def test_it_is_called_once_at_each_candle_and_remembers(live: Live) -> None:
    await live.add("Calm")
    await live.put(90)
    assert "1 of the 2 candles" in await live.run("Calm")
    for calls in (1, 2, 3):
        await step(live, name="Calm")
        await live.run("Calm")
        assert await state(live, "Calm") == {"calls": calls}
    made = await live.decisions("Calm")
    assert [(row.action, row.reason, row.signal) for row in made[1:]] == [("none", NOTHING, None)] * 3
    assert len({row.inputs_hash for row in made}) == 4
    await live.db.execute("UPDATE strategy SET class = %s", [f"{live.module}:Other"])
    await step(live, name="Calm")
    assert await state(live, "Calm") == {"calls": 1}  # that was another's memory
    await live.db.execute("DELETE FROM strategy_state")
    await step(live, name="Calm")
    assert await state(live, "Calm") == {"calls": 1}


async def test_it_finds_what_it_left_to_the_bit(live: Live) -> None:
    await live.add("Exact")
    await live.put(90, 90)
    await live.run("Exact")
    for _ in range(2):
        assert await step(live, name="Exact") == NOTHING


async def test_the_same_decisions_as_in_a_backtest(live: Live) -> None:
    await live.add("Cross")
    closes = [100, 90, 80, 100, 110, 120, 80, 70, 90, 100, 60, 50, 100]
    for i, close in enumerate(closes):
        await live.put(close, first=START + i * HOUR)
        await live.run("Cross")
        for order in await live.orders("Cross"):
            if order.status == "queued":
                await live.fill(order.id, "0.5", close)
    made = await live.decisions("Cross")
    candles = await read_buckets(live.db, 1, 60)
    result = backtest(
        load(f"{live.module}:Cross"), Frames(candles, "1h"), Settings(deposit=100, maker=0, taker=0, fill="close")
    )
    live_orders = [(row.bucket_time, row.action) for row in made if row.orders]
    assert live_orders == [
        (candles.index[index].to_pydatetime(), "buy" if side == BUY else "sell")
        for index, side in zip(result.fills.decided.tolist(), result.fills.side.tolist(), strict=True)
    ]
    assert len(live_orders) == 5


async def test_orders_are_rows(live: Live) -> None:
    await script(
        live,
        [["buy", {"limit": 95.5}], ["buy", {"quantity": 0.1, "stop": 120}], ["buy", {"stop": 120, "limit": 121}]],
    )
    assert (
        await live.run("Script")
        == "buy for its stake limit 95.5; buy 0.1 stop 120; buy for its stake stop 120 limit 121"
    )
    placed = await live.orders("Script")
    assert [shown(order) for order in placed] == [
        ("buy", "limit", "queued", None, Decimal("95.5"), None),
        ("buy", "market", "waiting", Decimal("0.1"), None, Decimal(120)),
        ("buy", "limit", "waiting", None, Decimal(121), Decimal(120)),
    ]
    assert [order.trigger_when for order in placed] == [None, "rises", "rises"]
    [made] = await live.decisions("Script")
    assert (made.action, made.orders) == ("orders", [order.id for order in placed])
    origins = await live.all("SELECT order_id, bucket_part, close FROM order_origin ORDER BY order_id")
    assert [(row.order_id, row.bucket_part, row.close) for row in origins] == [
        (order.id, part, 100.0) for part, order in enumerate(placed, 1)
    ]
    await live.sound()


async def test_what_comes_after_the_fifteenth_digit_of_a_float_is_no_price_and_no_quantity(live: Live) -> None:
    noise = {"stop": 18083.703999999998, "quantity": 0.1 + 0.2, "limit": 18100.000000000004}
    await script(live, [["buy", noise], ["buy", {"limit": 1e-7 / 3}]])
    assert await live.run("Script") == (
        "buy 0.3 stop 18083.704 limit 18100; buy for its stake limit 0.000000033333333333"
    )
    first, second = await live.orders("Script")
    assert (first.quantity, first.trigger_price, first.limit_price) == (Decimal("0.3"), Decimal("18083.704"), 18100)
    assert second.limit_price == Decimal("0.000000033333333333")  # 18 decimals are kept


async def test_an_entry_and_its_exits_are_a_bracket(live: Live) -> None:
    await script(live, [["buy", {}], ["sell", {"limit": 110}], ["sell", {"stop": 90}]])
    await live.run("Script")
    entry, target, stop = await live.orders("Script")
    assert shown(entry) == ("buy", "market", "queued", None, None, None)
    assert shown(target) == ("sell", "limit", "waiting", None, Decimal(110), None)
    assert shown(stop) == ("sell", "market", "waiting", None, None, Decimal(90))
    assert (target.after_id, target.parent_id, stop.after_id, stop.parent_id) == (entry.id,) * 4
    await live.fill(entry.id, "0.5", 100)
    entry, target, stop = await live.orders("Script")
    assert (target.status, stop.status) == ("queued", "waiting")
    await live.submit(target.id, "0.5", 110)
    assert await step(live) == f"{NOTHING}; 2 orders wait as before"
    assert (await state(live, "Script"))["seen"] == [["sell", None, 110, None], ["sell", None, None, 90]]
    await live.fill(target.id, "0.5", 110)
    assert (await live.orders("Script"))[2].status == "canceled"
    await live.sound()


async def test_exits_that_are_given_later_join_the_group(live: Live) -> None:
    await script(live, [["buy"]], [["sell", {"stop": 90}]], [["sell", {"limit": 110}]])
    await bought(live)
    await step(live)
    await step(live)
    entry, stop, target = await live.orders("Script")
    assert (stop.parent_id, target.parent_id) == (entry.id, entry.id)
    assert target.status == "queued"


async def test_a_trailing_stop_of_what_is_held_follows_from_the_close_at_which_it_was_given(live: Live) -> None:
    await script(live, [["buy"]], [["sell", {"trail": 0.05}]])
    await bought(live)
    assert await step(live, 103.37) == "sell all trail 0.05"
    entry, stop = await live.orders("Script")
    assert shown(stop) == ("sell", "market", "waiting", None, None, Decimal("98.2"))  # 98.2015, to the tick
    assert (stop.trail, stop.trigger_when, stop.parent_id) == (Decimal("0.05"), "falls", entry.id)
    await step(live)
    seen = await state(live, "Script")
    assert (seen["seen"], seen["trails"]) == ([["sell", None, None, None]], [0.05])
    await live.sound()


async def test_a_trailing_stop_that_is_given_with_a_buy_waits_for_it_and_begins_at_its_fill(live: Live) -> None:
    await script(live, [["buy"], ["sell", {"trail": 0.05}], ["sell", {"limit": 150}]], [["cancel", "sell"]])
    await live.run("Script")
    entry, stop, target = await live.orders("Script")
    assert (stop.after_id, stop.parent_id, stop.trigger_price) == (entry.id, entry.id, None)
    await live.fill(entry.id, "0.5", 100)
    entry, stop, target = await live.orders("Script")
    assert (stop.status, target.status) == ("waiting", "queued")
    await live.submit(target.id, "0.5", 150)
    await step(live)
    _, stop, target = await live.orders("Script")
    assert (stop.status, target.cancel_requested_at is not None) == ("canceled", True)
    await live.sound()


async def test_a_trigger_price_that_moves_while_it_decides_is_no_reason_to_ask_again(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDDLED", live.url)
    await live.add("Pushed")
    await live.put(90, 90)
    await live.db.execute(
        """INSERT INTO orders (strategy, market, side, type, trail)
           VALUES ('Pushed', 'binance:BTC/USDT', 'sell', 'market', 0.1)"""
    )
    await live.run("Pushed")
    assert await state(live, "Pushed") == {"calls": 1}
    [order] = await live.orders("Pushed")
    assert order.trigger_price == 1


async def test_a_target_of_zero_takes_orders_back_and_sells_all(live: Live) -> None:
    await script(live, [["buy"]], [["sell", {"limit": 110}], ["sell", {"stop": 90}]], [["target", 0]])
    await bought(live)
    await step(live)
    _, target, stop = await live.orders("Script")
    await live.submit(target.id, "0.5", 110)
    await step(live)
    _, target, stop, sale = await live.orders("Script")
    assert (target.cancel_requested_at is not None, stop.status) == (True, "canceled")
    assert (sale.side, sale.type, sale.status, sale.replaces_id) == ("sell", "market", "waiting", target.id)
    [made] = (await live.decisions("Script"))[-1:]
    assert made.action == "orders"
    assert made.reason.startswith("target 0: sell all of 0.5; sell all in place of order")
    await live.db.execute("UPDATE \"order\" SET status = 'canceled' WHERE id = %s", [target.id])
    assert (await live.orders("Script"))[3].status == "queued"
    await live.fill(sale.id, "0.5", 100)
    await live.sound()


async def test_a_target_above_zero_enters_on_a_fresh_cross_only(live: Live) -> None:
    targets = [1, None, 0, None, 1, 1]
    await script(live, *[[["target", target]] for target in targets])
    actions = [(await live.run("Script"), await live.decisions("Script"))[1][-1].action]
    for _ in targets[1:-1]:
        await step(live)
        actions.append((await live.decisions("Script"))[-1].action)
    assert actions == ["none", "none", "none", "none", "buy"]
    made = (await live.decisions("Script"))[-1]
    assert (made.signal, made.previous) == (1.0, 0.0)


async def test_no_cross_is_fresh_after_a_candle_at_which_it_was_not_called(live: Live) -> None:
    await script(live, [["target", 0]], [["target", 1]])
    await live.run("Script")
    await live.put(100, first=START + HOUR)
    await step(live)
    made = (await live.decisions("Script"))[-1]
    assert (made.action, made.signal, made.previous) == ("none", 1.0, None)


async def test_a_waiting_buy_is_moved_by_taking_its_place(live: Live) -> None:
    await script(live, [["buy", {"limit": 90}]], [["cancel"], ["buy", {"limit": 95}]], stake=50)
    await live.run("Script")
    [first] = await live.orders("Script")
    await live.submit(first.id, "0.5", 90)
    await step(live)
    first, second = await live.orders("Script")
    assert first.cancel_requested_at is not None
    assert (second.status, second.replaces_id) == ("waiting", first.id)
    assert second.quantity == Decimal("0.52631")  # half of 100 at 95
    assert await step(live) == f"order {first.id} of it is on its way"
    await live.sound()


async def test_what_was_filled_before_is_bought_beside_it(live: Live) -> None:
    moves = [[["cancel"], ["buy", {"limit": 90, "quantity": quantity}]] for quantity in (0.4, 0.3)]
    await script(live, [["buy", {"limit": 90, "quantity": 0.5}]], *moves)
    await live.run("Script")
    for place, due in enumerate(("0.4", "0.3")):
        old = (await live.orders("Script"))[-1]
        await live.submit(old.id, str(old.due_quantity or old.quantity), 90, "partially_filled")
        await live.fill(old.id, "0.1", 90, "partially_filled")
        await step(live)
        await live.db.execute("UPDATE \"order\" SET status = 'canceled' WHERE id = %s", [old.id])
        new = (await live.orders("Script"))[-1]
        assert (new.replaces_id, new.status) == (old.id, "queued")
        assert (new.quantity, new.due_quantity) == (Decimal("0.5"), Decimal(due)), place
    await live.sound()


async def test_a_line_of_moved_orders_does_not_grow_for_ever(live: Live) -> None:
    await script(live, *[[["cancel"], ["buy", {"limit": 90}]]] * 25)
    await live.run("Script")
    for _ in range(20):
        old = (await live.orders("Script"))[-1]
        await live.submit(old.id, "1", 90)
        await step(live)
        assert (await live.orders("Script"))[-1].replaces_id == old.id
        await live.db.execute("UPDATE \"order\" SET status = 'canceled' WHERE id = %s", [old.id])
    last = (await live.orders("Script"))[-1]
    await live.submit(last.id, "1", 90)
    assert await step(live) == f"take back order {last.id}: decides when that is done"
    assert (await live.decisions("Script"))[-1].action == "waits"
    assert (await state(live, "Script"))["at"] == 21
    assert await live.run("Script") == f"order {last.id} of it is on its way"
    await live.db.execute("UPDATE \"order\" SET status = 'canceled' WHERE id = %s", [last.id])
    await live.run("Script")
    new = (await live.orders("Script"))[-1]
    assert (new.replaces_id, new.status) == (None, "queued")
    assert (await live.decisions("Script"))[-1].action == "buy"
    assert (await state(live, "Script"))["at"] == 22


async def test_a_sale_of_nothing_is_left_out(live: Live) -> None:
    await script(live, [["sell", {"limit": 110}]])
    assert await live.run("Script") == "sell: nothing is held"
    assert await live.orders("Script") == []


async def test_dust_is_not_sold_so_exits_wait_for_the_entry(live: Live) -> None:
    await script(live, [["buy"]], [["target", 0]], [["buy"], ["sell", {"limit": 110}], ["sell", {"stop": 90}]])
    await bought(live)
    await step(live)
    sale = (await live.orders("Script"))[-1]
    await live.fill(sale.id, "0.499999", 100)
    await step(live)
    entry, target, stop = (await live.orders("Script"))[2:]
    assert (entry.side, target.status, target.after_id, stop.after_id) == ("buy", "waiting", entry.id, entry.id)


async def test_a_sale_at_the_market_takes_the_other_sales_back(live: Live) -> None:
    await script(live, [["buy"]], [["sell", {"limit": 110}], ["sell", {"stop": 90}]], [["sell"]])
    await bought(live)
    await step(live)
    target = (await live.orders("Script"))[1]
    await live.submit(target.id, "0.5", 110)
    await step(live)
    _, target, stop, sale = await live.orders("Script")
    assert (stop.status, sale.replaces_id, target.cancel_requested_at is None) == ("canceled", target.id, False)
    await live.sound()


async def test_one_sale_of_a_part_is_placed(live: Live) -> None:
    await script(live, [["buy"]], [["sell", {"limit": 110, "quantity": 0.2}]])
    await bought(live)
    await step(live)
    sale = (await live.orders("Script"))[-1]
    assert (sale.quantity, sale.parent_id, sale.status) == (Decimal("0.2"), None, "queued")


async def test_several_sales_need_a_buy_whose_exits_they_are(live: Live) -> None:
    sales = [["sell", {"limit": 110}], ["sell", {"stop": 90}]]
    await script(live, sales, sales[:1])
    await live.db.execute(
        "INSERT INTO adjustment (account_id, asset_id, kind, quantity, reason) VALUES (1, 2, 'opening', 5, 'x')"
    )
    await live.db.execute("INSERT INTO orders (strategy, type, asset, quantity) VALUES ('Script', 'deposit', 'BTC', 1)")
    assert "several sales are the exits of one buy, but what is held was not bought here" in await live.run("Script")
    assert await live.orders("Script") == []
    assert [row.action for row in await live.decisions("Script")] == ["stopped"]
    await live.db.execute("""UPDATE strategy SET params = '{"what": [[["sell", {"limit": 110}]]]}'""")
    await step(live)
    assert [order.side for order in await live.orders("Script")] == ["sell"]


async def test_what_it_declares_may_raise_as_well(live: Live) -> None:
    await live.add("Fickle")
    await live.put(90)
    assert "KeyError: 'how many'" in await live.run("Fickle")
    assert [row.action for row in await live.decisions("Fickle")] == ["stopped"]


async def test_a_database_that_fails_while_it_decides_is_no_fault_of_the_class(live: Live, database: str) -> None:
    await live.add("Making")
    await live.put(90, 95)
    await live.db.execute("ALTER VIEW performance RENAME TO hidden")
    with pytest.raises(psycopg.errors.UndefinedTable):
        await live.run("Making")
    assert await live.decisions("Making") == []
    await live.db.execute("ALTER VIEW hidden RENAME TO performance")
    assert await live.run("Making") == NOTHING


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([["sell", {"trail": 1.5}]], "trail is 1.5: a share above 0 and below 1, of a sale only"),
        ([["sell", {"trail": 1 - 1e-16}]], "trail is 0.9999999999999999: below 1 in fifteen digits is allowed"),
        ([["sell", {"trail": 0.1, "stop": 90}]], "a trailing stop has neither limit nor stop"),
        ([["sell", {"trail": 0.1, "quantity": 0.2}], ["sell", {"limit": 110}]], "which each sells all"),
        ([["sell", {"limit": -1}]], "limit is -1: a number above 0 is needed"),
        ([["sell", {"limit": 1e30}]], "from 1e-18 to below 1e20 is allowed"),
        ([["buy", {"limit": 90}]] * 21, "21 orders at one candle: at most 20 are allowed"),
        ([["sell", {"limit": 110, "quantity": 0.2}], ["sell", {"stop": 90}]], "which each sells all"),
    ],
)
async def test_what_the_desk_cannot_do_is_said_and_nothing_is_done(live: Live, steps: list[Any], words: str) -> None:
    await script(live, [["buy"]], steps)
    await bought(live)
    assert words in await step(live)
    [made] = (await live.decisions("Script"))[-1:]
    assert (made.action, made.orders) == ("stopped", None)
    assert (await state(live, "Script"))["at"] == 1
    assert (await live.row("Script")).error in made.reason


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Unkept", 'context.state["when"] is datetime: only None, numbers, texts, lists and dicts are kept'),
        ("Greedy", "window of 3 candles: a whole number from 1 to its warm-up, 2, is needed"),
        ("Wrong", "on_bucket gave 2.0: from -1 to 1 is allowed"),
        ("Cancelled", "CancelledError"),
        ("CtrlC", "KeyboardInterrupt"),
        ("Surrogate", "ValueError: ?"),
    ],
)
async def test_one_that_does_wrong_is_stopped_with_the_reason(live: Live, name: str, words: str) -> None:
    await live.add(name)
    await live.put(90, 90)
    assert words in await live.run(name)
    assert words in (await live.row(name)).error
    assert await live.all("SELECT FROM strategy_state") == []


async def test_it_sees_its_money_and_what_it_made(live: Live) -> None:
    await live.add("Making")
    await live.put(90, 95)
    await live.run("Making")
    assert await state(live, "Making") == {"made": [100, 100, 0], "window": [90, 95]}


async def test_its_own_money_and_position(live: Live) -> None:
    await script(live, [["buy"]])
    await bought(live, "0.5", 100)
    await step(live)
    assert (await state(live, "Script"))["money"] == [50, 0.5, 100]


async def test_an_order_that_changes_while_it_decides_makes_it_decide_again(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDDLED", live.url)
    await live.add("Meddled")
    await live.put(90, 90)
    await live.db.execute(
        """INSERT INTO orders (strategy, market, side, type, trigger_price, trigger_when)
           VALUES ('Meddled', 'binance:BTC/USDT', 'buy', 'market', 200, 'rises')"""
    )
    await live.run("Meddled")
    assert await state(live, "Meddled") == {"orders": 0}
    by_hand, placed = await live.orders("Meddled")
    assert (by_hand.status, placed.limit_price) == ("canceled", Decimal(50))


async def test_a_candle_that_has_an_order_by_hand_gets_no_other(live: Live) -> None:
    await script(live, [["buy", {"limit": 90}]])
    await live.db.execute(
        """INSERT INTO orders (strategy, market, side, type, trigger_price, trigger_when, bucket_time)
           VALUES ('Script', 'binance:BTC/USDT', 'buy', 'market', 200, 'rises', %s)""",
        [START],
    )
    assert (await live.run("Script")).endswith("but this candle has its order already")
    assert len(await live.orders("Script")) == 1


async def test_two_at_once_place_one_set_of_orders(live: Live, database: str) -> None:
    await script(live, [["buy"], ["sell", {"limit": 110}], ["sell", {"stop": 90}]])
    async with await connect(database, WORKER) as other:
        await asyncio.gather(*(run(db, live.ids["Script"]) for db in (live.db, other) for _ in range(1)))
    assert len(await live.orders("Script")) == 3
    assert (await state(live, "Script"))["at"] == 1
    assert len(await live.decisions("Script")) == 1


async def test_state_orders_and_decision_are_written_together_or_not_at_all(live: Live, database: str) -> None:
    await script(live, [["buy"], ["sell", {"stop": 90}]])
    await live.db.execute(
        """CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF current_setting('application_name') = 'worker-doomed' THEN
               PERFORM pg_terminate_backend(pg_backend_pid());
             END IF;
             RETURN NEW; END $$;
           CREATE TRIGGER z_die BEFORE UPDATE OF last_bucket ON strategy FOR EACH ROW EXECUTE FUNCTION die()"""
    )
    doomed = await connect(database, WORKER)
    await doomed.execute("SET application_name = 'worker-doomed'")
    with pytest.raises(psycopg.OperationalError):
        await run(doomed, live.ids["Script"])
    await doomed.close()
    assert await live.orders("Script") == await live.decisions("Script") == []
    assert await live.all("SELECT FROM strategy_state") == []
    await live.run("Script")
    assert len(await live.orders("Script")) == 2
    assert (await state(live, "Script"))["at"] == 1


async def test_a_worker_that_is_killed_between_its_orders_and_its_commit_leaves_neither(
    live: Live, database: str, tmp_path: Path
) -> None:
    await script(live, [["buy"], ["sell", {"limit": 110}], ["sell", {"stop": 90}]])
    program = f"""
import asyncio
from jobs.strategy import run
from trader.db import Identity, connect


async def main():
    async with await connect({database!r}, Identity("worker", "doomed")) as db:
        await run(db, {live.ids["Script"]})


asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    async with await connect(database, WORKER) as other, other.transaction():
        await other.execute("LOCK TABLE strategy_state IN EXCLUSIVE MODE")  # its orders are written before its state
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, env=environment)
        try:
            await _until(
                live, "SELECT FROM pg_stat_activity WHERE application_name = 'doomed' AND wait_event_type = 'Lock'"
            )
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
    await _until(live, "SELECT WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'doomed')")
    assert await live.orders("Script") == await live.decisions("Script") == []
    await live.run("Script")
    assert len(await live.orders("Script")) == 3
    assert len(await live.decisions("Script")) == 1
    assert (await state(live, "Script"))["at"] == 1


async def _until(live: Live, statement: str) -> None:
    """Wait until a statement gives a row."""
    async with asyncio.timeout(60):
        while not await live.all(statement):  # noqa: ASYNC110 - nobody tells when a session begins to wait
            await asyncio.sleep(0.02)


async def test_one_whose_orders_rest_is_still_due(live: Live) -> None:
    await script(live, [["buy", {"stop": 120}]])
    await live.run("Script")
    await live.feed()
    assert await sweep(live.db) == 0
    await live.put(100, first=START + HOUR)
    assert await sweep(live.db) == 1


async def test_one_that_does_not_return_stops_itself_and_nobody_else(
    live: Live, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """More than the loop has threads hang: the next one runs all the same. It is called again once it has returned."""
    monkeypatch.setattr(guard, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setenv("RETURN", str(tmp_path / "return"))
    number = await live.add("Hangs")
    await live.add("Calm")
    await live.put(100, 100, 100)
    threads = [asyncio.create_task(beside(lambda stop: stop.wait(60), "hangs")) for _ in range(40)]
    assert await live.run("Hangs") == "stopped: it did not answer within 0.3 s"
    await live.put(101, first=START + 3 * HOUR)
    assert "an earlier call has not returned yet" in await live.run("Hangs")
    monkeypatch.setattr(guard, "PATIENCE_SECONDS", 60.0)
    assert "stopped" not in await live.run("Calm")
    (tmp_path / "return").touch()
    async with asyncio.timeout(60):
        while guard._hanging[number].is_set():  # noqa: ASYNC110 - a thread ends when it likes
            await asyncio.sleep(0.01)
    await live.put(102, first=START + 4 * HOUR)
    assert "stopped" not in await live.run("Hangs")
    for thread in threads:
        thread.cancel()


async def becomes_a_signal(live: Live) -> None:
    await live.db.execute("UPDATE strategy SET class = %s, params = '{}'", [f"{live.module}:Signal"])


async def test_a_signal_that_meets_the_resting_orders_of_an_earlier_class_says_how_to_end_them(live: Live) -> None:
    """They are not taken back unasked: one may guard what is held."""
    await script(live, [["buy"]], [["sell", {"limit": 110}], ["sell", {"stop": 90.5}]])
    await bought(live)
    await step(live)
    _, target, stop = await live.orders("Script")
    await live.submit(target.id, "0.5", 110)
    await becomes_a_signal(live)
    for price in (99, 98):  # at every candle, until somebody has done it
        told = await step(live, price)
        [made] = (await live.decisions("Script"))[-1:]
        assert (made.action, made.reason, (await live.row("Script")).error) == ("waits", told, told)
    what, statement = told.split("; to end them: ")
    assert what == (
        f"waits for orders {target.id} (sell limit 110), {stop.id} (sell stop 90.5), which its class did not give and "
        "which may rest for ever"
    )
    assert [order.status for order in (await live.orders("Script"))[1:]] == ["accepted", "waiting"]
    await live.db.execute(statement)
    assert await live.run("Script") == "1 order of it still open"
    assert (await live.row("Script")).error is None  # on its way: nothing is left to do
    await live.db.execute("UPDATE \"order\" SET status = 'canceled' WHERE id = %s", [target.id])
    assert await live.run("Script") == "target 0: sell all of 0.5"
    assert [order.status for order in await live.orders("Script")] == ["filled", "canceled", "canceled", "queued"]
    await live.sound()


async def test_a_signal_decides_when_the_resting_order_of_an_earlier_class_has_ended(live: Live) -> None:
    await script(live, [["buy"]], [["sell", {"limit": 110}]])
    await bought(live)
    await step(live)
    [_, target] = await live.orders("Script")
    await live.submit(target.id, "0.5", 110)
    await becomes_a_signal(live)
    assert f"waits for order {target.id} (sell limit 110), which" in await step(live, 101)
    await live.fill(target.id, "0.5", 110)
    assert await live.run("Script") == "fresh cross to 1: buy for 105"
    assert (await live.row("Script")).error is None
    assert len(await live.orders("Script")) == 3
    await live.sound()
