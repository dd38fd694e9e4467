"""What commands share that talk to the database: settings, and a connection that is closed at the end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from trader import config

if TYPE_CHECKING:
    from trader.db import Connection
    from trader.exchange.protocol import Exchange


class Session(NamedTuple):
    """A command's settings and its connection."""

    settings: config.Settings
    connection: "Connection"


@asynccontextmanager
async def session() -> AsyncIterator[Session]:
    """Connect to the installation's database. Raises DatabaseError if it has no tables yet."""
    from trader.db import Identity, connect, fetch_one
    from trader.embedded import existing_url
    from trader.errors import DatabaseError

    settings = config.load()
    connection = await connect(existing_url(settings), Identity("cli", "tallydesk"))
    async with connection:
        if not (await fetch_one(connection, "SELECT to_regclass('bucket_feed') IS NOT NULL AS yes")).yes:
            raise DatabaseError("the database has no tables yet: run `tallydesk migrate` first")
        yield Session(settings, connection)


@asynccontextmanager
async def asking(opened: Session, client: "Exchange", exchange_id: int, account_id: int | None) -> AsyncIterator[None]:
    """While the block runs, what `client` asks is counted with what all processes ask, and a venue that is shut stays
    unasked: then Retry is raised. The client is closed in the end."""
    from trader.budget import Budgets
    from trader.db import Identity
    from trader.embedded import existing_url

    settings = opened.settings
    budgets = Budgets(existing_url(settings), Identity("cli", "tallydesk"), settings.address, orders=True)
    try:
        await budgets.limit(client, exchange_id, account_id)
        yield
    finally:
        await client.close()
        await budgets.close()
