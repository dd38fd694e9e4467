"""The referee of the backtest engines: slow, in Decimal, bar by bar, with the code that trades live.

What is decided is `trader.strategy.decide`, what is sent is `trader.sizing.size`, and what the venue makes of it is the
simulator's arithmetic: a quantity of whole steps, money cut to eight places.
"""

from collections.abc import Container
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal

from trader.backtest.data import Bars
from trader.backtest.result import AFTER_A_GAP, FROM_THE_START, UNDECIDED
from trader.backtest.settings import Settings
from trader.exchange.protocol import Side
from trader.sizing import LEAST, Denial, Intent, Quote, Rules, floor_to, size
from trader.strategy import Minimums, Stake, Targets, decide

ZERO = Decimal(0)
PLACES = Decimal("1e-8")


@dataclass
class Fill:
    bar: int
    decided: int
    side: Side
    price: Decimal
    quantity: Decimal
    quote: Decimal
    fee: Decimal


@dataclass
class Seen:
    """All that the referee wrote down."""

    fills: list[Fill]
    cash: list[Decimal]
    holding: list[Decimal]
    equity: list[Decimal]
    deposits: Decimal
    fees_in_quote: Decimal
    """Each at the price of its fill."""
    not_taken: list[tuple[int, str]]
    """Entries that were wanted without a fresh cross, and stretches without a decision: where each began, and why."""


class Referee:
    def __init__(
        self,
        bars: Bars,
        targets: list[float],
        settings: Settings,
        warm_up: int = 1,
        refused: Container[int] = (),
        needed: int = 1,
    ) -> None:
        """No decision is made while a gap before one of the bars `refused` lies within the last `needed` bars."""
        self.bars, self.targets, self.settings, self.warm_up = bars, targets, settings, warm_up
        self.refused, self.needed = refused, needed
        self.last: float | None = None
        self.silent = False
        self.cash = self.holding = ZERO
        self.seen = Seen([], [], [], [], ZERO, ZERO, [])
        self.order: tuple[int, Side] | None = None

    def run(self) -> Seen:
        broken = set(self.bars.breaks.tolist())
        for bar in range(len(self.bars)):
            if self.settings.fill == "next_open":
                self.fill_at(bar, self.bars.open[bar], lapses=self.settings.gap == "skip" and bar in broken)
            self.fund(bar)
            self.decide(bar)
            if self.settings.fill == "close":
                self.fill_at(bar, self.bars.close[bar], lapses=False)
            close = Decimal(repr(float(self.bars.close[bar])))
            self.seen.cash.append(self.cash)
            self.seen.holding.append(self.holding)
            self.seen.equity.append(self.cash + self.holding * close)
        return self.seen

    def fund(self, bar: int) -> None:
        first = self.settings.deposit if bar == 0 else ZERO
        since = int(self.bars.time[bar - 1]) if bar else -(10**18)
        due = [f.amount for f in self.settings.flows if since < f.milliseconds <= int(self.bars.time[bar])]
        self.cash += first + sum(due, ZERO)
        self.seen.deposits += first + sum(due, ZERO)

    def decide(self, bar: int) -> None:
        if bar < self.warm_up - 1:
            return
        was_silent = self.silent
        self.silent = any(one in self.refused for one in range(bar + 2 - self.needed, bar + 1))
        if self.silent:
            if not was_silent:
                self.seen.not_taken.append((bar, UNDECIDED))
            return
        known = bar >= self.warm_up and bar not in self.refused
        wanted, last = self.targets[bar], self.last
        self.last = wanted
        targets = Targets(wanted, self.targets[bar - 1] if known else None, Decimal(repr(float(self.bars.close[bar]))))
        s = self.settings
        minimums = Minimums(s.quantity_min, s.quantity_step, s.cost_min)
        decision = decide(targets, self.holding, self.cash, 0, Stake(s.stake, s.stake_in_percent), minimums)
        if (last is None or last <= 0) and "waits for a fresh cross" in decision.reason:
            self.seen.not_taken.append((bar, FROM_THE_START if last is None else AFTER_A_GAP))
        if decision.order is not None:
            self.order = (bar, decision.order)

    def price(self, side: Side, at: float) -> Decimal:
        s, given = self.settings, Decimal(f"{at:.15g}")  # a float keeps fifteen digits: the rest is its noise
        tick = s.price_tick or PLACES
        share = s.spread / 2 + s.slippage
        moved = given * (1 + share if side == "buy" else 1 - share)
        rounded = (moved / tick).to_integral_value(ROUND_CEILING if side == "buy" else ROUND_FLOOR) * tick
        return max(rounded + tick * s.slippage_ticks * (1 if side == "buy" else -1), tick)

    def fill_at(self, bar: int, at: float, *, lapses: bool) -> None:
        order, self.order = self.order, None
        if order is None or lapses:
            return
        decided, side = order
        price = self.price(side, at)
        s = self.settings
        intent = Intent("market", side, None, None, None, s.stake, s.stake_in_percent, None)
        free = self.cash if side == "buy" else self.holding
        sent = size(intent, self.rules(), free, Quote(price, price))
        if isinstance(sent, Denial):
            return
        if side == "buy":
            quantity = floor_to((sent.quote_quantity or ZERO) / price, s.quantity_step or LEAST)
            if quantity < (s.quantity_min or ZERO):
                return  # the venue would not take it
        else:
            quantity = sent.quantity or ZERO
        if s.volume_share is not None:
            offered = Decimal(repr(float(self.bars.volume[bar]))) * s.volume_share
            quantity = min(quantity, floor_to(offered.quantize(PLACES, ROUND_DOWN), s.quantity_step))
        if quantity > 0:
            self.book(Fill(bar, decided, side, price, quantity, cut(price * quantity), ZERO))

    def rules(self) -> Rules:
        s = self.settings
        fees = "get" if s.fee_side == "get" else "quote"
        return Rules(
            "BASE/QUOTE", "BASE", "QUOTE", 1, 2, True, s.price_tick, s.quantity_step, s.quantity_min, None, s.cost_min,
            s.taker, fees, ZERO,
        )  # fmt: skip

    def book(self, fill: Fill) -> None:
        s = self.settings
        in_base = s.fee_side == "get" and fill.side == "buy"
        fee = (fill.quantity if in_base else fill.quote) * s.taker
        fill.fee = cut(fee) if s.quantity_step else fee.quantize(LEAST)
        if fill.side == "buy":
            self.cash -= fill.quote + (ZERO if in_base else fill.fee)
            self.holding += fill.quantity - (fill.fee if in_base else ZERO)
        else:
            self.cash += fill.quote - fill.fee
            self.holding -= fill.quantity
        self.seen.fees_in_quote += fill.fee * fill.price if in_base else fill.fee
        self.seen.fills.append(fill)


def cut(value: Decimal) -> Decimal:
    return value.quantize(PLACES, ROUND_DOWN)
