"""Candles lie where their timeframe has them, whoever writes; feeds that are derived end where their source does."""

from trader.migrate import backward, forward

revision = "0022_aligned"
down_revision = "0019_conversion"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
