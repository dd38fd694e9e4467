"""Conversion: what one asset is worth in another, over the shortest way of markets whose prices are fresh. Pure.

Shortest is fewest markets; of those ways the freshest, told by its oldest price; of those the one with the tightest
spreads; of those the first by name. Which markets there are, and which prices are fresh, is for the caller to say.
"""

import decimal
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

ALWAYS = datetime.max.replace(tzinfo=UTC)
"""The moment of a price that never gets old."""
UNKNOWN_SPREAD = Decimal(1)
"""For a price whose bid and ask nobody knows: wider than any that is used."""
WIDEST = Decimal("0.1")
"""The widest spread, as a share of the price, at which the middle between bid and ask still is a price."""

_DIGITS = decimal.Context(prec=18)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two assets between which there is a market, or a rate that somebody fixed."""

    name: str
    base: int
    quote: int


@dataclass(frozen=True, slots=True)
class Price:
    """Quote for one base, when that was true, and how far apart bid and ask were, as a share of it."""

    value: Decimal
    at: datetime
    spread: Decimal = UNKNOWN_SPREAD


@dataclass(frozen=True, slots=True)
class Way:
    """A way from an asset to the unit: what one is worth in it, and what that rests on."""

    rate: Decimal
    at: datetime
    """When its oldest price was true; ALWAYS if all of them are fixed."""
    spread: Decimal
    """All spreads on it together."""
    path: tuple[str, ...]
    """Names of its pairs, from the asset to the unit."""

    def after(self, pair: Pair, price: Price, *, inverted: bool) -> "Way":
        """The way that goes over `pair` first, then over this one."""
        step = 1 / price.value if inverted else price.value
        return Way(step * self.rate, min(self.at, price.at), self.spread + price.spread, (pair.name, *self.path))


def middle(bid: Decimal | None, ask: Decimal | None, last: Decimal | None) -> tuple[Decimal, Decimal] | None:
    """A price and its spread from the top of a book, or None: one side is empty, or they are too far apart.

    Of a venue that tells neither side, the last trade counts.
    """
    if bid is None and ask is None:
        return None if last is None else (last, UNKNOWN_SPREAD)
    if bid is None or ask is None:
        return None
    price = (bid + ask) / 2
    spread = max(ask - bid, Decimal(0)) / price
    return None if spread > WIDEST else (price, spread)


def ways(pairs: Iterable[Pair], prices: Mapping[str, Price], unit: int) -> dict[int, Way]:
    """The best way to `unit` from each asset that has one, over the pairs that have a price."""
    beside = _neighbours(pair for pair in pairs if pair.name in prices)
    found = {unit: [Way(Decimal(1), ALWAYS, Decimal(0), ())]}
    layer = [unit]
    while layer:
        following: dict[int, list[Way]] = defaultdict(list)
        for asset in layer:
            for other, pair in beside[asset]:
                if other not in found:
                    price, inverted = prices[pair.name], pair.base == asset
                    following[other] += [way.after(pair, price, inverted=inverted) for way in found[asset]]
        found |= {asset: _undominated(candidates) for asset, candidates in following.items()}
        layer = list(following)
    return {asset: _rounded(candidates[0]) for asset, candidates in found.items()}


def _undominated(candidates: list[Way]) -> list[Way]:
    """Freshest first; after it only what is tighter than all that is fresher.

    A way that is both older and wider than another stays so whatever is put before both. One that is older but tighter
    must be kept: an older price before it makes both as old, and then it wins.
    """
    kept: list[Way] = []
    for way in sorted(candidates, key=lambda one: (ALWAYS - one.at, one.spread, one.path)):
        if not kept or way.spread < kept[-1].spread:
            kept.append(way)
    return kept


def _rounded(way: Way) -> Way:
    return replace(way, rate=_DIGITS.plus(way.rate))


def on_shortest(pairs: Collection[Pair], unit: int, wanted: Iterable[int]) -> set[str]:
    """Every pair that lies on some shortest way from a wanted asset to `unit`, if all pairs had a price."""
    beside = _neighbours(pairs)
    distance = _distances(beside, unit)
    names: set[str] = set()
    seen = {asset for asset in wanted if asset in distance}
    waiting = list(seen)
    while waiting:
        asset = waiting.pop()
        for other, pair in beside[asset]:
            if distance[other] == distance[asset] - 1:
                names.add(pair.name)
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)
    return names


def _neighbours(pairs: Iterable[Pair]) -> dict[int, list[tuple[int, Pair]]]:
    beside: dict[int, list[tuple[int, Pair]]] = defaultdict(list)
    for pair in pairs:
        beside[pair.base].append((pair.quote, pair))
        beside[pair.quote].append((pair.base, pair))
    return beside


def _distances(beside: Mapping[int, list[tuple[int, Pair]]], unit: int) -> dict[int, int]:
    distance = {unit: 0}
    layer = [unit]
    while layer:
        following = []
        for asset in layer:
            for other, _ in beside.get(asset, ()):
                if other not in distance:
                    distance[other] = distance[asset] + 1
                    following.append(other)
        layer = following
    return distance
