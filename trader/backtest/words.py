"""The measures in words, in the order in which people read them: what each is called, and what it says."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from trader.backtest.result import NOT_TAKEN, UNDECIDED

NONE = "·"
"""A measure that cannot be told."""


@dataclass(frozen=True, slots=True)
class Word:
    """A measure for people."""

    name: str
    """That of the field and the column."""
    label: str
    kind: str
    """money, percent, ratio, days or count."""
    meaning: str


WORDS = (
    Word("return_percent", "return", "percent", "What the money made, time-weighted: money that came or went is none."),
    Word("annual_return_percent", "a year", "percent", "What a year would return at this pace."),
    Word("buy_and_hold_percent", "buy and hold", "percent", "What buying everything once, at the start, returned."),
    Word("profit", "profit", "money", "Equity at the end, minus what was paid in, plus what was paid out."),
    Word("equity", "equity", "money", "Cash and holdings at the last close."),
    Word("deposits", "deposits", "money", "What was paid in."),
    Word("withdrawals", "withdrawals", "money", "What was paid out."),
    Word("realised", "realised", "money", "From what was sold, at average cost, after fees."),
    Word("unrealised", "unrealised", "money", "What is held at the end, minus its cost."),
    Word("fees", "fees", "money", "What the venue took; part of realised and unrealised already."),
    Word("max_drawdown_percent", "deepest fall", "percent", "The largest fall from a peak, at closes."),
    Word("drawdown_days", "longest fall", "days", "The longest time below a peak, recovered or not."),
    Word("sharpe", "Sharpe ratio", "ratio", "Mean of the daily returns by what they vary, for a year."),
    Word("sortino", "Sortino ratio", "ratio", "The same, where only losses count as varying."),
    Word("calmar", "Calmar ratio", "ratio", "Return of a year by the deepest fall."),
    Word("trades", "trades", "count", "Sell orders that traded."),
    Word("win_percent", "won", "percent", "How many of a hundred of them realised more than 0."),
    Word("profit_factor", "profit factor", "ratio", "All gains by all losses: above 1 gains outweigh."),
    Word("expectancy", "expectancy", "money", "What a sell order realised on average."),
    Word("exposure_percent", "exposure", "percent", "Share of the candles at whose close something was held."),
    Word("turnover", "turnover", "ratio", "What was bought and sold, in mean equities."),
    Word("gaps", "gaps", "count", "Places where candles are missing: what the market did there is unknown."),
    Word("missing_bars", "candles missing", "count", "How many candles the gaps swallowed."),
    Word("fills_after_gaps", "fills after gaps", "count", "Fills that came right after one."),
)


def told(word: Word, value: Any) -> str:
    """A value as people read it; what cannot be told is a dot."""
    if value is None:
        return NONE
    if word.kind == "count":
        return f"{int(value):,}"
    if word.kind == "money":
        return money(value)
    digits = {"percent": 2, "ratio": 2, "days": 1}[word.kind]
    unit = {"percent": " %", "ratio": "", "days": " days"}[word.kind]
    return f"{value:,.{digits}f}{unit}"


def interval(confidence: Mapping[str, Any] | None, word: Word) -> str:
    """Where a measure lies by the bootstrap; empty: it is not told of this one."""
    if confidence is None or word.name not in confidence:
        return ""
    low, high = confidence[word.name]
    digits, unit = (1, " %") if word.kind == "percent" else (2, "")
    return f"{low:,.{digits}f} to {high:,.{digits}f}{unit}"


def of_holding(held: Mapping[str, Any] | None, word: Word) -> str:
    """The same measure of buying once and holding; empty: it is none of that."""
    return told(word, held[word.name]) if held is not None and word.name in held else ""


def money(value: Decimal | float) -> str:
    """Two decimals from 1 on; smaller amounts (a quote of BTC) up to eight."""
    text = f"{value:,.2f}" if value >= 1 or value <= -1 or value == 0 else f"{value:,.8f}".rstrip("0").rstrip(".")
    return "0.00" if text in ("-0", "-0.00", "0") else text


def not_done(reason: str, count: int) -> str:
    """How many orders were not filled, entries not taken or stretches of candles not decided on, and why."""
    if reason == UNDECIDED:
        return f"{count:,} {'stretch' if count == 1 else 'stretches'} of candles without a decision: {reason}"
    if reason in NOT_TAKEN:
        return f"{count:,} {'entry' if count == 1 else 'entries'} not taken: {reason}"
    return f"{count:,} order{'s' * (count != 1)} not filled: {reason}"


def gap_sentence(measures: Mapping[str, Any]) -> str:
    """What is said of gaps, always: none is a statement, too."""
    if not measures["gaps"]:
        return "No candle is missing between the first and the last."
    gaps, missing, after = (int(measures[name]) for name in ("gaps", "missing_bars", "fills_after_gaps"))
    return (
        f"Computed over {gaps:,} {'gap' if gaps == 1 else 'gaps'} with {missing:,} missing "
        f"{'candle' if missing == 1 else 'candles'}: what the market did there is unknown. "
        f"{after:,} {'fill' if after == 1 else 'fills'} came right after one."
    )


def terms(settings: Mapping[str, Any]) -> str:
    """What it traded with and what that costs, in a line."""
    share = {name: f"{100 * Decimal(settings[name]):f}" for name in ("maker", "taker", "slippage", "spread")}
    share = {name: text.rstrip("0").rstrip(".") if "." in text else text for name, text in share.items()}
    fee = (
        f"{share['taker']} %"
        if share["maker"] == share["taker"]
        else f"{share['taker']} % ({share['maker']} % as maker)"
    )
    stake = f"{Decimal(settings['stake']).normalize():f}{' %' if settings['stake_in_percent'] else ''}"
    parts = [f"stake {stake}", f"fee {fee}", f"slippage {share['slippage']} %", f"spread {share['spread']} %"]
    if settings.get("file_gaps"):
        parts.append(f"gaps of the file taken for {settings['file_gaps'].replace('_', '-')} (--gaps)")
    return ", ".join([*parts, f"filled at {'the same close' if settings['fill'] == 'close' else 'the next open'}"])


def quote_of(market: str | None) -> str | None:
    """The asset that the money of a run is in, as the name of its market tells: USDT of binance:BTC/USDT."""
    return ((market or "").partition(":")[2].partition("/")[2].partition(":")[0]) or None


def span(first: datetime, last: datetime) -> str:
    """From when to when, in UTC."""
    return f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"


def texts(values: Mapping[str, Any]) -> str:
    """Parameters in a line."""
    return ", ".join(f"{name} {value}" for name, value in sorted(values.items())) or "no parameters"
