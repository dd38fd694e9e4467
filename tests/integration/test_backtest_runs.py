"""Runs in the database, and the commands that make, show, compare and remove them."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psycopg
import pytest
import typer

from tests.plugins import _nursery
from tests.plugins.simulator import ROOT
from tests.unit.test_backtest_record import MINE, run_of, walk
from trader import migrate
from trader.backtest.origin import closes_of, digest_of
from trader.backtest.record import Run
from trader.backtest.result import FROM_THE_START, UNDECIDED
from trader.backtest.store import delete_run, load_run, save
from trader.cli._json import parse_object
from trader.cli.backtest import app
from trader.db import Connection, Identity, connect
from trader.errors import InputError
from trader.strategy import Missing

pytestmark = pytest.mark.any_server

Cli = Callable[..., subprocess.CompletedProcess[str]]
SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT'), ('ETH');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id, price_tick, quantity_step, quantity_min, cost_min,
                    maker_fee, taker_fee)
VALUES (1, 'BTC/USDT', 1, 2, 0.01, 0.00001, 0.00001, 5, 0.0002, 0.0005),
       (1, 'ETH/USDT', 3, 2, 0.01, 0.0001, 0, 5, 0, 0);
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'paper');
INSERT INTO strategy (name, account_id, unit_id, allowance_unit, class, market_id, timeframe_id, params, stake,
                      stake_unit)
VALUES ('sma', 1, 2, 'USDT', 'strategies.sma_cross:SmaCross', 1, 60, '{"fast": 5, "slow": 40}', 250, 'USDT');
INSERT INTO strategy (name, account_id, unit_id, allowance_unit) VALUES ('by-hand', 1, 2, 'USDT');
"""
CROSS = ("strategies.sma_cross:SmaCross", "--market", "binance:BTC/USDT", "--timeframe", "1h")


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    async with await connect(database, Identity("cli", "test")) as opened:
        await opened.execute(SEED)
        yield opened


def as_csv(path: Path, **how: object) -> Path:
    frame = walk(**how)
    opens = (frame.index.as_unit("ms").asi8 - 3_600_000).tolist()
    rows = zip(opens, *(frame[name].tolist() for name in frame.columns), strict=True)
    path.write_text(
        "time_open_ms,open,high,low,close,volume\n" + "".join(",".join(map(repr, row)) + "\n" for row in rows)
    )
    return path


@pytest.fixture
def cli(database: str, tmp_path: Path) -> Cli:
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{tmp_path}", "DATABASE_URL": database, "TALLYDESK_HOME": str(tmp_path), "COLUMNS": "220",
    }  # fmt: skip
    return partial(_nursery.run, "trader.cli.main", environment=environment)


@pytest.fixture
def desk(cli: Cli, connection: psycopg.Connection, tmp_path: Path) -> Cli:
    """Commands on a database with 3,000 hours of candles, 10 of which are missing."""
    connection.execute(SEED)
    file = as_csv(tmp_path / "hours.csv", bars=3_010, hole=range(1_500, 1_510))
    done = cli("bucket", "import", str(file), "--market", "binance:BTC/USDT", "--timeframe", "1h")
    assert done.returncode == 0, done.stderr
    return cli


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.splitlines()
    return line.removeprefix("tallydesk: ")


# Rows


async def test_what_is_stored_is_what_is_read(db: Connection) -> None:
    run = replace(run_of(), market="binance:BTC/USDT", market_id=1)
    row = await save(db, run)
    read = await load_run(db, row.id)
    assert read.made is not None
    assert run.made is not None
    assert len(read.made.trades) > 50
    assert len(read.made.points) > 400
    assert read.made.trades == run.made.trades
    assert read.made.points == run.made.points
    assert dict(read.made.measures) == dict(run.made.measures)
    assert read == replace(run, id=row.id, finished_at=row.finished_at, made=read.made)
    assert read.made == run.made


