"""Orders that wait, time in force, groups of which one cancels the others."""

from trader.migrate import backward, forward

revision = "0010_order_life"
down_revision = "0009_reconciliation"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
