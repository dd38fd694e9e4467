"""Fixtures for every test are plugins, one file for each thing they stand for."""

from pathlib import Path

_PLUGINS = ("postgres", "simulator")
_HERE = Path(__file__).resolve().parent / "plugins"

pytest_plugins = [f"tests.plugins.{name}" for name in _PLUGINS if (_HERE / f"{name}.py").exists()]
