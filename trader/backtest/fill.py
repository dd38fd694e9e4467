"""One fill: what it costs, brings and takes, in two kinds of arithmetic under one protocol.

`Rounded` counts as a venue does: money and quantities are whole numbers of 1e-8, prices whole ticks, quantities whole
steps, and what does not fit is cut. It is exact: no float takes part but the price of the bar. `Plain` rounds nothing
but prices to their tick, in floats: what textbooks compute, and what whole columns can be multiplied through.
"""

import math
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal, localcontext
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from trader.backtest.data import Floats
from trader.backtest.settings import UNIT, Settings
from trader.exchange.protocol import Side

N = TypeVar("N", int, float)
"""The number that a kind of arithmetic counts money and goods in."""

SAME = 1e-15
"""Decimals of up to fifteen digits differ by more than that share: closer floats are the same number."""
UNITS = 100_000_000
"""How many UNIT are one."""


class Trade(NamedTuple, Generic[N]):
    """What one fill moves. `spent` and `got` include the fee; `quote` is price times quantity, without it."""

    quantity: N
    quote: N
    fee: N
    """In base if it is a buy whose fee is taken from what it gets, else in quote."""
    spent: N
    got: N


class Arithmetic(Protocol[N]):
    """How amounts are counted."""

    def amount(self, value: Decimal) -> N:
        """A given amount, in this arithmetic's number."""

    def number(self, amount: N) -> float:
        """An amount as people know it."""

    def numbers(self, amounts: Sequence[N]) -> Floats:
        """The same for many."""

    def price(self, side: Side, at: float) -> N:
        """What a taker pays or gets where the market stands `at`: spread, slippage, rounded to the tick against us."""

    def prices(self, side: Side, at: Floats) -> list[N]:
        """The same for many."""

    def level(self, side: Side, at: float) -> N:
        """The price of a resting order: to the tick, a buy never above and a sale never below what was asked."""

    def quantity(self, asked: float) -> N:
        """So much base in whole steps; 0 if it is less than the least that trades."""

    def price_number(self, price: N) -> float:
        """A price as people know it."""

    def price_numbers(self, prices: Sequence[N]) -> Floats:
        """Prices as people know them."""

    def stake(self, free: N) -> N:
        """What an entry spends out of `free`, without a fee on top; 0 if it must not."""

    def cap(self, volume: float) -> N | None:
        """The most that may trade of a bar's volume; None: all."""

    def buy(self, spend: N, price: N, most: N | None, *, maker: bool) -> Trade[N] | None:
        """A buy for at most `spend`; None if less than the least would be bought."""

    def take(self, quantity: N, price: N, *, maker: bool) -> Trade[N]:
        """A buy of just so much."""

    def part(self, quantity: N, most: N) -> N:
        """What `most` allows of a quantity, in whole steps."""

    def give(self, quantity: N, price: N, *, maker: bool) -> Trade[N]:
        """A sale of just so much."""

    def sell(self, holding: N, price: N, most: N | None, *, maker: bool) -> Trade[N] | None:
        """A sale of at most `holding`; None if the market does not take so little."""

    def least_price(self, holding: N) -> float:
        """From which price on `holding` is worth selling at all; infinite: it is dust at any price."""


def arithmetic_of(settings: Settings) -> "Rounded | Plain":
    """Rounded if there is a quantity step, else plain."""
    return Rounded(settings) if settings.rounded else Plain(settings)


def taker_prices(settings: Settings, side: Side, at: Floats) -> Floats:
    """What a taker pays or gets at each of `at`: moved by half the spread and the slippage, then to the tick, upwards
    for a buy and downwards for a sale. At least a tick.
    """
    if settings.price_tick is not None:
        return np.asarray(_ticks(settings, side, at) * float(settings.price_tick))
    share = _share(settings)
    return at if share == 0 else np.asarray(at * (1 + share if side == "buy" else 1 - share))


def _ticks(settings: Settings, side: Side, at: Floats) -> Floats:
    tick, share = float(_tick(settings)), _share(settings)
    if side == "buy":
        return np.asarray(np.ceil(at * (1 + share) / tick * (1 - SAME)) + settings.slippage_ticks)
    return np.asarray(np.maximum(np.floor(at * (1 - share) / tick * (1 + SAME)) - settings.slippage_ticks, 1))


def _tick(settings: Settings) -> Decimal:
    return settings.price_tick or UNIT


