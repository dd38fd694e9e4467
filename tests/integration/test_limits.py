"""The view limits and its neighbours: what people write, what is refused, what is said to be used."""

from decimal import Decimal
from typing import Any

import pytest

from tests.plugins.books import Books

AMOUNTS = ("max_order_value", "max_position", "max_daily_loss", "price_collar")
COUNTS = ("max_open_orders", "max_orders_per_minute")
NONSENSE = [(rule, value) for rule in AMOUNTS for value in ("0", "-1", "NaN", "Infinity")]
NONSENSE += [(rule, value) for rule in COUNTS for value in ("0", "-1")]
YESTERDAY = "date_trunc('day', clock_timestamp(), 'UTC') - interval '1 h'"


def used(books: Books, rule: str, strategy: str | None = "s") -> Any:
    """(used, remaining, unit) of one rule."""
    rows = books.execute(
        "SELECT used, remaining, unit FROM risk_usage WHERE rule = %s AND strategy IS NOT DISTINCT FROM %s",
        rule,
        strategy,
    )
    (row,) = rows
    return tuple(row)


def test_limits_are_written_by_names_changed_and_taken_away(books: Books) -> None:
    books.strategy(deposit=100)
    row = books.row("INSERT INTO limits (strategy, max_order_value, price_collar) VALUES ('s', 50, 0.05) RETURNING *")
    assert tuple(row) == ("main", "s", "USDT", Decimal(50), None, None, None, None, Decimal("0.05"))
    books.execute("INSERT INTO limits (account, max_open_orders) VALUES ('main', 3)")
    books.execute("UPDATE limits SET max_order_value = NULL, max_daily_loss = 7 WHERE strategy = 's'")
    rows = books.execute(
        "SELECT strategy, unit, max_order_value, max_open_orders, max_daily_loss FROM limits ORDER BY 1"
    )
    assert [tuple(row) for row in rows] == [("s", "USDT", None, None, 7), (None, "USDT", None, 3, None)]
    books.execute("DELETE FROM limits WHERE strategy = 's'")
    assert books.value("SELECT count(*) FROM limits") == 1


@pytest.mark.parametrize(("rule", "value"), NONSENSE)
def test_nonsense_is_refused_by_name(books: Books, rule: str, value: str) -> None:
    books.strategy()
    statement = f"INSERT INTO limits (strategy, {rule}) VALUES ('s', '{value}')"
    assert books.refused(statement).startswith(f"{rule} is {value}: it must be a finite number above zero")
    books.execute(f"INSERT INTO limits (strategy, {rule}) VALUES ('s', 1)")
    assert books.refused(f"UPDATE limits SET {rule} = '{value}'").startswith(f"{rule} is {value}: it must be")
    assert books.refused(f"UPDATE risk_limit SET {rule} = '{value}'").startswith(f"{rule} is {value}: it must be")


@pytest.mark.parametrize(
    ("columns", "values", "words"),
    [
        ("max_open_orders", "1", "limits are of a strategy or of an account: name one"),
        ("strategy", "'nobody'", 'unknown strategy "nobody": there is s'),
        ("account", "'nobody'", 'unknown account "nobody": there is elsewhere, main'),
        ("account, unit", "'main', 'GOLD'", 'unknown unit "GOLD": it is an asset, such as USDT'),
        ("strategy, unit", "'s', 'BTC'", "unit of strategy s is USDT: its limits are told in that; name it, or none"),
        ("strategy, account", "'s', 'elsewhere'", "strategy s trades on account main: name that one, or none"),
        ("account", "'elsewhere'", "unit is not given, and the strategies of account elsewhere have none yet: name"),
        ("strategy, price_collar", "'s', 1.01", "price_collar is 1.01: it is a share, at most 1 (0.05 is 5 %)"),
    ],
)
def test_what_is_refused_in_words(books: Books, columns: str, values: str, words: str) -> None:
    books.strategy()
    assert books.refused(f"INSERT INTO limits ({columns}) VALUES ({values})").startswith(words)


