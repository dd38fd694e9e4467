"""`tallydesk resume`: the way back from `tallydesk halt`."""

import asyncio
from typing import Annotated

import typer

from trader.cli._session import session
from trader.cli.halt import IMPATIENT, find_accounts, not_held_up
from trader.errors import InputError

app = typer.Typer(add_completion=False)

# A large difference halted it, and nothing was booked: resuming accepts the difference.
DIFFERENCES = """
SELECT c.name, string_agg(format('%%s %%s', trim_scale(d.drift), a.code), ', ' ORDER BY a.code) AS drift
  FROM account_drift d JOIN account c ON c.id = d.account_id JOIN asset a ON a.id = d.asset_id
 WHERE c.id = ANY(%(accounts)s) AND c.halted AND d.halted_at IS NOT NULL GROUP BY c.name ORDER BY c.name
"""
RESUME = """
UPDATE account SET halted = false, reducing = false, halt_reason = NULL WHERE id = ANY(%(accounts)s)
"""


@app.command()
def resume(
    account: Annotated[str | None, typer.Argument(help="Which account; without it, all of them.")] = None,
    accept_drift: Annotated[
        bool, typer.Option("--accept-drift", help="Book the large difference that halted the account as it is.")
    ] = False,
) -> None:
    """Let an account send again: neither halted nor reducing. Limits stay as they are.

    Example: tallydesk resume main
    """
    asyncio.run(_resume(account, accept_drift))


async def _resume(name: str | None, accept_drift: bool) -> None:
    from trader.db import fetch_all

    async with session() as (_, connection), not_held_up(connection), connection.transaction():
        accounts = await find_accounts(connection, name)
        ids = [account.id for account in accounts]
        differences = await fetch_all(connection, DIFFERENCES, {"accounts": ids})
        if differences and not accept_drift:
            found = "; ".join(f"account {row.name}: {row.drift}" for row in differences)
            raise InputError(
                f"the venue differs from the books ({found}), and resuming books that as it is: look at "
                "the view reconciliation first; then give --accept-drift"
            )
        await connection.execute(IMPATIENT)
        await connection.execute(RESUME, {"accounts": ids})
        for account in accounts:
            print(f"account {account.name}: {'active already' if account.state == 'active' else 'active again'}")
