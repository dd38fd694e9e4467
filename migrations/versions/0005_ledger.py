"""Fills, the ledger, balances, holds and positions."""

from trader.migrate import backward, forward

revision = "0005_ledger"
down_revision = "0004_order"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
