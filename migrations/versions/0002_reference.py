"""Assets, exchanges, accounts, markets, timeframes, strategies."""

from trader.migrate import backward, forward

revision = "0002_reference"
down_revision = "0001_procrastinate"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
