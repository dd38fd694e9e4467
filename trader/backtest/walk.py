"""The loop over trades: from one bar at which something is decided to the next, never over the bars between."""

from typing import Generic

from trader.backtest.book import Book
from trader.backtest.crosses import Signal, not_taken, undecided
from trader.backtest.data import Bars
from trader.backtest.fill import Arithmetic, N, Trade
from trader.backtest.leg import Leg
from trader.backtest.result import Result
from trader.backtest.settings import Settings
from trader.exchange.protocol import Side


class Walk(Generic[N]):
    """One market with its own money."""

    def __init__(self, bars: Bars, signal: Signal, settings: Settings, arithmetic: Arithmetic[N]) -> None:
        self.leg: Leg[N] = Leg(bars, signal, arithmetic)
        self.book: Book[N] = Book(bars, settings, arithmetic)
        self.arithmetic: Arithmetic[N] = arithmetic

    def go(self) -> Result:
        """Trade to the end of the bars."""
        book, leg = self.book, self.leg
        next_flow, last, breaks = book.next_flow, leg.length - leg.signal.lag, leg.signal.breaks
        found = leg.next(0, book.holding)
        while found is not None:
            decided, side = found
            if next_flow <= decided:
                book.flow(decided)
                next_flow = book.next_flow
            problem = cannot_fill(leg, decided) if breaks or decided >= last else None
            if problem:
                book.refuse(decided, problem)
            else:
                self._trade(decided, side)
            found = leg.next(decided + 1, book.holding)
        book.not_taken(not_taken(leg.signal), undecided(leg.signal.undecided))
        return book.result()

    def _trade(self, decided: int, side: Side) -> None:
        book, leg = self.book, self.leg
        price = leg.price(side, decided)
        if side == "buy":
            trade = fill(leg, side, decided, price, book.cash)
            if not isinstance(trade, str):
                book.bought(decided + leg.signal.lag, decided, price, trade)
                return
        else:
            trade = fill(leg, side, decided, price, book.holding)
            if not isinstance(trade, str):
                book.sold(decided + leg.signal.lag, decided, price, trade)
                return
        book.refuse(decided, trade)


def cannot_fill(leg: Leg[N], decided: int) -> str | None:
    """Why no order that is decided at that bar can be filled, if so."""
    bar = decided + leg.signal.lag
    if bar >= leg.length:
        return "the bars end here"
    if bar in leg.signal.breaks:
        return "a gap follows"
    return None


def fill(leg: Leg[N], side: Side, decided: int, price: N, free: N) -> Trade[N] | str:
    """A market order's fill: it spends the stake out of `free` quote, or sells all of `free` base; or why none."""
    arithmetic = leg.arithmetic
    most = arithmetic.cap(float(leg.bars.volume[decided + leg.signal.lag])) if leg.capped else None
    if side == "sell":
        return arithmetic.sell(free, price, most, maker=False) or "below a minimum of the market, or no volume"
    spend = arithmetic.stake(free)
    if not spend:
        return f"the stake cannot be spent: {arithmetic.number(free):.8f} is free"
    return arithmetic.buy(spend, price, most, maker=False) or "below a minimum of the market, or no volume"
