"""One process's share in a row of `rate_budget`: units taken ahead, what orders used, and what a venue said.

Reads take units from the row before they ask, a few at a time and good for a second; orders wait for nothing, and what
they used is reported afterwards. What a venue says of its own count, and that it is shut, is reported the same way.
"""

import asyncio
import logging
import random
import time
from typing import Any, Protocol

from trader.errors import Retry
from trader.exchange.limiter import Said

log = logging.getLogger("budget")

GRANT_SECONDS = 1.0
"""For how long units that were taken are good."""
READS_LATER_SECONDS = 2.0
"""How much later than orders the reads go on when a venue listens again."""
LONGEST_WAIT_SECONDS = 2.0
"""A read that must wait longer for a venue that is shut fails instead: its job's place is needed for other venues."""
MARGIN_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 0.4
"""Between two attempts to take units, beyond what the row itself says: others want them, too."""

# The row as it is once it is ours, and what follows from the time that has passed since. A clock that was set back
# begins its minute, and what was left of a block, anew; one that was set forward fills up to the burst and no further.
# Nobody owes more than a minute's worth. `rate` is so that burst and refill of any sixty seconds leave the orders
# their share.
_HELD = """
WITH held AS (SELECT * FROM rate_budget WHERE id = %(id)s FOR UPDATE),
timed AS (
  SELECT *, clock_timestamp() AS now, capacity / 30 AS burst, capacity * (1 - order_share) AS allowed FROM held),
seen AS (
  SELECT *, (allowed - burst) / 60 AS rate,
         CASE WHEN minute_ends > now AND minute_ends < now + interval '90 s' THEN used ELSE 0 END AS used_now,
         CASE WHEN minute_ends >= now + interval '90 s' THEN now + interval '1 min'
              WHEN minute_ends > now THEN minute_ends
              ELSE now + interval '1 min'
                   - make_interval(secs => mod(extract(epoch FROM now - minute_ends), 60)::float8) END AS ends,
         greatest(-capacity, least(burst, tokens + (allowed - burst) / 60
                               * greatest(0, extract(epoch FROM now - refilled_at)))) AS tokens_now,
         CASE WHEN blocked_at > now + interval '5 s' THEN now + (blocked_until - blocked_at)
              ELSE blocked_until END AS until
    FROM timed)
"""

TAKE = f"""
{_HELD}, judged AS (
  SELECT *, CASE WHEN until > now THEN extract(epoch FROM until - now)
                 WHEN used_now > 0 AND used_now + %(cost)s::numeric > allowed THEN extract(epoch FROM ends - now)
                 WHEN tokens_now + %(back)s::numeric <= 0 THEN -(tokens_now + %(back)s::numeric) / rate
                      + least(0.05, %(cost)s::numeric / rate)
            END AS wait
    FROM seen),
given AS (
  SELECT *, CASE WHEN wait IS NOT NULL THEN 0 ELSE greatest(%(cost)s::numeric,
              least(%(want)s::numeric, tokens_now + %(back)s::numeric, allowed - used_now, rate / 2)) END AS granted
    FROM judged)
UPDATE rate_budget r
   SET tokens = round(least(g.burst, g.tokens_now + %(back)s::numeric) - g.granted, 6), refilled_at = g.now,
       used = round(greatest(0, g.used_now - %(back)s::numeric) + g.granted, 6), minute_ends = g.ends,
       blocked_until = g.until
  FROM given g WHERE r.id = g.id
RETURNING g.granted::float8 AS granted, g.wait::float8 AS wait,
          extract(epoch FROM g.until - g.now)::float8 AS shut, r.why
"""  # noqa: S608 - made of this file's own constants

# What a venue counted belongs to the minute that ends when it says: near ours, the larger count holds; a minute before
# ours, it is stale; else ours was another minute than the venue's. A block must outlive a crash, the rest need not.
REPORT = f"""
{_HELD}, told AS (
  SELECT *, %(used)s::numeric AS said, now + make_interval(secs => %(left)s::float8) AS said_ends FROM seen),
counted AS (
  SELECT *, CASE WHEN said IS NULL OR said_ends < ends - interval '55 s' THEN used_now + %(spent)s::numeric
                 WHEN abs(extract(epoch FROM said_ends - ends)) < 5 THEN greatest(said, used_now + %(spent)s::numeric)
                 ELSE said END AS used_new,
            CASE WHEN said IS NULL OR said_ends < ends - interval '55 s' THEN ends ELSE said_ends END AS ends_new,
            greatest(until, now + make_interval(secs => %(shut)s::float8)) AS until_new
    FROM told),
durable AS (
  SELECT c.*, set_config('synchronous_commit', CASE WHEN %(shut)s::float8 IS NULL THEN 'off' ELSE 'on' END, true)
    FROM counted c)
UPDATE rate_budget r
   SET tokens = round(d.tokens_now, 6), refilled_at = d.now, used = round(d.used_new, 6), minute_ends = d.ends_new,
       stated = coalesce(%(stated)s::numeric, r.stated), blocked_until = d.until_new,
       why = CASE WHEN d.until_new IS DISTINCT FROM d.until THEN %(why)s ELSE r.why END
  FROM durable d WHERE r.id = d.id
RETURNING extract(epoch FROM r.blocked_until - d.now)::float8 AS shut, r.why
"""  # noqa: S608 - made of this file's own constants


