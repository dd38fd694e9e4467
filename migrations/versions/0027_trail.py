"""Trailing stops: orders whose trigger price follows the price."""

from trader.migrate import backward, forward

revision = "0027_trail"
down_revision = "0026_open_order"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
