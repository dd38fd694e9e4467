"""Risk limits of strategies and accounts, and accounts that only reduce."""

from trader.migrate import backward, forward

revision = "0012_risk"
down_revision = "0011_fast"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
