"""docs/tutorial.md, word by word: its commands in its order, with a simulator and a desk of their own."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"```(sh|python)\n(.*?)```\n(?:```\n(.*?)```\n)?", re.DOTALL)
WRITE = os.environ.get("TALLYDESK_WRITE_DOCS") == "1"
"""Whether what the commands say is written into the page, instead of compared with it."""
PATIENCE = 90.0

pytestmark = [pytest.mark.any_server, pytest.mark.timeout(420)]


class Terminals:
    """A person's shells, whose home, port and `scripts/tallydesk` are ours."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = "8700"
        bin_ = home / "bin" / "scripts"
        bin_.mkdir(parents=True)
        (bin_ / "tallydesk").write_text(
            f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m trader.cli.main "$@"\n', encoding="utf-8"
        )
        (bin_ / "tallydesk").chmod(0o755)
        self.environment = {name: value for name, value in os.environ.items() if "DATABASE" not in name}
        self.environment |= {"HOME": str(home), "COLUMNS": "120"}
        self.before = ""
        """What was exported so far: a shell for each block, as if it were one."""

    def run(self, block: str) -> str:
        block = block.replace("8700", self.port)
        done = subprocess.run(
            ["sh", "-ec", self.before + block],
            cwd=self.home / "bin", env=self.environment, stdin=subprocess.DEVNULL, text=True, timeout=PATIENCE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (block, done.stdout)
        self.before += "".join(f"{line}\n" for line in block.splitlines() if line.startswith("export "))
        return done.stdout

    def until(self, command: str, pattern: str) -> str:
        """Type it again until it says so."""
        end = time.monotonic() + PATIENCE
        while not re.search(pattern, said := self.run(command)):
            assert time.monotonic() < end, said
        return said


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    made = Terminals(tmp_path)
    try:
        yield made
    finally:
        subprocess.run(
            ["sh", "-c", made.before + "scripts/tallydesk stop; scripts/tallydesk db stop"],
            cwd=tmp_path / "bin", env=made.environment, capture_output=True, timeout=PATIENCE, check=False,
        )  # fmt: skip


@pytest.fixture
def market(terminals: Terminals) -> Iterator[str]:
    """The block of the first terminal, at a free port."""
    block = BLOCK.findall(PAGE.read_text(encoding="utf-8"))[0][1]
    running = subprocess.Popen(
        ["sh", "-ec", block.replace("8700", "0").replace("scripts/tallydesk", "exec scripts/tallydesk")],
        cwd=terminals.home / "bin", env=terminals.environment | {"PYTHONUNBUFFERED": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert running.stdout is not None
    try:
        for line in running.stdout:
            if line.startswith("simulator ready on "):
                terminals.port = line.strip().rsplit(":", 1)[1]
                break
        yield block
    finally:
        running.terminate()
        running.wait(PATIENCE)
        running.stdout.close()


def tidy(text: str) -> str:
    """Without the progress of a sweep, which is told every few seconds."""
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return "\n".join(line for line in lines if not re.match(r"sweep \d+: \d+ of \d+", line))


def test_the_tutorial_goes_as_it_is_written(terminals: Terminals, market: str) -> None:
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert blocks[0][1] == market
    for kind, code, shown in blocks[1:]:
        if kind == "python":
            (terminals.home / "tallydesk-trial" / "strategies" / "reversal.py").write_text(code, encoding="utf-8")
            continue
        if "feed watch" in code:
            terminals.until(code, " full 100.0 %")
            continue
        said = terminals.run(code).replace(str(terminals.home), "~")
        if shown or WRITE:
            compare(code, said, shown)
        if "--exact" in code:
            assert "are the same to the cent" in said
        if "strategy add" in code:
            terminals.until(
                """scripts/tallydesk psql -Atc "select count(*) from decisions where action in ('buy', 'none')" """,
                r"^([2-9]|\d\d+)$",
            )


def compare(code: str, said: str, shown: str) -> None:
    """What the page shows is what was said, but for how long it took."""
    page = PAGE.read_text(encoding="utf-8")
    if WRITE and f"{code}```\n```\n" in page:
        page = page.replace(f"{code}```\n```\n{shown}```", f"{code}```\n```\n{tidy(said)}\n```")
        PAGE.write_text(page, encoding="utf-8")
    elif shown:
        assert tidy(said) == tidy(shown)


def test_the_cheat_of_the_tutorial_is_caught(tmp_path: Path) -> None:
    """What the page says one may try: the mean of all candles, those to come included."""
    (code,) = (block for kind, block, _ in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if kind == "python")
    (tmp_path / "cheat.py").write_text(code.replace("window.mean()", "close.mean()"), encoding="utf-8")
    rows = "".join(f"{1700002800000 + 3600000 * n},1,2,0.5,{1 + (n * 7919 % 101) / 101},1\n" for n in range(3_000))
    (tmp_path / "hours.csv").write_text("time_open_ms,open,high,low,close,volume\n" + rows, encoding="utf-8")
    command = ["backtest", "check", "cheat:Reversal", "--timeframe", "1h", "--file", str(tmp_path / "hours.csv")]
    done = subprocess.run(
        [sys.executable, "-m", "trader.cli.main", *command],
        cwd=ROOT, env=os.environ | {"TALLYDESK_STRATEGIES": str(tmp_path)}, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"future at \d{4}-\d\d-\d\d", done.stdout), done.stdout + done.stderr
