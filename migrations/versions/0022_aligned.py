"""Candles lie where their timeframe has them, whoever writes; feeds that are derived end where their source does."""

from trader.migrate import backward, forward

revision = "0022_aligned"
down_revision = "0021_offline"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
