"""Derived candles, and what is known of missing ones."""

from trader.migrate import backward, forward

revision = "0017_gaps"
down_revision = "0015_store"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
