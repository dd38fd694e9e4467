"""Derived candles, and what is known of missing ones."""

from trader.migrate import backward, forward

revision = "0017_gaps"
down_revision = "0016_update"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
