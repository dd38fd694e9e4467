"""The scheduler's threads: they go on whatever the wall clock does, end when told, and say why they cannot go on."""

import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import psycopg
import pytest
import time_machine

from jobs.scheduler import Tick, Ticker

TICK = Tick("count", 0.1, "INSERT INTO asset (code) SELECT 'A' || count(*) FROM asset", {})


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_ticks_go_on_when_the_clock_is_set(database: str, connection: psycopg.Connection, hours: int) -> None:
    def ticks() -> int:
        return connection.execute("SELECT count(*) FROM asset").fetchone()[0]

    stop, errors = threading.Event(), []
    ticker = Ticker(TICK, database, stop, lambda tick, error: errors.append(error))
    ticker.start()
    wait_for(lambda: ticks() >= 3)
    with time_machine.travel(datetime.now().astimezone() + timedelta(hours=hours)):
        before = ticks()
        wait_for(lambda: ticks() >= before + 5)
    stop.set()
    ticker.join(2)
    assert not ticker.is_alive()
    assert errors == []


def test_a_tick_that_fails_says_so(database: str) -> None:
    failed: list[tuple[Tick, Exception]] = []
    ticker = Ticker(Tick("bad", 1, "SELECT nothing", {}), database, threading.Event(), lambda *why: failed.append(why))
    ticker.start()
    ticker.join(10)
    ((tick, error),) = failed
    assert tick.name == "bad"
    assert isinstance(error, psycopg.errors.UndefinedColumn)
