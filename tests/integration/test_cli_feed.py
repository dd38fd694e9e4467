"""`tallydesk feed`, as a person types it."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from tests.plugins import _nursery
from tests.plugins.simulator import ROOT
from trader.cli._feed_watch import Pace
from trader.cli.feed import short

pytestmark = pytest.mark.any_server

Cli = Callable[..., subprocess.CompletedProcess[str]]
SEED = """
INSERT INTO asset (code) SELECT 'A' || n FROM generate_series(1, 30) n;
INSERT INTO asset (code) VALUES ('USDT'), ('BTC');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance'), ('empty', 'kraken');
INSERT INTO market (exchange_id, symbol, base_id, quote_id, active)
SELECT 1, 'A' || n || '/USDT', n, 31, n <> 30 FROM generate_series(1, 30) n;
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 32, 31), (1, 'A1/BTC', 1, 32);
"""


@pytest.fixture
def environment(database: str, tmp_path: Path) -> dict[str, str]:
    with psycopg.connect(database) as seeding:
        seeding.execute(SEED)
    return os.environ | {
        "PYTHONPATH": str(ROOT), "DATABASE_URL": database, "TALLYDESK_HOME": str(tmp_path), "COLUMNS": "250",
    }  # fmt: skip


@pytest.fixture
def cli(environment: dict[str, str]) -> Cli:
    def run(*arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        if not answer:
            return _nursery.run("trader.cli.main", "feed", *arguments, environment=environment)
        command = [sys.executable, "-m", "trader.cli.main", "feed", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, input=answer
        )

    return run


def feeds(connection: psycopg.Connection, where: str = "true") -> list[tuple]:
    rows = connection.execute(
        f"SELECT market, timeframe, enabled, collect_since FROM feeds WHERE {where} ORDER BY 1, 2"
    ).fetchall()
    connection.commit()
    return rows


def test_feeds_are_added_paused_and_resumed(cli: Cli, connection: psycopg.Connection) -> None:
    done = cli("add", "binance", "BTC/USDT", "1m,5m, 1h", "--since", "2024-01-01")
    assert done.stdout == "binance:BTC/USDT 1m, 5m, 1h: kept up to date from 2024-01-01 00:00 UTC on\n"
    market = "binance:BTC/USDT"
    assert feeds(connection) == [(market, name, True, "2024-01-01 00:00") for name in ("1h", "1m", "5m")]
    assert cli("pause", "binance", "*/USDT", "1m,1h").stdout == "binance: 2 feeds paused, 0 were paused already\n"
    assert [row[1] for row in feeds(connection, "enabled")] == ["5m"]
    assert re.search(r"^binance:BTC/USDT +1m +no +absent +2024-01-01 00:00 ", cli("list").stdout, re.MULTILINE)
    assert cli("resume", "binance", "BTC/*").stdout == "binance: 2 feeds resumed, 1 were on already\n"
    cli("pause", "binance", "BTC/USDT")
    cli("add", "binance", "BTC/USDT", "1m", "--since", "2025-01-01T12:00+03:00")
    cli("add", "binance", "BTC/USDT", "5m", "--since", "2023-01-01T12:00+03:00")
    cli("add", "binance", "BTC/USDT", "1h", "--since", "listing")
    cli("add", "binance", "BTC/USDT", "1h", "--since", "2020-01-01")
    assert feeds(connection) == [
        (market, "1h", True, "listing"),  # a feed reaches back as far as anybody asked
        (market, "1m", True, "2024-01-01 00:00"),
        (market, "5m", True, "2023-01-01 09:00"),
    ]


def test_a_pattern_stands_for_what_is_listed_and_many_are_asked_about(cli: Cli, connection: psycopg.Connection) -> None:
    done = cli("add", "binance", "A?/USDT,A1/BTC", "1h", "--since", "listing")
    assert done.stdout == "binance: 10 markets, 1h: kept up to date from the first candle that the venue has on\n"
    assert len(feeds(connection)) == 10
    done = cli("add", "binance", "*/USDT", "1m,5m", "--since", "2024-01-01", answer="n\n")
    assert done.returncode == 1
    assert "binance: 30 markets in 1m, 5m are 60 feeds. Add them?" in done.stdout
    assert len(feeds(connection)) == 10
    assert cli("add", "binance", "*/USDT", "1m,5m", "--since", "2024-01-01", answer="y\n").returncode == 0
    assert len(feeds(connection)) == 70
    assert cli("add", "binance", "*", "1m,5m", "--since", "2024-01-01", "--yes").returncode == 0
    assert len(feeds(connection)) == 72
    assert not feeds(connection, "market = 'binance:A30/USDT'")
    assert len(re.findall("^binance:", cli("list", "binance:*/BTC").stdout, re.MULTILINE)) == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("add kraken BTC/USDT 1m --since 2024-01-01", "exchange 'kraken': there is binance, empty"),
        (
            "add binance:BTC/USDT 1m 1h --since 2024-01-01",
            "exchange 'binance:BTC/USDT': there is binance, empty; write",
        ),
        ("add empty BTC/USDT 1m --since 2024-01-01", "exchange empty: it has no markets yet (tallydesk market sync)"),
        (
            "add binance BTC/USD 1m --since 2024-01-01",
            "market 'BTC/USD': binance has none of that name; there is A1/BTC, A1/USDT, A10/USDT, A11/USDT, A12/USDT "
            "and 26 more",
        ),
        (
            "add binance A30/USDT 1m --since 2024-01-01",
            "market 'A30/USDT': binance does not list it any more; there is",
        ),
        ("add binance BTC/USDT 1m,7m --since 2024-01-01", "timeframe '7m': allowed are 1m, 3m, 5m"),
        ("add binance BTC/USDT 1m --since soon", "--since is 'soon': write 2024-01-01 or 2024-01-01T12:00, or listing"),
        ("pause binance BTC/USDT", "binance: there are no feeds of that exchange"),
    ],
)
def test_what_cannot_be_is_said_with_what_there_is(
    cli: Cli, connection: psycopg.Connection, arguments: str, sentence: str
) -> None:
    done = cli(*arguments.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"tallydesk: {sentence}")
    assert len(done.stderr.splitlines()) == 1
    assert feeds(connection) == []


def test_pausing_what_is_no_feed_lists_those_there_are(cli: Cli) -> None:
    cli("add", "binance", "BTC/USDT", "1m,5m", "--since", "2024-01-01")
    said = cli("pause", "binance", "BTC/USDT", "1h").stderr
    assert said == "tallydesk: binance: no feed is BTC/USDT 1h; there is BTC/USDT 1m, BTC/USDT 5m\n"


HALF = """
UPDATE bucket_feed SET status = 'building', covered = tstzmultirange(tstzrange(collect_since, now() - (now() -
  collect_since) * %s)) WHERE timeframe_id = 1
