"""From ccxt's unified dictionaries to our own reports. Pure.

Everything here raises `Unknown` on an answer that is not what it should be: half an answer is not an answer.
ccxt is run with `number = str`, so prices and quantities come as the text that the venue sent.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, cast

from trader.clock import from_milliseconds, to_milliseconds
from trader.errors import Unknown
from trader.exchange.protocol import (
    AssetBalance,
    BadCandle,
    Candle,
    CandlePage,
    FeeSide,
    FillReport,
    MarketInfo,
    OrderReport,
    PublicTrade,
    Side,
    Ticker,
    VenueStatus,
)

Row = Mapping[str, Any]

DECIMAL_PLACES = 2
TICK_SIZE = 4
_ROUNDING = Decimal("0.001")
"""How far a count in quote may be from the sum of its trades: each is rounded on its own."""
_CANDLE = ("time_open", "open", "high", "low", "close", "volume")
_SHOWN = 100
"""Characters of what cannot be read that a message shows."""
_FEE_SIDES = ("get", "give", "base", "quote", "other")


def plain(value: Decimal) -> str:
    """The exact digits of `value`, never in exponent form."""
    return format(value, "f")


def optional_decimal(value: Any, field: str) -> Decimal | None:
    """`value` as an exact finite number; None stays None. Raises Unknown on anything else."""
    if value is None or value == "":
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        raise Unknown(f"{field}: {value!r} is not a number") from None
    if not number.is_finite():
        raise Unknown(f"{field}: {value!r} is not a finite number")
    return number


def decimal(value: Any, field: str) -> Decimal:
    """Like `optional_decimal`, but the value must be there."""
    number = optional_decimal(value, field)
    if number is None:
        raise Unknown(f"{field} is missing from the answer")
    return number


def moment(value: Any, field: str) -> datetime:
    """Milliseconds since 1970 as an aware moment."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise Unknown(f"{field}: {value!r} is not a time in milliseconds")
    try:
        return from_milliseconds(int(value))
    except OverflowError:
        raise Unknown(f"{field}: {value!r} is not a time in milliseconds") from None


def text(value: Any, field: str) -> str:
    """A non-empty name or id."""
    if not isinstance(value, str) or not value:
        raise Unknown(f"{field} is missing from the answer")
    return value


def market(row: Row, precision_mode: int) -> MarketInfo | None:
    """A spot market with its rules; None if it is no spot market or its rules are not steps in Decimal."""
    if not row.get("spot") or row.get("base") is None or row.get("quote") is None:
        return None
    try:
        steps = {key: _step(row["precision"].get(key), precision_mode) for key in ("price", "amount")}
    except (Unknown, KeyError, TypeError, AttributeError):
        return None
    limits = row.get("limits") or {}
    amount, cost = limits.get("amount") or {}, limits.get("cost") or {}
    fee_side = row.get("feeSide")
    return MarketInfo(
        symbol=text(row.get("symbol"), "symbol"),
        base=text(row["base"], "base"),
        quote=text(row["quote"], "quote"),
        active=row.get("active") is not False,
        price_tick=steps["price"],
        quantity_step=steps["amount"],
        quantity_min=_rule(amount.get("min"), "limits.amount.min"),
        quantity_max=_rule(amount.get("max"), "limits.amount.max"),
        cost_min=_rule(cost.get("min"), "limits.cost.min"),
        maker_fee=optional_decimal(row.get("maker"), "maker") or Decimal(0),
        taker_fee=optional_decimal(row.get("taker"), "taker") or Decimal(0),
        fee_side=cast(FeeSide, fee_side if fee_side in _FEE_SIDES else "quote"),
        status=_status_word(row.get("info")),
    )


def _status_word(info: Any) -> str | None:
    """What the venue calls the state of a market: ccxt makes true or false of it."""
    word = (info.get("status") or info.get("state")) if isinstance(info, Mapping) else None
    return word if isinstance(word, str) and word.isprintable() else None


def _rule(value: Any, field: str) -> Decimal | None:
    """A venue writes 0 where it has no such rule."""
    return optional_decimal(value, field) or None


