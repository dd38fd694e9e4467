"""The book of a run: its money, its deposits and withdrawals, and every fill as it is written down."""

from bisect import bisect_right
from collections.abc import Iterable
from decimal import Decimal
from operator import itemgetter
from typing import Generic

import numpy as np

from trader.backtest.data import Bars
from trader.backtest.fill import Arithmetic, N, Trade
from trader.backtest.result import Fills, Refusal, Result, States, equity_of
from trader.backtest.settings import Settings
from trader.bucket.timeframe import Times
from trader.errors import InputError


class Book(Generic[N]):
    """Cash and base of one market, in the numbers of its arithmetic."""

    def __init__(self, bars: Bars, settings: Settings, arithmetic: Arithmetic[N]) -> None:
        self.bars = bars
        self.settings = settings
        self.arithmetic: Arithmetic[N] = arithmetic
        self.cash: N = arithmetic.amount(Decimal(0))
        self.holding: N = arithmetic.amount(Decimal(0))
        self.refused: list[Refusal] = []
        self._waiting = flows_at(bars.time, settings)[::-1]
        self.flows: list[tuple[int, float]] = []
        """Those that were booked."""
        self._fills: list[tuple[int, int, int, N, N, N, N, bool, int]] = []
        self._states: list[tuple[int, N, N]] = []

    @property
    def next_flow(self) -> int:
        """The bar at whose close the next deposit or withdrawal counts; past the end: there is none."""
        return self._waiting[-1][0] if self._waiting else len(self.bars)

    def flow(self, until: int) -> None:
        """Book the deposits and withdrawals up to the close of bar `until`. InputError: more than is free is taken."""
        while self._waiting and self._waiting[-1][0] <= until:
            bar, amount = self._waiting.pop()
            change = self.arithmetic.amount(amount)
            if self.cash + change < 0:
                free = self.arithmetic.number(self.cash)
                raise InputError(f"a withdrawal of {-amount} at {self.bars.moment(bar)}: only {free:.8f} is free")
            self.cash += change
            self.flows.append((bar, float(amount)))
            self._states.append((bar, self.cash, self.holding))

    def bought(
        self, bar: int, decided: int, price: N, trade: Trade[N], *, maker: bool = False, order: int | None = None
    ) -> None:
        """Write down a buy; without a number, `order` is one of its own."""
        order = len(self._fills) if order is None else order
        self.cash -= trade.spent
        self.holding += trade.got
        self._fills.append((bar, decided, 1, price, trade.quantity, trade.quote, trade.fee, maker, order))
        self._states.append((bar, self.cash, self.holding))

    def sold(
        self, bar: int, decided: int, price: N, trade: Trade[N], *, maker: bool = False, order: int | None = None
    ) -> None:
        """Write down a sale."""
        order = len(self._fills) if order is None else order
        self.cash += trade.got
        self.holding -= trade.spent
        self._fills.append((bar, decided, -1, price, trade.quantity, trade.quote, trade.fee, maker, order))
        self._states.append((bar, self.cash, self.holding))

    def refuse(self, decided: int, reason: str) -> None:
        """Write down that an order was not filled, or an entry not taken."""
        self.refused.append(Refusal(decided, reason))

    def not_taken(self, wanted: Iterable[Refusal], undecided: Iterable[Refusal] = ()) -> None:
        """Write down entries that were wanted and not decided, where nothing was held at the close that could be sold;
        and where nothing was decided at all. Only for a book whose fills are all in it.
        """
        for one in wanted:
            place = bisect_right(self._states, one.bar, key=itemgetter(0))
            held = self._states[place - 1][2] if place else None
            if not held or self.bars.close[one.bar] < self.arithmetic.least_price(held):
                self.refused.append(one)
        self.refused.extend(undecided)
        self.refused.sort(key=itemgetter(0))

    def result(self) -> Result:
        """All that was written, as columns."""
        self.flow(len(self.bars) - 1)
        states = self._states_as_columns()
        equity = equity_of(self.bars, states)
        return Result(
            self.bars, self.settings, self._fills_as_columns(), states, tuple(self.flows), equity, tuple(self.refused)
        )

    def _fills_as_columns(self) -> Fills:
        columns = list(zip(*self._fills, strict=True)) if self._fills else [()] * 9
        bar, decided, side, price, quantity, quote, fee, maker, order = columns
        numbers = self.arithmetic.numbers
        return Fills(
            np.array(bar, dtype=np.int64),
            np.array(decided, dtype=np.int64),
            np.array(side, dtype=np.int8),
            self.arithmetic.price_numbers(price),
            numbers(quantity),
            numbers(quote),
            numbers(fee),
            np.array(maker, dtype=np.bool_),
            np.array(order, dtype=np.int64),
        )

    def _states_as_columns(self) -> States:
        bar, cash, holding = list(zip(*self._states, strict=True)) if self._states else [()] * 3
        return States(np.array(bar, dtype=np.int64), self.arithmetic.numbers(cash), self.arithmetic.numbers(holding))


def flows_at(time: Times, settings: Settings) -> list[tuple[int, Decimal]]:
    """Deposits and withdrawals as the bars at whose close they count: the first that closes at their moment or later.

    `time` is when bars close. The first deposit counts from the first. What comes after the last close is left out.
    """
    later = sorted(settings.flows, key=lambda flow: flow.at)
    at = np.searchsorted(time, [flow.milliseconds for flow in later]).tolist()
    flows = [(0, settings.deposit)] if settings.deposit else []
    return flows + [(bar, flow.amount) for bar, flow in zip(at, later, strict=True) if bar < len(time)]
