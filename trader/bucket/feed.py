"""Feeds: rows that say which candles to keep, how far each has come, and who serves it at the moment."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from trader.bucket.coverage import Span, first_opening, spans_of, united
from trader.bucket.timeframe import Timeframe, timeframe_numbered
from trader.clock import to_milliseconds
from trader.db import Connection, fetch_all
from trader.errors import InputError, Retry

LEASE_SECONDS = 30.0
"""A worker that hangs has a feed for so long; each page takes it anew."""
LONGEST_ERROR = 1000
LONGEST_PAUSE = 300.0
"""Seconds after which a feed that fails and fails is tried again. The first pause is two, and each doubles."""
SHORTEST_PAUSE = 1.0
"""Seconds for which a venue is left alone that asks for it."""

# A crash of PostgreSQL may lose the last moments of what is written with this, as a whole: then the venue is asked for
# them again. Waiting for the disk would cost more than everything else that is done for a feed that is up to date.
# That is what set_config('synchronous_commit', 'off', true) below says, for the transaction that it is in.

COLUMNS: LiteralString = """
SELECT f.market_id, f.timeframe_id, f.exchange_id, e.name || ':' || m.symbol AS market, m.symbol, e.replay, f.enabled,
       f.status::text AS status, f.collect_since, f.listed_at, f.reachable_from, f.keep::text AS keep,
       CASE WHEN e.replay THEN f.newest ELSE statement_timestamp() END - f.keep AS kept_from,
       f.newest, f.covered, f.leased_by
"""
_NAMED: LiteralString = " f JOIN market m ON m.id = f.market_id JOIN exchange e ON e.id = m.exchange_id"
FEED = COLUMNS + "FROM bucket_feed" + _NAMED + " WHERE f.market_id = %s AND f.timeframe_id = %s"

# Due ones first come, first served; those that are built longest not served first. What somebody else takes at this
# moment is left out.
_CHOSEN: LiteralString = """
WITH chosen AS (
  SELECT market_id, timeframe_id FROM bucket_feed
   WHERE exchange_id = %(exchange)s AND enabled AND (lease_until IS NULL OR lease_until < statement_timestamp())
     AND """
_TAKEN: LiteralString = """
   LIMIT %(most)s FOR NO KEY UPDATE SKIP LOCKED
), taken AS (
  UPDATE bucket_feed f SET leased_by = %(owner)s, lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
    FROM chosen c WHERE (f.market_id, f.timeframe_id) = (c.market_id, c.timeframe_id)
  RETURNING f.*, set_config('synchronous_commit', 'off', true)
)"""
CLAIM_NEWEST = _CHOSEN + "due_at <= statement_timestamp() ORDER BY due_at" + _TAKEN + COLUMNS + "FROM taken" + _NAMED
CLAIM_BACKFILL = (
    _CHOSEN + "backfill_at <= statement_timestamp() ORDER BY backfill_at" + _TAKEN + COLUMNS + "FROM taken" + _NAMED
)

RELEASE = """
UPDATE bucket_feed SET leased_by = NULL, lease_until = NULL
 WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s AND leased_by = %(owner)s
"""

# Whoever can take the lock of an instance knows that its process is gone.
FREE_OF_THE_DEAD = """
WITH dead AS MATERIALIZED (
  SELECT leased_by FROM (SELECT DISTINCT leased_by FROM bucket_feed WHERE leased_by IS NOT NULL) l
   WHERE pg_try_advisory_xact_lock(hashtextextended(leased_by::text, 0))
)
UPDATE bucket_feed f SET leased_by = NULL, lease_until = NULL FROM dead d WHERE f.leased_by = d.leased_by
"""

# What a person changed meanwhile has made it due, and stays so.
SERVED = """
UPDATE bucket_feed SET leased_by = NULL, lease_until = NULL, failures = 0, last_error = NULL, error_at = NULL,
       updated_at = clock_timestamp(), status = coalesce(%(status)s::feed_status, status),
       due_at = CASE
         WHEN (collect_since, keep) IS DISTINCT FROM (%(since)s::timestamptz, %(keep)s::interval) THEN due_at
         ELSE coalesce(clock_timestamp() + %(pause)s::float8 * interval '1 s', due_at)
       END,
       backfill_at = CASE
         WHEN (collect_since, keep) IS DISTINCT FROM (%(since)s::timestamptz, %(keep)s::interval) THEN backfill_at
         WHEN %(older)s AND %(turn)s THEN clock_timestamp() + %(older_pause)s * interval '1 s'
         WHEN %(older)s THEN coalesce(backfill_at, clock_timestamp()) END
 WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s AND leased_by IS NOT DISTINCT FROM %(owner)s
RETURNING set_config('synchronous_commit', 'off', true)
"""

FAILED = """
UPDATE bucket_feed SET status = 'error', last_error = %(error)s, error_at = clock_timestamp(), leased_by = NULL,
       lease_until = NULL, failures = failures + 1, updated_at = clock_timestamp(),
       due_at = clock_timestamp() + least(%(longest)s, 2 ^ least(failures + 1, 20)) * interval '1 s',
       backfill_at = CASE WHEN backfill_at IS NOT NULL
                          THEN clock_timestamp() + least(%(longest)s, 2 ^ least(failures + 1, 20)) * interval '1 s' END
 WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s AND leased_by IS NOT DISTINCT FROM %(owner)s
"""

POSTPONED = """
UPDATE bucket_feed SET leased_by = NULL, lease_until = NULL, due_at = clock_timestamp() + %(pause)s * interval '1 s',
       backfill_at = CASE WHEN backfill_at IS NOT NULL THEN clock_timestamp() + %(pause)s * interval '1 s' END
 WHERE market_id = %(market)s AND timeframe_id = %(timeframe)s AND leased_by IS NOT DISTINCT FROM %(owner)s
