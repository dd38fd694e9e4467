"""Backtests: our engines beside the plain numpy floor, a plain Python loop and other people's engines. Rounds in turn.

Examples: scripts/bench backtest; scripts/bench backtest --bars 100000 --rounds 9; scripts/bench backtest --peers VENV
(a virtual environment of its own: pip install vectorbt backtesting)
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.backtest_floor import CASH, FAST, SEED, SLOW, Columns, above, numpy_floor, python_loop, walk
from bench.report import compare, header
from trader.backtest.array import run
from trader.backtest.bars import run_bars
from trader.backtest.data import Bars, bars_of
from trader.backtest.measures import measure
from trader.backtest.portfolio import Part, run_apart
from trader.backtest.result import Result
from trader.backtest.run import Frames, backtest
from trader.backtest.settings import Settings, parse_settings
from trader.backtest.ticket import Context, OnBucket
from trader.strategy import OnBucketContext, Strategy

ROOT = Path(__file__).resolve().parent.parent
LEAST = 0.2
"""Seconds that a round of one side lasts at least: shorter ones measure the clock."""
TASK = parse_settings({"deposit": str(int(CASH)), "fee_side": "quote"})
STEPPED = parse_settings({"deposit": str(int(CASH)), "quantity_step": "0.00001", "price_tick": "0.01"})
PAIRS, PAIR_BARS = 100, 100_000


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call: the mean of as many as fill a moment."""
    calls, started = 0, time.perf_counter()
    while not calls or time.perf_counter() - started < LEAST:
        work()
        calls += 1
    return (time.perf_counter() - started) / calls


def in_turn(ours: Callable[[], object], floor: Callable[[], object], bars: int, rounds: int) -> tuple[list[float], ...]:
    """Bars a second of both, in turn."""
    ours(), floor()
    pairs = [(bars / timed(ours), bars / timed(floor)) for _ in range(rounds)]
    return [one for one, _ in pairs], [other for _, other in pairs]


def averages() -> OnBucket:
    """The task as a strategy that sees one bar at a time."""
    closes: list[float] = []
    fast = slow = 0.0

    def on_bucket(context: Context) -> float | None:
        nonlocal fast, slow
        price, seen = context.close, len(closes)
        fast += price - (closes[seen - FAST] if seen >= FAST else 0.0)
        slow += price - (closes[seen - SLOW] if seen >= SLOW else 0.0)
        closes.append(price)
        if seen < SLOW - 1:
            return None
        return 1.0 if fast / FAST > slow / SLOW else 0.0

    return on_bucket


def bracket(context: Context) -> None:
    """In every fifty bars, with a stop at 0.5 % and a target at 1 %."""
    if not context.quantity and not context.orders and context.index % 50 == 0:
        context.buy()
        context.sell(stop=context.close * 0.995)
        context.sell(limit=context.close * 1.01)


def kit(frame: Any, bars: Bars) -> Result:
    """The same through the kit: the shipped SMA cross, checked by the kit, and its targets."""
    from strategies.sma_cross import SmaCross, SmaCrossParams
    from trader.strategy import evaluate

    strategy = SmaCross(SmaCrossParams(price="close", fast=FAST, slow=SLOW))
    return run(bars, evaluate(strategy, frame).to_numpy(), TASK, strategy.warm_up)


class Buckets(Strategy[Any]):
    """The task as a strategy with on_bucket, its averages as indicators."""

    warm_up = SLOW  # type: ignore[assignment]

    def indicators(self, candles: Any) -> Any:
        close = candles["close"]
        averages = {"fast": close.rolling(FAST).mean(), "slow": close.rolling(SLOW).mean()}
        return type(candles)(averages)

    def on_bucket(self, context: OnBucketContext) -> float | None:
        return 1.0 if context.now.fast > context.now.slow else 0.0


def agree(columns: Columns, bars: Bars) -> str:
    """Fills one by one and equity to the cent, or the benchmark ends here."""
    floor, loop = numpy_floor(columns), python_loop(columns)
    for name, result in (
        ("array engine", run(bars, above(columns.close), TASK, SLOW)),
        ("bars engine", run_bars(bars, averages(), TASK)),
    ):
        if not np.array_equal(result.fills.bar, floor.bars) or not np.array_equal(floor.bars, loop.bars):
            raise SystemExit(f"{name}: other fills than the floor")
        if not np.array_equal(result.fills.price, floor.prices):
            raise SystemExit(f"{name}: other prices than the floor")
        apart = float(np.abs(result.equity - floor.equity).max())
        if apart >= 0.005:
            raise SystemExit(f"{name}: the equity is {apart} away from the floor's")
    last = float(floor.equity[-1])
    return f"{len(floor.bars):,} fills, all engines the same; equity {last:,.2f}, nowhere a cent from the floor's"


