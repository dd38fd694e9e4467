"""Sizing: what exactly an order sends and reserves, or why it is denied. Plain arithmetic, no I/O."""

from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from typing import TypeVar

from trader.exchange.protocol import FeeSide, OrderType, Side, TimeInForce

Known = TypeVar("Known")
LEAST = Decimal("1e-18")
"""The finest amount that the database keeps."""
QUOTE_STEP = Decimal("1e-8")
"""Venues take quote amounts with at most eight decimals; with a price tick, ccxt cuts them to that."""


@dataclass(frozen=True, slots=True)
class Rules:
    """A market's rules, and the account's, as an order meets them. None: there is no such rule."""

    symbol: str
    base: str
    quote: str
    base_id: int
    quote_id: int
    active: bool
    price_tick: Decimal | None
    quantity_step: Decimal | None
    quantity_min: Decimal | None
    quantity_max: Decimal | None
    cost_min: Decimal | None
    fee: Decimal
    fee_side: FeeSide
    price_margin: Decimal


@dataclass(frozen=True, slots=True)
class Intent:
    """What was asked: at most one of `quantity` (base) and `quote_quantity` is set; neither means the stake decides."""

    type: OrderType
    side: Side
    quantity: Decimal | None
    quote_quantity: Decimal | None
    limit_price: Decimal | None
    stake: Decimal
    stake_in_percent: bool
    expires_at: datetime | None
    time_in_force: TimeInForce = "GTC"


@dataclass(frozen=True, slots=True)
class Placement:
    """What goes to the venue, and what is reserved for it meanwhile."""

    quantity: Decimal | None
    quote_quantity: Decimal | None
    price: Decimal | None
    hold_asset_id: int
    hold_quantity: Decimal


@dataclass(frozen=True, slots=True)
class Denial:
    """Why an order is not sent."""

    reason: str


@dataclass(frozen=True, slots=True)
class Quote:
    """What the market shows now: `ask` is what a buy pays, `bid` what a sell gets."""

    bid: Decimal
    ask: Decimal
    last: Decimal | None = None
    """The last trade's price; None: nothing was ever traded, or the venue does not say."""


def needs_quote(intent: Intent) -> bool:
    """Whether the intent can only be judged with a price of now."""
    return intent.type == "market" and (intent.side == "sell" or intent.quantity is not None)


def size(intent: Intent, rules: Rules, free: Decimal, quote: Quote | None) -> Placement | Denial:
    """Decide what an order sends and holds.

    `free` is the strategy's allowance in the asset that the order gives away: quote for a buy, base for a sell.
    `quote` may be None unless `needs_quote(intent)`.
    """
    if not rules.active:
        return Denial(f"{rules.symbol} is not traded now")
    price = _round_price(intent, rules)
    if intent.side == "buy":
        return _size_buy(intent, rules, free, quote, price)
    return _size_sell(intent, rules, free, quote, price)


def _size_buy(
    intent: Intent, rules: Rules, free: Decimal, quote: Quote | None, price: Decimal | None
) -> Placement | Denial:
    fee = rules.fee if rules.fee_side in ("give", "quote") else Decimal(0)
    spend = intent.quote_quantity
    if intent.quantity is None and spend is None:
        spend = free * intent.stake / 100 / (1 + fee) if intent.stake_in_percent else intent.stake
        if spend <= 0:
            return Denial(f"the allowance is used up: {plain(free)} {rules.quote} free")
    if intent.type == "market" and intent.quantity is None:
        asked, step = _known(spend), rules.price_tick or QUOTE_STEP
        spend = floor_to(asked, step)
        if spend <= 0:
            return Denial(f"a value of {plain(asked)} {rules.quote} is below one step ({plain(step)})")
        if problem := _below_minimum_cost(spend, rules):
            return problem
        return _reserve(Placement(None, spend, None, rules.quote_id, ceil(spend * (1 + fee))), rules.quote, free)
    price_now = _known(quote).ask * (1 + rules.price_margin) if price is None else price
    asked = intent.quantity if intent.quantity is not None else _divide(spend or Decimal(0), price_now)
    quantity = floor_to(asked, rules.quantity_step)
    if problem := _breaks_rules(quantity, asked, quote.ask if price is None and quote else price_now, rules):
        return problem
    hold = ceil(quantity * price_now * (1 + fee))
    return _reserve(Placement(quantity, None, price, rules.quote_id, hold), rules.quote, free)


