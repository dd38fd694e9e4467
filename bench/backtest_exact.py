"""The exact path of a backtest: rows, trader, simulator and ledger, order after order, in a throw-away database.

Beside it in the same minutes: the numpy floor, which does one task and nothing else, and NautilusTrader, if the peers'
environment has it.
"""

import json
import os
import subprocess
from pathlib import Path

from bench.backtest_floor import CASH, SLOW, Columns, above, numpy_floor, walk
from bench.ground import Ground
from bench.report import compare
from trader.backtest.array import run
from trader.backtest.data import bars_of
from trader.backtest.exact import ExactRun, run_targets
from trader.backtest.exact_result import compare as first_difference
from trader.backtest.settings import parse_settings

ROOT = Path(__file__).resolve().parent.parent
TERMS = parse_settings({"deposit": str(int(CASH)), "quantity_step": "0.00001", "price_tick": "0.01"})


def measure_exact(place: Ground, number: int, rounds: int, peers: Path | None) -> None:
    """Time the exact path in turn with the floor (and the peer); one difference to the array engine ends it."""
    columns = walk(number)
    runs, floor, other = [], [], []
    for _ in range(rounds):
        runs.append(_run(place, columns))
        floor.append(_floor(columns))
        if peers is not None:
            other.append(_peer(peers, number))
    orders, seconds = runs[0].orders, sorted(one.seconds for one in runs)
    middle = seconds[len(seconds) // 2]
    print(
        f"\nexact path, {number:,} bars: {orders:,} orders in {middle:.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f}), "
        f"{number / middle:,.0f} bars/s, {1000 * middle / orders:.2f} ms an order; to the cent the array engine's fills"
    )
    speeds = [number / one.seconds for one in runs]
    base = sorted(floor)[len(floor) // 2]
    print(
        f"  numpy floor in the same minutes: {1000 * base:.2f} ms, {number / base:,.0f} bars/s; {middle / base:,.0f} x"
    )
    if other:
        compare("exact path / NautilusTrader, bars/s", speeds, [number / one for one in other], least=1)


def _run(place: Ground, columns: Columns) -> ExactRun:
    bars, targets = bars_of("1m", *columns), above(columns.close).astype(float)
    made = run_targets(place.url, bars, targets, TERMS, SLOW)
    if problem := first_difference(run(bars, targets, TERMS, SLOW), made.result):
        raise SystemExit(f"exact path: {problem}")
    return made


def _floor(columns: Columns) -> float:
    from bench.backtest import timed

    return timed(lambda: numpy_floor(columns))


def _peer(python: Path, number: int) -> float:
    """Seconds of NautilusTrader's run, without loading the bars."""
    command = [str(python), "-m", "bench.backtest_peers", "nautilus", str(number), "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr.strip()[-2000:]}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"  NautilusTrader: {told['fills']:,} fills in {told['seconds'][0]:.2f} s")
    return float(told["seconds"][0])
