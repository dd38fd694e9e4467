"""Rates: which prices they rest on, what a dead venue does to them, and what a person fixes."""

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from procrastinate import App

from jobs import account, conversion, maintenance
from jobs.app import Context, build_app, defer_in
from tests.plugins._venue import Venue
from trader.config import load
from trader.db import Connection, Identity, connect, fetch_all, fetch_one, open_pool
from trader.errors import Unknown

IDENTITY = Identity("worker", "worker-1")
SEED = """
INSERT INTO asset (code) VALUES ('USDT'), ('USD'), ('BTC'), ('ADA'), ('DUST'), ('EUR');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance'), ('kraken', 'kraken');
INSERT INTO account (name, exchange_id, mode) VALUES ('main', 1, 'sandbox'), ('second', 2, 'sandbox');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) SELECT e, b.code || '/' || q.code, b.id, q.id
  FROM (VALUES (1, 'BTC', 'USDT'), (1, 'ADA', 'BTC'), (2, 'BTC', 'USD'), (2, 'ADA', 'USD')) x (e, base, quote)
  JOIN asset b ON b.code = base JOIN asset q ON q.code = quote;
UPDATE setting SET unit = 'USD';
INSERT INTO account_balance SELECT 1, id, 2, 2, 0, 2, true, now() FROM asset WHERE code IN ('ADA', 'BTC');
"""
BTC_USD = {"BTC/USD": ("49990", "50010", None)}
ADA_BTC = {"ADA/BTC": ("0.00001", "0.00001", None)}


class Desk:
    """A worker in this process, two venues in memory, and the rates that come of them."""

    def __init__(self, db: Connection, app: App, context: Context, venues: dict[str, Venue]) -> None:
        self.db = db
        self.app = app
        self.context = context
        self.binance, self.kraken = venues["binance"], venues["kraken"]

    async def run(self) -> dict[str, Any]:
        """Run the job once; the rates by asset."""
        await self.work(conversion.TASK)
        return await self.rates()

    async def work(self, task: str) -> None:
        await defer_in(self.db, task, queueing_lock=task, lock=task)
        await self.app.run_worker_async(
            wait=False, delete_jobs="successful", additional_context={"context": self.context},
            install_signal_handlers=False, listen_notify=False,
        )  # fmt: skip
        assert await fetch_all(self.db, "SELECT * FROM procrastinate_jobs") == []

    async def rates(self) -> dict[str, Any]:
        return {row.asset: row for row in await fetch_all(self.db, "SELECT * FROM rates")}

    async def pass_time(self, minutes: int) -> None:
        """As if all that was read had been read so much earlier."""
        for table, column in (("ticker", "read_at"), ("price_read", "failed_at"), ("asset_rate", "priced_at")):
            await self.db.execute(
                f"UPDATE {table} SET {column} = {column} - make_interval(mins => {minutes})"  # type: ignore[arg-type]
            )


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    async with await connect(database, IDENTITY) as opened:
        await opened.execute(SEED)
        yield opened


@pytest.fixture
async def desk(db: Connection, database: str) -> AsyncIterator[Desk]:
    venues = {"binance": Venue(books=dict(ADA_BTC)), "kraken": Venue(books=dict(BTC_USD))}
    venues["sim"] = Venue(books={"DUST/USD": ("3", "3", None)})
    async with open_pool(database, IDENTITY, 4) as pool:
        context = Context(load({"HOME": "/nowhere"}), pool, connect=lambda row, _: venues[row.exchange_name])
        app = build_app(database, IDENTITY, [account, conversion, maintenance])
        async with app.open_async():
            yield Desk(db, app, context, venues)
        await context.close()


async def candle(db: Connection, market: str, close: float, age: str) -> None:
    """A feed of this market whose newest candle closed so long ago."""
    given = {"market": market, "close": close, "age": age}
    await db.execute(
        """INSERT INTO bucket_feed (market_id, timeframe_id, collect_since, newest)
           SELECT m.id, 1, '2020-01-01Z', date_trunc('minute', now() - %(age)s::interval)
             FROM market m JOIN exchange e ON e.id = m.exchange_id
            WHERE e.name || ':' || m.symbol = %(market)s""",
        given,
    )
    await db.execute(
        """INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
           SELECT f.market_id, 1, f.newest, %(close)s, %(close)s, %(close)s, %(close)s, 1, 'fetched'
             FROM bucket_feed f JOIN market m ON m.id = f.market_id JOIN exchange e ON e.id = m.exchange_id
            WHERE e.name || ':' || m.symbol = %(market)s""",
        given,
    )