def _step(value: Any, precision_mode: int) -> Decimal | None:
    number = optional_decimal(value, "precision")
    if number is None:
        return None
    if precision_mode == DECIMAL_PLACES:
        return Decimal(1).scaleb(-int(number))
    if precision_mode != TICK_SIZE:
        raise Unknown("significant digits are not a step")
    if number <= 0:
        raise Unknown(f"a step of {number} is not a step")
    return number


def candles(rows: Any) -> CandlePage:
    """Rows of `[time, open, high, low, close, volume]`; what is no candle is left out with its reason.

    Raises Unknown if `rows` is no list, or there are rows and not one of them is a candle.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise Unknown(f"candles: {str(rows)[:_SHOWN]!r} is not a list")
    found = [candle(row) for row in rows]
    refused = [one for one in found if isinstance(one, BadCandle)]
    if refused and len(refused) == len(found):
        raise Unknown(f"candles: not one of {len(found)} rows is one: {refused[0].field} {refused[0].problem}")
    return CandlePage((one for one in found if isinstance(one, Candle)), refused)


def candle(row: Any) -> Candle | BadCandle:
    """One `[time, open, high, low, close, volume]`; every field must be a finite number."""
    if not isinstance(row, Sequence) or isinstance(row, str) or len(row) < len(_CANDLE):
        return BadCandle(None, repr(row)[:_SHOWN], "row", "does not have six fields")
    try:
        opened = moment(row[0], "time_open")
    except Unknown as error:
        return BadCandle(None, repr(row)[:_SHOWN], "time_open", str(error).partition(": ")[2])
    values = []
    for field, value in zip(_CANDLE[1:], row[1:], strict=False):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            return BadCandle(opened, repr(row)[:_SHOWN], field, f"{str(value)[:_SHOWN]!r} is not a number")
        if not math.isfinite(number):
            return BadCandle(opened, repr(row)[:_SHOWN], field, f"{number!r} is not a finite number")
        values.append(number)
    return Candle(opened, *values)


def trade(row: Row) -> tuple[tuple[int, int, str], PublicTrade]:
    """Somebody's trade, and its place among others: by time, then by number."""
    at = moment(row.get("timestamp"), "trade time")
    price, quantity = decimal(row.get("price"), "trade price"), decimal(row.get("amount"), "trade amount")
    if price <= 0 or quantity <= 0:
        raise Unknown(f"trade {row.get('id')!r}: {plain(quantity)} at {plain(price)} is no trade")
    number = str(row.get("id") or "")
    return (to_milliseconds(at), len(number), number), PublicTrade(at, price, quantity)


def ticker(row: Row, symbol: str) -> Ticker:
    """The top of the book; zero is how venues write an empty side."""
    if not row.get("info"):
        raise Unknown(f"ticker of {symbol}: the answer is empty")
    bid, ask, last = (optional_decimal(row.get(key), key) or None for key in ("bid", "ask", "last"))
    return Ticker(symbol, bid, ask, last)


def balances(row: Row) -> list[AssetBalance]:
    """Every asset of which the account owns something."""
    totals = row.get("total")
    if not isinstance(totals, Mapping):
        raise Unknown("balances: the answer holds none")
    found = []
    for asset in sorted(totals):
        total = decimal(totals[asset], f"balance of {asset}")
        entry = row.get(asset) or {}
        used = optional_decimal(entry.get("used"), f"{asset} used")
        free = optional_decimal(entry.get("free"), f"{asset} free")
        if used is None:
            used = total - free if free is not None else Decimal(0)
        if total or used:
            found.append(AssetBalance(asset, total, total - used if free is None else free, used))
    return found


def order(row: Any, symbol: str | None = None) -> OrderReport:
    """What the venue says of one order. Raises Unknown if it does not even name it."""
    if not isinstance(row, Mapping):
        raise Unknown(f"order: {row!r} is not an order")
    in_money = _in_money(row.get("info"))
    filled = None if in_money else optional_decimal(row.get("filled"), "filled")
    return OrderReport(
        venue_order_id=text(row.get("id"), "order id"),
        client_order_id=row.get("clientOrderId"),
        symbol=text(row.get("symbol") or symbol, "order symbol"),
        status=_status(row, filled),
        filled_quantity=filled,
        fills=_order_fills(row),
        side=cast(Side, row["side"]) if row.get("side") in ("buy", "sell") else None,
        type=row.get("type"),
        quantity=None if in_money else optional_decimal(row.get("amount"), "amount"),
        limit_price=optional_decimal(row.get("price"), "price") or None,
    )


