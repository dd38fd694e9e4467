"""freqtrade under one of the scoreboard's faults: its own bot, unmodified, in live mode against the simulated venue."""

import json
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench.lost_answer_venue import (
    FUNDS,
    WANTED,
    Process,
    Row,
    clean_environment,
    faulty_venue,
    orders,
    quiet,
    spent,
    until,
)
from bench.simulated import KEY, SECRET, Venue

STRATEGY = Path(__file__).resolve().parent / "lost_answer_freqtrade_strategy"
VERSIONS = "import ccxt, freqtrade; print(f'freqtrade {freqtrade.__version__}, ccxt {ccxt.__version__}')"


@dataclass(frozen=True, slots=True)
class Result:
    """What is there when nothing has changed for longer than freqtrade pauses between two tries."""

    at_venue: int
    known: int
    cost: Decimal
    """USDT that the venue took in all: what is really held."""
    believed: Decimal
    """USDT that its own database says were spent."""
    process: str
    """How the process ended, if by itself."""

    @property
    def verdict(self) -> str:
        """One sentence."""
        words = f"it knows of {self.believed:.2f}"
        return f"{words}; {self.process}" if self.process else words


def version(venv: Path) -> str:
    """Which freqtrade a virtual environment has; ValueError if it has none."""
    python = venv / "bin" / "python"
    if not python.exists():
        raise ValueError(f"--freqtrade is {venv}: it must be a virtual environment, with bin/python in it")
    told = [str(python), "-c", VERSIONS]
    done = subprocess.run(told, capture_output=True, text=True, check=False, env=clean_environment())
    if done.returncode:
        raise ValueError(f"--freqtrade is {venv}: freqtrade cannot be imported there: {done.stderr.strip()[-300:]}")
    return done.stdout.strip()


def measure(row: Row, venv: Path, home: Path, watched: float) -> Result:
    """Run one row in an empty directory; `watched` seconds must be longer than its pause of 30 s after an error."""
    with faulty_venue(row, "--live-clock") as venue:
        (home / "config.json").write_text(json.dumps(_config(venue, home)))
        bot = _start(venv, home)
        try:
            until(lambda: orders(venue) or bot.ended is not None, "the venue has an order", bot.log)
            if not orders(venue):
                raise AssertionError(f"freqtrade ended before its first order\n{bot.log.read_text()[-3000:]}")
            if row.killed:
                bot.kill()
                if known := _known(home, venue):
                    raise AssertionError(f"killed too late, this row measures nothing: it knows {known} orders")
                bot = _start(venv, home)
            quiet(lambda: (len(orders(venue)), _known(home, venue), bot.ended), watched, bot.log)
            ended = "" if bot.ended is None else f"its process ended with {bot.ended}"
        finally:
            bot.stop()
        return Result(len(orders(venue)), _known(home, venue), spent(venue), _believed(home), ended)


def _config(venue: Venue, home: Path) -> dict[str, Any]:
    """Live mode on the simulated venue, one trade of WANTED at a time, its own defaults for the rest."""
    exchange = {"name": "binance", "key": KEY, "secret": SECRET, "pair_whitelist": ["BTC/USDT"], "enable_ws": False}
    pricing = {"price_side": "other", "use_order_book": False}
    return {
        "dry_run": False,
        "trading_mode": "spot",
        "max_open_trades": 1,
        "stake_currency": "USDT",
        "stake_amount": float(WANTED),
        "available_capital": float(FUNDS),
        "unfilledtimeout": {"entry": 10, "exit": 10, "unit": "minutes"},  # as in the file that its new-config writes
        "entry_pricing": pricing,
        "exit_pricing": pricing,
        "exchange": exchange | {"ccxt_config": venue.options()},
        "pairlists": [{"method": "StaticPairList"}],
        "initial_state": "running",
        "db_url": f"sqlite:///{home / 'trades.sqlite'}",
    }


def _start(venv: Path, home: Path) -> Process:
    command = [str(venv / "bin" / "python"), "-m", "freqtrade", "trade", "--config", str(home / "config.json")]
    command += ["--strategy", "OneBuy", "--strategy-path", str(STRATEGY), "--userdir", str(home)]
    return Process(command, clean_environment(), home, home / "freqtrade.log")


def _known(home: Path, venue: Venue) -> int:
    """How many of the venue's orders are in its database."""
    known = {row[0] for row in _rows(home, "SELECT order_id FROM orders")}
    return sum(str(one["id"]) in known for one in orders(venue))


def _believed(home: Path) -> Decimal:
    found = _rows(home, "SELECT coalesce(sum(filled * average), 0) FROM orders")
    return Decimal(str(found[0][0])) if found else Decimal(0)


def _rows(home: Path, statement: str) -> list[tuple[Any, ...]]:
    """Of its database, if it has made one yet."""
    file = home / "trades.sqlite"
    if not file.exists():
        return []
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'orders'").fetchone():
            return []
        return connection.execute(statement).fetchall()