async def test_a_rate_leads_over_two_exchanges(desk: Desk) -> None:
    rates = await desk.run()
    assert rates["BTC"].path == ["kraken:BTC/USD"]
    assert (rates["BTC"].rate, rates["BTC"].state) == (50000, "fresh")
    # kraken has no price of ADA/USD, so the longer way is looked for.
    assert rates["ADA"].path == ["binance:ADA/BTC", "kraken:BTC/USD"]
    assert str(rates["ADA"].rate) == "0.5"
    assert desk.kraken.asked_tickers == [["ADA/USD", "BTC/USD"]]
    assert desk.binance.asked_tickers == [["ADA/BTC"]]  # nobody needs BTC/USDT


async def test_only_what_is_needed_is_asked_for_and_in_one_request(desk: Desk) -> None:
    desk.kraken.books["ADA/USD"] = ("0.6", "0.6", None)
    rates = await desk.run()
    assert (rates["ADA"].path, str(rates["ADA"].rate)) == (["kraken:ADA/USD"], "0.6")
    assert desk.binance.asked_tickers == []
    assert len(desk.kraken.asked_tickers) == 1


async def test_nobody_owns_anything(desk: Desk) -> None:
    await desk.db.execute("DELETE FROM account_balance")
    assert await desk.run() == {}
    assert desk.kraken.asked_tickers == []


async def test_what_strategies_hold_and_are_told_in_counts(desk: Desk) -> None:
    await desk.db.execute("DELETE FROM account_balance")
    await desk.db.execute("INSERT INTO strategy (name, account_id, unit_id) SELECT 's', 1, id FROM asset"
                          " WHERE code = 'BTC'")  # fmt: skip
    assert set(await desk.run()) == {"BTC"}
    await desk.db.execute("INSERT INTO adjustment (account_id, asset_id, kind, quantity, reason)"
                          " SELECT 1, id, 'opening', 5, 'x' FROM asset WHERE code = 'ADA'")  # fmt: skip
    assert set(await desk.run()) == {"ADA", "BTC"}


async def test_a_dead_venue_leaves_its_rates_to_get_older(desk: Desk) -> None:
    await desk.run()
    desk.kraken.errors["tickers"] = Unknown("cut off")
    rates = await desk.run()
    assert (rates["BTC"].rate, rates["BTC"].state) == (50000, "fresh")  # a price of just now still is one
    await desk.pass_time(6)
    rates = await desk.run()
    assert (rates["BTC"].rate, rates["BTC"].state) == (50000, "stale")
    assert rates["BTC"].age.total_seconds() >= 360
    assert rates["BTC"].reason == ("no way to USD with fresh prices: none of kraken:BTC/USD; kraken: Unknown: cut off")
    read = await fetch_one(desk.db, "SELECT * FROM price_read WHERE exchange_id = 2")
    assert (read.error, read.read_at is None) == ("Unknown: cut off", False)
    assert read.failed_at > read.read_at

    asked = len(desk.kraken.asked_tickers)
    await desk.run()
    assert len(desk.kraken.asked_tickers) == asked  # left alone for half a minute
    desk.kraken.errors.clear()
    desk.kraken.books["BTC/USD"] = ("60000", "60000", None)
    await desk.pass_time(1)
    rates = await desk.run()
    assert (rates["BTC"].rate, rates["BTC"].state, rates["BTC"].reason) == (60000, "fresh", None)
    assert (await fetch_one(desk.db, "SELECT * FROM price_read WHERE exchange_id = 2")).error is None


async def test_a_stale_price_is_no_way_and_a_longer_fresh_one_is(desk: Desk) -> None:
    desk.kraken.books["ADA/USD"] = ("0.6", "0.6", None)
    await desk.run()
    del desk.kraken.books["ADA/USD"]
    assert (await desk.run())["ADA"].path == ["kraken:ADA/USD"]  # its last price is fresh yet
    await desk.pass_time(6)
    assert (await desk.run())["ADA"].path == ["binance:ADA/BTC", "kraken:BTC/USD"]


async def test_an_asset_without_any_market_is_missing_and_says_why(desk: Desk) -> None:
    await desk.db.execute("INSERT INTO account_balance SELECT 1, id, 2, 2, 0, 2, true, now() FROM asset"
                          " WHERE code IN ('DUST', 'USD')")  # fmt: skip
    desk.kraken.books.clear()
    rates = await desk.run()
    assert (rates["DUST"].rate, rates["DUST"].state, rates["DUST"].age) == (None, "missing", None)
    assert rates["DUST"].reason == "no active market leads to USD, not over others either"
    assert rates["BTC"].rate is None
    assert rates["BTC"].reason == "no way to USD with fresh prices: none of kraken:BTC/USD"
    assert "USD" not in rates


