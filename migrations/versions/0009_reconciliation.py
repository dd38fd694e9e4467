"""Other people's trades and orders, drift, and its thresholds."""

from trader.migrate import backward, forward

revision = "0009_reconciliation"
down_revision = "0008_access"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
