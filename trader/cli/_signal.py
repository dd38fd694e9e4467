"""Commands that run for long, and that are to end in order when they are told to."""

import asyncio
import signal
import sys
from collections.abc import Coroutine

TOLD_TO_STOP = 130
"""The exit code of a command that Ctrl-C or SIGTERM ended, as shells have it for Ctrl-C."""


def until_told(work: Coroutine[object, object, None]) -> None:
    """Run `work`. SIGTERM cancels it as Ctrl-C does; both end the process with exit code 130.

    Not by sending itself a Ctrl-C: what a script starts in the background ignores that one.
    """

    async def listening() -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("no task runs this")
        # A second one does not disturb the end that has begun.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: task.cancelling() or task.cancel())
        await work

    try:
        asyncio.run(listening())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(TOLD_TO_STOP)
