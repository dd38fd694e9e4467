"""ccxt with its imports put off is the same library: the same names, the same classes, only later."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["ccxt", "ccxt.async_support", "ccxt.pro"]
DESCRIBE = """
import importlib, json, sys
from trader.exchange.library import package
get = package if sys.argv[1] == "later" else importlib.import_module

def described(value):
    return [getattr(value, "__module__", None), getattr(value, "__qualname__", None) or repr(value)]

names = {}
for wanted in json.loads(sys.argv[2]):
    found = get(wanted)
    names[wanted] = {
        name: described(getattr(found, name))
        for name in dir(found)
        if not name.startswith("_") and type(getattr(found, name)).__name__ not in ("module", "_OneByOne")
    }
print(json.dumps(names))
"""


def run(code: str, *arguments: str) -> Any:
    """What a fresh Python prints: this one has ccxt already."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_every_name_is_there_and_means_the_same() -> None:
    later, now = (run(DESCRIBE, when, json.dumps(PACKAGES)) for when in ("later", "now"))

    assert len(now["ccxt.async_support"]) > 150
    assert later == now


def test_only_the_venue_in_use_is_imported() -> None:
    code = """
import json, sys
from trader.exchange import library, live
connected = live.connect("binance", options={"urls": {"api": {"public": "http://127.0.0.1:1"}}}, credentials=None,
                         mode="simulator")
library.package("ccxt.pro").binance
print(json.dumps(sorted(name for name in sys.modules if name.startswith("ccxt."))))
"""
    modules = run(code)

    assert {"ccxt.async_support.binance", "ccxt.pro.binance"} <= {*modules}
    assert not [name for name in modules if "kraken" in name or "bybit" in name]


@pytest.mark.parametrize("name", PACKAGES)
def test_who_imports_it_in_the_ordinary_way_gets_the_same_package(name: str) -> None:
    """A strategy, say. A venue's class is asked for before and after its module was imported by name."""
    code = f"""
import json
from trader.exchange.library import package
lazy = package("{name}")
import {name}, {name}.kraken
from {name} import *
print(json.dumps([{name} is lazy, isinstance({name}.kraken, type), {name}.kraken.__module__, "bybit" in vars(lazy)]))
"""
    assert run(code) == [True, True, f"{name}.kraken", name != "ccxt.pro"]


def test_what_is_not_there_is_said_as_ever() -> None:
    code = """
import json
from trader.exchange.library import package
said = []
for wanted in ("ccxt.no_such_package", "ccxt.async_support"):
    try:
        package(wanted).no_such_venue
    except (ImportError, AttributeError) as error:
        said.append([type(error).__name__, str(error)])
print(json.dumps(said))
"""
    assert run(code) == [
        ["ModuleNotFoundError", "No module named 'ccxt.no_such_package'"],
        ["AttributeError", "module 'ccxt.async_support' has no attribute 'no_such_venue'"],
    ]
