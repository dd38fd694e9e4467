"""What people write: each right row passes, each wrong one is refused in words that say what to do."""

from decimal import Decimal
from typing import Any

import pytest

from tests.plugins.books import BTC_USDT, Books

DEPOSIT = {"strategy": "s", "type": "deposit", "asset": "USDT", "quantity": "100"}
MARKET = {"strategy": "s", "type": "market", "side": "buy", "market": BTC_USDT}
LIMIT = MARKET | {"type": "limit", "limit_price": "50000", "quantity": "0.001"}

HOW_TO_CANCEL = "to cancel it: UPDATE orders SET cancel_requested_at = now() WHERE id = "


def insert(row: dict[str, Any]) -> tuple[str, list[Any]]:
    return f"INSERT INTO orders ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})", list(row.values())


@pytest.mark.parametrize(
    "row",
    [
        DEPOSIT,
        DEPOSIT | {"quantity": "0.000000000000000001"},
        DEPOSIT | {"quantity": "99999999999999999999"},
        DEPOSIT | {"asset": "BTC"},
        MARKET,
        MARKET | {"quantity": "0.001"},
        MARKET | {"quote_quantity": "60"},
        MARKET | {"side": "sell", "expires_at": "2030-01-01Z", "bucket_time": "2024-01-01Z"},
        LIMIT,
        LIMIT | {"quantity": None},
        LIMIT | {"time_in_force": "PO"},
        MARKET | {"trigger_price": "40000"},
        LIMIT | {"trigger_price": "40000", "trigger_when": "falls", "time_in_force": "FOK"},
        MARKET | {"trail": "0.05"},
    ],
    ids=lambda row: "-".join(f"{key}={value}" for key, value in row.items() if key != "strategy"),
)
def test_right_rows_pass(books: Books, row: dict[str, Any]) -> None:
    books.candle(50000)
    books.strategy()
    statement, values = insert(row)
    books.execute(statement, *values)
    shown = books.row(f"SELECT {', '.join(row)}, status FROM orders")
    for name, value in row.items():
        if isinstance(getattr(shown, name), Decimal):
            assert getattr(shown, name) == Decimal(value)
        elif isinstance(getattr(shown, name), str):
            assert getattr(shown, name) == value
    first = "waiting" if row.keys() & {"trigger_price", "trail"} else "queued"
    assert shown.status == ("posted" if row["type"] == "deposit" else first)


AMOUNTS = {
    "NaN": "it must be a finite number above zero",
    "Infinity": "it must be a finite number above zero",
    "-Infinity": "it must be a finite number above zero",
    "-1": "it must be a finite number above zero",
    "0": "it must be a finite number above zero",
    "100000000000000000000": "it must be below 1e20",
    "0.0000000000000000001": "the least is 0.000000000000000001",
}


@pytest.mark.parametrize(("value", "why"), AMOUNTS.items())
def test_amounts_that_are_none(books: Books, value: str, why: str) -> None:
    books.strategy(deposit=100)
    for row, field in [
        (DEPOSIT, "quantity"),
        (DEPOSIT | {"type": "withdrawal"}, "quantity"),
        (MARKET, "quantity"),
        (MARKET, "quote_quantity"),
        (LIMIT, "quantity"),
        (LIMIT, "limit_price"),
        (MARKET, "trigger_price"),
    ]:
        statement, values = insert(row | {field: value})
        assert books.refused(statement, *values) == f"{field} is {value}: {why}"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e20", "-1e20"])
def test_an_amount_is_finite(books: Books, value: str) -> None:
    assert books.value("SELECT '-1.5'::amount") == Decimal("-1.5")
    words = "must_be_a_finite_number" if value == "NaN" else "numeric field overflow"
    assert words in books.refused(f"SELECT '{value}'::amount")


