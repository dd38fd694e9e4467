"""What follows from the rows of bucket by itself: gaps, corrections, revisions, whoever writes and in which order."""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from trader import migrate

START = datetime(2024, 1, 1, tzinfo=UTC)
SEED = """
INSERT INTO asset (code) VALUES ('BTC'), ('USDT'), ('ETH');
INSERT INTO exchange (name, ccxt_id) VALUES ('binance', 'binance');
INSERT INTO market (exchange_id, symbol, base_id, quote_id) VALUES (1, 'BTC/USDT', 1, 2), (1, 'ETH/USDT', 3, 2);
"""
INSERT = """
INSERT INTO bucket (market_id, timeframe_id, time_close, open, high, low, close, volume, source)
SELECT m, t, c, p, p, p, p, 1, 'imported'
  FROM unnest(%s::int[], %s::smallint[], %s::timestamptz[], %s::float8[]) r (m, t, c, p)
"""
# Gaps from scratch, in words of their own: a candle spans [close - span, close), the calendar is UTC's.
BRUTE = """
SELECT market_id, timeframe_id, before AT TIME ZONE 'UTC' AS gap_from, open AT TIME ZONE 'UTC' AS gap_to, missing FROM (
  SELECT b.market_id, b.timeframe_id, b.before, b.close - t.span AS open,
         (SELECT count(*) FROM generate_series(b.before + t.span, b.close - t.span, t.span)) AS missing
    FROM (SELECT market_id, timeframe_id, close, lag(close) OVER series AS before
            FROM (SELECT market_id, timeframe_id, time_close AT TIME ZONE 'UTC' AS close FROM bucket) u
          WINDOW series AS (PARTITION BY market_id, timeframe_id ORDER BY close)) b
    JOIN timeframe t ON t.id = b.timeframe_id WHERE b.before IS NOT NULL) g WHERE missing > 0 ORDER BY 1, 2, 3
"""
GAPS = "SELECT market_id, timeframe_id, gap_from, gap_to, missing FROM gap ORDER BY 1, 2, 3"
FEED = "SELECT * FROM bucket_feed WHERE market_id = %s AND timeframe_id = %s"
FEEDS = "SELECT market_id, timeframe_id, newest, revision, rewritten, digest FROM bucket_feed"
TRUTH = """
SELECT f.market_id, f.timeframe_id, max(b.time_close) AS newest,
       coalesce(bit_xor(candle_hash(time_close, open, high, low, close, volume)), 0) AS digest
  FROM bucket_feed f LEFT JOIN bucket b USING (market_id, timeframe_id) GROUP BY 1, 2 ORDER BY 1, 2
"""


@contextlib.contextmanager
def session(url: str, options: str = "") -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True, row_factory=namedtuple_row, options=options) as opened:
        yield opened


@pytest.fixture
def db(database: str) -> Iterator[psycopg.Connection[Any]]:
    with session(database) as opened:
        opened.execute(SEED)
        yield opened


def insert(
    db: psycopg.Connection[Any], closes: list[datetime], *, market: int = 1, timeframe: int = 1, price: float = 1.0
) -> None:
    count = len(closes)
    db.execute(INSERT, [[market] * count, [timeframe] * count, closes, [price] * count])


def minutes(*closes: int) -> list[datetime]:
    return [START + timedelta(minutes=close) for close in closes]