class Office(Protocol):
    """What a share needs of the budgets of its process."""

    orders: bool
    """Whether this process sends orders: nothing that it asks waits for units."""
    news: asyncio.Event
    """Something is to be reported,"""
    urgent: asyncio.Event
    """and at once."""

    async def row(self, share: "Share", statement: Any, parameters: dict[str, Any]) -> Any:
        """What a statement says of the share's row. Raises DatabaseError."""


class Share:
    """One process's share in a row of `rate_budget`: an `exchange.limiter.Limiter`."""

    def __init__(self, office: Office, key: dict[str, Any], number: int, name: str) -> None:
        self.key = key
        """What its row is found by."""
        self.number = number
        self._office = office
        self._name = name
        self._turn = asyncio.Lock()
        self._left = 0.0
        self._good_until = 0.0
        self._pace = 0.0
        """Units that the next grant should bring: as many as the last one was used for."""
        self._waiting = 0.0
        self._shut_until = 0.0
        self._why = ""
        self._spent = 0.0
        self._said: tuple[float, float] | None = None
        """Units that the venue has counted, and when (by our own watch) that minute ends."""
        self._stated: float | None = None
        self._shut: float | None = None
        """Until when the venue is shut, as long as nobody but us knows."""

    async def ask(self, cost: float) -> None:
        """Wait until a request of this cost may be sent.

        Raises Retry if the venue is shut for longer than a moment (to an order: at all), DatabaseError if a read cannot
        reach the database.
        """
        if self._office.orders:
            self.check()
            self._spent += cost
            self._office.news.set()
            return
        self._waiting += cost
        try:
            async with self._turn:
                await self._take(cost)
        finally:
            self._waiting -= cost

    def check(self) -> None:
        """Raises Retry if the venue is shut now."""
        left = self._shut_for()
        if left > 0:
            raise Retry(f"{self._name} is not asked for {left:.1f} s more: {self._why}", after=left + MARGIN_SECONDS)

    def _shut_for(self) -> float:
        later = 0.0 if self._office.orders or not self._shut_until else READS_LATER_SECONDS
        return self._shut_until + later - time.monotonic()

    async def _take(self, cost: float) -> None:
        pause = MARGIN_SECONDS
        while True:
            left = self._shut_for()
            if left > LONGEST_WAIT_SECONDS:
                self.check()
            if left > 0:
                await asyncio.sleep(left)
                continue
            if self._left >= cost and time.monotonic() < self._good_until:
                self._left -= cost
                return
            wait = await self._refill(cost)
            if wait is not None:
                await asyncio.sleep(wait + pause * random.uniform(0.5, 1.0))  # noqa: S311 - not all at the same moment
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _refill(self, cost: float) -> float | None:
        """Take units for this request and those behind it; the seconds to wait if there are none now."""
        asked_at = time.monotonic()
        back, self._left = self._left, 0.0
        self._pace = self._pace / 2 if back >= cost else 2 * self._pace
        want = max(cost, self._waiting, self._pace)
        row = await self._office.row(self, TAKE, {"cost": cost, "want": want, "back": back})
        self.learn(row.shut, row.why)
        if row.wait is not None:
            return float(row.wait)
        self._left, self._pace, self._good_until = row.granted, row.granted, asked_at + GRANT_SECONDS
        return None

    def told(self, said: Said) -> None:
        """Take note of what an answer said; it is written down in a moment, a block at once."""
        now = time.monotonic()
        if said.shut is not None:
            log.warning("%s is not asked for %.0f s: %s", self._name, said.shut, said.why)
            self._shut = max(self._shut or 0.0, now + said.shut)
            self._why = said.why
            self._shut_until = max(self._shut_until, self._shut)
            self._office.urgent.set()
        if said.used is not None and said.minute_left is not None:
            self._said = (said.used, now + said.minute_left)
        if said.stated is not None and said.stated != self._stated:
            self._stated = said.stated
            self._office.urgent.set()
        self._office.news.set()

    def learn(self, shut: float | None, why: str | None) -> None:
        """What the row says: how many seconds more the venue is shut. What only we know still holds."""
        now = time.monotonic()
        until = now + shut if shut is not None and shut + READS_LATER_SECONDS > 0 else 0.0
        if until > now and why:
            self._why = why
        self._shut_until = max(until, self._shut or 0.0)

    def _news(self) -> dict[str, Any] | None:
        """What is to be reported; None: nothing."""
        now = time.monotonic()
        if self._said is not None and self._said[1] <= now:
            self._said = None
        if not self._spent and self._said is None and self._shut is None and self._stated is None:
            return None
        return {
            "spent": self._spent,
            "used": None if self._said is None else self._said[0],
            "left": None if self._said is None else self._said[1] - now,
            "stated": self._stated,
            "shut": None if self._shut is None else max(0.0, self._shut - now),
            "why": self._why,
        }

    async def report(self) -> None:
        """Write down what orders used and what the venue said since the last time."""
        news = self._news()
        if news is None:
            return
        before = (self._said, self._shut, self._stated)
        row = await self._office.row(self, REPORT, news)
        self._spent -= news["spent"]  # what came meanwhile is for the next time
        self._said = None if self._said == before[0] else self._said
        self._shut = None if self._shut == before[1] else self._shut
        self._stated = None if self._stated == before[2] else self._stated
        self.learn(row.shut, row.why)
