"""Scenarios 22 and 45 with the real thing: a disk that is full, a container that starts again with the same ids.

They need Linux namespaces, which root may make; where that is not permitted they are skipped, and say so.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from tests.plugins.desk import OwnDesk, Process
from tests.plugins.simulator import ROOT, Simulator
from trader.embedded import EmbeddedServer

pytestmark = pytest.mark.timeout(240)


def wait_for_output(process: Process, text: str, patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while text not in process.output:
        assert time.monotonic() < deadline, process.output
        time.sleep(0.02)


def needs(*namespace: str) -> None:
    """Skip where no such namespace can be made."""
    try:
        done = subprocess.run(["unshare", *namespace, "true"], check=False, capture_output=True, text=True)
        why = done.stderr.strip()
    except FileNotFoundError as error:
        why = str(error)
    if why:
        pytest.skip(f"no namespace can be made here: {why}")


class SmallDisk(EmbeddedServer):
    """A server in a mount namespace of its own, in which a part of its data may lie on a disk of a few megabytes."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; exec cat"]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"

    def _run(self, program: str, *arguments: object, script: str = "") -> int:
        user = [f"--reuid={self._user.uid}", f"--regid={self._user.gid}", "--clear-groups"]
        command = ["setpriv", *user, "env", "LC_ALL=C", str(self._bin / program), *map(str, arguments)]
        with open(self.base / "control.log", "a") as output:
            return self.inside(*command, script=script, output=output).returncode

    def inside(self, *command: str, script: str = "", output: object = None) -> "subprocess.CompletedProcess[str]":
        """Run something in the server's namespace."""
        entered = ["nsenter", f"--target={self._holder.pid}", "--mount", f"--wdns={self.base}", *command]
        return subprocess.run(
            entered,
            check=False,
            input=script,
            text=True,
            stdout=output,
            stderr=output,
            timeout=120,  # type: ignore[call-overload]
        )

    def do(self, script: str) -> None:
        assert self.inside("sh", "-ec", script).returncode == 0, script

    def mount(self, megabytes: int) -> None:
        """The small disk, at HOME/postgres/small."""
        self.do(
            f"mkdir -p small; mount -t tmpfs -o size={megabytes}m,mode=700 tmpfs small; chown {self._user.uid} small"
        )

    def fill(self) -> None:
        """To the last block."""
        self.inside("sh", "-c", "dd if=/dev/zero of=small/filler bs=4096")
        assert self.inside("sh", "-c", "echo x > small/one-more").returncode != 0

    def free(self) -> None:
        self.do("rm -f small/filler small/one-more")

    def end(self) -> None:
        self.stop("immediate")
        self._holder.communicate("")


@pytest.fixture
def make_small_desk(short_home: Path, simulator: Callable[..., Simulator]) -> Iterator[Callable[[], OwnDesk]]:
    """A factory of a desk whose server has a small disk; `desk.server` is a SmallDisk."""
    needs("--mount")
    made: list[OwnDesk] = []

    def make() -> OwnDesk:
        venue = simulator("--balance", "USDT=1000")
        venue.price("50000")
        desk = OwnDesk(SmallDisk(short_home / "pg"), venue, short_home)
        desk.opening = desk.balances()
        desk.strategy("s", deposit=100)
        desk.execute("UPDATE account SET receive_window = '1 s'")
        made.append(desk)
        return desk

    yield make
    for desk in made:
        for process in desk.processes:
            if process.alive:
                process.kill()
        desk.sql.close()
        assert isinstance(desk.server, SmallDisk)
        desk.server.end()


@pytest.mark.parametrize("in_time", [True, False], ids=["free in time", "free too late"])
def test_s22_the_disk_under_the_fills_is_really_full(make_small_desk: Callable[[], OwnDesk], in_time: bool) -> None:
    """a full disk while storing a fill -> retried; no loss, no double."""
    desk = make_small_desk()
    disk = desk.server
    assert isinstance(disk, SmallDisk)
    disk.mount(megabytes=4)
    desk.execute(f"CREATE TABLESPACE small LOCATION '{disk.base / 'small'}'")
    desk.execute("ALTER TABLE fill SET TABLESPACE small")
    trader = desk.ready_trader()
    disk.fill()
    order = desk.order("s", quote_quantity="60")
    wait_for_output(trader, "settling failed, it is tried again: could not extend file")
    assert "No space left on device" in trader.output
    if not in_time:
        assert trader.wait() == 1
        assert "Traceback" not in trader.output
        assert desk.state(order).status == "submitted"
        assert desk.value("SELECT held FROM allowance WHERE asset = 'USDT'") == 60
    disk.free()
    if not in_time:
        desk.trader()
    desk.known_once(order)
    assert trader.alive == in_time
    assert len(desk.posts()) == 1


