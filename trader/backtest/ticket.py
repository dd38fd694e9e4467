"""What a strategy that looks at every bar sees, and the orders that it leaves."""

from collections import namedtuple
from collections.abc import Callable, Mapping
from datetime import datetime
from numbers import Real
from typing import Any, Literal, NoReturn

import numpy as np

from trader.backtest.data import PRICES, Bars, Floats
from trader.clock import from_milliseconds, to_milliseconds
from trader.errors import InputError
from trader.exchange.protocol import Side
from trader.strategy import Made

Kind = Literal["market", "limit", "stop", "stop_limit", "trail"]


class Ticket:
    """An order. It counts from the bar after the one at whose close it was given."""

    __slots__ = (
        "alive",
        "decided",
        "kind",
        "left",
        "limit",
        "number",
        "peak",
        "quantity",
        "reserved",
        "side",
        "stop",
        "trail",
    )

    def __init__(
        self,
        side: Side,
        decided: int,
        quantity: float | None = None,
        limit: float | None = None,
        stop: float | None = None,
        trail: float | None = None,
    ) -> None:
        self.side = side
        self.decided = decided
        """The bar at whose close it was given."""
        self.quantity = quantity
        """Base; None: the stake on a buy, all that is held on a sale."""
        self.limit, self.stop, self.trail = limit, stop, trail
        self.kind: Kind = _kind(limit, stop, trail)
        self.number = -1
        """Counts the orders of a run."""
        self.peak = 0.0
        """The highest price that a trailing stop has seen."""
        self.left: Any = None
        """What is still to be filled, in the engine's numbers; None: all there is."""
        self.reserved: Any = 0
        """Quote that a waiting buy keeps, in the engine's numbers."""
        self.alive = True

    def check(self) -> "Ticket":
        """InputError: prices, quantity or share that cannot be."""
        for name in ("quantity", "limit", "stop"):
            value: Any = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < float("inf")):
                raise InputError(f"{self.side} order: {name} is {value!r}: a number above 0 is needed")
        trail: Any = self.trail
        if trail is not None and not (_is_number(trail) and 0 < trail < 1 and self.side == "sell"):
            raise InputError(f"{self.side} order: trail is {trail!r}: a share above 0 and below 1, of a sale only")
        if self.trail is not None and (self.limit is not None or self.stop is not None):
            raise InputError(f"{self.side} order: a trailing stop has neither limit nor stop")
        return self


def _is_number(value: object) -> bool:
    return isinstance(value, Real)


def _kind(limit: float | None, stop: float | None, trail: float | None) -> Kind:
    if trail is not None:
        return "trail"
    if stop is not None:
        return "stop" if limit is None else "stop_limit"
    return "market" if limit is None else "limit"