async def test_a_run_goes_with_all_of_it_and_nothing_else_does(db: Connection) -> None:
    first, second = [(await save(db, run_of())).id for _ in range(2)]
    counts = "SELECT run_id, count(*) FROM {} GROUP BY 1 ORDER BY 1"
    before = [
        await (await db.execute(counts.format(name))).fetchall() for name in ("backtest_trade", "backtest_equity")
    ]
    assert await delete_run(db, first)
    assert not await delete_run(db, first)
    after = [await (await db.execute(counts.format(name))).fetchall() for name in ("backtest_trade", "backtest_equity")]
    assert after == [rows[1:] for rows in before]
    with pytest.raises(InputError, match=f"there is no backtest {first}: the newest are {second}"):
        await load_run(db, first)


async def test_a_run_is_stored_as_a_whole_or_not_at_all(db: Connection) -> None:
    run = run_of()
    assert run.made is not None
    wrong = replace(run.made.trades[-1], realised=None, price=-run.made.trades[-1].price)
    broken = replace(run, made=replace(run.made, trades=(*run.made.trades[:-1], wrong)))
    with pytest.raises(psycopg.errors.CheckViolation, match="price_is_above_zero"):
        await save(db, broken)
    assert await (await db.execute("SELECT count(*) FROM backtest_run")).fetchone() == (0,)


async def test_what_was_computed_is_not_written_by_hand(db: Connection, connection: psycopg.Connection) -> None:
    await save(db, run_of())
    for statement in (
        "UPDATE backtest_run SET return_percent = 100",
        "UPDATE backtest_trade SET price = 1",
        "UPDATE backtest_equity SET equity = 1",
        "INSERT INTO backtest_equity SELECT run_id, time + '1 y', equity, cash, holding, price, unit_value, held_value,"
        " drawdown_percent FROM backtest_equity",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation, match="it is what was computed"):
            connection.execute(statement)


async def test_who_may_compute_and_remove(db: Connection) -> None:
    number = (await save(db, run_of())).id
    await db.execute("SET ROLE tallydesk_reader")
    assert (await load_run(db, number)).made is not None
    for write in (save(db, run_of()), delete_run(db, number)):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await write
    await db.execute("SET ROLE tallydesk_user")
    other = (await save(db, run_of())).id
    assert await delete_run(db, number)
    assert (await load_run(db, other)).made is not None


async def test_views_for_people(db: Connection) -> None:
    row = await save(db, replace(run_of(), market="binance:BTC/USDT", market_id=1))
    run: Run = await load_run(db, row.id)
    await save(db, replace(run, strategy="aaa", error="boom", made=None))
    found = await (await db.execute("SELECT * FROM backtest")).fetchall()
    assert [one.name for one in found] == ["aaa", "strategies.sma_cross:SmaCross"]
    assert (found[0].error, found[0].sharpe) == ("boom", None)
    assert run.made is not None
    measures = run.made.measures
    assert measures["return_percent"] is not None
    assert found[1].return_percent == round(measures["return_percent"], 2)
    assert found[1].sharpe_low < found[1].sharpe < found[1].sharpe_high
    assert found[1].market == "binance:BTC/USDT"
    months = await (await db.execute("SELECT month, return_percent FROM backtest_month ORDER BY 1")).fetchall()
    assert [f"{one.month:%Y-%m}" for one in months] == [f"2023-{month:02}" for month in range(1, 8)]
    whole = 1.0
    for one in months:
        whole *= 1 + float(one.return_percent) / 100
    assert 100 * (whole - 1) == pytest.approx(float(measures["return_percent"]), abs=0.1)


async def test_the_step_goes_back_with_rows_and_comes_again(db: Connection, database: str) -> None:
    await save(db, run_of())
    await db.close()
    migrate.downgrade(database, migrate.revisions()[migrate.revisions().index("0024_backtest") - 1])
    migrate.upgrade(database)
    async with await connect(database, Identity("cli", "test")) as again:
        assert await (await again.execute("SELECT count(*) FROM backtest_run")).fetchone() == (0,)
        assert (await save(again, run_of())).id == 1


# Commands


