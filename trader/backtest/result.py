"""What a run gives: its fills, and what there was at the close of every bar."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trader.backtest.data import Bars, Floats, Indices
from trader.backtest.settings import Settings

BUY, SELL = 1, -1

FROM_THE_START = "the target is above 0 from the first candle that counts: an entry needs a rise from 0 or below"
AFTER_A_GAP = "the target rose above 0 at a gap that its class does not accept: an entry needs a rise at a decision"
NOT_TAKEN = frozenset({FROM_THE_START, AFTER_A_GAP})
"""Reasons why a target above 0 never became an order. Each is told once, at the first decision with that target."""
UNDECIDED = "a gap that its class does not accept lies within the warm-up"
"""Why no decision was made. It is told once, at the first of the bars at which none was."""


@dataclass(frozen=True, slots=True)
class Fills:
    """Fills in the order in which they happened, as columns."""

    bar: Indices
    """In which bar."""
    decided: Indices
    """At the close of which bar its order was decided."""
    side: NDArray[np.int8]
    """1: bought, -1: sold."""
    price: Floats
    quantity: Floats
    """Base."""
    quote: Floats
    """Price times quantity, before the fee."""
    fee: Floats
    """In base on a buy if the fee is taken from what it gets, else in quote."""
    maker: NDArray[np.bool_]
    order: Indices
    """Fills of the same order have the same number."""

    def __len__(self) -> int:
        return len(self.bar)


@dataclass(frozen=True, slots=True)
class States:
    """What there was after each deposit, withdrawal and fill, in their order: it holds until the next."""

    bar: Indices
    cash: Floats
    holding: Floats
    """Base."""


class Refusal(NamedTuple):
    """An order that was decided and not filled, or (reasons in NOT_TAKEN) an entry that was wanted and not decided.

    With the reason UNDECIDED, a stretch of bars without a decision.
    """

    bar: int
    """At the close of which it was decided, or first wanted, or would have been."""
    reason: str


@dataclass(frozen=True)
class Result:
    """What a run over `bars` gave."""

    bars: Bars
    settings: Settings
    fills: Fills
    states: States
    flows: tuple[tuple[int, float], ...]
    """Deposits (+) and withdrawals (-): the bar at whose close each counted first, and the amount of quote."""
    equity: Floats
    """Cash and holding, at the close of each bar."""
    refused: tuple[Refusal, ...] = field(default=())

    @cached_property
    def cash(self) -> Floats:
        """Quote at the close of each bar."""
        return _spread(self.states.bar, self.states.cash, len(self.bars))

    @cached_property
    def holding(self) -> Floats:
        """Base at the close of each bar."""
        return _spread(self.states.bar, self.states.holding, len(self.bars))

    @cached_property
    def fees(self) -> Floats:
        """The fee of each fill in quote, at its price."""
        if self.settings.fee_side == "quote":
            return self.fills.fee
        return np.where(self.fills.side == BUY, self.fills.fee * self.fills.price, self.fills.fee)

    @property
    def gaps(self) -> int:
        """Over how many gaps it was computed."""
        return len(self.bars.breaks)

    @cached_property
    def after_gaps(self) -> int:
        """How many fills were the first thing after a gap: where the market stood in between, nobody knows."""
        return int(np.isin(self.fills.bar, self.bars.breaks).sum())


def equity_of(bars: Bars, states: States) -> Floats:
    """Cash and holding at each close."""
    holding = _spread(states.bar, states.holding, len(bars))
    holding *= bars.close
    holding += _spread(states.bar, states.cash, len(bars))
    return holding


def _spread(at: Indices, values: Floats, length: int) -> Floats:
    """A value for every bar: that of the last state at or before it, 0 before the first."""
    ends = np.append(at, length)
    return np.repeat(np.concatenate(([0.0], values)), np.diff(ends, prepend=0))
