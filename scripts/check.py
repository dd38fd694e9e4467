"""Every check there is: format, lint, layers, types, and the tests on each PostgreSQL that is at hand.

With arguments, only pytest runs, with them. Ends with a summary; the exit code is 0 only if everything passed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = Path(sys.executable).parent
BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
"""Container images often forbid to write it: then every process compiles the checkout anew, and every pytest worker
rewrites each assert of each test, in every run."""
OLDEST = 15
"""The oldest PostgreSQL that we support. Integration tests run on it, too, where it is installed."""


@dataclass
class Result:
    """How one step went."""

    name: str
    code: int
    seconds: float
    detail: str = ""

    def __str__(self) -> str:
        verdict = "ok" if self.code == 0 else f"FAILED ({self.code})"
        return f"  {self.name:<22} {verdict:<12} {self.seconds:6.1f} s   {self.detail}".rstrip()


def step(name: str, *command: str, environment: dict[str, str] | None = None) -> Result:
    """Run one command in the checkout and time it."""
    print(f"--- {name}", flush=True)
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(environment or {})}, check=False)
    return Result(name, done.returncode, time.monotonic() - started)


def run_tests(name: str, *arguments: str, environment: dict[str, str] | None = None) -> Result:
    """Run pytest; its own report (tests/plugins/postgres.py) says what served, and how many tests ran."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        told = {**(environment or {}), **BYTECODE, "TALLYDESK_TEST_REPORT": str(report)}
        result = step(name, sys.executable, "-m", "pytest", *arguments, environment=told)
        if report.exists():
            counts = json.loads(report.read_text())
            database = counts.pop("database")
            result.detail = ", ".join(f"{number} {kind}" for kind, number in counts.items() if number) or "no tests"
            result.detail += f" on {database}"
        elif result.code == 0:
            result.code, result.detail = 1, "pytest wrote no report"
    return result


def oldest_programs() -> Path | None:
    """The directory of the oldest supported PostgreSQL's programs, if it is installed."""
    usual = Path(f"/usr/lib/postgresql/{OLDEST}/bin")
    if (usual / "postgres").exists():
        return usual
    found = shutil.which("pg_ctl")
    if not found:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    directory = Path(found).resolve().parent
    return directory if re.search(rf" {OLDEST}\.", said) and (directory / "postgres").exists() else None


def everything() -> list[Result]:
    """All steps, also after one has failed: one run shows all there is to mend."""
    # Most tests wait for processes and clocks, so twice as many as there are cores; the slow ones at the end
    # are shared.
    workers = ["-n", str(min(6, 2 * (os.cpu_count() or 1))), "--dist", "worksteal"]
    # Beside the first steps, which use one core: else each worker would rewrite the asserts of all tests by itself.
    collecting = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--collect-only", "-q"],
        cwd=ROOT, env={**os.environ, **BYTECODE}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    results = [
        step("format", sys.executable, "-m", "ruff", "format", "--check", "."),
        step("lint", sys.executable, "-m", "ruff", "check", "."),
        step("layers", str(PROGRAMS / "lint-imports"), environment={"PYTHONPATH": str(ROOT)}),
        step("types", sys.executable, "-m", "mypy"),
    ]
    collecting.wait()  # what it cannot import, the next step tells
    results.append(run_tests("tests", *workers))
    if old := oldest_programs():
        served = {"TEST_PG": "embedded", "TEST_PG_BIN": str(old), "TEST_DATABASE_URL": ""}
        chosen = ["tests/integration", "-m", "not any_server"]
        results.append(run_tests(f"tests, PostgreSQL {OLDEST}", *workers, *chosen, environment=served))
    else:
        print(f"PostgreSQL {OLDEST} is not installed: the tests did not run on it")
    return results


def main() -> None:
    started = time.monotonic()
    results = [run_tests("tests", *sys.argv[1:])] if sys.argv[1:] else everything()
    print("\nsummary")
    print(*results, sep="\n")
    failed = [result.name for result in results if result.code]
    verdict = f"FAILED: {', '.join(failed)}" if failed else "everything passed"
    print(f"{verdict}, {time.monotonic() - started:.0f} s")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
