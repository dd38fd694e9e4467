"""Fixtures for every test are plugins, one file for each thing they stand for."""

from pathlib import Path

import pytest

_HERE = Path(__file__).resolve().parent / "plugins"

pytest.register_assert_rewrite("tests.plugins")  # some import each other before pytest gets to them
pytest_plugins = [f"tests.plugins.{path.stem}" for path in sorted(_HERE.glob("[!_]*.py"))]
