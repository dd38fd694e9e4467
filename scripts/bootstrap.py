"""Make `.venv` from `requirements.lock` if it is not there or not finished, then become its Python.

Runs on a bare Python: standard library only. Uses `uv` if it is on PATH, else this Python's pip, which writes into the
new environment from outside (Debian's Python has no ensurepip). Every file is checked against the hashes of the lock.

Usage: bootstrap.py ARGUMENTS-FOR-PYTHON...
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NO_PIP = """\
Tallydesk installs its libraries with pip or uv, and this Python ({python}) has neither.
Debian or Ubuntu: apt-get install python3-pip; elsewhere: https://docs.astral.sh/uv/"""


class Failed(Exception):
    """The environment could not be made; the text says why."""


class Environment:
    """The virtual environment of a checkout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / ".venv"
        self.lock = root / "requirements.lock"
        self.python = self.directory / "bin" / "python"
        self.stamp = self.directory / "made-from"

    def wanted(self) -> str:
        """What the stamp of a finished environment says."""
        recipe = hashlib.sha256(self.lock.read_bytes() + str(self.root).encode()).hexdigest()
        return f"{recipe}\n"

    def finished(self) -> bool:
        """True if the environment was made to its end from this very lock, and its Python is still there."""
        try:
            return self.stamp.read_text() == self.wanted() and os.access(self.python, os.X_OK)
        except FileNotFoundError:
            return False

    def packages(self) -> int:
        """How many packages the lock names (a few of them are for other systems)."""
        return len(re.findall(r"^[A-Za-z0-9]", self.lock.read_text(), re.MULTILINE))

    def make(self, base: str) -> None:
        """Make it afresh with the Python `base`; the stamp comes last, so that half an environment is never used."""
        with Progress(f"setting up {self.directory} (once)", self.packages()) as progress:
            self.stamp.unlink(missing_ok=True)
            shutil.rmtree(self.directory, ignore_errors=True)
            progress.run([base, "-m", "venv", "--without-pip", self.directory])
            self.install(base, progress)
            site = next(self.directory.glob("lib/python3.*/site-packages"))
            (site / "tallydesk.pth").write_text(f"{self.root}\n")  # in place of `pip install -e`: nothing is built
            progress.phase = "compiling"
            # Without this, the first import of ccxt takes eight seconds. Some packages ship files for other Pythons.
            progress.run([self.python, "-m", "compileall", "-q", "-j", "0", site], may_fail=True)
            self.stamp.write_text(self.wanted())

    def install(self, base: str, progress: "Progress") -> None:
        """Install what the lock names: with uv if it is here and can, else with pip (uv does not read its settings)."""
        checks: list[object] = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", self.lock]
        if uv := shutil.which("uv"):
            try:
                progress.run([uv, "pip", "install", "--verbose", "--python", self.python, *checks])
            except Failed as error:
                print(f"\n{error}\nuv could not do it; trying pip", file=sys.stderr)
                progress.seen.clear()
            else:
                return
        progress.run(self.pip(base, checks), environment=installer_environment())

    def pip(self, base: str, checks: list[object]) -> list[object]:
        """The command that installs with pip; Failed if there is none."""
        if subprocess.run([base, "-c", "import pip"], capture_output=True, check=False).returncode == 0:
            return [base, "-m", "pip", "--python", self.python, "install", "--no-compile", *checks]
        if importlib.util.find_spec("ensurepip") and importlib.util.find_spec("ensurepip._bundled"):
            subprocess.run([self.python, "-m", "ensurepip"], check=True, capture_output=True)
            return [self.python, "-m", "pip", "install", "--no-compile", *checks]
        raise Failed(NO_PIP.format(python=base))


def installer_environment() -> dict[str, str]:
    """The environment for pip: no questions, no advice."""
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_NO_INPUT": "1"}
    return {**os.environ, **quiet, "PIP_PROGRESS_BAR": "off", "PYTHONUNBUFFERED": "1"}


class Progress:
    """One line that says how far it is: rewritten on a terminal, repeated every ten seconds elsewhere."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total = title, total
        self.phase = ""
        self.seen: set[str] = set()
        self.output: list[str] = []
        self.started = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.shown_at = self.started - 60

    def __enter__(self) -> "Progress":
        self.show()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.phase = "done"
            self.show(last=True)
        elif self.terminal:
            print(file=sys.stderr)

    def text(self) -> str:
        """The line as it should read now."""
        seconds = time.monotonic() - self.started
        packages = f"{len(self.seen)} of {self.total} packages" if self.seen else ""
        return ", ".join(filter(None, [f"{self.title}: {seconds:.0f} s", packages, self.phase]))

    def show(self, *, last: bool = False) -> None:
        """Write the line if it is time to."""
        if not last and time.monotonic() - self.shown_at < (0.2 if self.terminal else 10):
            return
        self.shown_at = time.monotonic()
        end = "\n" if last or not self.terminal else ""
        print(f"\r\033[K{self.text()}" if self.terminal else self.text(), end=end, file=sys.stderr, flush=True)

    def heard(self, line: str) -> None:
        """Take note of a line of the installer: pip and uv both name a package when they turn to it."""
        if not line.startswith(("DEBUG ", "TRACE ")):
            self.output.append(line)
        found = re.search(r"(?:^Collecting |Selecting: )([A-Za-z0-9._-]+)==", line)
        if found:
            self.seen.add(found[1].lower())
        elif "Installing collected" in line or "Installing wheels" in line:
            self.phase = "installing"

    def run(self, command: Sequence[object], environment: dict[str, str] | None = None, may_fail: bool = False) -> None:
        """Run a command to its end under the progress line; Failed, with the end of its output, if it fails."""
        child = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment, close_fds=False,  # it keeps the lock: see `ensure`
        )  # fmt: skip
        assert child.stdout is not None
        try:
            self._listen(child.stdout.fileno())
            code = child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise
        if code and not may_fail:
            raise Failed("\n".join([*self.output[-30:], f"failed ({code}): {' '.join(map(str, command))}"]))

    def _listen(self, pipe: int) -> None:
        rest = b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                self.show()
                if not selector.select(0.2):
                    continue
                data = os.read(pipe, 65536)
                *lines, rest = (rest + data).split(b"\n")
                for line in lines if data else [*lines, rest]:
                    self.heard(line.decode(errors="replace").rstrip())
                if not data:
                    return


def ensure(environment: Environment) -> None:
    """Make the environment unless it is finished; of several at once, one makes it and the others wait."""
    if environment.finished():
        return
    with open(environment.root / ".boot.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # If this process is killed, its installer lives on for a while: the next one waits until that has ended, too.
        os.set_inheritable(lock.fileno(), True)
        if not environment.finished():
            environment.make(getattr(sys, "_base_executable", None) or sys.executable)


def main() -> None:
    environment = Environment(ROOT)
    try:
        ensure(environment)
    except (Failed, subprocess.CalledProcessError, OSError) as error:
        raise SystemExit(f"{error}\nTallydesk's environment {environment.directory} could not be made.") from None
    except KeyboardInterrupt:
        raise SystemExit("\nstopped; the next call starts afresh") from None
    with contextlib.suppress(KeyboardInterrupt):
        os.execv(environment.python, [str(environment.python), *sys.argv[1:]])


if __name__ == "__main__":
    main()