def test_one_row_of_limits_for_each_and_its_owner_is_fixed(books: Books) -> None:
    books.strategy()
    books.execute("INSERT INTO limits (strategy, max_open_orders) VALUES ('s', 1)")
    again = "INSERT INTO limits (strategy, max_open_orders) VALUES ('s', 2)"
    assert books.refused(again) == "strategy s has limits already: UPDATE limits SET ... WHERE strategy = 's'"
    books.execute("INSERT INTO limits (account, max_open_orders) VALUES ('main', 1)")
    again = "INSERT INTO limits (account, max_open_orders) VALUES ('main', 2)"
    assert books.refused(again).startswith(
        "account main has limits already: UPDATE limits SET ... WHERE account = 'main'"
    )
    fixed = "account, strategy and unit of limits are fixed: DELETE FROM limits and insert others"
    assert books.refused("UPDATE limits SET unit = 'BTC' WHERE strategy = 's'") == fixed
    assert books.refused("UPDATE risk_limit SET unit_id = 2 WHERE strategy_id IS NOT NULL") == fixed


def test_the_unit_of_an_account_is_what_its_strategies_share_or_is_named(books: Books) -> None:
    books.strategy("s")
    books.strategy("t", unit="BTC")
    refusal = books.refused("INSERT INTO limits (account, max_open_orders) VALUES ('main', 1)")
    assert refusal.startswith("unit is not given, and the strategies of account main have BTC, USDT: name the asset")
    books.execute("INSERT INTO limits (account, unit, max_open_orders) VALUES ('main', 'BTC', 1)")
    assert books.value("SELECT unit FROM limits") == "BTC"


def test_state_follows_what_people_write(books: Books) -> None:
    states = []
    for change in ("reducing = true", "halted = true", "reducing = false", "halted = false"):
        books.execute(f"UPDATE account SET {change} WHERE name = 'main'")
        states.append(books.value("SELECT state FROM account WHERE name = 'main'"))
    assert states == ["reducing", "halted", "halted", "active"]


def test_what_is_used_of_positions_and_open_orders(books: Books) -> None:
    books.strategy(deposit=1000)
    books.candle(100)
    books.execute(
        "INSERT INTO limits (strategy, max_position, max_open_orders, max_order_value) VALUES ('s', 500, 5, 9)"
    )
    books.execute("INSERT INTO limits (account, unit, max_open_orders) VALUES ('main', 'USDT', 7)")
    assert used(books, "max_position") == (0, 500, "USDT")
    books.trade("buy", 2, 100)
    assert used(books, "max_position") == (200, 300, "USDT")
    resting = books.queue(type="limit", limit_price=90, quantity=1)
    books.trader('UPDATE "order" SET sent_price = 90 WHERE id = %s', resting)
    books.submit(resting, 90)
    books.move(resting, "accepted")
    assert used(books, "max_position") == (290, 210, "USDT")
    assert used(books, "max_open_orders") == (1, 4, None)
    assert used(books, "max_open_orders", None) == (1, 6, None)
    assert used(books, "max_order_value") == (None, None, "USDT")
    books.fill(resting, "0.5", 90)
    assert used(books, "max_position") == (295, 205, "USDT")
    books.move(resting, "canceled")
    assert used(books, "max_position") == (250, 250, "USDT")
    assert used(books, "max_open_orders") == (0, 5, None)


def test_the_day_s_loss_is_realised_and_unrealised_and_no_deposit_is_a_profit(books: Books) -> None:
    books.strategy(deposit=1000)
    books.execute("INSERT INTO limits (strategy, max_daily_loss) VALUES ('s', 50)")
    books.candle(100)
    books.trade("buy", 2, 100)
    assert used(books, "max_daily_loss") == (0, 50, "USDT")
    books.candle(90)
    assert used(books, "max_daily_loss") == (20, 30, "USDT")  # unrealised
    books.trade("sell", 1, 80)
    books.deposit(500)
    books.withdraw(100)
    assert used(books, "max_daily_loss") == (30, 20, "USDT")  # 20 of it realised
    books.candle(200)
    assert used(books, "max_daily_loss") == (0, 50, "USDT")
    assert books.value("SELECT loss FROM risk_losses(ARRAY(SELECT id FROM risk_limit))") == -80


