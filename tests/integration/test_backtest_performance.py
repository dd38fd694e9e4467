"""A backtest's measures and the view `performance`, fed with the same fills, deposits and candles."""

from decimal import Decimal

import pytest

from jobs.equity import SAMPLE
from tests.plugins.books import Books
from tests.unit.test_backtest_array import drawn
from trader.backtest.array import run
from trader.backtest.measures import measure
from trader.backtest.result import Result
from trader.backtest.settings import parse_settings

FLOWS = [{"at": "1970-01-01T00:15:00Z", "amount": 500}, {"at": "1970-01-01T00:38:00Z", "amount": -100}]
TERMS = {"deposit": 1_000, "stake": 60, "quantity_step": "0.001", "price_tick": "0.01", "taker": "0.002"}


def place(books: Books, result: Result, number: int) -> None:
    """Book one fill of a run as the trader would."""
    fills, bought = result.fills, result.fills.side[number] > 0
    in_base = bought and result.settings.fee_side == "get"
    books.trade(
        "buy" if bought else "sell",
        Decimal(repr(float(fills.quantity[number]))),
        Decimal(repr(float(fills.price[number]))),
        fee=Decimal(f"{fills.fee[number]:.8f}"),
        fee_asset="BTC" if in_base else "USDT",
    )


@pytest.mark.parametrize("fee_side", ["get", "quote"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_measures_are_those_of_the_live_view(books: Books, fee_side: str, seed: int) -> None:
    bars, targets = drawn(seed, 50)
    result = run(bars, targets, parse_settings(TERMS | {"fee_side": fee_side, "flows": FLOWS}))
    books.strategy()
    flows, at = dict(result.flows), result.fills.bar.tolist()
    for bar in range(len(bars)):
        for number in (number for number, filled in enumerate(at) if filled == bar):
            place(books, result, number)
        books.candle(Decimal(repr(float(bars.close[bar]))))
        if amount := flows.get(bar):
            (books.deposit if amount > 0 else books.withdraw)(Decimal(repr(abs(amount))))
        books.trader(SAMPLE)
    made, live = measure(result), books.performance()
    assert len(result.fills) > 5
    for name in ("deposits", "withdrawals", "equity", "profit", "realised", "unrealised", "fees"):
        assert getattr(made, name) == pytest.approx(float(getattr(live, name)), abs=2e-8), name
    for name in ("return_percent", "max_drawdown_percent", "win_percent"):
        assert getattr(made, name) == pytest.approx(float(getattr(live, name)), abs=0.006), name
    assert made.return_percent == pytest.approx(float(live.return_percent), abs=0.00006)
    assert made.max_drawdown_percent == pytest.approx(float(live.max_drawdown_percent), abs=0.00006)
    assert made.trades == live.trades
