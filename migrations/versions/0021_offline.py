"""Exchanges at which no venue is asked: their candles come from files."""

from trader.migrate import backward, forward

revision = "0021_offline"
down_revision = "0020_mend"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
