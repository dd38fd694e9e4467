"""Roles, incidents, the venue's balances, the course of equity."""

from trader.migrate import backward, forward

revision = "0006_operations"
down_revision = "0005_ledger"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
