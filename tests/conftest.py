"""Fixtures for every test are plugins, one file for each thing they stand for."""

import signal
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background: children would keep it
    signal.signal(signal.SIGINT, signal.default_int_handler)

_HERE = Path(__file__).resolve().parent / "plugins"

pytest.register_assert_rewrite("tests.plugins")  # some import each other before pytest gets to them
pytest_plugins = [f"tests.plugins.{path.stem}" for path in sorted(_HERE.glob("[!_]*.py"))]