SHAPES = [
    (DEPOSIT | {"strategy": "nobody"}, 'unknown strategy "nobody": there is s'),
    (MARKET | {"strategy": None}, 'unknown strategy "": there is s'),
    (MARKET | {"type": "stop"}, 'unknown type "stop": market, limit, deposit or withdrawal'),
    (MARKET | {"type": None}, 'unknown type "": market, limit, deposit or withdrawal'),
    (MARKET | {"side": "hold"}, 'unknown side "hold": buy or sell'),
    (
        MARKET | {"market": "BTC/USDT"},
        'unknown market "BTC/USDT": write exchange:symbol; sim has '
        "sim:BNB/USDT, sim:BTC/USDT, sim:ETH/BTC, sim:ETH/USDT",
    ),
    (
        MARKET | {"market": "sim:XRP/USDT"},
        'unknown market "sim:XRP/USDT": write exchange:symbol; sim has '
        "sim:BNB/USDT, sim:BTC/USDT, sim:ETH/BTC, sim:ETH/USDT",
    ),
    (
        MARKET | {"market": "other:BTC/USDT"},
        "strategy s trades on account main, whose exchange does not have this market",
    ),
    (DEPOSIT | {"asset": "XRP"}, 'unknown asset "XRP": known are BNB, BTC, DOGE, ETH, USDT'),
    (DEPOSIT | {"asset": None}, "a deposit names an asset and a quantity, and nothing else"),
    (DEPOSIT | {"quantity": None}, "a deposit names an asset and a quantity, and nothing else"),
    (DEPOSIT | {"side": "buy"}, "a deposit names an asset and a quantity, and nothing else"),
    (
        DEPOSIT | {"type": "withdrawal", "market": BTC_USDT},
        "a withdrawal names an asset and a quantity, and nothing else",
    ),
    (DEPOSIT | {"limit_price": "1"}, "a deposit names an asset and a quantity, and nothing else"),
    (DEPOSIT | {"quote_quantity": "1"}, "a deposit names an asset and a quantity, and nothing else"),
    (DEPOSIT | {"bucket_time": "2024-01-01Z"}, "a deposit names an asset and a quantity, and nothing else"),
    (MARKET | {"side": None}, "a market order names a side and a market, and no asset"),
    (MARKET | {"market": None}, "a market order names a side and a market, and no asset"),
    (LIMIT | {"asset": "USDT"}, "a limit order names a side and a market, and no asset"),
    (LIMIT | {"limit_price": None}, "a limit order needs a limit_price"),
    (MARKET | {"limit_price": "1"}, "a market order takes no limit_price; a limit order does"),
    (
        MARKET | {"quantity": "1", "quote_quantity": "1"},
        "give quantity or quote_quantity or neither, not both",
    ),
    (DEPOSIT | {"trigger_price": "1"}, "a deposit names an asset and a quantity, and nothing else"),
    (DEPOSIT | {"after_id": 1}, "a deposit names an asset and a quantity, and nothing else"),
    (LIMIT | {"time_in_force": "GTD"}, 'unknown time_in_force "GTD": GTC, IOC, FOK or PO'),
    (MARKET | {"time_in_force": "IOC"}, "time_in_force is IOC: only a limit order has one"),
    (MARKET | {"trigger_when": "above", "trigger_price": "1"}, 'unknown trigger_when "above": rises or falls'),
    (MARKET | {"trigger_when": "rises"}, "trigger_when is rises: it needs a trigger_price"),
    (MARKET | {"after_id": 99}, "after_id is 99: there is no such order yet; it must be queued before"),
    (MARKET | {"parent_id": 99}, "parent_id is 99: there is no such order yet; it must be queued before"),
    (MARKET | {"after_id": 2}, "after_id is 2: there is no such order yet; it must be queued before"),
    (MARKET | {"after_id": 1}, "after_id is 1: that is a deposit; it must be a market or limit order"),
    (
        MARKET | {"status": "filled"},
        "give only strategy, type, side, market, asset, quantity, quote_quantity, limit_price, time_in_force, "
        "trigger_price, trigger_when, trail, after_id, parent_id, replaces_id, expires_at, bucket_time: the rest is "
        "kept by Tallydesk",
    ),
    (
        MARKET | {"expires_at": "infinity"},
        'new row for relation "order" violates check constraint "expires_at_is_between_the_years_1970_and_9000"',
    ),
    (
        MARKET | {"bucket_time": "-infinity"},
        'new row for relation "order" violates check constraint "bucket_time_is_between_the_years_1970_and_9000"',
    ),
]


@pytest.mark.parametrize(("row", "message"), SHAPES)
def test_rows_of_the_wrong_shape(books: Books, row: dict[str, Any], message: str) -> None:
    books.strategy(deposit=100)
    statement, values = insert(row)
    assert books.refused(statement, *values) == message
    assert books.value("SELECT count(*) FROM orders") == 1


def test_an_empty_desk_says_what_to_do_first(books: Books) -> None:
    statement, values = insert(DEPOSIT)
    assert books.refused(statement, *values) == 'unknown strategy "s": there is none yet (tallydesk strategy add)'


