"""`tallydesk watchdog`: starts what should run and does not."""

import os
from typing import Annotated

import typer

from trader import config

app = typer.Typer(add_completion=False)


@app.command()
def watchdog(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what is well, too.")] = False,
    crontab: Annotated[bool, typer.Option("--crontab", help="Print the lines for cron, and do nothing.")] = False,
) -> None:
    """Start every process of TALLYDESK_ROLES that is not alive, and replace those that have stopped beating.

    For cron, every minute; several at once do no harm. It says nothing if there was nothing to do.

    Example: (crontab -l; scripts/tallydesk watchdog --crontab) | crontab -
    """
    settings = config.load()
    if crontab:
        command = f'"{settings.project / "scripts" / "watchdog"}"'
        if home := os.environ.get("TALLYDESK_HOME"):  # cron has none of this shell's variables
            command = f'TALLYDESK_HOME="{home}" {command}'
        command = command.replace("%", r"\%")
        print(f"@reboot {command}\n* * * * * {command}")
        return
    from trader.watchdog import watch

    failed = False
    for report in watch(settings):
        failed |= report.failed
        if verbose or report.failed or report.started:
            print(report)
    raise typer.Exit(1 if failed else 0)
