"""Several machines: two with workers, a third with PostgreSQL, a router that gives the first two one public address.

Network namespaces play the machines, so it needs root on Linux and iproute2; elsewhere it is skipped and says so. The
server is made and reached by the commands of docs/operations.md, "Several machines".
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import namedtuple_row

from tests.plugins.simulator import ROOT, Simulator
from trader.embedded import EmbeddedServer
from trader.simulator.client_options import ccxt_options

pytestmark = pytest.mark.timeout(420)

DOCUMENT = (ROOT / "docs" / "operations.md").read_text()
LIMIT = 1200
WORKERS = 4
"""On each of the two machines."""
COINS = tuple(f"C{number}" for number in range(1, 31))
"""Thirty times 84 pages: far more than the longest run gets."""
PATIENCE = 120.0
SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
MARKETS = """
INSERT INTO asset (code) SELECT unnest('{USDT}'::text[] || %(coins)s::text[]);
INSERT INTO exchange (name, ccxt_id, replay, options) VALUES ('venue', 'binance', true, %(options)s);
INSERT INTO market (exchange_id, symbol, base_id, quote_id, price_tick, quantity_step, quantity_min, cost_min,
  maker_fee, taker_fee)
SELECT 1, code || '/USDT', id, 1, 0.01, 0.00001, 0.00001, 5, 0.001, 0.001 FROM asset WHERE code <> 'USDT';
INSERT INTO bucket_feed (market_id, timeframe_id, collect_since) SELECT id, 1, now() - interval '58 days' FROM market;
"""
MACHINES = """
SELECT count(DISTINCT client_addr) AS machines, bool_and(s.ssl) AS tls, count(DISTINCT a.application_name) AS workers
  FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid)
 WHERE datname = current_database() AND application_name ~ '^worker-[ab]-[0-9]+$'
