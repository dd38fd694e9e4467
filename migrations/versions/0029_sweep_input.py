"""The candles of a sweep's inputs, as those who ran its trials read them."""

from trader.migrate import backward, forward

revision = "0029_sweep_input"
down_revision = "0028_comments"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