ORDER = (
    'INSERT INTO "order" (strategy_id, type, side, market_id, asset_id, quantity, quote_quantity, limit_price) VALUES '
)


def test_right_rows_written_to_the_table_itself(books: Books) -> None:
    books.strategy()
    books.execute(
        ORDER + "(1, 'deposit', NULL, NULL, 1, 100, NULL, NULL), (1, 'limit', 'buy', 1, NULL, 1, NULL, 9),"
        " (1, 'market', 'sell', 1, NULL, NULL, NULL, NULL)"
    )
    assert [row.status for row in books.execute("SELECT status FROM orders ORDER BY id")] == [
        "posted",
        "queued",
        "queued",
    ]


POSITIVE = 'value for domain positive_amount violates check constraint "must_be_a_finite_number_above_zero"'
DEPOSITS = "a_deposit_or_withdrawal_names_an_asset_and_a_quantity_only"
TRADES = "a_market_or_limit_order_names_a_side_and_a_market_and_no_asset"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("(1, 'deposit', NULL, NULL, 1, 'NaN', NULL, NULL)", POSITIVE),
        ("(1, 'deposit', NULL, NULL, 1, 0, NULL, NULL)", POSITIVE),
        ("(1, 'market', 'buy', 1, NULL, -1, NULL, NULL)", POSITIVE),
        ("(1, 'market', 'buy', 1, NULL, 1e-19, NULL, NULL)", POSITIVE),
        ("(1, 'market', 'buy', 1, NULL, 'Infinity', NULL, NULL)", "numeric field overflow"),
        ("(1, 'market', 'buy', 1, NULL, 1e20, NULL, NULL)", "numeric field overflow"),
        ("(1, 'deposit', NULL, NULL, NULL, 1, NULL, NULL)", DEPOSITS),
        ("(1, 'deposit', NULL, NULL, 1, NULL, NULL, NULL)", DEPOSITS),
        ("(1, 'withdrawal', 'buy', NULL, 1, 1, NULL, NULL)", DEPOSITS),
        ("(1, 'market', NULL, 1, NULL, 1, NULL, NULL)", TRADES),
        ("(1, 'market', 'buy', NULL, NULL, 1, NULL, NULL)", TRADES),
        ("(1, 'market', 'buy', 1, 1, 1, NULL, NULL)", TRADES),
        ("(1, 'limit', 'buy', 1, NULL, 1, NULL, NULL)", "a_limit_order_has_a_limit_price_and_no_other_has"),
        ("(1, 'market', 'buy', 1, NULL, 1, NULL, 1)", "a_limit_order_has_a_limit_price_and_no_other_has"),
        ("(1, 'market', 'buy', 1, NULL, 1, 1, NULL)", "quantity_or_quote_quantity_or_neither"),
        ("(99, 'market', 'buy', 1, NULL, 1, NULL, NULL)", "account_id"),
        ("(1, 'market', 'buy', 99, NULL, 1, NULL, NULL)", "order_market_id_fkey"),
        ("(1, 'market', 'buy', 5, NULL, 1, NULL, NULL)", "whose exchange does not have this market"),
    ],
)
def test_wrong_rows_written_to_the_table_itself(books: Books, values: str, message: str) -> None:
    books.strategy()
    assert message in books.refused(ORDER + values)
    assert books.value('SELECT count(*) FROM "order"') == 0


@pytest.mark.parametrize(
    "column",
    ["status", "venue_order_id", "hold_quantity", "fence", "submitted_at", "filled_quantity", "attempt", "reason"],
)
def test_an_order_is_born_empty(books: Books, column: str) -> None:
    books.strategy()
    value = {"status": "'filled'", "submitted_at": "now()"}.get(column, "'1'")
    message = books.refused(
        f"INSERT INTO \"order\" (strategy_id, type, side, market_id, {column}) VALUES (1, 'market', 'buy', 1, {value})"
    )
    assert message == (
        "a new order starts as queued and empty: "
        "give only strategy, type, market, side, quantities, limit_price, time_in_force, trigger_price, trigger_when, "
        "after_id, parent_id, expires_at"
    )


def test_an_order_belongs_to_the_account_of_its_strategy_and_expires_by_itself(books: Books) -> None:
    books.strategy()
    books.execute("UPDATE strategy SET order_ttl = '10 min'")
    books.execute(
        "INSERT INTO \"order\" (strategy_id, account_id, type, side, market_id) VALUES (1, 2, 'market', 'buy', 1)"
    )
    order = books.row('SELECT account_id, expires_at - created_at AS ttl FROM "order"')
    assert (order.account_id, order.ttl.total_seconds()) == (1, 600)


