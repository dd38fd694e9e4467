"""Parts of an exact replay: stretches of the bars that are replayed side by side, each by a strategy of its own.

Live, the trader is fast because it takes the orders of many strategies in one transaction. One strategy over all bars
has to know what became of an order before the next one. So the bars are cut, and every part but the first begins with
what the backtest says it has there. That proves the whole if every part ends with what the next one began with, to the
last digit; if one does not, the bars are replayed again in one piece.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np

from trader.backtest.book import flows_at
from trader.backtest.result import BUY, Result
from trader.backtest.settings import UNIT
from trader.trader import LANES_PER_CLAIM

FEW_ORDERS = 256
"""Fewer are replayed in one piece: opening a part costs about as much as an order."""
ORDERS_PER_PART = 24
MOST_PARTS = LANES_PER_CLAIM
"""So many strategies' orders the trader claims at once."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bars [first, end): what is decided at their closes, and what it begins with."""

    first: int
    end: int
    cash: Decimal = Decimal(0)
    holding: Decimal = Decimal(0)
    """Base."""


def parts_of(expected: Result) -> list[Part]:
    """Parts with about as many orders each; one part if there are few.

    One as well where tick times step is finer than a venue counts: the ledger keeps there what the backtest cuts. And
    where its floats have no room for all digits of so much money, so that a part would begin with less than nothing.
    """
    settings, decided = expected.settings, np.unique(expected.fills.decided)
    fine = (settings.price_tick or UNIT) * (settings.quantity_step or UNIT) < UNIT
    count = 1 if fine or len(decided) < FEW_ORDERS else min(len(decided) // ORDERS_PER_PART, MOST_PARTS)
    parts = cut(expected, [int(decided[place * len(decided) // count]) for place in range(1, count)])
    return parts if all(part.cash >= 0 and part.holding >= 0 for part in parts) else cut(expected, [])


def cut(expected: Result, firsts: Sequence[int]) -> list[Part]:
    """Parts that begin at bar 0 and at each of `firsts`, which rise."""
    money = [(Decimal(0), Decimal(0)), *_money_at(expected, firsts)]
    bounds = pairwise([0, *firsts, len(expected.bars)])
    return [Part(first, end, cash, holding) for (first, end), (cash, holding) in zip(bounds, money, strict=True)]


def meet(parts: Sequence[Part], ended: Sequence[Any]) -> bool:
    """Whether each part began with what the one before `ended` with (`free`, `holding`)."""
    seams = zip(parts[1:], ended[:-1], strict=True)
    return all((money.free, money.holding) == (part.cash, part.holding) for part, money in seams)


def _money_at(expected: Result, firsts: Sequence[int]) -> list[tuple[Decimal, Decimal]]:
    """Cash and base before the close of each of these bars, as the ledger counts: price times quantity kept whole."""
    moves = sorted(_moves(expected), key=lambda move: move[0])
    states = [(Decimal(0), Decimal(0))]
    for _, quote, base in moves:
        states.append((states[-1][0] + quote, states[-1][1] + base))
    places = np.searchsorted([at for at, _, _ in moves], [2 * first for first in firsts], "right").tolist()
    return [states[place] for place in places]


def _moves(expected: Result) -> Iterator[tuple[int, Decimal, Decimal]]:
    """When, quote and base: what each fill, deposit and withdrawal moves. A fill comes before its bar closes."""
    for bar, amount in flows_at(expected.bars.time, expected.settings):
        yield 2 * bar + 1, amount, Decimal(0)
    fills = expected.fills
    columns = (fills.bar, fills.side, fills.price, fills.quantity, fills.fee)
    for bar, side, price, quantity, fee in zip(*(column.tolist() for column in columns), strict=True):
        base, taken = Decimal(repr(quantity)), Decimal(repr(fee))
        quote = Decimal(repr(price)) * base
        yield (2 * bar, -quote, base - taken) if side == BUY else (2 * bar, quote - taken, -base)
