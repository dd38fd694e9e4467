"""Backtests are rows: what was run on which candles by which code, its trades and equity, and views to compare them."""

from trader.migrate import backward, forward

revision = "0024_backtest"
down_revision = "0022_aligned"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