"""


@dataclass(frozen=True, slots=True)
class Feed:
    """A row of bucket_feed, and the names that it stands for."""

    market_id: int
    timeframe: Timeframe
    exchange_id: int
    market: str
    symbol: str
    replay: bool
    enabled: bool
    status: str
    collect_since: datetime | None
    listed_at: datetime | None
    reachable_from: datetime | None
    keep: str | None
    kept_from: datetime | None
    """What opens before this is not kept."""
    newest: datetime | None
    covered: tuple[Span, ...]
    leased_by: UUID | None

    @property
    def key(self) -> dict[str, Any]:
        """What names the row in a statement."""
        return {"market": self.market_id, "timeframe": self.timeframe.id, "owner": self.leased_by}

    @property
    def start(self) -> int | None:
        """From when on candles are wanted and to be had; None: from the listing on, which is not known yet."""
        since = self.collect_since or self.listed_at
        if since is None:
            return None
        bounds = [one for one in (since, self.reachable_from, self.kept_from) if one is not None]
        return first_opening(self.timeframe, max(map(to_milliseconds, bounds)))

    @property
    def end(self) -> int | None:
        """Up to when candles were asked for at the newest end; None: never."""
        return self.covered[-1][1] if self.covered else None

    def after(self, row: Any) -> "Feed":
        """The feed as an UPDATE has returned it. What is covered by now stays so: pages may end in any order."""
        covered = tuple(united([*self.covered, *spans_of(row.covered)]))
        fields = ("enabled", "status", "listed_at", "reachable_from", "newest")
        kept_from = row.replay_kept_from if self.replay else self.kept_from
        return replace(self, covered=covered, kept_from=kept_from, **{name: getattr(row, name) for name in fields})


def _feed(row: Any) -> Feed:
    values = row._asdict()
    return Feed(
        timeframe=timeframe_numbered(values.pop("timeframe_id")),
        covered=tuple(spans_of(values.pop("covered"))),
        **values,
    )


async def load_feed(connection: Connection, market_id: int, timeframe_id: int) -> Feed:
    """The feed as it stands. InputError if there is none."""
    rows = await fetch_all(connection, FEED, [market_id, timeframe_id])
    if not rows:
        raise InputError(f"bucket_feed: there is none for market {market_id} and timeframe {timeframe_id}")
    return _feed(rows[0])


async def claim_newest(connection: Connection, exchange_id: int, owner: UUID, most: int) -> list[Feed]:
    """Take at most `most` feeds whose newest candles are due, for `LEASE_SECONDS`."""
    return await _claim(connection, CLAIM_NEWEST, exchange_id, owner, most)


async def claim_backfill(connection: Connection, exchange_id: int, owner: UUID, most: int) -> list[Feed]:
    """Take at most `most` feeds that lack older candles, those that have waited longest."""
    return await _claim(connection, CLAIM_BACKFILL, exchange_id, owner, most)


async def _claim(
    connection: Connection, statement: LiteralString, exchange_id: int, owner: UUID, most: int
) -> list[Feed]:
    if most < 1:
        return []
    parameters = {"exchange": exchange_id, "owner": owner, "most": most, "lease": LEASE_SECONDS}
    return [_feed(row) for row in await fetch_all(connection, statement, parameters)]


async def release(connection: Connection, feed: Feed) -> None:
    """Give a feed back as it is."""
    await connection.execute(RELEASE, feed.key)


@dataclass(frozen=True, slots=True)
class Next:
    """What is to come for a feed that was served."""

    status: str | None
    older: bool
    """Whether older candles are missing."""
    turn: bool
    """Whether it had its turn at fetching those: then it is the last in line again."""
    pause: float | None = None
    """In how many seconds the newest candles are asked for again; None: at the time that was set before."""
    older_pause: float = 0.0


async def served(connection: Connection, feed: Feed, after: Next) -> None:
    """Note that a feed was served without an error, and give it back."""
    values = {
        "status": after.status,
        "older": after.older,
        "turn": after.turn,
        "pause": after.pause,
        "older_pause": after.older_pause,
        "since": feed.collect_since,
        "keep": feed.keep,
    }
    await connection.execute(SERVED, feed.key | values)


def asked_to_wait(error: BaseException) -> float | None:
    """For how many seconds the venue is to be left alone, at most LONGEST_PAUSE; None: it has not said so.

    That is no failure: the budget of requests and what blocks it are the same for all feeds of the venue, and say why.
    """
    if not isinstance(error, Retry) or error.after is None:
        return None
    return min(max(SHORTEST_PAUSE, error.after), LONGEST_PAUSE)


async def blame(connection: Connection, feed: Feed, error: BaseException) -> None:
    """Write to the feed's row what went wrong, and give it back; the next try comes after a pause that grows.

    A feed whose venue is to be left alone for a while waits for that while, and nothing went wrong with it.
    """
    pause = asked_to_wait(error)
    text = f"{type(error).__name__}: {error}".replace("\x00", "")[:LONGEST_ERROR]
    with contextlib.suppress(psycopg.Error):  # the error that counts is the first one
        if pause is not None:
            await connection.execute(POSTPONED, feed.key | {"pause": pause})
        else:
            await connection.execute(FAILED, feed.key | {"error": text, "longest": LONGEST_PAUSE})


@contextlib.asynccontextmanager
async def blaming(connection: Connection, feed: Feed) -> AsyncIterator[None]:
    """Write whatever goes wrong in the block to the feed's row, and raise it again."""
    try:
        yield
    except Exception as error:
        await blame(connection, feed, error)
        raise
