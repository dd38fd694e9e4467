"""How alembic reaches the database: driven by trader.migrate, or by the `alembic` command for those who know it."""

import sqlalchemy as sa
from alembic import context

from trader.migrate import LOCK, connection_url


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """False for procrastinate's tables: a comparison would otherwise propose to drop them."""
    return not (kind == "table" and name is not None and name.startswith("procrastinate_"))


def run() -> None:
    """Run the steps asked for in one transaction: all of them, or none."""
    if context.is_offline_mode():
        raise SystemExit("Tallydesk's migrations run against a database: --sql is not supported")
    engine = sa.create_engine(connection_url(context.config.attributes.get("url")), poolclass=sa.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=sa.MetaData(), include_name=is_ours)
        with context.begin_transaction():
            # Two that migrate at once take turns; the second finds nothing left to do.
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": LOCK})
            context.run_migrations()


run()