async def test_the_close_of_a_candle_is_a_price_while_it_is_fresh(desk: Desk) -> None:
    desk.kraken.errors["tickers"] = Unknown("cut off")
    await candle(desk.db, "kraken:BTC/USD", 51000, "4 min")
    rates = await desk.run()
    assert (rates["BTC"].rate, rates["BTC"].state) == (51000, "fresh")
    assert rates["BTC"].age.total_seconds() >= 240
    await desk.db.execute("UPDATE bucket_feed SET newest = newest - interval '2 min'")
    await desk.db.execute("UPDATE bucket SET time_close = time_close - interval '2 min'")
    await desk.db.execute("DELETE FROM asset_rate")
    assert (await desk.run())["BTC"].rate is None


async def test_a_candle_of_the_future_is_no_price(desk: Desk) -> None:
    desk.kraken.errors["tickers"] = Unknown("cut off")
    await candle(desk.db, "kraken:BTC/USD", 51000, "-4 years")
    assert (await desk.run())["BTC"].rate is None


@pytest.mark.parametrize("rate", ["1e131000", "1e-16000", "1e31", "1e-31", "NaN", "Infinity", "0", "-1"])
async def test_a_rate_that_cannot_be_is_refused(desk: Desk, rate: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="rate_"):
        await desk.db.execute("INSERT INTO rates (asset, unit, rate) VALUES ('BTC', 'USD', %s::numeric)", [rate])


async def test_the_largest_rates_one_after_the_other_can_be_told(desk: Desk) -> None:
    for asset, unit in (("ADA", "DUST"), ("DUST", "EUR"), ("EUR", "USD")):
        await desk.db.execute("INSERT INTO rates (asset, unit, rate) VALUES (%s, %s, 1e30)", [asset, unit])
    await desk.run()
    assert await fetch_all(desk.db, "SELECT * FROM account_total") != []


@pytest.mark.parametrize("change", ["UPDATE bucket_feed SET enabled = false", "UPDATE exchange SET replay = true"])
async def test_a_candle_of_history_is_no_price(desk: Desk, change: Any) -> None:
    desk.kraken.errors["tickers"] = Unknown("cut off")
    await candle(desk.db, "kraken:BTC/USD", 51000, "1 min")
    await desk.db.execute(change)
    assert (await desk.run())["BTC"].rate is None


async def test_a_market_that_is_not_traded_is_no_way(desk: Desk) -> None:
    await desk.run()
    await desk.db.execute("UPDATE market SET active = false WHERE symbol = 'BTC/USD'")
    rates = await desk.run()
    assert rates["BTC"].rate == 50000  # older, not gone
    assert rates["BTC"].reason == "no way to USD with fresh prices: none of kraken:ADA/USD"
    desk.kraken.books["ADA/USD"] = ("0.6", "0.6", None)
    rates = await desk.run()
    assert rates["BTC"].path == ["binance:ADA/BTC", "kraken:ADA/USD"]


async def test_play_money_does_not_price_real_money(desk: Desk) -> None:
    await desk.db.execute("INSERT INTO exchange (name, ccxt_id) VALUES ('sim', 'binance')")
    await desk.db.execute("INSERT INTO account (name, exchange_id, mode) VALUES ('trial', 3, 'simulator')")
    await desk.db.execute("INSERT INTO market (exchange_id, symbol, base_id, quote_id)"
                          " SELECT 3, 'DUST/USD', 5, 2")  # fmt: skip
    await desk.db.execute("INSERT INTO account_balance SELECT 3, 5, 2, 2, 0, 2, true, now()")
    dust = (await desk.run())["DUST"]
    assert dust.rate is None
    assert dust.reason == (
        "no active market leads to USD, not over others either; sim:DUST/USD: prices of a simulator count only where "
        "all accounts are of one"
    )