def test_from_candles_to_a_report(desk: Cli, connection: psycopg.Connection, tmp_path: Path) -> None:
    picture, page = tmp_path / "out.png", tmp_path / "out.html"
    options = ("--from", "2023-01-02", "--to", "2023-05-01", "--params", '{"slow": 30}', "--slippage", "0.0005")
    done = desk("backtest", "run", *CROSS, *options, "--deposit", "5000", "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("backtest 1: SmaCross on binance:BTC/USDT 1h; fast 3, price ohlc4, slow 30\n")
    assert "2,846 candles from database, 2023-01-02 00:00 to 2023-05-01 00:00 UTC; decides at every" in done.stdout
    assert re.search(r"^money in USDT +this run ", done.stdout, re.MULTILINE)
    assert re.search(r"^deposits +5,000.00$", done.stdout, re.MULTILINE)
    assert "Computed over 1 gap with 10 missing candles" in done.stdout
    assert picture.read_bytes()[:4] == b"\x89PNG"
    row = connection.execute(
        "SELECT settings->>'taker', settings->>'maker', settings->>'price_tick', settings->>'cost_min',"
        " asked_from::date::text, params->>'slow', engine, digest FROM backtest_run"
    ).fetchone()
    frame = walk(bars=3_010, hole=range(1_500, 1_510)).loc["2023-01-02 01:00":"2023-05-01 00:00"]
    unjudged = Missing({None: closes_of(frame)[np.diff(closes_of(frame), append=0) > 3_600_000]})
    digest = digest_of(frame, refused={"": unjudged})
    assert row == ("0.0005", "0.0002", "0.01", "5", "2023-01-02", "30", "array", digest)
    assert digest != digest_of(frame)
    assert f"\n1 stretch of candles without a decision: {UNDECIDED}\n" in done.stdout
    shown = desk("backtest", "show", "1").stdout
    assert shown == done.stdout
    desk("backtest", "run", *CROSS, "--fee", "0.002", "--settings", '{"fill": "close"}')
    listed = desk("backtest", "list").stdout
    assert [line.split()[0] for line in listed.splitlines()[2:]] == ["2", "1"]
    compared = desk("backtest", "compare", "1", "2").stdout
    assert re.search(r"^params slow +30 +100$", compared, re.MULTILINE)
    assert re.search(r"^settings taker +0.0005 +0.002$", compared, re.MULTILINE)
    assert re.search(r"^settings fill +next_open +close$", compared, re.MULTILINE)
    assert "the same code\n" in compared
    assert "params fast" not in compared
    assert desk("backtest", "report", "1", "--html", str(page)).stdout == f"backtest 1 written to {page}\n"
    assert "SmaCross on binance:BTC/USDT 1h" in page.read_text()
    assert desk("backtest", "delete", "1").stdout == "backtest 1 deleted\n"
    assert refused(desk("backtest", "show", "1")) == "there is no backtest 1: the newest are 2"


def test_a_strategy_by_its_name_takes_what_its_row_says(desk: Cli, connection: psycopg.Connection) -> None:
    done = desk("backtest", "run", "sma")
    assert done.stdout.startswith("backtest 1: sma on binance:BTC/USDT 1h; fast 5, price ohlc4, slow 40\n"), done.stderr
    row = connection.execute(
        "SELECT strategy, class, settings->>'stake', settings->'stake_in_percent',"
        " (SELECT max(quote) FROM backtest_trade WHERE side = 'buy') FROM backtest_run"
    ).fetchone()
    assert row is not None
    assert row[:4] == ("sma", "strategies.sma_cross:SmaCross", "250", False)
    assert 240 < row[4] <= 250
    done = desk(
        "backtest", "run", "sma", "--params", '{"fast": 7}', "--stake", "50%", "--schedule", "day", "--no-store"
    )
    assert "backtest, not stored: sma on binance:BTC/USDT 1h; fast 7, price ohlc4, slow 40" in done.stdout
    assert "decides every day" in done.stdout
    assert connection.execute("SELECT count(*) FROM backtest_run").fetchone() == (1,)


REFUSED = [
    (("strategies.nothing:Class", *CROSS[1:]), 'there is no module "strategies.nothing"; strategies has '),
    ((*CROSS, "--params", '{"fats": 3}'), 'unknown parameter "fats": there is price, fast, slow'),
    ((*CROSS, "--params", '{"fast": 100}'), "fast is 100 and slow is 100: fast must be smaller than slow"),
    ((*CROSS, "--params", "fast=3"), "--params is 'fast=3': no JSON"),
    (("nothing",), 'there is no strategy "nothing": with a class there is sma; a class is written module:Class'),
    (("by-hand",), 'there is a strategy without a class "by-hand"'),
    ((*CROSS, "--from", "2030-01-01"), "has no 1h candles from 2030-01-01 00:00: it has those from 2023-01"),
    ((*CROSS, "--to", "2023-01-02"), "has 24 candles to 2023-01-02 00:00: SmaCross needs 100 for its warm-up"),
    ((*CROSS[:3], "--timeframe", "15m"), "binance:BTC/USDT has no 15m candles: it has 1h (from 2023-01-01 00:00"),
    ((*CROSS[:3], "--timeframe", "7m"), "timeframe '7m': allowed are 1m, 3m"),
    ((*CROSS[:2], "binance:ETH/USDT", "--timeframe", "1h"), "has no candles yet: there are candles of binance:B"),
    ((*CROSS[:2], "binance:DOGE/USDT", "--timeframe", "1h"), "unknown market 'binance:DOGE/USDT': write"),
    ((*CROSS[:3],), "say how long its candles are: --timeframe 1h"),
    ((CROSS[0], "--timeframe", "1h"), "say on which candles: --market binance:BTC/USDT, or --file FILE"),
    ((*CROSS, "--schedule", "minute"), "schedule is minute, but candles of 1h do not close every minute"),
    ((*CROSS, "--fee", "much"), "--fee is 'much': a share of the amount, from 0 to below 0.5, such as"),
    ((*CROSS, "--fee", "10"), "--fee is '10': a share of the amount, from 0 to below 0.5, such as 0.001"),
    ((*CROSS, "--stake", "500%"), "--stake is '500%': at most 100% of what is free can be spent; write --stake 500 "),
    ((*CROSS, "--stake", "half"), "stake is 'half': what an entry spends, above 0"),
    ((*CROSS, "--settings", '{"fil": 1}'), 'unknown setting "fil": there is deposit, flows'),
    ((*CROSS, "--plot", "out.xlsx"), "--plot is out.xlsx: its name must end in .png, .svg, .pdf"),
    ((*CROSS, "--plot", "/nowhere/out.png"), "--plot is /nowhere/out.png: there is no directory /nowhere"),
    ((*CROSS, "--html", "/nowhere/out.html"), "--html is /nowhere/out.html: there is no directory /nowhere"),
    ((*CROSS, "--input", "daily=x.csv"), "--input belongs to --file"),
    ((*CROSS, "--gaps", "unknown"), "--gaps belongs to --file: of stored candles the verdicts count (tallydesk bucket"),
    ((CROSS[0], "--file", "x.csv", "--timeframe", "1h", "--gaps", "any"), "--gaps is 'any': allowed are no-trades and"),
    ((*CROSS, "--settings", '{"file_gaps": "unknown"}'), "file_gaps is unknown: it is for files; of stored candles"),
    ((*CROSS, "--from", "today"), "--from is 'today': write 2024-01-01"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"s": "a\\u0000b"}', "can be in no row"),
        ('{"s": "\\ud800"}', "can be in no row"),
        ('{"s": ' + "[" * 100_000 + "]" * 100_000 + "}", "too many brackets"),
        ("[]", "a JSON object is needed"),
    ],
    ids=["NUL", "half a character", "brackets", "a list"],
)
def test_parameters_that_no_row_can_hold(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_object("--params", text)


def test_what_cannot_be_run_is_one_sentence(
    desk: Cli, database: str, connection: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert REFUSED[0][1] in refused(desk("backtest", "run", *REFUSED[0][0]))
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setenv("TALLYDESK_HOME", str(tmp_path))
    for arguments, said in REFUSED:  # in this process, for a process takes a second
        with pytest.raises(InputError) as caught:
            typer.main.get_command(app).main(["run", *arguments], standalone_mode=False)
        assert said in str(caught.value), arguments
    assert connection.execute("SELECT count(*) FROM backtest_run").fetchone() == (0,)


def test_a_strategy_that_fails_is_stored_with_the_reason(
    desk: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(MINE.format(body="return candles.close / candles.nothing"))
    said = refused(desk("backtest", "run", "broken:Mine", *CROSS[1:]))
    assert re.fullmatch(r"broken:Mine: signal: AttributeError: .*/broken\.py:11\) \(stored as backtest 1\)", said)
    row = connection.execute("SELECT error, candles, equity, (SELECT count(*) FROM backtest_equity) FROM backtest_run")
    error, candles, equity, points = row.fetchone() or ()
    assert "AttributeError" in error
    assert (candles, equity, points) == (3_000, None, 0)
    assert "\nfailed: signal: AttributeError" in desk("backtest", "show", "1").stdout
    page = tmp_path / "out.html"
    desk("backtest", "report", "1", "--html", str(page))
    assert "It failed: signal: AttributeError" in page.read_text()
    assert "AttributeError" in desk("backtest", "compare", "1", "1").stdout


def test_a_run_that_is_long_from_the_start_says_why_it_made_no_trade(
    desk: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "always.py").write_text(MINE.format(body="return candles.close * 0 + 1"))
    page = tmp_path / "out.html"
    done = desk("backtest", "run", "always:Mine", *CROSS[1:], "--html", str(page))
    assert done.returncode == 0, done.stderr
    assert f"\n1 entry not taken: {FROM_THE_START}\n" in done.stdout
    assert f"\n1 entry not taken: {FROM_THE_START}\n" in desk("backtest", "show", "1").stdout
    assert FROM_THE_START in page.read_text()
    assert f"\n1 stretch of candles without a decision: {UNDECIDED}\n" in done.stdout
    assert UNDECIDED in page.read_text()
    row = connection.execute("SELECT trades, refused FROM backtest_run").fetchone()
    assert row == (0, {FROM_THE_START: 1, UNDECIDED: 1})


def test_the_verdicts_of_stored_candles_count(desk: Cli, connection: psycopg.Connection) -> None:
    connection.execute("SET tallydesk.process = 'worker'")
    for verdict, told in (("outage", 1), ("no_trades", 0)):
        connection.execute("UPDATE gap SET verdict = %s", [verdict])
        done = desk("backtest", "run", *CROSS)
        assert done.stdout.count(UNDECIDED) == told, done.stderr
        assert done.stdout.count("tallydesk bucket gaps binance:BTC/USDT 1h lists the gaps, and why candles") == told
    digests = connection.execute("SELECT count(DISTINCT digest) FROM backtest_run").fetchone()
    assert digests == (2,)


def test_what_the_gaps_of_a_file_are_taken_for_is_said_and_stored(
    desk: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    file = ("--file", str(tmp_path / "hours.csv"), "--timeframe", "1h")
    for options, told in (((), 0), (("--gaps", "no-trades"), 0), (("--gaps", "unknown"), 1)):
        done = desk("backtest", "run", CROSS[0], *file, *options)
        assert done.stdout.count(UNDECIDED) == told, done.stderr
        assert "Computed over 1 gap with 10 missing candles" in done.stdout
    desk("backtest", "run", *CROSS)
    rows = connection.execute("SELECT settings->>'file_gaps' FROM backtest_run ORDER BY id").fetchall()
    assert [row[0] for row in rows] == ["no_trades", "no_trades", "unknown", None]
    assert re.search(
        r"^settings file_gaps +no_trades +unknown$", desk("backtest", "compare", "2", "3").stdout, re.MULTILINE
    )
    assert "tried; the target changes" in desk("backtest", "check", CROSS[0], *file, "--gaps", "unknown").stdout


def test_candles_of_a_file_need_no_database(cli: Cli, tmp_path: Path) -> None:
    file = as_csv(tmp_path / "hours.csv", bars=500)
    nowhere = {"PYTHONPATH": str(ROOT), "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    run = partial(_nursery.run, "trader.cli.main", environment=os.environ | nowhere)
    options = ("--file", str(file), "--timeframe", "1h")
    done = run("backtest", "run", "strategies.moving_average:MovingAverage", *options, "--no-store")
    assert done.returncode == 0, done.stderr
    assert "500 candles from hours.csv" in done.stdout
    assert run("backtest", "check", "strategies.moving_average:MovingAverage", *options).returncode == 1  # too few
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "of_my_own.py").write_text(MINE.format(body="return candles.close * 0"))
    own = partial(
        _nursery.run, "trader.cli.main", environment=os.environ | nowhere | {"TALLYDESK_STRATEGIES": str(folder)}
    )
    assert own("backtest", "run", "of_my_own:Mine", *options, "--no-store").returncode == 0
    stored = cli("backtest", "run", "strategies.moving_average:MovingAverage", *options)
    assert stored.stdout.startswith("backtest 1: MovingAverage on hours.csv 1h")


PEEKS = "return (candles.close.shift(-1) > candles.close).astype('float64')"


def test_check_names_the_bar_and_ends_with_1(desk: Cli, tmp_path: Path) -> None:
    done = desk("backtest", "check", *CROSS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("nothing found\n")
    (tmp_path / "raises.py").write_text(MINE.format(body="raise ValueError('no')"))
    assert re.search(
        r"ValueError: no \(.*/raises\.py:11\)$",
        refused(desk("backtest", "check", "raises:Mine", *CROSS[1:])),
    )
    (tmp_path / "peeks.py").write_text(MINE.format(body=PEEKS))
    done = desk("backtest", "check", "peeks:Mine", *CROSS[1:])
    assert done.returncode == 1
    assert re.match(
        r"future at 2023-01-\d\d \d\d:00: its target was \d while candles up to 2023-01-\d\d \d\d:00 were there",
        done.stdout,
    )


def test_nothing_slow_is_imported_that_is_not_needed(desk: Cli, database: str) -> None:
    code = (
        f"import sys; sys.argv = ['tallydesk', 'backtest', 'run', *{CROSS!r}]\n"
        "from trader.cli.main import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "known = ('ccxt', 'procrastinate', 'matplotlib', 'optuna', 'alembic')\n"
        "print('slow:', [name for name in known if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DATABASE_URL": database}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "slow: []", done.stderr


WITH_INPUTS = """
from trader.strategy import Input, Strategy, at

class Mine(Strategy):
    @property
    def warm_up(self):
        return 5

    @property
    def inputs(self):
        return {"daily": Input("1d", warm_up=3), "other": Input(market="binance:ETH/USDT")}

    def signal(self, candles, daily, other):
        return (candles.close > at(daily.close, candles.index)).astype("float64")
"""
PATH_STYLE = """
from trader.strategy import Strategy

class Mine(Strategy):
    @property
    def warm_up(self):
        return 5

    def on_bucket(self, context):
        if not context.quantity and not context.orders:
            context.buy(limit=context.close * 0.99)
            context.sell(limit=context.close * 1.01)
            context.sell(stop=context.close * 0.95)
"""


def test_inputs_come_from_the_database_or_from_files(desk: Cli, connection: psycopg.Connection, tmp_path: Path) -> None:
    (tmp_path / "inputs.py").write_text(WITH_INPUTS)
    started = ("backtest", "run", "inputs:Mine", *CROSS[1:], "--from", "2023-02-01")
    assert refused(desk(*started)).startswith(
        "input daily: binance:BTC/USDT has no 1d candles: it has 1h (from 2023-01-01"
    )
    desk("bucket", "derive", "binance:BTC/USDT", "1d", "--from", "1h")
    assert refused(desk(*started)).startswith(
        "input other: binance:ETH/USDT has no candles yet: there are candles of b"
    )
    file = tmp_path / "hours.csv"
    desk("bucket", "import", str(file), "--market", "binance:ETH/USDT", "--timeframe", "1h")
    done = desk(*started)
    assert done.returncode == 0, done.stderr
    inputs, warm_up = connection.execute("SELECT inputs, warm_up FROM backtest_run").fetchone() or ()
    assert warm_up == 5
    assert inputs["daily"]["from"] == "binance:BTC/USDT 1d"
    assert inputs["daily"]["first_close"] == "2023-01-02T00:00:00+00:00"  # a live run would see what was before
    assert inputs["other"]["from"] == "binance:ETH/USDT 1h"
    assert inputs["other"]["candles"] > 2_900
    options = ("--file", str(file), "--timeframe", "1h", "--no-store")
    said = refused(desk("backtest", "run", "inputs:Mine", *options, "--input", f"other={file}"))
    assert said.startswith(
        "Mine needs candles of its input daily (1d, the same market): say where they are with --input"
    )
    said = refused(desk("backtest", "run", "inputs:Mine", *options, "--input", f"nothing={file}"))
    assert said == "--input nothing: Mine has no such input; it has daily, other"
    days = tmp_path / "days.csv"
    desk("bucket", "export", "binance:BTC/USDT", "1d", str(days))
    both = ("--input", f"other={file}", "--input", f"daily={days}")
    done = desk("backtest", "run", "inputs:Mine", *options, *both)
    assert done.returncode == 0, done.stderr
    assert "after 71; engine array" in done.stdout  # at the close of the third day
    assert desk("backtest", "check", "inputs:Mine", *options[:-1], *both).stdout.startswith("nothing found\n")


def test_what_waits_for_a_price_runs_through_the_other_engine(
    desk: Cli, connection: psycopg.Connection, tmp_path: Path
) -> None:
    (tmp_path / "waits.py").write_text(PATH_STYLE)
    done = desk("backtest", "run", "waits:Mine", *CROSS[1:], "--fee", "0")  # no dust is left
    assert done.returncode == 0, done.stderr
    assert "engine bars\n" in done.stdout
    kinds = connection.execute(
        "SELECT DISTINCT liquidity::text, side::text FROM backtest_trade ORDER BY 1, 2"
    ).fetchall()
    assert kinds == [("maker", "buy"), ("maker", "sell"), ("taker", "sell")]


def test_a_market_of_files_has_a_fee_all_the_same(cli: Cli, connection: psycopg.Connection, tmp_path: Path) -> None:
    cli("market", "add", "files:BTC/USD")
    file = as_csv(tmp_path / "hours.csv", bars=500)
    cli("bucket", "import", str(file), "--market", "files:BTC/USD", "--timeframe", "1h")
    fees = "SELECT settings->>'maker', settings->>'taker' FROM backtest_run ORDER BY id DESC LIMIT 1"
    options = ("strategies.sma_cross:SmaCross", "--market", "files:BTC/USD", "--timeframe", "1h")
    assert cli("backtest", "run", *options).returncode == 0
    assert connection.execute(fees).fetchone() == ("0.001", "0.001")
    cli("backtest", "run", *options, "--fee", "0")
    assert connection.execute(fees).fetchone() == ("0", "0")
    connection.execute("UPDATE market SET taker_fee = 0.002, maker_fee = -0.0001")
    cli("backtest", "run", *options)
    assert connection.execute(fees).fetchone() == ("0", "0.002")
    connection.execute("UPDATE market SET price_tick = 0.0000000001")
    said = refused(cli("backtest", "run", *options))
    assert said.startswith("files:BTC/USD: its price_tick is 0.0000000001, and a backtest counts in 1e-8; leave it out")
    assert cli("backtest", "run", *options, "--settings", '{"price_tick": null}').returncode == 0
