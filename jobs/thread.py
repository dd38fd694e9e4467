"""Computing beside the event loop, in threads that nobody waits for: a strategy may never return."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from trader.errors import InputError
from trader.strategy import describe

Result = TypeVar("Result")


async def beside(work: Callable[[threading.Event], Result], name: str) -> Result:
    """What `work` gives, or raises. Its argument is set when nobody waits for it any more.

    The loop's own threads are few, and its end waits for them; these are one for each call, and end with the process.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()
    told: asyncio.Future[Result] = loop.create_future()

    def tell(result: Result | None, error: BaseException | None) -> None:
        if not told.done():
            told.set_exception(error) if error else told.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            result, error = work(stop), None
        except Exception as raised:
            result, error = None, raised
        except BaseException as raised:  # the loop would end with it, and the process with the loop
            result, error = None, InputError(describe(raised))
        with suppress(RuntimeError):  # the loop has ended: nobody wants to know
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        return await told
    finally:
        stop.set()
