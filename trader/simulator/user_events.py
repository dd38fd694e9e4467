"""User data events: what a change of an order or a balance looks like on the user's own stream."""

from collections.abc import Iterator
from decimal import Decimal

from trader.simulator.decimals import ZERO, text
from trader.simulator.matching import Balance, Change, Fill, Order
from trader.simulator.wire import Json


def reports(change: Change, now: int) -> Iterator[Json]:
    """The execution reports of one act, in the order in which they happened."""
    order = change.order
    filled = order.filled - sum((fill.quantity for fill in change.fills), ZERO)
    cost = order.cost - sum((fill.cost for fill in change.fills), ZERO)
    if change.cause == "NEW":
        yield _report(order, now, "NEW", "NEW", filled, cost, None)
    for fill in change.fills:
        filled, cost = filled + fill.quantity, cost + fill.cost
        status = "FILLED" if filled == order.quantity else "PARTIALLY_FILLED"
        yield _report(order, now, "TRADE", status, filled, cost, fill)
    if order.status in ("CANCELED", "EXPIRED"):
        yield _report(order, now, order.status, order.status, filled, cost, None)


def _report(
    order: Order, now: int, execution: str, status: str, filled: Decimal, cost: Decimal, fill: Fill | None
) -> Json:
    canceled = execution == "CANCELED"
    return {
        "e": "executionReport",
        "E": now,
        "s": order.market,
        "c": f"cancel-{order.id}" if canceled else order.client_order_id,
        "S": order.side,
        "o": order.type,
        "f": order.time_in_force,
        "q": text(order.quantity),
        "p": text(order.price),
        "P": text(ZERO),
        "F": text(ZERO),
        "g": -1,
        "C": order.client_order_id if canceled else "",
        "x": execution,
        "X": status,
        "r": "NONE",
        "i": order.id,
        "l": text(ZERO if fill is None else fill.quantity),
        "z": text(filled),
        "L": text(ZERO if fill is None else fill.price),
        "n": text(ZERO if fill is None else fill.fee),
        "N": None if fill is None else fill.fee_asset,
        "T": order.updated,
        "t": -1 if fill is None else fill.id,
        "I": order.id,
        "w": status in ("NEW", "PARTIALLY_FILLED"),
        "m": fill is not None and fill.maker,
        "M": False,
        "O": order.created,
        "Z": text(cost),
        "Y": text(ZERO if fill is None else fill.cost),
        "Q": text(order.quote_quantity),
        "W": order.created,
        "V": "EXPIRE_MAKER",
    }


def position(balances: dict[str, Balance], assets: set[str], now: int) -> Json:
    """The balances that an act has moved."""
    moved = [(asset, balances[asset]) for asset in sorted(assets) if asset in balances]
    entries = [{"a": asset, "f": text(b.free), "l": text(b.locked)} for asset, b in moved]
    return {"e": "outboundAccountPosition", "E": now, "u": now, "B": entries}


def deposit(asset: str, delta: Decimal, now: int) -> Json:
    """A balance that moved without an order."""
    return {"e": "balanceUpdate", "E": now, "a": asset, "d": text(delta), "T": now}
