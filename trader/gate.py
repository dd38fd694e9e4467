"""The gate before every send: may this order be sent now? Asked once for all orders that are at the gate together."""

import asyncio
from dataclasses import dataclass, field

from trader import order
from trader.db import Pool, retrying
from trader.order import Claimed, Ready


@dataclass(slots=True)
class Gate:
    """Answers come from a statement that began after the question was put, so each send is still checked on its own."""

    pool: Pool
    _waiting: list[tuple[Claimed, "asyncio.Future[Ready]"]] = field(default_factory=list)
    _asking: "asyncio.Task[None] | None" = None

    async def ready(self, claimed: Claimed) -> Ready:
        """The order as it may be sent now, or why not. Raises psycopg.Error if the database cannot be asked."""
        answer: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._waiting.append((claimed, answer))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await answer

    async def _ask(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._answer(batch)
        finally:
            self._asking = None

    async def _answer(self, batch: list[tuple[Claimed, "asyncio.Future[Ready]"]]) -> None:
        async def work() -> dict[int, Ready]:
            async with self.pool.connection() as connection:
                return await order.ready_to_send(connection, [claimed for claimed, _ in batch])

        try:
            found = await retrying(work)
        except BaseException as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for claimed, answer in batch:
            if not answer.done():
                answer.set_result(found[claimed.id])