"""

COST = """
SELECT n_tup_upd AS updates, n_tup_hot_upd AS hot, extract(epoch FROM clock_timestamp() - c.first)::int AS seconds,
       (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections
  FROM pg_stat_user_tables, (SELECT min(backend_start) AS first FROM pg_stat_activity
                              WHERE application_name ~ '^worker') c
 WHERE relname = 'rate_budget'
"""


def run(*command: str, **options: Any) -> str:
    """Run a program to its end; its output. AssertionError with its own words if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


class Network:
    """Namespaces on one bridge; this machine is `10.203.X.1` on it, and the others cannot reach anything else."""

    def __init__(self) -> None:
        self._word = f"{os.getpid() % 100_000}"
        self._prefix = f"10.203.{os.getpid() % 250 + 1}"
        self._bridge = f"tdb{self._word}"
        self._machines: list[str] = []
        self.router = f"{self._prefix}.1"

    def open(self) -> None:
        run("ip", "link", "add", self._bridge, "type", "bridge")
        run("ip", "addr", "add", f"{self.router}/24", "dev", self._bridge)
        run("ip", "link", "set", self._bridge, "up")

    def machine(self) -> tuple[str, str]:
        """A new machine: the name of its namespace, and its address."""
        number = len(self._machines) + 2
        name, here, there = f"td{self._word}-{number}", f"tdh{self._word}{number}", f"tdn{self._word}{number}"
        address = f"{self._prefix}.{number}"
        run("ip", "netns", "add", name)
        self._machines.append(name)
        run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        run("ip", "link", "set", here, "master", self._bridge, "up")
        run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", there)
        for device in ("lo", there):
            run("ip", "-n", name, "link", "set", device, "up")
        return name, address

    def close(self) -> None:
        for command in [*(["netns", "del", name] for name in self._machines), ["link", "del", self._bridge]]:
            subprocess.run(["ip", *command], check=False, capture_output=True, timeout=30)


@pytest.fixture
def network() -> Iterator[Network]:
    if shutil.which("ip") is None:
        pytest.skip("the program ip is not here (package iproute2)")
    network = Network()
    try:
        try:
            network.open()
            network.machine()
        except (AssertionError, OSError) as error:
            pytest.skip(f"no network namespace can be made here: {error}")
        yield network
    finally:
        network.close()


class RemoteServer(EmbeddedServer):
    """A PostgreSQL in a namespace of its own. Its cluster is made as the embedded one is; then it is opened to TCP."""

    def __init__(self, home: Path, namespace: str, address: str) -> None:
        super().__init__(home, pg_bin=SERVERS[-1].parent if SERVERS else None, tests=True)
        self.address = address
        self._namespace = namespace
        self.tls = bool(SERVERS) and shutil.which("openssl") is not None
        """The programs of the wheel are made without TLS."""

    def _run(self, program: str, *arguments: object, script: str = "") -> int:
        user = [f"--reuid={self._user.uid}", f"--regid={self._user.gid}", "--clear-groups"] if self._user.other else []
        command = ["ip", "netns", "exec", self._namespace, *(["setpriv", *user] if user else [])]
        command += ["env", "LC_ALL=C", str(self._bin / program), *map(str, arguments)]
        with open(self.base / "control.log", "a") as output:
            done = subprocess.run(
                command, check=False, input=script, text=True, stdout=output, stderr=output, cwd=self.base
            )
        return done.returncode

    def open_to(self, network: str, password: str) -> str:
        """What docs/operations.md says to do on the server; the DATABASE_URL of the others."""
        local = self.ensure("postgres")
        with psycopg.connect(local, autocommit=True) as sql:
            for statement in document("sql"):
                sql.execute(statement.replace("PASSWORD", password).replace("SERVER", self.address))  # type: ignore[arg-type]
            if self.tls:
                self._certificate()
                for statement in document("sql tls"):
                    sql.execute(statement.replace("/etc/postgresql/server", f"{self.data}/server"))  # type: ignore[arg-type]
        (line,) = document("hba")
        kind = "hostssl" if self.tls else "host"
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write(line.replace("NETWORK", network).replace("hostssl", kind) + "\n")
        self.stop("fast")
        self.ensure("postgres")
        (url,) = document("url")
        url = url.replace("PASSWORD", password).replace("SERVER", self.address)
        url = url.replace("/etc/tallydesk/server.crt", f"{self.data}/server.crt")
        return url.removeprefix("DATABASE_URL=") if self.tls else url.removeprefix("DATABASE_URL=").partition("?")[0]

    def _certificate(self) -> None:
        (command,) = document("openssl")
        run("sh", "-c", command.replace("SERVER", self.address), cwd=self.data)
        for name in ("server.crt", "server.key"):
            self._user.own(self.data / name)
        (self.data / "server.key").chmod(0o600)


def document(what: str) -> list[str]:
    """The lines of docs/operations.md that a comment `<!-- tried: WHAT -->` stands before, one for each command."""
    found = re.search(rf"<!-- tried: {what} -->\n```\w*\n(.+?)```", DOCUMENT, re.DOTALL)
    assert found, f"docs/operations.md has no block {what}"
    joined = found[1].replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith(("#", "--"))]


class Router(threading.Thread):
    """Carries requests to the venue: it sees one address, whichever machine asked. Counts connections by machine."""

    def __init__(self, address: str, venue_port: int) -> None:
        super().__init__(daemon=True)
        self.carried: Counter[str] = Counter()
        """Bytes that each machine has sent."""
        self.port = 0
        self._address = address
        self._venue_port = venue_port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()

    def run(self) -> None:
        self._loop.run_until_complete(self._open())
        self._ready.set()
        self._loop.run_forever()

    def __enter__(self) -> "Router":
        self.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join(30)

    async def _open(self) -> None:
        server = await asyncio.start_server(self._carry, self._address, 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        machine = writer.get_extra_info("peername")[0]
        with contextlib.suppress(OSError):
            from_venue, to_venue = await asyncio.open_connection("127.0.0.1", self._venue_port)
            await asyncio.gather(self._copy(reader, to_venue, machine), self._copy(from_venue, writer, None))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, machine: str | None) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if machine is not None:
                    self.carried[machine] += len(data)
                writer.write(data)
                await writer.drain()
        writer.close()