def test_one_order_per_strategy_and_candle(books: Books) -> None:
    books.strategy()
    books.strategy("t")
    books.queue(bucket_time="2024-01-01Z")
    books.queue(bucket_time="2024-01-01 01:00Z")
    books.queue(strategy="t", bucket_time="2024-01-01Z")
    books.queue()
    books.queue()
    statement, values = insert(MARKET | {"side": "sell", "bucket_time": "2024-01-01Z"})
    assert "one_order_per_strategy_and_candle" in books.refused(statement, *values)
    assert books.value("SELECT count(*) FROM orders") == 5


STRATEGY = """INSERT INTO strategy
  (name, account_id, unit_id, allowance_unit, stake, stake_unit, class, market_id, timeframe_id) VALUES """


@pytest.mark.parametrize(
    "values",
    [
        "('n', 1, 1, NULL, 100, '%', NULL, NULL, NULL)",
        "('n', 1, NULL, NULL, 100, '%', 'a.b:C', 1, 60)",
        "('n', 1, 1, 'BTC', 250, 'USDT', NULL, NULL, NULL)",
        "('n', 1, 1, '%', 0.1, 'BTC', 'a:B', 4, 60)",
    ],
)
def test_right_strategies_pass(books: Books, values: str) -> None:
    books.execute(STRATEGY + values)
    row = books.row("SELECT u.code AS unit, allowance_unit FROM strategy s JOIN asset u ON u.id = s.unit_id")
    assert row.unit == "USDT"
    assert row.allowance_unit == ("BTC" if "'BTC', 250" in values else "%" if "'%', 0.1" in values else "USDT")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            "('n', 1, 1, 'EUR', 100, '%', NULL, NULL, NULL)",
            'strategy n: allowance_unit "EUR" is neither % nor a known asset',
        ),
        (
            "('n', 1, 1, NULL, 100, 'BTC', NULL, NULL, NULL)",
            'strategy n: stake_unit "BTC" is neither % nor the quote asset of its market',
        ),
        (
            "('n', 1, 1, NULL, 100, 'USDT', NULL, 4, NULL)",
            'strategy n: stake_unit "USDT" is neither % nor the quote asset of its market',
        ),
        ("('n', 1, 1, NULL, 100, '%', NULL, 5, NULL)", "strategy n: its market is not at the exchange of its account"),
        ("('n', 1, 1, NULL, 101, '%', NULL, NULL, NULL)", "a_stake_in_percent_is_at_most_100"),
        ("('n', 1, 1, NULL, 0, 'USDT', NULL, NULL, NULL)", "must_be_a_finite_number_above_zero"),
        ("('n', 1, 1, NULL, 'NaN', 'USDT', NULL, NULL, NULL)", "must_be_a_finite_number_above_zero"),
        ("('n', 1, 1, NULL, 1, '%', 'a:B', NULL, 60)", "a_class_needs_a_market_and_a_timeframe"),
        ("('n', 1, 1, NULL, 1, '%', 'a.b', 1, 60)", "class_is_module_colon_class"),
        ("('n n', 1, 1, NULL, 1, '%', NULL, NULL, NULL)", "name_has_no_spaces"),
        ("('n', 1, NULL, NULL, 1, '%', NULL, NULL, NULL)", "unit_id"),
    ],
)
def test_wrong_strategies(books: Books, values: str, message: str) -> None:
    assert message in books.refused(STRATEGY + values)
    books.strategy()
    assert books.refused("UPDATE strategy SET account_id = 2") == (
        "strategy s: account and unit are fixed; add another strategy instead"
    )


@pytest.mark.parametrize("ttl", ["0", "-1 s", "2 years"])
def test_an_order_lives_for_up_to_a_year(books: Books, ttl: str) -> None:
    books.strategy()
    books.execute("UPDATE strategy SET order_ttl = '1 year'")
    books.queue()
    refusal = books.refused("UPDATE strategy SET order_ttl = %s", ttl)
    assert "order_ttl_is_above_zero_and_at_most_a_year" in refusal


