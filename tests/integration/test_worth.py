"""What everything is worth: totals of accounts, old readings, rates in holding and performance."""

from decimal import Decimal
from typing import Any

import pytest

from tests.plugins.books import Books

ASSETS = {"USDT": 1, "BTC": 2, "ETH": 3, "BNB": 4, "DOGE": 5}


@pytest.fixture
def worth(books: Books) -> Books:
    """Two accounts in mode simulator, of which each has something; rates of BTC and ETH."""
    rate(books, "BTC", 50000)
    rate(books, "ETH", 2000, "10 min")
    read(books, 1, USDT=100, BTC=2)
    read(books, 2, ETH=3, DOGE=7)
    return books


def rate(books: Books, asset: str, value: Any, age: str = "1 s", unit: str = "USDT") -> None:
    books.trader(
        "INSERT INTO asset_rate (asset_id, unit_id, rate, source, path, priced_at)"
        " VALUES (%s, %s, %s, 'market', '{a:B/C}', now() - %s::interval)",
        ASSETS[asset], ASSETS[unit], value, age,
    )  # fmt: skip


def read(books: Books, account: int, age: str = "1 s", **owned: Any) -> None:
    """The account was read so long ago and owned this."""
    books.trader("INSERT INTO account_read VALUES (%s, now() - %s::interval)", account, age)
    for asset, total in owned.items():
        books.trader(
            "INSERT INTO account_balance VALUES (%s, %s, %s, %s, 0, 0, true, now() - %s::interval)",
            account, ASSETS[asset], total, total, age,
        )  # fmt: skip


def totals(books: Books) -> dict[str | None, Any]:
    return {row.account: row for row in books.execute("SELECT * FROM account_total WHERE mode = 'simulator'")}


def test_each_account_and_all_of_a_mode(worth: Books) -> None:
    found = totals(worth)
    main, elsewhere, every = found["main"], found["elsewhere"], found[None]
    assert (main.exchange, main.value, main.unit, main.assets, main.unpriced) == ("sim", 100100, "USDT", 2, None)
    assert (elsewhere.value, elsewhere.unpriced, elsewhere.old_rates) == (6000, ["DOGE"], ["ETH"])
    assert (every.exchange, every.value, every.unpriced, every.old_rates) == (None, 106100, ["DOGE"], ["ETH"])
    assert every.rate_age.total_seconds() == 600
    assert [row.stale for row in (main, elsewhere, every)] == [False] * 3


def test_play_money_is_not_added_to_real_money(worth: Books) -> None:
    worth.execute("INSERT INTO account (name, exchange_id, mode) VALUES ('real', 2, 'live')")
    number = worth.value("SELECT id FROM account WHERE name = 'real'")
    read(worth, number, USDT=5)
    assert totals(worth)[None].value == 106100
    rows = worth.execute("SELECT account, value FROM account_total WHERE mode = 'live' ORDER BY account")
    assert [tuple(row) for row in rows] == [("real", 5), (None, 5)]


def test_a_dead_venue_keeps_its_last_values_and_says_that_they_are_old(worth: Books) -> None:
    worth.trader("UPDATE account_read SET failed_at = now(), error = 'Unknown: cut off' WHERE account_id = 1")
    found = totals(worth)
    assert (found["main"].value, found["main"].stale) == (100100, True)
    assert found["main"].note == "main: could not be read: Unknown: cut off"
    note = "no rate of DOGE: no job has looked for it yet"
    assert (found["elsewhere"].stale, found["elsewhere"].note) == (False, note)
    both = f"{found['main'].note}; {note}"
    assert (found[None].value, found[None].stale, found[None].note) == (106100, True, both)
    rows = worth.execute("SELECT DISTINCT account, stale FROM account_value ORDER BY account")
    assert [tuple(row) for row in rows] == [("elsewhere", False), ("main", True)]


@pytest.mark.parametrize(("age", "stale"), [("59 s", False), ("61 s", True)])
def test_what_was_not_read_for_long_is_old(books: Books, age: str, stale: bool) -> None:
    read(books, 1, age, USDT=100)
    row = totals(books)["main"]
    assert (row.value, row.stale, row.note) == (100, stale, "main: was not read lately" if stale else None)
    assert books.value("SELECT stale FROM account_value") == stale
    books.execute("UPDATE setting SET balance_fresh = '2 min'")
    assert totals(books)["main"].stale is False


def test_never_read_is_not_nothing(books: Books) -> None:
    read(books, 2)
    found = totals(books)
    assert (found["main"].value, found["main"].stale, found["main"].note) == (None, True, "main: was never read")
    assert (found["main"].read_at, found["main"].age) == (None, None)
    assert (found["elsewhere"].value, found["elsewhere"].stale) == (0, False)
    assert (found[None].value, found[None].stale) == (0, True)


def test_what_has_no_rate_is_listed_and_not_nothing(books: Books) -> None:
    read(books, 1, DOGE=7)
    assert (totals(books)["main"].value, totals(books)["main"].unpriced) == (None, ["DOGE"])
    row = books.row("SELECT * FROM account_value")
    assert (row.total, row.value, row.rate_state, row.rate_age) == (7, None, "missing", None)


@pytest.mark.parametrize(("age", "state"), [("1 s", "fresh"), ("4 min 59 s", "fresh"), ("5 min 1 s", "stale")])
def test_how_old_a_rate_is(books: Books, age: str, state: str) -> None:
    rate(books, "BTC", 50000, age)
    read(books, 1, BTC=1, USDT=1)
    rows = {row.asset: row for row in books.execute("SELECT * FROM account_value")}
    assert (rows["BTC"].rate_state, rows["BTC"].value) == (state, 50000)
    assert (rows["USDT"].rate_state, rows["USDT"].value, rows["USDT"].rate_age) == ("unit", 1, None)
    assert books.value("SELECT state FROM rates") == state