def test_the_day_begins_with_the_worth_at_midnight(books: Books) -> None:
    number = books.strategy(deposit=1000)
    books.candle(100)
    books.trade("buy", 2, 100)
    books.candle(50)  # 100 lost, yesterday
    with_trigger_off = 'ALTER TABLE "order" DISABLE TRIGGER order_update'
    books.execute(with_trigger_off)
    books.execute(f'UPDATE "order" SET created_at = {YESTERDAY}')
    books.execute('ALTER TABLE "order" ENABLE TRIGGER order_update')
    books.execute("INSERT INTO limits (strategy, max_daily_loss) VALUES ('s', 50)")
    assert used(books, "max_daily_loss")[0] == 100  # nothing was sampled since the deposit: all of it counts
    books.trader(
        f"""INSERT INTO equity_point (strategy_id, at, equity, unit_value)
        SELECT strategy_id, {YESTERDAY} + interval '1 min', equity, unit_value FROM equity WHERE strategy_id = %s""",
        number,
    )
    assert used(books, "max_daily_loss") == (0, 50, "USDT")
    books.candle(40)
    books.deposit(1000)
    assert used(books, "max_daily_loss") == (20, 30, "USDT")


def test_a_loss_that_nobody_can_tell_is_not_zero(books: Books) -> None:
    books.strategy(deposit=1000)
    books.candle(10, "BNB/USDT")
    books.execute("INSERT INTO limits (strategy, max_daily_loss) VALUES ('s', 50)")
    books.execute("INSERT INTO limits (account, unit, max_daily_loss) VALUES ('main', 'DOGE', 50)")
    assert used(books, "max_daily_loss")[0] == 0
    assert used(books, "max_daily_loss", None) == (None, None, "DOGE")
    assert books.value(
        "SELECT unpriced FROM risk_losses(ARRAY(SELECT id FROM risk_limit WHERE strategy_id IS NULL))"
    ) == ["USDT"]


def test_the_loss_of_an_account_is_that_of_its_strategies_together(books: Books) -> None:
    books.strategy("s", deposit=1000)
    books.strategy("t", deposit=1000)
    books.execute("INSERT INTO limits (account, max_daily_loss) VALUES ('main', 50)")
    books.candle(100)
    books.trade("buy", 2, 100)
    books.trade("buy", 1, 110, strategy="t")
    books.candle(95)
    assert used(books, "max_daily_loss", None) == (25, 25, "USDT")
    books.strategy("other", unit="DOGE")  # it never had anything: its unit need not have a price
    assert used(books, "max_daily_loss", None) == (25, 25, "USDT")


def test_a_user_writes_limits_and_a_reader_reads_them(books: Books) -> None:
    books.strategy()
    books.execute("SET LOCAL ROLE tallydesk_user")
    books.execute("INSERT INTO limits (strategy, max_open_orders) VALUES ('s', 1)")
    books.execute("UPDATE limits SET max_open_orders = 2")
    books.execute("UPDATE account SET reducing = true, halt_reason = 'lunch' WHERE name = 'main'")
    books.execute("DELETE FROM limits")
    books.execute("INSERT INTO limits (strategy, max_daily_loss, max_position) VALUES ('s', 1, 1)")
    books.execute("SET LOCAL ROLE tallydesk_reader")
    assert books.value("SELECT count(*) FROM risk_usage WHERE rule = 'max_daily_loss'") == 1
    books.execute("RESET ROLE")


def test_nobody_writes_what_traders_count(books: Books) -> None:
    books.strategy()
    books.execute("INSERT INTO limits (strategy, max_orders_per_minute) VALUES ('s', 9)")
    insert = "INSERT INTO risk_sent (risk_limit_id, orders) SELECT id, 4 FROM risk_limit"
    assert "traders count what they send" in books.refused(insert)
    books.trader(insert)
    assert used(books, "max_orders_per_minute") == (4, 5, None)
    assert "traders count what they send" in books.refused("DELETE FROM risk_sent")
    books.execute("DELETE FROM limits")
    assert books.value("SELECT count(*) FROM risk_sent") == 0
