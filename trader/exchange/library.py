"""ccxt without the venues that nobody asked for.

ccxt's packages import every venue there is, twice: half a second of CPU and 55 MB of memory in each process, for the
one or two venues that it talks to. `package` gives the same package with the same names; each is imported when it is
first used.
"""

import ast
import importlib
import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def package(name: str) -> Any:
    """The package `name` ("ccxt.async_support"), and every package above it, whose imports wait until they are used.

    One that is imported already stays as it is, as does one whose source is not there. ImportError if there is none.
    """
    above, _, last = name.rpartition(".")
    parent = package(above) if above else None
    if name not in sys.modules:
        spec = importlib.util.find_spec(name)
        source = spec.loader.get_source(name) if spec and isinstance(spec.loader, importlib.abc.InspectLoader) else None
        if spec is None or source is None:
            return importlib.import_module(name)
        _OneByOne(spec, source)
        if parent is not None:
            setattr(parent, last, sys.modules[name])
    return sys.modules[name]


class _OneByOne(ModuleType):
    """A package that has run its own `__init__`, but for the imports of names which that does not use itself."""

    def __init__(self, spec: ModuleSpec, source: str) -> None:
        super().__init__(spec.name)
        now, self._later = _divide(ast.parse(source))
        for name, value in vars(importlib.util.module_from_spec(spec)).items():
            setattr(self, name, value)
        sys.modules[spec.name] = self
        try:
            exec(compile(now, str(spec.origin), "exec"), vars(self))  # noqa: S102 - the package's own source
        except BaseException:
            del sys.modules[spec.name]
            raise

    def __getattr__(self, name: str) -> Any:
        if name not in vars(self).get("_later", {}):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module, theirs = self._later[name]
        value = getattr(importlib.import_module(module), theirs)
        vars(self)[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # Python binds every module that was imported to its name in the package. In ours it would hide what the
        # package itself calls so: a venue's class, or a list.
        is_module = getattr(value, "__name__", None) == f"{self.__name__}.{name}"
        if not is_module or name not in {*vars(self), *self._later}:
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*vars(self), *self._later})


def _divide(tree: ast.Module) -> tuple[ast.Module, dict[str, tuple[str, str]]]:
    """What must run at once, and where each of the other names comes from: (module, name there)."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    now: list[ast.stmt] = []
    later: dict[str, tuple[str, str]] = {}
    for node in tree.body:
        found = _imported(node)
        if not found or found.keys() & used:
            now.append(node)
        else:
            later |= found
    return ast.Module(now, []), later


def _imported(node: ast.stmt) -> dict[str, tuple[str, str]]:
    """The names that a plain `from package.module import name` binds; of anything else, none."""
    if not isinstance(node, ast.ImportFrom) or node.level or node.module is None or node.names[0].name == "*":
        return {}
    return {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
