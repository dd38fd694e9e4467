"""A strategy can be given what is at the venue and nobody's yet, and no more: else it would spend another's money."""

from typing import Any

import psycopg
import pytest

DEPOSIT = "INSERT INTO orders (strategy, type, asset, quantity) VALUES (%s, 'deposit', 'USDT', %s)"
SET_UP = """
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO asset (code) VALUES ('USDT');
INSERT INTO account (name, exchange_id, mode) SELECT 'main', id, 'simulator' FROM exchange;
INSERT INTO strategy (name, account_id, unit_id)
  SELECT n.name, account.id, asset.id FROM account, asset, unnest('{a,b}'::text[]) n (name);
"""
OPEN = """
INSERT INTO adjustment (account_id, asset_id, kind, quantity, reason)
  SELECT account.id, asset.id, 'opening', 300, 'first reading' FROM account, asset;
UPDATE account SET opened_at = now();
"""


@pytest.fixture
def desk(connection: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    connection.execute("SET tallydesk.process = 'worker'")
    connection.execute(SET_UP)
    return connection


def test_up_to_what_is_unallocated_a_deposit_passes(desk: psycopg.Connection[Any]) -> None:
    desk.execute(OPEN)
    desk.execute(DEPOSIT, ["a", 100])
    desk.execute(DEPOSIT, ["b", 200])
    assert desk.execute("SELECT unallocated FROM reconciliation").fetchall() == [(0,)]


def test_above_it_a_deposit_is_refused_and_changes_nothing(desk: psycopg.Connection[Any]) -> None:
    desk.execute(OPEN)
    desk.execute(DEPOSIT, ["a", 100])
    with pytest.raises(
        psycopg.errors.CheckViolation, match="account main has 200 USDT that no strategy was given yet, not 201"
    ):
        desk.execute(DEPOSIT, ["b", 201])
    assert desk.execute("SELECT strategy, free FROM allowance").fetchall() == [("a", 100)]


def test_what_another_gives_back_can_be_given_again(desk: psycopg.Connection[Any]) -> None:
    desk.execute(OPEN)
    desk.execute(DEPOSIT, ["a", 300])
    desk.execute("INSERT INTO orders (strategy, type, asset, quantity) VALUES ('a', 'withdrawal', 'USDT', 50)")
    desk.execute(DEPOSIT, ["b", 50])


def test_before_the_account_was_ever_read_a_deposit_may_come_first(desk: psycopg.Connection[Any]) -> None:
    desk.execute(DEPOSIT, ["a", 1000])
    assert desk.execute("SELECT free FROM allowance").fetchall() == [(1000,)]
