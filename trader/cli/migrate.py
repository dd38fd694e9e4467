"""`tallydesk migrate`: the version of the schema."""

from typing import Annotated

import typer

from trader import config
from trader.errors import InputError

app = typer.Typer(add_completion=False)


@app.command()
def migrate(
    to: Annotated[str, typer.Option(help="A revision or how it begins, `head` or `base`.")] = "head",
    yes: Annotated[bool, typer.Option("--yes", help="Going back deletes what later revisions hold: do it.")] = False,
) -> None:
    """Bring the database forward to the newest revision of the schema, or to another one.

    Example: tallydesk migrate
    """
    from trader import migrate as steps
    from trader.embedded import database_url

    url = database_url(config.load())
    order = ["base", *steps.revisions()]
    wanted = _resolve(to, order)
    before = steps.current(url) or "base"
    if before in order and order.index(wanted) < order.index(before):
        if not yes:
            raise InputError(f"going back from {before} to {wanted} deletes data; repeat it with --yes to do that")
        steps.downgrade(url, wanted)
    else:
        steps.upgrade(url, wanted)
    print(f"{before} -> {wanted}" if before != wanted else f"at {wanted} already")


def _resolve(text: str, order: list[str]) -> str:
    if text == "head":
        return order[-1]
    found = [revision for revision in order if revision.startswith(text)]
    if len(found) != 1:
        raise InputError(f"--to is {text!r}: allowed are {', '.join(order)} and head, or how one of them alone begins")
    return found[0]
