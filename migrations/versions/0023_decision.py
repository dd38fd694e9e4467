"""Decisions of strategies are rows: when they decide, on what, what came of it, and what they remember."""

from trader.migrate import backward, forward

revision = "0023_decision"
down_revision = "0022_aligned"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