class Context:
    """The bar that has just closed, the money, and a place for what is to be remembered: an `OnBucketContext`.

    One object for a whole run: its fields change from bar to bar, so keep values, not the context. Amounts and prices
    are floats: candles are; money is counted by the engine.
    """

    __slots__ = (
        "_columns",
        "_made",
        "_times",
        "allowance",
        "average_cost",
        "changed",
        "close",
        "given",
        "high",
        "index",
        "longest",
        "low",
        "milliseconds",
        "now",
        "open",
        "orders",
        "quantity",
        "state",
        "volume",
    )

    def __init__(
        self,
        bars: Bars | None = None,
        columns: Mapping[str, Floats] | None = None,
        longest: int = 1,
        made: Callable[[], Made] | None = None,
    ) -> None:
        """`columns` are indicators beside those of `bars`, `longest` is the most that a window may ask for."""
        self._columns = {} if bars is None else columns_of(bars, columns or {})
        self._times = np.zeros(0, dtype=np.int64) if bars is None else bars.time
        self._made = made
        self.longest = longest
        self.index = -1
        """Of the bar, from 0."""
        self.milliseconds = 0
        """When it closed, since the epoch."""
        self.now: Any = ()
        """The indicators at this bar, by name."""
        self.open = self.high = self.low = self.close = self.volume = 0.0
        self.allowance = 0.0
        """Quote that may be spent: what waiting buys keep is taken off."""
        self.quantity = 0.0
        """Base that is held."""
        self.average_cost: float | None = None
        """Quote paid for one of it, fees included."""
        self.orders: list[Ticket] = []
        """Those that wait."""
        self.given = 0
        """How many orders were given so far."""
        self.changed = False
        """Whether orders were given or taken back at this close."""
        self.state: dict[str, Any] = {}
        """The strategy's own: it stays from bar to bar."""

    @property
    def time(self) -> datetime:
        """When the bar closed, in UTC."""
        return from_milliseconds(self.milliseconds)

    @property
    def performance(self) -> Made:
        """What was made so far."""
        if self._made is None:
            raise InputError("nothing is counted here")
        return self._made()

    def window(self, column: str, n: int, since: datetime | None = None) -> Floats:
        """The last `n` values of a column up to this bar, only of bars that closed after `since`: see the kit's."""
        if column not in self._columns or n.__class__ is not int or not 0 < n <= self.longest:
            self._refuse_window(column, n)
        first, end = max(0, self.index + 1 - n), self.index + 1
        if since is not None:
            first = max(first, int(self._times.searchsorted(to_milliseconds(since), side="right")))
        return self._columns[column][first:end]

    def _refuse_window(self, column: str, n: object) -> NoReturn:
        if column not in self._columns:
            raise InputError(f"window: no column {column!r}; there is {', '.join(self._columns)}")
        raise InputError(f"window of {n!r} candles: a whole number from 1 to its warm-up, {self.longest}, is needed")

    def show(self, bars: Bars, indicators: Mapping[str, Floats]) -> None:
        """Show the bar at `index`. A run over all bars does the same by itself, quicker."""
        at = self.index
        self.milliseconds = int(bars.time[at])
        self.open, self.high, self.low, self.close = (float(getattr(bars, name)[at]) for name in PRICES)
        self.volume = float(bars.volume[at])
        row = namedtuple("Now", indicators)  # type: ignore[misc]  # its fields are the strategy's
        self.now = row(*(float(column[at]) for column in indicators.values()))

    def buy(self, *, quantity: float | None = None, limit: float | None = None, stop: float | None = None) -> Ticket:
        """Buy at the market, at a limit, above a stop, or at a limit above a stop; the stake, or `quantity` of base."""
        return self._add(Ticket("buy", self.index, quantity, limit, stop))

    def sell(
        self,
        *,
        quantity: float | None = None,
        limit: float | None = None,
        stop: float | None = None,
        trail: float | None = None,
    ) -> Ticket:
        """Sell what is held, or `quantity` of it; `trail` is a share below the highest price since the entry.

        Given together with a buy, it waits for it. When nothing is held any more, all sales end.
        """
        return self._add(Ticket("sell", self.index, quantity, limit, stop, trail))

    def cancel(self, *tickets: Ticket) -> None:
        """Take orders back; all if none is named. InputError: what is none of them."""
        for ticket in tickets:
            if ticket.__class__ is not Ticket:
                raise InputError(f"cancel: {ticket!r} is no order; one of context.orders is needed, or nothing for all")
        self.changed = True
        for ticket in tickets or tuple(self.orders):
            ticket.alive = False

    def _add(self, ticket: Ticket) -> Ticket:
        self.changed = True
        ticket.number = self.given
        self.given += 1
        self.orders.append(ticket.check())
        return ticket


def columns_of(bars: Bars, indicators: Mapping[str, Floats]) -> dict[str, Floats]:
    """What a window can be taken of, read-only: nobody changes what other bars see."""
    columns = {name: getattr(bars, name) for name in (*PRICES, "volume")} | dict(indicators)
    shown = {name: column.view() for name, column in columns.items()}
    for column in shown.values():
        column.flags.writeable = False
    return shown


OnBucket = Callable[[Context], float | None]
"""Called at the close of every bar: the target from -1 to 1, as of a signal, or None for no wish."""