def test_another_unit(worth: Books) -> None:
    worth.execute("UPDATE setting SET unit = 'BTC'")
    main = totals(worth)["main"]
    assert (main.value, main.unit, main.unpriced) == (2, "BTC", ["USDT"])  # BTC in BTC; USDT waits for its rate
    worth.execute("INSERT INTO rates (asset, unit, rate) VALUES ('USDT', 'BTC', 0.00002)")
    main = totals(worth)["main"]
    assert (main.value, main.unpriced) == (Decimal("2.002"), None)


def test_holdings_in_the_common_unit(worth: Books) -> None:
    worth.candle(60000)
    worth.strategy(deposit=1000)
    worth.trade("buy", "0.01", 50000)
    rows = {row.asset: row for row in worth.execute("SELECT * FROM holding")}
    assert (rows["BTC"].value, rows["BTC"].common_value, rows["BTC"].common_unit) == (600, 500, "USDT")
    assert (rows["BTC"].rate_state, rows["USDT"].rate_state, rows["USDT"].common_value) == ("fresh", "unit", 500)
    made = worth.performance()
    assert (made.equity, made.common_equity, made.profit, made.common_profit) == (1100, 1000, 100, 0)
    assert (made.common_unpriced, made.old_rates, made.common_unit) == (None, None, "USDT")


def test_a_strategy_told_in_another_unit(worth: Books) -> None:
    worth.candle(50000)
    worth.strategy("b", unit="BTC")
    worth.deposit(2, "BTC", "b")
    worth.deposit(1000, "USDT", "b")
    made = worth.performance("b")
    assert (made.unit, made.equity, made.common_equity) == ("BTC", Decimal("2.02"), 101000)
    assert made.common_profit == 0
    worth.trader("UPDATE asset_rate SET rate = 60000, priced_at = now() - interval '6 min' WHERE asset_id = 2")
    made = worth.performance("b")
    assert (made.equity, made.common_equity, made.old_rates) == (Decimal("2.02"), 121000, ["BTC"])
    assert made.common_profit == 121000 - Decimal("2.02") * 60000
    assert made.rate_age.total_seconds() == 360


def test_an_asset_that_no_market_of_its_exchange_prices_has_a_value_over_others(worth: Books) -> None:
    worth.strategy(deposit=100)
    worth.candle(1, "BNB/USDT")
    worth.deposit(5, "BNB")
    worth.execute("DELETE FROM bucket")
    assert worth.performance().unpriced == ["BNB"]
    assert (worth.performance().common_unpriced, worth.performance().common_profit) == (["BNB"], None)
    assert worth.performance().common_equity == 100
    rate(worth, "BNB", 2)
    assert (worth.performance().common_unpriced, worth.performance().common_equity) == (None, 110)


def test_equity_of_then_at_the_rate_of_then(books: Books) -> None:
    books.candle(50000)
    books.strategy("b", unit="BTC")
    books.strategy("u")
    points = """INSERT INTO equity_point (strategy_id, at, equity, unit_value)
        SELECT s, '2024-01-01Z'::timestamptz + n * interval '1 h', 2, 1
          FROM generate_series(0, 3) n, unnest('{1,2}'::int[]) s"""
    books.trader(points)
    books.trader("""INSERT INTO asset_rate_point
        SELECT 2, 1, '2024-01-01 00:30Z'::timestamptz + n * interval '90 min', 100 + n
        FROM generate_series(0, 1) n""")
    rows = books.execute("SELECT * FROM equity_history WHERE strategy = 'b' ORDER BY at")
    assert [row.common_equity for row in rows] == [None, 200, 202, 202]
    assert [str(row.rate_age) for row in rows] == ["None", "0:30:00", "0:00:00", "1:00:00"]
    rows = books.execute("SELECT * FROM equity_history WHERE strategy = 'u' ORDER BY at")
    assert {row.common_equity for row in rows} == {2}


def test_reading_what_things_are_worth_is_quick(committed_books: Books) -> None:
    """With 2,000 assets that have rates, a year of their history, and two accounts of 200 assets each."""
    books = committed_books
    books.execute("INSERT INTO asset (code) SELECT 'A' || n FROM generate_series(1, 2000) n")
    books.trader("""INSERT INTO asset_rate (asset_id, unit_id, rate, source, path, priced_at)
        SELECT id, 1, id, 'market', '{a:B/C}', now() FROM asset WHERE id > 5""")
    books.trader("""INSERT INTO asset_rate_point SELECT 6 + n % 2000, 1, now() - n * interval '1 h', 1
        FROM generate_series(1, 50000) n""")
    books.trader("INSERT INTO account_read SELECT id, now() FROM account")
    books.trader("""INSERT INTO account_balance SELECT c.id, a.id, 1, 1, 0, 1, true, now()
        FROM account c, asset a WHERE a.id BETWEEN 100 AND 299""")
    for number in range(5):
        books.strategy(f"s{number}", deposit=100)
    books.execute("ANALYZE")
    assert books.value("SELECT value > 0 FROM account_total WHERE account = 'main'")
    limit = {"account_total": 10.0, "holding": 5.0, "performance": 5.0, "unit_rate(7::smallint)": 5.0}
    for view, most in limit.items():
        plans = [books.value(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) SELECT * FROM {view}")[0] for _ in range(7)]
        spent = min(plan["Execution Time"] for plan in plans)
        assert spent < most, view
        assert "asset_rate_point" not in str(plans[0])
