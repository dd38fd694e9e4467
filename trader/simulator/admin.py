"""Routes under /simulator/: for tests and for the person at the simulator. Unsigned, from this machine only."""

from decimal import Decimal, InvalidOperation
from typing import Any

from trader.simulator.decimals import ZERO, plain
from trader.simulator.faults import KINDS, BadRuleError, Faults
from trader.simulator.hidden import Window
from trader.simulator.matching import Order
from trader.simulator.request_log import RequestLog
from trader.simulator.rules import VenueError
from trader.simulator.venue import Market, Venue
from trader.simulator.wire import Json, Params


class BadAdminError(ValueError):
    """An admin request that cannot be understood; the text names the field, the value and what is allowed."""


def state(venue: Venue) -> Json:
    """Balances of every account, counts, and client ids that were used more than once."""
    venue.advance()
    summary = venue.store.summary()
    again = [{"key": a, "client_order_id": n, "orders": used, "filled": f} for a, n, used, f in summary if used > 1]
    return {
        "balances": {
            key: {asset: {"free": plain(b.free), "locked": plain(b.locked)} for asset, b in sorted(owned.items())}
            for key, owned in venue.engine.balances.items()
        },
        "orders": venue.store.count("venue_order"),
        "open_orders": len(venue.engine.open),
        "trades": venue.store.count("trade"),
        "client_order_ids": len(summary),
        "duplicates": again,
    }


def orders(venue: Venue, params: Params) -> list[Json]:
    """Every order ever accepted, of one account (`key`) or of all."""
    venue.advance()
    return [_order(o) for o in venue.store.every_order() if params.get("key") in (None, o.account)]


def _order(o: Order) -> Json:
    return {
        "id": o.id,
        "key": o.account,
        "market": o.market,
        "client_order_id": o.client_order_id,
        "side": o.side,
        "type": o.type,
        "status": o.status,
        "quantity": plain(o.quantity),
        "filled": plain(o.filled),
        "cost": plain(o.cost),
        "price": plain(o.price),
        "created": o.created,
    }


def clock(venue: Venue) -> Json:
    """Both clocks in milliseconds, the speed, and each market's price and span of history."""
    wall = venue.wall()
    market_time = venue.clock.now(wall)
    return {
        "wall": wall,
        "market": market_time,
        "speed": venue.clock.speed,
        "end": venue.clock.end,
        "ended": venue.clock.end is not None and market_time >= venue.clock.end,
        "markets": {m.rules.symbol: _market(venue, m) for m in venue.markets.values()},
    }


def _market(venue: Venue, market: Market) -> Json:
    series = market.series
    facts = {"start": series.start, "end": series.end, "timeframe": series.base, "synthetic": market.synthetic}
    return {"price": plain(venue.price(market)), "pinned": market.pinned is not None, **facts}


def set_clock(venue: Venue, body: Any) -> Json:
    speed, ahead = body.get("speed"), body.get("advance_seconds", 0)
    if speed is not None and not (isinstance(speed, int | float) and 0 <= speed <= 10_000_000):
        raise BadAdminError(f"speed is {speed!r}; it must be a number from 0 to 10000000")
    if not isinstance(ahead, int | float) or not 0 <= ahead <= 10**8:
        raise BadAdminError(f"advance_seconds is {ahead!r}; it must be a number from 0 to 100000000")
    venue.set_clock(speed=speed, advance_milliseconds=int(ahead * 1000))
    return clock(venue)


def set_price(venue: Venue, body: Any) -> Json:
    """{"market": "BTC/USDT", "price": "100"} pins the price, a null price lets it go."""
    market = _named(venue, body.get("market"))
    price = None if body.get("price") is None else _number(body, "price")
    if price is not None and (price <= ZERO or price % market.rules.tick):
        raise BadAdminError(f"price is {price}; it must be a positive multiple of the tick {market.rules.tick}")
    venue.pin(market, price)
    return _market(venue, market)


def hide(venue: Venue, body: Any) -> list[Json]:
    """{"from": ms, "to": ms} hides the candles that lie in this stretch of market time, with "trades": true those
    too; {"back": true} gives everything back. "market" names another than the first. What is hidden comes back."""
    hidden = _named(venue, body.get("market")).hidden
    if body.get("back") is True:
        hidden.windows.clear()
    else:
        start, end, trades = body.get("from"), body.get("to"), body.get("trades", False)
        if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end):
            raise BadAdminError(f"from is {start!r} and to is {end!r}; they must be milliseconds, from before to")
        if not isinstance(trades, bool):
            raise BadAdminError(f"trades is {trades!r}; it must be true or false")
        hidden.windows.append(Window(start, end, trades))
    return [window.describe() for window in hidden.windows]


def _named(venue: Venue, name: object) -> Market:
    """The market of that name; the first if there is none."""
    wanted = next(iter(venue.markets)) if name is None else str(name)
    try:
        return venue.market(wanted.replace("/", ""))
    except VenueError:
        known = ", ".join(m.rules.symbol for m in venue.markets.values())
        raise BadAdminError(f"market is {wanted!r}; it must be one of {known}") from None


def change_balance(venue: Venue, body: Any) -> Json:
    """{"key": ..., "asset": "USDT", "quantity": "100"} deposits; a negative quantity withdraws."""
    key = body.get("key", next(iter(venue.secrets)))
    if key not in venue.secrets:
        raise BadAdminError(f"key is {key!r}; no account has it")
    asset = body.get("asset")
    if not isinstance(asset, str) or not asset.isalnum():
        raise BadAdminError(f"asset is {asset!r}; it must be a code such as USDT")
    try:
        balance = venue.credit(key, asset, _number(body, "quantity"))
    except VenueError as error:
        raise BadAdminError(f"quantity is {body['quantity']}: {error.message}") from None
    return {"asset": asset, "free": plain(balance.free), "locked": plain(balance.locked)}


def _number(body: Any, name: str) -> Decimal:
    try:
        value = Decimal(str(body.get(name)))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or int(value.as_tuple().exponent) < -8:
        raise BadAdminError(f"{name} is {body.get(name)!r}; it must be a number with at most eight places")
    return value


def list_faults(faults: Faults) -> Json:
    return {"faults": [rule.describe() for rule in faults.rules], "kinds": KINDS}


def add_faults(faults: Faults, body: object) -> Json:
    try:
        faults.add(body if isinstance(body, list) else [body])
    except BadRuleError as error:
        raise BadAdminError(str(error)) from None
    return list_faults(faults)


def log(request_log: RequestLog, params: Params) -> list[Json]:
    return request_log.since(params.integer("since") or 0, params.limit(1000, 100_000))
