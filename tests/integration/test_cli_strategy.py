"""`tallydesk strategy`, as a process, on a real database."""

import os
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer

from tests.plugins import _nursery
from trader.cli.strategy import app
from trader.errors import InputError

pytestmark = pytest.mark.any_server

SMA = ("--class", "strategies.sma_cross:SmaCross", "--market", "binance:BTC/USDT", "--timeframe", "1h")

SETUP = """
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO asset (code) VALUES ('USDT'), ('BTC');
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'simulator');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 2, 1);
"""

Tallydesk = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def strategy(database: str, connection: psycopg.Connection[Any], tmp_path: Path) -> Tallydesk:
    connection.execute(SETUP)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TALLYDESK_")}
    environment = {**clean, "DATABASE_URL": database, "TALLYDESK_HOME": str(tmp_path), "TERM": "dumb", "COLUMNS": "300"}
    return partial(_nursery.run, "trader.cli.main", "strategy", environment=environment)


def test_add_list_and_switch(strategy: Tallydesk, connection: psycopg.Connection[Any]) -> None:
    added = strategy(
        "add", "sma", "--account", "main", *SMA, "--params", '{"fast":5,"slow":20}', "--stake", "12.5", "--stake-unit",
        "%", "--unit", "USDT", "--allowance-unit", "%", "--schedule", "day",
    )  # fmt: skip
    assert added.returncode == 0, added.stderr
    assert "\nit waits: no feed keeps the 1h candles of binance:BTC/USDT up to date yet; " in added.stdout
    row = connection.execute(
        """SELECT class, params, stake, stake_unit, unit_id, allowance_unit, market_id, timeframe_id,
                  schedule::text, enabled FROM strategy"""
    ).fetchone()
    assert row == ("strategies.sma_cross:SmaCross", {"fast": 5, "slow": 20}, 12.5, "%", 1, "%", 1, 60, "day", True)

    assert strategy("disable", "sma").stdout == "sma is disabled\n"
    assert connection.execute("SELECT enabled FROM strategy").fetchone() == (False,)
    connection.execute(
        "INSERT INTO orders (strategy, type, side, market, quantity, trigger_price) "
        "VALUES ('sma', 'market', 'sell', 'binance:BTC/USDT', 1, 90)"
    )
    told = strategy("disable", "sma").stdout
    assert told.startswith("sma is disabled\nnobody watches the price for it meanwhile: order ")
    connection.execute("UPDATE orders SET cancel_requested_at = now()")
    connection.execute("UPDATE strategy SET error = 'KeyError: [oops]', signal = 1")
    listed = strategy("list").stdout
    for text in (
        "sma",
        "main",
        "SmaCross",
        "binance:BTC/USDT 1h every day",
        '{"fast": 5, "slow": 20}',
        "12.5 %",
        "[oops]",
    ):
        assert text in listed
    assert strategy("enable", "sma").stdout == "sma is enabled\n"
    assert connection.execute("SELECT enabled FROM strategy").fetchone() == (True,)


OFFLINE = """
INSERT INTO exchange (name, ccxt_id, offline) VALUES ('filed', 'filed', true);
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (2, 'ETH/USDT', 2, 1);
"""
INPUTS = """
from trader.strategy import Input, Strategy
class Three(Strategy):
    warm_up = 3
    inputs = {
        "day": Input(timeframe="1d"), "eth": Input(market="filed:ETH/USDT"), "gone": Input(market="binance:NO/USDT"),
    }
    def signal(self, candles, day, eth, gone):
        return candles["close"] * 0
"""


