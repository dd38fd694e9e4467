"""The order table, its states, its history, its lanes, and the view that people write to."""

from trader.migrate import backward, forward

revision = "0004_order"
down_revision = "0003_candles"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
