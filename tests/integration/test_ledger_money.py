"""Money: what is held, what fills book, what profit is. Every test ends with the books proved against the facts."""

from decimal import Decimal
from typing import Any

import pytest

from tests.integration.test_guards_order import OPEN, order_at
from tests.plugins.books import Books

D = Decimal


# Deposits and withdrawals


def test_the_example_of_the_manual(books: Books) -> None:
    """$100 in, a win of 10 with fees of 0.11, then 1,000 more: the deposit is no profit."""
    books.strategy(deposit=100)
    books.trade("buy", "0.001", 50000, fee="0.05")
    books.trade("sell", "0.001", 60000, fee="0.06")
    books.deposit(1000)
    assert books.balance() == (D("1109.89"), 0)
    made = books.performance()
    assert (made.profit, made.realised, made.unrealised, made.fees) == (D("9.89"), D("9.89"), 0, D("0.11"))
    assert (made.deposits, made.withdrawals, made.equity) == (1100, 0, D("1109.89"))
    assert (made.return_percent, made.trades, made.win_percent) == (D("9.89"), 1, 100)


def test_withdrawals_take_what_is_free_and_no_more(books: Books) -> None:
    books.strategy(deposit=100)
    books.submit(books.queue(), 60)
    withdrawal = "INSERT INTO orders (strategy, type, asset, quantity) VALUES ('s', 'withdrawal', %s, %s)"
    assert books.refused(withdrawal, "USDT", "40.01") == "strategy s can withdraw at most 40 USDT, not 40.01"
    assert books.refused(withdrawal, "BTC", 1) == "strategy s can withdraw at most 0 BTC, not 1"
    books.withdraw(40)
    assert books.balance() == (60, 60)
    assert books.refused(withdrawal, "USDT", "0.000000000000000001") == (
        "strategy s can withdraw at most 0 USDT, not 0.000000000000000001"
    )


def test_what_nobody_can_price_is_not_deposited(books: Books) -> None:
    books.strategy()
    assert books.refused("INSERT INTO orders (strategy, type, asset, quantity) VALUES ('s', 'deposit', 'DOGE', 5)") == (
        "strategy s: nobody knows what DOGE is worth yet; "
        "deposit USDT or import candles of a market between the two first"
    )
    books.candle(40000)
    books.deposit("0.5", "BTC")
    assert (books.performance().deposits, books.performance().equity) == (20000, 20000)
    books.candle(50000)
    assert (books.performance().profit, books.performance().unrealised) == (5000, 5000)


def test_a_deposit_comes_from_what_is_nobodys(books: Books) -> None:
    books.execute(
        "INSERT INTO adjustment (account_id, asset_id, kind, quantity, reason)"
        " VALUES (1, 1, 'opening', 500, 'was there')"
    )
    books.strategy(deposit=120)
    books.withdraw(20)
    row = books.row("SELECT strategies, unallocated FROM reconciliation WHERE asset = 'USDT'")
    assert (row.strategies, row.unallocated) == (100, 400)


# Holds


def test_a_hold_above_what_is_free_is_refused(books: Books) -> None:
    books.strategy(deposit=100)
    books.submit(books.queue(), 60)
    assert books.balance() == (100, 60)
    second = books.queue()
    with pytest.raises(Exception, match=r"strategy s: its allowance is too small by 20\.5 USDT"):
        books.submit(second, "60.5")
    assert books.state(second).status == "queued"
    books.submit(second, 40)
    assert books.balance() == (100, 100)


def test_many_holds_in_one_statement_are_refused_together(books: Books) -> None:
    books.strategy(deposit=100)
    for _ in range(2):
        books.queue()
    claim = """UPDATE "order" SET status = 'submitted', fence = 1, submitted_at = now(), receive_deadline = now(),
                 hold_asset_id = 1, hold_quantity = 60 WHERE status = 'queued'"""
    assert books.refused(claim, trader=True) == "strategy s: its allowance is too small by 20 USDT"
    assert books.balance() == (100, 0)


@pytest.mark.parametrize("final", ["filled", "canceled", "expired", "rejected", "denied"])
@pytest.mark.parametrize("status", sorted(OPEN))
def test_every_end_sets_the_hold_free(books: Books, status: str, final: str) -> None:
    books.strategy(deposit=100)
    order = order_at(books, status)
    assert books.balance() == (100, 50)
    if books.value("SELECT order_step_exists(%s::order_status, %s::order_status)", status, final):
        books.move(order, final)
        assert books.balance() == (100, 0)
    else:
        assert "is not a step" in books.refused(
            f"UPDATE \"order\" SET status = '{final}' WHERE id = {order}", trader=True
        )
        assert books.balance() == (100, 50)


