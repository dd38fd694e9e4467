"""Feeds are served by a few jobs for each exchange: leases, what is due, retention, refused candles."""

from trader.migrate import backward, forward

revision = "0016_update"
down_revision = "0015_store"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
