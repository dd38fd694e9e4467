"""An installation under test: commands, what runs in it, and its end."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trader.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0
COMMAND = [sys.executable, "-m", "trader.cli.main"]


class Running(NamedTuple):
    """A live process."""

    pid: int
    command: str


def wait_until(condition: Callable[[], Any], patience: float = PATIENCE, said: Callable[[], object] = str) -> Any:
    """Poll until `condition` gives something true; it. AssertionError with what `said` gives if it never does."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {patience:.0f} s: {said()}")
        time.sleep(0.05)
    return found


@dataclass(frozen=True)
class Installation:
    """A home (a short path: sockets are in it) and everything that runs with it, found by the environment it has."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TALLYDESK_", "PG"))}
        return kept | {
            "HOME": str(self.home),
            "TALLYDESK_HOME": str(self.home),
            "DATABASE_URL": "",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
        }

    def server(self, below: str = "") -> EmbeddedServer:
        return EmbeddedServer(self.home / below)

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """A command to its end; `more` is environment."""
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=ROOT,
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def do(self, *arguments: str, **more: str) -> str:
        """A command that must succeed; what it printed."""
        done = self.run(*arguments, **more)
        assert done.returncode == 0, (arguments, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """A command at a terminal of its own, as far as signals go: Ctrl-C reaches its whole group."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=ROOT,
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_heed_ctrl_c,
        )

    def running(self) -> list[Running]:
        """Every live process of this installation but PostgreSQL's."""
        mine = f"TALLYDESK_HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):  # gone, or another user's
                    variables = (entry / "environ").read_bytes().split(b"\0")
                    ours = any(one == mine or one.startswith(mine + b"/") for one in variables)
                    if ours and (entry / "cwd").resolve().name != "data":
                        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                        found.append(Running(int(entry.name), command))
        return found

    def roles(self, what: str = "run") -> list[Running]:
        """The live processes whose command holds `what`, such as "run scheduler"."""
        return [one for one in self.running() if f"trader.cli.main {what}" in one.command]

    def end(self) -> None:
        """Kill whatever of it still runs, and stop its servers."""
        for one in self.running():
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        for server in (self.server("demo"), self.server()):
            server.stop("immediate")


def lines_of(process: subprocess.Popen[Any]) -> Iterable[str]:
    """What it prints, line by line, until it ends."""
    assert process.stdout is not None
    return process.stdout


def _heed_ctrl_c() -> None:
    """Whoever runs the tests in the background has told them to ignore it, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
