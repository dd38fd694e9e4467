"""The `tallydesk` command.

Every module of this package whose name does not begin with `_` is a command of the same name: it holds `app`, a
`typer.Typer`. A module is imported only when its command is used, and imports what is slow inside its functions, so
that `status` and `watchdog` start fast. Every docstring ends with an example.
"""

import importlib
import pkgutil
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from trader import cli
from trader.errors import TallydeskError


def command_names() -> list[str]:
    """The commands there are, in alphabetical order."""
    found = [module.name for module in pkgutil.iter_modules(cli.__path__)]
    return sorted(name for name in found if name != "main" and not name.startswith("_"))


class Lazy(TyperGroup):
    """A group that imports a command's module when it is asked for that command."""

    def list_commands(self, ctx: Any) -> list[str]:
        return command_names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in command_names():
            return None
        made = typer.main.get_command(importlib.import_module(f"trader.cli.{cmd_name}").app)
        made.name = cmd_name
        return made


root = typer.Typer(cls=Lazy, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@root.callback()
def tallydesk() -> None:
    """A trading backend whose single truth is PostgreSQL.

    Example: tallydesk demo
    """


def sentence(error: Exception) -> str | None:
    """What to tell a person about an error that is no fault of the program; None if it may be one."""
    if isinstance(error, TallydeskError):
        return str(error)
    psycopg = sys.modules.get("psycopg")  # not imported: then it is not one of its errors
    if psycopg and isinstance(error, psycopg.OperationalError):
        # libpq names host, port and user, never the password.
        return f"PostgreSQL: {(str(error).strip().splitlines() or ['no reason given'])[0]}"
    return None


def main() -> None:
    """Run the command that the arguments name. Exit code 1, and one sentence on stderr, if it cannot be done."""
    try:
        typer.main.get_command(root).main(prog_name="tallydesk")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        text = sentence(error)
        if text is None:
            raise
        print(f"tallydesk: {text}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
