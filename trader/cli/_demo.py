"""The demo: what `tallydesk demo` does, step by step, with the commands that a person would type."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
from psycopg import sql
from rich.console import Console

from trader.children import Children
from trader.cli._demo_screen import Progress, final_report, watch_progress
from trader.config import Settings, WantedRole
from trader.embedded import DATABASE, server_of
from trader.errors import TallydeskError
from trader.migrate import upgrade

ROLES = (WantedRole("scheduler", "scheduler"), WantedRole("worker", "worker-1"), WantedRole("trader", "trader-1"))
STRATEGIES = {
    "sma_cross": ("strategies.sma_cross:SmaCross", {"fast": 5, "slow": 20}),
    "momentum": ("strategies.momentum:Momentum", {}),
}
DEPOSIT = 100
VENUE_BALANCE = 10_000
"""What the account has at the simulated venue: enough for deposits of your own."""
DEPOSIT_ROW = "insert into orders (strategy, type, asset, quantity) values ('{}', 'deposit', 'USDT', {})"
HISTORY_DAYS = 130
SETTLE_SECONDS = 45.0
TICK = "0.25"
PREVIOUS = f"{DATABASE}_previous"

UNFINISHED = """SELECT count(*) FROM "order"
 WHERE status IN ('queued', 'submitted', 'accepted', 'partially_filled', 'pending_cancel')"""
END_SESSIONS = """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
 WHERE datname = %s AND pid <> pg_backend_pid()"""
READ_SINCE = "SELECT coalesce(bool_and(settled AND read_at > %s), false) FROM account_balance"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the demo was asked to show."""

    candles: Path | None
    market: str
    timeframe: str
    speed: float
    start: str | None
    """Where the replay begins; None: where the simulator wants to."""
    seconds: float
    override: str
    """Shell variables that point a command at the demo's database."""

    def command(self, arguments: str) -> str:
        """A `tallydesk` command as a person types it, at the demo's database."""
        return f"{self.override} scripts/tallydesk {arguments}"


