"""Tables on the terminal: rows of a view, as psql would show them, but never with a number folded in two."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

LONGEST_UNFOLDED = 40
"""Characters. A longer text may be folded between its words; a number, a name or a time never is."""


@dataclass(frozen=True)
class Rows:
    """A table that suits the width of the screen: if it is too wide as it is, it is turned on its side."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    turned: bool = False
    """On its side wherever it is shown."""

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        upright = table(self.title, self.columns, self.rows)
        if not self.turned and (len(self.columns) < 3 or _least_width(upright) <= options.max_width):
            yield upright
            return
        title, rest = self.title, list(self.rows)
        while rest:
            count = next((n for n in range(len(rest), 1, -1) if self._fits(rest[:n], options.max_width)), 1)
            yield turn(title, self.columns, rest[:count], rigid=count > 1)
            title, rest = "", rest[count:]
            if rest:
                yield ""

    def _fits(self, rows: Sequence[Sequence[Any]], width: int) -> bool:
        return _least_width(turn(self.title, self.columns, rows)) <= width


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, rigid: bool = True) -> Table:
    """A table; numbers to the right, NULL as a dot. Rigid: only long texts may be folded."""
    made = Table(
        title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim"
    )
    for position, column in enumerate(columns):
        numeric = any(_is_number(row[position]) for row in rows)
        width = _width(column, [row[position] for row in rows])
        made.add_column(
            column,
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=rigid and width <= LONGEST_UNFOLDED,
            min_width=min(width, LONGEST_UNFOLDED) if rigid else None,
        )
    for row in rows:
        made.add_row(*(_text(value) for value in row))
    return made


def turn(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, rigid: bool = True) -> Table:
    """The same on its side: a line for each column, a column for each row, named by what the row begins with."""
    lines = [[columns[position], *(row[position] for row in rows)] for position in range(1, len(columns))]
    return table(title, [columns[0], *(str(row[0]) for row in rows)], lines, rigid=rigid)


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    console = Console()
    console.print(Rows(title, columns, rows) if rows else f"[bold]{title}[/bold] [dim](none)[/dim]")


def show(
    console: Console, connection: Any, title: str, statement: str, *, empty: str = "(none)", expanded: bool = False
) -> None:
    """Run a statement and print its rows under a title; expanded: one row of the result a column."""
    cursor = connection.execute(statement)
    rows = cursor.fetchall()
    columns = [column.name for column in cursor.description]
    if not rows:
        console.print(f"[bold]{title}[/bold] [dim]{empty}[/dim]")
    else:
        console.print(Rows(title, columns, rows, turned=expanded))


def _least_width(made: Table) -> int:
    """How wide it is if nothing is folded that must not be: two spaces are between its columns."""
    return sum(column.min_width or 0 for column in made.columns) + 2 * (len(made.columns) - 1)


def _width(column: str, values: Sequence[Any]) -> int:
    return max(len(column), *(Text.from_markup(_text(value)).cell_len for value in values))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _text(value: Any) -> str:
    if value is None:
        return "[dim]·[/dim]"
    if isinstance(value, bool):
        return "[green]yes[/green]" if value else "[red]no[/red]"
    if isinstance(value, Decimal):
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return escape(str(value))


def more(count: int, shown: int) -> str:
    """The end of a list of which only some are shown: how many more there are."""
    return f" and {count - shown} more" if count > shown else ""
