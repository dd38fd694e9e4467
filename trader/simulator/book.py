"""The synthetic order book: a pure function of the seed, the market and its price."""

from dataclasses import dataclass
from decimal import Decimal
from random import Random

from trader.simulator.decimals import ZERO, floor_to, money
from trader.simulator.rules import Rules

Level = tuple[Decimal, Decimal]
"""Price and quantity."""


@dataclass(frozen=True, slots=True)
class Book:
    """Both sides, best price first."""

    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


@dataclass(frozen=True, slots=True)
class BookShape:
    """How deep the synthetic book is: worth of the first level in quote, and how much each further one grows."""

    levels: int = 20
    first_level: Decimal = Decimal(200)
    growth: Decimal = Decimal("1.5")
    spread: Decimal = Decimal("0.0002")


def make_book(rules: Rules, price: Decimal, seed: int, shape: BookShape) -> Book:
    """The book around `price`. The same arguments always give the same book."""
    random = Random(f"{seed}:{rules.id}:{price}")  # noqa: S311 - reproducible on purpose, nothing secret
    half = max(rules.tick, floor_to(price * shape.spread / 2, rules.tick))
    bids = _side(rules, price, -half, random, shape)
    asks = _side(rules, price, half, random, shape)
    return Book(bids, asks)


def _side(rules: Rules, price: Decimal, half: Decimal, random: Random, shape: BookShape) -> tuple[Level, ...]:
    gap = max(rules.tick, floor_to(abs(half) / 2, rules.tick))
    direction = 1 if half > 0 else -1
    at, worth, levels = price + half, shape.first_level, []
    for _ in range(shape.levels):
        if at < rules.tick:
            break
        quantity = floor_to(worth * random.randint(50, 150) / 100 / at, rules.step)
        levels.append((at, max(quantity, rules.step)))
        at += direction * gap * random.randint(1, 3)
        worth *= shape.growth
    return tuple(levels)


def resting_liquidity(remaining: Decimal, rules: Rules, price: Decimal, seed: int, key: str) -> Decimal:
    """How much of a resting order the market takes when it crosses its price: mostly all, sometimes a part."""
    random = Random(f"{seed}:{rules.id}:{key}")  # noqa: S311 - reproducible on purpose, nothing secret
    if random.random() < 0.7:
        return remaining
    part = floor_to(remaining * random.randint(30, 90) / 100, rules.step)
    rest = money((remaining - part) * price)
    return part if part > ZERO and rest >= rules.min_notional else remaining
