"""What a run has made so far, kept up to date from one deposit or withdrawal to the next."""

from trader.strategy import Made


class Making:
    """Counts deposits, withdrawals and units, as `measures.unit_values` does over a whole run."""

    __slots__ = ("deposits", "units", "value", "withdrawals")

    def __init__(self) -> None:
        self.deposits = self.withdrawals = 0.0
        self.units = 0.0
        self.value = 1.0
        """Of a unit, while there is none."""

    def flow(self, before: float, amounts: list[float]) -> None:
        """Money came (+) or went (-) at a close at which the equity had been `before`."""
        self.deposits += sum(amount for amount in amounts if amount > 0)
        self.withdrawals -= sum(amount for amount in amounts if amount < 0)
        amount = sum(amounts)
        self.value = before / self.units if self.units > 0 else self.value
        self.units += amount * self.units / before if self.units > 0 and before > 0 else amount / self.value

    def made(self, equity: float) -> Made:
        """What was made, at an equity of so much."""
        profit = equity - self.deposits + self.withdrawals
        value = equity / self.units if self.units > 0 else self.value
        return Made(equity, self.deposits, self.withdrawals, profit, 100 * (value - 1))
