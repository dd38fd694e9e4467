"""`tallydesk reconcile`: the venue against our books, now."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from trader.cli._session import Session, asking, session
from trader.errors import InputError

if TYPE_CHECKING:
    from trader.account import Account
    from trader.reconcile import Round

app = typer.Typer(add_completion=False)

ROUNDS = 6
"""A difference counts when two settled readings agree; what a trader may be about to book costs a few more."""

VIEW = """SELECT account, asset, verdict, venue, ledger, drift, strategies, unallocated, external, suspense
  FROM reconciliation WHERE account = ANY(%s) ORDER BY account, asset"""


@app.command()
def reconcile(
    account: Annotated[str | None, typer.Argument(help="Which account; all if none is named.")] = None,
) -> None:
    """Book what the venue did and we missed, note what is not ours, judge what still differs.

    Exit code 1 if a venue could not be read, or a difference is left that is not tolerated.

    Example: tallydesk reconcile main
    """
    if not asyncio.run(_all(account)):
        raise typer.Exit(1)


async def _all(name: str | None) -> bool:
    from rich.console import Console

    from trader.account import load_accounts
    from trader.cli._screen import Rows
    from trader.db import fetch_all

    console = Console()
    async with session() as ours:
        accounts = [one for one in await load_accounts(ours.connection) if name in (None, one.name)]
        if name is not None and not accounts:
            raise InputError(f"account {name}: there is none of this name (tallydesk account list)")
        agreed = [await _one(ours, one, console) for one in accounts]
        rows = await fetch_all(ours.connection, VIEW, [[one.name for one in accounts]])
    if rows:
        console.print(Rows("reconciliation", rows[0]._fields, rows))
    return all(agreed)


async def _one(ours: Session, account: "Account", console: "object") -> bool:
    """Rounds until the venue and the books agree, or a person must decide."""
    from trader.account import connect_account
    from trader.drift import APART
    from trader.reconcile import reconcile_account

    exchange = connect_account(account, ours.settings)
    print(f"{account.name}: reading {account.exchange_name}", flush=True)
    async with asking(ours, exchange, account.exchange_id, account.id):
        for number in range(1, ROUNDS + 1):
            done = await reconcile_account(ours.connection, exchange, account)
            for line in told(done):
                print(line)
            if done.agrees or done.failures or (done.judged and done.judged.halting) or number == ROUNDS:
                return done.agrees
            await asyncio.sleep(APART.total_seconds())
    return False


def told(done: "Round") -> list[str]:
    """What a round did, a line for each thing."""
    lines = [
        f"{done.account}: {done.markets} markets read; booked {done.booked} missed fills of ours and {done.foreign} of "
        f"others; {done.foreign_orders} open orders of others"
    ]
    if done.waiting:
        lines.append(f"{done.account}: {done.waiting} executions wait for the trader or for an order in flight")
    lines += [f"{done.account}: could not read: {error}" for error in done.failures]
    if done.read is not None and not done.read.settled:
        lines.append(f"{done.account}: orders are in flight: the balances prove nothing yet")
    if done.judged is not None:
        lines += [f"{done.account}: {sentence}" for sentence in done.judged.posted]
        if done.judged.halting:
            lines.append(f"{done.account}: halted, {', '.join(done.judged.halting)} differs too much: see its reason")
        elif done.judged.waiting:
            lines.append(f"{done.account}: {', '.join(done.judged.waiting)} differs; a second reading must agree")
    return lines