def measure_engines(number: int, rounds: int) -> None:
    """All of ours on one walk, each beside the floor that is fair to it."""
    columns = walk(number)
    bars = bars_of("1m", *columns)
    print(f"\n{number:,} bars: {agree(columns, bars)}")

    def floor() -> object:
        return numpy_floor(columns)

    def array(settings: Settings = TASK) -> Result:
        return run(bars, above(columns.close), settings, SLOW)

    def rest() -> tuple[Any, Settings, int]:
        return above(columns.close), TASK, SLOW

    def loop() -> object:
        return python_loop(columns)

    rows: list[tuple[str, Callable[[], object], Callable[[], object], float | None]] = [
        ("array engine / numpy floor, bars/s", array, floor, 0.5),
        ("the same, bars checked anew each time", lambda: run(bars_of("1m", *columns), *rest()), floor, None),
        ("the same, sizes in whole steps, exact", lambda: array(STEPPED), floor, None),
        ("bars engine / plain Python loop, bars/s", lambda: run_bars(bars, averages(), TASK), loop, None),
        ("bars engine, stop and target waiting / loop", lambda: run_bars(bars, bracket, STEPPED), loop, None),
    ]  # fmt: skip
    for name, ours, other, least in rows:
        compare(name, *in_turn(ours, other, number, rounds), least=least)
    frame = as_frame(columns)
    kit(frame, bars)
    called = Frames(frame, "1m")
    compare(
        "on_bucket through the kit, with indicators / loop",
        *in_turn(lambda: backtest(Buckets(), called, TASK), loop, number, rounds),
    )
    compare("kit's SMA cross and array engine / numpy floor", *in_turn(lambda: kit(frame, bars), floor, number, rounds))


def as_frame(columns: Columns) -> Any:
    """The frame that `read_buckets` would give."""
    import pandas as pd

    index = pd.DatetimeIndex(columns.time.view("datetime64[ms]"), tz="UTC", name="time_close")
    return pd.DataFrame(columns._asdict(), index=index).drop(columns="time")


def pairs(number: int) -> None:
    """Run so many pairs, one after the other, and print the seconds and the peak of memory. Bars are made untimed;
    timed are their check, the signal, the run and its measures.
    """
    spent = 0.0
    for pair in range(number):
        columns = walk(PAIR_BARS, SEED + pair)
        started = time.perf_counter()
        bars = bars_of("1m", *columns)
        for _, result in run_apart([Part(f"PAIR{pair}", bars, above(columns.close), TASK, SLOW)]):
            measure(result, SLOW - 1)
        spent += time.perf_counter() - started
    print(json.dumps({"seconds": spent, "peak": _peak()}))


def _peak() -> float:
    """The most memory that this process had, in MB. Not ru_maxrss: that begins with what its parent had."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure_pairs() -> None:
    """Many pairs on one core, each in its turn, and what a tenth of them needs: memory must not grow."""
    few, many = (
        _child([sys.executable, "-P", "-m", "bench.backtest", "--pairs", str(n)]) for n in (PAIRS // 10, PAIRS)
    )
    verdict = "met" if many["seconds"] < 2 else "NOT met"
    print(
        f"\n{PAIRS} pairs x {PAIR_BARS:,} bars, check, signal, run and measures, one process: {many['seconds']:.2f} s"
    )
    print(
        f"  goal < 2 s on two cores: {verdict}; peak of memory {many['peak']:.0f} MB, of a tenth {few['peak']:.0f} MB"
    )


def measure_peers(python: Path, number: int, rounds: int) -> None:
    """Other people's engines on the same walk, each beside ours in the same minutes."""
    columns = walk(number)
    bars = bars_of("1m", *columns)
    for name, goal in (("vectorbt", 3.0), ("vectorbt_aware", None), ("backtesting", 100.0)):
        few = rounds if number <= 100_000 else 1
        found = _child([str(python), "-m", "bench.backtest_peers", name, str(number), str(few)])
        ours = [number / timed(lambda: run(bars, above(columns.close), TASK, SLOW)) for _ in range(few)]
        compare(f"array engine / {name}, {number:,} bars", ours, [number / one for one in found["seconds"]], least=goal)
        print(f"  {name}: {found['fills']:,} fills, equity {found['equity']:,.2f}")


def _child(command: list[str]) -> Any:
    """What another process printed, as JSON."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench backtest", description=__doc__)
    parser.add_argument("--bars", type=int, action="append", help="how many bars; may be given again (100000, 1000000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each comparison (5)")
    parser.add_argument("--peers", type=Path, help="a virtual environment with vectorbt and backtesting.py")
    parser.add_argument("--pairs", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pairs:
        pairs(options.pairs)
        return
    header("backtest: SMA 10/50, all-in long/flat, next open, fee 0.1 %; seeded minute bars", f"numpy {np.__version__}")
    for number in options.bars or [100_000, 1_000_000]:
        measure_engines(number, options.rounds)
        if options.peers:
            measure_peers(options.peers / "bin" / "python", number, options.rounds)
    measure_pairs()


if __name__ == "__main__":
    main()