async def test_play_money_is_priced_where_all_accounts_are_play(desk: Desk) -> None:
    """Exchanges without an account, as for candles, change nothing; those that are offline are no markets at all."""
    await desk.db.execute(
        """INSERT INTO exchange (name, ccxt_id, offline) VALUES ('sim', 'binance', false), ('files', 'files', true);
           UPDATE market SET active = false;
           INSERT INTO market (exchange_id, symbol, base_id, quote_id)
             VALUES (3, 'DUST/USD', 5, 2), (4, 'EUR/USD', 6, 2);
           ALTER TABLE account DISABLE TRIGGER USER;
           UPDATE account SET mode = 'simulator', exchange_id = 3;
           ALTER TABLE account ENABLE TRIGGER USER;
           INSERT INTO account_balance SELECT 1, id, 2, 2, 0, 2, true, now() FROM asset WHERE code IN ('DUST', 'EUR')"""
    )
    rates = await desk.run()
    assert (rates["DUST"].rate, rates["DUST"].path) == (3, ["sim:DUST/USD"])
    assert rates["EUR"].reason == "no active market leads to USD, not over others either"


async def test_another_unit_says_that_its_rates_are_being_found(desk: Desk) -> None:
    await desk.run()
    async with await connect(desk.db.info.dsn, Identity("", "person")) as person:
        await person.execute("UPDATE setting SET unit = 'USDT'")
        with pytest.raises(psycopg.errors.RestrictViolation, match="rates of markets are computed"):
            await person.execute("UPDATE asset_rate SET rate = 1 WHERE source = 'market'")
    found = [row for row in await fetch_all(desk.db, "SELECT * FROM rates") if row.unit == "USDT"]
    assert {(row.asset, row.state) for row in found} == {("BTC", "missing"), ("ADA", "missing")}
    assert {row.reason.partition(":")[0] for row in found} == {"being found"}
    total = await fetch_one(desk.db, "SELECT * FROM account_total WHERE account = 'main'")
    assert total.unpriced == ["ADA", "BTC"]
    assert "no rate of BTC: being found: setting.unit has changed" in total.note
    desk.binance.books["BTC/USDT"] = ("40000", "40000", None)
    assert (await desk.run())["BTC"].rate == 40000
    total = await fetch_one(desk.db, "SELECT * FROM account_total WHERE account = 'main'")
    assert "no rate" not in (total.note or "")


async def test_a_person_fixes_a_rate_and_others_lead_over_it(desk: Desk) -> None:
    await desk.db.execute("UPDATE market SET active = false WHERE exchange_id = 2")
    await desk.db.execute("INSERT INTO rates (asset, unit, rate) VALUES ('USDT', 'USD', 0.9)")
    desk.binance.books["BTC/USDT"] = ("50000", "50000", None)
    rates = await desk.run()
    assert (rates["USDT"].state, str(rates["USDT"].rate), rates["USDT"].age) == ("fixed", "0.9", None)
    assert (rates["BTC"].rate, rates["BTC"].path) == (45000, ["binance:BTC/USDT", "fixed:USDT/USD"])
    await desk.db.execute("INSERT INTO rates (asset, unit, rate) VALUES ('BTC', 'USD', 7)")
    rates = await desk.run()
    assert (rates["BTC"].rate, rates["BTC"].state, rates["BTC"].path) == (7, "fixed", [])
    await desk.db.execute("UPDATE rates SET rate = 8 WHERE asset = 'BTC'")
    assert (await desk.run())["BTC"].rate == 8
    await desk.db.execute("DELETE FROM rates WHERE asset = 'BTC'")
    assert (await desk.run())["BTC"].rate == 45000


async def test_another_unit_is_obeyed_at_the_next_run(desk: Desk) -> None:
    await desk.run()
    desk.binance.books["BTC/USDT"] = ("40000", "40000", None)
    await desk.db.execute("UPDATE setting SET unit = 'USDT'")
    rates = await desk.run()
    assert {(row.asset, row.unit) for row in rates.values()} == {("BTC", "USDT"), ("ADA", "USDT")}
    assert rates["BTC"].rate == 40000


async def test_a_unit_that_no_exchange_lists_makes_no_rate(desk: Desk) -> None:
    async with await connect(desk.db.info.dsn, Identity("", "person")) as person:
        with pytest.raises(psycopg.errors.ForeignKeyViolation, match='unknown unit "XYZ"'):
            await person.execute("UPDATE setting SET unit = 'XYZ'")
    await desk.db.execute("ALTER TABLE setting DISABLE TRIGGER setting_check")
    await desk.db.execute("UPDATE setting SET unit = 'XYZ'")  # as before the first sync of markets
    assert await desk.run() == {}


async def test_an_odd_price_is_left_out(desk: Desk) -> None:
    desk.kraken.books["BTC/USD"] = ("-1", "-2", "-3")
    desk.kraken.books["ADA/USD"] = ("0.1", "0.9", "0.5")  # so far apart that the middle says nothing
    assert (await desk.run())["BTC"].rate is None
    assert (await desk.rates())["ADA"].rate is None