class Machines:
    """Two machines with workers, one of them with the scheduler as well, and the database that they share."""

    def __init__(self, network: Network, venue: Simulator, home: Path, short_home: Path) -> None:
        self.venue = venue
        self.server = RemoteServer(short_home / "pg", *network.machine())
        self.url = self.server.open_to(f"{network.router.rpartition('.')[0]}.0/24", "no-real-password")
        self.router = Router(network.router, venue.port)
        self._network = network
        self._home = home
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Migrate from the first machine, write the feeds, start everything."""
        self.first, self.second = self._network.machine(), self._network.machine()
        self.router.__enter__()
        assert self.tallydesk("a", "migrate").wait(120) == 0, self.output
        options = ccxt_options(f"http://{self._network.router}:{self.router.port}")
        self.sql = psycopg.connect(self.server.url("desk"), autocommit=True, row_factory=namedtuple_row)
        values = {"coins": list(COINS), "options": json.dumps(options)}
        for statement in MARKETS.split(";")[:-1]:
            self.sql.execute(statement, values)  # type: ignore[arg-type]
        self.tallydesk("a", "up")
        self.tallydesk("b", "up")

    def tallydesk(self, machine: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """A command on one of the machines, with the settings that it has."""
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": self.url,
            "TALLYDESK_HOME": str(self._home / machine),
            "TALLYDESK_MACHINE": machine,
            "TALLYDESK_ROLES": f"scheduler worker:{WORKERS}",
        }
        namespace, _ = self.first if machine == "a" else self.second
        command = ["ip", "netns", "exec", namespace, sys.executable, "-m", "trader.cli.main", *arguments]
        with (self._home / "output.log").open("ab") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self._processes.append(process)
        return process

    @property
    def output(self) -> str:
        logs = [*self._home.glob("*.log"), *self._home.glob("?/log/*.log")]
        return "\n".join(f"{log}: {log.read_text()[-1000:]}" for log in logs)

    def wait_for(self, true: Callable[[], Any], patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while not true():
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def connected(self) -> Any:
        return self.sql.execute(MACHINES).fetchone()

    def close(self) -> None:
        for process in self._processes:
            process.terminate()  # `up` ends its children in order
        for process in self._processes:
            process.wait(60)
        if self.router.is_alive():
            self.router.__exit__()
        if hasattr(self, "sql"):
            self.sql.close()
        self.server.stop("immediate")


@pytest.fixture
def machines(
    network: Network, simulator: Callable[..., Simulator], tmp_path: Path, short_home: Path
) -> Iterator[Machines]:
    markets = [word for coin in COINS for word in ("--market", f"{coin}/USDT")]
    made = Machines(network, simulator("--weight-limit", str(LIMIT), *markets), tmp_path, short_home)
    try:
        made.start()
        yield made
    finally:
        made.close()


def by_minute(log: list[dict[str, Any]]) -> Counter[int]:
    """The weight of each of the venue's minutes."""
    minutes: Counter[int] = Counter()
    for one in log:
        minutes[one["time"] // 60_000] += one["weight"]
    return minutes


def refused(log: list[dict[str, Any]]) -> int:
    return sum(one["status"] in (418, 429) for one in log)


@pytest.mark.parametrize(
    "seconds",
    [
        12,
        pytest.param(
            130, marks=pytest.mark.skipif(os.environ.get("TALLYDESK_SLOW") != "1", reason="TALLYDESK_SLOW=1 runs it")
        ),
    ],
)
def test_eight_workers_on_two_machines_keep_to_one_limit(machines: Machines, seconds: int) -> None:
    """With a server of TLS and passwords on a third one. The long run sees two whole minutes of the venue."""
    desk = machines
    desk.wait_for(lambda: desk.connected().workers == 2 * WORKERS)
    desk.wait_for(lambda: desk.router.carried[desk.first[1]] and desk.router.carried[desk.second[1]])
    seen = desk.connected()
    assert (seen.machines, seen.tls) == (2, desk.server.tls)
    began = time.time()
    desk.wait_for(lambda: time.time() > began + seconds, seconds + PATIENCE)
    log = desk.venue.log()
    weight = sum(one["weight"] for one in log if one["time"] > began * 1000)
    minutes = by_minute(log)
    cost = desk.sql.execute(COST).fetchone()
    print(
        f"{seconds} s: weight {weight}, by minute {dict(minutes)}, bytes by machine {dict(desk.router.carried)}; {cost}"
    )
    assert refused(log) == 0
    assert max(minutes.values()) <= LIMIT
    assert weight > 0.4 * LIMIT * seconds / 60, desk.output
    assert all(process.poll() is None for process in desk._processes[1:]), desk.output
    row = desk.sql.execute("SELECT address, capacity FROM budget").fetchall()
    assert row == [("shared", LIMIT / 5)]
    if seconds > 60:  # and without the budget?
        desk.sql.execute("""UPDATE exchange SET options = options || '{"enableRateLimit": false}'""")
        desk.wait_for(lambda: refused(desk.venue.log()) > 0, 60)
