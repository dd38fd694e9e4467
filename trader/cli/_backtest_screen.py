"""Backtests on the terminal: one run, several beside each other."""

import textwrap
from collections.abc import Sequence
from typing import Any

from trader.backtest.record import Run, shortage
from trader.backtest.result import UNDECIDED
from trader.backtest.words import (
    NONE,
    WORDS,
    gap_sentence,
    interval,
    not_done,
    of_holding,
    quote_of,
    span,
    terms,
    texts,
    told,
)

LONGEST_ERROR = 36
"""Characters of an error in a list."""


def print_run(run: Run) -> None:
    """What a run was of, and all its measures."""
    number = f"backtest {run.id}" if run.id is not None else "backtest, not stored"
    print(f"{number}: {run.name} on {run.market or run.source} {run.timeframe}; {texts(run.params)}")
    print(f"{run.candles:,} candles from {run.source}, {span(run.used_from, run.used_to)}; {_how(run)}")
    print(terms(run.settings))
    if run.made is None:
        print(f"failed: {run.error}")
        return
    level = f"{100 * run.made.confidence['level']:g} % of draws" if run.made.confidence else "draws"
    rows = [
        [
            word.label,
            told(word, run.made.measures[word.name]),
            interval(run.made.confidence, word),
            of_holding(run.made.held, word),
        ]
        for word in WORDS
        if word.name != "buy_and_hold_percent"
    ]
    quote = quote_of(run.market)
    _print_table([f"money in {quote}" if quote else "", "this run", level, "bought and held"], rows)
    print(gap_sentence(run.made.measures))
    if short := shortage(run):
        print(short)
    for reason, count in run.made.refused.items():
        print(not_done(reason, count))
    if UNDECIDED in run.made.refused and run.source == "database":
        print(f"tallydesk bucket gaps {run.market} {run.timeframe} lists the gaps, and why candles are missing there")
    if run.made.confidence:
        lost, draws = run.made.confidence["loss_percent"], run.made.confidence["draws"]
        print(f"{lost:.0f} of 100 histories drawn from its days lose money ({draws:,} draws, seed {run.seed})")
    else:
        print("too few days to tell how sure it is")


def _how(run: Run) -> str:
    decides = "decides at every candle" if run.schedule == "bucket" else f"decides every {run.schedule}"
    warm_up = f" after {run.warm_up - 1:,}" if run.warm_up else ""
    return f"{decides}{warm_up}; engine {run.engine}"


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Names to the left, the rest to the right, as wide as needed."""
    widths = [max(len(row[at]) for row in [columns, *rows]) for at in range(len(columns))]
    for row in [columns, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


def print_list(runs: Sequence[Any]) -> None:
    """Rows of the view `backtest`, one a line."""
    from trader.cli._screen import print_rows  # slow to import

    columns = ["id", "name", "market", "timeframe", "from", "to", "return %", "held %", "fall %", "Sharpe", "trades",
               "gaps", "error"]  # fmt: skip
    names = ("id", "name", "market", "timeframe", "used_from", "used_to", "return_percent", "buy_and_hold_percent",
             "max_drawdown_percent", "sharpe", "trades", "gaps", "error")  # fmt: skip
    shown = [[_short(name, getattr(row, name)) for name in names] for row in runs]
    print_rows("backtests", columns, shown)


def _short(name: str, value: Any) -> Any:
    """A class without its module, a day, the beginning of an error: `show` has all of it."""
    if name == "name":
        return value.rpartition(":")[2]
    if name == "error" and value is not None:
        return textwrap.shorten(value, LONGEST_ERROR, placeholder="...")
    return f"{value:%Y-%m-%d}" if hasattr(value, "strftime") else value


def print_comparison(runs: Sequence[Run]) -> None:
    """Runs beside each other: first what they differ in, then their measures."""
    heads = ["", *(str(run.id) for run in runs)]
    facts = [(name, [_fact(run, name) for run in runs]) for name in _names(runs)]
    told_facts = [[name, *values] for name, values in facts if len(set(values)) > 1]
    _print_table(heads, [["name", *(run.name for run in runs)], *told_facts])
    same = [
        what for what, name in (("candles", "digest"), ("code", "code")) if len({getattr(r, name) for r in runs}) == 1
    ]
    print(f"the same {' and '.join(same)}" if same else "neither the same candles nor the same code")
    print()
    rows = [[word.label, *(_measure(run, word) for run in runs)] for word in WORDS]
    _print_table(heads, rows)
    for run in runs:
        if run.error:
            print(f"{run.id} failed: {run.error}")


def _names(runs: Sequence[Run]) -> list[str]:
    plain = ["class", "market", "timeframe", "schedule", "source", "from", "to", "candles", "engine", "seed", "version"]
    params = {f"params {name}": None for run in runs for name in run.params}
    settings = {f"settings {name}": None for run in runs for name in run.settings}
    return [*plain, *params, *settings, "data", "code"]


def _fact(run: Run, name: str) -> str:
    kind, _, key = name.partition(" ")
    if key:
        return str((run.params if kind == "params" else run.settings).get(key, NONE))
    values: dict[str, Any] = {
        "class": run.path, "from": f"{run.used_from:%Y-%m-%d %H:%M}", "to": f"{run.used_to:%Y-%m-%d %H:%M}",
        "candles": f"{run.candles:,}", "data": run.digest[:12], "code": run.code[:12], "market": run.market or NONE,
    }  # fmt: skip
    return str(values.get(name) if name in values else getattr(run, name))


def _measure(run: Run, word: Any) -> str:
    return NONE if run.made is None else told(word, run.made.measures[word.name])
