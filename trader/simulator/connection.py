"""One websocket: a queue of what is to be sent, and the faults that events meet on their way."""

import asyncio
import contextlib
import json
from typing import Any

from aiohttp import web

from trader.simulator.faults import Faults
from trader.simulator.wire import Json

_LARGEST_QUEUE = 100_000


class Connection:
    """A client's websocket. Sending never waits; a writer task empties the queue in order."""

    def __init__(self, socket: web.WebSocketResponse, faults: Faults, address: str = "") -> None:
        self.socket = socket
        self.address = address
        self._faults = faults
        self._queue: asyncio.Queue[str | None] = asyncio.Queue(_LARGEST_QUEUE)
        self._held: Json | list[Json] | None = None

    async def write(self) -> None:
        """Send what is queued until the connection is to be closed."""
        with contextlib.suppress(ConnectionError):
            while (message := await self._queue.get()) is not None:
                await self.socket.send_str(message)
        await self.socket.close()

    def answer(self, message: Json | list[Json]) -> None:
        """Queue an answer; no fault touches it. A client too slow to read is cut off."""
        try:
            self._queue.put_nowait(json.dumps(message))
        except asyncio.QueueFull:
            self.hang_up()

    def hang_up(self) -> None:
        """Forget what is queued and close."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    def event(self, message: Json | list[Json], facts: dict[str, Any]) -> None:
        """Queue an event, unless a fault loses it, doubles it, holds it back, or closes the connection."""
        rule = self._faults.take({name: str(value) for name, value in facts.items()}, socket=True)
        fault = None if rule is None else rule.fault
        if fault == "disconnect":
            self.hang_up()
        elif fault == "event_reorder":
            self._held = message
        elif fault != "event_drop":
            self.answer(message)
            if fault == "event_duplicate":
                self.answer(message)
            if self._held is not None:
                held, self._held = self._held, None
                self.answer(held)