@pytest.mark.parametrize(
    "options",
    [
        '{"apiKey": "k"}',
        '{"options": {"deep": [{"secret": "s"}]}}',
        '{"API_KEY": "k"}',
        '{"password": "p"}',
        '{"privateKey": "p"}',
        '{"token": "t"}',
        '{"apiSecret": "s"}',
        '{"passphrase": "p"}',
        '{"headers": {"Authorization": "Bearer t"}}',
        '{"headers": {"X-MBX-APIKEY": "k"}}',
    ],
)
def test_options_with_a_secret(books: Books, options: str) -> None:
    for table in ("account", "exchange"):
        refusal = books.refused(f"UPDATE {table} SET options = %s::jsonb", options)
        assert "options_hold_no_secret_put_it_in_the_environment" in refusal


def test_options_without_a_secret_pass(books: Books) -> None:
    options = (
        '{"urls": {"api": {"public": "http://127.0.0.1:1/api"}}, "options": {"tokenBucket": {"x": 1}}, "timeout": 9}'
    )
    books.execute("UPDATE account SET options = %s::jsonb", options)
    books.execute("UPDATE exchange SET options = %s::jsonb", options)
    for table in ("account", "exchange"):
        assert "options_is_an_object" in books.refused(f"UPDATE {table} SET options = '[]'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("price_margin = 1.1", "price_margin_is_between_0_and_1"),
        ("price_margin = 'NaN'", "price_margin_is_between_0_and_1"),
        ("receive_window = '61 s'", "receive_window_is_between_1_and_60_seconds"),
        ("receive_window = '0'", "receive_window_is_between_1_and_60_seconds"),
        ("credentials = 'a=b'", "credentials_is_a_prefix_of_environment_variables"),
        ("name = 'a:b'", "name_has_no_spaces_or_colons"),
    ],
)
def test_wrong_settings_of_an_account(books: Books, change: str, message: str) -> None:
    books.execute("UPDATE account SET price_margin = 0.5, receive_window = '10 s', credentials = 'MAIN_2'")
    assert message in books.refused(f"UPDATE account SET {change} WHERE id = 1")


CANDLE = "INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source) VALUES "


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("'NaN', 2, 1, 1, 1", "high_is_the_highest_and_finite"),
        ("1, 'NaN', 1, 1, 1", "high_is_the_highest_and_finite"),
        ("1, 2, 'NaN', 1, 1", "low_is_the_lowest_and_above_zero"),
        ("1, 2, 1, 'NaN', 1", "high_is_the_highest_and_finite"),
        ("1, 2, 1, 1, 'NaN'", "volume_is_finite_and_not_negative"),
        ("'NaN', 'NaN', 'NaN', 'NaN', 1", "high_is_the_highest_and_finite"),
        ("1, 'Infinity', 1, 1, 1", "high_is_the_highest_and_finite"),
        ("1, 1, 0, 1, 1", "low_is_the_lowest_and_above_zero"),
        ("1, 1, -1, 1, 1", "low_is_the_lowest_and_above_zero"),
        ("3, 2, 1, 1, 1", "high_is_the_highest_and_finite"),
        ("1, 2, 1, 0.5, 1", "low_is_the_lowest_and_above_zero"),
        ("1, 2, 1, 1, -1", "volume_is_finite_and_not_negative"),
    ],
)
def test_candles_that_are_none(books: Books, values: str, message: str) -> None:
    books.execute(CANDLE + "(1, 60, '2024-01-01Z', 1, 2, 1, 1, 0, 'fetched')")
    assert message in books.refused(CANDLE + f"(1, 60, '2024-01-02Z', {values}, 'fetched')")
    names = ("open", "high", "low", "close", "volume")
    change = ", ".join(f"{name} = {value}" for name, value in zip(names, values.split(", "), strict=True))
    assert message in books.refused(f"UPDATE bucket SET {change}")
    assert books.value("SELECT count(*) FROM bucket WHERE high = 2") == 1


def test_a_candle_closes_once_and_at_a_date(books: Books) -> None:
    books.candle(9)
    assert "one_bucket_per_market_timeframe_and_close" in books.refused(
        "INSERT INTO bucket SELECT gen_random_uuid(), market_id, timeframe_id, time_close, 1, 1, 1, 1, 1, source"
        " FROM bucket"
    )
    assert "time_close_is_between_the_years_1970_and_9000" in books.refused(
        CANDLE + "(1, 60, 'infinity', 1, 2, 1, 1, 0, 'fetched')"
    )
    assert "collect_since_is_between_the_years_1970_and_9000" in books.refused(
        "UPDATE bucket_feed SET collect_since = '-infinity'"
    )
