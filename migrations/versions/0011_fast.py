"""The same guards for less work: references that triggers prove, fewer writes to an order, cheaper triggers."""

from trader.migrate import backward, forward

revision = "0011_fast"
down_revision = "0010_order_life"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