def _in_money(info: Any) -> bool:
    """Kraken's flag viqc: the volumes of this order are in quote, though ccxt calls them its amount."""
    return isinstance(info, Mapping) and "viqc" in str(info.get("oflags"))


def require_all_trades(info: Row, trades: Sequence[Row]) -> None:
    """Raise Unknown unless `trades` make up what a Kraken order says was executed.

    Of an order sized in money its count is in quote and rounded, or, in other words of the venue, in base.
    """
    executed = optional_decimal(info.get("vol_exec"), "vol_exec") or Decimal(0)
    quantity = sum((decimal(trade.get("amount"), "trade amount") for trade in trades), Decimal(0))
    if not trades and executed > 0:
        raise Unknown(f"{plain(executed)} was executed, and the order names no trade")
    if not _in_money(info) or quantity == executed:
        return
    cost = sum((decimal(trade.get("cost"), "trade cost") for trade in trades), Decimal(0))
    if abs(cost - executed) > executed * _ROUNDING:
        raise Unknown(f"{plain(executed)} was executed, the trades that the order names make up {plain(cost)}")


def _status(row: Row, filled: Decimal | None) -> VenueStatus | None:
    status = row.get("status")
    if status in ("open", "canceling"):
        return "partially_filled" if filled else "accepted"
    if status == "closed":
        return "canceled" if _stopped_short(row) else "filled"
    return cast(VenueStatus, status) if status in ("canceled", "expired", "rejected") else None


def _stopped_short(row: Row) -> bool:
    """ccxt says "closed" of an order that was canceled after a part was filled, too."""
    info = row.get("info")
    if isinstance(info, Mapping) and info.get("orderStatus") == "PartiallyFilledCanceled":
        return True
    # What remains of a market order may be in quote: it proves nothing.
    return row.get("type") == "limit" and bool(optional_decimal(row.get("remaining"), "remaining"))


def _order_fills(row: Row) -> tuple[FillReport, ...]:
    """The executions inside an order; none if any lacks a field that only `fills()` can give."""
    trades = row.get("trades") or []
    if not all(isinstance(trade, Mapping) and trade.get("id") and _fee(trade).get("currency") for trade in trades):
        return ()
    return tuple(fill(trade, row) for trade in trades)


def fill(trade: Row, parent: Row | None = None) -> FillReport:
    """One execution; what it leaves out (side, order, time) is taken from the order it came with."""
    above: Row = parent or {}
    fee = _fee(trade)
    info = trade.get("info")
    # Bybit's documents call it feeCurrency; ccxt reads another field, and guesses where that is absent.
    named = info.get("feeCurrency") if isinstance(info, Mapping) else None
    side = trade.get("side") or above.get("side")
    if side not in ("buy", "sell"):
        raise Unknown(f"fill {trade.get('id')}: side {side!r} is neither buy nor sell")
    liquidity = trade.get("takerOrMaker")
    return FillReport(
        trade_id=text(trade.get("id"), "trade id"),
        venue_order_id=text(trade.get("order") or above.get("id"), "order id of a trade"),
        side=cast(Side, side),
        quantity=decimal(trade.get("amount"), "trade amount"),
        price=decimal(trade.get("price"), "trade price"),
        fee=optional_decimal(fee.get("cost"), "fee") or Decimal(0),
        fee_asset=named or fee.get("currency"),
        liquidity=liquidity if liquidity in ("maker", "taker") else None,
        traded_at=moment(trade.get("timestamp") or above.get("timestamp"), "trade time"),
    )


def _fee(trade: Row) -> Row:
    fees = [fee for fee in trade.get("fees") or [] if fee and fee.get("cost") is not None]
    if len(fees) > 1:
        raise Unknown(f"fill {trade.get('id')}: {len(fees)} fees in one execution cannot be booked")
    return fees[0] if fees else trade.get("fee") or {}