def test_fills_shrink_the_hold(books: Books) -> None:
    books.strategy(deposit=100)
    order = books.submit(books.queue(quantity="0.001"), "60")
    books.fill(order, "0.0004", 50000, fee="0.02")
    assert books.balance() == (D("79.98"), D("39.98"))
    books.fill(order, "0.0004", 50000, fee="0.0000004", fee_asset="BTC")
    assert books.balance() == (D("59.98"), D("19.98"))
    books.fill(order, "0.0002", 60000, fee="-0.01")  # a rebate frees nothing
    assert books.balance() == (D("47.99"), D("7.98"))
    books.move(order, "filled")
    assert books.balance() == (D("47.99"), 0)


def test_a_fill_dearer_than_the_hold_takes_it_to_zero_and_the_balance_below_if_need_be(books: Books) -> None:
    books.strategy(deposit=100)
    order = books.submit(books.queue(quantity="0.001"), 100)
    books.fill(order, "0.001", 100000, fee="0.1")  # a fact: it is booked whatever we have
    assert books.balance() == (D("-0.1"), 0)
    books.move(order, "filled")
    books.check()
    books.deposit(1)


# Fills


@pytest.mark.parametrize(
    "status", ["submitted", "accepted", "partially_filled", "pending_cancel", "filled", "canceled"]
)
@pytest.mark.parametrize("sent", [True, False])
def test_a_fill_is_booked_in_every_state_of_an_order_that_was_sent(books: Books, status: str, sent: bool) -> None:
    books.strategy(deposit=100)
    order = books.queue(quantity="0.001")
    if not sent:
        assert (
            books.refused(
                "INSERT INTO fill (order_id, traded_at, quantity, price, fee, trade_id, source)"
                f" VALUES ({order}, now(), 1, 1, 0, 't', 'poll')",
                trader=True,
            )
            == f"order {order}: it was never sent, so it has no fills"
        )
        return
    books.submit(order, 60)
    ways = {"canceled": ("accepted", "canceled"), "pending_cancel": ("accepted", "pending_cancel"), "submitted": ()}
    books.move(order, *ways.get(status, (status,)))
    books.fill(order, "0.001", 50000, fee="0.05")
    state = books.state(order)
    assert (state.status, state.filled_quantity, state.filled_quote) == (status, D("0.001"), 50)
    assert books.balance()[0] == D("49.95")
    assert books.balance("BTC") == (D("0.001"), 0)


@pytest.mark.parametrize("status", ["expired", "rejected", "denied"])
def test_a_late_fill_of_an_order_that_seemed_dead_is_a_fact_too(books: Books, status: str) -> None:
    books.strategy(deposit=100)
    order = books.submit(books.queue(quantity="0.001"), 60)
    books.move(order, status)
    books.fill(order, "0.001", 50000)
    assert (books.balance(), books.balance("BTC")) == ((50, 0), (D("0.001"), 0))


def test_a_fill_is_booked_once(books: Books) -> None:
    books.strategy(deposit=1000)
    first = books.submit(books.queue(quantity="0.001"), 60)
    second = books.submit(books.queue(quantity="0.001"), 60)
    books.fill(first, "0.001", 50000, trade="7")
    for order in (first, second):
        with pytest.raises(Exception, match="a_trade_is_booked_once"):
            books.fill(order, "0.001", 50000, trade="7")
    books.trader(
        "INSERT INTO fill (order_id, traded_at, quantity, price, fee, trade_id, source)"
        f" VALUES ({first}, now(), 1, 1, 0, '7', 'poll') ON CONFLICT (account_id, market_id, trade_id, side) DO NOTHING"
    )
    assert books.balance()[0] == 950


def test_both_sides_of_a_trade_between_our_own_orders_are_booked(books: Books) -> None:
    books.strategy(deposit=1000)
    books.strategy("t", deposit=1000)
    books.trade("buy", "0.001", 50000, strategy="t")
    buy = books.submit(books.queue(quantity="0.001"), 60)
    sell = books.submit(books.queue("sell", "t", quantity="0.001"), "0.001", "BTC")
    books.fill(buy, "0.001", 60000, trade="both", fee="0.06")
    books.fill(sell, "0.001", 60000, trade="both", fee="0.03")
    assert books.balance() == (D("939.94"), 0)
    assert books.balance(strategy="t")[0] == D("1009.97")


