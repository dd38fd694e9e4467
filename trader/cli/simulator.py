"""`tallydesk simulator`: a simulated exchange."""

import os
import sys

import typer

app = typer.Typer(add_completion=False)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def simulator(context: typer.Context) -> None:
    """Run a simulated exchange in this process; arguments go to `python -m trader.simulator` as they are.

    Example: tallydesk simulator --port 8700 --market BTC/USDT --speed 60
    """
    os.execv(sys.executable, [sys.executable, "-m", "trader.simulator", *context.args])
