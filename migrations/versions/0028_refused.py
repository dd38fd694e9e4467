"""What backtest_run.refused holds, in the words of today."""

from trader.migrate import backward, forward

revision = "0028_refused"
down_revision = "0027_trail"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