FEES = [
    # fee, its asset, USDT left, BTC got, cost, fees in quote
    ("0.05", "USDT", "949.95", "0.001", "50.05", "0.05"),
    ("0.000001", "BTC", "950", "0.000999", "50", "0.05"),
    ("0.0002", "BNB", "950", "0.001", "50.06", "0.06"),
    ("-0.01", "USDT", "950.01", "0.001", "49.99", "-0.01"),
    ("-0.000001", "BTC", "950", "0.001001", "50", "-0.05"),
    ("0", None, "950", "0.001", "50", "0"),
    ("3", "DOGE", "950", "0.001", "50", "0"),
]


@pytest.mark.parametrize(("fee", "asset", "usdt", "btc", "cost", "fees"), FEES)
def test_fees_are_booked_in_their_own_asset(
    books: Books, fee: str, asset: str | None, usdt: str, btc: str, cost: str, fees: str
) -> None:
    books.candle(300, "BNB/USDT")
    books.strategy(deposit=1000)
    books.trade("buy", "0.001", 50000, fee=fee, fee_asset=asset)
    assert (books.balance()[0], books.balance("BTC")[0]) == (D(usdt), D(btc))
    if asset in ("BNB", "DOGE"):
        assert books.balance(asset)[0] == -D(fee)
    position = books.row("SELECT * FROM position WHERE market_id = 1")
    assert (position.quantity, position.cost, position.fees) == (D(btc), D(cost), D(fees))
    charged = books.row("SELECT fee, fee_value FROM fill")
    assert (charged.fee, charged.fee_value) == (D(fee), None if asset == "DOGE" else D(fees))


def test_a_fee_names_its_asset(books: Books) -> None:
    books.strategy(deposit=100)
    order = books.submit(books.queue(quantity="0.001"), 60)
    with pytest.raises(Exception, match="a_fee_names_its_asset"):
        books.fill(order, "0.001", 50000, fee="0.1", fee_asset=None)


@pytest.mark.parametrize(
    ("field", "value"), [("quantity", 0), ("quantity", "NaN"), ("price", 0), ("price", -1), ("fee", "NaN")]
)
def test_a_fill_of_nonsense_is_refused(books: Books, field: str, value: Any) -> None:
    books.strategy(deposit=100)
    order = books.submit(books.queue(quantity="0.001"), 60)
    with pytest.raises(Exception, match="must_be_a_finite_number"):
        books.fill(order, **{"quantity": 1, "price": 1, "fee": 0} | {field: value})


# Average cost


def test_fills_of_one_statement_are_booked_as_if_one_by_one(books: Books) -> None:
    """Two strategies, three orders, buys and sells mixed, fees of every sort: the order of the fills is what counts."""
    books.candle(300, "BNB/USDT")
    states = []
    for together in (True, False):
        with books.person.transaction(force_rollback=True):
            books.execute("SELECT setval('strategy_id_seq', 1, false) AS s, setval('order_id_seq', 1, false) AS o")
            for name in ("s", "t"):
                books.strategy(name, deposit=1000)
                books.trade("buy", "0.007", 30011, strategy=name, fee="0.21")
            buy = books.submit(books.queue(quantity="0.003"), 200)
            sell = books.submit(books.queue("sell", quantity="0.007"), "0.007", "BTC")
            other = books.submit(books.queue("sell", "t", quantity="0.005"), "0.005", "BTC")
            rows = [
                (buy, "0.001", 31234, "0.000001", "BTC"),
                (other, "0.0017", 29999, "0.03", "USDT"),
                (sell, "0.0033", 30777, "0.0001", "BNB"),
                (buy, "0.002", "30000.77", "-0.01", "USDT"),
                (sell, "0.0031", 29001, "0.0000031", "BTC"),
                (other, "0.0013", 31313, "0", "USDT"),
            ]
            if together:
                books.fills(*rows)
            else:
                for order, quantity, price, fee, asset in rows:
                    books.fill(order, quantity, price, fee, asset)
            books.check()
            states.append(
                [str(row) for row in books.execute("SELECT * FROM position ORDER BY strategy_id, market_id")]
                + [str(row) for row in books.execute("SELECT * FROM allowance ORDER BY strategy, asset")]
                + [
                    str(row)
                    for row in books.execute(
                        "SELECT id, filled_quantity, filled_quote, realised FROM orders ORDER BY id"
                    )
                ]
            )
    assert states[0] == states[1]


