"""The orders of one strategy that wait in the engine for bars, and what a bar does to them.

What a bar does not tell is taken as it is worst for us. Within a bar: first what happens at its open, then buys, then
sales below the market (stops), then sales above it (targets). docs/backtests.md has each rule with its reason.
"""

from typing import Generic

from trader.backtest.book import Book
from trader.backtest.data import Bars
from trader.backtest.fill import Arithmetic, N, Trade
from trader.backtest.settings import Settings
from trader.backtest.ticket import Context, Ticket
from trader.exchange.protocol import Side

INFINITE = float("inf")


class Orders(Generic[N]):
    """Orders that wait on one market, with the money that they move."""

    def __init__(self, bars: Bars, settings: Settings, arithmetic: Arithmetic[N], context: Context) -> None:
        self.arithmetic: Arithmetic[N] = arithmetic
        self.book: Book[N] = Book(bars, settings, arithmetic)
        self.context = context
        self.through = settings.limit_fill == "through"
        self.skips = settings.gap == "skip"
        self.broken = frozenset(bars.breaks.tolist())
        self.cost = 0.0
        self.entered_inside = False
        self.below, self.above = -INFINITE, INFINITE
        """A bar that stays between them meets no order."""

    def _buying(self) -> bool:
        return any(ticket.alive and ticket.side == "buy" for ticket in self.context.orders)

    def _reserve(self, ticket: Ticket) -> None:
        """Size a buy at a limit, and keep the money for it."""
        whole = self._wanted(ticket, self._limit(ticket))
        if whole is None:
            self._end(ticket, "the order cannot be paid, or is below a minimum of the market")
            return
        ticket.left, ticket.reserved = whole.quantity, whole.spent

    def _holds(self) -> bool:
        """Whether more is held than dust."""
        return self.arithmetic.least_price(self.book.holding) != INFINITE

    def _meets(self, ticket: Ticket) -> bool:
        """Whether an order looks at the market: a sale with a price waits for more than dust, as it does live."""
        if not ticket.alive or ticket.side == "buy":
            return ticket.alive
        return bool(self.book.holding) if ticket.kind == "market" else self._holds()

    def _wanted(self, ticket: Ticket, price: N) -> Trade[N] | None:
        """All of a buy at a price, its fee that of a taker; None: it cannot be paid, or is too small."""
        free = self._free()
        if ticket.quantity is None:
            spend = self.arithmetic.stake(free)
            return self.arithmetic.buy(spend, price, None, maker=False) if spend else None
        quantity = self.arithmetic.quantity(ticket.quantity)
        trade = self.arithmetic.take(quantity, price, maker=False) if quantity else None
        return trade if trade and trade.spent <= free else None

    def _free(self) -> N:
        free = self.book.cash
        for ticket in self.context.orders:
            if ticket.alive:
                free -= ticket.reserved
        return free

    def _match(self, index: int, opened: float, high: float, low: float, close: float, volume: float) -> None:
        """Let a bar meet the orders that wait."""
        self.entered_inside = False
        held_before = self._holds()
        for ticket in tuple(self.context.orders):
            if self._meets(ticket):
                self._at_open(ticket, index, opened, volume)
        for ticket in sorted(self.context.orders, key=_rank):
            if self._meets(ticket):
                self._inside(ticket, index, high, low, volume)
        for ticket in self.context.orders:
            if ticket.kind == "trail" and self._holds():
                seen = high if held_before or not self.entered_inside else close
                ticket.peak = max(ticket.peak, seen)
        self._sweep()

    def _at_open(self, ticket: Ticket, index: int, opened: float, volume: float) -> None:
        """What the first price of the bar does to an order."""
        side, price = ticket.side, self.arithmetic.price(ticket.side, opened)
        if ticket.kind == "market":
            if self.skips and index in self.broken and ticket.decided == index - 1:
                self._end(ticket, "a gap follows")
            else:
                self._execute(ticket, index, price, volume, maker=False)
        elif ticket.kind == "limit":
            limit = self._limit(ticket)
            if ticket.decided == index - 1:  # it arrives now: it takes what there is, if that is good enough
                if _reaches(side, price, limit):
                    self._execute(ticket, index, price, volume, maker=False)
            elif self._touches(side, opened, limit):  # it has waited: the venue fills it at its own price
                self._execute(ticket, index, limit, volume, maker=True)
        elif _triggers(side, opened, self._trigger(ticket)):
            self._triggered(ticket, index, price, volume)

    def _inside(self, ticket: Ticket, index: int, high: float, low: float, volume: float) -> None:
        """What happens between open and close."""
        side = ticket.side
        if ticket.kind == "limit":
            limit = self._limit(ticket)
            if self._touches(side, low if side == "buy" else high, limit) and not (
                side == "sell" and self.entered_inside
            ):
                self.entered_inside |= side == "buy"
                self._execute(ticket, index, limit, volume, maker=True)
        elif ticket.kind != "market":
            trigger = self._trigger(ticket)
            if _triggers(side, high if side == "buy" else low, trigger):
                self.entered_inside |= side == "buy"
                self._triggered(ticket, index, self.arithmetic.price(side, trigger), volume)

    def _touches(self, side: Side, at: float, limit: N) -> bool:
        """Whether a price that the market had fills a waiting order: at it, or only beyond it, as settings say."""
        level = self.arithmetic.price_number(limit)
        if self.through:
            return at < level if side == "buy" else at > level
        return at <= level if side == "buy" else at >= level

    def _trigger(self, ticket: Ticket) -> float:
        if ticket.trail is not None:
            return ticket.peak * (1 - ticket.trail)
        return float(ticket.stop or 0)

    def _triggered(self, ticket: Ticket, index: int, price: N, volume: float) -> None:
        """A stop is a market order now, one with a limit a limit order: it takes what is good enough, else it waits."""
        if ticket.kind != "stop_limit":
            self._execute(ticket, index, price, volume, maker=False)
            return
        ticket.kind = "limit"
        if _reaches(ticket.side, price, self._limit(ticket)):
            self._execute(ticket, index, price, volume, maker=False)

    def _execute(self, ticket: Ticket, index: int, price: N, volume: float, *, maker: bool) -> None:
        """Fill what the volume of the bar allows, and see to the rest."""
        most = self.arithmetic.cap(volume)
        if ticket.side == "buy":
            self._buy(ticket, index, price, most, maker=maker)
        else:
            self._sell(ticket, index, price, most, maker=maker)
        self._show()

    def _buy(self, ticket: Ticket, index: int, price: N, most: N | None, *, maker: bool) -> None:
        quantity = ticket.left
        if quantity is None:
            whole = self._wanted(ticket, price)
            if whole is None:
                self._end(ticket, "the order cannot be paid, or is below a minimum of the market")
                return
            quantity = whole.quantity
        part = quantity if most is None else self.arithmetic.part(quantity, most)
        ticket.reserved = 0
        if part:
            trade = self.arithmetic.take(part, price, maker=maker)
            self.book.bought(index, ticket.decided, price, trade, maker=maker, order=ticket.number)
            self.cost += self.arithmetic.number(trade.spent)
            for other in self.context.orders:
                other.peak = other.peak or self.arithmetic.price_number(price)
        if ticket.kind == "limit" and part < quantity:
            ticket.left = quantity - part
            ticket.reserved = self.arithmetic.take(ticket.left, self._limit(ticket), maker=False).spent
        else:
            ticket.alive = False

    def _sell(self, ticket: Ticket, index: int, price: N, most: N | None, *, maker: bool) -> None:
        held = self.book.holding
        asked: N | None = ticket.left
        if asked is None and ticket.quantity is not None:
            asked = self.arithmetic.quantity(ticket.quantity)
        wanted = held if asked is None else min(asked, held)
        whole = self.arithmetic.sell(wanted, price, None, maker=maker)
        if whole is None:
            self._end(ticket, "below a minimum of the market")
            return
        part = whole.quantity if most is None else self.arithmetic.part(whole.quantity, most)
        if part:
            trade = self.arithmetic.give(part, price, maker=maker)
            self.book.sold(index, ticket.decided, price, trade, maker=maker, order=ticket.number)
            self.cost *= 1 - self.arithmetic.number(trade.spent) / self.arithmetic.number(held)
        if part < whole.quantity and ticket.kind != "market":
            ticket.left = None if asked is None else wanted - part
            if ticket.kind != "limit":
                ticket.kind = "market"  # what a stop could not sell goes at the next open
        else:
            ticket.alive = False

    def _limit(self, ticket: Ticket) -> N:
        return self.arithmetic.level(ticket.side, float(ticket.limit or 0))

    def _end(self, ticket: Ticket, reason: str) -> None:
        ticket.alive, ticket.reserved = False, 0
        self.book.refuse(ticket.decided, reason)

    def _sweep(self) -> None:
        """Drop what is done; without anything held or to be bought, sales have nothing to wait for."""
        orders = self.context.orders
        if not self._buying() and not self._holds():
            for ticket in orders:
                ticket.alive = False
        orders[:] = [ticket for ticket in orders if ticket.alive]
        self.below, self.above = self._calm()
        self._show()

    def _calm(self) -> tuple[float, float]:
        """The prices between which no waiting order is met, and no trailing stop sees a new high."""
        below, above = -INFINITE, INFINITE
        for ticket in self.context.orders:
            if ticket.kind == "market":
                return INFINITE, -INFINITE
            if ticket.side == "sell" and not self._holds():
                continue  # it waits for a buy
            if ticket.trail is not None:
                below, above = max(below, self._trigger(ticket)), min(above, ticket.peak)
            elif ticket.kind == "limit":
                level = self.arithmetic.price_number(self._limit(ticket))
                below, above = (max(below, level), above) if ticket.side == "buy" else (below, min(above, level))
            else:
                stop = float(ticket.stop or 0)
                below, above = (below, min(above, stop)) if ticket.side == "buy" else (max(below, stop), above)
        return below, above

    def _show(self) -> None:
        """Tell the strategy what it has."""
        context, number = self.context, self.arithmetic.number
        dust = self.arithmetic.least_price(self.book.holding) == INFINITE
        context.allowance, context.quantity = number(self._free()), 0.0 if dust else number(self.book.holding)
        context.average_cost = self.cost / context.quantity if context.quantity and self.cost else None


def _rank(ticket: Ticket) -> int:
    if ticket.side == "buy":
        return 0
    return 2 if ticket.kind == "limit" else 1


def _reaches(side: Side, price: float, limit: float) -> bool:
    return price <= limit if side == "buy" else price >= limit


def _triggers(side: Side, at: float, trigger: float) -> bool:
    return at >= trigger if side == "buy" else at <= trigger
