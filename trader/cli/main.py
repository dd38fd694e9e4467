"""The `tallydesk` command.

Every module of this package whose name does not begin with `_` is a command of the same name: it holds `app`, a
`typer.Typer`. A module is imported only when its command is used, and imports what is slow inside its functions, so
that `status` and `watchdog` start fast. Every docstring ends with an example.
"""

import difflib
import importlib
import os
import pkgutil
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trader import __version__, cli
from trader.errors import TallydeskError, Unreachable

UNMIGRATED = "the database has no tables yet, or older ones: run `tallydesk migrate`"
OF_THE_SCHEMA = {"42P01", "42703", "42883", "42704", "3F000"}
"""SQLSTATEs: there is no such table, column, function, type or schema."""


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

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As ever; a mistyped command is answered with the one that was meant."""
        names = command_names()
        if args and args[0] not in names and not args[0].startswith("-"):
            meant = difflib.get_close_matches(args[0], names, 1)
            hint = f"did you mean `tallydesk {meant[0]}`?" if meant else f"there are {', '.join(names)}"
            ctx.fail(f"no such command: {args[0]}; {hint}")
        return super().resolve_command(ctx, args)


root = typer.Typer(
    cls=Lazy,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tallydesk {__version__}")
        raise typer.Exit


@root.callback()
def tallydesk(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """A trading backend whose single truth is PostgreSQL.

    Example: tallydesk demo
    """


def sentence(error: BaseException) -> str | None:
    """What to tell a person about an error that is no fault of the program; None if it may be one."""
    if isinstance(error, BaseExceptionGroup):
        found = [sentence(one) for one in error.exceptions]
        return found[0] if None not in found else None
    if isinstance(error, Unreachable):
        return f"{error}; {_where_to_look()}"
    if isinstance(error, TallydeskError):
        return str(error)
    if type(error).__module__.startswith("procrastinate.") and error.__cause__ is not None:
        return sentence(error.__cause__)
    psycopg = sys.modules.get("psycopg")  # not imported: then it is not one of its errors
    if psycopg is None or not isinstance(error, psycopg.Error):
        return None
    first = (str(error).strip().splitlines() or ["no reason given"])[0]
    if error.sqlstate in OF_THE_SCHEMA:
        return f"{UNMIGRATED} ({first})"
    # libpq names host, port and user, never the password.
    return f"PostgreSQL: {first}; {_where_to_look()}" if isinstance(error, psycopg.OperationalError) else None


def _where_to_look() -> str:
    """What to do about a database that does not answer."""
    if os.environ.get("DATABASE_URL", "").strip():
        return "it is the one that DATABASE_URL names (in the environment or .env): start it, or mend the URL"
    return "it is the embedded one: `tallydesk db start` starts it, `tallydesk db status` says where its log is"


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
