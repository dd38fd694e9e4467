"""The scoreboard: one order of 60 USDT, a fault after the venue has filled it, and what is there afterwards.

venue: orders at the venue; known: how many of them whoever sent them knows; bought: what they cost together, in USDT.

Examples: scripts/bench lost_answer; scripts/bench lost_answer lost killed; scripts/bench lost_answer --freqtrade VENV
"""

import argparse
import os
import platform
import sys
import tempfile
from pathlib import Path

from bench import lost_answer_freqtrade as freqtrade
from bench import lost_answer_tallydesk as tallydesk
from bench.ground import Ground, ground
from bench.lost_answer_venue import CONTROL, FUNDS, ROWS, WANTED

FAULT, OURS = 34, 66
WATCHED, WATCHED_FREQTRADE = 10.0, 45.0
FACTS = f"{'venue':>5} {'known':>5} {'bought':>7}"
HOW = "The other column: pip install freqtrade in a virtual environment of its own, then --freqtrade THAT_DIRECTORY"


def compare(place: Ground, options: argparse.Namespace) -> int:
    """Run and print the rows; how many of ours are not as they must be."""
    bad = 0
    for name in options.rows or ROWS:
        row = (ROWS | CONTROL)[name]
        with tempfile.TemporaryDirectory(prefix="bench-") as home:
            ours = tallydesk.measure(row, place.database(), Path(home), WATCHED)
        bad += ours.verdict != tallydesk.GOOD
        cells = [f"{row.name:<{FAULT}}", f"{_facts(ours)}  {ours.verdict:<{OURS - 21}}"]
        if options.freqtrade:
            with tempfile.TemporaryDirectory(prefix="bench-") as home:
                theirs = freqtrade.measure(row, options.freqtrade, Path(home), WATCHED_FREQTRADE)
            cells.append(f"{_facts(theirs)}  {theirs.verdict}")
        print(" | ".join(cells).rstrip(), flush=True)
    return bad


def _facts(result: tallydesk.Result | freqtrade.Result) -> str:
    return f"{result.at_venue:>5} {result.known:>5} {result.cost:>7.2f}"


def header(server: str, other: str) -> None:
    """Say what is compared, and on what."""
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"lost_answer: a market buy of {WANTED} USDT out of {FUNDS}; the venue accepts and fills it, then the fault")
    print(f"{server}; Python {platform.python_version()}; {os.cpu_count()} cores, load {load}")
    titles, columns = [f"{'':<{FAULT}}", f"{'Tallydesk':<{OURS}}"], [f"{'fault':<{FAULT}}"]
    columns.append(f"{FACTS}  {'verdict':<{OURS - 21}}")
    if other:
        titles.append(other)
        columns.append(f"{FACTS}  its books")
    print(" | ".join(titles).rstrip(), " | ".join(columns).rstrip(), sep="\n", flush=True)


def main() -> None:
    """Run the rows that were asked for; the exit code is 0 only if each of ours is as it must be."""
    parser = argparse.ArgumentParser("bench lost_answer", description=__doc__)
    parser.formatter_class = argparse.RawTextHelpFormatter
    parser.add_argument("rows", nargs="*", metavar="row", help=f"{', '.join(ROWS | CONTROL)}; by default the five")
    parser.add_argument(
        "--freqtrade",
        type=lambda word: Path(word).absolute(),
        metavar="VENV",
        help="a virtual environment that has freqtrade",
    )
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS | CONTROL):
        parser.error(f"no row {', '.join(sorted(unknown))}: there are {', '.join(ROWS | CONTROL)}")
    try:
        other = freqtrade.version(options.freqtrade) if options.freqtrade else ""
    except ValueError as error:
        parser.error(str(error))
    with ground() as place:
        header(place.name, other)
        bad = compare(place, options)
    if not other:
        print(f"\n{HOW}")
    if bad:
        print(f"{bad} rows are not: {tallydesk.GOOD}", file=sys.stderr)
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