class Rounded:
    """Whole numbers of 1e-8; prices in ticks (of 1e-8 where the market states none)."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        tick, step = _tick(settings), settings.quantity_step or UNIT
        self._up, self._down = (1 + _share(settings)), (1 - _share(settings))
        self._tick = float(tick)
        self._tick_units = int(tick / UNIT)
        self._slip = settings.slippage_ticks
        self._step = int(step / UNIT)
        self._quantity_min = max(self._step, int((settings.quantity_min or 0) / UNIT))
        self._cost_min = int((settings.cost_min or 0) / UNIT)
        self._in_base = settings.fee_side == "get"
        self._taker, self._maker = settings.taker.as_integer_ratio(), settings.maker.as_integer_ratio()
        self._share = None if settings.volume_share is None else float(settings.volume_share)
        self._stake = self._ratio_of_stake(settings)

    @staticmethod
    def _ratio_of_stake(settings: Settings) -> tuple[int, int]:
        """Of the free allowance in percent, the fee of a buy included where it comes on top; else of one."""
        if not settings.stake_in_percent:
            return int(settings.stake / UNIT), 1
        numerator, denominator = settings.stake.as_integer_ratio()
        if settings.fee_side == "quote":
            more, base = (1 + settings.taker).as_integer_ratio()
            return numerator * base, denominator * 100 * more
        return numerator, denominator * 100

    def amount(self, value: Decimal) -> int:
        return int((value / UNIT).to_integral_value(ROUND_FLOOR))

    def number(self, amount: int) -> float:
        return amount / UNITS

    def numbers(self, amounts: Sequence[int]) -> Floats:
        return np.array(amounts, dtype=np.float64) / UNITS

    def price(self, side: Side, at: float) -> int:
        if side == "buy":
            return math.ceil(at * self._up / self._tick * (1 - SAME)) + self._slip
        return max(math.floor(at * self._down / self._tick * (1 + SAME)) - self._slip, 1)

    def prices(self, side: Side, at: Floats) -> list[int]:
        ticks: list[int] = _ticks(self.settings, side, at).astype(np.int64).tolist()
        return ticks

    def level(self, side: Side, at: float) -> int:
        ticks = at / self._tick
        return max(math.floor(ticks * (1 + SAME)) if side == "buy" else math.ceil(ticks * (1 - SAME)), 1)

    def quantity(self, asked: float) -> int:
        whole = math.floor(asked * UNITS / self._step * (1 + SAME)) * self._step
        return whole if whole >= self._quantity_min else 0

    def price_number(self, price: int) -> float:
        return price * self._tick_units / UNITS

    def price_numbers(self, prices: Sequence[int]) -> Floats:
        return np.array(prices, dtype=np.float64) * self._tick_units / UNITS

    def stake(self, free: int) -> int:
        numerator, denominator = self._stake
        spend = free * numerator // denominator if self.settings.stake_in_percent else numerator
        spend -= spend % self._tick_units
        fee, whole = (0, 1) if self._in_base else self._taker
        if spend <= 0 or spend < self._cost_min or spend * (whole + fee) > free * whole:
            return 0
        return spend

    def cap(self, volume: float) -> int | None:
        return None if self._share is None else int(volume * self._share * UNITS * (1 + SAME))

    def buy(self, spend: int, price: int, most: int | None, *, maker: bool) -> Trade[int] | None:
        worth = price * self._tick_units
        steps = spend * UNITS // (worth * self._step)
        quantity = steps * self._step
        if quantity < self._quantity_min:
            return None
        if most is not None:
            quantity = self.part(quantity, most)
        return self.take(quantity, price, maker=maker) if quantity > 0 else None

    def take(self, quantity: int, price: int, *, maker: bool) -> Trade[int]:
        quote = price * self._tick_units * quantity // UNITS
        rate, whole = self._maker if maker else self._taker
        if self._in_base:
            fee = quantity * rate // whole
            return Trade(quantity, quote, fee, quote, quantity - fee)
        fee = quote * rate // whole
        return Trade(quantity, quote, fee, quote + fee, quantity)

    def part(self, quantity: int, most: int) -> int:
        return min(quantity, most - most % self._step)

    def give(self, quantity: int, price: int, *, maker: bool) -> Trade[int]:
        quote = price * self._tick_units * quantity // UNITS
        rate, whole = self._maker if maker else self._taker
        fee = quote * rate // whole
        return Trade(quantity, quote, fee, quantity, quote - fee)

    def sell(self, holding: int, price: int, most: int | None, *, maker: bool) -> Trade[int] | None:
        quantity, worth = holding - holding % self._step, price * self._tick_units
        if quantity < self._quantity_min or worth * quantity < self._cost_min * UNITS:
            return None
        if most is not None:
            quantity = self.part(quantity, most)
        return self.give(quantity, price, maker=maker) if quantity > 0 else None

    def least_price(self, holding: int) -> float:
        quantity = holding - holding % self._step
        if quantity < self._quantity_min:
            return math.inf
        return self._cost_min / quantity * (1 - SAME)


class Plain:
    """Floats, without steps."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._up, self._down = (1 + _share(settings)), (1 - _share(settings))
        self._tick = None if settings.price_tick is None else float(settings.price_tick)
        self._slip = settings.slippage_ticks
        self._quantity_min = float(settings.quantity_min or 0)
        self._cost_min = float(settings.cost_min or 0)
        self._in_base = settings.fee_side == "get"
        self._taker, self._maker = float(settings.taker), float(settings.maker)
        self._share = None if settings.volume_share is None else float(settings.volume_share)
        self._stake = stake_share(settings) if settings.stake_in_percent else float(settings.stake)

    def amount(self, value: Decimal) -> float:
        return float(value)

    def number(self, amount: float) -> float:
        return amount

    def numbers(self, amounts: Sequence[float]) -> Floats:
        return np.array(amounts, dtype=np.float64)

    def price(self, side: Side, at: float) -> float:
        moved = at * (self._up if side == "buy" else self._down)
        if self._tick is None:
            return moved
        if side == "buy":
            return (math.ceil(moved / self._tick * (1 - SAME)) + self._slip) * self._tick
        return max(math.floor(moved / self._tick * (1 + SAME)) - self._slip, 1) * self._tick

    def prices(self, side: Side, at: Floats) -> list[float]:
        prices: list[float] = taker_prices(self.settings, side, at).tolist()
        return prices

    def level(self, side: Side, at: float) -> float:
        if self._tick is None:
            return at
        ticks = at / self._tick
        whole = math.floor(ticks * (1 + SAME)) if side == "buy" else math.ceil(ticks * (1 - SAME))
        return max(whole, 1) * self._tick

    def quantity(self, asked: float) -> float:
        return asked if asked >= self._quantity_min else 0.0

    def price_number(self, price: float) -> float:
        return price

    def price_numbers(self, prices: Sequence[float]) -> Floats:
        return np.array(prices, dtype=np.float64)

    def stake(self, free: float) -> float:
        spend = free * self._stake if self.settings.stake_in_percent else self._stake
        on_top = 0.0 if self._in_base else self._taker
        if spend <= 0 or spend < self._cost_min or spend * (1 + on_top) > free * (1 + 4 * SAME):
            return 0.0
        return spend

    def cap(self, volume: float) -> float | None:
        return None if self._share is None else volume * self._share

    def buy(self, spend: float, price: float, most: float | None, *, maker: bool) -> Trade[float] | None:
        whole = spend / price
        quantity = whole if most is None else min(whole, most)
        if quantity <= 0 or whole < self._quantity_min:
            return None
        return self.take(quantity, price, maker=maker)

    def take(self, quantity: float, price: float, *, maker: bool) -> Trade[float]:
        quote, rate = quantity * price, self._maker if maker else self._taker
        if self._in_base:
            return Trade(quantity, quote, quantity * rate, quote, quantity - quantity * rate)
        return Trade(quantity, quote, quote * rate, quote + quote * rate, quantity)

    def part(self, quantity: float, most: float) -> float:
        return min(quantity, most)

    def give(self, quantity: float, price: float, *, maker: bool) -> Trade[float]:
        quote = quantity * price
        fee = quote * (self._maker if maker else self._taker)
        return Trade(quantity, quote, fee, quantity, quote - fee)

    def sell(self, holding: float, price: float, most: float | None, *, maker: bool) -> Trade[float] | None:
        if holding <= 0 or holding < self._quantity_min or holding * price < self._cost_min:
            return None
        quantity = holding if most is None else min(holding, most)
        return self.give(quantity, price, maker=maker) if quantity > 0 else None

    def least_price(self, holding: float) -> float:
        if holding <= 0 or holding < self._quantity_min:
            return math.inf
        return self._cost_min / holding * (1 - SAME)


def _share(settings: Settings) -> float:
    return float(settings.spread / 2 + settings.slippage)


def stake_share(settings: Settings) -> float:
    """What share of the free allowance an entry spends, a fee that comes on top taken off."""
    with localcontext() as context:
        context.prec = 40
        share = settings.stake / 100
        return float(share / (1 + settings.taker) if settings.fee_side == "quote" else share)
