"""`tallydesk up`: the whole desk of a small server, in the foreground."""

import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from trader import config
from trader.children import Children

if TYPE_CHECKING:
    import psycopg

app = typer.Typer(add_completion=False)

LOOK_SECONDS = 1.0
RESTART_SECONDS = 5.0
ALIVE = "SELECT name FROM role_status WHERE alive"
LISTEN = "LISTEN tallydesk_stop"
"""How it hears of `tallydesk stop`, which then waits for the end of the session that is called `up`."""


@app.command()
def up() -> None:
    """Start PostgreSQL if it is the embedded one, migrate, and run every process of TALLYDESK_ROLES until Ctrl-C.

    A process that ends is started again. One that runs elsewhere (under cron, say) is left alone.

    Example: tallydesk up
    """
    from trader.embedded import database_url
    from trader.migrate import upgrade

    settings = config.load()
    upgrade(database_url(settings))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    desk = Desk(settings, stop.is_set)
    try:
        desk.look()
        while not desk.told_to_stop and not stop.wait(LOOK_SECONDS):
            desk.look()
    finally:
        desk.end()


class Desk:
    """The wanted roles: those that are our children, and those that live elsewhere."""

    def __init__(self, settings: config.Settings, signalled: Callable[[], bool]) -> None:
        self._settings = settings
        self._signalled = signalled
        self._asked = False
        self._children = Children(settings)
        self._started: dict[str, float] = {}
        self._elsewhere: set[str] = set()
        self._told: set[str] = set()
        self._connection: psycopg.Connection[Any] | None = None

    @property
    def told_to_stop(self) -> bool:
        """True when somebody has said `tallydesk stop`: it was heard, or every child has ended in order."""
        return self._asked or (bool(self._told) and not self._children.running)

    def _ending(self) -> bool:
        """True as soon as anything says that the desk is to end: what is down then stays down."""
        return self._asked or self._signalled() or self.told_to_stop

    def look(self) -> None:
        """Start what is not alive; an embedded PostgreSQL that has died comes first."""
        for name, code in self._children.dead().items():
            self._children.end(name)
            if code == 0:
                self._told.add(name)
                say(f"{name} was told to stop")
            else:
                say(f"{name} ended with code {code}: see {self._settings.home / 'log' / (name + '.log')}")
        alive = self._alive()
        for role in self._settings.roles:
            if role.name in self._told or self._ending():
                continue
            if role.name in self._children.running:
                self._elsewhere.discard(role.name)
            elif role.name in alive:
                if role.name not in self._elsewhere:
                    say(f"{role.name} runs elsewhere and is left alone")
                self._elsewhere.add(role.name)
            elif time.monotonic() - self._started.get(role.name, 0.0) >= RESTART_SECONDS:
                self._children.start_role(role)
                say(f"{role.name} {'started again' if role.name in self._started else 'started'}")
                self._started[role.name] = time.monotonic()

    def end(self) -> None:
        """End our children in order, and say what lives on."""
        say("stopping: what is in flight is finished first")
        self._children.end()
        others = sorted(self._alive())
        if others:
            say(f"started elsewhere and still running: {', '.join(others)} (tallydesk stop ends them)")
        else:
            say("all stopped")
        say("the embedded PostgreSQL, if used, runs on: tallydesk db stop")
        if self._connection is not None:
            self._connection.close()

    def _alive(self) -> set[str]:
        """The roles whose lock is held; none while the database cannot be asked. An embedded one is started again."""
        import psycopg

        from trader.errors import TallydeskError

        try:
            if self._connection is None or self._connection.closed:
                self._connection = self._connect()
            return {name for (name,) in self._connection.execute(ALIVE).fetchall()}
        except (psycopg.Error, TallydeskError) as error:
            say(f"the database cannot be asked who is alive: {str(error).strip().splitlines()[0]}")
            if self._connection is not None:
                self._connection.close()
            return set()

    def _connect(self) -> "psycopg.Connection[Any]":
        """A session that hears of `tallydesk stop`. What was stopped after we were told to end is not started again."""
        import psycopg

        from trader.embedded import server_of

        url = self._settings.database_url or server_of(self._settings).ensure(unless=self._must_stay_down)
        connection = psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="up")
        connection.add_notify_handler(self._hear)
        connection.execute(LISTEN)
        return connection

    def _must_stay_down(self) -> bool:
        return self._ending() or bool(self._told)

    def _hear(self, _: object) -> None:
        if not self._asked:
            say("told to stop")
        self._asked = True


def say(text: str) -> None:
    """One line with the time, in UTC."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)
