"""Decimal helpers of the matching engine and of the wire: eight places everywhere, as Binance has it."""

from decimal import ROUND_DOWN, Decimal

ZERO = Decimal(0)
UNIT = Decimal("0.00000001")


def floor_to(value: Decimal, step: Decimal) -> Decimal:
    """The largest multiple of `step` that is not above `value`."""
    return (value // step) * step


def money(value: Decimal) -> Decimal:
    """`value` cut (never rounded up) to eight places, so that no account is ever charged more than it locked."""
    return value.quantize(UNIT, rounding=ROUND_DOWN)


def text(value: Decimal | float) -> str:
    """Eight places, no exponent: how Binance writes every price and quantity."""
    return f"{value:.8f}"


def plain(value: Decimal) -> str:
    """The shortest text without an exponent, for people and for the state file."""
    shortest = f"{value:f}"
    return shortest.rstrip("0").rstrip(".") if "." in shortest else shortest
