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


def nautilus(columns: Columns) -> tuple[int, float, float]:
    """NautilusTrader: fills, last cash, and the seconds of its run alone, without making its bars.

    It counts in steps of the market, so prices are those of a tick of 0.01. Its market takes 9,000 units an order, so
    it begins with a tenth of the cash; each entry spends 99 % of what is free, to leave room for the fee.
    """
    import pandas as pd
    from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
    from nautilus_trader.config import LoggingConfig, StrategyConfig
    from nautilus_trader.indicators import SimpleMovingAverage
    from nautilus_trader.model.currencies import USDT
    from nautilus_trader.model.data import BarType
    from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
    from nautilus_trader.model.objects import Money
    from nautilus_trader.persistence.wranglers import BarDataWrangler
    from nautilus_trader.test_kit.providers import TestInstrumentProvider
    from nautilus_trader.trading.strategy import Strategy

    market = TestInstrumentProvider.btcusdt_binance()
    kind = BarType.from_str(f"{market.id}-1-MINUTE-LAST-EXTERNAL")
    frame = pd.DataFrame(columns._asdict(), index=pd.to_datetime(columns.time, unit="ms", utc=True)).drop(
        columns="time"
    )
    bars = BarDataWrangler(kind, market).process(frame.round(dict.fromkeys(("open", "high", "low", "close"), 2)))

    class Cross(Strategy):
        def __init__(self) -> None:
            super().__init__(StrategyConfig())
            self.fast, self.slow, self.before = SimpleMovingAverage(FAST), SimpleMovingAverage(SLOW), None

        def on_start(self) -> None:
            self.register_indicator_for_bars(kind, self.fast)
            self.register_indicator_for_bars(kind, self.slow)
            self.subscribe_bars(kind)

        def on_bar(self, bar: Any) -> None:
            if not self.slow.initialized:
                return
            now, flat = self.fast.value > self.slow.value, self.portfolio.is_flat(market.id)
            if now and self.before is False and flat:
                cash = self.portfolio.account(market.id.venue).balance_free(USDT).as_double()
                self.trade(OrderSide.BUY, cash * 0.99 / float(bar.close))
            elif not now and not flat:
                self.trade(OrderSide.SELL, self.portfolio.net_position(market.id))
            self.before = now

        def trade(self, side: Any, quantity: Any) -> None:
            self.submit_order(self.order_factory.market(market.id, side, market.make_qty(quantity)))

    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(log_level="ERROR", bypass_logging=True)))
    engine.add_venue(market.id.venue, OmsType.NETTING, AccountType.CASH, [Money(CASH / 10, USDT)])
    engine.add_instrument(market)
    engine.add_data(bars)
    engine.add_strategy(Cross())
    started = time.perf_counter()
    engine.run()
    seconds = time.perf_counter() - started
    cash = engine.portfolio.account(market.id.venue).balance_total(USDT).as_double()
    return len(engine.trader.generate_order_fills_report()), cash, seconds


def vectorbt_aware(columns: Columns) -> tuple[int, float]:
    """The same with the UTC index that our frames have."""
    return vectorbt(columns, aware=True)


ENGINES = {"vectorbt": vectorbt, "vectorbt_aware": vectorbt_aware, "backtesting": backtesting}


def main() -> None:
    warnings.simplefilter("ignore")
    name, bars, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if name == "nautilus":
        told = [nautilus(walk(bars)) for _ in range(rounds)]
        print(json.dumps({"seconds": [one[2] for one in told], "fills": told[0][0], "equity": told[0][1]}))
        return
    columns, engine, seconds = walk(bars), ENGINES[name], []
    fills, equity = engine(walk(2_000)) if name.startswith("vectorbt") else (0, 0.0)  # compiles
    for _ in range(rounds):
        started = time.perf_counter()
        fills, equity = engine(columns)
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds, "fills": fills, "equity": equity}))


if __name__ == "__main__":
    main()
