"""Finding the class that a row names, and telling what is wrong with one."""

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, TypeGuard

from trader.config import strategies_folder
from trader.errors import InputError
from trader.strategy.error import describe, telling
from trader.strategy.kit import Strategy, styles_of
from trader.strategy.params import parse_params


def load(path: str, params: Mapping[str, Any] | None = None) -> Strategy[Any]:
    """The strategy that `module:Class` names, with `params` over its defaults.

    Raises InputError: no such module or class, a module that cannot be imported, an unknown parameter or a value out of
    bounds. The message lists what there is. SignalError: the class's own constructor raised.
    """
    found = find_class(path)
    given = parse_params(found, params or {})
    with telling(f"{found.__name__} cannot be made", found.__module__):
        return found(given)


def find_class(path: str) -> type[Strategy[Any]]:
    """The class that `module:Class` names; InputError, which lists what there is, if there is none."""
    module_name, colon, class_name = path.partition(":")
    if not colon or not module_name or not class_name:
        raise InputError(f'strategy class "{path}": write module:Class, such as strategies.sma_cross:SmaCross')
    module = _import(path, module_name)
    found = getattr(module, class_name, None)
    if not _is_strategy(found):
        raise InputError(f'strategy class "{path}": {_not_one(found, class_name, module)}')
    styles = styles_of(found)
    if len(styles) != 1:
        what = "both signal and on_bucket: one of them decides" if styles else "neither signal nor on_bucket"
        raise InputError(f'strategy class "{path}": it has {what}')
    return found


def _import(path: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise InputError(f'strategy class "{path}": {name} cannot be imported: {describe(error)}') from error
        raise InputError(f'strategy class "{path}": there is no module "{error.name}"; {_remedy(error.name)}') from None
    except (Exception, SystemExit) as error:
        raise InputError(f'strategy class "{path}": {name} cannot be imported: {describe(error)}') from error


def _remedy(name: str) -> str:
    """What the package of a missing module does have, or where a module must be to be found."""
    parent = sys.modules.get(name.rpartition(".")[0])
    names = sorted(module.name for module in pkgutil.iter_modules(getattr(parent, "__path__", [])))
    if parent and names:
        return f"{parent.__name__} has {', '.join(names)}"
    folder = strategies_folder(os.environ)
    if folder is not None and not folder.is_dir():
        return f"TALLYDESK_STRATEGIES is {folder}, and there is no such directory"
    if folder is not None:
        there = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith(("_", "test_")))
        return f"{folder} (TALLYDESK_STRATEGIES) has {', '.join(there) or 'none'}"
    return (
        f"a file in the checkout's strategies/ is named as strategies.{name}:Class; one elsewhere needs its directory "
        "in TALLYDESK_STRATEGIES (in .env), or on PYTHONPATH of this command and of the workers"
    )


def _not_one(found: object, name: str, module: ModuleType) -> str:
    """Why what a path names is no strategy, and what its module has."""
    if _is_unfinished(found):
        return f"{name} lacks {_lacking(found)}, which a strategy must have (docs/strategies.md)"
    what = "no class" if found is None else "no strategy, but something else,"
    own = {other: one for other, one in vars(module).items() if getattr(one, "__module__", None) == module.__name__}
    known = [other for other, one in sorted(own.items()) if _is_strategy(one)]
    known += [f"{other} (lacks {_lacking(one)})" for other, one in sorted(own.items()) if _is_unfinished(one)]
    return f'there is {what} "{name}" in {module.__name__}; it has {", ".join(known) or "no strategy at all"}'


def _is_unfinished(candidate: object) -> TypeGuard[type[Strategy[Any]]]:
    """Whether it would be a strategy, but for members that it must have."""
    derived = isinstance(candidate, type) and issubclass(candidate, Strategy) and candidate is not Strategy
    return derived and inspect.isabstract(candidate)


def _lacking(strategy: type[Strategy[Any]]) -> str:
    return " and ".join(sorted(strategy.__abstractmethods__))


def _is_strategy(candidate: object) -> TypeGuard[type[Strategy[Any]]]:
    return (
        isinstance(candidate, type)
        and issubclass(candidate, Strategy)
        and candidate is not Strategy
        and not inspect.isabstract(candidate)
    )
