"""What backtest_run.refused holds, in the words of today."""

from trader.migrate import backward, forward

revision = "0030_refused"
down_revision = "0026_open_order"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