class Demo:
    """One run of the demo. Whatever ends it, its processes end with it."""

    def __init__(self, console: Console, settings: Settings, plan: Plan) -> None:
        self._console = console
        self._plan = plan
        self._settings = replace(settings, roles=ROLES)
        environment = os.environ | {
            "DATABASE_URL": "",
            "TALLYDESK_HOME": str(settings.home),
            "TALLYDESK_TICK": TICK,
            "DEMO_API_KEY": "demo-key",
            "DEMO_SECRET": "demo-secret",
        }
        self._children = Children(self._settings, environment)

    def run(self) -> None:
        """Raises TallydeskError if anything is not as it must be at the end."""
        url = self._start_database()
        try:
            venue = self._start_simulator()
            self._set_up(venue)
            with psycopg.connect(url, autocommit=True, application_name="demo") as connection:
                self._trade(connection)
                self._wind_down(connection)
                self._children.end("scheduler", "worker-1", "trader-1")
                problems = final_report(self._console, connection, self._plan)
        finally:
            self._children.end()
        if problems:
            raise TallydeskError("the demo did not go as it must: " + "; ".join(problems))

    def _start_database(self) -> str:
        started = time.monotonic()
        server = server_of(self._settings)
        url = server.ensure(DATABASE)
        admin = server.ensure("postgres") if DATABASE != "postgres" else url
        name = sql.Identifier(DATABASE)
        with psycopg.connect(admin, autocommit=True) as connection:
            kept = _was_used(url) and _keep(connection)
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        self._say(f"PostgreSQL is up in {self._settings.home}", started)
        if kept:
            self._console.print(
                f"  the demo before this one is kept: {self._plan.command(f'psql -d {PREVIOUS}')}", soft_wrap=True
            )
        started = time.monotonic()
        upgrade(url)
        self._say("the schema is migrated", started)
        return url

    def _start_simulator(self) -> str:
        started = time.monotonic()
        state = self._settings.home / "simulator.sqlite"
        source = f"={self._plan.candles}" if self._plan.candles else ""
        start = ["--start", self._plan.start] if self._plan.start else []
        log = self._settings.home / "log" / "simulator.log"
        log.unlink(missing_ok=True)
        self._children.start(
            "simulator", "-m", "trader.simulator", "--port", "0", "--state", str(state), "--fresh",
            "--market", self._plan.market + source, "--speed", str(self._plan.speed), *start,
            "--key", "demo-key", "--secret", "demo-secret", "--balance", f"USDT={VENUE_BALANCE}",
        )  # fmt: skip
        url = self._simulator_url(log)
        what = f"replays {self._plan.candles.name}" if self._plan.candles else "plays synthetic candles that it made up"
        self._say(f"a simulated exchange {what}, {self._plan.speed / 3600:g} h of market a second, on {url}", started)
        return url

    def _simulator_url(self, log: Path) -> str:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for line in log.read_text().splitlines() if log.exists() else ():
                if line.startswith("simulator ready on "):
                    return line.removeprefix("simulator ready on ").strip()
            if "simulator" in self._children.dead():
                break
            time.sleep(0.05)
        last = (log.read_text().strip().splitlines() or ["it said nothing"])[-1] if log.exists() else "it said nothing"
        raise TallydeskError(f"the simulated exchange did not start: {last}")

    def _set_up(self, venue: str) -> None:
        market = f"binance:{self._plan.market}"
        with urlopen(f"{venue}/simulator/clock", timeout=10) as answer:  # noqa: S310 - our own simulator
            now = datetime.fromtimestamp(json.load(answer)["market"] / 1000, UTC)
        since = (now - timedelta(days=HISTORY_DAYS)).date().isoformat()
        self._tallydesk(
            "account",
            "add",
            "main",
            "--exchange",
            "binance",
            "--mode",
            "simulator",
            "--url",
            venue,
            "--credentials",
            "DEMO",
        )
        self._tallydesk("feed", "add", "binance", self._plan.market, self._plan.timeframe, "--since", since)
        self._console.print("The strategies are examples of how one is written, not advice to trade like them.")
        for name, (class_, params) in STRATEGIES.items():
            self._tallydesk(
                "strategy", "add", name, "--account", "main", "--class", class_, "--market", market,
                "--timeframe", self._plan.timeframe, "--params", json.dumps(params),
            )  # fmt: skip
        for name in STRATEGIES:
            self._tallydesk("psql", "-qc", DEPOSIT_ROW.format(name, DEPOSIT))

    def _tallydesk(self, *arguments: str) -> None:
        self._console.print(f"  [dim]$[/dim] tallydesk {' '.join(map(typed, arguments))}", soft_wrap=True)
        command = [sys.executable, "-m", "trader.cli.main", *arguments]
        done = subprocess.run(
            command,
            cwd=self._settings.project,
            env=dict(self._children.environment),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise TallydeskError(f"tallydesk {arguments[0]} failed: {(done.stderr or done.stdout).strip()}")

    def _trade(self, connection: "psycopg.Connection[Any]") -> None:
        for role in ROLES:
            self._children.start_role(role)
        self._console.print(f"  [dim]$[/dim] tallydesk up   [dim]({', '.join(role.name for role in ROLES)})[/dim]\n")
        progress = Progress(connection, self._plan.seconds)
        with self._all_alive():
            watch_progress(self._console, progress, self._check_alive)

    @contextlib.contextmanager
    def _all_alive(self) -> Iterator[None]:
        yield
        self._check_alive()

    def _check_alive(self) -> None:
        for name, code in self._children.dead().items():
            raise TallydeskError(f"{name} ended with code {code}: see {self._settings.home / 'log' / (name + '.log')}")

    def _wind_down(self, connection: "psycopg.Connection[Any]") -> None:
        """Stop deciding, let what is in flight end, and read the venue's balances once more."""
        self._console.print(
            "\nStrategies are switched off; what is in flight ends, the venue's balances are read once more."
        )
        connection.execute("UPDATE strategy SET enabled = false")
        deadline = time.monotonic() + SETTLE_SECONDS
        while connection.execute(UNFINISHED).fetchone() != (0,) and time.monotonic() < deadline:
            self._check_alive()
            time.sleep(0.1)
        ended = (connection.execute("SELECT clock_timestamp()").fetchone() or (None,))[0]
        while connection.execute(READ_SINCE, [ended]).fetchone() != (True,) and time.monotonic() < deadline:
            self._check_alive()
            time.sleep(0.1)

    def _say(self, text: str, since: float) -> None:
        self._console.print(f"[green]✓[/green] {text} [dim]({time.monotonic() - since:.1f} s)[/dim]")


def typed(argument: str) -> str:
    """An argument as a person types it in a shell: in double quotes rather than around single ones."""
    return f'"{argument}"' if "'" in argument and not set(argument) & set('"$`\\!') else shlex.quote(argument)


def _was_used(url: str) -> bool:
    """True if a demo came as far as an order in this database."""
    with psycopg.connect(url, autocommit=True) as connection:
        if connection.execute("SELECT to_regclass('\"order\"')").fetchone() == (None,):
            return False
        return connection.execute('SELECT EXISTS (SELECT FROM "order")').fetchone() == (True,)


def _keep(connection: "psycopg.Connection[Any]") -> bool:
    """Rename the database of the demo before, in place of an older one."""
    connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(PREVIOUS)))
    connection.execute(END_SESSIONS, [DATABASE])
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    connection.execute(rename.format(sql.Identifier(DATABASE), sql.Identifier(PREVIOUS)))
    return True
