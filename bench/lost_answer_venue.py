"""The five faults of the scoreboard, the same for whoever is measured, and what is read off the venue afterwards."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from bench.simulated import Venue, simulator

Found = TypeVar("Found")

WANTED = Decimal(60)
"""USDT that one order is to spend."""
FUNDS = Decimal(100)
"""USDT that whoever is measured may spend in all; at the venue there is ten times as much, so that nothing hides."""
STEP = Decimal("0.5001")
"""USDT that the venue's quantity step may leave unspent: 0.00001 BTC at the pinned price."""
PATIENCE = 240.0
CREATE = "POST /api/v3/order"
LOOK_UP = "GET /api/v3/order"
HELD_BACK = 10
"""Seconds for which the answer is held back in the row with the kill."""
LOOK = 0.02
"""Seconds between two looks at the venue."""


@dataclass(frozen=True, slots=True)
class Row:
    """One fault: the rules that the venue gets, and whether the process is killed while its answer is held back.

    Every rule lets the venue accept and fill the order first.
    """

    name: str
    faults: tuple[Mapping[str, Any], ...]
    killed: bool = False


def _fault(fault: str, endpoint: str = CREATE, **fields: Any) -> Mapping[str, Any]:
    return {"fault": fault, "match": {"endpoint": endpoint}, **fields}


ROWS = {
    "lost": Row("answer lost once", (_fault("drop_answer"),)),
    "lost3": Row("answer lost three times", (_fault("drop_answer", times=3), _fault("drop_answer", LOOK_UP, times=3))),
    "killed": Row("killed before the ack, restarted", (_fault("delay_answer", seconds=HELD_BACK),), killed=True),
    "503": Row("done, but answers HTTP 503", (_fault("status", status=503, act=True),)),
    "garbage": Row("done, answers 200 with garbage", (_fault("garbage"),)),
}
CONTROL = {"control": Row("no fault, for comparison", ())}


class Process:
    """A process that is measured; what it says goes to a file."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], directory: Path, log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=directory, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def ended(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end; kill it if it does not."""
        if self.ended is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


@contextlib.contextmanager
def faulty_venue(row: Row, *arguments: str) -> Iterator[Venue]:
    """A simulated venue with money, on which the row's faults wait for the first order."""
    with simulator("--balance", f"USDT={FUNDS * 10}", *arguments) as venue:
        venue.admin("POST", "faults", [dict(fault) for fault in row.faults])
        yield venue


def orders(venue: Venue) -> list[dict[str, Any]]:
    """Every order that the venue has accepted."""
    found: list[dict[str, Any]] = venue.admin("GET", "orders")
    return found


def spent(venue: Venue) -> Decimal:
    """USDT that all of them cost together."""
    return sum((Decimal(one["cost"]) for one in orders(venue)), Decimal(0))


def until(condition: Callable[[], Found], what: str, log: Path, patience: float = PATIENCE) -> Found:
    """Wait until it is true and give it; TimeoutError with the end of the log if it never is."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {patience:.0f} s\n{log.read_text()[-3000:]}")
        time.sleep(LOOK)
    return found


def quiet(look: Callable[[], object], seconds: float, log: Path) -> None:
    """Wait until what `look` gives has been the same for so long."""
    last, since = look(), time.monotonic()

    def unchanged() -> bool:
        nonlocal last, since
        if (now := look()) != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= seconds

    until(unchanged, f"nothing new for {seconds:.0f} s", log, PATIENCE + 2 * seconds)


def clean_environment(**more: str) -> dict[str, str]:
    """This process's, without what would lead another installation's Python astray."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | more
