"""What is wrong with a strategy: code that is not ours, so every way to fail is told in one sentence."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from trader.errors import TallydeskError


class SignalError(TallydeskError):
    """A strategy raised, or gave what is none: no target from -1 to 1, another index, an order that cannot be."""


def describe(error: BaseException, module: str | None = None) -> str:
    """Type, message and file:line of an error, for people.

    The line is the innermost one in `module` (where it called a library that raised), else the innermost one.
    """
    text = error.msg if isinstance(error, SyntaxError) else error
    return f"{type(error).__name__}: {text}{_where(error, module)}"


def _where(error: BaseException, module: str | None) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    own = getattr(sys.modules.get(module or ""), "__file__", None)
    frame = next((frame for frame in reversed(frames) if frame.filename == own), frames[-1] if frames else None)
    return f" ({frame.filename}:{frame.lineno})" if frame else ""


@contextmanager
def telling(what: str, module: str) -> Iterator[None]:
    """Turn whatever is raised within into a SignalError: `what`, then type, message and file:line in `module`.

    The type is left out of what is a sentence already (a TallydeskError); a SignalError stays as it is.
    """
    try:
        yield
    except SignalError:
        raise
    except TallydeskError as error:
        raise SignalError(f"{what}: {error}{_where(error, module)}") from error
    except (Exception, SystemExit) as error:
        raise SignalError(f"{what}: {describe(error, module)}") from error