def test_add_says_how_to_keep_its_candles_and_each_input(
    strategy: Tallydesk, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    connection.execute(OFFLINE)
    (tmp_path / "three.py").write_text(INPUTS)
    environment = {**strategy.keywords["environment"], "TALLYDESK_STRATEGIES": str(tmp_path)}  # type: ignore[attr-defined]
    arguments = ("--account", "main", "--class", "three:Three", "--market", "binance:BTC/USDT", "--timeframe", "4h")
    added = strategy("add", "three", *arguments, environment=environment)
    assert added.returncode == 0, added.stderr
    told = [line for line in added.stdout.splitlines() if line.startswith("it waits: ")]
    own = r"it waits: no feed keeps the 4h candles of binance:BTC/USDT up to date yet; run: (.*)"
    commands = [re.fullmatch(own, told[0])]
    day = r'it waits: no feed keeps the 1d candles of binance:BTC/USDT \(input "day"\) up to date yet; run: (.*)'
    commands.append(re.fullmatch(day, told[1]))
    assert "filed is offline, no venue is asked: its candles come from files" in told[2]
    assert 'binance:NO/USDT (input "gone") up to date yet; there is no such market' in told[3]
    for found in commands:
        assert found is not None, added.stdout
        run = _nursery.run("trader.cli.main", *found[1].split()[1:], environment=environment)
        assert run.returncode == 0, run.stderr
    kept = connection.execute(
        "SELECT timeframe_id, collect_since < now() - interval '100 d' FROM bucket_feed ORDER BY 1"
    )
    assert kept.fetchall() == [(240, True), (1440, True)]
    connection.execute("UPDATE bucket_feed SET enabled = false WHERE timeframe_id = 240")
    again = strategy("add", "again", *arguments, environment=environment).stdout
    assert "up to date yet; run: tallydesk feed resume binance BTC/USDT 4h" in again
    assert "1d candles" not in again


def test_the_deposit_that_add_proposes_works(strategy: Tallydesk, connection: psycopg.Connection[Any]) -> None:
    shown = strategy("add", "hand", "--account", "main", "--unit", "USDT").stdout
    connection.execute(shown.split('"')[1].encode())
    assert connection.execute("SELECT deposits FROM performance").fetchone() == (100,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--account", "mian", *SMA), ['unknown account "mian"', "main"]),
        (("--account", "main", *SMA[:3], "binance:X/EUR", *SMA[4:]), ['market "binance:X/EUR"', "binance:BTC/USDT"]),
        (("--account", "main", *SMA[:5], "1hour"), ["timeframe '1hour'", "1m, 3m", "1h"]),
        (("--account", "main", *SMA, "--schedule", "minute"), ["schedule is minute", "bucket, hour, day"]),
        (("--account", "main", *SMA, "--schedule", "weekly"), ["schedule is 'weekly'", "bucket, minute, hour, day"]),
        (("--account", "main", "--unit", "USDT", "--schedule", "day"), ["--schedule", "--class"]),
        (("--account", "main", *SMA, "--unit", "EUR"), ['unknown unit "EUR"', "BTC, USDT"]),
        (("--account", "main", *SMA[:4]), ["--timeframe"]),
        (("--account", "main"), ["--unit"]),
        (("--account", "main", "--unit", "USDT", "--params", '{"fast": 1}'), ["--class"]),
        (("--account", "main", *SMA, "--params", "{fast: 5}"), ["{fast: 5}", "JSON"]),
        (("--account", "main", *SMA, "--params", "[5]"), ["a JSON object is needed"]),
        (("--account", "main", *SMA, "--params", '{"fats": 5}'), ['unknown parameter "fats"', "fast, slow"]),
        (("--account", "main", *SMA, "--params", '{"fast": 200}'), ["fast must be smaller than slow"]),
        (("--account", "main", "--class", "strategies.nope:X", *SMA[2:]), ["moving_average, regime_trend, sma_cross"]),
        (("--account", "main", *SMA, "--stake", "NaN"), ["--stake is 'NaN'"]),
        (("--account", "main", *SMA, "--stake", "0"), ["--stake is '0'"]),
        (("--account", "main", *SMA, "--stake", "101"), ["a stake in percent is at most 100"]),
        (("--account", "main", *SMA, "--stake-unit", "EUR"), ['stake_unit "EUR"']),
        (("--account", "main", *SMA, "--allowance-unit", "EUR"), ['allowance_unit "EUR"']),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_nothing_is_written(
    database: str,
    connection: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: list[str],
) -> None:
    connection.execute(SETUP)
    monkeypatch.setenv("DATABASE_URL", database)
    with pytest.raises(InputError) as caught:
        typer.main.get_command(app).main(["add", "new", *arguments], standalone_mode=False)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert connection.execute("SELECT FROM strategy").rowcount == 0


def test_names_are_unique_and_known(strategy: Tallydesk) -> None:
    assert 'unknown strategy "sma": there is none yet (tallydesk strategy add)' in strategy("enable", "sma").stderr
    assert strategy("add", "sma", "--account", "main", *SMA).returncode == 0
    assert 'strategy "sma" exists already' in strategy("add", "sma", "--account", "main", *SMA).stderr
    unknown = strategy("disable", "sam")
    assert (unknown.returncode, unknown.stderr) == (1, 'tallydesk: unknown strategy "sam": there is sma\n')


def test_one_s_own_directory_in_the_env_file_is_found(
    strategy: Tallydesk, connection: psycopg.Connection[Any], tmp_path: Path
) -> None:
    own = tmp_path / "mine"
    (tmp_path / ".env").write_text(f"TALLYDESK_STRATEGIES={own}\n")
    where = ("--account", "main", "--market", "binance:BTC/USDT", "--timeframe", "1h")
    missing = strategy("add", "mine", "--class", "my_cross:MyCross", *where)
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1
    assert f"TALLYDESK_STRATEGIES is {own}, and there is no such directory" in missing.stderr
    own.mkdir()
    made = strategy("new", "my_cross", "--style", "on_bucket")
    assert made.returncode == 0, made.stderr
    added = strategy("add", "mine", "--class", "my_cross:MyCross", *where, "--params", '{"stop": 0.1}')
    assert added.returncode == 0, added.stderr
    assert connection.execute("SELECT class FROM strategy").fetchone() == ("my_cross:MyCross",)
    again = strategy("new", "my_cross")
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert "nothing is written over it" in again.stderr
    broken = own / "broken.py"
    broken.write_text("from trader.strategy import Strategy\n\n1 / 0\n")
    refused = strategy("add", "other", "--class", "broken:Mine", *where)
    assert refused.returncode == 1
    assert f"broken cannot be imported: ZeroDivisionError: division by zero ({broken}:3)" in refused.stderr
