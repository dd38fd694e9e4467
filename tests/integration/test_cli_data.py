"""The commands for accounts, markets, candles and feeds, as a person types them."""

import os
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg
import pytest

from tests.plugins import _nursery
from tests.plugins.simulator import ROOT, Simulator

pytestmark = pytest.mark.any_server

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(database: str, tmp_path: Path) -> Cli:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "DATABASE_URL": database, "TALLYDESK_HOME": str(tmp_path), "COLUMNS": "200",
        "SIM_API_KEY": "test-key", "SIM_SECRET": "test-secret",
    }  # fmt: skip

    return partial(_nursery.run, "trader.cli.main", environment=environment)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence that a command ends with."""
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    return line.removeprefix("tallydesk: ")


def test_from_an_account_to_candles(
    cli: Cli, connection: psycopg.Connection, simulator: Callable[..., Simulator], tmp_path: Path
) -> None:
    venue = simulator("--market", "BTC/USDT", "--balance", "USDT=1000")
    options = ("--exchange", "binance=sim", "--mode", "simulator", "--url", venue.url, "--credentials", "SIM")
    done = cli("account", "add", "main", *options)
    assert done.returncode == 0, done.stderr
    assert "account main at sim (simulator): 1 markets added, 0 changed, 1 assets found" in done.stdout
    exchange = connection.execute("SELECT name, ccxt_id, replay FROM exchange").fetchone()
    assert exchange == ("sim", "binance", True)
    opening = connection.execute("SELECT asset, venue, drift FROM reconciliation").fetchall()
    assert opening == [("USDT", 1000, 0)]
    (line,) = [line for line in cli("account", "list").stdout.splitlines() if line.startswith("main")]
    assert line.split()[6:8] == ["1000", "USDT"]
    connection.execute("SET tallydesk.process = 'worker'")
    connection.execute("UPDATE account_read SET failed_at = now(), error = 'Retry: no answer'")
    connection.execute("SET tallydesk.process = ''")
    done = cli("account", "total", "--assets")
    mode, every, assets = re.findall(
        r"^(?:simulator +main|simulator +all of it|main +USDT) .*", done.stdout, re.MULTILINE
    )
    assert mode.split()[:5] == ["simulator", "main", "sim", "1000", "USDT"]
    assert mode.endswith("main: could not be read: Retry: no answer")
    assert every.split()[4:7] == ["·", "1000", "USDT"]
    assert assets.split()[2:7] == ["1000", "0", "1000", "USDT", "unit"]
    assert assets.rstrip().endswith("stale")
    assert refused(cli("account", "add", "main", *options)) == "account main: there is one of this name already"
    other = cli("account", "add", "two", "--exchange", "binance=sim", "--mode", "sandbox", "--credentials", "SIM")
    assert "exchange sim is where account main is, in mode simulator" in refused(other)
    assert cli("market", "sync").stdout == "sim: 0 markets added, 0 changed, 0 no longer listed\n"
    file = tmp_path / "candles.csv"
    file.write_text("time_open_ms,open,high,low,close,volume\n1704067200000,1,2,0.5,1.5,10\n")
    done = cli("bucket", "import", str(file), "--market", "sim:BTC/USDT", "--timeframe", "1h")
    assert "2024-01-01 00:00 to 2024-01-01 01:00 UTC: 1 candles added, 0 changed, 0 were there already" in done.stdout
    done = cli("feed", "add", "sim", "BTC/USDT", "1m", "--since", "2024-01-01")
    assert done.stdout == "sim:BTC/USDT 1m: kept up to date from 2024-01-01 00:00 UTC on\n"
    shown = cli("feed", "list").stdout
    assert re.search(r"^sim:BTC/USDT +1h +no +full ", shown, re.MULTILINE)
    assert re.search(r"^sim:BTC/USDT +1m +yes +absent ", shown, re.MULTILINE)
    file.write_text("time_open_ms,open,high,low,close,volume\n1704067200000,1,2,0.5,1.25,10\n")
    done = cli("bucket", "import", str(file), "--market", "sim:BTC/USDT", "--timeframe", "1h")
    assert done.stdout == ""
    said = refused(done)
    assert "at 2024-01-01 01:00 UTC is stored with open 1, high 2, low 0.5, close 1.5, volume 10, and the file" in said
    assert "close 1.25, volume 10; nothing was imported (--replace" in said
    assert connection.execute("SELECT close FROM bucket").fetchone() == (1.5,)
    done = cli("bucket", "import", str(file), "--market", "sim:BTC/USDT", "--timeframe", "1h", "--replace")
    assert "0 candles added, 1 changed" in done.stdout
    assert connection.execute("SELECT close FROM bucket").fetchone() == (1.25,)
    file.write_text("time_open_ms,open,high,low,close,volume\n1704078000000,1,2,0.5,1.5,10\n")
    done = cli("bucket", "import", str(file), "--market", "sim:BTC/USDT", "--timeframe", "1h", "--dry-run")
    assert "0 gaps with 0 missing candles between" in done.stdout
    assert "1 candles to add, 0 to change, 0 are there already; nothing was written" in done.stdout
    assert connection.execute("SELECT count(*) FROM bucket").fetchone() == (1,)
    cli("bucket", "import", str(file), "--market", "sim:BTC/USDT", "--timeframe", "1h")
    shown = cli("bucket", "gaps").stdout
    assert re.search(r"^sim:BTC/USDT +1h +(not_fetched|outage) +1 +2 ", shown, re.MULTILINE)
    assert cli("bucket", "gaps", "sim:*/USDT", "1h").stdout == shown
    assert cli("bucket", "gaps", "s*", "1m").stdout == cli("bucket", "gaps", "other:*").stdout != shown
    assert "2024-01-01 04:00:00" in cli("bucket", "show", "sim:BTC/USDT", "1h", "--last", "1").stdout
    out = str(tmp_path / "out.xlsx")
    assert refused(cli("bucket", "export", "sim:BTC/USDT", "1h", out)).startswith(f"{out}: the name must end in .csv")
    file.write_text("time_open_ms,open,high,low,close,volume\n1704067200000,1,2,0.5,1.5,ten\n")
    done = cli("bucket", "import", str(file), "--market", "sim:BTC/USDT", "--timeframe", "1h")
    assert refused(done) == f"{file}, line 2: volume is 'ten'; it must be a number"
    assert done.stdout == ""


def test_an_account_whose_venue_does_not_answer_is_not_added(cli: Cli, connection: psycopg.Connection) -> None:
    where = ("--mode", "simulator", "--url", "http://127.0.0.1:1")
    done = cli("account", "add", "main", "--exchange", "binance=sim", *where, "--credentials", "SIM")
    said = refused(done)
    assert "127.0.0.1:1/api/v3/exchangeInfo" in said
    assert said.endswith("is it running? scripts/tallydesk simulator --port 1")
    assert connection.execute("SELECT count(*) FROM account, exchange").fetchone() == (0,)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("account add main --exchange binance --mode demo", "--mode is 'demo': allowed are simulator, paper"),
        ("account add main --exchange binance --mode simulator", "--url belongs to --mode simulator, which needs it"),
        ("account add main --exchange binance --mode live --credentials SIM", "binance: mode live needs TALLYDESK"),
        ("account add main --exchange nowhere --mode paper --credentials SIM", "ccxt_id: 'nowhere' is not an exchange"),
        ("account add main --exchange binance --mode sandbox --options [1]", "--options is not a JSON object"),
        ("account add main --exchange binance --mode sandbox --options {", "--options is not JSON"),
        ("account add main --exchange binance --mode sandbox --credentials MISSING", "MISSING_API_KEY is not set"),
        ("account add a:b --exchange binance --mode sandbox --credentials SIM", "account a:b: new row for relation"),
        ("market sync --exchange nowhere", "--exchange is 'nowhere': there is none yet (tallydesk account add)"),
        ("bucket import x.csv --market sim:A/B --timeframe 7m", "timeframe '7m': allowed are 1m, 3m"),
        ("bucket import x.csv --market sim:A/B --timeframe 1m", "unknown market 'sim:A/B'"),
        ("bucket import x.csv --market sim:A/B --timeframe 1m --stamp end", "--stamp is 'end': allowed are open and"),
        ("feed add sim A/B 1m --since yesterday", "--since is 'yesterday': write 2024-01-01"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_sentence(cli: Cli, arguments: str, sentence: str) -> None:
    assert refused(cli(*arguments.split())).startswith(sentence)
