"""The array engine: targets in, fills and equity out, without a step per bar.

The bars are only looked at as columns: where targets rise above 0 and fall back. Where nothing is rounded and an entry
spends a share of what is free, money is one cumulative product over the trades; else a loop goes over the trades, and
only over them. Both follow `trader.strategy.decide`, as live trading does; tests compare them with it bar by bar.
"""

import numpy as np

from trader.backtest.across import EVERY, Across
from trader.backtest.crosses import Signal, not_taken, signal_of
from trader.backtest.data import Bars, Floats, Indices
from trader.backtest.fill import Rounded, arithmetic_of, stake_share, taker_prices
from trader.backtest.result import BUY, SELL, Fills, Result, States, equity_of
from trader.backtest.settings import Settings
from trader.backtest.walk import Walk
from trader.errors import InputError


def run(bars: Bars, targets: Floats, settings: Settings, warm_up: int = 1, across: Across = EVERY) -> Result:
    """Trade `targets`, one for each bar, from -1 to 1: above 0 is in, 0 or below is out.

    The first `warm_up` - 1 of them do not count, and the one after them is no fresh cross. `across` says where a gap is
    none to decide across. Raises InputError: no bar, a target that is none, a withdrawal of more than is free.
    """
    check(bars, targets)
    signal = signal_of(bars, targets, settings, warm_up, across)
    arithmetic = arithmetic_of(settings)
    if isinstance(arithmetic, Rounded):
        return Walk(bars, signal, settings, arithmetic).go()
    if not _is_product(bars, signal, settings):
        return Walk(bars, signal, settings, arithmetic).go()
    fills, states = _multiply(bars, signal, settings)
    flows, missed = ((0, float(settings.deposit)),), tuple(not_taken(signal))  # nothing is held at any of them
    return Result(bars, settings, fills, states, flows, equity_of(bars, states), missed)


def check(bars: Bars, targets: Floats) -> None:
    """InputError: no bar, or a target that is none."""
    if len(bars) == 0:
        raise InputError("there is no bar to trade on")
    if len(targets) != len(bars):
        raise InputError(f"{len(targets)} targets for {len(bars)} bars")
    if not (targets.min() >= -1 and targets.max() <= 1):  # NaN is neither
        wrong = int((~((targets >= -1) & (targets <= 1))).argmax())
        raise InputError(f"target at {bars.moment(wrong)} is {targets[wrong]}: from -1 to 1 is allowed")


def _is_product(bars: Bars, signal: Signal, settings: Settings) -> bool:
    """Whether money is a product over the trades: nothing can be refused, cut or missed, and all comes at first."""
    whole = settings.stake_in_percent and settings.deposit > 0 and not settings.flows
    free = settings.cost_min is None and settings.quantity_min is None and settings.volume_share is None
    free = free and signal.silent is None  # else one run of targets may have two fresh crosses
    if not signal.breaks:
        return whole and free
    fills = np.concatenate((signal.fresh, signal.outs)) + signal.lag
    return whole and free and not bool(np.isin(fills, bars.breaks).any())


def _multiply(bars: Bars, signal: Signal, settings: Settings) -> tuple[Fills, States]:
    """The fills and what there was after each, by one cumulative product."""
    decided, at = _fill_bars(bars, signal)
    base = (bars.close if signal.lag == 0 else bars.open)[at]
    price = np.empty(len(at))
    price[0::2] = bought = taker_prices(settings, "buy", base[0::2])
    price[1::2] = sold = taker_prices(settings, "sell", base[1::2])
    fee, share, whole = float(settings.taker), stake_share(settings), float(settings.stake / 100)
    kept = 1 - fee if settings.fee_side == "get" else 1.0
    closed = len(sold)
    growth = (1 - whole) + share * kept * (1 - fee) * (sold / bought[:closed])
    cash = float(settings.deposit) * np.concatenate(([1.0], np.cumprod(growth)))
    spend = cash[: len(bought)] * share
    quantity, quote, fees, left, held = (np.empty(len(at)) for _ in range(5))
    quantity[0::2] = spend / bought
    held[0::2] = kept * quantity[0::2]
    quantity[1::2] = held[0::2][:closed]
    quote[0::2] = spend
    quote[1::2] = quantity[1::2] * sold
    fees[0::2] = fee * (quantity[0::2] if settings.fee_side == "get" else spend)
    fees[1::2] = fee * quote[1::2]
    left[0::2] = cash[: len(bought)] * (1 - whole)
    left[1::2], held[1::2] = cash[1 : closed + 1], 0.0
    side = np.full(len(at), BUY, dtype=np.int8)
    side[1::2] = SELL
    fills = Fills(
        at, decided, side, price, quantity, quote, fees, np.zeros(len(at), dtype=np.bool_), np.arange(len(at))
    )
    states = (np.concatenate(([first], column)) for first, column in ((0, at), (cash[0], left), (0.0, held)))
    return fills, States(*states)


def _fill_bars(bars: Bars, signal: Signal) -> tuple[Indices, Indices]:
    """When orders are decided and filled, entry and exit in turn; the last exit may be missing."""
    decided = np.empty(len(signal.fresh) + len(signal.runs), dtype=np.int64)
    decided[0::2], decided[1::2] = signal.fresh, signal.runs
    filled = decided + signal.lag
    there = len(filled) - int(len(filled) > 0 and filled[-1] >= len(bars))
    return decided[:there], filled[:there]
