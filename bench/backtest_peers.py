"""The task of bench/backtest_floor.py in other people's engines. Runs in their environment: numpy and theirs only.

    python -m bench.backtest_peers NAME BARS ROUNDS

prints one line of JSON: the seconds of each round (the first, which compiles, is left out), fills and last equity.
"""

import json
import sys
import time
import warnings
from typing import Any

from bench.backtest_floor import CASH, FAST, FEE, SLOW, Columns, walk


def vectorbt(columns: Columns, *, aware: bool = False) -> tuple[int, float]:
    """`Portfolio.from_signals` on a naive minute index (or a UTC one): signals moved by one bar, filled at its open."""
    import pandas as pd
    import vectorbt as vbt

    index = pd.to_datetime(columns.time, unit="ms", utc=aware)
    close, start = (pd.Series(column, index=index) for column in (columns.close, columns.open))
    fast, slow = vbt.MA.run(close, FAST), vbt.MA.run(close, SLOW)
    entries, exits = fast.ma_crossed_above(slow), fast.ma_crossed_below(slow)
    told = [signal.vbt.signals.fshift(1) for signal in (entries, exits)]
    portfolio = vbt.Portfolio.from_signals(close, *told, price=start, fees=FEE, init_cash=CASH, freq="1min")
    return len(portfolio.orders.records), float(portfolio.value().iloc[-1])


def backtesting(columns: Columns) -> tuple[int, float]:
    """backtesting.py, which trades whole units."""
    import pandas as pd
    from backtesting import Backtest, Strategy
    from backtesting.lib import crossover

    def sma(values: Any, n: int) -> Any:
        return pd.Series(values).rolling(n).mean()

    class Cross(Strategy):
        def init(self) -> None:
            self.fast, self.slow = self.I(sma, self.data.Close, FAST), self.I(sma, self.data.Close, SLOW)

        def next(self) -> None:
            if crossover(self.fast, self.slow):
                self.buy()
            elif crossover(self.slow, self.fast):
                self.position.close()

    frame = pd.DataFrame(
        dict(zip(("Open", "High", "Low", "Close", "Volume"), columns[1:], strict=True)),
        index=pd.to_datetime(columns.time, unit="ms"),
    )
    stats = Backtest(frame, Cross, cash=CASH, commission=FEE).run()
    return 2 * len(stats["_trades"]), float(stats["Equity Final [$]"])


def vectorbt_aware(columns: Columns) -> tuple[int, float]:
    """The same with the UTC index that our frames have."""
    return vectorbt(columns, aware=True)


ENGINES = {"vectorbt": vectorbt, "vectorbt_aware": vectorbt_aware, "backtesting": backtesting}


def main() -> None:
    warnings.simplefilter("ignore")
    name, bars, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    columns, engine, seconds = walk(bars), ENGINES[name], []
    fills, equity = engine(walk(2_000)) if name.startswith("vectorbt") else (0, 0.0)  # compiles
    for _ in range(rounds):
        started = time.perf_counter()
        fills, equity = engine(columns)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds, "fills": fills, "equity": equity}))


if __name__ == "__main__":
    main()
