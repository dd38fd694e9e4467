"""Python processes for tests, started from one that has imported already what they import: in 20 ms, not in a second.

`start` and `run` are `subprocess.Popen` and `subprocess.run` for `python -m module arguments`. What they start is a
process of its own: forked from the nursery before anything has happened there, with its own memory, descriptors,
environment and end, so that it may be killed like any other. Only imports are shared. With TALLYDESK_TEST_EXEC=1,
or with variables that the system reads at a program's start, it is started in the ordinary way; tests/acceptance always
does that.
"""

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
AT_THE_START = ("LD_", "PYTHON", "MALLOC_")
"""What these variables ask for is done before there is a Python that could be forked."""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
"""The nursery's own."""
PATHS = "PYTHONPATH"
"""This one can be had later: what was imported already is the same whoever looks for it."""
WORD = 8
"""Bytes of a number that is sent."""
# What the desk's processes, the simulator and the commands import; the modules that are run are not among it.
IMPORTED = (
    "jobs.scheduler",
    "jobs.worker",
    "numpy",
    "pandas",
    "psycopg_pool",
    "talib",
    "trader.backtest.load",
    "trader.backtest.record",
    "trader.backtest.store",
    "trader.backtest.sweep",
    "trader.cli.run",
    "trader.exchange.live",
    "trader.migrate",
    "trader.service",
    "trader.simulator.server",
    "trader.simulator.sockets",
)


class Born:
    """A process, as `subprocess.Popen` would show it."""

    def __init__(self, pid: int, told: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._told = told

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            ready, _, _ = select.select([self._told], [], [], timeout)
            if not ready:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = _number(self._told)
            self._told.close()  # its number may be used again
        return self.returncode

    def send_signal(self, number: int) -> None:
        # Its number belongs to it until we know of its end.
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def start(
    module: str,
    arguments: list[str],
    environment: dict[str, str],
    output: IO[Any] | int,
    errors: IO[Any] | int,
    place: Path = ROOT,
) -> "Born | subprocess.Popen[bytes]":
    """Run `python -m module arguments` in the directory `place`; `output` and `errors` are files."""
    changed = [name for name, value in environment.items() if ENVIRONMENT.get(name) != value and name != PATHS]
    if os.environ.get("TALLYDESK_TEST_EXEC") == "1" or any(name.startswith(AT_THE_START) for name in changed):
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(
            command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )
    files = [one if isinstance(one, int) else one.fileno() for one in (output, errors)]
    asked = json.dumps([module, arguments, environment, str(place)]).encode()
    ours, its = socket.socketpair()
    with its, _ONE_AT_A_TIME:
        socket.send_fds(_nursery(), [len(asked).to_bytes(WORD)], [*files, its.fileno()])
        _nursery().sendall(asked)
    return Born(_number(ours), ours)


def run(
    module: str, *arguments: str, environment: dict[str, str], timeout: float = 60, place: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """The same to its end, as `subprocess.run` with captured text."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = start(module, list(arguments), environment, output, errors, place)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        output.seek(0), errors.seek(0)
        return subprocess.CompletedProcess([module, *arguments], code, output.read(), errors.read())


@functools.cache
def _nursery() -> socket.socket:
    """The nursery of this process, which ends with it."""
    ours, its = socket.socketpair()
    command = [sys.executable, "-m", "tests.plugins._nursery"]
    # A fork takes no threads along: none are to be started.
    environment = {**ENVIRONMENT, "OPENBLAS_NUM_THREADS": "1"}
    with its:
        subprocess.Popen(command, cwd=ROOT, env=environment, stdin=its, stdout=subprocess.DEVNULL)
    return ours


_ONE_AT_A_TIME = threading.Lock()


def _number(told: socket.socket) -> int:
    said = told.recv(WORD, socket.MSG_WAITALL)
    if len(said) < WORD:
        raise AssertionError("the nursery of processes has ended: its own error is on stderr")
    return int.from_bytes(said, signed=True)


# The nursery's side. A fork returns here through `_requests`, so that a process that was born runs, and ends, in the
# ordinary way: with its exit handlers, its threads and its traceback.


def _imports() -> None:
    for module in IMPORTED:
        importlib.import_module(module)
    from trader.exchange import library

    assert library.package("ccxt.async_support").binance
    assert library.package("ccxt.pro").binance
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()


def _request(control: socket.socket) -> tuple[list[Any], list[int]] | None:
    """The next process that is wanted, and its descriptors; None if nobody can want one any more."""
    head, files, _, _ = socket.recv_fds(control, WORD, 3)
    if not head:
        return None
    length, body = int.from_bytes(head), b""
    while len(body) < length:
        body += control.recv(length - len(body))
    return json.loads(body), files


def _serve(control: socket.socket) -> list[Any] | None:
    """Fork what is asked for; in a process that was born: what it shall be. None when there is nobody left."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers
    while asked := _request(control):
        wanted, (output, errors, told) = asked
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            _keep(output, errors, socket.socket(fileno=told))
            return wanted
        for number in (output, errors, told):
            os.close(number)
    return None


def _keep(output: int, errors: int, told: socket.socket) -> None:
    """Fork again; returns in the child. The other one tells how it ends, and keeps its number until that is known."""
    pid = os.fork()
    nothing = os.open(os.devnull, os.O_RDWR)
    files = (nothing, output, errors) if pid == 0 else (nothing, nothing, nothing)
    for number, wanted in enumerate(files):
        os.dup2(wanted, number)
    if pid == 0:
        told.close()
        os.closerange(3, 1024)
        return
    os.close(output)
    os.close(errors)
    told.sendall(pid.to_bytes(WORD, signed=True))
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
    with contextlib.suppress(OSError):  # nobody wants to know
        told.sendall(code.to_bytes(WORD, signed=True))
        told.recv(1)
    os._exit(0)


def _be(module: str, arguments: list[str], environment: dict[str, str], place: str) -> None:
    """Be `python -m module arguments`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(place)
    sys.path[1:1] = [path for path in environment.get(PATHS, "").split(os.pathsep) if path and path not in sys.path]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _imports()
    with socket.socket(fileno=os.dup(0)) as control:
        wanted = _serve(control)
    if wanted is not None:
        _be(*wanted)


if __name__ == "__main__":
    main()