async def test_how_rates_went_is_kept_and_thinned(desk: Desk) -> None:
    async def points() -> int:
        return int((await fetch_one(desk.db, "SELECT count(*) AS n FROM asset_rate_point WHERE asset_id = 3")).n)

    await desk.run()
    desk.kraken.books["BTC/USD"] = ("50001", "50001", None)
    await desk.run()
    assert await points() == 1  # at most one a minute
    await desk.db.execute("UPDATE asset_rate_point SET at = at - interval '2 min'")
    await desk.run()
    assert await points() == 2
    await desk.db.execute("UPDATE asset_rate_point SET at = at - interval '2 min'")
    await desk.run()
    assert await points() == 2  # it is the same
    await desk.db.execute("DELETE FROM asset_rate_point")
    await desk.db.execute("""
      INSERT INTO asset_rate_point SELECT 3, 2, date_trunc('day', now() - age, 'UTC') + n * step, 1
        FROM (VALUES (interval '3 days', interval '1 min'), (interval '3 years', interval '1 h')) x (age, step),
             generate_series(0, 119) n""")
    await desk.db.execute("INSERT INTO ticker VALUES (1, 1, 1, 1, now() - interval '2 days')")
    await desk.work(maintenance.PRUNE)
    assert await points() == 2 + 5  # two hours of minutes; 120 hours, which are five days
    assert await fetch_all(desk.db, "SELECT * FROM ticker WHERE market_id = 1") == []


async def test_people_do_not_write_what_the_job_writes(desk: Desk) -> None:
    await desk.run()
    async with await connect(desk.db.info.dsn, Identity("", "person")) as person:
        for statement, words in (
            ("INSERT INTO asset_rate (asset_id, unit_id, rate, source) VALUES (5, 2, 1, 'market')", "fixed ones"),
            ("UPDATE asset_rate SET rate = 1", "a person writes fixed"),
            ("UPDATE ticker SET bid = 1", "INSERT INTO rates"),
            ("DELETE FROM asset_rate_point", "it follows asset_rate"),
            ("INSERT INTO rates (asset, unit, rate) VALUES ('NIX', 'USD', 1)", 'unknown asset "NIX"'),
            ("INSERT INTO rates (asset, unit, rate) VALUES ('BTC', 'NIX', 1)", 'unknown unit "NIX"'),
            ("INSERT INTO rates (asset, unit, rate) VALUES ('BTC', 'BTC', 1)", "an_asset_in_itself_needs_no_rate"),
            ("INSERT INTO rates (asset, unit, rate) VALUES ('BTC', 'EUR', 0)", "rate_is_finite_and_above_zero"),
            ("INSERT INTO rates (asset, unit, rate) VALUES ('BTC', 'EUR', 'NaN')", "rate_is_finite_and_above_zero"),
            ("INSERT INTO rates (asset, unit) VALUES ('BTC', 'EUR')", "a_fixed_rate_is_a_number"),
            ("UPDATE rates SET unit = 'EUR'", "asset and unit of a rate are fixed"),
            ("DELETE FROM setting", "there is always one row"),
            ("INSERT INTO setting (one) VALUES (false)", "there_is_one_row"),
            ("UPDATE setting SET rate_fresh = '1 s'", "rate_fresh_is_between"),
        ):  # fmt: skip
            with pytest.raises(psycopg.Error, match=words):
                await person.execute(statement)  # type: ignore[arg-type]


async def test_an_account_that_cannot_be_read_says_why_and_the_other_is_read(desk: Desk) -> None:
    desk.kraken.errors["balances"] = RuntimeError("the venue is not well")
    desk.binance.owned = {"USD": "5"}
    await desk.db.execute(account.DEFER_ALL, account.ALL)
    await desk.app.run_worker_async(
        wait=False, additional_context={"context": desk.context}, install_signal_handlers=False, listen_notify=False
    )
    jobs = await fetch_all(desk.db, "SELECT lock, status::text FROM procrastinate_jobs ORDER BY lock")
    assert [tuple(job) for job in jobs] == [("balances:1", "succeeded"), ("balances:2", "failed")]
    rows = await fetch_all(desk.db, "SELECT account, note FROM account_total ORDER BY account")
    words = "second: could not be read: RuntimeError: the venue is not well"
    assert [tuple(row) for row in rows] == [("main", None), ("second", words), (None, words)]