def gaps(db: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return [
        tuple(r)
        for r in db.execute("SELECT market_id, timeframe_id, gap_from, gap_to, missing FROM gap ORDER BY 1, 2, 3")
    ]


def verify(db: psycopg.Connection[Any]) -> None:
    assert gaps(db) == [tuple(r) for r in db.execute(BRUTE)]
    told = [(f.market_id, f.timeframe_id, f.newest, f.digest) for f in db.execute(FEEDS + " ORDER BY 1, 2")]
    assert told == [tuple(r) for r in db.execute(TRUTH)]


def feed(db: psycopg.Connection[Any], market: int = 1, timeframe: int = 1) -> Any:
    return db.execute(FEED, [market, timeframe]).fetchone()


STEP = {1: timedelta(minutes=1), 60: timedelta(hours=1), 1440: timedelta(days=1), 10080: timedelta(days=7)}


def place(timeframe: int, index: int) -> datetime:
    """The close of candle `index`; days run over the changes of clocks in March."""
    if timeframe == 32767:
        return datetime(2020 + index // 12, index % 12 + 1, 1, tzinfo=UTC)
    return datetime(2024, 3, 1, tzinfo=UTC) + index * STEP[timeframe]


class Anybody:
    """A person who writes candles at random, in several series, in several ways; the model is what should be there."""

    def __init__(self, db: psycopg.Connection[Any], seed: int) -> None:
        self.db = db
        self.random = random.Random(seed)
        self.model: dict[tuple[int, int, datetime], float] = {}

    def series(self) -> tuple[int, int]:
        return self.random.choice([1, 2]), self.random.choice([1, 60, 1440, 10080, 32767])

    def some(self, series: tuple[int, int]) -> list[tuple[int, int, datetime]]:
        """A run, or single ones, of at most 40 places."""
        first, length = self.random.randrange(40), self.random.randrange(1, 25)
        places = range(first, first + length) if self.random.random() < 0.6 else self.random.sample(range(60), length)
        return [(*series, place(series[1], one)) for one in places]

    def columns(self, keys: list[tuple[int, int, datetime]]) -> list[list[Any]]:
        return [list(column) for column in zip(*keys, strict=True)] if keys else [[], [], []]

    def insert(self) -> None:
        keys = [k for _ in range(self.random.choice([1, 1, 3])) for k in self.some(self.series())]
        keys = [k for k in dict.fromkeys(keys) if k not in self.model]
        self.random.shuffle(keys)
        prices = [self.random.choice([1.0, 2.0, 3.0]) for _ in keys]
        self.db.execute(INSERT, [*self.columns(keys), prices])
        self.model.update(zip(keys, prices, strict=True))

    def upsert(self) -> None:
        keys = list(dict.fromkeys(self.some(self.series())))
        price = self.random.choice([1.0, 2.0, 3.0])
        self.db.execute(
            INSERT
            + """ON CONFLICT (market_id, timeframe_id, time_close) DO UPDATE
            SET open = EXCLUDED.open, high = EXCLUDED.high, low = EXCLUDED.low, close = EXCLUDED.close""",
            [*self.columns(keys), [price] * len(keys)],
        )
        self.model.update(dict.fromkeys(keys, price))

    def delete(self) -> None:
        keys = [k for k in self.some(self.series()) if k in self.model]
        self.db.execute(
            """DELETE FROM bucket WHERE (market_id, timeframe_id, time_close)
            IN (SELECT * FROM unnest(%s::int[], %s::smallint[], %s::timestamptz[]))""",
            self.columns(keys),
        )
        for key in keys:
            del self.model[key]

    def correct(self) -> None:
        keys = [k for k in self.some(self.series()) if k in self.model]
        price = self.random.choice([1.0, 4.0])
        self.db.execute(
            """UPDATE bucket SET open = %s, high = %s, low = %s, close = %s WHERE (market_id, timeframe_id, time_close)
            IN (SELECT * FROM unnest(%s::int[], %s::smallint[], %s::timestamptz[]))""",
            [price] * 4 + self.columns(keys),
        )
        self.model.update(dict.fromkeys(keys, price))

    def move(self) -> None:
        """One statement that takes a part of a series out of it: to another market where that has none."""
        market, timeframe = self.series()
        keys = [k for k in self.some((market, timeframe)) if k in self.model and (3 - market, *k[1:]) not in self.model]
        self.db.execute(
            """UPDATE bucket SET market_id = 3 - market_id WHERE (market_id, timeframe_id, time_close)
            IN (SELECT * FROM unnest(%s::int[], %s::smallint[], %s::timestamptz[]))""",
            self.columns(keys),
        )
        for key in keys:
            self.model[(3 - market, *key[1:])] = self.model.pop(key)

    def truncate(self) -> None:
        self.db.execute("TRUNCATE bucket")
        self.model.clear()

    def step(self) -> None:
        acts = [self.insert, self.upsert, self.delete, self.correct, self.move, self.truncate]
        self.random.choices(acts, [5, 4, 4, 2, 2, 0.2])[0]()

    def states(self) -> dict[tuple[int, int], tuple[int, dict[datetime, float]]]:
        """Of each series its revision and its candles by the model."""
        found = {}
        for row in self.db.execute(FEEDS):
            series = (row.market_id, row.timeframe_id)
            found[series] = (row.revision, {k[2]: price for k, price in self.model.items() if k[:2] == series})
        return found


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_written_gaps_and_feeds_follow(db: psycopg.Connection[Any], database: str, seed: int) -> None:
    with session(database, "-c TimeZone=America/New_York") as abroad:
        anybody = Anybody(abroad, seed)
        for _ in range(60):
            before = anybody.states()
            anybody.step()
            verify(abroad)
            for series, (revision, candles) in anybody.states().items():
                old_revision, old = before.get(series, (0, {}))
                if candles != old:
                    assert revision > old_revision, series
        rows = {(r.market_id, r.timeframe_id, r.time_close): r.open for r in abroad.execute("SELECT * FROM bucket")}
        assert rows == anybody.model
    verify(db)


def test_what_changes_nothing_moves_no_revision(db: psycopg.Connection[Any]) -> None:
    insert(db, minutes(1, 2, 5))
    before = feed(db)
    db.execute("UPDATE bucket SET open = open")
    db.execute("UPDATE bucket SET id = gen_random_uuid()")
    db.execute("UPDATE bucket SET open = 9 WHERE false")
    db.execute("DELETE FROM bucket WHERE false")
    db.execute(INSERT + "ON CONFLICT DO NOTHING", [[1], [1], minutes(2), [1.0]])
    assert feed(db) == before
    assert db.execute("SELECT count(*) AS n FROM bucket_correction").fetchone().n == 0
    db.execute("UPDATE bucket SET partial = true WHERE time_close = %s", minutes(2))
    assert feed(db).revision == before.revision + 1


def test_rewritten_tells_an_append_from_the_rest(db: psycopg.Connection[Any]) -> None:
    insert(db, minutes(10, 11))
    insert(db, minutes(12))
    insert(db, minutes(20))
    first = feed(db)
    assert (first.revision, first.rewritten) == (3, 0)
    assert (first.enabled, first.collect_since, first.newest) == (False, *minutes(9), *minutes(20))
    insert(db, minutes(15))
    assert (feed(db).revision, feed(db).rewritten) == (4, 4)
    insert(db, minutes(21))
    assert (feed(db).revision, feed(db).rewritten) == (5, 4)
    db.execute("UPDATE bucket SET high = 3 WHERE time_close = %s", minutes(21))
    assert (feed(db).revision, feed(db).rewritten) == (6, 6)


def test_a_correction_is_written_down(db: psycopg.Connection[Any]) -> None:
    insert(db, minutes(1, 2))
    db.execute("UPDATE bucket SET high = 5, source = 'fetched' WHERE time_close = %s", minutes(2))
    row = db.execute("SELECT * FROM bucket_correction").fetchone()
    assert (row.time_close, row.old_high, row.new_high, row.old_low, row.new_low) == (*minutes(2), 1, 5, 1, 1)
    assert (row.old_source, row.new_source) == ("imported", "fetched")
    with pytest.raises(psycopg.errors.RestrictViolation, match="it is the history of bucket"):
        db.execute("DELETE FROM bucket_correction")


def test_a_verdict_stays_with_the_parts_and_goes_with_a_union(db: psycopg.Connection[Any], database: str) -> None:
    insert(db, minutes(1, 10, 20))
    with session(database, "-c tallydesk.process=worker") as process:
        process.execute("UPDATE gap SET verdict = 'no_trades', checks = 2 WHERE gap_from = %s", minutes(1))
    insert(db, minutes(5))

    def found() -> list[tuple[Any, ...]]:
        rows = db.execute("SELECT gap_from, missing, verdict::text, checks FROM gap ORDER BY 1").fetchall()
        return [tuple(row) for row in rows]

    one, five, ten = minutes(1, 5, 10)
    assert found() == [(one, 3, "no_trades", 2), (five, 4, "no_trades", 2), (ten, 9, None, 0)]
    insert(db, minutes(9, 2))  # each part shrinks once more, from the right and from the left
    assert [row[2:] for row in found()] == [("no_trades", 2), ("no_trades", 2), (None, 0)]
    db.execute("DELETE FROM bucket WHERE time_close = ANY(%s)", [minutes(2, 5)])
    assert found()[0] == (one, 7, None, 0)
    verify(db)


def test_nobody_writes_what_follows(db: psycopg.Connection[Any], database: str) -> None:
    insert(db, minutes(1, 10))
    for statement in (
        "DELETE FROM gap",
        "TRUNCATE gap",
        "INSERT INTO gap (market_id, timeframe_id, gap_from, gap_to, missing) VALUES (1, 1, now(), now(), 1)",
        "UPDATE gap SET verdict = 'no_trades'",
        "UPDATE bucket_feed SET revision = 7",
        "UPDATE bucket_feed SET digest = 7",
    ):
        with pytest.raises(psycopg.errors.RestrictViolation):
            db.execute(statement)
    with session(database, "-c tallydesk.process=worker") as process:
        for statement in ("UPDATE gap SET gap_to = gap_to + interval '1 min'", "DELETE FROM gap"):
            with pytest.raises(psycopg.errors.RestrictViolation):
                process.execute(statement)
        with pytest.raises(psycopg.errors.CheckViolation, match="verdict_is_no_trades_or_outage"):
            process.execute("UPDATE gap SET verdict = 'not_fetched'")


def test_what_stands_in_for_the_foreign_keys(db: psycopg.Connection[Any]) -> None:
    for market, timeframe in ((99, 1), (1, 7)):
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            insert(db, minutes(1), market=market, timeframe=timeframe)
    insert(db, minutes(1))
    for statement in (
        "DELETE FROM market WHERE id = 1",
        "DELETE FROM bucket_feed",
        "UPDATE bucket_feed SET market_id = 2",
        "TRUNCATE bucket_feed",
        "TRUNCATE market CASCADE",
    ):
        with pytest.raises((psycopg.errors.ForeignKeyViolation, psycopg.errors.RestrictViolation)):
            db.execute(statement)
    db.execute("UPDATE bucket SET high = 2")
    db.execute("DELETE FROM bucket")
    db.execute("DELETE FROM bucket_feed")
    db.execute("DELETE FROM market WHERE id = 1")
    assert db.execute("SELECT count(*) AS n FROM bucket_correction").fetchone().n == 0


def test_what_is_deleted_is_covered_no_more(db: psycopg.Connection[Any]) -> None:
    insert(db, minutes(*range(1, 11)))
    db.execute("UPDATE bucket_feed SET covered = tstzmultirange(tstzrange(%s, %s))", minutes(0, 12))
    db.execute("DELETE FROM bucket WHERE time_close = ANY(%s)", [minutes(3, 4, 10)])
    parts = db.execute("SELECT lower(p) AS a, upper(p) AS b FROM bucket_feed, unnest(covered) p ORDER BY 1").fetchall()
    assert [tuple(part) for part in parts] == [tuple(minutes(0, 2)), tuple(minutes(4, 9)), tuple(minutes(10, 12))]
    assert feed(db).newest == minutes(9)[0]
    db.execute("TRUNCATE bucket")
    assert db.execute("SELECT isempty(covered) AS nothing, newest FROM bucket_feed").fetchone() == (True, None)


def test_the_view_says_why(db: psycopg.Connection[Any]) -> None:
    insert(db, minutes(11, 13, 16))
    db.execute("UPDATE bucket_feed SET enabled = true, collect_since = %s", minutes(0))
    db.execute(
        "UPDATE bucket_feed SET covered = tstzmultirange(tstzrange(%s, %s), tstzrange(%s, %s))", minutes(5, 14, 16, 20)
    )
    rows = db.execute("SELECT gap_from, gap_to, missing, kind::text FROM bucket_gap ORDER BY 1").fetchall()
    assert [tuple(row) for row in rows[:-1]] == [
        (*minutes(0, 5), 5, "not_fetched"),
        (*minutes(5, 10), 5, "before_listing"),
        (*minutes(11, 12), 1, "outage"),
        (*minutes(13, 15), 2, "not_fetched"),
        (*minutes(16, 20), 4, "outage"),
    ]
    assert (rows[-1].gap_from, rows[-1].kind) == (minutes(20)[0], "not_fetched")
    now = db.execute("SELECT now() AS now").fetchone().now
    assert timedelta(0) <= now - rows[-1].gap_to <= timedelta(minutes=1)
    db.execute("UPDATE bucket_feed SET enabled = false")
    kinds = db.execute("SELECT kind::text FROM bucket_gap ORDER BY gap_from").fetchall()
    assert [row.kind for row in kinds] == ["outage", "not_fetched"]
    db.execute("INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) VALUES (2, 32767, '2024-01-15Z')")
    months = db.execute("SELECT * FROM bucket_gap WHERE timeframe = '1M'").fetchone()
    assert (months.gap_from, months.kind) == (datetime(2024, 1, 15, tzinfo=UTC), "not_fetched")
    assert months.missing == (now.year - 2024) * 12 + now.month - 2


def test_two_who_take_no_lock_leave_the_gaps_right(db: psycopg.Connection[Any], database: str) -> None:
    """Each inserts into the same gap and commits while the other is about to."""
    insert(db, minutes(1, 100))
    with session(database) as one, session(database) as two:
        pid = two.info.backend_pid
        with one.transaction():
            insert(one, minutes(40))
            late = threading.Thread(target=insert, args=(two, minutes(60)))
            late.start()
            until = time.monotonic() + 30
            waits = "SELECT wait_event_type = 'Lock' AS waits FROM pg_stat_activity WHERE pid = %s"
            while not db.execute(waits, [pid]).fetchone().waits:
                assert time.monotonic() < until
                time.sleep(0.01)
        late.join(30)
        assert not late.is_alive()
    verify(db)
    assert len(gaps(db)) == 3
    assert feed(db).revision == 3


def test_many_who_take_no_lock(db: psycopg.Connection[Any], database: str) -> None:
    """Four at once, each with its own candles of the same two series; the later of two waits for the feed's row."""

    def write(number: int) -> None:
        order = random.Random(number)
        with session(database) as mine:
            for turn in range(25):
                places = [400 * turn + 100 * part + 20 * number + 1 for part in range(4)]
                order.shuffle(places)
                insert(mine, minutes(*places), market=order.choice([1, 2]))
                if turn % 5 == 4:
                    mine.execute("DELETE FROM bucket WHERE time_close = ANY(%s)", [minutes(*places[:2])])

    writers = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert not any(writer.is_alive() for writer in writers)
    assert db.execute("SELECT count(*) AS n FROM bucket").fetchone().n == 4 * (25 * 4 - 5 * 2)
    verify(db)


def test_the_step_goes_back_and_forward_with_candles(db: psycopg.Connection[Any], database: str) -> None:
    insert(db, minutes(1, 2, 5))
    insert(db, [place(32767, 1), place(32767, 3)], timeframe=32767, market=2)
    db.execute("UPDATE bucket SET source = 'trades' WHERE time_close = %s", minutes(5))
    revisions = migrate.revisions()
    migrate.downgrade(database, revisions[revisions.index("0015_store") - 1])
    db.execute("DISCARD ALL")
    row = db.execute("SELECT source::text AS source FROM bucket WHERE time_close = %s", minutes(5)).fetchone()
    assert row.source == "derived"
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        insert(db, minutes(1), market=99)
    db.execute("DELETE FROM bucket_feed WHERE market_id = 2")
    insert(db, minutes(9))
    migrate.upgrade(database)
    db.execute("DISCARD ALL")
    verify(db)
    assert len(gaps(db)) == 3
    assert feed(db, 2, 32767).enabled is False
    insert(db, minutes(7))
    verify(db)


ALIGNED = "time_close_is_where_a_candle_of_the_timeframe_closes"


@pytest.mark.parametrize(
    ("timeframe", "right", "wrong"),
    [
        (1, "2024-01-01 01:30Z", "2024-01-01 01:30:30Z"),
        (1, "1970-01-01 00:01Z", "2024-01-01 01:30:00.000001Z"),
        (5, "2024-01-01 01:35Z", "2024-01-01 01:36Z"),
        (60, "2024-01-01 01:00Z", "2024-01-01 01:30Z"),
        (1440, "2024-01-01 16:00Z", "2024-01-01 16:30Z"),
        (10080, "2024-01-01 00:00Z", "2024-01-01 00:01Z"),
        (32767, "2024-02-01 00:00Z", "2024-01-31 23:00Z"),
    ],
)
def test_a_candle_closes_where_its_timeframe_has_it(
    db: psycopg.Connection[Any], timeframe: int, right: str, wrong: str
) -> None:
    db.execute("SET timezone = 'Asia/Kolkata'")
    row = [[1], [timeframe], [right], [1.0]]
    db.execute(INSERT, row)
    row[2] = [wrong]
    with pytest.raises(psycopg.errors.CheckViolation, match=ALIGNED):
        db.execute(INSERT, row)
    with pytest.raises(psycopg.errors.CheckViolation, match=ALIGNED):
        db.execute("UPDATE bucket SET time_close = %s", [wrong])
    verify(db)


def test_a_candle_from_before_stays_and_stops_no_step(db: psycopg.Connection[Any], database: str) -> None:
    revisions = migrate.revisions()
    migrate.downgrade(database, revisions[revisions.index("0022_aligned") - 1])
    db.execute("DISCARD ALL")
    insert(db, [START + timedelta(seconds=90)])
    migrate.upgrade(database)
    db.execute("DISCARD ALL")
    assert db.execute("SELECT count(*) AS n FROM bucket").fetchone().n == 1
    with pytest.raises(psycopg.errors.CheckViolation, match=ALIGNED):
        insert(db, [START + timedelta(seconds=30)])
    db.execute("DELETE FROM bucket")
    db.execute(f"ALTER TABLE bucket VALIDATE CONSTRAINT {ALIGNED}")
