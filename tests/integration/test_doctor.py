"""`tallydesk doctor`: what it says of a desk that is ill."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.plugins.books import SETUP
from trader.cli.doctor import Finding, examine
from trader.config import Settings

STRATEGY = """
INSERT INTO strategy (name, account_id, unit_id, class, market_id, timeframe_id, error)
VALUES ('sma', 1, 1, 'strategies.sma_cross:SmaCross', 1, 60, 'KeyError: [close]')
"""
FEED = "UPDATE bucket_feed SET status = 'error', last_error = 'the venue said no', error_at = now() WHERE market_id = 1"
JOB = """
WITH job AS (INSERT INTO procrastinate_jobs (queue_name, task_name, status, args)
             VALUES ('default', 'bucket.fetch', 'failed', '{}') RETURNING id)
INSERT INTO procrastinate_events (job_id, type, at) SELECT id, 'failed', now() - %s::interval FROM job
"""
BUDGET = """
INSERT INTO rate_budget (exchange_id, address, configured, blocked_until, why)
VALUES (1, 'shared', 1200, now() + interval '1 h', 'HTTP 418'), (2, 'shared', 60, now() - interval '1 s', 'HTTP 429')
"""
BALANCE = """
INSERT INTO account_balance (account_id, asset_id, total, free, used, ledger, settled, read_at)
VALUES (1, 1, 10, 10, 0, 10, %s, now())
"""


@pytest.fixture
def settings(database: str, connection: psycopg.Connection[Any], tmp_path: Path) -> Settings:
    connection.execute(SETUP)
    return Settings(home=tmp_path, project=tmp_path / "project", database_url=database, roles=())


def said(settings: Settings, words: str) -> Finding:
    (found,) = [finding for finding in examine(settings) if words in finding.text]
    return found


def test_a_desk_that_is_well(settings: Settings) -> None:
    ill = [finding.text for finding in examine(settings) if not finding.well]
    assert [text for text in ill if "fsync is off" not in text] == []  # which the tests' server may do
    assert said(settings, "no strategy and no candle feed has an error").well


def test_a_strategy_and_a_feed_with_an_error_are_named(settings: Settings, connection: psycopg.Connection[Any]) -> None:
    connection.execute(STRATEGY)
    connection.execute(FEED)
    assert said(settings, "strategy sma: KeyError: [close]").well is False
    assert said(settings, "feed sim:BTC/USDT 1h: the venue said no").well is False


def test_a_strategy_whose_candles_no_feed_keeps_is_named_with_the_command(
    settings: Settings, connection: psycopg.Connection[Any]
) -> None:
    assert said(settings, "feeds keep all candles that enabled strategies read").well
    connection.execute(STRATEGY)
    assert said(settings, "feeds keep all candles that enabled strategies read").well
    connection.execute("UPDATE strategy SET market_id = 4, timeframe_id = 240")
    found = said(settings, "strategy sma: no feed keeps the 4h candles of sim:ETH/BTC up to date")
    assert found.well is False
    assert found.remedy.startswith("Run: tallydesk feed add sim ETH/BTC 4h --since 20")
    connection.execute("UPDATE strategy SET class = 'strategies.nowhere:None'")
    assert said(settings, "which candles strategy sma reads cannot be told here").well is None
    connection.execute("UPDATE strategy SET enabled = false")
    assert said(settings, "feeds keep all candles that enabled strategies read").well


def test_a_venue_that_wants_to_hear_nothing_is_named(settings: Settings, connection: psycopg.Connection[Any]) -> None:
    assert said(settings, "no venue has told us to wait").well
    connection.execute(BUDGET)
    found = said(settings, "sim is not asked anything until")
    assert found.well is False
    assert found.text.endswith("UTC: HTTP 418")


def test_jobs_that_failed_just_now_are_counted_and_named(
    settings: Settings, connection: psycopg.Connection[Any]
) -> None:
    connection.execute(JOB, ["2 hours"])
    assert said(settings, "0 jobs failed within the last hour").well
    connection.execute(JOB, ["5 minutes"])
    assert said(settings, "1 jobs failed within the last hour: 1 bucket.fetch").well is False


def test_drift_that_cannot_be_told_is_neither_well_nor_ill(
    settings: Settings, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("INSERT INTO strategy (name, account_id, unit_id) VALUES ('hand', 1, 1)")
    connection.execute("INSERT INTO orders (strategy, type, asset, quantity) VALUES ('hand', 'deposit', 'USDT', 10)")
    connection.execute("SET tallydesk.process = 'worker'")
    connection.execute(BALANCE, [False])
    assert said(settings, "account main agrees with its venue is unknown: an order of it is in flight").well is None
    assert not [finding for finding in examine(settings) if "balances differ" in finding.text]
    connection.execute("UPDATE account_balance SET settled = true, ledger = 9")
    assert said(settings, "1 balances differ").well is False


@pytest.mark.parametrize(("mode", "well"), [(0o600, True), (0o640, False), (0o602, False)])
def test_a_file_of_keys_is_for_its_owner(settings: Settings, mode: int, well: bool) -> None:
    file = settings.home / ".env"
    file.touch()
    file.chmod(mode)
    found = said(settings, f"{file} has mode {mode:04o}")
    assert found.well is well
    assert f"chmod 600 {file}" in found.remedy


@pytest.mark.parametrize("url", ["postgresql://me:hush@127.0.0.1:1/nothing", None])
def test_a_database_that_is_not_there_is_one_finding_after_the_others(tmp_path: Path, url: str | None) -> None:
    home = tmp_path / "home"
    findings = list(examine(Settings(home=home, project=tmp_path, database_url=url)))
    assert [finding.well for finding in findings] == [True, False]
    assert findings[-1].text.startswith("no database: ")
    assert ("DATABASE_URL" if url else "tallydesk migrate") in findings[-1].remedy
    assert "hush" not in repr(findings)
    assert not home.exists()


def test_a_halted_account_is_named_with_its_reason_and_the_way_back(
    settings: Settings, connection: psycopg.Connection[Any]
) -> None:
    assert said(settings, "account main is").text == "account main is active"
    connection.execute("UPDATE account SET reducing = true, halt_reason = 'lunch' WHERE name = 'main'")
    found = said(settings, "account main is reducing: lunch")
    assert (found.well, "tallydesk resume main" in found.remedy) == (False, True)
    connection.execute("UPDATE account SET halted = true WHERE name = 'main'")
    assert "accept" not in said(settings, "account main is halted: lunch").remedy


def test_the_remedy_for_a_large_difference_says_that_setting_it_back_accepts_it(
    settings: Settings, connection: psycopg.Connection[Any]
) -> None:
    connection.execute("UPDATE account SET halted = true WHERE name = 'main'")
    connection.execute("SET tallydesk.process = 'worker'")
    connection.execute("INSERT INTO account_drift (account_id, asset_id, drift, halted_at) VALUES (1, 1, -9, now())")
    remedy = said(settings, "account main is halted").remedy
    assert "Setting halted to false" in remedy
    assert "accepts the difference: the next round books it" in remedy
