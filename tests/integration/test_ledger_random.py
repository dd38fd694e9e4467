"""Any sequence of deposits, withdrawals, buys and sells: nothing is lost, and profit is realised + unrealised."""

from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.plugins.books import Books

CENT = Decimal("0.01")
STEP = Decimal("0.00001")


@dataclass(frozen=True)
class Step:
    """One thing that happens; `share` is how much of what there is it takes."""

    kind: str
    share: Decimal
    price: int
    fee: Decimal
    fee_asset: str
    fills: int
    together: bool


steps = st.builds(
    Step,
    kind=st.sampled_from(["deposit", "withdrawal", "buy", "sell"]),
    share=st.decimals("0.01", "0.95", places=4),
    price=st.integers(10_000, 90_000),
    fee=st.decimals("-0.001", "0.002", places=5),
    fee_asset=st.sampled_from(["USDT", "BTC", "BNB"]),
    fills=st.integers(1, 3),
    together=st.booleans(),
)


def take(books: Books, step: Step) -> None:
    """Do one step as far as there are funds for it."""
    if step.kind == "deposit":
        books.deposit((step.share * 1000).quantize(CENT))
    elif step.kind == "withdrawal":
        if (quantity := (books.balance()[0] * step.share).quantize(CENT, ROUND_DOWN)) > 0:
            books.withdraw(quantity)
    else:
        have = books.balance("BTC")[0] if step.kind == "sell" else books.balance()[0] / step.price
        quantity = (have * step.share / step.fills).quantize(STEP, ROUND_DOWN)
        if quantity > 0:
            trade(books, step, quantity)


def trade(books: Books, step: Step, quantity: Decimal) -> None:
    whole = quantity * step.fills
    held = whole * step.price if step.kind == "buy" else whole
    order = books.submit(books.queue(step.kind, quantity=whole), held, "USDT" if step.kind == "buy" else "BTC")
    fee = quantity * step.fee * {"USDT": step.price, "BTC": 1, "BNB": Decimal(step.price) / 300}[step.fee_asset]
    fill = (order, quantity, step.price, round(fee, 12), step.fee_asset)
    if step.together:
        books.fills(*[fill] * step.fills)
    else:
        for _ in range(step.fills):
            books.fill(*fill)
    books.move(order, "filled")


@given(st.lists(steps, min_size=3, max_size=10))
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_nothing_is_lost(books: Books, sequence: list[Step]) -> None:
    with books.person.transaction(force_rollback=True):
        books.candle(300, "BNB/USDT")
        books.candle(50_000)
        books.strategy("s", deposit=1000)
        for step in sequence:
            take(books, step)
        books.candle(sequence[-1].price)
        books.check()
        made = books.performance()
        assert abs(made.realised + made.unrealised - made.profit) <= Decimal("1e-7")
        exact = books.row(
            """SELECT e.equity - e.paid_in AS profit,
                      sum(p.realised + p.quantity * market_price(p.market_id) - p.cost) AS told
                 FROM equity e LEFT JOIN position p USING (strategy_id) GROUP BY e.equity, e.paid_in"""
        )
        assert abs(exact.profit - (exact.told or 0)) < Decimal("1e-9")
