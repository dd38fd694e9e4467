"""How targets become an order, or none, with the reason: the same live and in a backtest."""

from dataclasses import dataclass
from decimal import Decimal

from trader.exchange.protocol import Side
from trader.sizing import floor_to, plain


@dataclass(frozen=True, slots=True)
class Targets:
    """What a strategy wants at the newest candle, and what it wanted one candle before."""

    now: float
    previous: float | None
    """None: unknown, because a gap that is not accepted lies in between, or the one before belongs to the warm-up."""
    price: Decimal
    """The close of the newest candle, in quote."""


@dataclass(frozen=True, slots=True)
class Stake:
    """What an entry spends: an amount of quote, or a share of the free allowance in percent."""

    amount: Decimal
    in_percent: bool


@dataclass(frozen=True, slots=True)
class Minimums:
    """What the venue trades at least. None: it states no such rule."""

    quantity_min: Decimal | None = None
    quantity_step: Decimal | None = None
    cost_min: Decimal | None = None

    def held(self, quantity: Decimal) -> Decimal:
        """So much base as somebody holds; 0 if that is dust at any price."""
        rounded = floor_to(quantity, self.quantity_step)
        return quantity if rounded > 0 and rounded >= (self.quantity_min or 0) else Decimal(0)

    def sellable(self, quantity: Decimal, price: Decimal) -> bool:
        """Whether so much base can be sold at all; less is dust."""
        rounded = floor_to(quantity, self.quantity_step)
        return rounded > 0 and rounded >= (self.quantity_min or 0) and rounded * price >= (self.cost_min or 0)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do at a candle. An order is a market order without quantities: the trader sizes it.

    A buy spends the stake, a sell sells all that the strategy holds.
    """

    order: Side | None
    reason: str


def decide(
    targets: Targets, holding: Decimal, free: Decimal, open_orders: int, stake: Stake, minimums: Minimums
) -> Decision:
    """Turn targets into an order or none, with the reason.

    `holding` is base, `free` the quote that may be spent. A spot market cannot be short: a target of 0 or less means
    out. Above 0 means in; how much is the stake's matter. An entry needs a fresh cross: the target rises above 0 at
    this very candle. A strategy that is simply long when it starts, or after a gap that it does not accept, waits for
    the next one.
    """
    if open_orders:
        return Decision(None, f"{open_orders} order{'s' * (open_orders > 1)} of it still open")
    held = minimums.sellable(holding, targets.price)
    if targets.now <= 0:
        if held:
            return Decision("sell", f"target {targets.now:g}: sell all of {plain(holding)}")
        return Decision(None, f"target {targets.now:g}: {'only dust' if holding > 0 else 'nothing'} is held")
    if held:
        return Decision(None, f"target {targets.now:g}: in already, with {plain(holding)}")
    if targets.previous is None:
        return Decision(None, f"target {targets.now:g}, but the one before is unknown: waits for a fresh cross")
    if targets.previous > 0:
        return Decision(None, f"target {targets.now:g} as before: waits for a fresh cross")
    return _enter(targets, free, stake, minimums)


def _enter(targets: Targets, free: Decimal, stake: Stake, minimums: Minimums) -> Decision:
    spend = free * stake.amount / 100 if stake.in_percent else stake.amount
    if free <= 0 or spend <= 0:
        return Decision(None, f"fresh cross, but the allowance is used up: {plain(free)} free")
    if spend > free:
        return Decision(None, f"fresh cross, but a stake of {plain(spend)} exceeds the allowance of {plain(free)}")
    if spend < (minimums.cost_min or 0):
        return Decision(
            None, f"fresh cross, but a stake of {plain(spend)} is below the minimum of {plain(minimums.cost_min)}"
        )
    return Decision("buy", f"fresh cross to {targets.now:g}: buy for {plain(spend)}")
