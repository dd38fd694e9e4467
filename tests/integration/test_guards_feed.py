"""Values that no feed can have, whoever writes them: one row that cannot be read would hold up all of its exchange."""

from collections.abc import AsyncIterator
from uuid import UUID

import psycopg
import pytest

from tests.plugins._venue import START
from trader import migrate
from trader.bucket.feed import claim_newest
from trader.db import Connection, Identity, connect, fetch_all, fetch_one

REVISION = "0020_mend"
SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2);
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (1, 1, '2024-01-01Z'), (1, 15, '2024-01-01Z');
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since, derived_from) VALUES (1, 5, '2024-01-01Z', 1);
"""


@pytest.fixture
async def db(database: str) -> AsyncIterator[Connection]:
    async with await connect(database, Identity("worker", "worker-1")) as opened:
        await opened.execute(SEED)
        yield opened


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("keep = '3000 years'", "keep_is_at_most_1000_years"),
        ("keep = '178000000 years'", "keep_is_at_most_1000_years"),
        ("listed_at = 'infinity'", "listed_at_is_between_the_years_1970_and_9000"),
        ("listed_at = '0044-01-01 BC'", "listed_at_is_between_the_years_1970_and_9000"),
        ("reachable_from = 'infinity'", "reachable_from_is_between_the_years_1970_and_9000"),
        ("newest = 'infinity'", "newest_is_between_the_years_1970_and_9001"),
        ("covered = '{[-infinity, 2024-01-01Z)}'", "covered_is_between_the_years_1900_and_9001"),
        ("covered = '{[2024-01-01Z, infinity)}'", "covered_is_between_the_years_1900_and_9001"),
        ("covered = '{(,)}'", "covered_is_between_the_years_1900_and_9001"),
        ("quiet = '{[2024-01-01Z, infinity)}'", "quiet_is_between_the_years_1900_and_9999"),
        ("derived_from = 0", "derived_from_divides_the_timeframe"),
        ("derived_from = -1", "derived_from_divides_the_timeframe"),
    ],
)
async def test_what_no_feed_can_have_is_refused_by_name(db: Connection, change: str, named: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=named):
        await db.execute(f"UPDATE bucket_feed SET {change} WHERE timeframe_id = 5")


async def test_nothing_is_kept_for_an_infinite_time(db: Connection) -> None:
    """An interval can be infinite from PostgreSQL 17 on; before, it cannot even be written."""
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.InvalidDatetimeFormat)):
        await db.execute("UPDATE bucket_feed SET keep = 'infinity' WHERE timeframe_id = 5")


async def test_the_longest_keep_can_be_read(db: Connection) -> None:
    await db.execute("UPDATE bucket_feed SET keep = '1000 years' WHERE timeframe_id = 1")
    feeds = {feed.timeframe.name: feed for feed in await claim_newest(db, 1, UUID(int=1), 9)}
    assert feeds["1m"].start == START.timestamp() * 1000
    assert len(await fetch_all(db, "SELECT * FROM feeds")) == 3


async def test_a_person_does_not_move_what_is_newest(database: str, db: Connection) -> None:
    with (
        psycopg.connect(database, autocommit=True) as person,
        pytest.raises(psycopg.errors.RestrictViolation, match="newest follows the candles"),
    ):
        person.execute("UPDATE bucket_feed SET newest = '2030-01-01Z' WHERE timeframe_id = 1")


async def test_a_market_that_trades_again_has_no_derived_candles_fetched(db: Connection) -> None:
    await db.execute("UPDATE market SET active = false")
    await db.execute("UPDATE market SET active = true")
    assert {feed.timeframe.name for feed in await claim_newest(db, 1, UUID(int=1), 9)} == {"1m", "15m"}
    row = await fetch_one(
        db, "SELECT due_at >= '9000-01-01Z' AS never, backfill_at FROM bucket_feed WHERE timeframe_id = 5"
    )
    assert tuple(row) == (True, None)


async def test_back_and_forward_with_a_keep_that_is_for_ever(database: str, db: Connection) -> None:
    migrate.downgrade(database, migrate.revisions()[migrate.revisions().index(REVISION) - 1])
    await db.execute("UPDATE bucket_feed SET keep = '3000 years' WHERE timeframe_id = 1")
    migrate.upgrade(database)
    assert (await fetch_one(db, "SELECT keep FROM bucket_feed WHERE timeframe_id = 1")).keep is None
