"""Keeping freed memory: what a process asks the system for, over and over, and what it then asks for no more."""

import subprocess
import sys

import pytest

LOOP = """
import resource, sys
import numpy as np
from trader.backtest.memory import keep_freed_memory

if "keep" in sys.argv:
    assert keep_freed_memory()
once = [np.ones(100_000) for _ in range(8)]
del once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    arrays = [np.ones(100_000) for _ in range(8)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(*arguments: str) -> int:
    """How many pages such a loop was given by the system."""
    command = [sys.executable, "-c", LOOP, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="NOT RUN: only glibc gives memory back so eagerly")
def test_what_is_freed_is_used_again() -> None:
    asked, kept = pages(), pages("keep")
    assert asked > 10_000
    assert kept < asked / 20
