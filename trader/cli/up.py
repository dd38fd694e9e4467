"""`tallydesk up`: the whole desk of a small server, in the foreground."""

import signal
import threading
from datetime import UTC, datetime

import typer

from trader import config
from trader.children import Children
from trader.config import WantedRole

app = typer.Typer(add_completion=False)

LOOK_SECONDS = 1.0
RESTART_SECONDS = 5.0


@app.command()
def up() -> None:
    """Start PostgreSQL if it is the embedded one, migrate, and run every process of TALLYDESK_ROLES until Ctrl-C.

    Example: tallydesk up
    """
    from trader.embedded import database_url
    from trader.migrate import upgrade

    settings = config.load()
    upgrade(database_url(settings))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    children = Children(settings)
    roles = {role.name: role for role in settings.roles}
    try:
        for role in roles.values():
            _start(children, role, "started")
        while not stop.wait(LOOK_SECONDS):
            _restart_dead(children, roles, stop)
    finally:
        _say("stopping: what is in flight is finished first")
        children.end()
        _say("all stopped; the embedded PostgreSQL, if used, runs on: tallydesk db stop")


def _restart_dead(children: Children, roles: dict[str, WantedRole], stop: threading.Event) -> None:
    for name, code in children.dead().items():
        _say(f"{name} ended with code {code}: see {children.settings.home / 'log' / (name + '.log')}")
        if not stop.wait(RESTART_SECONDS):
            _start(children, roles[name], "started again")


def _start(children: Children, role: WantedRole, what: str) -> None:
    children.start_role(role)
    _say(f"{role.name} {what}")


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)