def test_s22_the_disk_of_the_write_ahead_log_is_really_full(make_small_desk: Callable[[], OwnDesk]) -> None:
    """a full disk while storing a fill -> PostgreSQL itself goes down; when there is room again: no loss, no double."""
    desk = make_small_desk()
    disk = desk.server
    assert isinstance(disk, SmallDisk)
    desk.sql.close()
    disk.stop()
    disk.mount(megabytes=48)  # a segment is 16
    disk.do("cp -a data/pg_wal/. small/; mount --bind small data/pg_wal")
    disk.ensure()
    desk.sql = psycopg.connect(desk.url, autocommit=True, row_factory=namedtuple_row)
    trader = desk.ready_trader()
    desk.venue.fault("delay_answer", seconds=1)
    order = desk.order("s", quote_quantity="60")
    desk.sent()
    disk.fill()
    with pytest.raises(psycopg.OperationalError):  # some segments there are ready to be used again
        desk.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1000000)) FROM generate_series(1, 60)")
    assert "No space left on device" in disk.log.read_text()
    assert trader.wait() == 1
    assert "Traceback" not in trader.output

    disk.stop("immediate")
    disk.free()
    disk.ensure()
    desk.sql = psycopg.connect(desk.url, autocommit=True, row_factory=namedtuple_row)
    assert desk.state(order).status == "submitted"
    desk.trader()
    desk.known_once(order)
    assert len(desk.posts()) == 1


class Container:
    """What a container is to processes: ids of its own that begin at 1 with each start, and files that stay."""

    def __init__(self, desk: OwnDesk) -> None:
        self._desk = desk
        self._first: subprocess.Popen[str] | None = None
        self.said = ""

    def start(self) -> None:
        """Start it: its first process runs the watchdog once, as cron would, and then stays."""
        environment = self._desk.environment | {"TALLYDESK_HOME": str(self._desk.server.home)}
        del environment["DATABASE_URL"]  # PostgreSQL runs in the container, too
        script = f"{sys.executable} -m trader.cli.main watchdog; echo done; exec cat"
        self._first = subprocess.Popen(
            ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._first.stdout is not None
        self.said = ""
        while not self.said.endswith("done\n"):
            line = self._first.stdout.readline()
            assert line, self.said
            self.said += line

    def ids(self) -> dict[str, int]:
        """Its roles and the postmaster, with the ids that they have in there."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, StopIteration):
                words = (entry / "cmdline").read_text().split("\0")
                ids = next(line.split()[1:] for line in (entry / "status").read_text().splitlines() if "NSpid" in line)
                if len(ids) == self._depth and str(self._desk.server.home) in (entry / "environ").read_text():
                    found |= {words[words.index("run") + 1]: int(ids[-1])} if "run" in words else {}
        return found | {"postmaster": self._desk.server.pid or 0}

    @property
    def _depth(self) -> int:
        status = Path("/proc/self/status").read_text().splitlines()
        return len(next(line.split()[1:] for line in status if "NSpid" in line)) + 1

    def kill(self) -> None:
        """kill -9 of all that is in it, at once."""
        if self._first is not None:
            self._first.kill()  # --kill-child: its first process dies with it, and with that one everything
            self._first.communicate()
            self._first = None


def test_s45_a_container_that_starts_again_with_the_same_process_ids(make_own_desk: Callable[..., OwnDesk]) -> None:
    """a restarted container with the same PIDs changes nothing."""
    needs("--pid", "--fork", "--mount-proc")
    desk = make_own_desk("--balance", "USDT=1000")
    desk.strategy("s", deposit=100)
    desk.execute("UPDATE account SET receive_window = '1 s'")
    desk.sql.close()
    desk.server.stop()
    container = Container(desk)
    try:
        seen = []
        for number in range(3):
            container.start()
            assert container.said.count(": started, because it was not running") == 3, container.said
            desk.sql = psycopg.connect(desk.url, autocommit=True, row_factory=namedtuple_row)
            desk.wait_for("SELECT count(*) = 3 FROM role_status WHERE alive")
            desk.wait_for_status(desk.order("s", quote_quantity="10"), "filled")
            seen.append(container.ids())
            if number < 2:
                desk.venue.fault("delay_answer", seconds=1)
                desk.order("s", quote_quantity="10")
                desk.venue.wait_for_log(lambda one: one["fault"] == "delay_answer" and one["outcome"] == "answer_lost")
                desk.sql.close()
                container.kill()
                desk.venue.clear_faults()
        desk.settled()
        assert len(desk.posts()) == len(desk.venue.orders()) == 5
        desk.check()
    finally:
        container.kill()
    assert set(seen[0]) == {"scheduler", "worker", "trader", "postmaster"}
    used = [set(ids.values()) for ids in seen]
    print(f"process ids, start by start: {seen}")
    assert used[0] & used[1], seen  # an id of the dead is that of another one, or of the same again
    assert used[1] & used[2], seen
