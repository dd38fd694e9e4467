"""`tallydesk sweep` as a person types it: what is wrong is said in a sentence, and Ctrl-C loses nothing."""

import os
import pty
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import psycopg
import pytest

from jobs.sweep import DEFER_DUE, DUE
from tests.plugins import _nursery
from tests.plugins.simulator import ROOT

pytestmark = pytest.mark.any_server

SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2);
INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
SELECT 1, 60, '2024-01-01Z'::timestamptz + g * interval '1 h', 100, 101 + g % 3, 99, 100 + g % 2, 1, 'imported'
  FROM generate_series(1, 200) g;
"""
HOLDS = '''
import os, time
from pathlib import Path
from pandas import Series
from trader.strategy import Params, Strategy, param

class HoldsParams(Params):
    n: int = param(2, ge=1, le=1000, search=(1, 8))

class Holds(Strategy[HoldsParams]):
    """From the fifth set on it waits for somebody to let it go."""
    warm_up = 2

    def signal(self, candles):
        place = Path(__file__).parent
        if self.params.n == 5:
            (place / "here").write_text(str(os.getpid()))
        while self.params.n == 5 and not (place / "go").exists():
            time.sleep(0.02)
        return Series(range(len(candles)), index=candles.index) // self.params.n % 2 * 1.0
'''
COMMON = ("--market", "binance:BTC/USDT", "--timeframe", "1h")


@pytest.fixture
def environment(database: str, tmp_path: Path, connection: psycopg.Connection) -> dict[str, str]:
    connection.execute("SET tallydesk.process = 'worker'")
    connection.execute(SEED)
    (tmp_path / "holds.py").write_text(HOLDS)
    return os.environ | {
        "PYTHONPATH": str(ROOT), "DATABASE_URL": database, "TALLYDESK_HOME": str(tmp_path), "COLUMNS": "160",
        "TALLYDESK_STRATEGIES": str(tmp_path),
    }  # fmt: skip


def test_what_is_wrong_is_said_in_a_sentence(environment: dict[str, str]) -> None:
    run = partial(_nursery.run, "trader.cli.main", environment=environment)
    sma = ("sweep", "strategies.sma_cross:SmaCross", *COMMON)
    for arguments, problem in (
        (sma, "nobody works on sweeps: start tallydesk sweep worker, or give this sweep workers of its own"),
        ((*sma, "--grid", "fast"), "--grid is 'fast': write name=low..high:step"),
        ((*sma, "--grid", "fast=1,2", "--grid", "fast=3"), "--grid is 'fast=3': it is there twice"),
        ((*sma, "--grid", "fast=9..2", "--no-wait"), "fast=9..2: 9 is not below 2"),
        ((*sma, "--params", "5"), "--params is '5': a JSON object is needed"),
        ((*sma, "--settings", "{"), "--settings is '{': no JSON"),
        ((*sma, "--from", "soon"), "--from is 'soon': write 2024-01-01"),
        ((*sma, "--plot", "a.jpg"), "--plot is a.jpg: a name that ends in .png"),
        (("sweep", "show", "7"), "sweep 7: there is none of this number; there is none yet (tallydesk sweep list)"),
        (("sweep", "resume", "7"), "sweep 7: there is none of this number; there is none yet (tallydesk sweep list)"),
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert problem in done.stderr, arguments
        assert done.stderr.count("\n") == 1, done.stderr


def test_a_sweep_that_nobody_works_on_says_how_to_begin(
    environment: dict[str, str], connection: psycopg.Connection
) -> None:
    run = partial(_nursery.run, "trader.cli.main", "sweep", environment=environment)
    refused = run("strategies.sma_cross:SmaCross", *COMMON, "--grid", "fast=50", "--grid", "slow=10,20", "--no-wait")
    assert "none of 2 sets is one that the class takes: SmaCross: fast is 50 and slow is 10" in refused.stderr
    left = run("holds:Holds", *COMMON, "--grid", "n=2..4", "--no-wait")
    assert left.stdout == (
        "sweep 1: 3 sets to try\n"  # what was refused used up no number
        "nobody works on sweeps yet: start tallydesk sweep worker, or tallydesk sweep resume 1 "
        "--workers-here 2\n"
    )
    assert run("show", "7").stderr.startswith("tallydesk: sweep 7: there is none of this number; there is 1 (")
    assert run("stop", "1").stdout == "sweep 1 is stopped, 0 of 3 are done: tallydesk sweep resume 1 goes on\n"
    connection.execute("UPDATE sweep SET state = 'running'")
    with psycopg.connect(environment["DATABASE_URL"], application_name="sweep elsewhere"):
        assert run("holds:Holds", *COMMON, "--grid", "n=2..4", "--no-wait").stdout == "sweep 2: 3 sets to try\n"


def test_ctrl_c_stops_a_sweep_and_resume_ends_it(
    environment: dict[str, str], tmp_path: Path, connection: psycopg.Connection
) -> None:
    terminal, inside = pty.openpty()
    arguments = ["sweep", "holds:Holds", *COMMON, "--chunk", "2", "--workers-here", "1"]
    with (tmp_path / "said").open("w+") as output:
        first = _nursery.start("trader.cli.main", arguments, environment | {"TERM": "xterm"}, output, inside)
        try:
            os.close(inside)
            until(lambda: (tmp_path / "here").exists())
            seen = ""
            while "4/8" not in seen:
                seen += os.read(terminal, 4096).decode()
            first.send_signal(signal.SIGINT)
            (tmp_path / "go").touch()
            assert first.wait(60) == 130
        finally:
            first.kill()
        assert "best" in seen
        assert (tmp_path / "said").read_text() == "sweep 1: 8 sets to try\n"
    with suppress(OSError):  # the other end is closed, and all is read
        while more := os.read(terminal, 4096):
            seen += more.decode()
    os.close(terminal)
    told = re.search(r"sweep 1 is stopped, (\d) of 8 are done: tallydesk sweep resume 1 --workers-here 1 goes on", seen)
    assert told is not None, seen
    assert 4 <= int(told[1]) < 8
    row = connection.execute("SELECT state, done FROM sweeps").fetchone()
    assert row is not None
    assert row[0] == "stopped"
    assert 4 <= row[1] < 8
    run = partial(_nursery.run, "trader.cli.main", "sweep", "resume", "1", "--workers-here", "1")
    second = run("--best", "2", environment=environment)
    assert second.returncode == 0, second.stderr
    assert "done, 8 of 8 trials done, 0 failed, 0 sets skipped" in second.stdout
    assert "deflated Sharpe of the best" in second.stdout
    assert run(environment=environment).stderr == "tallydesk: sweep 1 is done: there is nothing to resume\n"


SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])


@SIGNALS
def test_a_sweep_that_is_told_to_stop_ends_its_own_workers(
    environment: dict[str, str], tmp_path: Path, connection: psycopg.Connection, number: int
) -> None:
    """Also while a worker is inside a set that takes for ever."""
    arguments = ["sweep", "holds:Holds", *COMMON, "--chunk", "2", "--workers-here", "1"]
    with (tmp_path / "said").open("w+") as output, (tmp_path / "errors").open("w+") as errors:
        sweep = _nursery.start("trader.cli.main", arguments, environment, output, errors)
        try:
            until(lambda: (tmp_path / "here").exists() and (tmp_path / "here").read_text() != "")
            sweep.send_signal(number)
            assert sweep.wait(60) == 130, (tmp_path / "errors").read_text()
        finally:
            sweep.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "here").read_text()), 0)
    told = (tmp_path / "errors").read_text().splitlines()
    assert told[-1] == ("sweep 1 is stopped, 4 of 8 are done: tallydesk sweep resume 1 --workers-here 1 goes on")
    assert connection.execute("SELECT state::text FROM sweep").fetchone() == ("stopped",)
    assert connection.execute("SELECT count(*) FROM procrastinate_jobs WHERE status = 'doing'").fetchone() == (0,)
    (tmp_path / "go").touch()
    resume = ("sweep", "resume", "1", "--workers-here", "1")
    done = _nursery.run("trader.cli.main", *resume, environment=environment)
    assert "done, 8 of 8 trials done, 0 failed" in done.stdout, done.stderr


def test_a_worker_that_is_told_to_stop_gives_its_chunk_back(
    environment: dict[str, str], tmp_path: Path, connection: psycopg.Connection
) -> None:
    """Nothing ticks here: what it does not queue again itself, no other worker would ever hear of."""
    run = partial(_nursery.run, "trader.cli.main", "sweep", environment=environment)
    assert run("holds:Holds", *COMMON, "--chunk", "2", "--no-wait").returncode == 0
    connection.execute(DEFER_DUE, DUE)
    with (tmp_path / "log").open("w") as log:
        workers = [_nursery.start("trader.cli.main", ["sweep", "worker"], environment, log, log)]
        try:
            until(lambda: (tmp_path / "here").exists())
            workers[0].terminate()
            assert workers[0].wait(60) == 0, (tmp_path / "log").read_text()
            waiting = "SELECT count(*) FROM procrastinate_jobs WHERE lock = 'sweep:1:3' AND status = 'todo'"
            assert connection.execute(waiting).fetchone() == (1,)
            (tmp_path / "go").touch()
            workers.append(_nursery.start("trader.cli.main", ["sweep", "worker"], environment, log, log))
            until(lambda: connection.execute("SELECT FROM sweeps WHERE done = 8").fetchone() is not None)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait(20)


@SIGNALS
def test_a_sweep_of_other_workers_goes_on_without_whoever_followed_it(
    environment: dict[str, str], tmp_path: Path, connection: psycopg.Connection, number: int
) -> None:
    with (
        (tmp_path / "said").open("w+") as output,
        (tmp_path / "errors").open("w+") as errors,
        psycopg.connect(environment["DATABASE_URL"], application_name="sweep elsewhere"),
    ):
        sweep = _nursery.start("trader.cli.main", ["sweep", "holds:Holds", *COMMON], environment, output, errors)
        try:
            until(lambda: "8 sets to try" in (tmp_path / "said").read_text())
            sweep.send_signal(number)
            assert sweep.wait(60) == 130, (tmp_path / "errors").read_text()
        finally:
            sweep.kill()
    assert (tmp_path / "errors").read_text() == (
        "sweep 1 goes on by its other workers, 0 of 8 are done: tallydesk sweep resume 1 follows it, "
        "tallydesk sweep stop 1 stops it\n"
    )
    assert connection.execute("SELECT state::text FROM sweep").fetchone() == ("running",)


def until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)
