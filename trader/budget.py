"""What the processes of all machines may ask of a venue together: one row of `rate_budget` for each.

Reads (candles, balances, markets) take units from the row before they ask, a few at a time and good for a second, so
that neither each request costs a round trip nor a killed process takes more than a second's worth with it. What they
get in any minute leaves the share of the orders free. Orders wait for nothing: what they used is reported afterwards.
The venue's own count, where its answers tell it, corrects ours upward; "too many requests" holds every process until
the venue has said that it listens again, and then orders go first.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Any

import psycopg

from trader.db import LOST_CONNECTION, Connection, Identity, connect, end_if_cancelled, first_line
from trader.errors import DatabaseError, TallydeskError
from trader.exchange.limiter import COUNTS_ACCOUNTS, Limited
from trader.share import Share

log = logging.getLogger("budget")

REPORT_SECONDS = 0.5
"""How often what orders used and what venues said is written down."""
LOOK_SECONDS = 5.0
"""How often blocks are read although nobody announced one."""

CHANNEL = "rate_budget"

MAKE = """
INSERT INTO rate_budget (exchange_id, account_id, address, configured, tokens)
VALUES (%(exchange)s, %(account)s, %(address)s, %(units)s::numeric, %(units)s::numeric / 30) ON CONFLICT DO NOTHING
"""

CONFIGURE = """
UPDATE rate_budget SET configured = %(units)s::numeric
 WHERE exchange_id = %(exchange)s AND (account_id, address) IS NOT DISTINCT FROM (%(account)s::int, %(address)s::text)
   AND configured <> %(units)s::numeric
"""

FIND = """
SELECT b.id, e.name FROM rate_budget b JOIN exchange e ON e.id = b.exchange_id
 WHERE exchange_id = %(exchange)s AND (account_id, address) IS NOT DISTINCT FROM (%(account)s::int, %(address)s::text)
"""

BLOCKED = """
SELECT id, extract(epoch FROM blocked_until - clock_timestamp())::float8 AS shut, why
  FROM rate_budget WHERE id = ANY(%(ids)s)
"""


class Budgets:
    """The shares of one process. Its connections are its own: jobs hold those of the pool while they wait."""

    def __init__(self, url: str, identity: Identity, address: str, *, orders: bool) -> None:
        self.orders = orders
        """Whether this process sends orders: nothing that it asks waits for units."""
        self.news = asyncio.Event()
        self.urgent = asyncio.Event()
        self._url = url
        self._identity = Identity(identity.process, f"{identity.name} budget")
        self._address = address
        self._shares: dict[int, Share] = {}
        self._connection: Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._opening = asyncio.Lock()
        self._connecting = asyncio.Lock()

    async def limit(self, exchange: object, exchange_id: int, account_id: int | None) -> None:
        """Let `exchange` ask the budget of its venue before each request; one that keeps to no limit is left alone.

        Raises DatabaseError if the database cannot be reached.
        """
        if not isinstance(exchange, Limited) or exchange.units is None:
            return
        async with self._opening:
            if not self._tasks:
                self._tasks = [asyncio.create_task(work()) for work in (self._listen, self._report)]
            exchange.limit(await self._share(exchange, exchange_id, account_id))

    async def _share(self, exchange: Limited, exchange_id: int, account_id: int | None) -> Share:
        by_account = exchange.is_signed and exchange.ccxt_id in COUNTS_ACCOUNTS and account_id is not None
        key: dict[str, Any] = {"exchange": exchange_id, "units": exchange.units}
        key |= {"account": account_id, "address": None} if by_account else {"account": None, "address": self._address}
        row = await self._made(key)
        share = self._shares.setdefault(row.id, Share(self, key, row.id, row.name))
        await self._look()
        return share

    async def _made(self, key: dict[str, Any]) -> Any:
        """The row of a key, made if it is not there. Raises DatabaseError if its exchange or account is not there."""
        await self._execute(MAKE, key)
        await self._execute(CONFIGURE, key)
        (row,) = await self._all(FIND, key)
        return row

    async def _look(self) -> None:
        """Read which venues are shut."""
        for row in await self._all(BLOCKED, {"ids": list(self._shares)}):
            if row.id in self._shares:
                self._shares[row.id].learn(row.shut, row.why)

    async def row(self, share: Share, statement: Any, parameters: dict[str, Any]) -> Any:
        """What a statement says of the share's row, which is made anew if somebody has deleted it.

        Raises DatabaseError if that cannot be, or the database cannot be reached.
        """
        rows = await self._all(statement, parameters | {"id": share.number})
        if not rows:
            self._shares.pop(share.number, None)
            share.number = (await self._made(share.key)).id
            self._shares[share.number] = share
            rows = await self._all(statement, parameters | {"id": share.number})
        if not rows:
            raise DatabaseError("rate_budget: the row is deleted again and again")
        return rows[0]

    async def _all(self, statement: Any, parameters: Any) -> list[Any]:
        rows: list[Any] = await (await self._execute(statement, parameters)).fetchall()
        return rows

    async def _execute(self, statement: Any, parameters: Any) -> Any:
        """Run a statement; once more if the connection was lost. What a lost one did meanwhile is counted twice."""
        for attempt in (1, 2):
            try:
                return await (await self._connected()).execute(statement, parameters)
            except LOST_CONNECTION as error:
                if attempt == 2 or not (self._connection is None or self._connection.closed):
                    raise DatabaseError(f"the budget of requests cannot be read: {first_line(error)}") from None
            except psycopg.Error as error:
                raise DatabaseError(f"the budget of requests cannot be read: {first_line(error)}") from None
        raise AssertionError("unreachable")

    async def _connected(self) -> Connection:
        async with self._connecting:
            if self._connection is None or self._connection.closed:
                self._connection = await connect(self._url, self._identity)
                await self._connection.execute("SET synchronous_commit = off")
            return self._connection

    async def _report(self) -> None:
        """Write down what is new, several times a second at most; at once what concerns every process."""
        while True:
            end_if_cancelled()
            await self.news.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await self.urgent.wait()
            self.news.clear()
            self.urgent.clear()
            try:
                await self._report_all()
            except DatabaseError as error:  # what was not written is kept, and tried again
                log.warning("%s", error)
                await asyncio.sleep(1.0)
                self.news.set()

    async def _report_all(self) -> None:
        for share in list(self._shares.values()):
            await share.report()

    async def _listen(self) -> None:
        """Learn of blocks when they are set. A notification that is lost costs LOOK_SECONDS."""
        while True:
            end_if_cancelled()
            try:
                async with await connect(self._url, self._identity) as connection:
                    await connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(CHANNEL)))
                    await self._hear(connection)
            except (TallydeskError, *LOST_CONNECTION) as error:
                log.warning("blocks of venues are not heard of now: %s", first_line(error))
                await asyncio.sleep(1.0)

    async def _hear(self, connection: Connection) -> None:
        while True:
            end_if_cancelled()
            await self._look()
            async for _ in connection.notifies(timeout=LOOK_SECONDS, stop_after=1):
                pass

    async def close(self) -> None:
        """Report the rest, and end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            with suppress(DatabaseError, TimeoutError):
                async with asyncio.timeout(2.0):
                    await self._report_all()
        finally:
            if self._connection is not None:
                await self._connection.close()