"""


def test_a_watch_without_a_terminal_prints_what_changes_until_it_is_interrupted(
    cli: Cli, environment: dict[str, str], connection: psycopg.Connection
) -> None:
    cli("add", "binance", "BTC/USDT", "1m,5m", "--since", "2024-01-01")
    assert cli("watch", "--once").stdout == "binance:BTC/USDT 1m absent 0.0 %\nbinance:BTC/USDT 5m absent 0.0 %\n"
    assert cli("watch", "--once", "kraken:*").stdout == "no feed is on\n"
    command = [sys.executable, "-m", "trader.cli.main", "feed", "watch"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            lines = iter(running.stdout.readline, "")
            assert [next(lines), next(lines)] == [
                "binance:BTC/USDT 1m absent 0.0 %\n",
                "binance:BTC/USDT 5m absent 0.0 %\n",
            ]
            for left in (0.5, 0.25):
                connection.execute(HALF, [left])
                connection.commit()
                assert re.fullmatch(
                    rf"binance:BTC/USDT 1m building {100 - 100 * left:.0f}\.\d % \d+ s left\n", next(lines)
                )
            running.send_signal(signal.SIGINT)
            assert running.wait(20) == 130
        finally:
            running.kill()


def test_a_watch_on_a_terminal_draws_bars_until_ctrl_c(cli: Cli, environment: dict[str, str]) -> None:
    cli("add", "binance", "BTC/USDT,A1/BTC,A1/USDT", "1m,5m", "--since", "2024-01-01")
    terminal, inside = pty.openpty()
    command = [sys.executable, "-m", "trader.cli.main", "feed", "watch"]
    environment = environment | {"TERM": "xterm", "COLUMNS": "120", "LINES": "7"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=inside, stdout=inside, stderr=inside, start_new_session=True
    ) as running:
        os.close(inside)
        try:
            seen, end = "", time.monotonic() + 40
            while _plain(seen).count("0 of 6 feeds are full, 2 not shown; Ctrl-C ends this") < 2:
                assert time.monotonic() < end, seen
                seen += os.read(terminal, 4096).decode(errors="replace")
            assert "━━━━" in seen
            assert "binance:A1/BTC 1m" in seen
            running.send_signal(signal.SIGINT)
            assert running.wait(20) == 130
        finally:
            running.kill()
            os.close(terminal)


def _plain(drawn: str) -> str:
    """What was drawn, without its colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", drawn)


def test_what_is_left_is_told_by_the_pace_of_the_last_minute() -> None:
    pace = Pace()
    assert pace.left("x", 10, 0) is None
    assert pace.left("x", 10, 5) is None
    assert pace.left("x", 20, 10) == timedelta(seconds=80)
    assert pace.left("y", 50, 10) is None
    assert pace.left("x", 80, 100) == timedelta(seconds=30)  # 60 percent in 90 s, since the look before the minute
    assert pace.left("x", 100, 101) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (90, "90 s"), (150, "2 min"), (7200, "2 h"), (864000, "10 d")]
)
def test_a_length_of_time_is_short(seconds: float, text: str) -> None:
    assert short(timedelta(seconds=seconds)) == text
