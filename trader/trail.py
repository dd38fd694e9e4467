"""Trailing stops: where the trigger price of an order stands that follows the market, and never comes back."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext

from trader.exchange.protocol import Side
from trader.sizing import LEAST

MOST = Decimal("99999999999999999999")
"""What the database keeps as a price at the most."""


def trigger_at(side: Side, trail: Decimal, price: Decimal, tick: Decimal | None) -> Decimal:
    """The trigger price that belongs to a highest price of a sale's stop, to a lowest of a buy's.

    A sale's is rounded down to the tick, a buy's up: prices are multiples of it, so the same prices meet it as would
    meet the exact share, and a move of less than a tick is none. What is less than one tick is not rounded to it.
    """
    rounding = ROUND_FLOOR if side == "sell" else ROUND_CEILING
    with localcontext() as context:
        context.prec = 60
        exact = price * (1 - trail if side == "sell" else 1 + trail)
        step = LEAST if tick is None or exact < tick else tick
        return min(max((exact / step).to_integral_value(rounding) * step, LEAST), MOST)


def moves(side: Side, stands: Decimal | None, new: Decimal) -> bool:
    """Whether a trigger price that `stands` goes on to a `new` one: a sale's only rises, a buy's only falls."""
    return stands is None or (new > stands if side == "sell" else new < stands)
