"""Backtests are rows: what was run on which candles by which code, its trades, its equity, and views of them."""

from trader.migrate import backward, forward

revision = "0024_backtest"
down_revision = "0023_decision"


def upgrade() -> None:
    forward(revision)


def downgrade() -> None:
    backward(revision)
