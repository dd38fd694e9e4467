"""Fixtures for every test are plugins, one file for each thing they stand for."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent / "plugins"

pytest_plugins = [f"tests.plugins.{path.stem}" for path in sorted(_HERE.glob("[!_]*.py"))]
