"""The simulator as a process: kill -9, restart, clocks, files, bad arguments."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import ccxt
import pytest

from tests.plugins import _nursery
from trader.simulator.candles import HEADER

Start = Callable[..., Any]
SYMBOL = "BTC/USDT"
T0 = 1_451_606_400_000


def test_a_killed_simulator_has_forgotten_nothing_that_it_acknowledged(simulator: Start) -> None:
    venue = simulator("--balance", "USDT=100000")
    acknowledged: list[str] = []
    enough = threading.Event()

    def trade() -> None:
        client = ccxt.binance(venue.options())
        for number in range(100_000):
            try:
                order = client.create_order(SYMBOL, "market", "buy", 0.001, params={"clientOrderId": f"n{number}"})
            except ccxt.NetworkError:
                return
            acknowledged.append(order["clientOrderId"])
            if number == 100:
                enough.set()

    thread = threading.Thread(target=trade)
    thread.start()
    assert enough.wait(30)
    venue.kill()
    thread.join(30)
    venue.start()
    kept = [order["client_order_id"] for order in venue.orders()]
    assert kept[: len(acknowledged)] == acknowledged
    assert len(kept) <= len(acknowledged) + 1
    client = ccxt.binance(venue.options())
    trades = client.fetch_my_trades(SYMBOL, limit=1000)
    bought = sum(Decimal(t["info"]["qty"]) - Decimal(t["info"]["commission"]) for t in trades)
    spent = sum(Decimal(t["info"]["quoteQty"]) for t in trades)
    balances = venue.venue_state()["balances"][venue.key]
    assert Decimal(balances["BTC"]["free"]) == bought
    assert Decimal(balances["USDT"]["free"]) == 100_000 - spent
    assert client.create_order(SYMBOL, "market", "buy", 0.001)["id"] == str(len(kept) + 1)


def test_open_orders_survive_a_kill_and_fill_after_it(simulator: Start) -> None:
    venue = simulator("--balance", "USDT=1000")
    venue.price("20000")
    client = ccxt.binance(venue.options())
    client.create_order(SYMBOL, "limit", "buy", 0.1, 100, {"clientOrderId": "survivor"})
    venue.kill()
    venue.start()
    venue.price("20000")
    assert client.fetch_open_orders(SYMBOL)[0]["clientOrderId"] == "survivor"
    assert client.fetch_balance()["USDT"] == {"free": 990, "used": 10, "total": 1000}
    with pytest.raises(ccxt.InvalidOrder):
        client.create_order(SYMBOL, "market", "buy", 0.001, params={"clientOrderId": "survivor"})
    for _ in range(20):
        venue.price("99")
    assert client.fetch_order(None, SYMBOL, {"clientOrderId": "survivor"})["status"] == "closed"
    assert client.fetch_balance()["USDT"] == {"free": 990, "used": 0, "total": 990}


def test_sigterm_ends_it_in_order(simulator: Start) -> None:
    assert simulator().stop() == 0


def test_the_account_is_opened_once(simulator: Start) -> None:
    venue = simulator("--balance", "USDT=200")
    venue.credit("USDT", "-50")
    venue.stop()
    venue.start()
    assert venue.venue_state()["balances"][venue.key]["USDT"]["free"] == "150"


@pytest.fixture
def candles(tmp_path: Path) -> Path:
    """Ten hours of minutes: the price is 100 plus the hour, and hour 5 is missing."""
    path = tmp_path / "candles.csv"
    rows = [
        f"{T0 + minute * 60_000},{p},{p},{p},{p},1"
        for minute in range(600)
        if minute // 60 != 5 and (p := 100 + minute // 60)
    ]
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


def test_a_file_is_replayed_at_its_speed_to_its_end(simulator: Start, candles: Path) -> None:
    venue = simulator("--candles", str(candles), "--speed", "0", "--start", "0.25")
    clock = venue.clock()
    assert (clock["market"], clock["markets"][SYMBOL]["price"]) == (T0 + 9_000_000, "102")
    client = ccxt.binance(venue.options())
    hours = client.fetch_ohlcv(SYMBOL, "1h")
    assert [(row[0], row[4]) for row in hours] == [(T0 + h * 3_600_000, 100 + h) for h in range(3)]
    venue.clock(advance_seconds=4 * 3600)
    assert [row[4] for row in client.fetch_ohlcv(SYMBOL, "1h")] == [100, 101, 102, 103, 104, 106]
    venue.clock(speed=1_000_000)
    while not venue.clock()["ended"]:
        pass
    assert venue.clock()["market"] == T0 + 36_000_000
    assert client.fetch_ticker(SYMBOL)["last"] == 109


def test_a_restarted_replay_goes_on_where_it_would_be(simulator: Start, candles: Path) -> None:
    venue = simulator("--candles", str(candles), "--speed", "100", "--start", "2016-01-01T01:00Z")
    before = venue.clock()
    venue.kill()
    venue.start()
    after = venue.clock()
    elapsed = (after["wall"] - before["wall"]) * 100
    assert abs(after["market"] - before["market"] - elapsed) <= 200
    assert after["market"] > T0 + 3_600_000


def test_resting_orders_fill_by_the_lows_of_the_replay(simulator: Start, tmp_path: Path) -> None:
    dip = tmp_path / "dip.csv"
    rows = [f"{T0 + i * 60_000},100,101,{50 if i == 30 else 99},100,1" for i in range(60)]
    dip.write_text("\n".join([HEADER, *rows]) + "\n")
    venue = simulator("--candles", str(dip), "--speed", "0", "--start", "0", "--balance", "USDT=1000")
    client = ccxt.binance(venue.options())
    for name, price in (("deep", 49.99), ("dip", 60)):
        client.create_order(SYMBOL, "limit", "buy", 1, price, {"clientOrderId": name})
    venue.clock(advance_seconds=29 * 60)
    assert {o["filled"] for o in venue.orders()} == {"0"}
    venue.clock(advance_seconds=10 * 60)
    filled = {o["client_order_id"]: Decimal(o["filled"]) for o in venue.orders()}
    assert filled["deep"] == 0
    assert filled["dip"] > 0


def test_two_markets_and_two_accounts(simulator: Start, tmp_path: Path, candles: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "markets": [
                    {"symbol": "BTC/USD", "candles": str(candles), "tick": "0.5"},
                    {"symbol": "ETH/USD", "price": "10"},
                ],
                "accounts": [{"key": "other", "secret": "other-secret", "balances": {"USD": "7"}}],
            }
        )
    )
    venue = simulator("--config", str(config), "--balance", "USD=50")
    client, other = ccxt.binance(venue.options()), ccxt.binance(venue.options(apiKey="other", secret="other-secret"))
    assert set(client.load_markets()) == {"BTC/USD", "ETH/USD"}
    assert client.market("BTC/USD")["precision"]["price"] == 0.5
    client.create_order("ETH/USD", "limit", "buy", 2, 4)
    assert other.fetch_balance()["total"] == {"USD": 7}
    assert other.fetch_open_orders("ETH/USD") == []
    assert "ETH/USD: synthetic data, seed 1" in venue.output
    assert "BTC/USD: replay of 1m candles" in venue.output


def notes(venue: Any) -> list[str]:
    return [line.removeprefix("note: ") for line in venue.output.splitlines() if line.startswith("note: ")]


def test_it_says_that_its_clock_stands_in_a_gap_or_before_the_file(simulator: Start, candles: Path) -> None:
    cases = {
        "2016-01-01T05:30": "BTC/USDT: no candles from 2016-01-01 05:00 UTC to 2016-01-01 06:00 UTC, the market",
        "2015-12-31": "BTC/USDT: no candles before 2016-01-01 00:00 UTC, the market clock is at 2015-12-31 00:00 UTC",
    }
    for start, said in cases.items():
        (note,) = notes(simulator("--candles", str(candles), "--speed", "0", "--start", start))
        assert note.startswith(said)
    assert notes(simulator("--candles", str(candles), "--speed", "0", "--start", "0.25")) == []


def test_it_says_that_a_start_is_ignored(simulator: Start, candles: Path) -> None:
    venue = simulator("--candles", str(candles), "--speed", "0", "--start", "0.25")
    venue.kill()
    venue.start()
    (note,) = notes(venue)
    assert note.startswith("--start 0.25 is ignored: the state file")
    assert note.endswith("goes on at 2016-01-01 02:30 UTC; --fresh forgets it")


def test_a_start_after_the_last_candle_is_refused(tmp_path: Path, candles: Path) -> None:
    for start in ("2016-01-01T10:00", "2017-01-01"):
        ended = run("--state", str(tmp_path / "s.sqlite"), "--candles", str(candles), "--start", start)
        assert (ended.returncode, ended.stderr) == (
            1, f"simulator: --start is '{start}'; the candles end at 2016-01-01 10:00 UTC\n",
        )  # fmt: skip


def test_its_help_tells_the_defaults(tmp_path: Path) -> None:
    shown = " ".join(run("--help").stdout.split())
    for text in ("(default simulator-key)", "its secret (default simulator-secret)", "as a fraction (default 0.001)"):
        assert text in shown


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return _nursery.run("trader.simulator", "--port", "0", *arguments, environment=dict(os.environ))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candles", "absent.csv"], "absent.csv: cannot be read"),
        (["--market", "BTCUSDT"], "market is 'BTCUSDT'; it must look like BTC/USDT"),
        (["--balance", "USDT"], "--balance is 'USDT'; it must look like USDT=200"),
        (["--balance", "USDT=-1"], "--balance USDT is '-1'"),
        (["--start", "yesterday"], "--start is 'yesterday'"),
        (["--start", "0.5"], "needs a candle file"),
        (["--speed", "-1"], "--speed is -1.0; it must be from 0"),
        (["--live-clock", "--speed", "5"], "--live-clock goes with neither"),
        (["--taker", "NaN"], "taker is 'NaN'"),
        (["--config", "absent.json"], "--config absent.json"),
    ],
)
def test_bad_arguments_end_with_a_sentence(tmp_path: Path, arguments: list[str], message: str) -> None:
    ended = run("--state", str(tmp_path / "state.sqlite"), *arguments)
    assert ended.returncode != 0
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_is_told_with_the_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("--state", str(tmp_path / "state.sqlite"), "--port", str(port))
    assert (ended.returncode, ended.stderr) == (
        1, f"simulator: port {port} of 127.0.0.1 is in use: name another one with --port\n",
    )  # fmt: skip


def test_a_state_file_serves_one_process_and_one_history(simulator: Start, candles: Path) -> None:
    venue = simulator()
    in_use = run("--state", str(venue.state))
    assert "is another simulator using it?" in in_use.stderr
    venue.kill()
    other = run("--state", str(venue.state), "--candles", str(candles))
    assert "name another file with --state, or forget this one with --fresh" in other.stderr
    assert {in_use.returncode, other.returncode} == {1}
