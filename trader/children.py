"""The desk's processes as children of this one: started, kept alive, and ended together."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from trader.config import Settings, WantedRole
from trader.watchdog import log_of

END_SECONDS = 20.0
"""How long children may take to finish what is in flight before they are killed."""


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold signals back for a moment: one between a child's start and its being known would leave it behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda came_now, _: came.append(came_now))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


@dataclass(slots=True)
class Children:
    """Processes by name. Each writes to HOME/log/NAME.log."""

    settings: Settings
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    running: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    def start_role(self, role: WantedRole) -> None:
        """Start one of the desk's roles."""
        self.start(role.name, "-m", "trader.cli.main", "run", role.kind, "--name", role.name)

    def start(self, name: str, *arguments: str) -> None:
        """Start a Python process. A terminal's Ctrl-C reaches this process only, which then ends them in order."""
        log = log_of(self.settings, name)
        log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with log.open("ab") as output, _uninterrupted():
            self.running[name] = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=self.settings.project,
                env={**self.environment, "TALLYDESK_HOME": str(self.settings.home)},
            )

    def dead(self) -> dict[str, int]:
        """Those that ended by themselves, with their exit codes."""
        return {name: code for name, child in self.running.items() if (code := child.poll()) is not None}

    def end(self, *names: str) -> None:
        """End these, or all: politely and at once, then by force."""
        ending = [self.running.pop(name) for name in names or tuple(self.running) if name in self.running]
        for child in ending:
            child.terminate()
        deadline = time.monotonic() + END_SECONDS
        for child in ending:
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
