"""Candles, and what to keep up to date."""

from trader.migrate import backward, forward

revision = "0003_candles"
down_revision = "0002_reference"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