def test_average_cost_and_what_each_sale_realised(books: Books) -> None:
    books.strategy(deposit=1000)
    books.trade("buy", "0.002", 40000, fee="0.08")
    books.trade("buy", "0.002", 60000, fee="0.12")
    holding = books.row("SELECT * FROM holding WHERE asset = 'BTC'")
    assert (holding.total, holding.average_cost) == (D("0.004"), D("50050"))
    won = books.trade("sell", "0.001", 70050, fee="0.07")
    assert books.row("SELECT realised FROM orders WHERE id = %s", won).realised == D("19.93")
    lost = books.trade("sell", "0.001", 30050, fee="0.03")
    assert books.row("SELECT realised FROM orders WHERE id = %s", lost).realised == D("-20.03")
    assert books.row("SELECT average_cost FROM holding WHERE asset = 'BTC'").average_cost == D("50050")
    made = books.performance()
    assert (made.trades, made.win_percent, made.realised) == (2, 50, D("-0.1"))


def test_one_sale_in_many_fills_is_one_trade(books: Books) -> None:
    books.strategy(deposit=1000)
    books.trade("buy", "0.003", 50000)
    sale = books.submit(books.queue("sell", quantity="0.003"), "0.003", "BTC")
    for price in (40000, 60000, 70000):  # lost at first, then won
        books.fill(sale, "0.001", price)
    made = books.performance()
    assert (made.trades, made.win_percent, made.realised) == (1, 100, 20)


# Return


def test_money_that_comes_and_goes_is_no_return(books: Books) -> None:
    """Twins trade the same shares of what they have; one is topped up and drawn down in between."""
    books.strategy("still", deposit=1000)
    books.strategy("busy", deposit=1000)
    flows = iter([700, -300, 12345, -7000, D("0.01")])
    for buy, sell in [(50000, 60000), (60000, 45000), (45000, 81000), (80000, 79999), (31000, 47111)]:
        for name in ("still", "busy"):
            free = books.balance(strategy=name)[0]
            half = (free / 2 / buy).quantize(D("1e-12"))
            books.trade("buy", half, buy, strategy=name)
        books.candle(sell)
        flow = next(flows)
        (books.deposit if flow > 0 else books.withdraw)(abs(flow), strategy="busy")
        for name in ("still", "busy"):
            books.trade("sell", books.balance("BTC", name)[0], sell, strategy=name)
    values = {row.strategy: row for row in books.execute("SELECT * FROM equity")}
    assert abs(values["still"].unit_value - values["busy"].unit_value) < D("1e-9")
    assert values["still"].unit_value > D("1.2")
    assert values["busy"].paid_in == D("6745.01")


def test_a_strategy_that_was_emptied_keeps_its_return(books: Books) -> None:
    books.strategy(deposit=100)
    books.trade("buy", "0.001", 50000)
    books.trade("sell", "0.001", 60000)
    for value in ("33.333333333333333333", "7.123456789012345678"):
        books.deposit(D(value))
    books.withdraw(D("3.141592653589793238"))
    books.withdraw(books.balance()[0])
    assert books.value("SELECT units FROM equity") == 0
    assert (books.performance().equity, books.performance().return_percent) == (0, 10)
    books.deposit(500)
    assert (books.performance().equity, books.performance().return_percent) == (500, 10)
    books.trade("buy", "0.01", 50000)
    books.trade("sell", "0.01", 55000)
    assert books.performance().return_percent == 21


def test_many_flows_do_not_make_longer_and_longer_numbers(books: Books) -> None:
    books.strategy(deposit=100)
    books.trade("buy", "0.001", 50000)
    books.trade("sell", "0.001", "53333.333333333333333333")
    for _ in range(30):
        books.deposit("0.7")
        books.withdraw("0.3")
    assert books.value("SELECT max(scale(units)) FROM flow") <= 30
    assert books.performance().return_percent == D("3.3333")


def test_the_deepest_fall_is_remembered(books: Books) -> None:
    books.strategy(deposit=100)
    for value in (1, "1.5", "1.2", 2, "1.9"):
        books.trader("INSERT INTO equity_point (strategy_id, equity, unit_value) VALUES (1, 100, %s)", value)
    row = books.row("SELECT peak, round(max_drawdown, 6) AS deepest FROM drawdown")
    assert (row.peak, row.deepest) == (2, D("0.2"))
    assert books.performance().max_drawdown_percent == 50  # it is worth 1 now
