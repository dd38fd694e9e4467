"""What a strategy sees beside candles: its money, what it made, and in the second style the moment itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

from trader.exchange.protocol import Side
from trader.strategy.gap import Gap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Position:
    """What a strategy holds on its market."""

    quantity: Decimal
    """Base that is there, whether bought or deposited."""
    average_cost: Decimal | None
    """Quote paid for one of it, fees included; None: nothing was paid, or nothing is held."""


@dataclass(frozen=True, slots=True)
class Performance:
    """What a strategy made so far, in its unit: its row of the view `performance`."""

    deposits: Decimal
    withdrawals: Decimal
    equity: Decimal
    profit: Decimal
    realised: Decimal
    unrealised: Decimal
    fees: Decimal
    return_percent: Decimal
    max_drawdown_percent: Decimal | None
    """None: its equity was never recorded."""
    trades: int
    win_percent: Decimal | None
    """None: nothing was sold yet."""


@dataclass(frozen=True, slots=True)
class Context:
    """All that a strategy of the first style sees beside candles, in `adjust`."""

    allowance: Decimal
    """Quote that it may still spend."""
    position: Position
    performance: Performance
    gaps: tuple[Gap, ...] = ()
    """What is missing among the candles of its warm-up, oldest first; all of it is what its `gaps` accepts."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a strategy of the second style made so far, in quote, at the close of the candle."""

    equity: float
    """What is free, what waiting orders keep, and what is held at this close."""
    deposits: float
    withdrawals: float
    profit: float
    """Equity and withdrawals, less deposits."""
    return_percent: float
    """Time-weighted: a deposit is no return."""


class WaitingOrder(Protocol):
    """An order that was given and is not done. It is only looked at, and given back to `cancel`."""

    @property
    def side(self) -> Side: ...
    @property
    def quantity(self) -> float | None:
        """Base; None: the stake on a buy, all that is held on a sale."""

    @property
    def limit(self) -> float | None: ...
    @property
    def stop(self) -> float | None: ...
    @property
    def trail(self) -> float | None: ...


class OnBucketContext(Protocol):
    """What `Strategy.on_bucket` sees at the close of a candle, and by what it acts: the same live and in a backtest.

    Amounts and prices are floats. One object may serve many candles: keep values, not the context.
    """

    @property
    def time(self) -> datetime:
        """When the candle closed, in UTC."""

    @property
    def milliseconds(self) -> int:
        """The same, in milliseconds since the Unix epoch; quicker."""

    @property
    def open(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def close(self) -> float: ...
    @property
    def volume(self) -> float: ...
    @property
    def now(self) -> Any:
        """The row of `indicators` at this candle, by name: `context.now.sma`."""

    @property
    def state(self) -> dict[str, Any]:
        """The strategy's own: JSON values that are kept from candle to candle, and over restarts."""

    @property
    def allowance(self) -> float:
        """Quote that may be spent: what waiting buys keep is taken off."""

    @property
    def quantity(self) -> float:
        """Base that is held; 0 for dust, which is less than can be sold at any price."""

    @property
    def average_cost(self) -> float | None:
        """Quote paid for one of it, fees included; None: nothing is held, or nothing was paid."""

    @property
    def orders(self) -> Sequence[WaitingOrder]:
        """Those that wait, in the order in which they were given."""

    @property
    def performance(self) -> Made:
        """What was made so far; computed when it is asked for."""

    def window(self, column: str, n: int, since: datetime | None = None) -> "NDArray[np.float64]":
        """The last `n` values of a column of the candles or of `indicators`, up to this candle, oldest first.

        Only of candles that closed after `since`, if it is given, so there may be fewer. Read-only. Raises InputError:
        no such column, or `n` is no whole number from 1 to the warm-up: more is not sure to be there.
        """

    def buy(
        self, *, quantity: float | None = None, limit: float | None = None, stop: float | None = None
    ) -> WaitingOrder:
        """Buy at the market, at a limit, above a stop, or at a limit above a stop; the stake, or `quantity` of base."""

    def sell(
        self,
        *,
        quantity: float | None = None,
        limit: float | None = None,
        stop: float | None = None,
        trail: float | None = None,
    ) -> WaitingOrder:
        """Sell what is held, or `quantity` of it; `trail` is a share below the highest price since the entry.

        Given together with a buy, it waits for it. When nothing is held any more, all sales end.
        """

    def cancel(self, *orders: Any) -> None:
        """Take orders back; all if none is named."""
