"""Tables on the terminal: rows of a view, as psql would show them, but narrower."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table; numbers to the right, NULL as a dot."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for position, column in enumerate(columns):
        numeric = any(_is_number(row[position]) for row in rows)
        made.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        made.add_row(*(_text(value) for value in row))
    return made


def show(
    console: Console, connection: Any, title: str, statement: str, *, empty: str = "(none)", expanded: bool = False
) -> None:
    """Run a statement and print its rows under a title; expanded: one row of the result a column."""
    cursor = connection.execute(statement)
    rows = cursor.fetchall()
    columns = [column.name for column in cursor.description]
    if not rows:
        console.print(f"[bold]{title}[/bold] [dim]{empty}[/dim]")
    elif expanded:
        turned = [[columns[position], *(row[position] for row in rows)] for position in range(1, len(columns))]
        console.print(table(title, [columns[0], *(str(row[0]) for row in rows)], turned))
    else:
        console.print(table(title, columns, rows))


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