def _size_sell(
    intent: Intent, rules: Rules, free: Decimal, quote: Quote | None, price: Decimal | None
) -> Placement | Denial:
    fee = rules.fee if rules.fee_side in ("give", "base") else Decimal(0)
    if price is None:
        price = _known(quote).bid
    asked = intent.quantity
    if asked is None:
        asked = _divide(intent.quote_quantity, price) if intent.quote_quantity is not None else free / (1 + fee)
    if asked <= 0:
        return Denial(f"nothing to sell: {plain(free)} {rules.base} free")
    quantity = floor_to(asked, rules.quantity_step)
    if problem := _breaks_rules(quantity, asked, price, rules):
        return problem
    sent_price = price if intent.type == "limit" else None
    return _reserve(Placement(quantity, None, sent_price, rules.base_id, ceil(quantity * (1 + fee))), rules.base, free)


def _reserve(placement: Placement, asset: str, free: Decimal) -> Placement | Denial:
    if placement.hold_quantity > free:
        return Denial(f"the allowance is {plain(free)} {asset}, the order needs {plain(placement.hold_quantity)}")
    return placement


def _known(value: Known | None) -> Known:
    if value is None:
        raise ValueError("this order can only be sized with a price of now: see needs_quote")
    return value


def _round_price(intent: Intent, rules: Rules) -> Decimal | None:
    """To the tick, never to our harm: a buy pays no more, a sell takes no less than asked."""
    if intent.limit_price is None or rules.price_tick is None:
        return intent.limit_price
    rounding = ROUND_FLOOR if intent.side == "buy" else ROUND_CEILING
    return max(_to_step(intent.limit_price, rules.price_tick, rounding), rules.price_tick)


def _breaks_rules(quantity: Decimal, asked: Decimal, price: Decimal, rules: Rules) -> Denial | None:
    if quantity <= 0:
        return Denial(f"quantity {plain(asked)} {rules.base} is below one step ({plain(rules.quantity_step)})")
    if rules.quantity_min is not None and quantity < rules.quantity_min:
        return Denial(f"quantity {plain(quantity)} {rules.base} is below the minimum of {plain(rules.quantity_min)}")
    if rules.quantity_max is not None and quantity > rules.quantity_max:
        return Denial(f"quantity {plain(quantity)} {rules.base} is above the maximum of {plain(rules.quantity_max)}")
    return _below_minimum_cost(quantity * price, rules)


def _below_minimum_cost(cost: Decimal, rules: Rules) -> Denial | None:
    if rules.cost_min is not None and cost < rules.cost_min:
        return Denial(f"a value of {plain(cost)} {rules.quote} is below the minimum of {plain(rules.cost_min)}")
    return None


def floor_to(value: Decimal, step: Decimal | None) -> Decimal:
    """The largest multiple of `step` that is not above `value`."""
    return value if step is None else _to_step(value, step, ROUND_FLOOR)


def _to_step(value: Decimal, step: Decimal, rounding: str) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        return (value / step).to_integral_value(rounding) * step


def _divide(amount: Decimal, price: Decimal) -> Decimal:
    """`amount / price`, rounded down: what it buys, never more."""
    with localcontext() as context:
        context.prec = 60
        return (amount / price).quantize(LEAST, ROUND_FLOOR)


def ceil(value: Decimal) -> Decimal:
    """`value` rounded up to what the database keeps: a hold is never too small."""
    with localcontext() as context:
        context.prec = 60
        return value.quantize(LEAST, ROUND_CEILING)


def plain(value: Decimal | None) -> str:
    """A number as people write it: no exponent, no trailing zeros."""
    if value is None:
        return "none"
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
